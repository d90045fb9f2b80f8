"""The 3-D mask against halos of the simulator, a scene on which it was not tuned."""

import pytest
from tests.truth.halos import scene, score


@pytest.mark.parametrize("gaps", [True, False])
def test_halos_are_flagged_and_clean_voxels_are_kept(gaps: bool) -> None:
    recall, lost, number = score(scene(gaps, flux=3.0, sigma=6.0, seed=2), "uint32")
    assert number > 10_000
    assert recall >= 0.95
    assert lost <= 0.01
