"""Simulated frames through the stages, against the truth; `benchmarks.frame_worlds` has more."""

from pathlib import Path

import numpy as np
import pytest

from tests.truth.frame_scans import centroids_alone, reduced
from tests.truth.frames import frame_world


@pytest.mark.slow
def test_a_mosaic_crystal_has_its_cell(tmp_path: Path) -> None:
    """Case 10 of the fits that look good: by the centroids of its arcs the cell is 12 σ off."""
    world = frame_world("plain", "cubic", 1, mosaic=1.0, n_frames=240)
    found = reduced(world, tmp_path, volume=False)
    assert found.refused == {}
    assert np.abs(found.figures["pulls of cell and orientation"]).max() < 4
    assert np.abs(found.figures["pulls of cell and orientation converged"]).max() < 4
    assert found.said["accept"] == []


@pytest.mark.slow
def test_integrated_centroids_of_arcs_have_the_cell(tmp_path: Path) -> None:
    """By these alone it is 130 ppm (7 σ) too large as they are seen."""
    world = frame_world("plain", "orthorhombic", 522, mosaic=1.0, strong=3e4, n_frames=160)
    found = reduced(world, tmp_path, volume=False, convergence=False)
    assert found.refused == {}
    by_centroids = centroids_alone(world, tmp_path)
    assert np.abs(by_centroids.cell_off).max() < 5e-5
    assert np.abs(by_centroids.cell_pulls).max() < 3


@pytest.mark.slow
def test_diffuse_scattering_that_turns_makes_the_scale_doubtful(tmp_path: Path) -> None:
    """Its error is known, and no larger than is said."""
    found = reduced(
        frame_world("plain", "triclinic", 506, mosaic=0.1),
        tmp_path,
        volume=False,
        convergence=False,
    )
    assert found.said["frame_scale"]
    assert found.figures["error of the scale"] < 2 * found.figures["claimed"]
    assert found.figures["error of the scale"] > 0.2 * found.figures["claimed"]
