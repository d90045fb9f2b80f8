import numpy as np
import pytest

from hklflow.images import defects, masks
from hklflow.images.masks import MaskBit


def scene(rng):
    """Strongly curved background (50 to 4000 counts) with Bragg-like spots up to 1e5."""
    slow, fast = np.mgrid[:300, :320] + 0.5
    r = np.hypot(slow - 120, fast - 150)
    expected = 50 + 4000 * np.exp(-((r / 40) ** 2)) + 600 * np.exp(-(((r - 110) / 6) ** 2))
    spots = np.zeros_like(expected)
    for s, f in rng.uniform(5, 295, (120, 2)):
        width = rng.uniform(0.8, 2.5)
        shape = np.exp(-((slow - s) ** 2 + (fast - f) ** 2) / (2 * width**2))
        spots += 10 ** rng.uniform(2, 5) * shape
    return expected, spots


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_defects_are_all_found_and_nothing_else(seed):
    rng = np.random.default_rng(seed)
    background, spots = scene(rng)
    image = rng.poisson(background + spots)
    bad = np.zeros(image.shape, bool)
    bad[140:148] = True
    image[bad] = 0
    # Away from the strong spots, where a single odd pixel means something, and from each other.
    free = (spots < 1) & ~bad
    places = np.argwhere(free)[rng.permutation(free.sum())[:90]]
    hot, dead, low = places[:30], places[30:60], places[60:]
    image[tuple(hot.T)] = (background[tuple(hot.T)] * rng.uniform(4, 100, 30)).astype(int) + 100
    image[tuple(dead.T)] = 0
    low = low[background[tuple(low.T)] > 150]
    image[tuple(low.T)] = (background[tuple(low.T)] * 0.05).astype(int)
    truth = masks.combine(image.shape, [])
    truth[tuple(hot.T)] = 8
    truth[tuple(dead.T)] = 2
    truth[tuple(low.T)] = 4
    found = defects.find_defects(image, bad)
    assert np.argwhere(found != truth).tolist() == []


def test_a_pair_of_hot_pixels_and_a_dead_pixel_beside_a_gap():
    rng = np.random.default_rng(5)
    image = rng.poisson(200, (60, 60))
    bad = np.zeros(image.shape, bool)
    bad[:, 30:34] = True
    image[bad] = 10**6  # must not be used
    image[10, 10:12] = 3000
    image[20, 29] = 0
    bits = defects.find_defects(image, bad)
    assert sorted(map(tuple, np.argwhere(bits))) == [(10, 10), (10, 11), (20, 29)]
    assert bits[20, 29] == MaskBit.DEAD


def test_constant_pixels():
    rng = np.random.default_rng(3)
    frames = rng.poisson(15, (20, 40, 40))
    frames[:, 3, 4] = 200
    frames[:, 5, 6] = 2  # too few counts to be suspicious
    stuck = defects.find_constant(frames.sum(0), frames.max(0), np.full((40, 40), 20))
    assert np.argwhere(stuck).tolist() == [[3, 4]]
