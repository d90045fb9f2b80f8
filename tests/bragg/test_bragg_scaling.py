"""Scales against those that simulated reflections were made with."""

from dataclasses import replace

import numpy as np
import pytest

from hklflow.bragg import observations
from hklflow.bragg.observations import Observations
from hklflow.bragg.reflections import ReflectionFlag
from hklflow.bragg.scale_model import real_harmonics
from hklflow.bragg.scaling import Scaling
from hklflow.geometry import symmetry
from tests.truth.defaults import gather, scale, scaling_settings
from tests.truth.reflections import PER_COUNT, Truth, rotation, turned


def scaled(truth: Truth, **settings: object) -> tuple[Observations, Scaling]:
    group = symmetry.space_group(truth.group)
    observed, _ = gather(truth.tables, truth.rotations, group, "profile")
    spans = [observations.span(one) for one in truth.rotations]
    return observed, scale(observed, group, spans, scaling_settings(**settings))


def two_rotations(seed: int = 1, **changes: object) -> Truth:
    return Truth(
        rotations=[rotation(), rotation(kappa=40)],
        scale=[
            lambda x: 1 + 0.2 * np.sin(np.radians(2 * x)),
            lambda x: 1.7 - 0.3 * np.cos(np.radians(3 * x)),
        ],
        decay=[lambda x: 0 * x, lambda x: 0.5 + 0.003 * x],
        seed=seed,
        **changes,
    )


@pytest.mark.slow
@pytest.mark.parametrize("outliers", [(0.0, 0.0), (0.01, 30.0)])
def test_scale_and_decay_within_their_errors(outliers: tuple[float, float]) -> None:
    pulls = []
    for seed in range(4):
        truth = two_rotations(seed, noise=(1.3, 0.03), outliers=outliers)
        _, found = scaled(truth)
        assert found.rested
        assert not found.notes
        at = found.curves[0].angle
        gauge = np.mean(np.log(truth.scale[0](at)))
        for curve, factor, decay in zip(found.curves, truth.scale, truth.decay, strict=True):
            # Two in the middle and the ends.
            rows = [0, 33, 66, 100]
            away = curve.log_scale - (np.log(factor(at)) - gauge)
            pulls.append((away / curve.log_scale_sigma)[rows])
            pulls.append(((curve.decay - decay(at)) / curve.decay_sigma)[rows])
    pulls = np.concatenate(pulls)
    assert 0.8 < np.sqrt(np.mean(pulls**2)) < 1.25
    assert np.abs(pulls).max() < 4.5


def test_unit_is_that_of_the_first_rotation() -> None:
    truth = two_rotations()
    observed, found = scaled(truth)
    at = np.linspace(0, 180, 500)
    first = np.exp(np.interp(at, found.curves[0].angle, found.curves[0].log_scale))
    assert np.mean(np.log(first)) == pytest.approx(0, abs=1e-3)
    assert np.mean(found.curves[0].decay) == pytest.approx(0, abs=1e-9)
    gauge = np.exp(np.mean(np.log(truth.scale[0](at))))
    ratio = found.scaled(observed).intensity / np.concatenate(truth.true)
    strong = np.concatenate(truth.true) > 20
    assert np.median(ratio[strong]) == pytest.approx(gauge, rel=3e-3)


@pytest.mark.slow
def test_absorption_by_harmonics() -> None:
    rng = np.random.default_rng(5)
    harmonics = 0.25 * rng.standard_normal(15)
    truth = Truth(
        rotations=[rotation(span=360), rotation(span=360, kappa=60)],
        harmonics=harmonics,
        group="P m m m",
        d_min=0.75,
    )
    true = np.log(np.concatenate(truth.g))
    spread = {}
    for degree in (0, 3):
        _, found = scaled(truth, absorption=degree, decay=False)
        spread[degree] = float(np.std(np.log(found.scale) - true))
    assert spread[0] > 0.05
    assert spread[3] < 0.012
    low, high = found.absorption
    assert low < 0.9
    assert high > 1.1


def test_harmonics_are_orthonormal() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(12)
    phi = 2 * np.pi * np.arange(24) / 24
    z, azimuth = (x.ravel() for x in np.meshgrid(nodes, phi, indexing="ij"))
    rho = np.sqrt(1 - z**2)
    on_sphere = np.stack([rho * np.cos(azimuth), rho * np.sin(azimuth), z], axis=1)
    y = real_harmonics(on_sphere, 4)
    products = (y.T * np.repeat(weights, 24) * 2 * np.pi / 24) @ y
    np.testing.assert_allclose(products, np.eye(24), atol=1e-12)


