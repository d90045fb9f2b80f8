"""Centroids displaced along Q and towards a second lattice, in worlds that somebody else wrote."""

from functools import cache

import pytest
from tests.orientation.test_steadiness import Case
from tests.truth import worlds

from hklflow.orientation.displacement import Displacement
from hklflow.quality import gates
from hklflow.stage.scan_limits import ScanLimits


def displacement(case: Case) -> Displacement:
    return Displacement(case.refined, case.peaks, case.group, case.free)


@cache
def weak(kind: str) -> Case:
    """A world of 1.9 counts per voxel: six of seven of its peaks are diffuse maxima."""
    return Case(
        kind, "triclinic", 40017, None, mosaic=0.9318863938597968, strong=40.558537706579884
    )


def test_peaks_displaced_along_q_are_told_with_what_the_cell_took_up() -> None:
    """The displacement was absorbed by the cell, 5.6 σ off without a word."""
    case = weak("broad")
    effect = case.world.effects[0]
    found = displacement(case).outward()
    assert found is not None
    # Six of seven peaks are displaced by slope times width.
    assert found.size == pytest.approx(effect["slope"] * effect["gamma"], rel=0.5)
    assert abs(found.size) > 4 * found.sigma
    assert 3 < found.bias < 10
    record = case.doubts()
    assert record["motions"] == []
    (said,) = (s for s in gates.doubtful(record, ScanLimits().limits()) if "|Q| alike" in s)
    assert "1/Å nearer to the origin than their reflections" in said


@pytest.mark.parametrize(("system", "seed"), [(s, 70 + i) for i, s in enumerate(worlds.SYSTEMS)])
def test_nothing_is_displaced_in_a_world_at_rest(system: str, seed: int) -> None:
    assert displacement(Case("plain", system, seed, None)).outward() is None


@pytest.mark.parametrize(
    ("system", "seed", "bias"), [("hexagonal", 61064, 9), ("monoclinic", 61059, 5)]
)
def test_spots_that_merge_with_those_of_a_twin_are_told_with_the_bias(
    system: str, seed: int, bias: float
) -> None:
    """Cell and orientation are 8.4 and 4.9 σ off the truth."""
    case = Case("twin_nonmerohedral", system, seed, None)
    first, *_ = case.doubts()["other crystals"]
    assert first["bias in sigma"] == pytest.approx(bias, rel=0.3)
    assert "pulled towards them: cell and orientation are off by up to" in first["sentence"]
    # That is told at any share of the second lattice.
    assert first["sentence"] in gates.doubtful(case.doubts(), ScanLimits(max_crystal=0.5).limits())


def test_spots_of_a_twin_that_do_not_merge_are_none() -> None:
    case = Case("twin_nonmerohedral", "triclinic", 61032, None)
    first, *_ = case.doubts()["other crystals"]
    assert first["bias in sigma"] == 0
    assert "pulled" not in first["sentence"]
