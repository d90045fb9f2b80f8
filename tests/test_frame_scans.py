"""Simulated frames through the stages, against the truth; `benchmarks.frame_worlds` has more."""

from pathlib import Path

import numpy as np
import pytest

from hklflow import stage
from tests.truth.frame_scans import centroids_alone, reduced
from tests.truth.frames import frame_world

#: A half and a third of the resolution of the usual detector, of the same size: fewer pixels.
COARSE = {"shape": (240, 256), "pixel_size": 344e-6}
COARSER = {"shape": (160, 170), "pixel_size": 516e-6}


@pytest.mark.slow
def test_a_mosaic_crystal_has_its_cell(tmp_path: Path) -> None:
    """Case 10 of the fits that look good: by the centroids of its arcs the cell is 7 σ off.

    By integrated centroids alone it is 110 ppm (8 σ) too large as they are seen.
    """
    world = frame_world("plain", "cubic", 1, mosaic=1.0, n_frames=160, **COARSER)
    found = reduced(world, tmp_path, last="converge")
    assert found.refused == {}
    assert np.abs(found.figures["pulls of cell and orientation"]).max() < 4
    assert np.abs(found.figures["pulls of cell and orientation converged"]).max() < 4
    assert found.said["accept"] == []
    by_centroids = centroids_alone(world, tmp_path)
    assert np.abs(by_centroids.cell_off).max() < 5e-5
    assert np.abs(by_centroids.cell_pulls).max() < 3


@pytest.mark.slow
def test_the_error_of_the_scale_by_diffuse_scattering_that_turns_is_known(tmp_path: Path) -> None:
    """It makes the scale doubtful only if it is more than comparisons of scans assume."""
    world = frame_world("plain", "triclinic", 506, mosaic=0.1, n_frames=180, **COARSE)
    found = reduced(world, tmp_path, last="frame_scale")
    assert bool(found.said["frame_scale"]) == (found.figures["claimed"] > 0.01)
    assert found.figures["error of the scale"] < 2 * found.figures["claimed"]
    assert found.figures["error of the scale"] > 0.2 * found.figures["claimed"]


@pytest.mark.slow
def test_a_detector_that_keeps_counts_makes_the_scan_doubtful(tmp_path: Path) -> None:
    """Late centroids leave no residual: only the frames say that the orientation is off."""
    world = frame_world("afterglow", "tetragonal", 503, 0.02, n_frames=80, **COARSE)
    found = reduced(world, tmp_path, last="accept")
    assert np.abs(found.figures["pulls of cell and orientation"]).max() > 5
    for name in ("find_peaks", "accept"):
        assert any("the detector keeps" in text for text in found.said[name])
    own = tmp_path / "world" / "scan" / "r1" / "find_peaks_metrics.json"
    kept = stage.read_json(own)["afterglow"]
    assert abs(kept["share"] - 0.02) < 0.002
    assert stage.read_json(tmp_path / "accept_accepted.json")["verdict"] == "doubtful"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "system"),
    [("plain", "orthorhombic"), ("drift", "orthorhombic"), ("coarse_steps", "triclinic")],
)
def test_a_detector_that_keeps_nothing_is_not_said_to(
    kind: str, system: str, tmp_path: Path
) -> None:
    world = frame_world(kind, system, 533, n_frames=120, **COARSE)
    found = reduced(world, tmp_path, last="find_peaks")
    assert not any("the detector keeps" in text for text in found.said["find_peaks"])
