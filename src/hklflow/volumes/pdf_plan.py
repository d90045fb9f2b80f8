"""What of S(Q) is transformed to which voxels of the pair distribution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.volumes.tapers import Taper

Floats = NDArray[np.float64]

#: Most voxels that padding may add along an axis so that lattice vectors fall on voxels.
_MOST_PADDING = 1.5

#: Voxels: 34 GB as a file of float32, and as much for its errors.
_MOST_VOXELS = 2**33


@dataclass(frozen=True)
class Plan:
    """What is transformed to what; made by `plan`.

    Attributes
    ----------
    grid : Grid
        Of the S that comes in.
    cell : (6,) array
    taper : Taper
    operations : (n, 3, 3) array
        The Laue group G on hkl, inversion included.
    symmetrised : bool
        Whether Friedel mates are one measurement.
    zero, reach : (3,) arrays of int
        Index of Q = 0 along h, k, l, and voxels from there that enter.
    sizes : (3,) tuple of int
        Voxels of the PDF along x, y, z.
    """

    grid: Grid
    cell: Floats
    taper: Taper
    operations: NDArray[np.int64]
    symmetrised: bool
    zero: NDArray[np.int64]
    reach: NDArray[np.int64]
    sizes: tuple[int, int, int]

    @cached_property
    def scale(self) -> float:
        """ΔhΔkΔl/V, 1/Å³: what a voxel of S counts."""
        return float(np.prod(self.grid.step)) / lattice.volume(self.cell)

    @cached_property
    def direct(self) -> Grid:
        """Grid of x, y, z with 0 at index n // 2."""
        step = 1 / (np.array(self.sizes) * self.grid.step)
        return Grid(-(np.array(self.sizes) // 2) * step, step, self.sizes)

    @cached_property
    def half_shape(self) -> tuple[int, int, int]:
        """Of the transform (l, k, h >= 0)."""
        return (self.sizes[2], self.sizes[1], self.sizes[0] // 2 + 1)

    @cached_property
    def octant(self) -> bool:
        """Whether G mirrors all three axes, so that an octant of V is enough."""
        flips = [np.diag(d) for d in ((-1, 1, 1), (1, -1, 1), (1, 1, -1))]
        return all(any(np.array_equal(f, w) for w in self.operations) for f in flips)

    @cached_property
    def kept_shape(self) -> tuple[int, int, int]:
        """Of the part of V that is kept (z, y, x)."""
        n_x, n_y, n_z = self.sizes
        return (n_z // 2 + 1, *((n_y // 2 + 1, n_x // 2 + 1) if self.octant else (n_y, n_x)))

    @cached_property
    def moves(self) -> tuple[NDArray[np.int64], Floats, bool]:
        """1 - Wᵀ on indices x, y, z; how many W each stands for; whether all are exact.

        V(u) = V(Pᵀu) for all P of the group: of Pᵀ - PᵀWᵀ that is taken which stays in a plane,
        and in a row, along x if there is one; many W share it. Where a turned voxel falls between
        voxels the nearest is taken.
        """
        extent = np.array(self.sizes) * self.grid.step
        found: dict[bytes, tuple[NDArray[np.int64], float]] = {}
        exact = True
        turns = self.operations.transpose(0, 2, 1)
        for w in turns:
            same = turns @ (np.eye(3, dtype=np.int64) - w)
            order = np.lexsort((*same.reshape(-1, 9).T, *np.abs(same[:, :, 0].T)))
            move = same[order[0]] * extent[:, None] / extent[None, :]
            exact &= bool(np.allclose(move, np.rint(move), atol=1e-6))
            key = np.rint(move).astype(np.int64)
            found[key.tobytes()] = (key, found.get(key.tobytes(), (key, 0.0))[1] + 1)
        moves, weights = zip(*found.values(), strict=True)
        return np.array(moves), np.array(weights, dtype=np.float64), exact

    def weights(self, l: int) -> Floats:  # noqa: E741
        """Taper (k, h) on plane l; k from -reach to reach, h from 0 to reach."""
        g = (2 * np.pi) ** 2 * np.linalg.inv(lattice.metric(self.cell))
        h = np.arange(self.reach[0] + 1) * self.grid.step[0]
        k = np.arange(-self.reach[1], self.reach[1] + 1)[:, None] * self.grid.step[1]
        z = l * self.grid.step[2]
        q2 = g[0, 0] * h * h + g[1, 1] * k * k + g[2, 2] * z * z
        q2 = q2 + 2 * (g[0, 1] * h * k + g[0, 2] * h * z + g[1, 2] * k * z)
        return self.taper(np.sqrt(np.maximum(q2, 0)))


def plan(
    grid: Grid,
    cell: ArrayLike,
    taper: Taper,
    operations: ArrayLike,
    sizes: Sequence[int] | None = None,
) -> Plan:
    """Decide what is transformed to what.

    Parameters
    ----------
    grid : Grid
        Of hkl; 0 must be one of its voxels.
    cell : (6,) array
    operations : (n, 3, 3) array
        By which S was symmetrised, on hkl, with inversion; the identity alone: it was not.
    sizes : (3,) ints, optional
        Voxels of the PDF along x, y, z; None: the next 11-smooth size and, where 1/step is
        whole, a multiple of 2/step, so that (1, 0, 0) and (½, ½, 0) are voxels (of 1/step, or
        any, where that is more than half as many again). Axes that the symmetry mixes get the
        same.

    Raises
    ------
    HklflowError
        If Q = 0 is no voxel, the operations lack inversion, or the sizes are too small or large.
    """
    exact = -grid.first / grid.step
    zero = np.rint(exact).astype(np.int64)
    if np.any(np.abs(exact - zero) > 1e-4) or np.any(zero < 0) or np.any(zero >= grid.shape):
        raise HklflowError(
            f"grid: Q = 0 is not the centre of a voxel (it is at index {exact.round(4).tolist()} "
            f"of {list(grid.shape)} along h, k, l); transform to a grid that has 0 among its labels"
        )
    cell = np.asarray(cell, dtype=np.float64)
    group = np.asarray(operations, dtype=np.int64).reshape(-1, 3, 3)
    inversion = -np.eye(3, dtype=np.int64)
    symmetrised = any(np.array_equal(w, inversion) for w in group)
    if not symmetrised:
        if len(group) != 1 or not np.array_equal(group[0], -inversion):
            raise HklflowError(
                f"operations: {len(group)} of them without inversion; diffraction has it: give "
                "the Laue group, or the identity alone for data that were not symmetrised"
            )
        group = np.stack([-inversion, inversion])
    held = np.maximum(zero, np.array(grid.shape) - 1 - zero)
    # |h| <= q_max a / 2π, for a is the projection that counts h planes.
    sphere = np.floor(taper.q_max * cell[:3] / (2 * np.pi) / grid.step + 1e-6).astype(np.int64)
    reach = np.minimum(held, sphere)
    wanted = [int(n) for n in (_sizes(grid, held, group) if sizes is None else sizes)]
    if math.prod(wanted) > _MOST_VOXELS:
        raise HklflowError(
            f"sizes: {wanted} along x, y, z are {math.prod(wanted):.3g} voxels, more than the "
            f"{_MOST_VOXELS:.3g} that are made; give smaller sizes"
        )
    chosen = np.array(wanted, dtype=np.int64)
    if np.any(chosen < 2 * reach + 1):
        raise HklflowError(
            f"sizes: {chosen.tolist()} voxels along x, y, z are fewer than the "
            f"{(2 * reach + 1).tolist()} of S within q_max; give larger sizes or a smaller q_max"
        )
    n_x, n_y, n_z = (int(n) for n in chosen)
    return Plan(grid, cell, taper, group, symmetrised, zero, reach, (n_x, n_y, n_z))


def _sizes(grid: Grid, held: NDArray[np.int64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Fast sizes with lattice vectors on voxels; one for axes that the symmetry mixes."""
    sizes = np.array(
        [_size(2 * int(n) + 1, float(s)) for n, s in zip(held, grid.step, strict=True)]
    )
    for _ in range(2):
        for w in group:
            for i, j in zip(*np.nonzero(w), strict=True):
                if np.isclose(grid.step[i], grid.step[j], rtol=1e-9):
                    sizes[[i, j]] = sizes[[i, j]].max()
    return sizes


def _size(least: int, step: float) -> int:
    whole = round(1 / step)
    if abs(whole * step - 1) < 1e-6:
        for unit in (2 * whole, whole):
            size = -(-least // unit) * unit
            while scipy.fft.next_fast_len(size) != size:
                size += unit
            if size <= _MOST_PADDING * least:
                return size
    return int(scipy.fft.next_fast_len(least))
