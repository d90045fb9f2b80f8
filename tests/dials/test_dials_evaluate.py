"""Figures of a model that another program refined: the same that refinement tells of its own."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hklflow import geometry, nexus
from hklflow.base.errors import HklflowError
from hklflow.geometry import symmetry
from hklflow.orientation import evaluation, refinement
from hklflow.orientation.refinement import Refined
from tests.truth.defaults import limits

from . import small_scans

pytestmark = pytest.mark.slow

FREE = ("cell", "orientation", "detector_x", "detector_y", "detector_rotation", "misorientation")


@pytest.fixture(scope="module")
def peaks(hexagonal: small_scans.Made) -> list[refinement.Peaks]:
    return [refinement.Peaks.of(nexus.read_peaks(path)) for path in hexagonal.peaks]


@pytest.fixture(scope="module")
def started(hexagonal: small_scans.Made) -> tuple[list[geometry.Rotation], np.ndarray]:
    """Rotations and UB a little off."""
    rotations = [
        replace(r, detector=r.detector.moved((1e-4, 5e-5, 0.0), (1e-3, -5e-4, 2e-3)))
        for r in hexagonal.rotations
    ]
    turn = geometry.rotation_matrix([1, -2, 0.5], 0.004)
    return rotations, turn @ hexagonal.simulations[0].ub


@pytest.fixture(scope="module")
def group() -> symmetry.SpaceGroup:
    return symmetry.space_group("P 6/m m m")


@pytest.fixture(scope="module")
def fitted(peaks: Any, started: Any, group: Any) -> Refined:
    return refinement.refine(started[0], peaks, started[1], group, free=FREE, limits=limits())


def evaluated(found: Refined, peaks: Any, started: Any, group: Any, **more: Any) -> Refined:
    return evaluation.evaluate(
        found.rotations,
        peaks,
        found.ub,
        group,
        *started,
        **{"free": FREE, "limits": limits(), **more},
    )


def test_figures_are_those_of_the_refinement(
    fitted: Refined, peaks: Any, started: Any, group: Any
) -> None:
    found = evaluated(fitted, peaks, started, group)
    assert found.names == fitted.names
    np.testing.assert_array_equal(found.ub, fitted.ub)
    assert found.rotations == fitted.rotations
    np.testing.assert_array_equal(found.hkl, fitted.hkl)
    np.testing.assert_allclose(found.residuals, fitted.residuals, atol=1e-7)
    assert found.fraction_indexed == fitted.fraction_indexed
    # Changes are told from where the refinement started, as it does itself.
    np.testing.assert_allclose(found.values, fitted.values, rtol=1e-6, atol=2e-8)
    # One peak of twenty more is used, for none is held out.
    assert found.used.sum() == fitted.used.sum() + fitted.held_out.sum()
    assert not found.held_out.any()
    assert found.rmsd_held_out is None
    np.testing.assert_allclose(found.sigma, fitted.sigma, rtol=0.1)
    np.testing.assert_allclose(found.cell_sigma, fitted.cell_sigma, rtol=0.1)
    assert found.chi2 == pytest.approx(fitted.chi2, rel=0.1)


def test_a_model_beside_the_minimum_stays_there(
    fitted: Refined, peaks: Any, started: Any, group: Any
) -> None:
    off = replace(fitted, ub=geometry.rotation_matrix([0, 0, 1], 4e-4) @ fitted.ub)
    found = evaluated(off, peaks, started, group)
    np.testing.assert_array_equal(found.ub, off.ub)
    assert found.chi2 > 1.5 * fitted.chi2
    assert found.steps == 0


def test_what_refinement_would_refuse(
    fitted: Refined, peaks: Any, started: Any, group: Any
) -> None:
    far = replace(fitted, ub=geometry.rotation_matrix([0, 1, 0], 0.1) @ fitted.ub)
    with pytest.raises(HklflowError, match="the orientation moved by"):
        evaluated(far, peaks, started, group)
    loose = replace(fitted, ub=fitted.ub @ np.diag([1.0, 1.001, 1.0]))
    with pytest.raises(HklflowError, match="does not obey P 6/m m m"):
        evaluated(loose, peaks, started, group)
    with pytest.raises(HklflowError, match="lost the crystal"):
        evaluated(fitted, peaks, started, group, limits=limits(hkl=1e-6))


def test_indices_for_another_program_are_the_true_ones(
    hexagonal: small_scans.Made, peaks: Any, started: Any, group: Any
) -> None:
    turn = geometry.rotation_matrix([1, 1, 0], np.radians(0.8))
    assigned = evaluation.assign(started[0], peaks, turn @ started[1], group, limits=limits())
    assert assigned.indexed.all()
    start = 0
    for simulation, rotation, part in zip(
        hexagonal.simulations, hexagonal.rotations, peaks, strict=True
    ):
        true = rotation.hkl(simulation.ub, part.frame, part.slow, part.fast)
        own = assigned.hkl[start : start + len(true)]
        np.testing.assert_array_equal(own, np.rint(true))
        start += len(true)
