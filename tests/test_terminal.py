"""Pictures as text: golden lines of small arrays, and where things land in skewed ones."""

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize

from hklflow.plots import terminal

LINEAR = Normalize(0.0, 8.0)


def test_an_image_that_fits_is_shown_as_it_is() -> None:
    image = np.arange(24, dtype=float).reshape(4, 6)
    np.testing.assert_array_equal(terminal.raster(image, 6, 40, upward=False), image)
    np.testing.assert_array_equal(terminal.raster(image, 6, 40), image[::-1])
    # Twice as wide: each value is four points.
    double = terminal.raster(image, 12, 40, upward=False)
    np.testing.assert_array_equal(double, image.repeat(2, axis=0).repeat(2, axis=1))
    # The height counts too.
    assert terminal.raster(image, 600, 8, upward=False).shape == (8, 12)


def test_a_large_image_is_averaged_over_what_is_measured() -> None:
    image = np.zeros((800, 1200))
    image[400:, 600:] = 3.0
    image[:400, :600:2] = np.nan
    image[:400, 1:600:2] = 7.0
    points = terminal.raster(image, 12, 40, upward=False)
    assert points.shape == (8, 12)
    # A point may have a few rows of its neighbour.
    np.testing.assert_allclose(points[:4, :6], 7.0, atol=0.3)
    np.testing.assert_allclose(points[:4, 6:], 0.0, atol=0.3)
    np.testing.assert_allclose(points[4:, 6:], 3.0, atol=0.3)


def test_a_single_bright_pixel_of_a_large_image_is_not_lost() -> None:
    image = np.full((1000, 1000), 0.1)
    image[437, 211] = 5000.0
    points = terminal.raster(image, 50, 50, upward=False)
    assert np.unravel_index(points.argmax(), points.shape) == (21, 10)


def test_a_skewed_image_is_drawn_at_its_angle() -> None:
    image = np.full((40, 40), np.nan)
    image[0, 0], image[39, 0], image[0, 39] = 1.0, 2.0, 3.0
    c, s = np.cos(np.radians(60)), np.sin(np.radians(60))
    points = terminal.raster(image, 60, 200, [[1.0, c], [0.0, s]])
    # 40 + 1/2 across are 60 points; 40 sin 60 up are 51.3.
    assert points.shape == (52, 60)
    where = {
        value: np.argwhere(np.isclose(points, value)).mean(axis=0) for value in (1.0, 2.0, 3.0)
    }
    scale = 60 / 40.5
    bottom, top = (52 - scale * (0.5 * s) - 1, scale * 0.5 * s)
    np.testing.assert_allclose(where[1.0], [bottom, scale * (0.5 + 0.5 * c)], atol=1.5)
    np.testing.assert_allclose(where[2.0], [top, scale * (0.5 + 39.5 * c)], atol=1.5)
    np.testing.assert_allclose(where[3.0], [bottom, scale * (39.5 + 0.5 * c)], atol=1.5)


def test_only_what_was_measured_takes_room() -> None:
    image = np.full((10, 10), np.nan)
    image[4:6, 2:8] = 1.0
    assert terminal.raster(image, 12, 40).shape == (4, 12)


def test_plain_characters() -> None:
    image = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8.0]])
    assert terminal.image_lines(image, LINEAR, "viridis", False) == [".:-=+*#%@"]
    image[1] = np.nan
    image[0, 4] = np.nan
    assert terminal.image_lines(image, LINEAR, "viridis", False) == [".:-= *#%@"]
    # On a logarithmic scale what is not positive is lowest, not empty.
    logarithmic = np.array([[0.0, 1, 10, 100], [-5.0, 1, 10, 100]])
    lines = terminal.image_lines(logarithmic, LogNorm(1, 100), "viridis", False)
    assert lines == ["..+@"]
    signed = np.array([[-1.0, -0.5, 0.0, 0.5, 1.0]] * 2)
    assert terminal.image_lines(signed, Normalize(-1, 1), "RdBu_r", False) == ["#=.o@"]


