"""Factors of chips come back from floods and from a scan; figures of groups are those of pixels."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.images import group_response, pixel_groups
from hklflow.images.group_response import GroupResponse
from hklflow.images.pixel_groups import PixelGroups
from hklflow.images.pixel_moments import Moments, PixelMoments

SHAPE = (160, 200)
CHIPS = pixel_groups.by_chip(SHAPE, [(0, 160, 0, 200)], (4, 5))
N = 20
SEEDS = range(16)


def angle() -> np.ndarray:
    i, j = np.indices(SHAPE) + 0.5
    return np.arctan(np.hypot(i - 75, j - 110) * 2e-4 / 0.1)


def solid_angle() -> np.ndarray:
    return np.cos(angle()) ** 3


def drawn(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    """Factors of a few per cent, their image, and good pixels with holes and a gap."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(1, 0.04, N)
    good = rng.random(SHAPE) > 0.02
    good[80:83] = False
    return rng, factors, factors[CHIPS.labels - 1], good


def relative(factors: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The mean over the good pixels is 1."""
    return factors / factors[CHIPS.labels[good] - 1].mean()


def judged(answers: list[tuple[GroupResponse, np.ndarray]]) -> tuple[float, float]:
    """Rms error, and width of (found - true) / σ, over all seeds."""
    off = np.array([found.factors - true for found, true in answers])
    pulls = np.array([(found.factors - true) / found.errors for found, true in answers])
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
    return float(np.sqrt(np.mean(off**2))), float(np.sqrt(np.mean(pulls**2)))


def test_a_flat_field_by_chip_from_a_flood() -> None:
    """100 counts per pixel: 10 % for a pixel, 0.1 to 0.2 % for a chip of 1600."""
    answers = []
    for seed in SEEDS:
        rng, factors, image, good = drawn(seed)
        exposure = 400.0 * solid_angle()
        counts = rng.poisson(exposure * image).astype(float)
        errors = np.sqrt(counts) / exposure
        found = group_response.of_pixels(counts / exposure, errors, exposure, good, CHIPS)
        answers.append((found, relative(factors, good)))
        assert found.pixels.tolist() == np.bincount(CHIPS.labels[good])[1:].tolist()
    rms, width = judged(answers)
    assert rms < 2e-3
    assert 0.9 < width < 1.1


def test_a_flat_field_by_chip_from_a_scan() -> None:
    """The radial profile, with a ring, is not known to the fit."""
    answers = []
    for seed in SEEDS:
        rng, factors, image, good = drawn(seed)
        profile = np.exp(-3 * angle()) + 0.5 * np.exp(-(((angle() - 0.12) / 0.01) ** 2))
        exposure = 800.0 * solid_angle()
        counts = rng.poisson(exposure * profile * image).astype(float)
        found = group_response.of_scan(counts, exposure, angle(), good, CHIPS, 120)
        answers.append((found, relative(factors, good)))
        assert found.chi2 == pytest.approx(1.0, abs=0.15)
    rms, width = judged(answers)
    assert rms < 2e-3
    assert 0.9 < width < 1.1


def test_scattering_that_is_no_profile_shows_in_chi2() -> None:
    rng, _, image, good = drawn(0)
    lobe = 1 + 0.1 * np.cos(2 * np.arctan2(*(np.indices(SHAPE) - 90.0)))
    counts = rng.poisson(800 * lobe * image).astype(float)
    found = group_response.of_scan(counts, np.full(SHAPE, 800.0), angle(), good, CHIPS, 120)
    assert found.chi2 is not None
    assert found.chi2 > 2


def test_groups_without_common_angles_are_refused() -> None:
    bands = pixel_groups.by_image(1 + (angle() > 0.1).astype(int))
    ones = np.ones(SHAPE)
    with pytest.raises(HklflowError, match="'label 2', share no scattering angle with 'label 1'"):
        group_response.of_scan(ones, ones, angle(), ones > 0, bands, 2000)


def test_a_partition_is_needed_and_groups_may_be_masked() -> None:
    ones, good = np.ones(SHAPE), np.ones(SHAPE, bool)
    holes = PixelGroups(np.where(CHIPS.labels == 3, 0, CHIPS.labels), CHIPS.names, CHIPS.rule)
    with pytest.raises(HklflowError, match="1600 unmasked pixels are in no group"):
        group_response.of_pixels(ones, ones, ones, good, holes)
    good[CHIPS.labels == 3] = False
    found = group_response.of_pixels(ones, ones, ones, good, holes)
    assert np.isnan(found.factors[2])
    assert found.pixels[2] == 0
    assert found.about(CHIPS)["without good pixels"] == ["module 00 chip 02"]
    flat, _ = found.image(CHIPS, good)
    assert (np.isfinite(flat) == good).all()


def test_statistics_of_groups() -> None:
    """Photons: the spread between equal pixels and the dispersion are those of Poisson."""
    rng = np.random.default_rng(5)
    bad = rng.random(SHAPE) < 0.05
    sums = PixelMoments(np.zeros(SHAPE, bool))
    level = np.arange(1, N + 1)[CHIPS.labels - 1]
    total = np.zeros(SHAPE)
    for _ in range(30):
        frame = rng.poisson(level)
        frame[:2, :2] = 0
        total += frame
        sums.add(frame[None])
    moments: Moments = sums.result()
    rows = group_response.statistics(moments, bad, CHIPS)
    for k, row in enumerate(rows, start=1):
        good = (CHIPS.labels == k) & ~bad
        assert (row["group"], row["pixels"]) == (CHIPS.names[k - 1], 1600)
        assert (row["good"], row["counts"]) == (good.sum(), total[good].sum())
        assert row["mean"] == pytest.approx(k, rel=0.02)
        assert row["zeros"] == int((total[good] == 0).sum())
        if k > 1:
            assert row["spread"] == pytest.approx(np.sqrt(k / 30), rel=0.1)
            assert row["expected_spread"] == pytest.approx(np.sqrt(k / 30), rel=0.02)
            assert row["dispersion"] == pytest.approx(0.98, abs=0.05)
