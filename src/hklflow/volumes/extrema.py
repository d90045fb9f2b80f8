"""Search for the strongest local maxima of a volume, one of each set of equivalents.

The volume is read slab by slab. The operations W of the Laue group act on hkl, ``h' = W h``, and on
vectors of direct space, ``x' = W⁻ᵀ x``.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid

Floats = NDArray[np.float64]

_IDENTITY = np.eye(3)[None]


def operations_of(hkl_operations: ArrayLike | None, direct: bool) -> Floats:
    """Return the operations (n, 3, 3) on points of a volume; for None only the identity."""
    if hkl_operations is None:
        return _IDENTITY
    on_hkl = np.asarray(hkl_operations, dtype=np.float64).reshape(-1, 3, 3)
    if not direct:
        return on_hkl
    return np.asarray(np.linalg.inv(on_hkl).transpose(0, 2, 1), dtype=np.float64)


def asymmetric(operations: Floats, axes: Sequence[Floats]) -> NDArray[np.bool_]:
    """Return True for one point of each set of equivalents.

    Parameters
    ----------
    operations : (n, 3, 3) array
    axes : three arrays
        Coordinates along h, k, l (or x, y, z) of a box.

    Returns
    -------
    (l, k, h) bool array
    """
    from hklflow.volumes import extrema_kernels

    # Along this irrational direction each lattice point has another coordinate.
    key = np.array([1.0, np.sqrt(2.0), np.sqrt(3.0)])
    kept = np.empty([len(axis) for axis in axes[::-1]], np.bool_)
    others = np.array([key @ operation for operation in operations])
    extrema_kernels.asymmetric(key, others, *(np.asarray(x, np.float64) for x in axes), kept)
    return kept


class Strongest:
    """Collector of the strongest local maxima of each slab.

    Parameters
    ----------
    grid : Grid
    keep : int
        Largest number of maxima that are kept of a slab.
    """

    def __init__(self, grid: Grid, keep: int = 2000) -> None:
        self._grid, self._keep = grid, keep
        # Two planes of before, the planes that were added last, and an empty plane.
        self._stack: NDArray[np.float32] | None = None
        self._next = 0
        self._maxima: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []

    def add(self, strength: NDArray[np.floating]) -> None:
        """Add the next planes (n, k, h); NaN and values of 0 or less are not maxima."""
        from hklflow.volumes import extrema_kernels

        n, begins = len(strength), self._next == 0
        if self._stack is None or len(self._stack) < n + 3:
            stack = np.zeros((n + 3, *strength.shape[1:]), np.float32)
            if self._stack is not None:
                stack[:2] = self._stack[:2]
            self._stack = stack
        stack = self._stack
        extrema_kernels.clean(strength, stack[2 : n + 2])
        stack[n + 2] = 0
        self._next += n
        last = self._next == self._grid.array_shape[0]
        # The last plane can be searched only with the plane after it.
        self._search(stack[int(begins) : n + 2 + last], self._next - n - (not begins))
        stack[:2] = stack[n : n + 2].copy()

    def _search(self, stack: NDArray[np.float32], first: int) -> None:
        """Search the inner planes of a stack; the first of them has the number ``first``."""
        from hklflow.volumes import extrema_kernels

        if len(stack) < 3:
            return
        inner = stack[1:-1]
        found = np.empty(inner.size, np.int32)
        place = found[: extrema_kernels.maxima(stack, found)]
        values = inner.reshape(-1)[place]
        if len(place) > self._keep:
            # Sorted, so that the order of equal maxima (equivalents) does not depend on the others.
            chosen = np.sort(np.argpartition(-values, self._keep)[: self._keep])
            place, values = place[chosen], values[chosen]
        l, k, h = np.unravel_index(place, inner.shape)  # noqa: E741
        self._maxima.append((np.stack([h, k, l + first], axis=1), values))

    def points(self) -> tuple[Floats, Floats]:
        """Return coordinates (n, 3) and strengths (n,), the strongest first."""
        index = np.concatenate([np.empty((0, 3), np.int64), *(part[0] for part in self._maxima)])
        values = np.concatenate([np.empty(0), *(part[1] for part in self._maxima)])
        order = np.argsort(-values, kind="stable")
        points = self._grid.first + self._grid.step * index[order]
        return np.round(points, 10) + 0.0, values[order].astype(np.float64)


def distinct(
    points: Floats,
    strength: Floats,
    number: int,
    operations: Floats,
    metric: Floats,
    apart: float,
    ripple: tuple[float, float] = (0.0, 0.0),
) -> NDArray[np.int64]:
    """Choose points that are not equivalent and belong to different features.

    Parameters
    ----------
    points : (n, 3) array
        Points, the strongest first.
    strength : (n,) array
    number : int
        Largest number of chosen points.
    operations : (m, 3, 3) array
    metric : (3, 3) array
        Metric tensor, 1/Å² or Å².
    apart : float
        Distance, 1/Å or Å. A point that is nearer to a stronger point, or to an equivalent of a
        stronger point, belongs to the same feature.
    ripple : (distance, fraction)
        A point is a ripple of a stronger point if it is nearer than this distance and weaker than
        this fraction of the stronger point.

    Returns
    -------
    (up to number,) int array
        Indices of points.
    """
    chosen: list[int] = []
    taken = np.empty((0, 3))
    level = np.empty(0)
    for i, point in enumerate(points):
        if len(chosen) == number:
            break
        off = taken - point
        distance = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", off, metric, off), 0.0))
        near = (distance < apart) | ((distance < ripple[0]) & (strength[i] < ripple[1] * level))
        if not near.any():
            chosen.append(i)
            taken = np.concatenate([taken, operations @ point])
            level = np.concatenate([level, np.full(len(operations), strength[i])])
    return np.array(chosen, dtype=np.int64)


def simplest(point: Floats, operations: Floats, grid: Grid) -> Floats:
    """Return the equivalent of a voxel centre that is easiest to read.

    Only equivalents that are voxel centres are considered. The chosen point has the most zeros,
    then the fewest minus signs, then the largest first coordinates.
    """

    def on_grid(other: Floats) -> bool:
        voxels = trilinear(grid, other)
        return voxels is not None and voxels[1].size == 1

    def plainness(other: Floats) -> tuple[float, ...]:
        return (-np.count_nonzero(other), -np.count_nonzero(other < 0), *other)

    equivalents = np.round(operations @ point, 9) + 0.0
    return max([point, *filter(on_grid, equivalents)], key=plainness)


def trilinear(grid: Grid, point: ArrayLike) -> tuple[tuple[slice, slice, slice], Floats] | None:
    """Return the voxels around a point, and their weights for trilinear interpolation.

    Returns
    -------
    region : (l, k, h) slices
        Voxels around the point; only one voxel if the point is a voxel centre.
    weights : (l, k, h) array
        Weights; their sum is 1.
    None
        If the point is not between voxel centres.
    """
    place = (np.asarray(point, dtype=np.float64) - grid.first) / grid.step
    low = np.floor(place + 1e-6).astype(int)
    fraction = np.where(place - low < 1e-6, 0.0, place - low)
    high = low + (fraction > 0)
    if np.any(low < 0) or np.any(high >= np.array(grid.shape)):
        return None
    h, k, l = (  # noqa: E741
        np.array([1 - r, r]) if r else np.ones(1) for r in fraction
    )
    region = tuple(slice(int(a), int(b) + 1) for a, b in zip(low[::-1], high[::-1], strict=True))
    return (region[0], region[1], region[2]), l[:, None, None] * k[:, None] * h
