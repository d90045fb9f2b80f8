"""A reflection is a bump in time; a hot pixel has a constant rate, or flickers."""

import numpy as np
import pytest

from hklflow.images import defects
from hklflow.images.masks import MaskBit
from hklflow.images.persistence import are_reflections, background, brief, effective_frames
from hklflow.images.pixel_moments import PixelMoments

N, SHAPE = 15, (40, 40)
BACKGROUND = 0.3


def moments_of(frames):
    sums = PixelMoments(np.zeros(SHAPE, bool))
    sums.add(frames)
    return sums.result()


@pytest.fixture
def frames():
    """A hot pixel, a reflection of one pixel, and a reflection that the scan's end cuts."""
    rng = np.random.default_rng(5)
    rate = np.full((N, *SHAPE), BACKGROUND)
    rate[:, 10, 10] = 8.0
    time = np.arange(N) + 0.5
    rate[:, 20, 20] += 300 * np.exp(-(((time - 6) / 1.5) ** 2) / 2)
    rate[:, 30, 30] += 300 * np.exp(-(((time - N) / 1.5) ** 2) / 2)
    return rng.poisson(rate).astype(np.uint32)


def test_the_width_of_a_rocking_curve(frames):
    spread = effective_frames(moments_of(frames))
    assert spread[10, 10] == pytest.approx(N, rel=0.25)
    assert spread[20, 20] == pytest.approx(2 * np.sqrt(np.pi) * 1.5, rel=0.15)
    assert spread[30, 30] == pytest.approx(np.sqrt(np.pi) * 1.5, rel=0.25)


def test_a_sharp_reflection_is_not_a_hot_pixel(frames):
    sums = moments_of(frames)
    bits = defects.find_defects(sums.total, np.zeros(SHAPE, bool))
    hot = (bits & np.uint32(MaskBit.OVER_RESPONDING)) != 0
    assert {tuple(place) for place in np.argwhere(hot)} >= {(10, 10), (20, 20), (30, 30)}
    pixels = brief(hot, sums)
    assert (10, 10) not in {tuple(pixel) for pixel in pixels}
    rate = background(pixels, sums, ~hot)
    assert rate == pytest.approx(np.full(len(pixels), BACKGROUND), abs=0.1)
    counts = frames[:, *pixels.T].astype(float)
    kept = pixels[are_reflections(counts, rate)]
    assert {tuple(pixel) for pixel in kept} >= {(20, 20), (30, 30)}


def test_the_background_next_to_bad_pixels(frames):
    sums, good = moments_of(frames), np.zeros(SHAPE, bool)
    assert background(np.array([[20, 20]]), sums, good).tolist() == [0.0]
    good[0, 1] = True
    assert background(np.array([[0, 0]]), sums, good)[0] == sums.mean[0, 1]


def share(on, n=60, base=0.3, many=400):
    """The share of pixels that are taken for reflections; ``on``: rng -> rates (n,)."""
    rng = np.random.default_rng(11)
    rates = np.stack([on(rng) for _ in range(many)], axis=1)
    counts = rng.poisson(rates + base).astype(float)
    return are_reflections(counts, np.full(many, base)).mean()


def for_a_part(n, fraction, rate):
    """Hot from some frame on, for a part of the scan."""

    def on(rng):
        first = rng.integers(0, int(n * (1 - fraction)) + 1)
        return rate * ((np.arange(n) >= first) & (np.arange(n) < first + round(fraction * n)))

    return on


def flickering(n, fraction, rate):
    return lambda rng: rate * (rng.uniform(size=n) < fraction)


def bump(n, sigma, height):
    def on(rng):
        middle = rng.uniform(0, n)
        return height * np.exp(-(((np.arange(n) + 0.5 - middle) / sigma) ** 2) / 2)

    return on


@pytest.mark.parametrize("fraction", [0.4, 0.5, 0.65])
@pytest.mark.parametrize("rate", [8, 50, 1000])
@pytest.mark.parametrize("n", [15, 60])
def test_a_pixel_that_is_hot_for_a_part_of_the_scan_stays_hot(n, fraction, rate):
    assert share(for_a_part(n, fraction, rate)) < 0.03


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.65])
@pytest.mark.parametrize("n", [15, 60])
def test_a_flickering_pixel_stays_hot(n, fraction):
    assert share(flickering(n, fraction, 50)) < (0.1 if n == 15 else 0.01)


def test_a_permanent_pixel_stays_hot():
    assert share(lambda rng: np.full(60, 50.0)) < 0.01


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.5, 3.0])
@pytest.mark.parametrize("base", [0.3, 20.0])
def test_a_reflection_in_a_short_rocking_scan_is_freed(sigma, base):
    assert share(bump(15, sigma, 300), base=base) > 0.95


@pytest.mark.parametrize("height", [5, 10, 30])
def test_a_weak_reflection_is_mostly_freed(height):
    assert share(bump(15, 0.8, height)) > 0.8


def test_a_reflection_on_few_sampled_frames_of_a_long_scan_is_freed():
    assert share(lambda rng: np.r_[0:0:30j, 100, 40, 0:0:28j]) == 1
