"""An orientation that is taken as it is, with many peaks, one or none; part of reciprocal space."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import geometry, nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.experiment import config
from hklflow.experiment.flags import flags
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.images.scan import RotationScan
from hklflow.page import gates as page_gates
from hklflow.peaks.table import FIELDS, PeakTable
from hklflow.stages import accept, converge, overview, refine, refine_parent, temperature_series

CELL = np.array([8.0, 8.0, 8.0, 90.0, 90.0, 90.0])
UB = geometry.rotation_matrix(np.array([0.3, -0.5, 0.8]), 0.7) @ lattice.b_matrix(CELL)
N = 100


def rotation() -> geometry.Rotation:
    size = 172e-6
    detector = geometry.Detector(
        (200, 200),
        (size, size),
        np.array([17.2e-3, 17.2e-3, 0.05]),
        np.array([0.0, -1.0, 0.0]),
        np.array([-1.0, 0.0, 0.0]),
    )
    goniometer = geometry.Goniometer(("phi",), np.array([[-1.0, 0.0, 0.0]]), np.zeros(1), 0)
    return geometry.Rotation(
        geometry.Beam(0.7, 0.99), detector, goniometer, geometry.Scan(0.0, np.radians(0.5), N)
    )


@cache
def turns() -> tuple[np.ndarray, np.ndarray]:
    """Frame coordinates, and the goniometer's rotation times UB there."""
    r, frame = rotation(), np.linspace(0, N, 20 * N)
    angles = r.scan.angle(frame)
    return frame, np.array([r.goniometer.rotation(angle) @ UB for angle in angles])


def reflections(number: int) -> dict[str, np.ndarray]:
    """Where so many reflections are seen: pixels by a search over all angles, not by prediction."""
    r, rng = rotation(), np.random.default_rng(1)
    found: dict[tuple[int, ...], np.ndarray] = {}
    frame, at_angle = turns()
    for hkl in rng.permutation(np.stack(np.indices((9, 9, 9)), -1).reshape(-1, 3) - 4):
        if len(found) == number:
            break
        out = at_angle @ hkl + r.beam.k * np.array([0.0, 0.0, 1.0])
        off = np.linalg.norm(out, axis=1) - r.beam.k
        at = np.flatnonzero(off[:-1] * off[1:] < 0)
        for i in at[:1]:
            part = off[i] / (off[i] - off[i + 1])
            s = out[i] + part * (out[i + 1] - out[i])
            # The plane of the detector is at z = 50 mm; x and y fall with fast and slow.
            x, y = 0.05 * s[:2] / s[2]
            slow, fast = (17.2e-3 - y) / 172e-6, (17.2e-3 - x) / 172e-6
            if s[2] > 0 and 2 < slow < 198 and 2 < fast < 198:
                here = frame[i] + part * (frame[i + 1] - frame[i])
                found[tuple(hkl)] = np.array([here, slow, fast])
    where = np.array(list(found.values())).reshape(-1, 3)
    return dict(zip(("frame", "slow", "fast"), where.T, strict=True))


def table(number: int, wrong: int = 0) -> PeakTable:
    columns = {name: np.ones(number + wrong) for name in FIELDS}
    rng = np.random.default_rng(2)
    for name, values in reflections(number).items():
        columns[name] = np.append(values, rng.uniform(5, 95, wrong))
    for name in ("var_frame", "var_slow", "var_fast"):
        columns[name] = np.full(number + wrong, 0.01)
    columns["intensity"] = np.full(number + wrong, 1e4)
    for name in ("n_pixels", "n_frames", "flags"):
        columns[name] = np.zeros(number + wrong, dtype=np.int64)
    columns["significance"] = np.full(number + wrong, 100.0)
    return PeakTable(**columns, counts={})


