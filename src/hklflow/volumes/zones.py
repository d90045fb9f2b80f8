"""Means of S(Q) over the zones of the reciprocal lattice: parallelepipeds around integer hkl.

A zone holds one reflection and all directions between reflections in equal shares, so that its mean
is not biased by a mask around reflections or by diffuse scattering that peaks at them.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Zones:
    """Means over zones; arrays of n zones.

    Attributes
    ----------
    hkl : (n, 3) int array
        Reflection in the centre of the zone.
    mean : (n,) array
        Mean of S over the measured voxels of the zone.
    variance : (n,) array
        Variance of the mean by counting.
    curve : (n,) array
        Mean of a given function of |Q| over the same voxels.
    measured : (n,) array
        Fraction of the voxels of the zone that were measured.
    """

    hkl: NDArray[np.int64]
    mean: Floats
    variance: Floats
    curve: Floats
    measured: Floats

    def select(self, keep: NDArray[np.bool_]) -> "Zones":
        """Return the zones chosen by a mask."""
        return Zones(*(getattr(self, column.name)[keep] for column in fields(self)))


class ZoneSums:
    """Sums over the zones of a volume that is added slab by slab.

    Parameters
    ----------
    grid : Grid
    cell : (6,) array
    curve : (2, m) array
        |Q| (1/Å) and the values of a function there, such as the expected scattering. Within a zone
        it is not linear: its mean is not the value in the middle.
    """

    def __init__(self, grid: Grid, cell: ArrayLike, curve: Floats) -> None:
        self._axes = [grid.axis(i) for i in range(3)]
        self._metric = lattice.b_matrix(cell).T @ lattice.b_matrix(cell)
        self._curve = curve[0] ** 2, curve[1]
        # A voxel on the border, at half-integer h, belongs to the higher zone only.
        self._of = [np.floor(grid.axis(i) + 0.5 + 1e-6).astype(np.int64) for i in range(3)]
        self._first = np.array([of[0] for of in self._of])
        self._n = tuple(int(of[-1] - of[0]) + 1 for of in self._of)
        size = int(np.prod(self._n))
        self._whole = int(np.prod([max(1, round(1 / step)) for step in grid.step]))
        self._sums = np.zeros((4, size))

    def add(self, first: int, counts: Floats, norm: Floats, variance: Floats) -> None:
        """Add some planes of a volume.

        Parameters
        ----------
        first : int
            Index of the first plane.
        counts, norm, variance : (l, k, h) arrays
            Counts, norm, and the variance of the counts.
        """
        h, k, m = self._of
        zone = (m[first : first + len(counts), None, None] - self._first[2]) * self._n[1]
        zone = (zone + k[:, None] - self._first[1]) * self._n[0] + h - self._first[0]
        seen = norm > 0
        at, inverse = zone[seen], 1 / norm[seen]
        expected = np.interp(self._q_squared(first, len(counts))[seen], *self._curve)
        values = (None, counts[seen] * inverse, variance[seen] * inverse**2, expected)
        for total, value in zip(self._sums, values, strict=True):
            total += np.bincount(at, weights=value, minlength=len(total))

    def _q_squared(self, first: int, planes: int) -> Floats:
        """Return |Q|² of the voxels (planes, k, h)."""
        g, (h, k, m) = self._metric, self._axes
        m = m[first : first + planes, None, None]
        k = k[:, None]
        found: Floats = h * (g[0, 0] * h + 2 * g[0, 1] * k + 2 * g[0, 2] * m)
        found += k * (g[1, 1] * k + 2 * g[1, 2] * m) + g[2, 2] * m**2
        return found

    def zones(self) -> Zones:
        """Return the means of all zones that were measured."""
        kept = np.flatnonzero(self._sums[0])
        n, total, variance, curve = self._sums[:, kept]
        rest, h = np.divmod(kept, self._n[0])
        m, k = np.divmod(rest, self._n[1])
        hkl = np.stack([h, k, m], axis=1) + self._first
        return Zones(hkl, total / n, variance / n**2, curve / n, n / self._whole)
