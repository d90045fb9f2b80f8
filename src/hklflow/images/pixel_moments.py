"""Mean, standard deviation and maximum of every pixel over frames, and outliers of an image."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import BoolImage
from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]
# Number of rows whose neighbourhoods are sorted at a time.
_ROWS = 64


@kernel
def _add(block, levels, bad, valid_from, flag_from, frames, light, total, squares, largest):  # type: ignore[no-untyped-def]
    for k in range(block.shape[0]):
        for i in range(block.shape[1]):
            for j in range(block.shape[2]):
                x = float(block[k, i, j])
                if bad[i, j] or not valid_from <= x < flag_from:
                    continue
                frames[i, j] += 1
                light[i, j] += levels[k]
                total[i, j] += x
                squares[i, j] += x * x / levels[k]
                largest[i, j] = max(largest[i, j], x)


@dataclass(frozen=True)
class Moments:
    """Sums over frames, arrays (slow, fast); 0 for pixels that were never measured.

    Attributes
    ----------
    frames : int64 array
        Number of frames with a measurement.
    light : array
        Sum of the levels of the frames with a measurement of the pixel.
    total : array
        Sum of the values; exact for integer counts.
    squares : array
        Sum of the squared values, each divided by the level of its frame.
    largest : array
        Largest value.
    """

    frames: NDArray[np.int64]
    light: Floats
    total: Floats
    squares: Floats
    largest: Floats

    @property
    def mean(self) -> Floats:
        """Mean value per frame, NaN for pixels that were never measured."""
        return np.divide(self.total, self.frames, where=self.frames > 0, out=_nan(self.total))

    @property
    def std(self) -> Floats:
        """Standard deviation over the frames, for levels of 1; NaN for fewer than 2 frames."""
        enough = self.frames > 1
        excess = self.squares - self.total**2 / np.maximum(self.frames, 1)
        variance = np.divide(excess, self.frames - 1, where=enough, out=_nan(self.total))
        return np.sqrt(np.maximum(variance, 0))

    @property
    def dispersion(self) -> Floats:
        """Index of dispersion: χ² relative to the levels, divided by N - 1; NaN without counts.

        For levels of 1 the index is variance / mean (Fano factor). For photon counts the index is
        1.
        """
        enough = (self.frames > 1) & (self.total > 0)
        rate = np.divide(self.total, self.light, where=enough, out=_nan(self.total))
        chi2 = np.divide(self.squares, rate, where=enough, out=_nan(self.total)) - self.total
        return chi2 / np.where(enough, self.frames - 1, 1)


class PixelMoments:
    """Sums over frames, added block by block; the result does not depend on the blocks.

    Parameters
    ----------
    bad
        Pixels (slow, fast) that are left out.
    flag_from
        Smallest invalid value, see :func:`hklflow.images.masks.flag_value`.
    valid_from
        Values below this value are invalid; non-finite values are always invalid.
    """

    def __init__(
        self, bad: BoolImage, *, flag_from: float = math.inf, valid_from: float = 0.0
    ) -> None:
        self._bad, self._from, self._flag = bad, valid_from, flag_from
        self._frames = np.zeros(bad.shape, np.int64)
        self._sums = [np.zeros(bad.shape) for _ in range(3)]
        self._largest = np.full(bad.shape, -math.inf)

    def add(self, block: NDArray[Any], levels: ArrayLike | None = None) -> None:
        """Add frames (n, slow, fast) with relative intensities ``levels`` (n,); None: all 1."""
        if block.shape[1:] != self._bad.shape:
            raise HklflowError(
                f"frames of shape {block.shape} do not match a mask of shape {self._bad.shape}"
            )
        level = np.ones(len(block)) if levels is None else np.asarray(levels, np.float64)
        arrays = self._frames, *self._sums, self._largest
        _add(block, level, self._bad, self._from, self._flag, *arrays)

    def result(self) -> Moments:
        """Return the sums; those of frames that are added afterwards may change with them."""
        largest = np.where(self._frames == 0, 0.0, self._largest)
        light, total, squares = self._sums
        return Moments(self._frames, light, total, squares, largest)


def local_outliers(
    values: Floats, bad: BoolImage, n_sigma: float, radius: int = 3
) -> tuple[BoolImage, BoolImage]:
    """Find pixels with values far below, and far above, the values of the pixels around them.

    A pixel is compared with the median of the other good pixels in a square with sides of
    ``2 radius + 1`` pixels, in units of the scatter of these pixels (1.4826 MAD). Pixels with fewer
    than 8 good neighbours are not judged, nor pixels whose neighbours have a scatter of 0. The
    scatter is 0 if more than half of the neighbours are equal, which is usual for few counts.

    Parameters
    ----------
    values
        Image (slow, fast); non-finite values are bad.
    bad
        Pixels (slow, fast) that are neither judged nor used as neighbours.
    n_sigma
        Smallest deviation of an outlier, in units of the scatter.

    Returns
    -------
    tuple
        Two bool images (slow, fast): below, above.
    """
    side = 2 * radius + 1
    known = np.where(bad | ~np.isfinite(values), np.inf, values)
    padded = np.pad(known, radius, constant_values=np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side))
    others = np.ones(side * side, bool)
    others[side * side // 2] = False
    below, above = np.zeros(values.shape, bool), np.zeros(values.shape, bool)
    for start in range(0, values.shape[0], _ROWS):
        rows = slice(start, start + _ROWS)
        near = windows[rows].reshape(-1, values.shape[1], side * side)[..., others]
        centre = _middle(near)
        apart = np.abs(np.where(np.isfinite(near), near - centre[..., None], np.inf))
        scatter = 1.4826 * _middle(apart)
        judged = (np.isfinite(near).sum(axis=-1) >= 8) & np.isfinite(known[rows]) & (scatter > 0)
        excess = np.where(judged, known[rows] - centre, 0.0)
        below[rows], above[rows] = excess < -n_sigma * scatter, excess > n_sigma * scatter
        below[rows] &= judged
        above[rows] &= judged
    return below, above


def _middle(values: Floats) -> Floats:
    """Return the median of the finite values along the last axis; 0 without finite values."""
    ordered = np.sort(values, axis=-1)  # finite values come before infinity
    n = np.isfinite(ordered).sum(axis=-1)
    low, high = (
        np.take_along_axis(ordered, np.maximum(rank, 0)[..., None], -1)[..., 0]
        for rank in ((n - 1) // 2, n // 2)
    )
    return np.where(n > 0, (low + high) / 2, 0.0)


def _nan(like: Floats) -> Floats:
    return np.full(like.shape, np.nan)
