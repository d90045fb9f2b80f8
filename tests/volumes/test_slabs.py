"""Slabs about planes: values against numpy's own indexing and a linear function of hkl."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.volumes import planes, slabs

GRID = Grid(np.array([-1.0, -0.6, -0.8]), np.array([0.1, 0.2, 0.4]), (21, 7, 5))
H, K, L = (GRID.axis(i) for i in range(3))
LINEAR = H + 2 * K[:, None] + 30 * L[:, None, None]  # (l, k, h)


def average(
    text: str, width: float = 0.0, values: np.ndarray = LINEAR, sigmas: np.ndarray | None = None
) -> slabs.Slab:
    return slabs.average(values, sigmas, GRID, planes.parse(text, "hkl"), width)


def test_planes_along_the_axes_are_numpy_slices() -> None:
    random = np.random.default_rng(1).normal(size=GRID.array_shape)
    for text, expected in (
        ("hk0.4", random[3]),
        ("h 0.2 l", random[:, 4]),
        ("-0.9 k l", random[:, :, 1]),
    ):
        slab = average(text, values=random)
        np.testing.assert_allclose(slab.cut.image, expected, rtol=1e-6)
        assert slab.offsets.tolist() == [0.0]
    slab = average("hk0")
    np.testing.assert_allclose(slab.cut.u, H)
    np.testing.assert_allclose(slab.cut.v, K, atol=1e-12)


def test_a_slab_is_the_mean_over_the_planes_within_its_width() -> None:
    random = np.random.default_rng(2).normal(size=GRID.array_shape)
    sigmas = np.abs(random) + 1
    # planes at -0.4, 0, 0.4: both ends count
    slab = average("hk0", 0.8, random, sigmas)
    np.testing.assert_allclose(slab.offsets, [-0.4, 0.0, 0.4])
    np.testing.assert_allclose(slab.cut.image, random[1:4].mean(axis=0), rtol=1e-5)
    expected = np.sqrt((sigmas[1:4] ** 2).sum(axis=0)) / 3
    assert slab.errors is not None
    np.testing.assert_allclose(slab.errors, expected, rtol=1e-5)
    # nothing more within the width than the plane itself
    thin = average("hk0", 0.7, random)
    np.testing.assert_allclose(thin.cut.image, random[2], rtol=1e-6)
    # What is averaged are whole voxels of 0.4.
    assert (slab.thickness, thin.thickness) == pytest.approx((1.2, 0.4))


def test_points_on_faces_move_no_feature() -> None:
    """At h k = 0.05, 0.15, ... h lies between two voxels: neither side is preferred."""
    grid = Grid.symmetric([1.0, 1.0, 0.5], [0.1, 0.05, 0.1])
    h = np.broadcast_to(grid.axis(0), grid.array_shape)
    for text in ("h h l", "h -h l", "-h h l"):
        found = slabs.average(h, None, grid, planes.parse(text, "hkl"), 0.0).cut
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
    cut = average("h 2h l").cut
    at = cut.plane.at(*np.meshgrid(cut.u, cut.v))
    inside = np.isfinite(cut.image)
    expected = at[..., 0] + 2 * at[..., 1] + 30 * at[..., 2]
    np.testing.assert_allclose(cut.image[inside], expected[inside], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cut.u, np.arange(-3, 4) / 10, atol=1e-9)
    # Of others the nearest voxel: never farther than half a step of each axis.
    cut = average("h -h l").cut
    at = cut.plane.at(*np.meshgrid(cut.u, cut.v))
    inside = np.isfinite(cut.image)
    expected = at[..., 0] + 2 * at[..., 1] + 30 * at[..., 2]
    assert np.abs(cut.image - expected)[inside].max() <= 0.05 + 2 * 0.1 + 1e-5
    assert inside.sum() > 20


def test_an_oblique_slab_moves_along_the_normal_of_its_indices() -> None:
    grid = Grid.symmetric([1.0, 1.0, 1.0], 0.1)
    h, k = grid.axis(0), grid.axis(1)
    across = np.broadcast_to((h - k[:, None]) ** 2, grid.array_shape)
    slab = slabs.average(across, None, grid, planes.parse("h h l", "hkl"), 0.4)
    np.testing.assert_allclose(slab.offsets, [-0.2, -0.1, 0.0, 0.1, 0.2], atol=1e-12)
    middle = slab.cut.image[10, 10]
    # h - k is 2 t at h+t h-t l
    assert middle == pytest.approx(np.mean(np.square([0.4, 0.2, 0.0, 0.2, 0.4])), rel=1e-5)


def test_what_is_not_measured_does_not_count() -> None:
    values = LINEAR.copy()
    values[1, 2, 3] = np.nan
    values[1:4, 5, 6] = np.nan
    slab = average("hk0", 0.8, values, np.ones_like(values))
    assert slab.cut.image[2, 3] == pytest.approx(LINEAR[2:4, 2, 3].mean())
    assert slab.errors is not None
    assert slab.errors[2, 3] == pytest.approx(np.sqrt(2) / 2)
    assert np.isnan(slab.cut.image[5, 6])
    assert np.isnan(slab.errors[5, 6])


def test_wrong_planes_and_widths_are_refused() -> None:
    with pytest.raises(HklflowError, match=r"plane h k 2 is outside the volume \(h from -1 to 1"):
        average("hk2")
    with pytest.raises(HklflowError, match="width of the slab is -1"):
        average("hk0", -1.0)
    with pytest.raises(HklflowError, match="width of the slab is nan"):
        average("hk0", float("nan"))


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
