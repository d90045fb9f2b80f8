"""Pictures of frames: masks, statistics, peaks."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.images.masks import MaskBit
from hklflow.plots.common import IMAGE, SMALL, figure_of, halves, log_range

Floats = NDArray[np.float64]

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
_FEW = 200  # number of pixels up to which each pixel is circled


def detector_image(
    image: NDArray[Any], title: str, label: str, mask: NDArray[np.bool_] | None = None
) -> Figure:
    """Draw one detector image on a logarithmic scale, with masked pixels in red."""
    figure = figure_of(7.5, 6.5)
    axes = figure.subplots()
    draw_detector(axes, image, mask)
    figure.colorbar(
        axes.collections[0] if axes.collections else axes.images[0], ax=axes, label=label
    )
    axes.set_title(title)
    return figure


def draw_detector(axes: Axes, image: NDArray[Any], mask: NDArray[np.bool_] | None) -> None:
    """Draw one image on a logarithmic scale, with masked pixels in red."""
    shown = np.asarray(image, dtype=float).copy()
    if mask is not None:
        shown[mask] = np.nan
    norm = log_range(shown)
    shown = np.where(shown <= 0, float(norm.vmin or 0), shown)
    extent = (0, image.shape[1], image.shape[0], 0)
    axes.imshow(shown, norm=norm, cmap=IMAGE, extent=extent, interpolation="nearest")
    axes.set_facecolor("0.85")
    if mask is not None:
        overlay = np.zeros((*mask.shape, 4))
        overlay[mask] = (0.85, 0.15, 0.15, 1.0)
        axes.imshow(overlay, extent=extent, interpolation="nearest")
    axes.set(xlabel="fast (pixel)", ylabel="slow (pixel)")


def pixel_mask(image: NDArray[Any], bits: NDArray[np.uint32], title: str) -> Figure:
    """Draw the sampled frames with the mask over them, and the number of pixels of each bit."""
    reasons = [bit for bit in _BITS if (bits & bit).any()]
    last = np.full(bits.shape, -1, np.int8)
    for number, bit in enumerate(reasons):
        last[(bits & bit) != 0] = number
    numbers = [int(((bits & bit) != 0).sum()) for bit in reasons]
    colours = [_BITS[bit] for bit in reasons]
    return _masked(image, last, [bit.label for bit in reasons], numbers, colours, title)


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
) -> Figure:
    """Draw an image with masked pixels in the colour of their reason, and the numbers of pixels."""
    figure = figure_of(13, 5.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    shown = np.where(last >= 0, 0, image)
    draw_detector(left, shown, None)
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
    right.barh(range(len(labels)), numbers or [0], color=colours or "0.4", edgecolor="0.3")
    # Some bars are too short to show their colour.
    right.scatter(
        [0] * len(colours),
        range(len(colours)),
        s=60,
        marker="s",
        c=colours,
        ec="0.3",
        clip_on=False,
    )
    right.set_yticks(range(len(labels)), labels)
    right.invert_yaxis()
    for i, number in enumerate(numbers):
        right.text(number, i, f"   {number}", va="center", **SMALL)
    right.set_xlabel(f"pixels (of {last.size})")
    right.margins(x=0.2)
    figure.suptitle(title)
    return figure


def frame_statistics(
    arrays: Mapping[str, Floats], maximum_image: NDArray[Any], mask: NDArray[np.bool_], title: str
) -> Figure:
    """Draw the maximum image and arrays over the frames: sums, background, monitor."""
    figure = figure_of(14, 6.2)
    left, right = halves(figure, (1, 1.1))
    axes = left.subplots()
    draw_detector(axes, maximum_image, mask)
    axes.set_title("largest count of each pixel over the scan")
    panels = right.subplots(len(arrays), 1, sharex=True)
    for panel, (name, values) in zip(np.atleast_1d(panels), arrays.items(), strict=True):
        panel.plot(np.arange(len(values)) + 0.5, values, lw=0.8)
        panel.set_ylabel(name, **SMALL)
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
    flagged: NDArray[np.bool_],
    title: str,
) -> Figure:
    """Draw the peaks on the maximum image, their number over the scan and their intensities."""
    figure = figure_of(14, 6.2)
    left, right = halves(figure, (1.1, 1))
    axes = left.subplots()
    draw_detector(axes, maximum_image, mask)
    for select, colour, name in ((~flagged, "white", "used"), (flagged, "orangered", "flagged")):
        axes.plot(
            fast[select],
            slow[select],
            "o",
            mfc="none",
            mec=colour,
            ms=6,
            mew=0.8,
            label=f"{int(select.sum())} {name}",
        )
    axes.set(xlim=(0, mask.shape[1]), ylim=(mask.shape[0], 0))
    axes.legend(loc="upper right", facecolor="0.3", labelcolor="white")
    top, bottom = right.subplots(2, 1)
    top.hist(frame, bins=min(100, max(10, len(frame) // 10)), color="0.4")
    top.set(xlabel="frame", ylabel="peaks")
    positive = intensity[intensity > 0]
    if positive.size:
        bottom.hist(
            positive, bins=np.geomspace(positive.min(), positive.max() * 1.01, 50), color="0.4"
        )
        bottom.set_xscale("log")
    bottom.set(xlabel="intensity (counts)", ylabel="peaks")
    figure.suptitle(title)
    return figure


def frame_mask(
    frame: NDArray[Any], excluded: NDArray[np.bool_], fraction: Floats, number: int, title: str
) -> Figure:
    """Draw the frame most affected by the 3-D mask, before and after, and fractions by frame."""
    figure = figure_of(15, 5)
    left, middle, right = figure.subplots(1, 3)
    draw_detector(left, frame, None)
    left.set_title(f"frame {number}")
    draw_detector(middle, frame, excluded)
    middle.set_title("3-D mask in red")
    right.plot(np.arange(len(fraction)) + 0.5, 100 * fraction, lw=0.8)
    right.set(xlabel="frame", ylabel="excluded pixels (%)")
    figure.suptitle(title)
    return figure
