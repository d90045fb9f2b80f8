"""Planes of a volume: values against numpy's own indexing and a linear function of hkl."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.volumes import planes

GRID = Grid(np.array([-1.0, -0.6, -0.8]), np.array([0.1, 0.2, 0.4]), (21, 7, 5))
H, K, L = (GRID.axis(i) for i in range(3))
LINEAR = H + 2 * K[:, None] + 30 * L[:, None, None]  # (l, k, h)


def cut(text: str, values: np.ndarray = LINEAR) -> planes.Cut:
    return planes.cut(values, GRID, planes.parse(text, "hkl"))


def test_planes_along_the_axes_are_numpy_slices() -> None:
    random = np.random.default_rng(1).normal(size=GRID.array_shape)
    for text, expected in (
        ("hk0.4", random[3]),
        ("h 0.2 l", random[:, 4]),
        ("-0.9 k l", random[:, :, 1]),
    ):
        np.testing.assert_allclose(cut(text, random).image, expected, rtol=1e-6)
    np.testing.assert_allclose(cut("hk0").u, H)
    np.testing.assert_allclose(cut("hk0").v, K, atol=1e-12)


def test_points_on_faces_move_no_feature() -> None:
    """At h k = 0.05, 0.15, ... h lies between two voxels: neither side is preferred."""
    grid = Grid.symmetric([1.0, 1.0, 0.5], [0.1, 0.05, 0.1])
    h = np.broadcast_to(grid.axis(0), grid.array_shape)
    for text in ("h h l", "h -h l", "-h h l"):
        found = planes.cut(h, grid, planes.parse(text, "hkl"))
        at = found.plane.at(*np.meshgrid(found.u, found.v))[..., 0]
        moved = found.image - at
        inside = np.isfinite(moved) & (np.abs(at) < 0.85)
        assert np.abs(moved[inside]).max() == pytest.approx(0.05, abs=1e-6)
        # At every place: over two voxels, four points.
        of_rows = np.where(inside, moved, 0.0)[inside.any(axis=1)]
        assert inside.sum() > 100
        assert abs(moved[inside].mean()) < 1e-6
        runs = np.stack([np.roll(of_rows, -k, axis=1) for k in range(4)]).mean(axis=0)
        assert np.abs(runs).max() < 0.0126 + 1e-6
        np.testing.assert_allclose(of_rows, -of_rows[:, ::-1], atol=1e-6)


def test_an_oblique_plane_has_the_values_of_the_linear_function() -> None:
    # All of these points are voxels' centres.
    one = cut("h 2h l")
    at = one.plane.at(*np.meshgrid(one.u, one.v))
    inside = np.isfinite(one.image)
    expected = at[..., 0] + 2 * at[..., 1] + 30 * at[..., 2]
    np.testing.assert_allclose(one.image[inside], expected[inside], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.u, np.arange(-3, 4) / 10, atol=1e-9)
    # Of others the nearest voxel: never farther than half a step of each axis.
    one = cut("h -h l")
    at = one.plane.at(*np.meshgrid(one.u, one.v))
    inside = np.isfinite(one.image)
    expected = at[..., 0] + 2 * at[..., 1] + 30 * at[..., 2]
    assert np.abs(one.image - expected)[inside].max() <= 0.05 + 2 * 0.1 + 1e-5
    assert inside.sum() > 20


def test_widths_that_are_refused() -> None:
    plane = planes.parse("hhl", "hkl")
    np.testing.assert_array_equal(np.abs(planes.slab_normal(plane, GRID, 0.2)), [1, 1, 0])
    for width, words in ((-1.0, "width of the slab is -1"), (np.nan, "width of the slab is nan")):
        with pytest.raises(HklflowError, match=words):
            planes.slab_normal(plane, GRID, width)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("hk0", "h k 0"),
        ("h0l", "h 0 l"),
        ("0kl", "0 k l"),
        ("hk0.5", "h k 0.5"),
        ("h0.5l", "h 0.5 l"),
        ("h-1l", "h -1 l"),
        ("hhl", "h h l"),
        ("h-hl", "h -h l"),
        ("h2hl", "h 2h l"),
        ("2h0l", "2h 0 l"),
        ("h1.5l", "h 1.5 l"),
    ],
)
def test_planes_without_blanks(short: str, long: str) -> None:
    assert planes.parse(short, "hkl").text == long
    one, other = planes.parse(short, "hkl"), planes.parse(long, "hkl")
    for name in ("origin", "first", "second"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("text", ["hk", "1h2k", "hkl", "hk0z", "h00"])
def test_what_is_no_plane(text: str) -> None:
    with pytest.raises(HklflowError, match="plane"):
        planes.parse(text, "hkl")
