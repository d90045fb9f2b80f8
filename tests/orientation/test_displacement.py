"""Centroids displaced along Q and towards a second lattice, in worlds that somebody else wrote."""

import re
from functools import cache
from pathlib import Path

import pytest
from tests.orientation.test_steadiness import Case
from tests.truth import worlds
from tests.truth.world_scans import answered

from hklflow.orientation.displacement import Displacement
from hklflow.quality import gates
from hklflow.stage.scan_limits import ScanLimits


def displacement(case: Case) -> Displacement:
    return Displacement(case.refined, case.peaks, case.group, case.free, case.widths)


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
    (said,) = (s for s in gates.doubtful(record, ScanLimits().limits()) if "whatever |Q|" in s)
    assert "1/Å nearer to the origin than their reflections" in said


@pytest.mark.parametrize(
    ("system", "seed", "mosaic", "strong", "off"),
    [("orthorhombic", 7008, 1.45153, 93.6174, 9), ("tetragonal", 7018, 0.189657, 38.0321, 9)],
)
def test_few_maxima_are_told_by_their_widths(
    system: str, seed: int, mosaic: float, strong: float, off: float
) -> None:
    """Cell and orientation are 9 σ off; the scatter of 66 and 94 maxima hid it."""
    found = displacement(Case("broad", system, seed, 0.9, mosaic=mosaic, strong=strong)).outward()
    assert found is not None
    assert found.bias == pytest.approx(off, rel=0.5)
    assert found.max_width is None  # none of them is a reflection


def test_the_width_that_is_proposed_leaves_reflections(tmp_path: Path) -> None:
    """Of 201 peaks 125 are maxima, and the cell is 10 σ off: pasted, the remedy cures it."""
    made = worlds.world("broad", "tetragonal", 7039, mosaic=0.0998, strong=81.1387)
    before = answered(made, tmp_path / "before")
    assert before.worst > 8
    (said,) = (text for text in before.said if "whatever |Q|" in text)
    limit = re.search(r"`refine_parent: \{max_width: ([0-9.]+)\}`", said)
    assert limit is not None
    after = answered(made, tmp_path / "after", max_width=float(limit[1]))
    assert not after.refusal
    assert after.worst < 4
    assert after.said == []


@pytest.mark.parametrize(("system", "seed"), [(s, 70 + i) for i, s in enumerate(worlds.SYSTEMS)])
def test_nothing_is_displaced_in_a_world_at_rest(system: str, seed: int) -> None:
    assert displacement(Case("plain", system, seed, None)).outward() is None


@pytest.mark.parametrize(
    ("system", "seed", "bias"),
    [pytest.param("hexagonal", 61064, 9, marks=pytest.mark.slow), ("monoclinic", 61059, 5)],
)
def test_spots_that_merge_with_those_of_a_twin_are_told_with_the_bias(
    system: str, seed: int, bias: float
) -> None:
    """Cell and orientation are 8.4 and 4.9 σ off the truth."""
    case = Case("twin_nonmerohedral", system, seed, None)
    first, *_ = case.doubts()["other crystals"]
    assert first["bias in sigma"] == pytest.approx(bias, rel=0.3)
    assert "pulled towards them: cell and orientation are wrong by up to" in first["sentence"]
    # That is told at any share of the second lattice.
    assert first["sentence"] in gates.doubtful(case.doubts(), ScanLimits(max_crystal=0.5).limits())


def test_spots_of_a_twin_that_do_not_merge_are_none() -> None:
    case = Case("twin_nonmerohedral", "triclinic", 61032, None)
    first, *_ = case.doubts()["other crystals"]
    assert first["bias in sigma"] == 0
    assert "pulled" not in first["sentence"]
