"""A beam centre that is wrong in the header of a tilted detector, and no distance with it."""

from pathlib import Path

import pytest
from tests.truth import worlds
from tests.truth.world_scans import answered


@pytest.mark.parametrize(
    ("system", "seed"),
    [
        ("monoclinic", 61),
        pytest.param("cubic", 21, marks=pytest.mark.slow),
        pytest.param("orthorhombic", 23, marks=pytest.mark.slow),
    ],
)
def test_the_cell_does_not_follow_the_beam_centre(system: str, seed: int, tmp_path: Path) -> None:
    """5 pixels; the cell was off by 36, 12 and 16 of its errors, without a word."""
    answer = answered(worlds.world("wrong_header:beam", system, seed), tmp_path)
    assert answer.worst < 4
    assert answer.said == []
