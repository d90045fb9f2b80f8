"""Map of the differences between rotations: where in reciprocal space they disagree.

In each cube of voxels, ``d = Σ x / Σ v`` with the x and v of `pairs` is the relative difference of
S between a rotation and the others, and ``1 / √(Σ v)`` its standard deviation by counting noise. A
voxel alone has too few counts; a cube shows a few per cent.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid

Floats = NDArray[np.float64]

EDGE = 8
"""Smallest edge of a cube in voxels; `pairs` sums squares of this edge."""
_MOST = 64  # cubes along an axis


class DisagreementMap:
    """Sums of x and v of each rotation in cubes of voxels; parts of a volume are added.

    Attributes
    ----------
    edge : int
        Edge of a cube in voxels.
    x, v : (n, l, k, h) arrays
        Sums in the cubes.

    Parameters
    ----------
    n : int
        Number of rotations.
    grid : Grid
        Grid of the volumes.
    """

    def __init__(self, n: int, grid: Grid) -> None:
        self._grid = grid
        self.edge = EDGE * max(1, -(-max(grid.shape) // (EDGE * _MOST)))
        self.x, self.v = np.zeros((2, n, *(-(-size // self.edge) for size in grid.array_shape)))

    def add(self, rotation: int, planes: ArrayLike, row: int, x: Floats, v: Floats) -> None:
        """Add some planes of a rotation.

        Parameters
        ----------
        planes : (p,) int array
            Numbers of the planes in the volume.
        row : int
            First row along k, a multiple of `EDGE`.
        x, v : (p, k, h) arrays
            Sums in squares of `EDGE` × `EDGE` voxels.
        """
        n_k, n_h = x.shape[1:]
        k = (row // EDGE + np.arange(n_k)) * EDGE // self.edge
        h = np.arange(n_h) * EDGE // self.edge
        at = np.ix_(np.asarray(planes) // self.edge, k, h)
        np.add.at(self.x[rotation], at, x)
        np.add.at(self.v[rotation], at, v)

    @property
    def difference(self) -> Floats:
        """Relative difference (n, l, k, h) of S from the other rotations; NaN if not compared."""
        return _ratio(self.x, self.v)

    @property
    def sigma(self) -> Floats:
        """Standard deviation (n, l, k, h) of `difference` by counting noise."""
        return _ratio(np.sqrt(self.v), self.v)

    @property
    def significance(self) -> Floats:
        """Largest absolute difference (l, k, h) of a rotation in standard deviations."""
        z = np.abs(_ratio(self.x, np.sqrt(self.v)))
        largest = np.max(np.where(np.isfinite(z), z, -1.0), axis=0)
        return np.where(largest < 0, np.nan, largest)

    def axis(self, i: int) -> Floats:
        """Return the h, k or l (``i`` = 0, 1, 2) of the centres of the cubes."""
        first = np.arange(0, self._grid.shape[i], self.edge)
        last = np.minimum(first + self.edge, self._grid.shape[i]) - 1
        return np.asarray(self._grid.first[i] + self._grid.step[i] * (first + last) / 2)

    def worst(self, names: list[str]) -> dict[str, Any] | None:
        """Describe the cube with the most significant difference; None if nothing is compared."""
        z = _ratio(self.x, np.sqrt(self.v))
        compared = np.isfinite(z)
        if not compared.any():
            return None
        i, *at = np.unravel_index(int(np.argmax(np.where(compared, np.abs(z), -1.0))), z.shape)
        return {
            "rotation": names[int(i)],
            "hkl": [float(self.axis(j)[at[2 - j]]) for j in range(3)],
            "difference": float(self.difference[i, *at]),
            "sigma": float(self.sigma[i, *at]),
            "cubes": int(compared.any(axis=0).sum()),
            "edge in voxels": self.edge,
        }


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)
