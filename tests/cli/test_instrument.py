"""Instrument files, and scan files that exist before their measurement."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest

from hklflow import geometry, nexus
from hklflow.cli.folder import read_table
from hklflow.formats.instrument import derived, read_instrument
from hklflow.formats.planned_scan import is_planned
from hklflow.formats.poni import poni_unmirrored
from hklflow.formats.raw import open_frames, read_header
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.rotation import detector_to_dict
from hklflow.stages import import_scan

from .conftest import Hklflow

SHAPE, N = (40, 50), 12
WAVELENGTH = 0.5
AXES = 'import_scan:\n  axes: ["omega=0,1,0", "chi=0,0,1", "phi=-1,0,0"]\n  saturation: 1000\n'


def tilted() -> geometry.Detector:
    """A detector with tilts about all axes."""
    turn = geometry.rotation_matrix(np.array([0.3, 1.0, 0.2]), 0.03)
    slow, fast = turn @ np.array([0.0, -1.0, 0.0]), turn @ np.array([-1.0, 0.0, 0.0])
    origin = np.array([0.004, 0.003, 0.1])
    return geometry.Detector(SHAPE, (172e-6, 172e-6), origin, slow, fast)


@pytest.fixture
def made(folder: Path) -> Path:
    """An experiment with the products of a powder calibration and a raw file with a mask."""
    with (folder / "config/config.yaml").open("a") as file:
        file.write(f"{AXES}calibrations:\n  ceria: {{poni: raw/a.poni, polarization: 0.98}}\n")
    (folder / "raw").mkdir(exist_ok=True)
    (folder / "raw/a.poni").write_text("# not read here\n")
    place, detector = folder / "results/calibration/ceria", tilted()
    place.mkdir(parents=True)
    content = {
        "detector": detector_to_dict(detector),
        "beam": {"wavelength_A": WAVELENGTH, "polarization": 0.98},
    }
    (place / "geometry.json").write_text(json.dumps(content))
    angle = np.linspace(1, 9, 81)
    rings = np.array([2.5, 6.0])
    profile = sum(np.exp(-0.5 * ((angle - ring) / 0.1) ** 2) for ring in rings)
    nexus.write_powder(
        place / "powder.nxs",
        np.ones(SHAPE),
        (angle, np.asarray(profile), np.ones(81)),
        rings,
        poni_unmirrored(detector, WAVELENGTH),
        calibrant="CeO2",
        detector=None,
    )
    mask = np.zeros(SHAPE, np.uint32)
    mask[3, 4] = 1
    facts = NXmxHeader(shape=SHAPE, n_frames=1, pixel_mask=mask, saturation=777.0)
    with NXmxWriter(folder / "raw/like.nxs", facts) as writer:
        writer.append(np.zeros((1, *SHAPE), np.uint32))
    return folder


@pytest.fixture
def instrument(made: Path, hklflow: Hklflow) -> Path:
    path = made / "config/lab.instrument.nxs"
    words = ("--calibration", "ceria", "--like", made / "raw/like.nxs", "--directory", made)
    done = hklflow("instrument", "new", path, *words)
    assert done.code == 0, done.err
    return path


# ------------------------------------------------------------------- the instrument


def test_the_instrument_is_that_of_the_calibration(instrument: Path, hklflow: Hklflow) -> None:
    found, detector = read_instrument(instrument), tilted()
    header = found.header
    assert header.detector is not None
    assert header.goniometer is not None
    for name in ("origin", "slow", "fast"):
        np.testing.assert_allclose(
            getattr(header.detector, name), getattr(detector, name), atol=1e-14
        )
    assert header.detector.shape == found.shape == SHAPE
    assert header.wavelength == WAVELENGTH
    assert header.polarization == pytest.approx(0.98, abs=1e-15)
    assert header.saturation == 1000  # the configuration counts more than the raw file
    assert header.pixel_mask is not None
    assert np.argwhere(header.pixel_mask).tolist() == [[3, 4]]
    assert header.goniometer.names == ("omega", "chi", "phi")
    np.testing.assert_allclose(header.goniometer.axes, [[0, 1, 0], [0, 0, 1], [-1, 0, 0]])
    assert found.calibrant == "CeO2"
    with h5py.File(instrument) as file:
        assert file["entry/definition"][()] == b"NXmx"
        calibration = file["entry/instrument/calibration"]
        assert calibration.attrs["signal"] == "counts"
        assert calibration["radial_sum/radial_sum"].shape == (81,)
    done = hklflow("instrument", "check", instrument)
    assert done.code == 0, done.err
    assert "40 x 50 of 172 x 172 µm" in done.out
    assert "CeO2 the detector has its parameters" in done.out
    # The place where the beam meets the plane of the detector, by solving for it.
    a = np.stack([detector.slow * 172e-6, detector.fast * 172e-6, [0, 0, -1.0]], axis=1)
    slow, fast, reached = np.linalg.solve(a, -detector.origin)
    numbers = derived(header)
    assert numbers["beam centre, slow (pixels)"] == pytest.approx(slow)
    assert numbers["beam centre, fast (pixels)"] == pytest.approx(fast)
    tilt = np.radians(numbers["tilt of the detector (°)"])
    assert numbers["distance (mm)"] == pytest.approx(1e3 * reached * np.cos(tilt))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("entry/instrument/detector/transformations/det_z", "Distance of the powder calibration"),
        ("entry/instrument/beam/incident_wavelength", "Wavelength of the powder calibration is"),
    ],
)
def test_a_file_that_was_changed_is_told(
    instrument: Path, hklflow: Hklflow, name: str, told: str
) -> None:
    with h5py.File(instrument, "r+") as file:
        file[name][...] = file[name][()] * 1.001
    done = hklflow("instrument", "check", instrument)
    assert done.code == 2
    assert told in done.err
    assert "they are not of one calibration; make the file again" in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("x.nxs", "--calibration", "ceria"), "x.nxs must end in .instrument.nxs"),
        (("x.instrument.nxs", "--calibration", "lab"), "no calibration 'lab'; `calibrations` has"),
        (("x.instrument.nxs",), "the geometry of the detector is missing: give --calibration"),
        (
            ("x.instrument.nxs", "--calibration", "ceria", "--geometry", "g.json"),
            "are two geometries; give one of them",
        ),
        (("x.instrument.nxs", "--calibration", "ceria", "--like", "small.nxs"), "of one detector"),
    ],
)
def test_an_instrument_that_cannot_be_made(
    made: Path, hklflow: Hklflow, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(made)
    detector = replace(tilted(), shape=(9, 9))
    facts = NXmxHeader(shape=(9, 9), n_frames=1, **_geometry(detector))
    with NXmxWriter(made / "small.nxs", facts) as writer:
        writer.append(np.zeros((1, 9, 9), np.uint32))
    done = hklflow("instrument", "new", *words)
    assert done.code == 2
    assert told in done.err
    assert not list(made.glob("x.*"))


def _geometry(detector: geometry.Detector) -> dict[str, Any]:
    return {name: getattr(detector, name) for name in ("pixel_size", "origin", "slow", "fast")}


# ----------------------------------------------------------------- the planned scan


def planned(folder: Path, file: Path, hklflow: Hklflow, **changed: str) -> Any:
    words = {
        "--rotation": "r1",
        "--instrument": str(file),
        "--raw": "raw/quartz_r1.h5",
        "--frames": str(N),
        "--goniometer": "chi=30 phi=-10:0.5",
        "--temperature": "100",
    } | {f"--{name}": value for name, value in changed.items()}
    pairs = [word for pair in words.items() for word in pair]
    return hklflow("scan", "plan", "quartz", "100K", *pairs, "--directory", folder)


def measure(path: Path, **changed: Any) -> np.ndarray:
    """Write what the detector writes: frames, and a header of its own without the axes."""
    facts: dict[str, Any] = {
        "shape": SHAPE,
        "n_frames": N,
        "wavelength": WAVELENGTH * 1.0001,
        "axis_names": ("gon_phi",),
        "axes": [(1.0, 0.0, 0.0)],
        "angles": [0.0],
        "start": np.radians(10.0),  # the other sense
        "step": np.radians(-0.5),
        "exposure": 0.2 + 0.01 * np.arange(N),
        "monitor": 100.0 + np.arange(N),
        "temperature": 101.5,
        "saturation": 5000.0,
    } | changed
    counts = np.random.default_rng(3).poisson(4, (facts["n_frames"], *facts["shape"]))
    with NXmxWriter(path, NXmxHeader(**facts)) as writer:
        writer.append(counts.astype(np.uint32))
    return counts


def test_a_planned_scan_is_filled_by_its_measurement(
    instrument: Path, hklflow: Hklflow, tmp_path: Path
) -> None:
    folder = instrument.parents[1]
    done = planned(folder, instrument, hklflow)
    assert done.code == 0, done.err
    path = folder / "raw/quartz_100K_r1.scan.nxs"
    assert is_planned(path)
    with h5py.File(path) as file:  # before the measurement: what is planned
        assert file["entry/sample/temperature"][()] == 100
        assert file["entry/sample/name"][()] == b"quartz"
        phi = file["entry/sample/transformations/phi"][()]
        np.testing.assert_allclose(phi, -10 + 0.5 * np.arange(N))
        assert file["entry/sample/transformations/chi"][0] == pytest.approx(30)
        assert file["entry/instrument/calibration/calibrant"][()] == b"CeO2"
        with pytest.raises(KeyError):  # the linked file does not exist
            file["entry/data/data"]
    [row] = read_table(folder / "config/planned.tsv").rows
    assert (row["raw"], row["frames"]) == ("raw/quartz_100K_r1.scan.nxs", str(N))

    def watch() -> Any:
        return hklflow(
            *("watch", folder, "--once", "--settle", "0", "--command", "true"),
        )

    done = watch()
    assert done.code == 0, done.err
    assert "waits" not in done.out  # nothing is there yet
    assert read_table(folder / "config/scans.tsv").rows == ()
    bad = np.zeros(SHAPE, np.uint32)
    bad[7, 7] = 2
    counts = measure(folder / "raw/quartz_r1.h5", pixel_mask=bad)
    done = watch()
    assert done.code == 0, done.err
    assert (
        "quartz_100K_r1.scan.nxs filled: monitor, transmission, exposure time, temperature"
        in done.out
    )
    assert not is_planned(path)
    [row] = read_table(folder / "config/scans.tsv").rows
    assert row["raw"] == "raw/quartz_100K_r1.scan.nxs"
    # The folder may be moved.
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    path = moved / "raw/quartz_100K_r1.scan.nxs"
    header, detector = read_header(path), tilted()
    with open_frames(path) as frames:
        np.testing.assert_array_equal(frames.read(0, N), counts)
    assert header.temperature == 101.5
    assert header.monitor is not None
    np.testing.assert_array_equal(header.monitor, 100.0 + np.arange(N))
    np.testing.assert_allclose(header.exposure_time, 0.2 + 0.01 * np.arange(N))
    assert header.wavelength == WAVELENGTH
    assert header.saturation == 1000  # the instrument's
    assert header.pixel_mask is not None
    assert np.argwhere(header.pixel_mask).tolist() == [[3, 4], [7, 7]]  # of both
    assert (header.start_deg, header.step_deg) == (pytest.approx(-10), pytest.approx(0.5))
    assert header.detector is not None
    np.testing.assert_allclose(header.detector.origin, detector.origin, atol=1e-14)
    with h5py.File(path) as file:
        assert file["entry/instrument/calibration/calibrant"][()] == b"CeO2"
    import_scan.main(
        inputs=import_scan.Inputs(raw=[path]),
        outputs=import_scan.Outputs(scan=tmp_path / "scan.nxs"),
        params=import_scan.Params(n_frames=N),
    )
    scan = nexus.read_scan(tmp_path / "scan.nxs")
    assert scan.rotation.goniometer.names == ("omega", "chi", "phi")
    assert np.degrees(scan.rotation.goniometer.angles[1]) == pytest.approx(30)
    assert scan.rotation.scan.n_frames == N


def test_a_series_of_images_fills_its_plan(instrument: Path, hklflow: Hklflow) -> None:
    folder = instrument.parents[1]
    done = planned(folder, instrument, hklflow, raw="raw/q_####.tif")
    assert done.code == 0, done.err
    for i in range(N):
        image = np.full(SHAPE, i, np.int32)
        fabio.tifimage.TifImage(data=image).write(str(folder / f"raw/q_{i:04d}.tif"))
    words = ("quartz", "100K", "--rotation", "r1", "--raw", "raw/quartz_100K_r1.scan.nxs")
    done = hklflow("scan", "add", *words, "--directory", folder)
    assert done.code == 0, done.err
    assert "quartz_100K_r1.scan.nxs filled: nothing from the measurement" in done.out
    path = folder / "raw/quartz_100K_r1.scan.nxs"
    assert not is_planned(path)
    with open_frames(path) as frames:
        assert frames.shape == (N, *SHAPE)
        assert frames.read(5, 6).max() == 5


Change = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"step": np.radians(0.25), "start": np.radians(-10)}, "its step is 0.25° instead of 0.5°"),
        (
            {"start": np.radians(-10)},
            "it begins at -10° with steps of -0.5°, instead of -10° with steps of 0.5°",
        ),
        ({"wavelength": 0.6}, "its wavelength is 0.6 Å instead of 0.5 Å"),
        ({"temperature": 250.0}, "its temperature is 250 K instead of 100 K"),
        ({"shape": (40, 40)}, "its frames have (40, 40) pixels instead of (40, 50)"),
    ],
)
def test_a_measurement_that_is_not_the_planned_one_waits(
    instrument: Path, hklflow: Hklflow, changed: dict[str, Any], told: str
) -> None:
    folder = instrument.parents[1]
    assert planned(folder, instrument, hklflow).code == 0
    path = folder / "raw/quartz_100K_r1.scan.nxs"
    before = path.read_bytes()
    measure(folder / "raw/quartz_r1.h5", **changed)
    done = hklflow("watch", folder, "--once", "--settle", "0", "--command", "true")
    assert "the measurement is not what was planned" in done.out
    assert told in done.out
    assert read_table(folder / "config/scans.tsv").rows == ()
    assert path.read_bytes() == before
    words = ("quartz", "100K", "--rotation", "r1", "--raw", "raw/quartz_100K_r1.scan.nxs")
    added = hklflow("scan", "add", *words, "--directory", folder)
    assert added.code == 2
    assert told in added.err


def test_a_damaged_plan_waits(instrument: Path, hklflow: Hklflow) -> None:
    folder = instrument.parents[1]
    assert planned(folder, instrument, hklflow).code == 0
    (folder / "raw/quartz_100K_r1.scan.nxs").write_bytes(b"no HDF5")
    done = hklflow("watch", folder, "--once", "--settle", "0", "--command", "true")
    assert done.code == 0, done.err
    assert "quartz 100K (r1) waits: " in done.out
    assert "quartz_100K_r1.scan.nxs" in done.out


def test_a_plan_that_is_not_filled_is_not_imported(instrument: Path, hklflow: Hklflow) -> None:
    folder = instrument.parents[1]
    assert planned(folder, instrument, hklflow).code == 0
    measure(folder / "raw/quartz_r1.h5")
    table = folder / "config/scans.tsv"
    row = "quartz\t100K\t100\t\tr1\traw/quartz_100K_r1.scan.nxs"
    columns = read_table(table).columns
    with table.open("a") as file:
        file.write(row + "\t" * (len(columns) - 6) + "\n")
    done = hklflow("check", "--directory", folder)
    assert done.code == 2
    assert "is a planned scan file, and its measurement was not compared" in done.err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"goniometer": "kappa=3 phi=0:1"}, "the instrument has no axis kappa (it has omega, chi"),
        ({"goniometer": "chi=3"}, "has no scanned axis; write axis=start:step"),
        ({"goniometer": "chi=0:1 phi=0:1"}, "scan one axis"),
        ({"frames": "0"}, "--frames is 0; give the number of frames"),
        ({"temperature": "-5"}, "-5 K"),
        ({"rotation": "r_1"}, "rotation 'r_1' may only have"),
        ({"instrument": "raw/like.nxs"}, "raw/like.nxs is not an instrument file"),
    ],
)
def test_a_plan_that_cannot_be_made(
    instrument: Path,
    hklflow: Hklflow,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    told: str,
) -> None:
    folder = instrument.parents[1]
    monkeypatch.chdir(folder)
    done = planned(folder, instrument, hklflow, **changed)
    assert done.code == 2
    assert told in done.err
    assert not (folder / "config/planned.tsv").exists()
    assert not list((folder / "raw").glob("*.scan.nxs"))


def test_a_plan_takes_its_file_from_the_run_number(instrument: Path, hklflow: Hklflow) -> None:
    folder = instrument.parents[1]
    config = folder / "config/config.yaml"
    data = "data: {root: raw, template: 'quartz_{run:04d}.h5'}"
    config.write_text(f"{config.read_text()}\n{data}\n")
    words = ("--rotation", "r1", "--instrument", instrument, "--frames", str(N), "--goniometer",
             "chi=30 phi=-10:0.5", "--directory", folder)  # fmt: skip
    done = hklflow("scan", "plan", "quartz", "100K", *words)
    assert (done.code, "or their run with --run" in done.err) == (2, True)
    done = hklflow("scan", "plan", "quartz", "100K", *words, "--run", "17")
    assert done.code == 0, done.err
    [row] = read_table(folder / "config/planned.tsv").rows
    assert row["run"] == "17"
    measure(folder / "raw/quartz_0017.h5")
    done = hklflow("watch", folder, "--once", "--settle", "0", "--command", "true")
    assert done.code == 0, done.err
    [row] = read_table(folder / "config/scans.tsv").rows
    assert (row["raw"], row["run"]) == ("raw/quartz_100K_r1.scan.nxs", "17")


def test_a_rotation_is_planned_once(instrument: Path, hklflow: Hklflow) -> None:
    folder = instrument.parents[1]
    assert planned(folder, instrument, hklflow).code == 0
    again = planned(folder, instrument, hklflow)
    assert again.code == 2
    assert "exists; remove it" in again.err
    (folder / "raw/quartz_100K_r1.scan.nxs").unlink()
    row = planned(folder, instrument, hklflow)
    assert row.code == 2
    assert "quartz 100K r1 is already in" in row.err
    assert not (folder / "raw/quartz_100K_r1.scan.nxs").exists()
    assert planned(folder, instrument, hklflow, rotation="r2", raw="raw/r2.h5").code == 0
    assert len(read_table(folder / "config/planned.tsv").rows) == 2