def made(
    folder: Path, peaks: PeakTable, header: geometry.Detector | None = None, **params: Any
) -> dict[str, Any]:
    """Parent and child of one scan: what the workflow makes of it."""
    folder.mkdir(exist_ok=True)
    ones = np.ones(N)
    as_told = rotation() if header is None else replace(rotation(), detector=header)
    scan = RotationScan("none", 0, as_told, ones, ones, ones, "none", 300.0)
    nexus.write_scan(folder / "scan.nxs", scan, "r1", None)
    nexus.write_peaks(folder / "peaks.nxs", peaks)
    described = {"r1": geometry.to_dict(rotation())}
    start = {"space_group": None, "UB": UB.tolist(), "rotations": described}
    (folder / "start.json").write_text(json.dumps(start))
    files = {"scans": [folder / "scan.nxs"], "peaks": [folder / "peaks.nxs"]}
    identity = {"sample": "s", "scan": "a", "rotations": ["r1"], "fixed": True}
    given = {"space_group": "P m -3 m", "grid_limits": (2, 2, 2), "start": folder / "start.json"}
    given |= params
    refine_parent.main(
        inputs=refine_parent.Inputs(**files, start=given.pop("start")),
        outputs=refine_parent.Outputs(orientation=folder / "p.json", picture=folder / "p.png"),
        params=refine_parent.Params(**identity, **given),
    )
    refine.main(
        inputs=refine.Inputs(**files, parent=folder / "p.json"),
        outputs=refine.Outputs(orientation=folder / "o.json", picture=folder / "o.png"),
        params=refine.Params(**identity),
    )
    return stage.read_json(folder / "o.json")


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("number", [0, 1, 25])
def test_nothing_moves_whatever_peaks_there_are(tmp_path: Path, number: int) -> None:
    found = made(tmp_path, table(number))
    for data in (found, stage.read_json(tmp_path / "p.json")):
        np.testing.assert_allclose(data["UB"], UB, atol=1e-9)
        np.testing.assert_allclose(data["cell"], CELL, atol=1e-9)
        assert data["fixed"]
        assert data["cell_sigma"] == [0.0] * 6
        assert geometry.to_dict(rotation()) == data["rotations"]["r1"]
        assert data["metrics"]["peaks"] == number
        assert data["metrics"]["used in refinement"] == 0
        assert data["metrics"]["fraction indexed"] == (1.0 if number else None)
        assert any("the orientation is fixed" in text for text in data["warnings"])
    rmsd = found["metrics"]["rmsd in pixels"]
    # A straight line between angles a twentieth of a frame apart.
    assert rmsd is None if number == 0 else rmsd < 0.01
    assert (tmp_path / "o.png").stat().st_size > 5000


def test_the_detector_of_the_start_is_taken_with_its_orientation(tmp_path: Path) -> None:
    """The header's detector is off by 2 pixels and tilted; the start knows where it stood."""
    described = {"r1": geometry.to_dict(rotation())}
    start = {"space_group": None, "UB": UB.tolist(), "rotations": described}
    (tmp_path / "right.json").write_text(json.dumps(start))
    header = rotation().detector.moved([2 * 172e-6, 0.0, 2e-4], [0.004, 0.0, 0.004])
    found = made(tmp_path, table(25), header=header, start=tmp_path / "right.json")
    for data in (found, stage.read_json(tmp_path / "p.json")):
        np.testing.assert_allclose(data["UB"], UB, atol=1e-9)
        detector = geometry.from_dict(data["rotations"]["r1"]).detector
        np.testing.assert_allclose(detector.origin, rotation().detector.origin, atol=1e-12)
        assert data["metrics"]["fraction indexed"] == 1.0
    assert found["metrics"]["rmsd in pixels"] < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 25])
def test_the_verdict_says_whether_anything_could_be_asked(tmp_path: Path, number: int) -> None:
    made(tmp_path, table(number))
    accept.main(
        inputs=accept.Inputs(orientation=tmp_path / "o.json", parent=tmp_path / "p.json"),
        outputs=accept.Outputs(accepted=tmp_path / "a.json"),
        params=accept.Params(),
    )
    verdict = stage.read_json(tmp_path / "a.json")
    assert verdict["accepted"]
    assert verdict["verdict"] == "doubtful"
    (doubt,) = verdict["doubts"]
    if number < 25:
        assert f"a has {number} of the 20 peaks" in doubt
    else:
        # The table says 0.1 pixels of peaks that are right to a thousandth.
        assert "lower `find_peaks: sigma_floor`" in doubt
    gates = page_gates.table(verdict)
    # Whether a crystal moved that nobody refined is not asked.
    untested = [gate.name for gate in gates if gate.figure == "not tested"]
    moved = ["Motion (pixel, frame)", "Peaks not indexed", "Second crystal"]
    assert untested == (moved if number == 25 else ["Gates"])
    assert len(gates) == (7 if number == 25 else 1)


