"""SPEC files from a known crystal, written here: what is found, matched, told and reduced.

The frames are painted by a small simulation of its own, in You's frame (x up, y along the beam):
nothing of hklflow's geometry is in them.
"""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.spatial.transform import Rotation as Turn

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.beamlines import Found, Request
from hklflow.beamlines.spec import plugin
from hklflow.cli import app
from hklflow.cli.import_scans import import_scans
from hklflow.formats.header import Header
from hklflow.formats.raw import open_frames
from hklflow.formats.write_images import write_image
from hklflow.geometry.grid import Grid
from hklflow.stages import import_scan, refine_parent

A, WAVELENGTH, DISTANCE, PIXEL = 6.0, 0.7, 150.0, 0.344
SHAPE, CENTRE = (120, 160), (55, 83)  # slow, fast; the channel that the beam meets
ANGLES = {"mu": 3.0, "chi": 88.0, "phi": -12.0, "delta": 16.0, "nu": 4.0}
START, STEP, POINTS = 5.0, 0.5, 61
UB = Turn.from_rotvec([0.4, -0.2, 0.7]).as_matrix() * (2 * np.pi / A)

DETECTOR_XML = f"""<?xml version="1.0"?>
<detectorGeometryForXrayutilities xmlns="https://subversion.xray.aps.anl.gov/RSM/x">
<Detectors><Detector><pixelDirection1>z-</pixelDirection1><pixelDirection2>x-</pixelDirection2>
<centerChannelPixel>{CENTRE[1]} {CENTRE[0]}</centerChannelPixel>
<Npixels>{SHAPE[1]} {SHAPE[0]}</Npixels>
<size unit="mm">{SHAPE[1] * PIXEL} {SHAPE[0] * PIXEL}</size>
<distance unit="mm">{DISTANCE}</distance></Detector></Detectors>
</detectorGeometryForXrayutilities>"""


def turn(axis: str, degrees: float) -> np.ndarray:
    """Right-handed about +x, +y, +z or, with a minus, the opposite direction, in You's frame."""
    sign = -1 if axis[0] == "-" else 1
    return Turn.from_euler(axis[-1], sign * degrees, degrees=True).as_matrix()


def sample(eta: float) -> np.ndarray:
    return (
        turn("x", ANGLES["mu"])
        @ turn("-z", eta)
        @ turn("y", ANGLES["chi"])
        @ turn("-z", ANGLES["phi"])
    )


ARM = turn("x", ANGLES["nu"]) @ turn("-z", ANGLES["delta"])
K = np.array([0.0, 2 * np.pi / WAVELENGTH, 0.0])


def reflections() -> dict[tuple[int, ...], tuple[float, float, float]]:
    """(frame, slow, fast) at which each reflection is seen, with pixel i from i to i + 1."""
    found = {}
    for hkl in np.stack(np.indices((9, 9, 9)), -1).reshape(-1, 3) - 4:

        def off(eta: float, hkl: np.ndarray = hkl) -> float:
            return float(np.linalg.norm(K + sample(eta) @ UB @ hkl) - K[1])

        # Frame 0 is centred at START.
        grid = START + STEP * np.linspace(2, POINTS - 3, 30)
        values = [off(eta) for eta in grid]
        for low, high, a, b in zip(grid, grid[1:], values, values[1:], strict=False):
            if a * b < 0:
                eta = brentq(off, low, high, xtol=1e-10)
                out = ARM.T @ (K + sample(eta) @ UB @ hkl)
                at = out * DISTANCE / out[1]
                slow, fast = (c + 0.5 - x / PIXEL for c, x in zip(CENTRE, at[[0, 2]], strict=True))
                inside = 5 < slow < SHAPE[0] - 5 and 5 < fast < SHAPE[1] - 5
                if hkl.any() and out[1] > 0 and inside:
                    found[tuple(int(x) for x in hkl)] = ((eta - START) / STEP + 0.5, slow, fast)
    return found


def frames(places: list[tuple[float, float, float]]) -> np.ndarray:
    """Gaussian spots on a flat background."""
    total = np.full((POINTS, *SHAPE), 3.0)
    axes = [np.arange(n) + 0.5 for n in total.shape]
    for place in places:
        parts = [np.exp(-(((x - c) / 1.0) ** 2) / 2) for x, c in zip(axes, place, strict=True)]
        total += 3000 * np.einsum("i,j,k->ijk", *parts)
    return np.rint(total).astype(np.int32)


