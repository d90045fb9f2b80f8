"""Indices that are all off by one lattice row are found, and right ones are not suspected."""

from pathlib import Path

import numpy as np
import pytest
from tests.truth import world_scans, worlds
from tests.truth.first_contacts import draw
from tests.truth.first_contacts_peaks import observed
from tests.truth.world_scans import compared
from tests.truth.worlds_physics import busing_levy
from tests.truth.wrong_headers import stated, true_detector

from hklflow.experiment.params.orientation import refine_parent
from hklflow.geometry import BEAM, symmetry
from hklflow.orientation import refinement
from hklflow.orientation.expected import SearchedLattice
from hklflow.orientation.rows import Row, off_by_row, other_centre
from hklflow.quality.doubts import doubts
from hklflow.quality.pasted import shift_near_beam
from hklflow.stage import orientation

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


@pytest.mark.slow
def test_the_remedy_is_from_the_stated_centre_and_finds_the_crystal(tmp_path: Path) -> None:
    """What is pasted is the true beam centre, whatever the refinement did to the stated one."""
    world = worlds.world("wrong_header:row", "cubic", 0, n_frames=12, mosaic=0.1, overlaps=False)
    configured = {"import_scan": {"detector": ["shift=6,4"]}}
    experiment = stated(world, tmp_path, binning=2, config=configured)
    loaded, table = experiment.experiment(), world_scans.table_of(world, 0)
    observed = orientation.observe(["r0"], [experiment.scan(0, loaded)], [table])
    ub = world.sample.U @ busing_levy(world.sample.cell)
    group = symmetry.space_group(world.space_group)
    model = refinement.refine(
        observed.rotations, observed.peaks, ub, group, free=FREE, limits=LIMITS
    )
    params = refine_parent(loaded, {"sample": "s", "scan": "a"})
    of_import = orientation.imported("s/a", observed, params.imported)
    named = orientation.named("s", "a", observed, own=True, imported=of_import)
    width = [np.hypot(table.width_slow, table.width_fast)]
    found = doubts(model, observed.peaks, observed.intensities, width, group, FREE, named)
    (sentence,) = (row["sentence"] for row in found["rows"])
    assert "(1 0 0) added to all hkl" in sentence
    cured = experiment.with_remedy(sentence)
    detector = cured.scan(0, cured.experiment()).rotation.detector
    centre, true = (np.array(d.intersect(BEAM)) for d in (detector, true_detector(world)))
    assert centre == pytest.approx(true, abs=0.5)
    answer = cured.refined()
    assert "off by one row" not in answer.warnings
    assert np.abs(compared(world, answer.data).cell_off).max() < 0.005


@pytest.mark.slow
def test_a_beam_centre_that_no_common_row_corrects() -> None:
    """Two settings, without a cell: a wrong beam centre shifts their hkl by different rows."""
    contact = draw(2102, "cbf mini", "stale poni")  # wrong by (0.1, 12.7) pixels
    rotations, peaks, strength = observed(contact, most=200)
    group = symmetry.space_group("P 1")
    indexing = SearchedLattice(None, group, 0.25, 0.03, 0.5).index(rotations, peaks, strength)
    assert indexing is not None
    free = [*FREE, "misorientation"]
    limits = refinement.RefinementLimits(hkl=0.25, min_fraction=0.5)
    wrong = refinement.refine(rotations, peaks, indexing.ub, group, free=free, limits=limits)
    assert off_by_row(wrong, peaks, group, free) is None
    right = other_centre(rotations, wrong, peaks, group, free)
    assert right is not None
    assert right.chi2 < 2
    shift = shift_near_beam(rotations[0].detector, right.rotations[0].detector)
    assert shift == pytest.approx((0.1, 12.7), abs=0.3)
    assert sorted(right.cell[:3]) == pytest.approx(sorted(contact.crystal.cell[:3]), rel=1e-3)
    assert other_centre(right.rotations, right, peaks, group, free) is None


@pytest.mark.slow
def test_a_refinement_that_returns_to_the_first_indexing_is_no_other_one() -> None:
    """A row of 30 Å along the rotation axis: with errors of 0.2 pixels shifted hkl nearly fit."""
    contact = draw(5029)
    rotations, (exact,), strength = observed(contact, most=290)
    rng, sigma = np.random.default_rng(0), 0.15
    place = (x + rng.normal(0, sigma, len(x)) for x in (exact.frame, exact.slow, exact.fast))
    variances = (v + sigma**2 for v in (exact.var_frame, exact.var_slow, exact.var_fast))
    peaks = [refinement.Peaks(*place, *variances)]
    group = symmetry.space_group(contact.crystal.group)
    cell = contact.crystal.cell
    indexing = SearchedLattice(cell, group, 0.25, 0.03, 0.5).index(rotations, peaks, strength)
    assert indexing is not None
    limits = refinement.RefinementLimits(hkl=0.25, min_fraction=0.5)
    right = refinement.refine(rotations, peaks, indexing.ub, group, free=FREE, limits=limits)
    assert right.cell == pytest.approx(cell, rel=1e-3)
    assert off_by_row(right, peaks, group, FREE) is None
