"""Artificial response: a known smooth background and a known pattern come back."""

import numpy as np
import pytest

from hklflow.images import artificial

SHAPE = (120, 130)


def radius() -> np.ndarray:
    i, j = np.indices(SHAPE) + 0.5
    return np.hypot(i - 50, j - 70)


def test_snip_finds_a_smooth_background_below_peaks() -> None:
    """Bias below 3 % everywhere, under peaks 20 times as strong as the background."""
    x = np.linspace(0, 1, 300)
    background = 40 * np.exp(-2 * x) + 10 * np.exp(-(((x - 0.6) / 0.3) ** 2))
    peaks = sum(
        height * np.exp(-(((x - at) / 0.006) ** 2) / 2)
        for at, height in ((0.13, 800), (0.3, 200), (0.52, 500), (0.8, 50))
    )
    found = artificial.snip(background + peaks, 20)
    bias = found / background - 1
    assert np.abs(bias).max() < 0.03
    assert np.abs(artificial.snip(7 * (background + peaks), 20) / found / 7 - 1).max() < 1e-6


def test_snip_of_an_image_with_rings() -> None:
    rng, r = np.random.default_rng(1), radius()
    smooth = 300 * np.exp(-r / 60)
    ring = 500 * np.exp(-(((r - 40) / 1.5) ** 2) / 2)
    counts = rng.poisson(smooth + ring).astype(float)
    good = np.ones(SHAPE, bool)
    good[10:14] = False
    counts[~good] = 0
    found = artificial.snip_background(counts, r, good, 60, 15)
    bias = found / (smooth / smooth[good].mean()) - 1
    assert np.abs(bias[good & (r < 90)]).max() < 0.03


def test_self_flat_finds_the_pixels_between_reflections() -> None:
    """Each pixel has reflections in some groups of frames; the scattering is isotropic."""
    rng, r = np.random.default_rng(2), radius()
    pattern = rng.normal(1, 0.08, SHAPE)
    light = np.linspace(1.2, 0.8, 16)[:, None, None] * np.ones(SHAPE)
    mean = light * pattern * 400 * np.exp(-r / 80)
    spots = rng.random(mean.shape) < 0.1
    mean = mean + np.where(spots, 20 * mean, 0)
    sums = rng.poisson(mean).astype(float)
    light[3, :40] = sums[3, :40] = 0  # not measured
    rate, error = artificial.clipped_rates(sums, light, 4.0)
    good = np.ones(SHAPE, bool)
    flat = artificial.self_flat(rate, r, good, 60)
    ratio = flat / (pattern / pattern.mean())
    assert abs(ratio.mean() - 1) < 0.005
    inner = r < 80
    assert np.abs(_by_rings(ratio, r, inner)).max() < 0.03
    pull = ((ratio - 1) * rate / error)[inner]
    assert np.sqrt(np.mean(pull**2)) == pytest.approx(1, abs=0.15)


def _by_rings(ratio: np.ndarray, r: np.ndarray, inner: np.ndarray) -> np.ndarray:
    ring = (r[inner] / 8).astype(int)
    return np.bincount(ring, ratio[inner]) / np.bincount(ring) - 1


def test_pixels_without_measurement_stay_unknown() -> None:
    sums, light = np.full((4, 2, 2), 100.0), np.ones((4, 2, 2))
    light[:, 0, 0] = sums[:, 0, 0] = 0
    rate, error = artificial.clipped_rates(sums, light, 4.0)
    assert np.isnan(rate[0, 0])
    assert rate[1, 1] == 100
    assert error[1, 1] == pytest.approx(5)
