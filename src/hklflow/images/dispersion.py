"""Index of dispersion of the background: 1 where photons are counted, the gain else.

What counts g for each photon has the variance g times the mean. As in `images.noise`, pairs of
consecutive frames are compared: with the total n of a pixel given, its count x in the first frame
is binomial, and t = (x - s n)² / (s (1 - s) n) has the mean g, s being the first frame's share of
the beam. What changes slowly drops out.

A Bragg peak that is in one frame of a pair only is no background. With n given the mean of t does
not depend on n, so tiles may be chosen by n without a bias: those with a pixel far above the others
are left out, and of the means of the rest those that are far off.
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
# Of a tile that is used: pixels that are good, and pixels that have counts.
_GOOD, _COUNTING = TILE * TILE // 4, TILE * TILE // 8


@dataclass(frozen=True)
class Dispersion:
    """Index of dispersion of one module.

    Attributes
    ----------
    value, error : float
        NaN where no tile has counts enough.
    tiles : int
        Tiles of all pairs that it is the mean of.
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
        Values from here on are no measurement, see :func:`hklflow.images.masks.flag_value`.
    """

    def __init__(self, modules: NDArray[np.int64], *, flag_from: float = math.inf) -> None:
        self._modules = [tuple(int(x) for x in box) for box in modules]
        self._flag = flag_from
        self._means: list[list[NDArray[np.float64]]] = [[] for _ in self._modules]

    def add(self, pair: NDArray[Any], bad: BoolImage) -> None:
        """Add two consecutive frames (2, slow, fast); bad pixels (slow, fast) do not count."""
        if pair.shape != (2, *bad.shape):
            raise HklflowError(f"frames {pair.shape} are no pair for the mask {bad.shape}")
        for (s0, s1, f0, f1), means in zip(self._modules, self._means, strict=True):
            part = pair[:, s0:s1, f0:f1]
            seen = ~bad[s0:s1, f0:f1] & ~flagged(part, self._flag).any(axis=0)
            total = part.sum(axis=0, dtype=np.float64)
            means.append(_tile_means(_tiles(part[0], seen), _tiles(total, seen)))

    def result(self) -> list[Dispersion]:
        """One for each module."""
        found = []
        for means in self._means:
            values = np.concatenate(means) if means else np.zeros(0)
            if len(values) == 0:
                found.append(Dispersion(math.nan, math.nan, 0))
                continue
            centre = float(np.median(values))
            scatter = 1.4826 * float(np.median(np.abs(values - centre)))
            kept = values[np.abs(values - centre) <= 4 * scatter]
            error = scatter / math.sqrt(len(kept))
            found.append(Dispersion(float(kept.mean()), error, len(kept)))
        return found


def _tiles(values: NDArray[Any], seen: BoolImage) -> NDArray[np.float64]:
    """Values (tiles, pixels) as floats, NaN where not seen; the rim is filled up with NaN."""
    image = np.where(seen, values, np.nan).astype(np.float64)
    rows, columns = (-size % TILE for size in image.shape)
    image = np.pad(image, ((0, rows), (0, columns)), constant_values=np.nan)
    n_rows, n_columns = (size // TILE for size in image.shape)
    tiled = image.reshape(n_rows, TILE, n_columns, TILE).swapaxes(1, 2)
    return tiled.reshape(n_rows * n_columns, TILE * TILE)


def _tile_means(first: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean t of each tile without a peak; none where most tiles have few counts."""
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
    # Of tiles with few counts those that have many were chosen by what they counted.
    if not 0 < of_first < of_both or np.median(numbers) < _COUNTING:
        return np.zeros(0)
    share = of_first / of_both
    n = np.where(counting, total, 1.0)
    t = np.where(counting, (first - share * n) ** 2 / (share * (1 - share) * n), 0.0)
    return np.asarray(t.sum(axis=1)[numbers > 0] / numbers[numbers > 0])
