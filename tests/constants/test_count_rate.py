"""Dead time from photons that are counted one by one, with both kinds of dead time."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.constants.count_rate import MODELS, DeadTime, fit_dead_time
from hklflow.constants.simulate_counters import counted

TAU, EXPOSURE, FRAMES = 2e-7, 1e-3, 2
TRANSMISSION = [1.0, 0.5, 0.2, 0.1]


def fitted(model: str, top: float, seed: int, pixels: int = 150) -> DeadTime:
    rng = np.random.default_rng(seed)
    rates = rng.uniform(0.1, 1, pixels) * top
    counts = [
        counted(rates * t, EXPOSURE * FRAMES, TAU, model == "paralysable", rng)
        for t in TRANSMISSION
    ]
    frames = np.full((len(counts), pixels), FRAMES)
    return fit_dead_time(np.array(counts, float), frames, EXPOSURE, TRANSMISSION)


@pytest.mark.parametrize("model", MODELS)
def test_dead_time_within_its_error(model: str) -> None:
    """At rates where the models are alike, and at some where they are not."""
    fits = [fitted(model, 5e5, seed) for seed in range(30)]
    pulls = np.array([(fit.tau - TAU) / fit.error for fit in fits])
    assert abs(pulls.mean()) < 4 / np.sqrt(30)
    assert 0.65 < np.sqrt(np.mean(pulls**2)) < 1.4
    assert max(fit.error for fit in fits) < 0.3 * TAU
    # Where the models begin to differ, but are not told apart.
    fits = [fitted(model, 1e6, seed) for seed in range(20)]
    assert not any(fit.decided for fit in fits)
    assert np.sqrt(np.mean([((fit.tau - TAU) / fit.error) ** 2 for fit in fits])) < 1.4
    for seed in range(3):
        strong = fitted(model, 2e6, seed, 1500)
        assert (strong.model, strong.decided) == (model, True)
        assert strong.tau == pytest.approx(TAU, abs=4 * strong.error)
        assert strong.error < 0.006 * TAU


@pytest.mark.parametrize("model", MODELS)
def test_the_limit_is_the_rate_of_one_percent(model: str) -> None:
    fit = fitted(model, 2e6, 1, 400)
    rng = np.random.default_rng(2)
    # So many photons that one percent is 10 standard errors.
    limit = fit.limit()
    seen = counted(np.full(10, limit), 1e5 / limit, TAU, model == "paralysable", rng).sum()
    assert seen / 1e6 == pytest.approx(0.99, abs=0.004)
    assert fit.observed(limit) == pytest.approx(0.99 * limit)
    assert fit.limit(0.1) > 9 * limit
    assert fit.lost() == pytest.approx(1 - fit.observed(fit.largest_rate) / fit.largest_rate)


def test_nothing_is_left_after_the_right_correction() -> None:
    rng = np.random.default_rng(3)
    rates = rng.uniform(1e5, 1e6, 300)
    time = EXPOSURE * FRAMES
    observed = np.array([counted(rates * t, time, TAU, False, rng) for t in TRANSMISSION], float)
    frames = np.full(observed.shape, FRAMES)
    corrected = observed / (1 - observed / time * TAU)
    fit = fit_dead_time(corrected, frames, EXPOSURE, TRANSMISSION)
    assert abs(fit.tau) < 4 * fit.error
    assert fit.error < 0.05 * TAU
    # What is not excluded is not promised.
    assert fit.limit() <= 0.0101 / (2 * fit.error) * 1.001
    # Twice the correction leaves as much of the other sign.
    twice = observed / (1 - 2 * observed / time * TAU)
    assert fit_dead_time(twice, frames, EXPOSURE, TRANSMISSION).tau < -0.7 * TAU


def test_what_cannot_be_fitted_is_told() -> None:
    counts, frames = np.full((2, 50), 1000.0), np.full((2, 50), 1)
    with pytest.raises(HklflowError, match="at least two of them different"):
        fit_dead_time(counts, frames, 1.0, [0.5, 0.5])
    with pytest.raises(HklflowError, match="at least two of them different"):
        fit_dead_time(counts, frames, 1.0, [1.0, 0.5, 0.1])
    with pytest.raises(HklflowError, match="0 pixels have 100 counts"):
        fit_dead_time(counts / 100, frames, 1.0, [1.0, 0.5])
    # A pixel without a measurement in one run is left out.
    frames[1, 7] = 0
    fit = fit_dead_time(counts * [[1.0], [0.5]], frames, 1.0, [1.0, 0.5])
    assert fit.pixels == 49
    assert abs(fit.tau * 1000) < 1e-6


def test_of_many_pixels_some_are_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hklflow.constants.count_rate._MOST", 100)
    fit = fitted("paralysable", 5e5, 1, 250)
    assert fit.pixels == 84
    assert fit.tau == pytest.approx(TAU, abs=4 * fit.error)
