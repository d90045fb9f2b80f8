"""Merged intensities and amplitudes against those that were simulated."""

import numpy as np
import pytest
from scipy import integrate

from hklflow.bragg import laue, observations
from hklflow.bragg.amplitudes import amplitudes
from hklflow.bragg.merging import Merged
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry import symmetry
from tests.truth.defaults import gather, merge, scale, scaling_settings
from tests.truth.reflections import CELL, Truth, rotation


def scaled_of(truth: Truth) -> Scaled:
    group = symmetry.space_group(truth.group)
    observed, _ = gather(truth.tables, truth.rotations, group, "profile")
    spans = [observations.span(one) for one in truth.rotations]
    found = scale(observed, group, spans, scaling_settings())
    return found.scaled(observed)


def merged_of(truth: Truth, **changes: object) -> Merged:
    table = scaled_of(truth)
    group = symmetry.space_group(truth.group)
    allowed = table.select(~group.is_absent(table.hkl))
    return merge(allowed, truth.cell, group, **changes)


def true_of(truth: Truth, merged: Merged) -> np.ndarray:
    return np.array([truth.unique[tuple(h)] for h in merged.factors.hkl.tolist()])


@pytest.mark.parametrize(
    ("strength", "background", "noise", "outliers"),
    [
        (20.0, 50.0, (1.0, 0.0), (0.0, 0.0)),
        (0.3, 20.0, (1.0, 0.0), (0.0, 0.0)),
        (5.0, 50.0, (1.5, 0.05), (0.01, 20.0)),
        (5.0, 50.0, (0.5, 0.0), (0.0, 0.0)),
    ],
)
def test_pull_of_the_mean(
    strength: float, background: float, noise: tuple[float, float], outliers: tuple[float, float]
) -> None:
    truth = Truth(
        rotations=[rotation(), rotation(kappa=40)],
        scale=[lambda x: 1 + 0 * x, lambda x: 1.4 + 0.002 * x],
        strength=strength,
        background=background,
        noise=noise,
        outliers=outliers,
    )
    merged = merged_of(truth)
    true = true_of(truth, merged)
    pull = (merged.factors.mean.intensity - true) / merged.factors.mean.sigma
    assert 0.9 < pull.std() < 1.1
    assert abs(pull.mean()) < 0.25
    if outliers[0]:
        n = sum(len(t) for t in truth.tables)
        assert 0.6 * outliers[0] * n < merged.outlier.sum() < 1.5 * outliers[0] * n
    else:
        assert merged.outlier.sum() == 0
    assert not merged.warnings
    seen = merged.factors
    amplitude = (seen.amplitude - np.sqrt(true)) / seen.amplitude_sigma
    assert 0.85 < amplitude.std() < 1.15
    assert abs(amplitude.mean()) < 0.25


def table_of(intensity: list[float], sigma: list[float], hkl: list[tuple[int, ...]]) -> Scaled:
    n = len(intensity)
    ones = np.ones(n)
    return Scaled(
        hkl=np.array(hkl),
        rotation=np.zeros(n, np.int64),
        frame=ones,
        angle=ones,
        d=ones,
        intensity=np.array(intensity, float),
        sigma=np.array(sigma, float),
        sigma_counting=np.array(sigma, float),
        scale=ones,
        flags=np.zeros(n, np.int64),
    )


def test_weights_and_friedel_mates_by_hand() -> None:
    table = table_of(
        [10, 20, 40, 7, 8],
        [1, 2, 1, 1, 1],
        [(1, 2, 3), (-1, -2, 3), (-1, -2, -3), (0, 1, 1), (0, -1, 1)],
    )
    group = symmetry.space_group("P 2 2 2")
    kept = {"outlier_sigma": 99.0, "estimator": "plain"}
    apart = merge(table, CELL, group, True, **kept).factors
    assert apart.plus is not None
    assert apart.minus is not None
    rows = {tuple(h): i for i, h in enumerate(apart.hkl.tolist())}
    general, centric = rows[(1, 2, 3)], rows[(0, 1, 1)]
    # (10 + 20 / 4) / (1 + 1 / 4), and 40 is the mate.
    assert apart.plus.intensity[general] == pytest.approx(12)
    assert apart.plus.sigma[general] == pytest.approx(np.sqrt(0.8))
    assert apart.minus.intensity[general] == 40
    assert apart.mean.intensity[general] == pytest.approx((10 + 5 + 40) / 2.25)
    assert apart.mean.n[general] == 3
    assert apart.plus.n[centric] == 2
    assert np.isnan(apart.minus.intensity[centric])
    assert apart.minus.n[centric] == 0
    assert apart.amplitude[centric] == pytest.approx(np.sqrt(7.5))


