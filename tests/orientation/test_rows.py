"""Indices that are all off by one lattice row are found, and right ones are not suspected."""

import numpy as np
import pytest
from tests.truth import world_scans, worlds
from tests.truth.worlds_physics import busing_levy

from hklflow.geometry import symmetry
from hklflow.orientation import refinement
from hklflow.orientation.rows import Row, off_by_row
from hklflow.quality.doubts import Named, doubts

FREE = ["cell", "orientation", "detector_x", "detector_y", "detector_rotation"]
LIMITS = refinement.RefinementLimits(
    hkl=0.3, min_fraction=0.2, max_turn=0.2, max_strain=0.2, min_peaks=20
)


def refined(kind: str, system: str, seed: int) -> tuple[worlds.World, refinement.Refined, tuple]:
    """Six degrees, refined from the true orientation in the geometry of the header."""
    world = worlds.world(kind, system, seed, n_frames=12, mosaic=0.1, overlaps=False)
    peaks = (refinement.Peaks.of(world_scans.table_of(world, 0)),)
    ub = world.sample.U @ busing_levy(world.sample.cell)
    group = symmetry.space_group(world.space_group)
    model = refinement.refine(
        [world_scans.rotation_of(world, 0)], peaks, ub, group, free=FREE, limits=LIMITS
    )
    return world, model, peaks


def other(kind: str, system: str, seed: int) -> tuple[worlds.World, Row | None]:
    world, model, peaks = refined(kind, system, seed)
    return world, off_by_row(model, peaks, symmetry.space_group(world.space_group), FREE)


@pytest.mark.parametrize(("system", "seed"), [("cubic", 0), ("orthorhombic", 2)])
def test_the_row_and_the_beam_centre_are_found(system: str, seed: int) -> None:
    world, row = other("wrong_header:row", system, seed)
    assert row is not None
    assert row.chi2 < 3
    assert row.chi2_as_refined > 10 * row.chi2
    assert np.array_equal(row.axis, world.effects[0]["row"])
    assert -np.array(row.shift) == pytest.approx(np.array(world.effects[0]["shift"]), abs=0.5)


@pytest.mark.parametrize("seed", range(7))
def test_right_indices_are_not_suspected(seed: int) -> None:
    assert other("plain", worlds.SYSTEMS[seed], seed)[1] is None


def test_the_doubt_names_the_remedy() -> None:
    world, model, peaks = refined("wrong_header:row", "cubic", 0)
    table = world_scans.table_of(world, 0)
    group = symmetry.space_group(world.space_group)
    width = np.hypot(table.width_slow, table.width_fast)
    named = Named("s", "a", ["r0"], [0])
    (row,) = doubts(model, peaks, [table.intensity], [width], group, FREE, named)["rows"]
    assert "(1 0 0) added to all hkl" in row["sentence"]
    assert 'import_scan: {detector: ["shift=8.8,-14.6"]}' in row["sentence"]