def test_a_wrong_fixed_orientation_is_told(tmp_path: Path) -> None:
    found = made(tmp_path, table(5, wrong=60))
    assert any("fixed orientation indexes" in text for text in found["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 25])
def test_what_follows_copes(tmp_path: Path, number: int) -> None:
    """Series, overview and the converging loop, which leaves the model as it is."""
    found = made(tmp_path, table(number))
    one, zero = np.ones(N), np.zeros(N)
    transmission = Transmission(one, zero, one, zero.astype(np.uint8), 1.0)
    scale = FrameScale(one, one, zero, transmission, 1.0, 1.0, "none")
    nexus.write_scale(tmp_path / "scale.nxs", scale, zero)
    temperature_series.main(
        inputs=temperature_series.Inputs(
            orientations=[tmp_path / "o.json"],
            peaks=[tmp_path / "peaks.nxs"],
            scales=[tmp_path / "scale.nxs"],
        ),
        outputs=temperature_series.Outputs(
            table=tmp_path / "t.tsv",
            series=tmp_path / "t.nxs",
            picture=tmp_path / "t.png",
            findings=tmp_path / "t.json",
        ),
        params=temperature_series.Params(),
    )
    stage.write_json(tmp_path / "m.json", {"coverage": 0.1, "rotations' reduced chi2": None})
    judged = {"verdict": "doubtful", "sentences": [], "doubts": ["no gate\twas\nasked"]}
    stage.write_json(tmp_path / "a.json", judged)
    overview.main(
        inputs=overview.Inputs(
            orientations=[tmp_path / "o.json"],
            metrics=[tmp_path / "m.json"],
            accepted=[tmp_path / "a.json"],
        ),
        outputs=overview.Outputs(
            table=tmp_path / "s.tsv", page=tmp_path / "s.html", series=tmp_path / "s.png"
        ),
        params=overview.Params(),
    )
    assert (tmp_path / "s.tsv").read_text().count("\n") == 2
    converge.main(
        inputs=converge.Inputs(
            orientation=tmp_path / "o.json",
            scans=[tmp_path / "scan.nxs"],
            masks=[tmp_path / "none.nxs"],
            scales=[tmp_path / "scale.nxs"],
            peaks=[tmp_path / "peaks.nxs"],
        ),
        outputs=converge.Outputs(
            converged=tmp_path / "c.json",
            history=tmp_path / "h.json",
            picture=tmp_path / "c.png",
            modules=tmp_path / "mod.json",
        ),
        params=converge.Params(sample="s", scan="a", rotations=["r1"]),
    )
    assert stage.read_json(tmp_path / "c.json")["UB"] == found["UB"]


def test_what_cannot_be_taken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HklflowError, match="without an orientation"):
        made(tmp_path / "a", table(1), start=None)
    with pytest.raises(HklflowError, match="not a lattice of P 6"):
        made(tmp_path / "b", table(1), space_group="P 6/m m m")


def test_grid_of_a_part_of_reciprocal_space(tmp_path: Path) -> None:
    ranges = ((1.85, 2.17), (0.82, 1.18), (0.85, 1.15))
    found = made(
        tmp_path, table(1), grid_limits=None, grid_range=ranges, grid_step=(0.01, 0.02, 0.05)
    )
    grid = Grid.from_dict(found["grid"])
    assert grid.shape == (33, 19, 7)
    for i, (low, high) in enumerate(ranges):
        np.testing.assert_allclose(grid.axis(i)[[0, -1]], [low, high], atol=1e-9)
    params = refine_parent.Settings(grid_range=ranges)
    words = flags(params).split()
    assert words == ["--grid-range", "1.85", "2.17", "0.82", "1.18", "0.85", "1.15"]
    # As the command line gives them.
    assert refine_parent.Settings(grid_range=words[1:]).grid_range == ranges
    with pytest.raises(HklflowError, match="from low to high"):
        Grid.within([[2, 1], [0, 1], [0, 1]], 0.1)
    with pytest.raises(ValueError, match="two grids"):
        refine_parent.Settings(grid_range=ranges, grid_limits=(1, 1, 1))


def problems_of(base: Path, **data: Any) -> str:
    (base / "config").mkdir(exist_ok=True)
    (base / "config/samples.tsv").write_text("sample\tspace_group\ns\tP m -3 m\n")
    columns = "sample\tscan\ttemperature\tparent\trotation\traw\n"
    rows = "s\ta\t300\t\tr1\ta.h5\ns\tb\t200\ta\tr1\tb.h5\n"
    (base / "config/scans.tsv").write_text(columns + rows)
    for name in ("a.h5", "b.h5", "start.json"):
        (base / name).write_bytes(b"")
    try:
        config.load(data, base)
    except HklflowError as error:
        return str(error)
    return ""


def test_what_check_says(tmp_path: Path) -> None:
    fixed = {"start": "start.json", "fixed": True}
    told = problems_of(tmp_path, orientation={"fixed": True})
    assert "orientation.fixed of s/a: nothing is refined" in told
    assert "for the parent s/a" in told
    assert problems_of(tmp_path, orientation=fixed) == ""
    # What holds for the parent holds for its children.
    assert problems_of(tmp_path, per_scan={"s/a": {"orientation": fixed}}) == ""
    child = {"s/a": {"orientation": fixed}, "s/b": {"orientation": {"fixed": False}}}
    assert "orientation.fixed of s/b is false" in problems_of(tmp_path, per_scan=child)
    part = {"refine_parent": {"grid_range": [[1, 2], [-1, 1], [-1, 1]]}}
    assert "set `delta_pdf: []`" in problems_of(tmp_path, **part)
    assert problems_of(tmp_path, **part, delta_pdf=[]) == ""
    whole = {"refine_parent": {"grid_range": [[-1, 1], [-1, 1], [-1, 1]]}}
    assert problems_of(tmp_path, **whole) == ""