def test_directions_are_fixed_to_the_crystal() -> None:
    truth = Truth(rotations=[rotation(start=20, kappa=30)])
    observed, _ = gather(truth.tables, truth.rotations, symmetry.space_group(truth.group), "sum")
    turned_back = 2 * np.pi / 0.4 * (observed.diffracted + observed.incident)
    np.testing.assert_allclose(turned_back, observed.hkl @ turned(truth.cell).T, atol=1e-9)
    to_lab = truth.rotations[0].goniometer.rotation(np.radians(observed.angle))
    towards_source = np.einsum("nij,nj->ni", to_lab, observed.incident)
    np.testing.assert_allclose(towards_source, np.tile([0, 0, -1], (len(observed), 1)), atol=1e-12)


def test_rotations_without_common_reflections_are_told() -> None:
    from tests.truth.reflections import CELL

    truth = Truth(group="P -1", rotations=[rotation(span=20), rotation(start=90, span=20)])
    truth = replace(truth, cell=CELL, scale=[lambda x: 1 + 0 * x, lambda x: 3 + 0 * x])
    seen = [
        {tuple(h) for h in symmetry.space_group("P -1").asymmetric(t.hkl).tolist()}
        for t in truth.tables
    ]
    common = seen[0] & seen[1]
    for i, table in enumerate(truth.tables):
        unit = symmetry.space_group("P -1").asymmetric(table.hkl).tolist()
        truth.tables[i] = table.select([tuple(h) not in common for h in unit])
    _, found = scaled(truth)
    assert any("scale of r1 relative to r0 is not refined" in x for x in found.notes)
    assert np.exp(found.curves[1].log_scale).mean() == pytest.approx(1, abs=0.2)


def test_a_few_degrees_of_one_rotation() -> None:
    truth = Truth(group="P 1", rotations=[rotation(span=4)])
    observed, found = scaled(truth, absorption=4)
    np.testing.assert_array_equal(found.scale, 1.0)
    assert found.errors.a == 1
    assert found.errors.b == 0
    assert "error model is not refined" in found.notes[-1]
    assert any(note.startswith("absorption is not refined") for note in found.notes)
    n = np.unique(observed.hkl, axis=0, return_inverse=True, return_counts=True)[1:]
    alone = n[1][n[0].ravel()] == 1
    assert alone.sum() > 100
    np.testing.assert_allclose(np.sqrt(found.variance)[alone], observed.sigma[alone], rtol=1e-9)


def test_error_model_can_be_kept_out() -> None:
    truth = Truth(rotations=[rotation()], noise=(2.0, 0.0))
    _, found = scaled(truth, error_model="none")
    assert found.errors.a == 1
    assert not found.notes
    _, refined = scaled(truth)
    assert refined.errors.a == pytest.approx(2.0, rel=0.05)


def test_absent_reflections_have_no_part_but_are_scaled() -> None:
    truth = two_rotations(group="I 2 2 2", real_group="P 2 2 2")
    observed, found = scaled(truth)
    absent = (observed.flags & int(ReflectionFlag.ABSENT)) != 0
    assert absent.sum() > 1000
    assert not np.any(found.outlier & absent)
    away = np.log(found.scale / np.concatenate(truth.g))
    assert np.std(away[absent]) < 0.02


def test_expected_variance_forgets_the_fluctuation() -> None:
    """Poisson counts whose errors were told from the counts: their weighted mean is too low."""
    truth = Truth(rotations=[rotation(span=360)], strength=0.2, background=2.0)
    group = symmetry.space_group(truth.group)
    observed, _ = gather(truth.tables, truth.rotations, group, "sum")
    true = np.concatenate(truth.true)
    expected = observed.expected_variance(true)
    np.testing.assert_allclose(expected, PER_COUNT * true + 2.0 * PER_COUNT**2)
    naive = np.average(observed.intensity - true, weights=observed.sigma**-2)
    fair = np.average(observed.intensity - true, weights=1 / expected)
    error = 1 / np.sqrt(np.sum(1 / expected))
    assert abs(fair) < 4 * error
    assert naive < -20 * error