@dataclass
class Scan:
    """One scan of a SPEC file."""

    number: int
    command: str = f"ascan  eta {START} {START + STEP * (POINTS - 1)}  {POINTS - 1} 1"
    column: str = "eta"
    points: int = POINTS
    date: str = "Sat Jun 26 13:49:06 2021"
    temperature: float | None = 250
    seconds: list[float] = field(default_factory=lambda: [1.0])

    def text(self) -> str:
        lines = [f"#S {self.number}  {self.command}", f"#D {self.date}", "#T 1  (Seconds)"]
        lines += [f"#G1 {A} {A} {A} 90 90 90 1 1 1 90 90 90 1 0 0"]
        lines += ["#G3 " + " ".join(f"{x:.12g}" for x in UB.ravel())]
        lines += [f"#G4 0 0 0 {WAVELENGTH} 0 0"]
        if self.temperature is not None:
            lines += [f"#X {self.temperature} (Temperature Setpoint in K)"]
        settings = [ANGLES["delta"], START, ANGLES["chi"], ANGLES["phi"], ANGLES["nu"]]
        lines += ["#P0 " + " ".join(f"{x:.8g}" for x in [*settings, ANGLES["mu"], 77.0])]
        lines += ["#N 5", f"#L {self.column}  Epoch  Seconds  Ion_Ch_2  transm"]
        for i in range(self.points):
            seconds = self.seconds[i % len(self.seconds)]
            lines.append(f"{START + STEP * i:.6f} {1000 + i} {seconds} {5000 + i} 0.5")
        return "\n".join(lines) + "\n\n"


# A motor whose name differs from a circle's in its case alone, as on real diffractometers.
HEAD = """#F run.spec
#E 1624649179
#D Fri Jun 25 14:26:19 2021
#C Untitled  User = beam

#O0 Delta  Eta  Chi  Phi  Nu  Mu  chI
#o0 del eta chi phi nu mu chI

"""


def write(folder: Path, *scans: Scan, name: str = "run.spec") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(HEAD + "".join(scan.text() for scan in scans))
    (folder / "detector.xml").write_text(DETECTOR_XML)
    return folder / name


