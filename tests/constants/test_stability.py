"""Pixels that are strong in most frames, among reflections, rings and gaps."""

import numpy as np
import pytest
from tests.truth.defaults import steady

from hklflow.base.errors import HklflowError
from hklflow.images.masks import MaskBit

N, SHAPE, FLAG = 60, (90, 110), 2**32 - 1


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """A rotation: a slope, a ring, the shadow of a beamstop, reflections, a gap."""
    rng = np.random.default_rng(1)
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    radius = np.hypot(slow - 45, fast - 50)
    still = 3 + 0.05 * fast + 60 * np.exp(-((radius - 25) ** 2) / 4)
    still[radius < 8] = 0.1
    rate = np.repeat(still[None], N, axis=0)
    for y, x, z in rng.uniform(0, 1, (150, 3)) * (*SHAPE, N):
        spot = np.exp(-((slow - y) ** 2 + (fast - x) ** 2) / 2)
        rate += 500 * np.exp(-((np.arange(N) - z) ** 2) / 4)[:, None, None] * spot
    counts = rng.poisson(rate).astype(np.uint32)
    counts[:, 60:64] = FLAG
    return counts


def noisy(frames: np.ndarray, **options: float) -> list[list[int]]:
    stability = steady(np.zeros(SHAPE, bool), flag_from=FLAG)
    for block in np.array_split(frames, 7):
        stability.add(block)
    found = stability.result(**{"often": 0.5} | options)
    assert set(np.unique(found.bits)) <= {0, int(MaskBit.NOISY)}
    assert np.isnan(found.fraction[60:64]).all()
    return np.argwhere(found.bits).tolist()


def test_nothing_is_found_where_there_is_nothing(frames: np.ndarray) -> None:
    assert noisy(frames) == []


def test_planted_pixels_are_found(frames: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    planted = [[5, 7], [5, 8], [6, 8], [20, 50], [45, 52], [59, 95], [64, 80], [0, 0], [89, 109]]
    changed = frames.copy()
    for i, j in planted:
        changed[:, i, j] = rng.poisson(60.0, N)
    changed[:, 20, 50] = rng.poisson(200.0, N)  # on the ring
    often, seldom = rng.permutation(N)[: int(0.7 * N)], rng.permutation(N)[: int(0.3 * N)]
    changed[often, 75, 20] = 60  # in 70 % and 30 % of the frames
    changed[seldom, 80, 20] = 60
    assert noisy(changed) == sorted([*planted, [75, 20]])
    assert noisy(changed, often=0.25) == sorted([*planted, [75, 20], [80, 20]])


def test_the_fraction_is_of_the_frames_that_measured_it(frames: np.ndarray) -> None:
    changed = frames.copy()
    changed[:, 30, 90] = FLAG
    changed[:20, 30, 90] = 100
    changed[:, 31, 10] = FLAG
    changed[:9, 31, 10] = 100  # too few frames to judge
    assert noisy(changed) == [[30, 90]]


def test_known_pixels_are_neither_judged_nor_used() -> None:
    rng = np.random.default_rng(3)
    frames = rng.poisson(5.0, (20, 30, 40)).astype(np.int32)
    frames[:, 10, 10] = 40
    bad = np.zeros((30, 40), bool)
    bad[10:12, 10] = True
    frames[:, 11, 10] = 10**6
    frames[:, 12, 11] = 40  # beside the known ones
    stability = steady(bad)
    stability.add(frames)
    assert np.argwhere(stability.result(often=0.5).bits).tolist() == [[12, 11]]
    with pytest.raises(HklflowError, match="do not fit the mask"):
        stability.add(frames[:, :5])
    # Of nine good pixels a ninth of the background would be the pixel's own.
    alone = np.ones((30, 40), bool)
    alone[10:13, 10:13] = False
    frames = np.full((20, 30, 40), 4)
    frames[:, 11, 11] = 12  # 3 sqrt(4 + 1) = 6.7 above 4
    stability = steady(alone)
    stability.add(frames)
    assert np.argwhere(stability.result(often=0.5).bits).tolist() == [[11, 11]]
