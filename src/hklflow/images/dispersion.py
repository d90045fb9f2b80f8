"""Index of dispersion of the background: 1 for photon counts, else the gain of the detector.

If a detector records g counts per photon, the variance of the counts is g times their mean. As in
`images.noise`, pairs of consecutive frames are compared. For a given total n of a pixel in both
frames, the count x in the first frame is binomial. t = (x - s n)² / (s (1 - s) n) then has the mean
g; s is the first frame's share of the beam. Slow changes cancel.

A Bragg peak on only one frame of a pair must be left out. The mean of t does not depend on n, so
tiles can be selected by n without bias. Tiles with a pixel far above the other pixels are left out,
and then tiles whose mean t is an outlier.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import BoolImage, flagged

TILE = 16
"""Side of a tile in pixels."""
# Fewest good pixels, and fewest pixels with counts, of a tile that is used.
_GOOD, _COUNTING = TILE * TILE // 4, TILE * TILE // 8


@dataclass(frozen=True)
class Dispersion:
    """Index of dispersion of one module.

    Attributes
    ----------
    value, error : float
        Index and its standard error; NaN if no tile has enough counts.
    tiles : int
        Number of averaged tiles in all pairs.
    """

    value: float
    error: float
    tiles: int


class ModuleDispersion:
    """Index of dispersion of every module, from pairs of consecutive frames.

    Parameters
    ----------
    modules
        Rectangles (n, 4): first and last + 1 pixel along slow, then along fast.
    flag_from
        Smallest invalid value, see :func:`hklflow.images.masks.flag_value`.
    """

    def __init__(self, modules: NDArray[np.int64], *, flag_from: float = math.inf) -> None:
        self._modules = [tuple(int(x) for x in box) for box in modules]
        self._flag = flag_from
        self._means: list[list[NDArray[np.float64]]] = [[] for _ in self._modules]

    def add(self, pair: NDArray[Any], bad: BoolImage) -> None:
        """Add two consecutive frames (2, slow, fast); bad pixels (slow, fast) are left out."""
        if pair.shape != (2, *bad.shape):
            raise HklflowError(
                f"frames of shape {pair.shape} are not a pair for a mask of shape {bad.shape}"
            )
        for (s0, s1, f0, f1), means in zip(self._modules, self._means, strict=True):
            part = pair[:, s0:s1, f0:f1]
            good = ~bad[s0:s1, f0:f1] & ~flagged(part, self._flag).any(axis=0)
            total = part.sum(axis=0, dtype=np.float64)
            means.append(_tile_means(_tiles(part[0], good), _tiles(total, good)))

    def result(self) -> list[Dispersion]:
        """Return the dispersion of each module."""
        dispersions = []
        for means in self._means:
            values = np.concatenate(means) if means else np.zeros(0)
            if len(values) == 0:
                dispersions.append(Dispersion(math.nan, math.nan, 0))
                continue
            centre = float(np.median(values))
            scatter = 1.4826 * float(np.median(np.abs(values - centre)))
            kept = values[np.abs(values - centre) <= 4 * scatter]
            error = scatter / math.sqrt(len(kept))
            dispersions.append(Dispersion(float(kept.mean()), error, len(kept)))
        return dispersions


def _tiles(values: NDArray[Any], good: BoolImage) -> NDArray[np.float64]:
    """Divide an image into tiles: floats (tiles, pixels), NaN for bad pixels and padding."""
    image = np.where(good, values, np.nan).astype(np.float64)
    rows, columns = (-size % TILE for size in image.shape)
    image = np.pad(image, ((0, rows), (0, columns)), constant_values=np.nan)
    n_rows, n_columns = (size // TILE for size in image.shape)
    tiled = image.reshape(n_rows, TILE, n_columns, TILE).swapaxes(1, 2)
    return tiled.reshape(n_rows * n_columns, TILE * TILE)


def _tile_means(first: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean t of each tile without a peak; empty if most tiles have few counts."""
    good = np.isfinite(total).sum(axis=1) >= _GOOD
    first, total = first[good], total[good]
    if len(total) == 0:
        return np.zeros(0)
    centre = np.nanmedian(total, axis=1, keepdims=True)
    scatter = 1.4826 * np.nanmedian(np.abs(total - centre), axis=1, keepdims=True)
    calm = np.nanmax(total - centre - 5 * scatter, axis=1) <= 4
    first, total = first[calm], total[calm]
    counting = total > 0
    numbers = counting.sum(axis=1)
    of_first, of_both = np.sum(first[counting]), np.sum(total[counting])
    # With few counts, the choice of pixels with counts would bias t.
    if not 0 < of_first < of_both or np.median(numbers) < _COUNTING:
        return np.zeros(0)
    share = of_first / of_both
    n = np.where(counting, total, 1.0)
    t = np.where(counting, (first - share * n) ** 2 / (share * (1 - share) * n), 0.0)
    return np.asarray(t.sum(axis=1)[numbers > 0] / numbers[numbers > 0])
