"""Correlation of two volumes in shells of |Q|."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_ON_CENTRE = 1e-3  # largest distance of a position from a voxel centre, in voxels


class Place(NamedTuple):
    """Voxels of volume B at the positions of some planes of volume A.

    Attributes
    ----------
    at : (3, n) int array
        Indices l, k, h in B.
    inside : (l, k, h) bool array
        True for the voxels of A that have a voxel in B; n of them.
    """

    at: NDArray[np.int64]
    inside: Bools


def places(a: Grid, b: Grid, matrix: ArrayLike, first: int, last: int) -> Place:
    """Return the voxels of B at the voxel centres of the planes ``first`` to ``last`` - 1 of A.

    Parameters
    ----------
    matrix : (3, 3) array
        Matrix that maps hkl of A to hkl of B.
    """
    m = np.asarray(matrix, dtype=np.float64)
    h, k = a.axis(0), a.axis(1)[:, None]
    l = a.axis(2)[first:last, None, None]  # noqa: E741
    inside = np.ones((last - first, len(k), len(h)), np.bool_)
    found = []
    for i in (2, 1, 0):
        position = (m[i, 0] * h + m[i, 1] * k + m[i, 2] * l - b.first[i]) / b.step[i]
        index = np.rint(position)
        inside &= (np.abs(position - index) < _ON_CENTRE) & (index >= 0) & (index < b.shape[i])
        found.append(index)
    return Place(np.stack([index[inside] for index in found]).astype(np.int64), inside)


@dataclass
class Correlation:
    """Sums of two volumes in shells of |Q|; parts are added one by one.

    Attributes
    ----------
    q_max : float
        Outer edge of the last shell in 1/Å.
    n : int
        Number of shells of equal width.
    """

    q_max: float
    n: int
    _sums: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._sums = np.zeros((6, self.n))

    def add(self, q: Floats, a: NDArray[Any], b: NDArray[Any]) -> None:
        """Add voxels that both volumes measured: |Q| in 1/Å, S of A and S of B."""
        a, b = (values.astype(np.float64) for values in (a, b))
        shell = np.minimum((q / self.q_max * self.n).astype(np.int64), self.n - 1)
        parts = (None, a, b, a * a, b * b, a * b)
        self._sums += [np.bincount(shell, weights=part, minlength=self.n) for part in parts]

    def figures(self) -> list[dict[str, float | int | None]]:
        """Return for each shell |Q|, the number of voxels, CC, and mean S of B over that of A."""
        rows: list[dict[str, float | int | None]] = []
        for i, (n, a, b, aa, bb, ab) in enumerate(self._sums.T):
            spread = (n * aa - a * a) * (n * bb - b * b)
            rows.append(
                {
                    "q from": self.q_max * i / self.n,
                    "q to": self.q_max * (i + 1) / self.n,
                    "voxels": int(n),
                    "cc": float((n * ab - a * b) / np.sqrt(spread)) if spread > 0 else None,
                    "ratio": float(b / a) if a > 0 else None,
                }
            )
        return rows


def lengths(grid: Grid, cell: ArrayLike, first: int, last: int) -> Floats:
    """Return |Q| in 1/Å of the voxels of some planes, as (l, k, h)."""
    b = lattice.b_matrix(cell)
    h, k = grid.axis(0), grid.axis(1)[:, None]
    l = grid.axis(2)[first:last, None, None]  # noqa: E741
    square = sum((row[0] * h + row[1] * k + row[2] * l) ** 2 for row in b)
    return np.asarray(np.sqrt(square))


def reach(grid: Grid, cell: ArrayLike) -> float:
    """Return the largest |Q| of the voxels in 1/Å: that of a corner of the grid."""
    ends = np.stack([grid.first, grid.first + grid.step * (np.array(grid.shape) - 1)])
    corners = np.stack(np.meshgrid(*ends.T), axis=-1).reshape(-1, 3)
    return float(np.linalg.norm(corners @ lattice.b_matrix(cell).T, axis=1).max())
