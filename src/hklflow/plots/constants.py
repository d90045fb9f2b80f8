"""Pictures of a detector's constants, from the numbers of `constants.summary.summarise`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.plots.common import IMAGE, WIDEST, figure_of

# Quantities in each row of pictures; each gain stage has a column.
_ROWS = (
    ("offset_high", "offset_medium", "offset_low"),
    ("noise_high", "noise_medium", "noise_low"),
    ("gain_high", "gain_medium", "gain_low"),
    ("gain_threshold_high_medium", "gain_threshold_medium_low"),
    ("gain_ratio_mh", "gain_ratio_lm"),
    ("flatfield", "flatfield_errors"),
)
_SEEN = 400  # largest size of a picture in pixels for which single pixels are visible
_WIDE = 1.6  # width over height of a picture of all modules


def shown(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return the quantities that are drawn, row by row."""
    rows = [[name for name in row if name in summary["histograms"]] for row in _ROWS]
    return [row for row in rows if row]


def constants_histograms(summary: Mapping[str, Any], title: str) -> Figure:
    """Draw the histogram of every quantity over the detector, and its range in every ASIC."""
    rows = shown(summary)
    columns = max((len(row) for row in rows), default=1)
    figure = figure_of(min(6.0 * max(columns, 1.5), WIDEST), 4.2 * max(len(rows), 1) + 0.5)
    figure.suptitle(title)
    grid = figure.subplots(
        2 * max(len(rows), 1), columns, squeeze=False, height_ratios=[1, 1.2] * max(len(rows), 1)
    )
    for axes in grid.flat:
        axes.set_visible(False)
    for i, row in enumerate(rows):
        for j, name in enumerate(row):
            for axes in grid[2 * i : 2 * i + 2, j]:
                axes.set_visible(True)
            draw_histogram(grid[2 * i, j], summary, name)
            draw_asics(grid[2 * i + 1, j], summary["rows"], name, _label(summary, name))
    return figure


def draw_histogram(axes: Axes, summary: Mapping[str, Any], name: str) -> None:
    """Draw the histogram of all values of a quantity, and the median of the ASIC medians."""
    histogram = summary["histograms"][name]
    counts = np.array(histogram["counts"])
    low, high = histogram["range"]
    edges = np.linspace(low, high, len(counts) + 1)
    axes.stairs(np.maximum(counts, 0.5), edges, baseline=0.5, fill=True, color="0.6")
    axes.set_yscale("log")
    medians = [
        one["median"]
        for row in summary["rows"]
        if (one := row["quantities"].get(name)) and one["median"] is not None
    ]
    middle = float(np.median(medians))
    axes.axvline(middle, color="C3", lw=1)
    beyond = f", {histogram['outside']} outside" if histogram["outside"] else ""
    axes.set_title(f"{_words(name)}: median of ASICs {middle:.5g}{beyond}", fontsize=9)
    axes.set_xlabel(_label(summary, name), fontsize=9)
    axes.set_ylabel("values", fontsize=9)
    axes.tick_params(labelsize=9)


def draw_asics(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, label: str) -> None:
    """Draw median, quartiles and 5 to 95 % range of every ASIC, module after module."""
    place, bands = [], []
    for i, row in enumerate(rows):
        one = row["quantities"].get(name)
        if one and one["percentiles"]:
            place.append(i)
            bands.append(one["percentiles"])
    low, lower, middle, upper, high = np.array(bands).T
    wide = max(1.0, min(6.0, 120 / len(rows)))
    axes.vlines(place, low, high, color="0.75", lw=wide)
    axes.vlines(place, lower, upper, color="C0", lw=wide)
    axes.plot(place, middle, "_", color="C3", ms=max(3.0, wide), mew=1)
    modules = [row["module"] for row in rows]
    starts = [i for i, module in enumerate(modules) if i == 0 or module != modules[i - 1]]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color="0.9", lw=0.6, zorder=0)
    ends = [*starts[1:], len(rows)]
    centres = [0.5 * (a + b - 1) for a, b in zip(starts, ends, strict=True)]
    axes.set_xticks(centres, [str(modules[start]) for start in starts])
    axes.set_xlim(-0.7, len(rows) - 0.3)
    per_module = ends[0] - starts[0]
    axes.set_xlabel(f"module ({per_module} ASICs each)" if per_module > 1 else "module", fontsize=9)
    axes.set_ylabel(label, fontsize=9)
    axes.tick_params(labelsize=9)


