r"""Difference of two measurements of the same S in addition to noise, as a fraction of S.

χ² alone is not enough: with many counts a difference of 1 % gives a large χ², with few counts even
a difference of 30 % cannot be seen. If two voxels with norms M₁, M₂ have the same S and T counts
together, the counts C₁ of the first voxel are binomial, whatever S is. With
``p = M₁ / (M₁ + M₂)``

.. math:: x = C_1 - p T, \qquad \langle x² \rangle = v = p (1 - p) T,

exactly, for any T. If the voxels differ by a fraction d of S, ``<x> = v d``, and x² / v exceeds 1
by ``(T - 1) p (1 - p) d²``. The excess of χ², divided by the sum of the weights
``(T - 1) p (1 - p)``, is therefore the mean d². Read noise adds its variance to v.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.volumes import pairs_kernels
from hklflow.volumes.disagreement import EDGE, DisagreementMap

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Standard deviations above which a difference is significant.
SIGNIFICANT = 5.0


class Difference(NamedTuple):
    """Sums over pairs of voxels; sums of parts of a volume can be added.

    Attributes
    ----------
    pairs : float
        Number of pairs.
    chi2 : float
        Σ x² / v; its expectation is ``pairs`` if S is equal.
    spread : float
        Variance of ``chi2`` if S is equal.
    weight : float
        Σ (T - 1) p (1 - p), the factor of d² in the expectation of ``chi2``.
    """

    pairs: float = 0.0
    chi2: float = 0.0
    spread: float = 0.0
    weight: float = 0.0

    def plus(self, other: "Difference") -> "Difference":
        """Add the sums of another part of the volume."""
        return Difference(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def reduced(self) -> float:
        """χ² per pair; NaN without pairs."""
        return self.chi2 / self.pairs if self.pairs else float("nan")

    @property
    def z(self) -> float:
        """Excess of χ² over the value expected from noise, in standard deviations."""
        return (self.chi2 - self.pairs) / self.spread**0.5 if self.spread > 0 else 0.0

    @property
    def square(self) -> float:
        """Mean square of the relative difference; may be negative by chance."""
        return (self.chi2 - self.pairs) / self.weight if self.weight > 0 else 0.0

    @property
    def square_sigma(self) -> float:
        """Standard deviation of `square` due to noise; infinite without weight."""
        return float(self.spread**0.5 / self.weight) if self.weight > 0 else float("inf")

    @property
    def size(self) -> float:
        """Rms relative difference."""
        return float(max(self.square, 0.0) ** 0.5)

    def figures(self) -> dict[str, float | None]:
        """Return the difference and its significance for JSON files."""
        return {
            "pairs": self.pairs,
            "reduced chi2": self.reduced if self.pairs else None,
            "difference": self.size if self.weight > 0 else None,
        }


def away_from_bragg(grid: Grid, cell: ArrayLike, radius: float, region: Any) -> Bools:
    """Return True for voxels of a region (l, k, h) farther than ``radius`` (1/Å) from integer hkl.

    Parameters
    ----------
    region : three slices
        Region along l, k, h.
    """
    b = lattice.b_matrix(cell)
    axes = [grid.axis(i)[part] for i, part in enumerate(region[::-1])]
    if radius <= 0:
        return np.ones([len(axis) for axis in axes[::-1]], np.bool_)
    g = b.T @ b
    diagonals = (grid.step * np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])) @ b.T
    near = radius + float(np.linalg.norm(diagonals, axis=1).max()) / 2
    found = np.empty([len(axis) for axis in axes[::-1]], np.bool_)
    pairs_kernels.away(*(axis - np.rint(axis) for axis in axes), g, near**2, found)
    return found


@dataclass
class Rotations:
    """Comparison of each rotation with the sum of the others; parts of a volume are added.

    Attributes
    ----------
    sums : list of Difference
        Sums of each rotation.
    total : (n, 2) array
        Σ x and Σ v, which give one factor for the whole rotation.
    smooth : (n,) array
        Decrease of χ² if each block of 8 × 8 voxels gets a factor, minus the decrease due to noise.
    compared : (n, n) array
        Number of voxels that both rotations measured and in which at least one has counts.
    equal : (n, n) array
        Number of compared voxels in which both rotations have the same counts.
    map : DisagreementMap
        The same comparison in cubes of voxels.
    """

    n: int
    grid: Grid
    sums: list[Difference] = field(init=False)
    total: Floats = field(init=False)
    smooth: Floats = field(init=False)
    equal: NDArray[np.int64] = field(init=False)
    compared: NDArray[np.int64] = field(init=False)
    map: DisagreementMap = field(init=False)

    def __post_init__(self) -> None:
        self.sums = [Difference()] * self.n
        self.total = np.zeros((self.n, 2))
        self.smooth = np.zeros(self.n)
        self.equal, self.compared = np.zeros((2, self.n, self.n), np.int64)
        self.map = DisagreementMap(self.n, self.grid)

    def add(self, parts: list[NDArray[Any]], away: Bools, planes: ArrayLike, row: int) -> None:
        """Add some planes.

        Parameters
        ----------
        parts : list of (n, l, k, h) arrays
            Counts, norm and, with read noise, variance of the counts.
        away : (l, k, h) bool array
            True for voxels that are not near Bragg reflections.
        planes : (l,) int array
            Numbers of the planes in the volume.
        row : int
            First row along k, a multiple of the edge of the blocks.
        """
        counts, norm, *variance = (np.ascontiguousarray(part) for part in parts)
        read = np.empty((self.n, 0, 0, 0))
        if variance:
            read = np.maximum(np.asarray(variance[0], np.float64) - counts, 0.0)
        blocks = [-(-size // EDGE) for size in counts.shape[2:]]
        x, v = np.empty((2, self.n, len(counts[0]), *blocks))
        sums = np.zeros((self.n, pairs_kernels.SUMS))
        pairs_kernels.compare(counts, norm, read, away, sums, x, v, self.compared, self.equal)
        for i, (n, chi2, spread, weight, *total, smooth) in enumerate(sums):
            self.sums[i] = self.sums[i].plus(Difference(*map(float, (n, chi2, spread, weight))))
            self.total[i] += total
            self.smooth[i] += smooth
            self.map.add(i, planes, row, x[i], v[i])

    def copies(self, names: list[str]) -> list[dict[str, Any]]:
        """Describe pairs of rotations that are copies of the same measurement.

        Two independent Poisson numbers with the sum T > 0 are equal with a probability of at most
        1/2 (for T = 2), whatever their norms; for odd T they are never equal. Wrong error bars do
        not make counts equal.
        """
        pairs = []
        for j, i in np.argwhere(2 * self.equal.T > self.compared.T):
            equal, compared = int(self.equal[i, j]), int(self.compared[i, j])
            if equal - compared / 2 > SIGNIFICANT * (compared / 4) ** 0.5:
                pairs.append({"rotations": [names[j], names[i]], "equal": equal, "of": compared})
        return pairs

    def figures(self, names: list[str]) -> list[dict[str, Any]]:
        """Describe each rotation: its difference, and the parts that simple factors explain.

        ``factor`` is the mean S of the rotation divided by the mean S of the others.
        """
        rows = []
        for name, own_sums, (x, v), smooth in zip(
            names, self.sums, self.total, self.smooth, strict=True
        ):
            excess = max(own_sums.chi2 - own_sums.pairs, 0.0)
            by_factor = max(x * x / v - 1, 0.0) if v > 0 else 0.0
            shares = [min(part / excess, 1.0) if excess else 0.0 for part in (by_factor, smooth)]
            rows.append(
                {
                    "rotation": name,
                    **own_sums.figures(),
                    "z": own_sums.z,
                    "factor": _factor(x, v),
                    "factor explains": shares[0],
                    "smooth explains": max(shares[1], shares[0], 0.0),
                }
            )
        return rows


def _factor(x: float, v: float) -> float | None:
    """Return S of a rotation divided by S of the others, from x = v d (d: relative difference)."""
    if v <= 0:
        return None
    half = float(np.clip(x / v, -1.99, 1.99)) / 2
    return (1 + half) / (1 - half)
