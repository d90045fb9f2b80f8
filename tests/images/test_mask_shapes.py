import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hklflow.base.errors import HklflowError
from hklflow.images import mask_shapes as shapes
from hklflow.images.masks import MaskBit

SHAPE = (200, 240)
USER = MaskBit.USER


def drawn(items, shape=SHAPE):
    return shapes.draw(shape, [(USER, item) for item in items]).bits != 0


@pytest.mark.parametrize(
    ("shape", "area", "perimeter"),
    [
        (shapes.Rectangle(10.3, 60.9, 20.2, 100.7), 50.6 * 80.5, 2 * (50.6 + 80.5)),
        (shapes.Circle(100.2, 90.6, 40.3), math.pi * 40.3**2, 2 * math.pi * 40.3),
        (
            shapes.Annulus(100.2, 110.6, 30.1, 55.4),
            math.pi * (55.4**2 - 30.1**2),
            2 * math.pi * (55.4 + 30.1),
        ),
        (shapes.Polygon(((10.0, 10.0), (150.0, 40.0), (60.0, 200.0))), 0.5 * 25100, 500.0),
        # The ring's degenerate case, a disc; and one that the image cuts.
        (shapes.Annulus(100.2, 110.6, 0, 25.4), math.pi * 25.4**2, 2 * math.pi * 25.4),
        (shapes.Circle(0, 120.5, 40.3), math.pi * 40.3**2 / 2, (math.pi + 2) * 40.3),
        # An L: convex hulls would fail.
        (
            shapes.Polygon(((10, 10), (10, 110), (60, 110), (60, 60), (160, 60), (160, 10))),
            50 * 100 + 100 * 50,
            500.0,
        ),
        (shapes.Edges(SHAPE, 3), 200 * 240 - 194 * 234, 1.0),
    ],
)
def test_area_is_the_analytic_one_within_the_perimeter(shape, area, perimeter):
    mask = drawn([shape])
    assert abs(mask.sum() - area) <= perimeter
    if not isinstance(shape, shapes.Rectangle):
        # Rounding averages out along a curved or oblique rim, not a shift by one pixel all round.
        assert abs(mask.sum() - area) <= max(0.15 * perimeter, 1)


def test_pixel_centres_decide():
    mask = drawn([shapes.Rectangle(1.0, 2.0, 2.5, 4.5)], (4, 6))
    # Centres at 2.5 (in), 3.5 (in), 4.5 (half-open: out).
    assert np.argwhere(mask).tolist() == [[1, 2], [1, 3]]


def test_beamstop_arm_points_from_fast_to_slow():
    stop = shapes.Beamstop(100, 100, 10, arm_angle=math.radians(30), arm_width=6, arm_length=80)
    mask = drawn([stop])
    # Arm outside the disc: length 80 - 10, plus half of the disc's sagitta, about 0.3 px.
    assert abs(mask.sum() - (math.pi * 100 + 70.3 * 6)) < 0.15 * (2 * 70 + 63)
    assert mask[100 + int(60 * 0.5), 100 + int(60 * math.cos(math.pi / 6))]
    assert not mask[100 - 30, 100 + 52]
    assert not mask[100, 100 - 30]


def test_shapes_apply_in_the_order_given():
    disc, hole = shapes.Circle(50, 50, 20), shapes.Circle(50, 50, 8, op="subtract")
    n_hole = drawn([shapes.Circle(50, 50, 8)]).sum()
    ring = shapes.draw(SHAPE, [(USER, disc), (USER, hole)])
    full = shapes.draw(SHAPE, [(USER, hole), (USER, disc)])
    n = int(drawn([disc]).sum())
    assert ring.bits[50, 50] == 0
    assert full.bits[50, 50] == 256
    assert ring.changes == ((n, 0), (0, n_hole))
    assert full.changes == ((0, 0), (n, 0))
    assert (ring.bits != 0).sum() == n - n_hole
    # What is freed and masked again is not freed.
    assert ring.freed.sum() == n_hole
    assert not full.freed.any()


