"""What the gates say of measured scans, against what others and the literature know of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import stage
from tests.truth import lcysteine

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


@pytest.fixture(scope="module")
def data(real_data: Path) -> Path:
    return real_data / "rotation_lcysteine"


@pytest.fixture(scope="module")
def folder(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Peaks of the four wedges."""
    out = tmp_path_factory.mktemp("lcysteine")
    for sweep in lcysteine.SWEEPS:
        lcysteine.peaks(data, out, sweep)
    return out


def told(found: dict[str, Any]) -> str:
    return " | ".join(found["doubts"])


def test_spots_of_short_sweeps_are_reflections(folder: Path) -> None:
    """Their widths differ by a factor of 5; 59 of 120 were refined, as if others were maxima."""
    found = lcysteine.orientation(folder, lcysteine.SWEEPS, "asis")
    metrics = stage.read_json(folder / "asis.json")["metrics"]
    assert metrics["peaks"] > 90
    assert metrics["fraction indexed"] > 0.9
    assert "farther from the origin" not in told(found)
    assert "the detector seems to be -0." in told(found)
    assert "refine_distance: true" in told(found)


def test_with_the_distance_the_cell_is_the_literatures(data: Path, folder: Path) -> None:
    """One distance for both angles of the arm; the sweeps have one cell and one crystal."""
    found = lcysteine.orientation(folder, lcysteine.SWEEPS, "both", refine_distance=True)
    assert found["figures"]["misfit"]["reduced chi2"] < 6
    assert "farther from the origin" not in told(found)
    refined = stage.read_orientation(folder / "both.json")
    np.testing.assert_allclose(refined.cell[:3], lcysteine.CELL[:3], rtol=1.5e-3)
    for sweep, rotation in refined.rotations.items():
        distance, beam, angle = lcysteine.arm(rotation)
        full_distance, full_beam, full_angle = lcysteine.arm_of_reference(data, sweep)
        # One shift on the arm for all sweeps: the three sweeps at 30 degrees determine it.
        assert np.abs(beam - full_beam).max() < (1 if lcysteine.ARM[sweep] else 6)
        assert abs(angle - full_angle) < 0.15
        assert abs(distance / full_distance - 1) < 0.01
    # DIALS's model of the same frames, one crystal for all sweeps, is 0.23 degrees from the full
    # data's. The sweeps scatter by 0.5 degrees, so the mean of four is good to 0.25.
    _, of_mean = lcysteine.off_reference(data, refined)
    assert of_mean < 0.25