def constants_maps(
    images: Mapping[str, Mapping[int, NDArray[Any]]], summary: Mapping[str, Any], title: str
) -> Figure:
    """Draw images of every quantity, all modules side by side; masked pixels are empty."""
    rows = [*shown(summary), ["bad"]]
    columns = max(len(row) for row in rows)
    figure = figure_of(min(max(6.0 * columns, 8.0), WIDEST), 4.3 * len(rows) + 0.5)
    figure.suptitle(title)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, row in enumerate(rows):
        for j, name in enumerate(row):
            axes = grid[i, j]
            axes.set_visible(True)
            _draw_map(axes, images[name], name)
            label = "fraction" if name == "bad" else _label(summary, name)
            figure.colorbar(axes.images[0], ax=axes, label=label, shrink=0.9)
    return figure


def _draw_map(axes: Axes, modules: Mapping[int, NDArray[Any]], name: str) -> None:
    image, places = tiled(modules)
    step = 1
    if name == "bad":
        # Draw the largest value of each block, so that single bad pixels are visible among a
        # million.
        step = max(1, max(image.shape) // _SEEN)
        image = _largest(image, step)
    known = image[np.isfinite(image)]
    low, high = (0.0, 1.0)
    if name != "bad" and known.size:
        low, high = (float(v) for v in np.percentile(known, [1, 99]))
        high = max(high, low + 1e-3 * max(abs(low), 1e-6))
    axes.imshow(image, vmin=low, vmax=high, cmap=IMAGE, interpolation="nearest")
    axes.set_facecolor("0.8")
    few = len(modules) <= 40
    for number, (row, column) in places.items():
        if few and len(modules) > 1:
            axes.text(column / step, row / step, f"{number}", va="bottom", ha="left", fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    what = "constants with a status bit, or masked" if name == "bad" else _words(name)
    axes.set_title(what, fontsize=9)


def _largest(image: NDArray[np.float64], step: int) -> NDArray[np.float64]:
    """Return the largest known value of each block of pixels."""
    rows, columns = (-(-size // step) for size in image.shape)
    whole = np.full((rows * step, columns * step), np.nan)
    whole[: image.shape[0], : image.shape[1]] = image
    blocks = whole.reshape(rows, step, columns, step)
    return np.asarray(np.fmax.reduce(np.fmax.reduce(blocks, axis=3), axis=1))


def tiled(
    modules: Mapping[int, NDArray[Any]],
) -> tuple[NDArray[np.float64], dict[int, tuple[int, int]]]:
    """Arrange images of modules in one image, with gaps of NaN.

    Returns
    -------
    image : 2-D array
    places : dict
        First pixel (row, column) of each module, by its number.
    """
    n = len(modules)
    height, width = next(iter(modules.values())).shape
    above, beside = (max(2, round(0.06 * size)) if n > 1 else 0 for size in (height, width))
    high, wide = height + above, width + beside
    whole = [k for k in range(1, n + 1) if n % k == 0]
    columns = min(whole, key=lambda k: abs(np.log(k * wide / (n / k * high) / _WIDE)))
    image = np.full((n // columns * high, columns * wide), np.nan)
    places = {}
    for i, (number, values) in enumerate(modules.items()):
        row, column = i // columns * high + above, i % columns * wide
        image[row : row + height, column : column + width] = values
        places[number] = (row, column)
    return image, places


def _words(name: str) -> str:
    return name.replace("_", " ")


def _label(summary: Mapping[str, Any], name: str) -> str:
    unit = summary["units"].get(name, "")
    return f"{_words(name)} ({unit})" if unit else _words(name)
