"""Means over cubes of voxels, from small to large ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def halved(cubes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums of cubes over pairs along each axis."""
    even = np.pad(cubes, [(0, n % 2) for n in cubes.shape])
    n_l, n_k, n_h = (n // 2 for n in even.shape)
    halved: NDArray[np.float32] = even.reshape(n_l, 2, n_k, 2, n_h, 2).sum(axis=(1, 3, 5))
    return halved


def interpolated(levels: list[tuple[Any, Any]], where: Indices) -> Floats:
    """Return the mean residual around voxels, from the smallest cubes with 8 measured voxels.

    Values are interpolated between cubes of each size. Where cubes have fewer than 8 measured
    voxels, the next larger size gets the rest of the weight.
    """
    from scipy.ndimage import map_coordinates

    value, trust = np.zeros(len(where)), np.ones(len(where))
    for i, (sums, counts) in enumerate(levels):
        edge = 2 ** (i + 1)
        place = ((where + 0.5) / edge - 0.5).T
        total, n = (map_coordinates(x, place, order=1, mode="nearest") for x in (sums, counts))
        # The next size gets the remaining weight.
        share = np.minimum(n / 8.0, 1.0) * trust
        value += share * np.divide(total, n, out=np.zeros(len(n)), where=n > 1e-6)
        trust -= share
    return value
