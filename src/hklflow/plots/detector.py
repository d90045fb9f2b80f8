"""Pictures of frames: masks, statistics, peaks."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.geometry import Beam, Detector
from hklflow.geometry.rings import chosen_spacings, inverse_spacing
from hklflow.images.masks import MaskBit
from hklflow.plots.common import IMAGE, SMALL, WIDEST, figure_of, halves, log_range

Floats = NDArray[np.float64]
Geometry = tuple[Detector, Beam]

# Colours that viridis does not have. If a pixel has several reasons, the last one is drawn: gaps
# and shapes are large, and a defect in them is a single pixel.
_BITS = {
    MaskBit.GAP: "0.45",
    MaskBit.VIRTUAL: "0.7",
    MaskBit.USER: "red",
    MaskBit.CLUSTER: "brown",
    MaskBit.UNDER_RESPONDING: "tan",
    MaskBit.DEAD: "white",
    MaskBit.OVER_RESPONDING: "orange",
    MaskBit.NOISY: "magenta",
}
_STEPS = ("0.45", "red", "orange", "magenta", "white", "tan", "brown", "deeppink")
_MASKED = "#d55e00"  # orange that the colour-blind can tell from viridis
_NODES = 100  # points of the detector along each side for the rings
_FEW = 200  # number of pixels up to which each pixel is circled


def detector_image(
    image: NDArray[Any], title: str, label: str, mask: NDArray[np.bool_] | None = None
) -> Figure:
    """Draw one detector image on a logarithmic scale, with masked pixels in orange."""
    figure = figure_of(7.5, 6.5)
    axes = figure.subplots()
    draw_detector(axes, image, mask, label=label)
    axes.set_title(title)
    return figure


def draw_detector(
    axes: Axes,
    image: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    geometry: Geometry | None = None,
    label: str = "",
    norm: LogNorm | None = None,
) -> LogNorm:
    """Draw one image on a logarithmic scale, with masked pixels in orange; return its colours.

    Parameters
    ----------
    geometry : (Detector, Beam), optional
        For rings of resolution.
    label : str
        Label of the colour bar; empty: no colour bar.
    norm : LogNorm, optional
        Colours of another image, to compare with it.
    """
    shown = np.asarray(image, dtype=float).copy()
    if mask is not None:
        shown[mask] = np.nan
    norm = log_range(shown) if norm is None else norm
    shown = np.where(shown <= 0, float(norm.vmin or 0), shown)
    extent = (0, image.shape[1], image.shape[0], 0)
    drawn = axes.imshow(shown, norm=norm, cmap=IMAGE, extent=extent, interpolation="nearest")
    axes.set_facecolor("0.85")
    if mask is not None:
        overlay = np.zeros((*mask.shape, 4))
        overlay[mask] = to_rgba(_MASKED)
        axes.imshow(overlay, extent=extent, interpolation="nearest")
    axes.set(xlabel="fast (pixel)", ylabel="slow (pixel)")
    if label and axes.figure is not None:
        axes.figure.colorbar(drawn, ax=axes, label=label, extend="max", aspect=40, pad=0.02)
    if geometry is not None:
        _draw_rings(axes, *geometry)
    return norm


def _draw_rings(axes: Axes, detector: Detector, beam: Beam) -> None:
    """Draw three or four rings of resolution, with their d in Å."""
    slow, fast = (np.linspace(0, n, _NODES) for n in detector.shape)
    over_d = inverse_spacing(detector.plane, beam, slow[:, None], fast[None, :])
    chosen = chosen_spacings(over_d)
    if not chosen:
        return
    rings = axes.contour(
        fast, slow, over_d, [1 / d for d in reversed(chosen)], colors="white", linewidths=0.7,
        linestyles="--", alpha=0.8,
    )  # fmt: skip
    texts = axes.clabel(rings, fmt=lambda x: f"{1 / x:.3g} Å", inline=False, **SMALL)
    for text in texts:
        text.set(color="white", alpha=1, zorder=5)
        text.set_bbox({"facecolor": "0.1", "pad": 1, "lw": 0})


def pixel_mask(
    image: NDArray[Any], bits: NDArray[np.uint32], title: str, geometry: Geometry | None = None
) -> Figure:
    """Draw the sampled frames with the mask over them, and the number of pixels of each bit."""
    reasons = [bit for bit in _BITS if (bits & bit).any()]
    last = np.full(bits.shape, -1, np.int8)
    for number, bit in enumerate(reasons):
        last[(bits & bit) != 0] = number
    numbers = [int(((bits & bit) != 0).sum()) for bit in reasons]
    colours = [_BITS[bit] for bit in reasons]
    labels = [bit.label for bit in reasons]
    return _masked(image, last, labels, numbers, colours, title, geometry)


def mask_steps(
    image: NDArray[Any], last: NDArray[np.int32], names: Sequence[str], title: str
) -> Figure:
    """Draw the pixels that each step of a mask file masks, over an image.

    Parameters
    ----------
    image, last
        Image, and number (from 0) of the step that masks each pixel, -1 for none; (slow, fast).
    names
        Names of the steps.
    title
        Title of the picture.
    """
    numbers = [int((last == number).sum()) for number in range(len(names))]
    colours = [_STEPS[number % len(_STEPS)] for number in range(len(names))]
    return _masked(image, last, names, numbers, colours, title)


def _masked(
    image: NDArray[Any],
    last: NDArray[Any],
    names: Sequence[str],
    numbers: Sequence[int],
    colours: Sequence[str],
    title: str,
    geometry: Geometry | None = None,
) -> Figure:
    """Draw an image with masked pixels in the colour of their reason, and the numbers of pixels."""
    figure = figure_of(WIDEST, 5.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    shown = np.where(last >= 0, 0, image)
    draw_detector(left, shown, None, geometry, "counts of a frame" if shown.any() else "")
    if not shown.any():
        left.get_images()[0].set_alpha(0.0)  # no counts to show: grey background
    overlay = np.zeros((*last.shape, 4), np.float32)
    for number, colour in enumerate(colours):
        overlay[last == number] = to_rgba(colour)
    left.imshow(overlay, extent=left.get_images()[0].get_extent(), interpolation="nearest")
    for number, colour in enumerate(colours):
        # Without circles, a few single pixels would be invisible.
        slow, fast = np.nonzero(last == number)
        if len(slow) <= _FEW:
            left.plot(fast + 0.5, slow + 0.5, "o", mfc="none", mec=colour, ms=7, mew=1.2)
    left.set_title("masked pixels in colour")
    labels = [textwrap.shorten(name, 44, placeholder=" …") for name in names] or ["none"]
    right.barh(range(len(labels)), numbers or [0], 0.5, color=colours or "0.4", edgecolor="0.3")
    # From a few dead pixels to whole modules: bars of length log(pixels), from half a pixel.
    if any(numbers):
        right.set_xscale("log")
    right.set_xlim(0.5, 20 * max(numbers, default=1) + 1)
    right.set_yticks(range(len(labels)), labels)
    right.invert_yaxis()
    for i, number in enumerate(numbers):
        right.text(max(number, 0.5), i, f"  {number}", va="center")
    right.set_xlabel(f"pixels (of {last.size})")
    figure.suptitle(title)
    return figure


def frame_statistics(
    arrays: Mapping[str, Floats],
    maximum_image: NDArray[Any],
    mask: NDArray[np.bool_],
    title: str,
    geometry: Geometry | None = None,
) -> Figure:
    """Draw the maximum image and arrays over the frames: sums, background, monitor."""
    figure = figure_of(WIDEST, 6)
    left, right = halves(figure, (1.1, 1))
    axes = left.subplots()
    draw_detector(axes, maximum_image, mask, geometry, "counts")
    axes.set_title("largest count of each pixel over the scan")
    panels = right.subplots(len(arrays), 1, sharex=True)
    for panel, (name, values) in zip(np.atleast_1d(panels), arrays.items(), strict=True):
        panel.plot(np.arange(len(values)) + 0.5, values, lw=0.8)
        panel.set_ylabel(name.replace("_", " "), **SMALL)
        if values.min() > 0 and values.max() > 10 * values.min():
            panel.set_yscale("log")
    np.atleast_1d(panels)[-1].set_xlabel("frame")
    figure.suptitle(title)
    return figure


def peaks(
    maximum_image: NDArray[Any],
    mask: NDArray[np.bool_],
    slow: Floats,
    fast: Floats,
    frame: Floats,
    intensity: Floats,
    unusable: NDArray[np.bool_],
    title: str,
    geometry: Geometry | None = None,
) -> Figure:
    """Draw the peaks on the maximum image, their number over the scan and their intensities.

    ``unusable``: overloaded, at the end of the scan, or not fitted (`peaks.table.UNUSABLE`).
    """
    figure = figure_of(WIDEST, 6.4)
    left, right = halves(figure, (1.1, 1))
    axes = left.subplots()
    draw_detector(axes, maximum_image, mask, geometry, "largest count over the scan")
    for select, marker, colour, name in (
        (~unusable, "o", "white", "usable"),
        (unusable, "x", "#ff9ed2", "without a reliable centre"),
    ):
        label = f"{int(select.sum())} {name}"
        axes.plot(
            fast[select], slow[select], marker, mfc="none", mec=colour, ms=6, mew=0.9, label=label
        )
    axes.set(xlim=(0, mask.shape[1]), ylim=(mask.shape[0], 0))
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, facecolor="0.3", labelcolor="white"
    )
    top, bottom = right.subplots(2, 1)
    top.hist(frame, bins=min(100, max(10, len(frame) // 10)), color="0.4")
    top.set(xlabel="frame", ylabel="peaks")
    positive = intensity[intensity > 0]
    if positive.size:
        bottom.hist(
            positive, bins=np.geomspace(positive.min(), positive.max() * 1.01, 50), color="0.4"
        )
        bottom.set(xscale="log", yscale="log")
    bottom.set(xlabel="intensity (counts)", ylabel="peaks")
    figure.suptitle(title)
    return figure


def frame_mask(
    frame: NDArray[Any],
    excluded: NDArray[np.bool_],
    fraction: Floats,
    number: int,
    title: str,
    geometry: Geometry | None = None,
) -> Figure:
    """Draw the frame most affected by the 3-D mask, before and after, and fractions by frame."""
    figure = figure_of(WIDEST, 4.8)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.18, 0.8])
    norm = draw_detector(left, frame, None, geometry)
    left.set_title(f"frame {number}")
    draw_detector(middle, frame, excluded, geometry, "counts", norm)
    middle.set_title("3-D mask in orange")
    right.plot(np.arange(len(fraction)) + 0.5, 100 * fraction, lw=0.8)
    right.set(xlabel="frame", ylabel="excluded pixels (%)")
    figure.suptitle(title)
    return figure
