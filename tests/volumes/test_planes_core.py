"""Planes: how they are read, where their points lie, and that only what they meet is read."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.volumes import planes

HEXAGONAL = np.array([4.8, 4.8, 7.2, 90.0, 90.0, 120.0])
MONOCLINIC = np.array([5.0, 7.0, 6.0, 90.0, 112.0, 90.0])


@pytest.mark.parametrize(
    ("text", "origin", "first", "second"),
    [
        ("h k 0", (0, 0, 0), (1, 0, 0), (0, 1, 0)),
        ("h h l", (0, 0, 0), (1, 1, 0), (0, 0, 1)),
        ("h -h l", (0, 0, 0), (1, -1, 0), (0, 0, 1)),
        ("h \N{MINUS SIGN}h l", (0, 0, 0), (1, -1, 0), (0, 0, 1)),
        ("h k 0.5", (0, 0, 0.5), (1, 0, 0), (0, 1, 0)),
        ("h+k -h l/2", None, None, None),  # three letters
        ("h+k -h k/2", (0, 0, 0), (1, -1, 0), (1, 0, 0.5)),
        ("h + k, -h, .5k - 1/4", (0, 0, -0.25), (1, -1, 0), (1, 0, 0.5)),
        ("(2h+1 0 3*l)", (1, 0, 0), (2, 0, 0), (0, 0, 3)),
        ("k 0 h", (0, 0, 0), (0, 0, 1), (1, 0, 0)),
        ("hk0", (0, 0, 0), (1, 0, 0), (0, 1, 0)),
        ("HHL", (0, 0, 0), (1, 1, 0), (0, 0, 1)),
        ("h-hl", (0, 0, 0), (1, -1, 0), (0, 0, 1)),
        ("hk-1/2", (0, 0, -0.5), (1, 0, 0), (0, 1, 0)),
    ],
)
def test_planes_are_read(text: str, origin: Any, first: Any, second: Any) -> None:
    if origin is None:
        with pytest.raises(HklflowError, match="it has 3 free letters"):
            planes.parse(text, "hkl")
        return
    plane = planes.parse(text, "hkl")
    np.testing.assert_array_equal(plane.origin, origin)
    np.testing.assert_array_equal(plane.first, first)
    np.testing.assert_array_equal(plane.second, second)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("h 0 0", r"it has 1 free letters \(h\)"),
        ("1 2 3", r"it has 0 free letters \(none\)"),
        ("h k l", r"it has 3 free letters \(h, k, l\)"),
        ("h k", "it has 2 expressions"),
        ("h k 0 0", "it has 4 expressions"),
        ("h+k 2h+2k 0", "parallel"),
        ("x y 0", "'x' is not a linear expression of h, k, l"),
        ("h k* 0", "not a linear expression"),
        ("h*k k 0", "not a linear expression"),
        ("hh k 0", "not a linear expression"),
        ("h k .", "not a linear expression"),
        ("h/0 k 0", "not a linear expression"),
        ("h,,k", "'' is not a linear expression"),
        ("h^2k0", "cannot be read"),
        ("", "it has 0 expressions"),
    ],
)
def test_what_is_no_plane_is_refused_by_its_text(text: str, why: str) -> None:
    with pytest.raises(HklflowError, match=why) as caught:
        planes.parse(text, "hkl")
    assert repr(text) in str(caught.value)


@given(
    st.lists(st.integers(-4, 4), min_size=9, max_size=9),
    st.floats(-3, 3),
    st.floats(-3, 3),
)
def test_a_plane_holds_what_its_expressions_give(numbers: list[int], u: float, v: float) -> None:
    rows = np.array(numbers).reshape(3, 3)
    text = ", ".join(f"{c:+d}{a:+d}*x{b:+d}z" for a, b, c in rows)
    if np.linalg.matrix_rank(rows[:, :2]) < 2:
        with pytest.raises(HklflowError):
            planes.parse(text, "xyz")
        return
    expected = [eval(part, {"x": u, "z": v}) for part in text.replace("z", "*z").split(",")]
    np.testing.assert_allclose(planes.parse(text, "xyz").at(u, v), expected, atol=1e-12)


@pytest.mark.parametrize("cell", [HEXAGONAL, MONOCLINIC])
@pytest.mark.parametrize("text", ["h k 0", "h h l", "h -h l", "h+k -h 2k"])
def test_lengths_in_the_plane_are_those_of_space(cell: np.ndarray, text: str) -> None:
    plane = planes.parse(text, "hkl")
    # a, b, c in Cartesian Å, written out; rows of 2π (A^-1)^T are a*, b*, c*.
    a, b, c, *angles = cell
    beta, gamma = np.radians(angles[1:])
    axes = np.array(
        [
            [a, 0, 0],
            [b * np.cos(gamma), b * np.sin(gamma), 0],
            [c * np.cos(beta), 0, c * np.sin(beta)],
        ]
    )
    stars = 2 * np.pi * np.linalg.inv(axes).T
    matrix = plane.cartesian(planes.metric_of(cell, direct=False))
    points = np.random.default_rng(1).uniform(-3, 3, (20, 2))
    flat = points @ matrix.T
    true = plane.at(points[:, 0], points[:, 1]) @ stars
    for i in range(20):
        expected = np.linalg.norm(true - true[i], axis=1)
        np.testing.assert_allclose(np.linalg.norm(flat - flat[i], axis=1), expected, atol=1e-12)
    assert matrix[1, 0] == 0  # x along the first vector
    assert matrix[1, 1] > 0
    one = planes.Cut(plane, np.array([0.5, 1.0]), np.array([-1.0]), np.zeros((1, 2)))
    expected = np.linalg.norm(plane.at([0.5, 1.0], [-1.0, -1.0]) @ stars, axis=1)
    np.testing.assert_allclose(
        one.distance(planes.metric_of(cell, direct=False)), expected[None], rtol=1e-12
    )


def coordinates(grid: Grid) -> np.ndarray:
    """h + 100 k + 10000 l of every voxel: what is read tells where."""
    h, k, l = (grid.axis(i) for i in range(3))  # noqa: E741
    return h + 100 * k[:, None] + 10000 * l[:, None, None]


@pytest.mark.parametrize("text", ["h k 0", "h k 0.5", "0 k l", "h h l", "h -h l", "h+k -h k/2"])
@pytest.mark.parametrize("grid", [Grid.symmetric([3, 2.5, 2], [0.25, 0.25, 0.5])])
def test_points_show_the_voxel_that_holds_them(text: str, grid: Grid) -> None:
    plane = planes.parse(text, "hkl")
    found = planes.cut(coordinates(grid), grid, plane, (2, 5, 7))
    at = plane.at(*np.meshgrid(found.u, found.v))
    low = grid.first - grid.step / 2
    high = -low
    inside = ((at > low + 1e-3) & (at < high - 1e-3)).all(axis=-1)
    outside = ((at < low - 1e-3) | (at > high + 1e-3)).any(axis=-1)
    assert inside.sum() > 50
    assert np.isfinite(found.image[inside]).all()
    assert np.isnan(found.image[outside]).all()
    values = found.image[inside].astype(float)
    l = np.rint(values / 10000 / 0.5) * 0.5  # noqa: E741
    k = np.rint((values - 10000 * l) / 100 / 0.25) * 0.25
    h = values - 10000 * l - 100 * k
    shown = np.stack([h, k, l], axis=-1)
    assert np.all(np.abs(shown - at[inside]) <= grid.step / 2 + 2e-3)
    # Every voxel's width has a point, and the mesh reaches the ends of the volume.
    for mesh, vector in ((found.u, plane.first), (found.v, plane.second)):
        assert np.all(np.abs(np.diff(mesh)[0] * vector) <= grid.step + 1e-9)
    assert found.u[-1] * plane.first.max() >= grid.first[0] + grid.step[0] * 4


def test_an_axis_plane_is_the_slice_of_the_volume() -> None:
    grid = Grid.symmetric([3, 2.5, 2], [0.3, 0.25, 0.5])
    values = np.random.default_rng(2).normal(size=grid.array_shape).astype(np.float32)
    values[3, 5:9] = np.nan
    for text, expected, i, j in (
        ("h k -0.5", values[3], 0, 1),
        ("h 0.5 l", values[:, 12], 0, 2),
        ("-0.6 k l", values[:, :, 8], 1, 2),
    ):
        found = planes.cut(values, grid, planes.parse(text, "hkl"), (4, 4, 4))
        np.testing.assert_array_equal(found.image, expected)
        np.testing.assert_allclose(found.u, grid.axis(i))
        np.testing.assert_allclose(found.v, grid.axis(j))


class Counted:
    """An array that remembers how much was read of it at a time, and in all."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.largest, self.total = values, 0, 0

    def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
        part = self.values[region]
        self.largest, self.total = max(self.largest, part.size), self.total + part.size
        return part


def test_only_boxes_that_the_plane_meets_are_read() -> None:
    grid = Grid.symmetric([2, 2, 2], 0.05)  # 81³
    values = Counted(np.zeros(grid.array_shape, np.float32))
    planes.cut(values, grid, planes.parse("h k 0.5", "hkl"), (16, 16, 16))
    assert values.total == 81 * 81
    values = Counted(np.zeros(grid.array_shape, np.float32))
    planes.cut(values, grid, planes.parse("h h l", "hkl"), (16, 16, 16))
    assert values.largest <= 16**3
    assert values.total < 0.25 * 81**3  # 6 blocks of each layer of 36


def test_a_plane_that_misses_the_volume_is_empty() -> None:
    grid = Grid.symmetric([2, 2, 2], 0.25)
    values = np.zeros(grid.array_shape)
    for text in ("h k 3", "h 6-h l", "h -7+h l"):
        assert planes.cut(values, grid, planes.parse(text, "hkl")).image.size == 0
    assert planes.cut(values, grid, planes.parse("h 3-h l", "hkl")).image.size > 0
