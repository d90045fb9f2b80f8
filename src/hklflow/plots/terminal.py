"""Pictures as lines of text, for a terminal: functions that convert arrays to `str`.

In colour, images are half blocks in 24-bit colour, with two points of the picture in each
character, and curves are braille dots. Plain images have one character for two points, and plain
curves are asterisks. The text does not depend on the terminal: `hklflow.cli.draw` examines the
terminal.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import LogNorm, Normalize
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RAMP = ".:-=+*#%@"
"""Plain characters from low to high values."""
SIGNED = "#=-.+o@"
"""Plain characters from negative to positive values."""
_RESET = "\x1b[0m"
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_FINEST = 6  # largest number of samples along each side of a point of the picture


def raster(
    image: ArrayLike, columns: int, rows: int, matrix: ArrayLike | None = None, upward: bool = True
) -> Floats:
    """Return points of a picture of an image, as large as possible; NaN outside the image.

    Parameters
    ----------
    image : (m, n) array
    columns, rows : int
        Largest number of points of the picture.
    matrix : (2, 2) array, optional
        Matrix from steps of (column, row) of the image to lengths across and up; default: squares.
    upward : bool
        True if the first row of the image is the lowest.

    Returns
    -------
    (r, c) array
        Means of the values in each point; the first row is on top, r is even.
    """
    values = np.asarray(image, dtype=np.float64)
    to_lengths = np.eye(2) if matrix is None else np.asarray(matrix, dtype=np.float64)
    row, column = np.nonzero(np.isfinite(values))
    if not row.size:
        row, column = np.nonzero(np.ones(values.shape))
    extent = to_lengths @ (np.stack([column, row]) + 0.5)
    pad = np.abs(to_lengths).sum(axis=1) / 2
    low, high = extent.min(axis=1) - pad, extent.max(axis=1) + pad
    point = max((high[0] - low[0]) / columns, (high[1] - low[1]) / rows)
    across, down = (max(1, round(x)) for x in (high - low) / point)
    cells = np.linalg.norm(to_lengths, axis=0)
    thin = [max(1, int(point / (3 * cell))) for cell in cells]
    values, to_lengths = _thinned(values, thin[1], thin[0]), to_lengths * thin
    # Samples of each point, fine enough to reach every remaining cell.
    n = int(np.clip(np.ceil(point / np.linalg.norm(to_lengths, axis=0).min() - 1e-9), 1, _FINEST))
    x = low[0] + point * (np.arange(across * n) + 0.5) / n
    y = low[1] + point * (np.arange(down * n) + 0.5) / n
    if upward:
        y = y[::-1]
    place = np.einsum("ab,bij->aij", np.linalg.inv(to_lengths), np.stack(np.meshgrid(x, y)))
    j, i = np.floor(place + 1e-9).astype(np.int64)
    inside = (i >= 0) & (i < values.shape[0]) & (j >= 0) & (j < values.shape[1])
    sampled = np.full(i.shape, np.nan)
    sampled[inside] = values[i[inside], j[inside]]
    found = _thinned(sampled, n, n)
    return np.concatenate([found, np.full((down % 2, across), np.nan)])


def _thinned(values: Floats, rows: int, columns: int) -> Floats:
    """Return means of blocks of rows x columns, over the measured values in each block."""
    if rows == columns == 1:
        return values
    m, n = (-(-size // step) for size, step in zip(values.shape, (rows, columns), strict=True))
    padded = np.full((m * rows, n * columns), np.nan)
    padded[: values.shape[0], : values.shape[1]] = values
    parts = padded.reshape(m, rows, n, columns)
    number = np.isfinite(parts).sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(parts, axis=(1, 3)) / np.where(number, number, np.nan))


def image_lines(points: Floats, norm: Normalize, cmap: str, colour: bool) -> list[str]:
    """Return lines of a picture of points (r, c), with even r; each line has c characters."""
    pairs = points.reshape(-1, 2, points.shape[1])
    if not colour:
        number = np.isfinite(pairs).sum(axis=1)
        with np.errstate(invalid="ignore"):
            means = np.nansum(pairs, axis=1) / np.where(number, number, np.nan)
        ramp = ramp_of(norm)
        at = np.minimum((_scaled(means, norm) * len(ramp)).astype(np.int64), len(ramp) - 1)
        drawn = np.where(np.isfinite(means), np.array([*ramp])[at], " ")
        return ["".join(line) for line in drawn]
    rgb = colormaps[cmap](_scaled(pairs, norm), bytes=True)[..., :3]
    finite = np.isfinite(pairs)
    return [_coloured(*rgb[i], *finite[i]) for i in range(len(pairs))]


def ramp_of(norm: Normalize) -> str:
    """Return the plain characters for a range of values."""
    return SIGNED if norm.vmin is not None and norm.vmin == -(norm.vmax or 0) else RAMP


def _scaled(values: Floats, norm: Normalize) -> Floats:
    """Scale values to 0 to 1; 0 for values that are not finite, or not positive on a log scale."""
    lowest = float(norm.vmin or 0.0)
    shown = np.where(values <= 0, lowest, values) if isinstance(norm, LogNorm) else values
    shown = np.where(np.isfinite(shown), shown, lowest)
    # A logarithmic range accepts at most two dimensions.
    scaled = np.asarray(norm(shown.ravel()), dtype=np.float64).reshape(shown.shape)
    return np.clip(scaled, 0.0, 1.0)


def _coloured(upper: Any, lower: Any, has_upper: Any, has_lower: Any) -> str:
    """Return one line of half blocks, with escapes only where the colour changes."""
    text, front, back = "", "", ""
    for above, below, one, two in zip(upper, lower, has_upper, has_lower, strict=True):
        colours = [";".join(map(str, rgb)) for rgb in (above, below)]
        ink = colours[0] if one else colours[1] if two else front
        ground = colours[1] if one and two else ""
        if ground != back:
            text += f"\x1b[48;2;{ground}m" if ground else "\x1b[49m"
        if ink != front:
            text += f"\x1b[38;2;{ink}m"
        front, back = ink, ground
        text += "▀" if one else "▄" if two else " "
    return text + _RESET


def bar_line(norm: Normalize, cmap: str, label: str, colour: bool, length: int = 24) -> str:
    """Return a line with the range of the colours or characters, and their label."""
    ends = [f"{float(x or 0.0):.4g}" for x in (norm.vmin, norm.vmax)]
    if colour:
        rgb = colormaps[cmap](np.linspace(0, 1, length), bytes=True)[:, :3]
        drawn = "".join(f"\x1b[38;2;{r};{g};{b}m█" for r, g, b in rgb) + _RESET
    else:
        drawn = ramp_of(norm)
    scale = ", logarithmic" if isinstance(norm, LogNorm) else ""
    return f"{ends[0]} {drawn} {ends[1]}  {label}{scale}"


def beside(parts: Sequence[Sequence[str]], widths: Sequence[int], gap: int = 2) -> list[str]:
    """Return the lines of pictures side by side; ``widths`` do not include escapes."""
    high = max(map(len, parts))
    lines = []
    for i in range(high):
        # A line with escapes is as wide as its picture; other lines are padded.
        cells = [
            (part[i] if "\x1b" in part[i] else f"{part[i]:{width}}")
            if i < len(part)
            else " " * width
            for part, width in zip(parts, widths, strict=True)
        ]
        lines.append((" " * gap).join(cells).rstrip(" "))
    return lines


def curve_lines(
    x: ArrayLike,
    y: ArrayLike,
    errors: ArrayLike | None = None,
    *,
    width: int,
    height: int,
    rich: bool,
    joined: bool = True,
) -> list[str]:
    """Return lines of a curve with its error bars, and the ends of both axes.

    Parameters
    ----------
    x, y, errors : (n,) array
    width, height : int
        Size in characters; the x axis takes one more line.
    rich : bool
        True for braille dots, False for asterisks.
    joined : bool
        True to join the points by lines.
    """
    at, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    sigma = np.zeros(values.shape) if errors is None else np.asarray(errors, dtype=np.float64)
    good = np.isfinite(at) & np.isfinite(values)
    at, values, sigma = at[good], values[good], np.nan_to_num(sigma[good])
    if not at.size:
        return ["nothing to draw: all values are NaN or infinite"]
    low, high = _ends(float((values - sigma).min()), float((values + sigma).max()), values.min())
    left, right = float(at.min()), float(at.max())
    labels = [f"{end:.4g}" for end in (high, low)]
    margin = max(map(len, labels)) + 1
    columns, lines = max(8, width - margin - 1), max(2, height)
    fine = (2, 4) if rich else (1, 1)
    shape = (lines * fine[1], columns * fine[0])
    i = (high - values) / (high - low) * (shape[0] - 1)
    j = (at - left) / ((right - left) or 1.0) * (shape[1] - 1)
    reach = sigma / (high - low) * (shape[0] - 1)
    bars, marks = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for a, b, half in zip(i, j, reach, strict=True):
        marks[round(a), round(b)] = True
        if half:
            top, bottom = max(0, round(a - half)), min(shape[0] - 1, round(a + half))
            bars[top : bottom + 1, round(b)] = True
    if joined:
        for k in range(len(i) - 1):
            far = max(abs(i[k + 1] - i[k]), abs(j[k + 1] - j[k]))
            n = max(1, int(np.ceil(far - 1e-9)))
            steps = np.linspace(0, 1, n + 1)
            rows, places = i[k] + steps * (i[k + 1] - i[k]), j[k] + steps * (j[k + 1] - j[k])
            marks[np.rint(rows).astype(int), np.rint(places).astype(int)] = True
    drawn = _braille(bars | marks) if rich else _plain(bars, marks)
    heads = [labels[0], *[""] * (lines - 2), labels[1]]
    ends = [f"{end:.6g}" for end in (left, right)]
    axis = f"{ends[0]}{ends[1]:>{max(columns - len(ends[0]), len(ends[1]) + 1)}}"
    side = "│" if rich else "|"
    return [
        *(
            f"{head:>{margin}}{side}{line}".rstrip()
            for head, line in zip(heads, drawn, strict=True)
        ),
        " " * (margin + 1) + axis,
    ]


def _ends(low: float, high: float, least: float) -> tuple[float, float]:
    """Return the ends of the axis; the axis begins at 0 if 0 is close."""
    if 0 <= least < 0.5 * high:
        low = min(low, 0.0)
    if high > low:
        return low, high
    return low - (abs(low) or 1.0), high + (abs(high) or 1.0)


def _braille(dots: NDArray[np.bool_]) -> list[str]:
    cells = dots.reshape(dots.shape[0] // 4, 4, dots.shape[1] // 2, 2).transpose(0, 2, 1, 3)
    codes = (cells * _DOTS).sum(axis=(2, 3))
    return ["".join(chr(0x2800 + int(code)) if code else " " for code in line) for line in codes]


def _plain(bars: NDArray[np.bool_], marks: NDArray[np.bool_]) -> list[str]:
    drawn = np.where(marks, "*", np.where(bars, "|", " "))
    return ["".join(line) for line in drawn]
