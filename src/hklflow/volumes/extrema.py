"""Strongest local maxima of a volume that comes slab by slab, and which are distinct by symmetry.

Operations are those of the Laue group on hkl, ``h' = W h``. Vectors of direct space go with
``x' = W⁻ᵀ x``: what is the same in reciprocal space is the same for them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid

Floats = NDArray[np.float64]

_IDENTITY = np.eye(3)[None]


def operations_of(hkl_operations: ArrayLike | None, direct: bool) -> Floats:
    """Operations (n, 3, 3) on points of a volume; None stands for the identity alone."""
    if hkl_operations is None:
        return _IDENTITY
    given = np.asarray(hkl_operations, dtype=np.float64).reshape(-1, 3, 3)
    if not direct:
        return given
    return np.asarray(np.linalg.inv(given).transpose(0, 2, 1), dtype=np.float64)


def asymmetric(operations: Floats, axes: Sequence[Floats]) -> NDArray[np.bool_]:
    """One point of each set of equivalents.

    Parameters
    ----------
    operations : (n, 3, 3) array
    axes : three arrays
        Coordinates along h, k, l (or x, y, z) of a box.

    Returns
    -------
    (l, k, h) array
    """
    # Along this direction no two points of a lattice are as far as each other.
    key = np.array([1.0, np.sqrt(2.0), np.sqrt(3.0)])

    def along(direction: Floats) -> Floats:
        h, k, l = (factor * axis for factor, axis in zip(direction, axes, strict=True))  # noqa: E741
        whole: Floats = l[:, None, None] + k[:, None] + h
        return whole

    own = along(key)
    kept = np.ones(own.shape, dtype=np.bool_)
    for operation in operations:
        kept &= own >= along(key @ operation) - 1e-7
    return kept


class Strongest:
    """Gathers local maxima, the strongest of each slab.

    Parameters
    ----------
    grid : Grid
    keep : int
        Most that are kept of a slab.
    """

    def __init__(self, grid: Grid, keep: int = 2000) -> None:
        self._grid, self._keep = grid, keep
        self._before: NDArray[np.float32] | None = None
        self._next = 0
        self._found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []

    def add(self, strength: NDArray[np.floating]) -> None:
        """Take the next planes (n, k, h); NaN is never a maximum, nor is 0 or less."""
        planes = np.nan_to_num(strength, nan=0.0, posinf=0.0).astype(np.float32)
        if self._before is None:
            self._before = np.zeros((1, *planes.shape[1:]), np.float32)
        self._next += len(planes)
        held = [self._before, planes]
        last = self._next == self._grid.array_shape[0]
        if last:
            held.append(np.zeros((1, *planes.shape[1:]), np.float32))
        whole = np.concatenate(held)
        # The last plane waits for the one that comes after it.
        self._search(whole, self._next + last - len(whole))
        self._before = whole[-2:]

    def _search(self, whole: NDArray[np.float32], first: int) -> None:
        from scipy.ndimage import maximum_filter

        inner = whole[1:-1]
        highest = maximum_filter(whole, size=3, mode="constant", cval=0.0)[1:-1]
        place = np.flatnonzero((inner == highest) & (inner > 0))
        values = inner.ravel()[place]
        if len(place) > self._keep:
            chosen = np.argpartition(-values, self._keep)[: self._keep]
            place, values = place[chosen], values[chosen]
        l, k, h = np.unravel_index(place, inner.shape)  # noqa: E741
        self._found.append((np.stack([h, k, l + first + 1], axis=1), values))

    def points(self) -> tuple[Floats, Floats]:
        """Coordinates (n, 3) and strengths (n,), the strongest first."""
        index = np.concatenate([np.empty((0, 3), np.int64), *(found[0] for found in self._found)])
        values = np.concatenate([np.empty(0), *(found[1] for found in self._found)])
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
    """Choose points that are neither equivalent nor of the same feature.

    Parameters
    ----------
    points : (n, 3) array
        The strongest first.
    strength : (n,) array
    operations : (m, 3, 3) array
    metric : (3, 3) array
        1/Å² or Å².
    apart : float
        1/Å or Å: what is nearer than this to a stronger one or its equivalents is the same.
    ripple : (distance, fraction)
        What is nearer than this distance and weaker than this fraction is the ripple of the
        stronger.

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
    """Of the equivalents of a voxel's centre that are voxels' centres too the plainest to read.

    That is, with the most zeros, then the fewest minus signs, then the largest first numbers.
    """

    def on_grid(other: Floats) -> bool:
        around = trilinear(grid, other)
        return around is not None and around[1].size == 1

    def plainness(other: Floats) -> tuple[float, ...]:
        return (-np.count_nonzero(other), -np.count_nonzero(other < 0), *other)

    equivalents = np.round(operations @ point, 9) + 0.0
    return max([point, *filter(on_grid, equivalents)], key=plainness)


def trilinear(grid: Grid, point: ArrayLike) -> tuple[tuple[slice, slice, slice], Floats] | None:
    """Voxels around a point, and their weights.

    Returns
    -------
    region : (l, k, h) slices
        Of the volume: where the point is at a voxel's centre, that voxel alone.
    weights : (l, k, h) array
        Their sum is 1.
    None
        If the point is not between the centres of voxels.
    """
    at = (np.asarray(point, dtype=np.float64) - grid.first) / grid.step
    low = np.floor(at + 1e-6).astype(int)
    rest = np.where(at - low < 1e-6, 0.0, at - low)
    high = low + (rest > 0)
    if np.any(low < 0) or np.any(high >= np.array(grid.shape)):
        return None
    h, k, l = (  # noqa: E741
        np.array([1 - r, r]) if r else np.ones(1) for r in rest
    )
    region = tuple(slice(int(a), int(b) + 1) for a, b in zip(low[::-1], high[::-1], strict=True))
    return (region[0], region[1], region[2]), l[:, None, None] * k[:, None] * h
