"""Measured part of each shell of |Q|."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.geometry.lattice import reciprocal
from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]

_SEEN = 32  # the upper 32 bits of a number count measured voxels, the lower bits all voxels


class Shells:
    """Number of voxels, and of measured voxels, in each shell of a grid; counted plane by plane.

    Parameters
    ----------
    grid : Grid
    cell : (6,) array
        Cell, Å and degrees.
    n : int
        Number of shells, from |Q| = 0 to beyond the corners of the grid.

    Attributes
    ----------
    edges : (n + 1,) array
        Edges of the shells in |Q|, 1/Å.
    inside : (n,) int array
        Number of voxels whose centre is in the shell.
    seen : (n,) int array
        Number of these voxels with a norm above 0.
    """

    def __init__(self, grid: Grid, cell: ArrayLike, n: int = 120) -> None:
        lengths, angles = np.split(reciprocal(cell), 2)
        star = np.cos(np.radians(angles))
        self._metric = np.diag(lengths**2)
        for i, j, c in ((1, 2, star[0]), (0, 2, star[1]), (0, 1, star[2])):
            self._metric[i, j] = self._metric[j, i] = lengths[i] * lengths[j] * c
        self._axes = [grid.axis(i) for i in range(3)]
        corner = np.array([np.abs(axis).max() for axis in self._axes])
        # The minimum is for a grid that consists only of the origin.
        self.edges = np.linspace(0, max(float(np.sum(corner * lengths)), 1e-6), n + 1)
        self.inside, self.seen = np.zeros(n, np.int64), np.zeros(n, np.int64)

    def add(self, first: int, norm: NDArray[np.generic]) -> None:
        """Count the planes (l, k, h) of the norm from ``first`` on."""
        h, k, l = self._axes  # noqa: E741
        _count(norm, h, k, l[first:], self._metric, 1 / self.edges[1], self.inside, self.seen)


@kernel
def _count(norm, h, k, l, metric, per_q, inside, seen):  # type: ignore[no-untyped-def]  # noqa: E741
    n, n_h = inside.size, h.size
    index = np.empty(n_h, np.int32)
    # Four tables are used, because neighbours are in the same shell and would wait for each other
    # in a single table.
    tables = np.zeros((4, n), np.int64)
    for i in range(norm.shape[0]):
        for j in range(norm.shape[1]):
            across = 2 * (metric[0, 1] * k[j] + metric[0, 2] * l[i])
            other = metric[1, 1] * k[j] ** 2 + metric[2, 2] * l[i] ** 2
            other += 2 * metric[1, 2] * k[j] * l[i]
            for m in range(n_h):
                q2 = (metric[0, 0] * h[m] + across) * h[m] + other
                # If the grid is a line, its ends are on the last edge.
                index[m] = np.int32(min(np.sqrt(max(q2, 0.0)) * per_q, n - 1.0))
            for m in range(n_h):
                tables[m & 3, index[m]] += 1 | (np.int64(norm[i, j, m] > 0) << _SEEN)
        # Empty the tables before the lower 32 bits of a number can overflow.
        for m in range(n):
            for table in range(4):
                inside[m] += tables[table, m] & ((1 << _SEEN) - 1)
                seen[m] += tables[table, m] >> _SEEN
        tables[:] = 0
