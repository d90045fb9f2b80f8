"""Changes of the ΔPDF at vectors: drawn values whose covariance and changes are known."""

from dataclasses import replace

import numpy as np
import pytest

from hklflow.volumes.pdf_changes import Changes, Values, changes, claimed

N, T = 80, 6
TEMPERATURES = np.linspace(100.0, 300.0, T)


def covariance(common: float) -> np.ndarray:
    """Noise of neighbours, and an error that decays with the number of the vector."""
    apart = np.abs(np.subtract.outer(np.arange(N), np.arange(N)))
    mode = np.exp(-np.arange(N) / 60)
    return 0.2**apart + common**2 * np.outer(mode, mode)


def level(rng: np.random.Generator) -> np.ndarray:
    """A few strong vectors, in units of σ."""
    return np.where(np.arange(N) < 20, rng.normal(0, 25, N), 0.0)


def drawn(
    seed: int,
    truth: np.ndarray,
    *,
    common: float = 0.5,
    log_sigma: float = 0.01,
    actual: float | None = None,
) -> Values:
    """Values of a truth (T, N); the common error is drawn ``actual`` instead of ``common`` wide."""
    rng = np.random.default_rng([seed, 1])
    root = np.linalg.cholesky(covariance(common if actual is None else actual))
    sigma = np.full(T, log_sigma)
    sigma[-1] = 1e-4
    return Values(
        TEMPERATURES,
        truth + rng.normal(size=(T, N)) @ root.T,
        np.repeat(covariance(common)[None], T, axis=0),
        np.zeros((T, 0)),
        np.zeros((T, 0)),
        30.0 * np.exp(-np.arange(N) / 3.0),
        np.ones(N, bool),
        np.zeros(T),
        sigma,
    )


def still(seed: int) -> np.ndarray:
    return np.repeat(level(np.random.default_rng(seed))[None], T, axis=0)


def test_the_rule_of_benjamini_and_hochberg() -> None:
    # Fifteen probabilities of Benjamini and Hochberg (1995), section 4; four are claimed at 5 %.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262]
    p += [0.5719, 0.6528, 0.7590, 1.0000]
    assert claimed(np.array(p), 0.05) == 0.0095
    assert claimed(np.array([0.5, 0.9]), 0.05) == 0.0


def test_nothing_is_claimed_where_nothing_changes() -> None:
    found = [changes(drawn(seed, still(seed)), 0.05) for seed in range(60)]
    # 5 % of the series are expected; 8 of 60 have a probability of 1 %.
    assert sum(bool(x.changed.any()) for x in found) < 8
    pulls = np.concatenate([(x.departure - still(i)) / x.sigma for i, x in enumerate(found)])
    assert abs(pulls.mean()) < 0.05
    assert pulls.std() == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("log_sigma", [0.01, 0.15])
def test_a_factor_of_all_vectors_is_no_change(log_sigma: float) -> None:
    """The factor is found, also if the reflections say that there is none."""
    factor = np.linspace(0.7, 1.0, T)
    found = [
        changes(drawn(seed, still(seed) * factor[:, None], log_sigma=log_sigma), 0.05)
        for seed in range(20)
    ]
    assert sum(bool(x.changed.any()) for x in found) <= 3
    away = np.array([(x.factor[:-1] - factor[:-1]) / x.factor_sigma[:-1] for x in found])
    assert np.abs(away).max() < 5.5
    assert np.mean([x.factor[0] for x in found]) == pytest.approx(0.7, abs=0.01)


def test_an_error_that_all_vectors_share_is_no_change() -> None:
    """Also if it is twice as large as the covariance says."""
    found = [changes(drawn(seed, still(seed), common=1.0, actual=2.0), 0.05) for seed in range(30)]
    assert sum(bool(x.changed.any()) for x in found) <= 4


def test_scans_whose_common_errors_have_another_shape_and_size() -> None:
    """Each scan has holes of its own, and one has a much larger error at short vectors."""
    modes = [3.0 * np.exp(-np.arange(N) / (60.0 + 10 * i)) for i in range(T - 1)]
    modes.append(30.0 * np.exp(-np.arange(N) / 5.0))
    covariances = np.array([covariance(0.0) + np.outer(mode, mode) for mode in modes])
    pulls, claims = [], 0
    for seed in range(30):
        rng = np.random.default_rng([seed, 2])
        errors = np.linalg.cholesky(covariances) @ rng.normal(size=(T, N, 1))
        values = still(seed) + errors[..., 0]
        world = replace(drawn(seed, still(seed)), lattice=values, covariance=covariances)
        found = changes(world, 0.05)
        claims += bool(found.changed.any())
        for i in range(1, T):
            sigma = np.hypot(found.sigma[i], found.sigma[0])
            pulls.append((found.departure[i] - found.departure[0]) / sigma)
    assert np.isfinite(pulls).all()
    # 5 % of the series are expected; 5 of 30 have a probability of 2 %.
    assert claims < 5
    # The part of the common error that is no part of another scan's error is counted in full.
    assert 0.8 < np.std(pulls) < 1.1


def test_the_self_part_is_no_change() -> None:
    truth = still(3) + np.outer(np.linspace(0, 0.5, T), 30.0 * np.exp(-np.arange(N) / 3.0))
    assert not changes(drawn(3, truth), 0.05).changed.any()


def one_strong(seed: int) -> tuple[np.ndarray, Changes]:
    truth = still(seed)
    truth[:, 4] = 60.0
    truth[:2, 4] += 30.0
    truth[:, 50] += np.linspace(8, 0, T)
    return truth, changes(drawn(seed, truth), 0.05)


@pytest.mark.parametrize("seed", range(6))
def test_vectors_that_change_are_found_and_no_others(seed: int) -> None:
    """A strong vector that changes makes no factor that others would have to change by."""
    truth, found = one_strong(seed)
    assert {4, 50} <= set(np.flatnonzero(found.changed))
    assert found.changed.sum() <= 3
    assert np.abs((found.factor - 1) / found.factor_sigma).max() < 4.5
    assert found.factor_sigma.max() < 0.03
    assert np.abs((found.departure - truth) / found.sigma)[:, [4, 50]].max() < 4.5


def test_few_vectors_are_compared_with_the_factor_of_the_reflections() -> None:
    values = drawn(1, still(1) * np.linspace(0.7, 1.0, T)[:, None])
    few = Values(
        values.temperature,
        values.lattice[:, :6],
        values.covariance[:, :6, :6],
        np.full((T, 1), 9.0) + np.linspace(20, 0, T)[:, None],
        np.ones((T, 1)),
        np.zeros(7),
        values.tested[:6],
        values.log_factor,
        values.log_sigma,
    )
    found = changes(few, 0.05)
    assert not found.fitted
    assert found.factor == pytest.approx(1.0)
    # Strong vectors change by 30 %, and so does the vector that is no lattice vector.
    strong = np.abs(few.lattice.mean(axis=0)) > 25
    assert strong.any()
    assert found.changed[:-1][strong].all()
    assert found.changed[-1]
