"""Background of a frame between its Bragg peaks, on cells of 4 x 4 pixels.

The background of a cell is the mean over a square window of cells. Cells with a Bragg peak (loud
cells) are found with a first mean and left out. A second mean finds further loud cells, which are
left out, too. A peak therefore does not raise its own background.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.simd.jit import kernel

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
I32 = NDArray[np.int32]

#: Pixels on the side of a cell.
CELL = 4
#: A loud cell exceeds the background by this multiple of `n_sigma`. With 4, only cells whose mean
#: pixel is a strong pixel would be loud; with 1, texture of a smooth background would be loud.
_LOUD = 3.0
#: A curved background is raised by the part of the curvature that exceeds this multiple of its
#: standard deviation, and by this fraction at most.
_SURE, _MOST_CURVED = 2.0, np.float32(0.5)
#: Variance of the curvature of a frame, divided by the variance of a window mean, for a mean B over
#: 5 x 5 cells: sum of the squares of 2 B - 3 B B + B B B, divided by the sum of the squares of B.
_DIFFERENCE = 1.17
#: Number of frames over which the curvature is averaged.
_FRAMES = 8
#: Fewest expected counts in a box, and fewest such boxes, for `dispersion`.
_ENOUGH_COUNTS, _ENOUGH_BOXES = 20.0, 1000


def window_cells(pixels: int) -> int:
    """Return the half size in cells of a window with the half size ``pixels``."""
    return max(1, round((2 * pixels + 1) / (2 * CELL) - 0.5))


@kernel
def _add_row(total: Any, row: Any) -> None:
    for j in range(total.size):
        total[j] += row[j]


@kernel
def window_sums(values: Any, half: int, out: Any) -> None:
    """Sum over square windows with sides of ``2 half + 1`` cells, cut at the borders."""
    rows, columns = values.shape
    line = np.zeros(columns + 2 * half, values.dtype)
    inner = line[half : half + columns]
    for i in range(rows):
        inner[:] = values[max(i - half, 0)]
        for k in range(max(i - half, 0) + 1, min(i + half + 1, rows)):
            _add_row(inner, values[k])
        out[i] = line[:columns]
        for k in range(1, 2 * half + 1):
            _add_row(out[i], line[k : k + columns])


@kernel(error_model="numpy")
def _rates(sums: Any, sizes: I32, least: int, rate: F32) -> None:
    for j in range(rate.size):
        # One count is added: a window without counts does not prove a zero rate.
        # Read noise can make sums of floats negative.
        seen = max(np.float32(sums[j]), np.float32(0.0))
        mean = (seen + np.float32(1.0)) / np.float32(max(sizes[j], 1))
        rate[j] = mean if sizes[j] >= least else rate[j]


@kernel(error_model="numpy")
def _loud(cells: Any, size: I32, rate: F32, limit: Any, done: U8, new: U8) -> bool:
    found = np.uint8(0)
    for j in range(new.size):
        expected = np.float32(size[j]) * rate[j]
        excess = np.float32(cells[j]) - expected
        high = (excess > np.float32(1.0)) & (excess * excess > limit * expected)
        new[j] = np.uint8(high) & (done[j] ^ np.uint8(1))
    for j in range(new.size):
        found |= new[j]
    return found != 0


@kernel
def cell_background(
    cells: Any, size: I32, half: int, n_sigma: float, rate: F32, loud: U8, sums: Any, sizes: I32
) -> tuple[float, float, int]:
    """Find the background per pixel around each cell.

    Parameters
    ----------
    cells
        Counts (rows, columns) of each cell, integers or 32-bit floats.
    size
        Number of valid pixels of each cell.
    half
        The sides of the window have ``2 half + 1`` cells.
    n_sigma
        Cells above their expected counts by more than 3 ``n_sigma`` standard deviations are left
        out.
    rate
        Out: counts per pixel (rows, columns); -1 where no valid pixel is near.
    loud
        Out: 1 for the cells that were left out.
    sums
        Working array like ``cells``.
    sizes
        In: number of valid pixels in the window of each cell (`window_sums`); changed.

    Returns
    -------
    whole, counts, pixels
        Counts of all cells; counts and pixels of the cells that are not loud.
    """
    rows, columns = cells.shape
    window_sums(cells, half, sums)
    rate[:] = np.float32(-1.0)
    loud[:] = 0
    limit = np.float32(_LOUD * _LOUD * n_sigma * n_sigma)
    # If few pixels are left in a window, the first mean is kept. It is too high, but this hides
    # only the edges of a peak; the peak itself is still found.
    few = max(1, (2 * half + 1) ** 2 * CELL * CELL // 20)
    new = np.zeros(columns, np.uint8)
    total, number = 0.0, 0
    for i in range(rows):
        _rates(sums[i], sizes[i], 1, rate[i])
        total += cells[i].sum()
        number += size[i].sum()
    whole = total
    for _ in range(2):
        for i in range(rows):
            if not _loud(cells[i], size[i], rate[i], limit, loud[i], new):
                continue
            for j in range(columns):
                if new[j] == 0:
                    continue
                loud[i, j] = 1
                total -= cells[i, j]
                number -= size[i, j]
                for a in range(max(i - half, 0), min(i + half + 1, rows)):
                    for b in range(max(j - half, 0), min(j + half + 1, columns)):
                        sums[a, b] -= cells[i, j]
                        sizes[a, b] -= size[i, j]
        for i in range(rows):
            _rates(sums[i], sizes[i], few, rate[i])
    return whole, total, number


@kernel(error_model="numpy")
def _curve_row(rate: F32, sums: F32, known: F32, weight: F32, curve: F32) -> None:
    for j in range(rate.size):
        here = max(rate[j], np.float32(0.0))
        mean = sums[j] / max(known[j], np.float32(1.0))
        more = np.float32(1.0) - mean / here if here > np.float32(0.0) else np.float32(0.0)
        curve[j] += weight * (more - curve[j])


@kernel(error_model="numpy")
def _raise_row(rate: F32, sums: F32, known: F32, sizes: I32, noise: F32, curve: F32) -> None:
    for j in range(rate.size):
        here = max(rate[j], np.float32(0.0))
        more = np.float32(2.0) * curve[j] - sums[j] / max(known[j], np.float32(1.0))
        seen = here * np.float32(max(sizes[j], 1))
        sure = more - np.sqrt(noise / seen) if here > np.float32(0.0) else np.float32(0.0)
        rate[j] += here * min(max(sure, np.float32(0.0)), _MOST_CURVED)


@kernel
def raise_curved(
    rate: F32, sizes: I32, known: F32, half: int, weight: float, noise: float, curve: F32, sums: F32
) -> None:
    """Raise the background of a frame where it is convex, as in a cloud of diffuse scattering.

    The window mean B of the true background I is too low on a maximum that is not much wider than
    the window, by (1 - B) I. With I = B I + (1 - B) I, two steps give the correction
    (1 - B) B I + (1 - B)² B I. It is averaged over the last frames, relative to the background, and
    added where it is significant.

    Parameters
    ----------
    rate
        Background (rows, columns) from `cell_background`; changed.
    sizes
        Number of valid pixels in the window of each cell.
    known
        Number of cells with a known background in the window of each cell.
    half
        The sides of the window have ``2 half + 1`` cells.
    weight
        Weight of this frame in the average.
    noise
        Variance of the average, relative to one frame.
    curve
        Average (rows, columns) of (1 - B) B I / B I; changed.
    sums
        Working array like ``rate``.
    """
    rows = rate.shape[0]
    window_sums(np.maximum(rate, np.float32(0.0)), half, sums)
    part, variance = np.float32(weight), np.float32(_SURE * _SURE * _DIFFERENCE * noise)
    for i in range(rows):
        _curve_row(rate[i], sums[i], known[i], part, curve[i])
    window_sums(curve, half, sums)
    for i in range(rows):
        _raise_row(rate[i], sums[i], known[i], sizes[i], variance, curve[i])


class Curvature:
    """Correction of the background of each frame for its curvature; see `raise_curved`.

    Parameters
    ----------
    shape
        Rows and columns of the cells.
    half
        The sides of the window have ``2 half + 1`` cells.
    """

    def __init__(self, shape: tuple[int, int], half: int) -> None:
        self._half, self._variance, self._n = half, 0.0, 0
        self._same = False
        self._curve, self._sums = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._known = np.zeros(shape, np.float32)

    def correct(self, rate: F32, sizes: I32, *, same: bool) -> None:
        """Correct the background (rows, columns) of the next frame.

        ``sizes`` is the number of valid pixels in the window of each cell. ``same`` is True if only
        the pixels of the mask are invalid.
        """
        if not same or not self._same:
            window_sums((rate >= 0).astype(np.float32), self._half, self._known)
        self._same, self._n = same, self._n + 1
        weight = max(1.0 / self._n, 1.0 / _FRAMES)
        self._variance = (1.0 - weight) ** 2 * self._variance + weight**2
        raise_curved(
            rate, sizes, self._known, self._half, weight, self._variance, self._curve, self._sums
        )


def dispersion(counts: NDArray[Any], rate: F32, valid: NDArray[np.bool_]) -> float:
    """Return the variance of the background counts over their mean, from boxes of 27 voxels.

    The 68.3 % quantile of squared deviations is the variance of a Gaussian; the few Bragg peaks
    do not change it.

    Parameters
    ----------
    counts
        Three frames (3, slow, fast).
    rate
        Background per pixel of the three frames on cells; -1 where unknown.
    valid
        True for pixels (slow, fast) with a measurement.

    Raises
    ------
    HklflowError
        If there is too little background.
    """

    def in_box(image: NDArray[Any]) -> F32:
        rows = image[:-2] + image[1:-1] + image[2:]
        return np.asarray(rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:])

    per_pixel = np.repeat(np.repeat(rate.sum(axis=0, dtype=np.float32), CELL, 0), CELL, 1)
    expected = in_box(per_pixel[: valid.shape[0], : valid.shape[1]])
    measured = in_box(counts.sum(axis=0, dtype=np.float32))
    use = (in_box(valid.astype(np.uint8)) == 9) & (expected >= _ENOUGH_COUNTS)
    if np.count_nonzero(use) < _ENOUGH_BOXES:
        raise HklflowError(
            f"only {np.count_nonzero(use)} pixels have enough background ({_ENOUGH_COUNTS:g} "
            "counts in a box of 27 voxels) to estimate the detector gain; set `gain`"
        )
    squares = (measured[use].astype(float) - expected[use]) ** 2 / expected[use]
    return float(np.quantile(squares, 0.683))
