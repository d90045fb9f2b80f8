"""A crystal off the rotation axis: its place, from spots of rays that begin there."""

from pathlib import Path

import numpy as np
from tests.truth import worlds
from tests.truth.world_scans import answered


def test_the_place_of_the_crystal_is_that_of_the_world(tmp_path: Path) -> None:
    """`worlds` traces the rays; 50 µm move the spots by 0.3 pixels."""
    world = worlds.world("off_centre", "triclinic", 61, 5e-5)
    found = answered(world, tmp_path)
    (offset,) = found.data["crystal_offsets_m"].values()
    truth = world.effects[0]["offset"]
    assert np.linalg.norm(offset - truth) < 1e-6
    assert found.worst < 4
    assert any("µm off the rotation axis" in text for text in found.data["warnings"])