def test_pair_that_disagrees_tells_its_error() -> None:
    table = table_of([10, 110], [1, 1], [(1, 2, 3), (-1, -2, 3)])
    found = merge(table, CELL, symmetry.space_group("P 2 2 2")).factors
    assert not found.agree[0]
    assert found.mean.intensity[0] == pytest.approx(60)
    assert found.mean.sigma[0] == pytest.approx(50)


@pytest.mark.parametrize("centric", [False, True])
def test_amplitudes_are_the_posterior_mean(centric: bool) -> None:
    """By adaptive quadrature of Wilson's prior times the Gaussian of the error, one at a time."""
    level = 3.0
    intensity = np.array([-6.0, -2.0, -0.3, 0.0, 0.5, 2.0, 8.0, 40.0])
    sigma = np.array([1.0, 1.0, 0.5, 2.0, 0.5, 1.0, 0.7, 0.4])
    # Many reflections of the same d, whose mean is the level.
    n = 4000
    value = np.concatenate([intensity, np.full(n, level)])
    error = np.concatenate([sigma, np.full(n, 0.1)])
    found = amplitudes(
        value,
        error,
        np.full(n + 8, 1.0),
        np.ones(n + 8, np.int64),
        np.full(n + 8, centric),
        "french_wilson",
    )
    for i in range(8):

        def density(f: float, power: float, i: int = i) -> float:
            prior = np.exp(-(f**2) / (2 * level)) if centric else f * np.exp(-(f**2) / level)
            return float(
                f**power * prior * np.exp(-((intensity[i] - f**2) ** 2) / (2 * sigma[i] ** 2)) * 1e6
            )

        top = np.sqrt(max(intensity[i], 0) + 9 * sigma[i])
        middle = np.sqrt(max(intensity[i], 0.01))
        norm, first, second = (
            integrate.quad(density, 0, top, args=(power,), points=[middle], epsabs=0)[0]
            for power in (0, 1, 2)
        )
        mean = first / norm
        assert found[0][i] == pytest.approx(mean, rel=0.01)
        assert found[1][i] == pytest.approx(np.sqrt(second / norm - mean**2), rel=0.02)


@pytest.mark.slow
def test_laue_group_that_is_too_high() -> None:
    group = symmetry.space_group("P m m m")
    truth = Truth(
        group="P m m m", real_group="P 1 2/m 1", rotations=[rotation(), rotation(kappa=40)]
    )
    observed, _ = gather(truth.tables, truth.rotations, group, "profile")
    spans = [observations.span(one) for one in truth.rotations]
    scales = scale(observed, group, spans, scaling_settings())
    table, notes = scales.scaled(observed), scales.notes
    found = laue.examine(table, group)
    assert found.groups[0].symbol.startswith("mmm")
    assert "R_meas" in found.warnings[0]
    assert "2/m (P 1 2/m 1)" in found.warnings[0]
    by_symbol = {g.symbol: g.r_meas for g in found.groups}
    assert by_symbol["2/m (P 1 2/m 1)"] < 0.4 * by_symbol["2/m (P 2/m 1 1)"]
    factors = merge(table, CELL, group).factors
    # What does not agree is not left out, and its mean is told to be bad.
    true = np.array([truth.unique[tuple(h)] for h in factors.hkl.tolist()])
    pull = (factors.mean.intensity - true) / factors.mean.sigma
    assert np.median(np.abs(pull)) < 4
    assert "may be too high" in " ".join(notes)


def test_right_laue_group_is_not_contradicted() -> None:
    truth = Truth(group="P m m m", rotations=[rotation()], noise=(1.5, 0.08))
    found = laue.examine(scaled_of(truth), symmetry.space_group("P m m m"))
    assert not found.warnings
    deviations = [g.deviations for g in found.groups]
    assert deviations[0] == max(deviations)