def test_a_step_frees_all_reasons_and_the_last_step_owns_a_pixel():
    gap, user = shapes.Rectangle(0, 10, 0, 10), shapes.Rectangle(5, 15, 0, 10)
    hole = shapes.Rectangle(0, 20, 3, 4, op="subtract")
    found = shapes.draw((20, 10), [(MaskBit.GAP, gap), (USER, user), (USER, hole)])
    assert found.bits[:, 0].tolist() == [1] * 5 + [257] * 5 + [256] * 5 + [0] * 5
    assert found.last[:, 0].tolist() == [0] * 5 + [1] * 10 + [-1] * 5
    assert not found.bits[:, 3].any()
    assert (found.last[:, 3] == -1).all()
    assert found.changes == ((100, 0), (50, 0), (0, 15))


_KINDS = st.sampled_from(["circle", "rectangle", "annulus"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(_KINDS, st.floats(0, 30), st.floats(0, 40), st.floats(1, 15), st.booleans()),
        max_size=8,
    )
)
def test_every_pixel_is_what_the_last_step_over_it_says(steps):
    made = []
    for kind, slow, fast, size, add in steps:
        op = "add" if add else "subtract"
        if kind == "circle":
            made.append(shapes.Circle(slow, fast, size, op))
        elif kind == "rectangle":
            made.append(shapes.Rectangle(slow, slow + size, fast, fast + size, op))
        else:
            made.append(shapes.Annulus(slow, fast, size / 2, size, op))
    found = shapes.draw((30, 40), [(USER, item) for item in made])
    for i in range(0, 30, 3):
        for j in range(0, 40, 3):
            at = np.array([[i + 0.5]]), np.array([[j + 0.5]])
            over = [item.op for item in made if item.inside(*at)[0, 0]]
            assert (found.bits[i, j] != 0) == (over[-1:] == ["add"])
    assert (found.bits != 0).sum() == sum(added - freed for added, freed in found.changes)
    assert ((found.last >= 0) == (found.bits != 0)).all()


def test_edges_of_modules():
    gaps = np.zeros((20, 30), bool)
    gaps[:, 10:13] = True
    gaps[8:10] = True
    mask = drawn([shapes.Edges((20, 30), 2, gaps=gaps)], (20, 30))
    # Four modules; of each only the middle is left.
    left = np.zeros((20, 30), bool)
    for rows in ((2, 6), (12, 18)):
        for columns in ((2, 8), (15, 28)):
            left[slice(*rows), slice(*columns)] = True
    assert np.array_equal(~mask, left | gaps)


def test_images_of_another_shape_are_refused():
    with pytest.raises(HklflowError, match=r"20 × 30 pixels .*the image 30 × 20"):
        shapes.Pixels((30, 20), np.zeros((20, 30), bool))
    with pytest.raises(HklflowError, match="20 × 30 pixels"):
        shapes.Edges((30, 20), 1, gaps=np.zeros((20, 30), bool))


@pytest.mark.parametrize(
    "make",
    [
        lambda: shapes.Circle(1, 1, -2),
        lambda: shapes.Circle(1, 1, math.nan),
        lambda: shapes.Rectangle(5, 4, 0, 1),
        lambda: shapes.Annulus(1, 1, 5, 4),
        lambda: shapes.Annulus(1, 1, -1, 4),
        lambda: shapes.Pixels((1, 1), np.zeros((1, 1), bool), op="free"),
        lambda: shapes.Polygon(((0, 0), (1, 1))),
        lambda: shapes.Circle(1, 1, 2, op="xor"),
        lambda: shapes.Beamstop(1, 1, 2, arm_width=-1),
    ],
)
def test_impossible_shapes_are_refused(make):
    with pytest.raises(HklflowError):
        make()
