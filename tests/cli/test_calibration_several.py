"""Geometries of several images, and modules, as `hklflow calibration propose` makes them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from hklflow import geometry, nexus
from hklflow.base.errors import HklflowError
from hklflow.calibration.calibrants import read_calibrant
from hklflow.calibration.levels import LevelSettings
from hklflow.cli.calibration import levels, several
from hklflow.formats.write_images import write_image
from hklflow.geometry.lattice import b_matrix
from hklflow.geometry.modules import Modules
from hklflow.geometry.prediction import predict
from hklflow.images import pixel_groups
from hklflow.images.masks import MaskBit
from hklflow.images.scan import RotationScan
from hklflow.peaks.table import PeakTable
from hklflow.stages import powder_calibration
from tests.truth.orientations import write_orientation

Floats = NDArray[np.float64]

PIXEL, WAVELENGTH = 400e-6, 0.6
STARTS = ((0, 70), (76, 146))
BOXES = np.array([(*slow, *fast) for slow in STARTS for fast in STARTS])
SHAPE = (146, 146)
GAPS = np.ones(SHAPE, bool)
for _s0, _s1, _f0, _f1 in BOXES:
    GAPS[_s0:_s1, _f0:_f1] = False
#: Where a pixel is, less where it should be; without motions of all modules together.
SHIFTS = np.array([(0.3, 0.3), (-0.3, 0.3), (0.3, -0.3), (-0.3, -0.3)])


def image(path: Path, distance: float, centre: tuple[float, float], shifts: Floats) -> Path:
    """Rings of CeO2 on a plate across the beam, whose modules are displaced.

    Written out by hand: no part of the package says where a pixel is.
    """
    slow, fast = np.indices(SHAPE) + 0.5
    for (s0, s1, f0, f1), (down, right) in zip(BOXES, shifts, strict=True):
        slow[s0:s1, f0:f1] += down
        fast[s0:s1, f0:f1] += right
    d = read_calibrant("CeO2").d
    rings = 2 * np.arcsin(WAVELENGTH / (2 * d[d > WAVELENGTH / 1.6]))
    counts = np.full(SHAPE, 3.0)
    part = (np.arange(4) - 1.5) / 4  # a pixel counts what falls on all of it
    for i in part:
        for j in part:
            radius = PIXEL * np.hypot(slow + i - centre[0], fast + j - centre[1])
            angle = np.arctan(radius / distance)
            for ring in rings:
                counts += 150 * np.exp(-0.5 * ((angle - ring) / 5e-3) ** 2) * np.cos(angle) ** 3
    noisy = np.random.default_rng(int(centre[0] * 10)).poisson(counts).astype(np.int32)
    noisy[GAPS] = -1
    write_image(path, noisy)
    return path


def params(**more: Any) -> powder_calibration.Params:
    given = {"wavelength": WAVELENGTH, "pixel_size": (PIXEL, PIXEL), "polarization": 0.5}
    return powder_calibration.Params.model_validate(given | more)


def test_two_distances_tell_the_wavelength(tmp_path: Path) -> None:
    none = np.zeros((4, 2))
    near = image(tmp_path / "near.tif", 0.08, (72.0, 74.0), none)
    far = image(tmp_path / "far.tif", 0.11, (72.0, 74.0), none)
    kept = [tmp_path / name for name in ("powder.nxs", "powder_2.nxs")]
    start = params(wavelength=1.003 * WAVELENGTH)
    found = several.series([near, far], start, [0, 0.03], [], kept)
    wavelength = found["beam"]["wavelength_A"]
    sigma = found["sigma"]["wavelength"]
    assert abs(wavelength - WAVELENGTH) < 4 * sigma
    assert sigma < 0.003 * WAVELENGTH / 5  # so that the wrong start is seen
    assert found["metrics"]["direct_distance_m"] == pytest.approx(0.08, abs=5e-5)
    assert len(found["metrics"]["others"]) == 1
    with pytest.raises(HklflowError, match="1 values of --offset for 2 images"):
        several.series([near, far], params(), [0], [], [])
    for path, picture, distance in zip(kept, (near, far), (0.08, 0.11), strict=True):
        _is_kept(path, picture, distance)


def _is_kept(path: Path, picture: Path, distance: float) -> None:
    """The file has the measured image, a profile that peaks at the rings, and the geometry."""
    with h5py.File(path) as file:
        group = file["entry/powder"]
        counts, found = fabio.open(picture).data, group["counts"][()]
        used = np.isfinite(found)  # not in gaps, and not an outlier
        assert not used[GAPS].any()
        assert used[~GAPS].mean() > 0.95
        np.testing.assert_array_equal(found[used], counts[used])
        at = group["refinement/parameters/Distance"][()]
        assert at == pytest.approx(distance, rel=5e-3)
        profile, angle = (group[f"radial_sum/{name}"][()] for name in ("radial_sum", "polar_angle"))
        rings = group["radial_sum/ring_polar_angle"][()]
        assert len(rings) >= 3
        near = np.abs(angle[:, None] - rings).min(axis=1)
        assert np.nanmean(profile[near < 0.15]) > 3 * np.nanmean(profile[near > 1.2])


@pytest.mark.slow
def test_displaced_images_tell_the_modules_and_one_is_refused(tmp_path: Path) -> None:
    centres = ((55.0, 55.0), (55.0, 92.0), (92.0, 55.0), (92.0, 92.0))
    paths = [image(tmp_path / f"{i}.tif", 0.08, centre, SHIFTS) for i, centre in enumerate(centres)]
    kept = [tmp_path / f"powder_{i}.nxs" for i in range(1, 5)]
    found = levels.calibrate(LevelSettings(), None, paths, params(), powders=kept)
    for file, picture in zip(kept, paths, strict=True):
        _is_kept(file, picture, 0.08)
    modules = geometry.detector_from_dict(found["detector"]).modules
    assert modules is not None
    np.testing.assert_array_equal(modules.rectangles, BOXES)
    assert np.abs(modules.shift - SHIFTS).max() < 0.03
    assert found["module_metrics"]["improvement"] < 0.5
    with pytest.raises(HklflowError, match="condition number"):
        levels.calibrate(LevelSettings(), None, paths[:1], params())
    # The detector and its modules in turn.
    rounds = levels.calibrate(LevelSettings(levels=("detector", "module")), None, paths, params())
    metrics = rounds["module_metrics"]
    assert metrics["rounds"][-1]["largest_change_px"] <= metrics["tolerance_px"]
    modules = geometry.detector_from_dict(rounds["detector"]).modules
    assert modules is not None
    assert np.abs(modules.shift - SHIFTS).max() < 0.03


def _reduced(folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """What a refined scan leaves: its peaks lie where displaced modules see them."""
    detector = geometry.Detector(
        SHAPE, (PIXEL, PIXEL), np.array([73 * PIXEL, 73 * PIXEL, 0.08]),
        np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0]),
    )  # fmt: skip
    rotation = geometry.Rotation(
        geometry.Beam(WAVELENGTH), detector,
        geometry.Goniometer(("phi",), np.array([[-1.0, 0, 0]]), np.zeros(1), 0),
        geometry.Scan(0.0, np.radians(0.5), 360),
    )  # fmt: skip
    turn = geometry.rotation_matrix([1, 2, 3], 0.7)
    ub = turn @ b_matrix((9.0, 10.0, 11.0, 90, 95, 90))
    hkl = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3), axis=-1).reshape(-1, 3)
    seen = predict(rotation, ub, hkl[np.any(hkl != 0, axis=1)])
    ideal = Modules.ideal(BOXES)
    at = ideal.module_at(seen.slow, seen.fast)
    use = (at >= 0) & (seen.zeta > 0.3)
    slow, fast, frame = (a[use] for a in (seen.slow, seen.fast, seen.frame))
    noise = rng.normal(0, 0.1, (2, use.sum()))
    slow, fast = slow - SHIFTS[at[use], 0] + noise[0], fast - SHIFTS[at[use], 1] + noise[1]
    n = len(slow)
    table = {
        item.name: np.ones(n) for item in dataclasses.fields(PeakTable) if item.name != "counts"
    }
    whole = {name: np.ones(n, np.int64) for name in ("n_pixels", "n_frames")}
    table |= whole | {
        "frame": frame, "slow": slow, "fast": fast, "var_slow": np.full(n, 0.01),
        "var_fast": np.full(n, 0.01), "var_frame": np.full(n, 0.01),
        "flags": np.zeros(n, np.int64),
    }  # fmt: skip
    ones = np.ones(360)
    scan = RotationScan("none", 0, rotation, ones, ones, ones, "simulated", 300.0)
    nexus.write_scan(folder / "scan.nxs", scan, "r1", None)
    nexus.write_peaks(folder / "peaks.nxs", PeakTable(**table, counts={}))
    bits = np.where(GAPS, np.uint32(MaskBit.GAP), np.uint32(0))
    nexus.write_mask(folder / "mask.nxs", bits)
    write_orientation(folder / "orientation.json", {"r1": rotation}, ub)
    return {
        "detector": geometry.detector_to_dict(detector),
        "beam": {"wavelength_A": WAVELENGTH, "polarization": 0.99},
        "metrics": {"rings": []},
    }


def _scan(folder: Path, start: dict[str, Any]) -> levels.BraggScan:
    files = [{"r1": folder / f"{name}.nxs"} for name in ("scan", "peaks", "mask")]
    return levels.BraggScan(start, folder / "orientation.json", *files)


def test_bragg_peaks_tell_the_modules(tmp_path: Path) -> None:
    start = _reduced(tmp_path, np.random.default_rng(5))
    found = levels.calibrate(LevelSettings(), scans=[_scan(tmp_path, start)])
    modules = geometry.detector_from_dict(found["detector"]).modules
    assert modules is not None
    points = [row["points"] for row in found["module_metrics"]["modules"]]
    assert min(points) > 50
    # Noise of 0.1 pixel on so many peaks.
    assert np.sqrt(np.mean((modules.shift - SHIFTS) ** 2)) < 4 * 0.1 / np.sqrt(min(points))
    assert "metrics" not in found  # those of the rings are not those of this geometry
    assert found["beam"] == start["beam"]
    json.dumps(found["module_metrics"])


def test_groups_of_pixels_move_as_modules(tmp_path: Path) -> None:
    """Chips instead of modules: the halves of a module have its shift."""
    start = _reduced(tmp_path, np.random.default_rng(5))
    halves = pixel_groups.by_chip(SHAPE, BOXES, (2, 1))
    file = tmp_path / "chips.nxs"
    nexus.write_groups(file, pixel_groups.stamped(halves, serial="1"))
    state = {"shape": list(SHAPE), "serial": "1", "pixel_size": [PIXEL, PIXEL]}
    chips = levels.read_groups(file, state)
    assert chips is not None
    assert len(chips.names) == 8
    asked = LevelSettings(groups=file)
    found = levels.calibrate(asked, chips, scans=[_scan(tmp_path, start)])
    modules = geometry.detector_from_dict(found["detector"]).modules
    assert modules is not None
    np.testing.assert_array_equal(modules.rectangles, chips.rectangles())
    points = [row["points"] for row in found["module_metrics"]["modules"]]
    true = np.repeat(SHIFTS, 2, axis=0)
    assert np.sqrt(np.mean((modules.shift - true) ** 2)) < 4 * 0.1 / np.sqrt(min(points))
    for wrong in ({"shape": [1, 2]}, {"serial": "2"}):
        with pytest.raises(HklflowError, match="make the groups for this detector"):
            levels.read_groups(file, state | wrong)
    other = pixel_groups.by_image((GAPS == 0).astype(int))
    with pytest.raises(HklflowError, match="not a rectangle of pixels"):
        levels.calibrate(asked, other, scans=[_scan(tmp_path, start)])
    # The chips move on from the displaced modules of a version, and modules from its chips.
    divided = levels.calibrate(asked, chips, scans=[_scan(tmp_path, found)])
    assert len(geometry.detector_from_dict(divided["detector"]).modules) == 8
    whole = levels.calibrate(LevelSettings(), scans=[_scan(tmp_path, found)])
    assert whole["module_metrics"]["levels"] == {"module": 4}
    assert len(geometry.detector_from_dict(whole["detector"]).modules) == 8
