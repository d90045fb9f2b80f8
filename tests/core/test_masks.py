import math

import numpy as np
import pytest

from hklflow.core import masks
from hklflow.core.masks import MaskBit
from hklflow.errors import HklflowError

SHAPE = (200, 240)


@pytest.mark.parametrize(
    ("shape", "area", "perimeter"),
    [
        (masks.Rectangle(10.3, 60.9, 20.2, 100.7), 50.6 * 80.5, 2 * (50.6 + 80.5)),
        (masks.Circle(100.2, 90.6, 40.3), math.pi * 40.3**2, 2 * math.pi * 40.3),
        (
            masks.Annulus(100.2, 110.6, 30.1, 55.4),
            math.pi * (55.4**2 - 30.1**2),
            2 * math.pi * (55.4 + 30.1),
        ),
        (masks.Polygon(((10.0, 10.0), (150.0, 40.0), (60.0, 200.0))), 0.5 * 25100, 500.0),
        # An L: convex hulls would fail.
        (
            masks.Polygon(((10, 10), (10, 110), (60, 110), (60, 60), (160, 60), (160, 10))),
            50 * 100 + 100 * 50,
            500.0,
        ),
        (masks.Edges(SHAPE, 3), 200 * 240 - 194 * 234, 1.0),
    ],
)
def test_area_is_the_analytic_one_within_the_perimeter(shape, area, perimeter):
    mask = masks.draw(SHAPE, [shape])
    assert abs(mask.sum() - area) <= perimeter
    if not isinstance(shape, masks.Rectangle):
        # Rounding averages out along a curved or oblique rim, not a shift by one pixel all round.
        assert abs(mask.sum() - area) <= max(0.15 * perimeter, 1)


def test_pixel_centres_decide():
    mask = masks.draw((4, 6), [masks.Rectangle(1.0, 2.0, 2.5, 4.5)])
    # Centres at 2.5 (in), 3.5 (in), 4.5 (half-open: out).
    assert np.argwhere(mask).tolist() == [[1, 2], [1, 3]]


def test_beamstop_arm_points_from_fast_to_slow():
    stop = masks.Beamstop(100, 100, 10, arm_angle=math.radians(30), arm_width=6, arm_length=80)
    mask = masks.draw(SHAPE, [stop])
    # Arm outside the disc: length 80 - 10, plus half of the disc's sagitta, about 0.3 px.
    assert abs(mask.sum() - (math.pi * 100 + 70.3 * 6)) < 0.15 * (2 * 70 + 63)
    assert mask[100 + int(60 * 0.5), 100 + int(60 * math.cos(math.pi / 6))]
    assert not mask[100 - 30, 100 + 52]
    assert not mask[100, 100 - 30]


def test_shapes_apply_in_the_order_given():
    disc, hole = masks.Circle(50, 50, 20), masks.Circle(50, 50, 8, op="subtract")
    ring = masks.draw(SHAPE, [disc, hole])
    full = masks.draw(SHAPE, [hole, disc])
    assert not ring[50, 50]
    assert full[50, 50]
    assert ring.sum() == full.sum() - masks.draw(SHAPE, [masks.Circle(50, 50, 8)]).sum()
    base = np.ones(SHAPE, bool)
    assert np.array_equal(
        masks.draw(SHAPE, [hole], base), ~masks.draw(SHAPE, [masks.Circle(50, 50, 8)])
    )
    assert base.all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: masks.Circle(1, 1, -2),
        lambda: masks.Circle(1, 1, math.nan),
        lambda: masks.Rectangle(5, 4, 0, 1),
        lambda: masks.Annulus(1, 1, 5, 4),
        lambda: masks.Polygon(((0, 0), (1, 1))),
        lambda: masks.Circle(1, 1, 2, op="xor"),
        lambda: masks.Beamstop(1, 1, 2, arm_width=-1),
    ],
)
def test_impossible_shapes_are_refused(make):
    with pytest.raises(HklflowError):
        make()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32, np.float32])
def test_gaps_are_the_pixels_that_are_always_flagged(dtype):
    rng = np.random.default_rng(1)
    frames = rng.poisson(3, (6, 20, 30)).astype(dtype)
    limit = masks.flag_value(np.dtype(dtype))
    flag = limit if limit is not None else (-1 if dtype is np.int32 else np.nan)
    frames[:, 8:10] = flag
    frames[3, 2, 2] = flag  # once only: flagged, but not a gap
    gaps = masks.find_gaps((frames[i : i + 2] for i in range(0, 6, 2)), limit)
    expected = np.zeros((20, 30), bool)
    expected[8:10] = True
    assert np.array_equal(gaps, expected)
    assert masks.flagged(frames, limit).sum() == 6 * 60 + 1
    with pytest.raises(HklflowError):
        masks.find_gaps([])


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
    found = masks.find_defects(image, bad)
    assert np.argwhere(found != truth).tolist() == []


def test_a_pair_of_hot_pixels_and_a_dead_pixel_beside_a_gap():
    rng = np.random.default_rng(5)
    image = rng.poisson(200, (60, 60))
    bad = np.zeros(image.shape, bool)
    bad[:, 30:34] = True
    image[bad] = 10**6  # must not be used
    image[10, 10:12] = 3000
    image[20, 29] = 0
    bits = masks.find_defects(image, bad)
    assert sorted(map(tuple, np.argwhere(bits))) == [(10, 10), (10, 11), (20, 29)]
    assert bits[20, 29] == MaskBit.DEAD


def test_constant_pixels():
    rng = np.random.default_rng(3)
    frames = rng.poisson(15, (20, 40, 40))
    frames[:, 3, 4] = 200
    frames[:, 5, 6] = 2  # too few counts to be suspicious
    stuck = masks.find_constant(frames.sum(0), frames.max(0), np.full((40, 40), 20))
    assert np.argwhere(stuck).tolist() == [[3, 4]]


def test_bits_are_those_of_nxmx_and_add_up():
    gap = np.zeros((3, 4), bool)
    gap[0] = True
    user = np.zeros((3, 4), bool)
    user[:, 1] = True
    raw = np.zeros((3, 4), np.uint32)
    raw[2, 3] = 16
    bits = masks.combine((3, 4), [(MaskBit.GAP, gap), (MaskBit.USER, user)], raw)
    assert bits.dtype == np.uint32
    assert bits.tolist() == [[1, 257, 1, 1], [0, 256, 0, 0], [0, 256, 0, 16]]
    assert masks.bad_pixels(bits).sum() == 7
    assert masks.combine((3, 4), [(MaskBit.VIRTUAL, gap)])[0, 0] == 2**31
    with pytest.raises(HklflowError):
        masks.combine((3, 4), [(MaskBit.GAP, gap[:2])])
