"""Common parts of all pictures: figures without pyplot, colour ranges, saving."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    ScalarFormatter,
)
from numpy.typing import NDArray

from hklflow.base.values import FIRST_PANEL

IMAGE = "viridis"
SMALL = {"fontsize": 9}
"""The smallest print."""

WIDEST = 12.7
"""Largest width of a picture in inches; a page shows it without making the print smaller."""

_FEW_DECADES = 3
_DPI = 110
_EDGE = 4.0  # pixels around a panel
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


class _Powers(LogFormatterSciNotation):
    """Labels of a logarithmic axis as text, because parsing formulas takes as long as a picture."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        text = super().__call__(x, pos).replace(r"\times", "×")
        formula = re.fullmatch(r"\$\\mathdefault\{(.*)\}\$", text)
        if formula is None:
            return text
        return re.sub(r"\^\{(-?\d+)\}", lambda match: match[1].translate(_RAISED), formula[1])


def _number(x: float) -> str:
    """Return 200000 and 0.002, but 2×10⁻⁷ if the zeros are too many to count."""
    mantissa, _, power = f"{x:.5e}".partition("e")
    if -4 <= int(power) <= 6:
        return np.format_float_positional(float(f"{x:.5e}"), trim="-")
    return f"{float(mantissa):g}×10{str(int(power)).translate(_RAISED)}"


def _label_ticks(axis: Axis) -> None:
    """Label powers of ten, or numbers if the axis has less than three decades; no offsets."""
    major = axis.get_major_formatter()
    if isinstance(major, ScalarFormatter):
        major.set_useOffset(False)
    if not isinstance(major, LogFormatterSciNotation):
        return
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if low > 0 else np.inf
    if decades >= _FEW_DECADES:
        axis.set_major_formatter(_Powers())
        axis.set_minor_formatter(NullFormatter())
        return
    # Below about a decade, the numbers of a linear axis: an axis needs more than one number.
    locator = LogLocator(subs=(1, 2, 5)) if decades > 0.9 else MaxNLocator(6, steps=[1, 2, 5, 10])
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda x, _: _number(x)))
    axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG and draw it once; `Figure.savefig` would draw it twice.

    The text `FIRST_PANEL` of the file has the place of the first panel with its labels: left, top,
    right and bottom in pixels. The page of a sample shows it alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    figure.set_dpi(_DPI)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            _label_ticks(axis)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    size = canvas.get_width_height()
    image = Image.frombuffer("RGBA", size, canvas.buffer_rgba(), "raw", "RGBA", 0, 1)
    notes = PngInfo()
    if figure.axes and (box := figure.axes[0].get_tightbbox()) is not None:
        box = box.padded(_EDGE)
        edges = (box.x0, size[1] - box.y1, box.x1, size[1] - box.y0)
        place = np.clip(np.rint(edges), 0, (*size, *size))
        notes.add_text(FIRST_PANEL, " ".join(f"{x:.0f}" for x in place))
    image.convert("RGB").save(path, "PNG", dpi=(_DPI, _DPI), pnginfo=notes)


def figure_of(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def halves(figure: Figure, width_ratios: tuple[float, float] = (1, 1)) -> tuple[Any, Any]:
    """Split a figure into a left and a right part."""
    left, right = figure.subfigures(1, 2, width_ratios=list(width_ratios))  # type: ignore[misc]
    return left, right


def log_range(image: NDArray[Any]) -> LogNorm:
    """Return a colour range that shows the diffuse scattering; Bragg peaks saturate.

    In frames of few photons most pixels have 0, and nearly all others 1: both ends then lie
    further out, so that 0, 1, 2 and some more differ.
    """
    values = image[np.isfinite(image) & (image > 0)]
    if values.size == 0:
        return LogNorm(0.1, 1.0)
    low, high = np.percentile(values, [2.0, 99.0])
    if low == values.min() and (image == 0).any():
        low, high = low / 2, max(high, min(10 * low, values.max()))
    return LogNorm(max(low, high * 1e-5), max(high, low * 1.01))
