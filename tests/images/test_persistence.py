"""Hot pixels count on all frames, reflections on a few."""

import numpy as np
import pytest

from hklflow.images import defects
from hklflow.images.masks import MaskBit
from hklflow.images.persistence import effective_frames, without_reflections
from hklflow.images.pixel_moments import PixelMoments

N, SHAPE = 15, (40, 40)


def moments_of(frames):
    sums = PixelMoments(np.zeros(SHAPE, bool))
    sums.add(frames)
    return sums.result()


@pytest.fixture
def frames():
    """A hot pixel, a reflection of one pixel, and a reflection that the scan's end cuts."""
    rng = np.random.default_rng(5)
    rate = np.full((N, *SHAPE), 0.3)
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
    hot = defects.find_defects(sums.total, np.zeros(SHAPE, bool))
    over = np.uint32(MaskBit.OVER_RESPONDING)
    assert {tuple(place) for place in np.argwhere(hot & over)} >= {(10, 10), (20, 20), (30, 30)}
    kept = without_reflections(hot, sums)
    assert {tuple(place) for place in np.argwhere(kept & over)} == {(10, 10)}
    # Other defects stay.
    dead = hot.copy()
    dead[20, 20] |= np.uint32(MaskBit.DEAD)
    assert without_reflections(dead, sums)[20, 20] == np.uint32(MaskBit.DEAD)
