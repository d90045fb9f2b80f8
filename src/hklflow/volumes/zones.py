"""Means of S(Q) over the zones of the reciprocal lattice: parallelepipeds around integer hkl.

A zone holds one reflection and all directions between reflections in equal shares, so that its mean
is not biased by a mask around reflections or by diffuse scattering that peaks at them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    measured : (n,) array
        Fraction of the voxels of the zone that were measured.
    """

    hkl: NDArray[np.int64]
    mean: Floats
    variance: Floats
    measured: Floats

    def select(self, keep: NDArray[np.bool_]) -> "Zones":
        """Return the zones chosen by a mask."""
        return Zones(self.hkl[keep], self.mean[keep], self.variance[keep], self.measured[keep])


class ZoneSums:
    """Sums over the zones of a volume that is added slab by slab."""

    def __init__(self, grid: Grid) -> None:
        # A voxel on the border, at half-integer h, belongs to the higher zone only.
        self._of = [np.floor(grid.axis(i) + 0.5 + 1e-6).astype(np.int64) for i in range(3)]
        self._first = np.array([of[0] for of in self._of])
        self._n = tuple(int(of[-1] - of[0]) + 1 for of in self._of)
        size = int(np.prod(self._n))
        self._whole = int(np.prod([max(1, round(1 / step)) for step in grid.step]))
        self._sums = np.zeros((3, size))

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
        for total, value in zip(
            self._sums,
            (np.ones(len(at)), counts[seen] * inverse, variance[seen] * inverse**2),
            strict=True,
        ):
            total += np.bincount(at, weights=value, minlength=len(total))

    def zones(self) -> Zones:
        """Return the means of all zones that were measured."""
        kept = np.flatnonzero(self._sums[0])
        n, total, variance = self._sums[:, kept]
        rest, h = np.divmod(kept, self._n[0])
        m, k = np.divmod(rest, self._n[1])
        hkl = np.stack([h, k, m], axis=1) + self._first
        return Zones(hkl, total / n, variance / n**2, n / self._whole)