def images(folder: Path, stem: str, number: int = POINTS, data: np.ndarray | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        image = np.full(SHAPE, i, np.int32) if data is None else data[i]
        write_image(folder / f"{stem}{i:04d}.tif", image)


def find(source: Path, **more: object) -> Found:
    return plugin.find(Request(source=source, **more))  # type: ignore[arg-type]


def only(found: Found) -> tuple[str, str]:
    """What was not matched, and why, of one scan."""
    assert len(found.unmatched) == 1
    return found.unmatched[0].what, found.unmatched[0].why


# ------------------------------------------------------------------------------ to the volume


def test_reflections_land_where_they_are(tmp_path: Path) -> None:
    truth = reflections()
    assert len(truth) == 8
    source = write(tmp_path / "data", Scan(12))
    images(tmp_path / "data/images", "run_S012_", data=frames(list(truth.values())))
    base = tmp_path / "experiment"
    app(["init", str(base)], result_action="return_value")
    command = [
        "import",
        str(source),
        "--from",
        "spec",
        "--directory",
        str(base),
        "--sample",
        "cube",
    ]
    command += ["--polarization", "0.9", "--monitor", "Ion_Ch_2", "--attenuator", "transm"]
    assert app(command, result_action="return_value") == 0
    light = base / "raw/cube_250K_S12.scan.nxs"
    import_scan.main(
        inputs=import_scan.Inputs(raw=[light]),
        outputs=import_scan.Outputs(scan=tmp_path / "scan.nxs"),
        params=import_scan.Params(),
    )
    scan = nexus.read_scan(tmp_path / "scan.nxs")
    np.testing.assert_array_equal(scan.monitor, 5000 + np.arange(POINTS))
    np.testing.assert_array_equal(scan.attenuation, np.full(POINTS, 0.5))
    assert (scan.temperature, scan.exposure[0]) == (250, 1)
    start = stage.read_json(base / "config/orientations/cube_250K.json")
    grid = Grid.symmetric((4, 4, 4), (0.02, 0.02, 0.02))
    with open_frames(str(light)) as raw:
        counts = raw.read(0, POINTS) - 3.0
    for hkl, (frame, slow, fast) in truth.items():
        box = [slice(int(x) - 4, int(x) + 5) for x in (frame, slow, fast)]
        box[0] = slice(max(box[0].start, 0), min(box[0].stop, POINTS))
        z, y, x = np.meshgrid(*(np.arange(b.start, b.stop) + 0.5 for b in box), indexing="ij")
        seen = scan.rotation.hkl(np.array(start["UB"]), z.ravel(), y.ravel(), x.ravel())
        centre = counts[tuple(box)].ravel() @ seen / counts[tuple(box)].sum()
        # A tenth of a voxel; rounding of counts moves the centre by much less.
        assert np.all(np.abs(centre - hkl) < 0.1 * grid.step), hkl


def test_the_start_is_taken_as_it_is(tmp_path: Path) -> None:
    """What the import writes is what `refine_parent` reads."""
    source = write(tmp_path / "data", Scan(12))
    images(tmp_path / "data/images", "run_S012_")
    base = tmp_path / "experiment"
    app(["init", str(base)], result_action="return_value")
    command = ["import", str(source), "--from", "spec", "--directory", str(base), "--sample", "c"]
    command += ["--polarization", "0.9", "--monitor", "Ion_Ch_2"]
    assert app(command, result_action="return_value") == 0
    import_scan.main(
        inputs=import_scan.Inputs(raw=[base / "raw/c_250K_S12.scan.nxs"]),
        outputs=import_scan.Outputs(scan=tmp_path / "scan.nxs"),
        params=import_scan.Params(),
    )
    from hklflow.geometry.symmetry import space_group
    from hklflow.stage import orientation
    from tests.test_orientation import peaks

    read = nexus.read_scan(tmp_path / "scan.nxs")
    observed = orientation.observe(["S12"], [read], [peaks(np.empty(0), np.empty(0))])
    start = orientation.started(base / "config/orientations/c_250K.json", observed)
    ub = start.ub
    assert start.group is None
    # You's x, y, z are y, z, x of the lab.
    np.testing.assert_allclose(ub, UB[[2, 0, 1]], atol=1e-9)
    params = refine_parent.Params(
        sample="c", scan="250K", rotations=["S12"], fixed=True, space_group="P m -3 m"
    )
    taken = refine_parent._taken(
        base / "config/orientations/c_250K.json", params, observed, space_group("P m -3 m")
    )
    np.testing.assert_allclose(taken.ub, ub)


# ------------------------------------------------------------------------------ what is found


def test_list_of_scans_is_exact_and_missing_raw_is_told(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        Scan(1),
        Scan(2, command="ascan  del 1 2  60 1", column="Delta"),
        Scan(3),
        Scan(4, command="hklscan  1 2 0 0 0 0  60 1", column="H"),
        Scan(5, command="a2scan  eta 1 2 chi 3 4  60 1", column="Eta"),
        replace(Scan(6), temperature=100.0),
        Scan(11),
    )
    for number in (1, 6, 11):
        images(tmp_path / "tif", f"run_S{number}_", POINTS)
    found = find(source, monitor="Ion_Ch_2")
    names = [(one.sample, one.scan, one.rotation) for one in found.scans]
    # One temperature and one UB: one scan.
    expected = [("run", "250K", "S1"), ("run", "100K", "S6"), ("run", "250K", "S11")]
    assert names == expected
    what, why = only(found)
    assert what.startswith("scan 3 (ascan")
    assert "no images with its number (for 61 points)" in why
    assert any("S1_####.tif (61 frames)" in told for told in found.unmatched[0].candidates)
    assert any("1 ascan, 1 hklscan, 1 a2scan" in note for note in found.notes)
    header = found.scans[0].header
    # The points of a step scan are the middles of its frames.
    assert (header.start_deg, header.step_deg, header.n_frames) == (START - STEP / 2, STEP, POINTS)
    assert header.goniometer is not None
    settings = dict(zip(header.goniometer.names, np.degrees(header.goniometer.angles), strict=True))
    assert {name: settings[name] for name in ("mu", "chi", "phi")} == pytest.approx(
        {name: ANGLES[name] for name in ("mu", "chi", "phi")}
    )
    assert found.samples["run"].cell == (A, A, A, 90, 90, 90)
    assert find(source, scans=frozenset({"6", "99"})).notes[-1] == "the file has no scan 99"


def test_frames_in_hdf5(tmp_path: Path) -> None:
    source = write(tmp_path / "data", Scan(7))
    stack = np.arange(POINTS, dtype=np.uint16)[:, None, None] + np.zeros(SHAPE, np.uint16)
    with h5py.File(tmp_path / "data/run_7.h5", "w") as file:
        file["entry/data/data"] = stack
    with h5py.File(tmp_path / "data/run_8.h5", "w") as file:
        file["something/else"] = 1.0
    base = tmp_path / "experiment"
    app(["init", str(base)], result_action="return_value")
    command = ["import", str(source), "--from", "spec", "--directory", str(base)]
    command += ["--sample", "c", "--monitor", "Ion_Ch_2"]
    assert app(command, result_action="return_value") == 0
    with open_frames(str(base / "raw/c_250K_S7.scan.nxs")) as frames:
        np.testing.assert_array_equal(frames.read(0, POINTS), stack)


def test_without_the_detector_there_is_no_start(tmp_path: Path) -> None:
    """Its geometry may come by a calibration; then a UB alone is of no use: nothing is fixed."""
    source = write(tmp_path, replace(Scan(7), points=4, command="ascan eta 5 6.5 3 1"))
    (tmp_path / "detector.xml").unlink()
    images(tmp_path / "tif", "run_S7_", 4)
    found = find(source)
    assert found.scans[0].header.detector is None
    assert found.settings == {}
    assert any("no geometry of the detector" in note for note in found.notes)


def scan_of(angles: np.ndarray, number: int = 7) -> str:
    """Scan with these angles read back."""
    text = replace(Scan(number), points=len(angles)).text()
    for i, angle in enumerate(angles):
        text = text.replace(f"{START + STEP * i:.6f} {1000 + i} ", f"{angle:.7f} {1000 + i} ")
    return text


def read_back(folder: Path, angles: np.ndarray, **options: str) -> Found:
    source = write(folder)
    source.write_text(HEAD + scan_of(angles))
    images(folder / "tif", "run_S7_", len(angles))
    return find(source, monitor="Ion_Ch_2", options=options)


@pytest.mark.parametrize("bad", [0, 30, 60])
def test_one_bad_reading_does_not_turn_the_scan(tmp_path: Path, bad: int) -> None:
    """An encoder that is off once: the line through all, which is told; not through the ends."""
    angles = START + STEP * np.arange(POINTS)
    angles[bad] += 0.2 * STEP
    found = read_back(tmp_path, angles)
    header, notes = found.scans[0].header, found.scans[0].notes
    assert header.start_deg is not None
    assert header.step_deg is not None
    # The ends alone would turn the step by 0.2 / 60 of it; numpy's own fit is the truth.
    slope, first = np.polyfit(np.arange(POINTS), angles, 1)
    assert header.step_deg == pytest.approx(slope, abs=2e-9)
    assert header.start_deg == pytest.approx(first - slope / 2, abs=2e-7)
    assert abs(header.step_deg / STEP - 1) < 0.2 / 600
    told = [note for note in notes if "not evenly spaced" in note]
    assert len(told) == 1
    assert f"point {bad} deviates" in told[0]
    assert "the line is used" in told[0]


def test_uneven_angles_are_taken_only_if_asked(tmp_path: Path) -> None:
    angles = START + STEP * np.arange(POINTS)
    assert not any("evenly" in note for note in read_back(tmp_path, angles).scans[0].notes)
    angles[20] += 0.4 * STEP
    _, why = only(read_back(tmp_path, angles))
    assert "eta of point 20 deviates by 0.196 degrees" in why
    assert "--option uneven=0.4 uses the line" in why
    header = read_back(tmp_path, angles, uneven="0.4").scans[0].header
    assert header.n_frames == POINTS
    assert header.step_deg == pytest.approx(STEP, rel=1e-3)
    angles[:] = START
    assert "does not change evenly" in only(read_back(tmp_path, angles, uneven="9"))[1]
    for wrong in ("x", "0", "nan", "-1"):
        with pytest.raises(HklflowError, match="uneven is"):
            read_back(tmp_path, angles, uneven=wrong)


def test_one_temperature_that_fluctuates_is_one_scan(tmp_path: Path) -> None:
    """As the other plugins have it: neighbours within half a kelvin are one."""
    measured = {1: 299.94, 2: 300.06, 3: 300.5, 4: 301.6}
    source = write(tmp_path, *(Scan(i, temperature=t, points=4) for i, t in measured.items()))
    for number in measured:
        images(tmp_path / "tif", f"run_S{number}_", 4)
    found = find(source, monitor="Ion_Ch_2").scans
    assert [(one.scan, one.header.temperature) for one in found] == [
        ("300.2K", 300.2),
        ("300.2K", 300.2),
        ("300.2K", 300.2),
        ("301.6K", 301.6),
    ]
    assert any("the file says 299.94 K, the scan has 300.2 K" in note for note in found[0].notes)
    assert not any("the scan has" in note for note in found[3].notes)
    stated = find(source, monitor="Ion_Ch_2", facts=Header(temperature=87.53)).scans
    assert {(one.scan, one.header.temperature) for one in stated} == {("87.53K", 87.53)}


def test_a_temperature_that_is_none_stops_nothing(tmp_path: Path) -> None:
    source = write(tmp_path, Scan(1, points=4), Scan(2, points=4))
    text = source.read_text().replace("#X 250 (Temperature Setpoint in K)", "#X --- K", 1)
    source.write_text(text)
    for number in (1, 2):
        images(tmp_path / "tif", f"run_S{number}_", 4)
    found = find(source, monitor="Ion_Ch_2").scans
    assert [one.header.temperature for one in found] == [None, 250]


def test_images_are_never_guessed(tmp_path: Path) -> None:
    source = write(tmp_path, Scan(7))
    images(tmp_path / "a", "x_S007_", POINTS - 1)
    _, why = only(find(source))
    assert "no series with its number has as many frames" in why
    images(tmp_path / "b", "x_S007_")
    assert find(source).scans[0].raw == str(tmp_path / "b/x_S007_####.tif")
    images(tmp_path / "c", "y_7_")
    _, why = only(find(source))
    assert "2 series have its number" in why
    # One that bears the name of the SPEC file goes before others.
    images(tmp_path / "d", "run_S7_")
    assert find(source).scans[0].raw == str(tmp_path / "d/run_S7_####.tif")
    template = str(tmp_path / "c/y_{scan}_####.tif")
    assert find(source, raw=template).scans[0].raw == template.format(scan=7)
    _, why = only(find(source, raw="a/x_S{scan:03d}_####.tif"))
    assert "it has 61 points" in why
    assert "60 frames" in why
    # A missing image.
    (tmp_path / "d/run_S7_0030.tif").unlink()
    _, why = only(find(source, raw=str(tmp_path / "d")))
    assert "no series with its number has as many frames" in why
    with pytest.raises(HklflowError, match="cannot be filled in"):
        find(source, raw="x_{run}_####.tif")


@pytest.mark.parametrize(
    ("scan", "told"),
    [
        (replace(Scan(7), points=40), "aborted: 40 of the 61 points"),
        (replace(Scan(7), seconds=[1.0, 2.0]), "counting times are 1 to 2 s"),
    ],
)
def test_what_is_told_of_a_scan(tmp_path: Path, scan: Scan, told: str) -> None:
    source = write(tmp_path, scan)
    images(tmp_path / "tif", "run_S7_", scan.points)
    found = find(source, monitor="Ion_Ch_2")
    assert any(told in note for note in found.scans[0].notes)
    assert found.scans[0].header.n_frames == scan.points


def test_counting_times_that_vary_need_a_monitor(tmp_path: Path) -> None:
    source = write(tmp_path, replace(Scan(7), seconds=[1.0, 2.0]))
    images(tmp_path / "tif", "run_S7_")
    assert "name it with --monitor" in only(find(source))[1]


def test_clocks_numbers_and_counters(tmp_path: Path) -> None:
    late, early = Scan(7, date="Sat Jun 26 14:00:00 2021"), Scan(8)
    source = write(tmp_path, late, early, Scan(9), Scan(9))
    for number in (7, 8, 9):
        images(tmp_path / "tif", f"run_S{number}_")
    found = find(source)
    assert [one.rotation for one in found.scans] == ["S7", "S8"]
    assert any("clock goes backwards: scan 8" in note for note in found.notes)
    assert len(found.unmatched) == 2
    assert "2 scans with this number" in found.unmatched[0].why
    # Nothing is taken for the monitor, but what might be one is named.
    assert found.scans[0].header.monitor is None
    assert any("perhaps Ion_Ch_2" in note for note in found.scans[0].notes)
    lost = find(source, monitor="Ion", scans=frozenset({"7"})).unmatched
    assert "no column 'Ion'" in lost[0].why
    assert "its columns are eta, Epoch, Seconds, Ion_Ch_2, transm" in lost[0].why


def test_options(tmp_path: Path) -> None:
    source = write(tmp_path, Scan(7))
    images(tmp_path / "tif", "run_S7_")

    def one(**options: str) -> Header:
        return find(source, options=options).scans[0].header

    assert one(angles="start").start_deg == START
    assert one(angles="end").start_deg == START - STEP
    assert one(wavelength="0.71").wavelength == 0.71
    # 30 degrees: the UB is a start; of a narrow scan it would be fixed.
    assert find(source).settings == {}
    fixed = find(source, options={"orientation": "fixed"}).settings
    assert fixed == {"run/250K": {"orientation": {"fixed": True}}}
    narrow = write(tmp_path / "n", replace(Scan(7), points=4, command="ascan eta 5 6.5 3 1"))
    images(tmp_path / "n", "run_S7_", 4)
    assert find(narrow).settings["run/250K"]["orientation"] == {"fixed": True}
    assert find(narrow, options={"orientation": "none"}).scans[0].ub is None
    # A column in K goes before line #X; its mean, to a tenth.
    assert one(temperature="Ion_Ch_2").temperature == 5000 + (POINTS - 1) / 2
    for wrong in ({"angles": "centre"}, {"wavelength": "x"}, {"detector": "none.xml"}):
        with pytest.raises(HklflowError, match=next(iter(wrong))):
            find(source, options=wrong)


@pytest.mark.parametrize(
    "content",
    [b"", b"no spec file\n", b"#F x\n#S 1 ascan eta 0 1 1 1\n#N 2\n#L eta  I\n", b"\x89HDF\r\n"],
)
def test_files_that_are_no_scans(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.spec"
    path.write_bytes(content)
    with contextlib.suppress(HklflowError):
        assert not find(path).scans


Dry = Callable[..., str]


@pytest.fixture
def dry(tmp_path: Path, real_data: Path, capsys: pytest.CaptureFixture[str]) -> Dry:
    app(["init", str(tmp_path / "e")], result_action="return_value")

    def run(name: str, *option: str) -> str:
        source, base = real_data / "spec" / name, tmp_path / "e"
        with pytest.raises(HklflowError, match="no scan of"):
            import_scans(source, from_="spec", directory=base, option=option, dry_run=True)
        return capsys.readouterr().out

    return run


def lost(told: str, why: str = "") -> int:
    """Scans that are told as not matched for a reason, with those that are gathered below it."""
    number = 0
    lines = told.splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("not matched") and why in line:
            more = re.match(r"  likewise (\d+) more", below)
            number += 1 + (int(more[1]) if more else 0)
    return number


@pytest.mark.real_data
def test_files_of_three_beamlines(dry: Dry) -> None:
    told = dry("20220311-161530.dat")
    assert "78 scans do not rotate a single sample circle and are left out: 78 example" in told
    told = dry("33bm_spec.dat")
    assert lost(told) == 5
    assert "its header has no motor mu, eta" in told
    assert "12 scans do not rotate a single sample circle and are left out: 8 ascan" in told
    told = dry("33id_spec.dat")
    # grep -c of the scans of eta, chi and phi alone.
    assert lost(told) == 38
    assert "68 scans do not rotate" in told
    # The encoder of eta jumps by up to 0.8 of a step about a straight line (numpy.polyfit).
    assert lost(told, "eta of point") == 19
    told = dry("33id_spec.dat", "uneven=0.8")
    assert lost(told, "no images with its number") == lost(told) == 38


def test_the_only_spec_file_of_a_folder_is_taken(tmp_path: Path) -> None:
    with pytest.raises(HklflowError, match="is a folder with no SPEC file; enter the SPEC file"):
        find(tmp_path)
    write(tmp_path, Scan(839))
    images(tmp_path, "run_S839_")
    (tmp_path / "notes.txt").write_text("#F is not at home\n"[1:])
    assert find(tmp_path).scans[0].raw == find(tmp_path / "run.spec").scans[0].raw
    write(tmp_path, Scan(840), name="second")
    with pytest.raises(HklflowError, match=r"2 SPEC files \(run.spec, second\)"):
        find(tmp_path)
