"""What all pictures share."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import LogNorm

from hklflow import plots
from hklflow.geometry import Beam, Detector
from hklflow.geometry.grid import Grid
from hklflow.images.masks import MaskBit
from hklflow.plots.common import WIDEST, figure_of, log_range, save
from hklflow.plots.detector import draw_detector
from hklflow.plots.volumes import Sections

SOURCES = sorted(Path(plots.__file__).parent.glob("*.py"))


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((1e-4, 1e4), {"10⁻⁴", "10⁻²", "10⁰", "10²", "10⁴"}),
        ((0.3, 200.0), {"0.5", "1", "2", "5", "10", "20", "50", "100", "200"}),
        ((0.7, 4.0), {"1", "2", "3", "4"}),
        ((1.1, 1.9), {"1.2", "1.4", "1.6", "1.8"}),
    ],
)
def test_logarithmic_axes_have_numbers_below_three_decades(
    tmp_path: Path, ends: tuple[float, float], expected: set[str]
) -> None:
    figure = figure_of(6, 4)
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.set_ylim(*ends)
    axes.set_xscale("symlog")
    axes.set_xlim(-1000, 1000)
    bar = figure.colorbar(axes.pcolormesh(np.ones((3, 3)), norm=LogNorm(*ends)), ax=axes)
    axes.set_ylim(*ends)
    save(figure, tmp_path / "a.png")
    for axis in (axes.yaxis, bar.ax.yaxis):
        labels = [label.get_text() for label in axis.get_ticklabels(which="both")]
        assert expected <= set(labels)
        assert not any("$" in label or "\\" in label for label in labels)
    assert {"0", "-10³", "10³"} <= {label.get_text() for label in axes.get_xticklabels()}


def test_axes_have_no_offset(tmp_path: Path) -> None:
    """4.64151 is not written as 1 with the text 1e-5+4.6415 on top of the axis."""
    figure = figure_of(6, 4)
    axes = figure.subplots()
    axes.plot([0, 1], [4.64151, 4.64154])
    save(figure, tmp_path / "a.png")
    assert axes.yaxis.get_offset_text().get_text() == ""
    assert "4.641520" in {label.get_text() for label in axes.get_yticklabels()}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_print_is_large_enough(path: Path) -> None:
    """Print of 9 pt stays 9 pt on the page only in a picture that the page does not shrink."""
    text = path.read_text()
    sizes = re.findall(r"(?:fontsize|labelsize|font_size)=(\d+\.?\d*)", text)
    assert all(float(size) >= 9 for size in sizes)
    assert all(float(wide) <= WIDEST for wide in re.findall(r"figure_of\((\d+\.?\d*)", text))
    assert "twinx" not in text  # two scales on one panel are read wrongly


def test_planes_are_drawn_in_one_place() -> None:
    assert [path.stem for path in SOURCES if "transData" in path.read_text()] == ["planes"]


def test_planes_of_a_merge_show_hkl_and_lengths_on_logarithmic_colours() -> None:
    grid = Grid.symmetric([2, 2, 1], [0.5, 0.5, 0.5])
    sections = Sections(grid)
    values = np.random.default_rng(0).uniform(1, 1000, grid.array_shape)
    sections.add(0, values, values, values)
    figure = plots.slices(grid, [4, 5, 6, 90, 90, 120], sections, "title")
    planes = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(planes) == ["h k 0", "h 0 l", "0 k l"]
    for title, axes in planes.items():
        letters = [_label(axis).split(" ")[0] for axis in axes.child_axes]
        assert letters == [letter for letter in title.split() if letter != "0"]
        assert all("1/Å" in label for label in (axes.get_xlabel(), axes.get_ylabel()))
        (image,) = axes.images
        assert isinstance(image.norm, LogNorm)
    np.testing.assert_array_equal(planes["h 0 l"].images[0].get_array(), values[:, 4])
    assert np.allclose(planes["0 k l"].images[0].get_extent(), (-2.25, 2.25, -1.25, 1.25))


def _label(axes: Any) -> str:
    return str(axes.get_xlabel() or axes.get_ylabel())


def test_rings_are_at_their_resolution() -> None:
    """Of a detector normal to the beam, whose rings are circles with a known radius."""
    pixel, distance, beam = 1e-3, 0.1, Beam(0.7)
    axes_of = {"slow": [0.0, 1.0, 0.0], "fast": [1.0, 0.0, 0.0]}
    origin = np.array([-0.05, -0.04, distance])
    detector = Detector((80, 100), (pixel, pixel), origin, **axes_of)
    axes = figure_of(5, 5).subplots()
    draw_detector(axes, np.ones(detector.shape), None, (detector, beam))
    (rings,) = axes.collections
    texts = {text.get_text() for text in axes.texts}
    assert len(texts) >= 3
    for text, path in zip(
        sorted(texts, key=lambda t: -float(t[:-2])), rings.get_paths(), strict=True
    ):
        radius = pixel * np.hypot(*(path.vertices - (50, 40)).T)
        d = beam.wavelength / (2 * np.sin(np.arctan(radius / distance) / 2))
        np.testing.assert_allclose(d, float(text[:-2]), rtol=0.01)


def test_a_few_masked_pixels_are_visible_next_to_thousands() -> None:
    bits = np.zeros((100, 100), np.uint32)
    bits[:60], bits[80, 3] = int(MaskBit.GAP), int(MaskBit.DEAD)
    bars = plots.pixel_mask(np.ones(bits.shape), bits, "mask").axes[1]
    assert bars.get_xscale() == "log"
    assert sorted(bar.get_width() for bar in bars.patches) == [1, 6000]


def test_zero_one_and_two_photons_differ_in_a_sparse_frame() -> None:
    """In frames of 0.1 counts per pixel, colours once ran from 1 to 2 and 0 was drawn as 1."""
    frame = np.random.default_rng(0).poisson(0.1, (200, 200))
    frame[50, 60] = 200
    colours = log_range(frame)
    shown = np.asarray(colours(np.array([float(colours.vmin or 0), 1, 2, 4])))
    assert np.all(np.diff(shown) > 0.2)
    assert shown.max() <= 1