def test_half_blocks_have_two_colours() -> None:
    image = np.array([[0.0, 8.0, np.nan, 8.0, np.nan], [8.0, 8.0, np.nan, np.nan, 0.0]])
    (line,) = terminal.image_lines(image, LINEAR, "viridis", True)
    low, high = (
        ";".join(str(part) for part in colormaps["viridis"](x, bytes=True)[:3]) for x in (0.0, 1.0)
    )
    assert line == (
        f"\x1b[48;2;{high}m\x1b[38;2;{low}m▀\x1b[38;2;{high}m▀\x1b[49m ▀\x1b[38;2;{low}m▄\x1b[0m"
    )


def test_the_bar_says_the_range() -> None:
    norm = LogNorm(0.5, 200.0)
    told = "0.5 .:-=+*#%@ 200  counts, logarithmic"
    assert terminal.bar_line(norm, "viridis", "counts", False) == told
    assert terminal.bar_line(norm, "viridis", "counts", True, 5).count("█") == 5


def test_pictures_side_by_side_keep_their_columns() -> None:
    lines = terminal.beside([["a", "bbb"], ["c"], ["dd", "e", "f"]], [3, 2, 2])
    assert lines == ["a    c   dd", "bbb      e", "         f"]


def test_a_plain_curve() -> None:
    lines = terminal.curve_lines(
        np.arange(5.0), [0.0, 1.0, 2.0, 3.0, 4.0], width=12, height=5, rich=False, joined=False
    )
    assert lines == [
        " 4|        *",
        "  |      *",
        "  |    *",
        "  |  *",
        " 0|*",
        "   0       4",
    ]


def test_a_plain_curve_with_errors() -> None:
    lines = terminal.curve_lines(
        [10.0, 20.0], [2.0, 2.0], [2.0, 0.0], width=12, height=5, rich=False, joined=False
    )
    assert lines == [
        " 4||",
        "  ||",
        "  |*       *",
        "  ||",
        " 0||",
        "   10     20",
    ]


def test_points_are_joined_where_nothing_else_is_said() -> None:
    curve = {"x": [0.0, 1.0], "y": [0.0, 1.0], "width": 12, "height": 5, "rich": True}
    joined = terminal.curve_lines(**curve, joined=True)
    assert terminal.curve_lines(**curve) == joined != terminal.curve_lines(**curve, joined=False)


def test_a_curve_in_dots() -> None:
    lines = terminal.curve_lines(
        np.arange(20.0), np.arange(20.0), width=14, height=5, rich=True, joined=True
    )
    assert [len(line) for line in lines[:5]] == [14, 12, 10, 8, 6]
    assert lines[0] == " 19│        ⡠⠊"
    # every dot of the diagonal is there once: 20 of 20 columns and rows
    dots = sum(
        (ord(c) - 0x2800).bit_count() for line in lines for c in line if 0x2800 <= ord(c) < 0x2900
    )
    assert dots == 20


def test_curves_that_cannot_be_drawn_say_so() -> None:
    nothing = terminal.curve_lines([1.0], [np.nan], width=20, height=5, rich=False)
    assert nothing == ["nothing to draw: all values are NaN or infinite"]
    one = terminal.curve_lines([3.0], [3.0], width=20, height=5, rich=False)
    assert sum("*" in line for line in one) == 1


@pytest.mark.parametrize("values", [[-5.0, 5.0], [100.0, 101.0], [1e-9, 2e-9]])
def test_the_highest_and_lowest_are_at_the_ends(values: list[float]) -> None:
    lines = terminal.curve_lines([0.0, 1.0], values, width=30, height=6, rich=False, joined=False)
    assert lines[0].endswith("*")
    assert lines[0].strip().startswith(f"{values[1]:.4g}|")
