"""Orientations of nearly more symmetric lattices: told by the strain, or left open."""

from pathlib import Path

import numpy as np
import pytest
from tests.orientation.test_steadiness import FREE, LIMITS, Case
from tests.truth import worlds
from tests.truth.world_scans import answered

from hklflow.geometry import symmetry
from hklflow.orientation import pseudosymmetry
from hklflow.orientation.refinement import Refined, refine


@pytest.mark.slow
def test_a_rhombohedral_crystal_that_is_nearly_cubic_is_laid_along_the_right_diagonal(
    tmp_path: Path,
) -> None:
    """Its c/a is 1.3e-4 from that of a body-centred cubic lattice."""
    answer = answered(worlds.world("plain", "trigonal", 20115), tmp_path)
    assert answer.worst < 5
    assert answer.data["metrics"]["reduced chi2"] < 1.1
    assert not any("only intensities can tell" in text for text in answer.data["warnings"])


@pytest.mark.parametrize("wrong", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2))])
def test_from_any_diagonal_the_same_is_found(wrong: int) -> None:
    case = Case("plain", "trigonal", 20115, None)
    right = case.refined
    operators = symmetry.reindexing_operators(right.cell, case.group)
    assert len(operators) == 3

    def refine_from(ub: np.ndarray) -> Refined:
        return refine(right.rotations, case.peaks, ub, case.group, free=FREE, limits=LIMITS)

    begun = refine_from(right.ub @ operators[wrong])
    assert begun.chi2 > 1.2 * right.chi2
    again = symmetry.reindexing_operators(begun.cell, case.group)
    found, n_open = pseudosymmetry.oriented(begun, again, refine_from)
    assert n_open == 0
    assert found.chi2 == pytest.approx(right.chi2, rel=1e-3)


def test_what_spots_cannot_tell_stays_open() -> None:
    """P a -3 has half of the rotations of its lattice."""
    case = Case("plain", "cubic", 1, None)
    operators = symmetry.reindexing_operators(case.refined.cell, case.group)

    def never(ub: np.ndarray) -> Refined:
        raise AssertionError("the same spots are refined again")

    found, n_open = pseudosymmetry.oriented(case.refined, operators, never)
    assert found is case.refined
    assert n_open == len(operators)
