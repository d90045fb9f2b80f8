"""Plan of the transform: the voxels of S(Q) that enter, and the voxels of the PDF."""

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
from hklflow.volumes import pdf_kernels
from hklflow.volumes.tapers import Taper

Floats = NDArray[np.float64]

#: Largest ratio of a size to the size of the data, for sizes with lattice vectors on voxels.
_MOST_PADDING = 1.5

#: Largest number of voxels: 34 GB for the PDF in float32, and as much for its errors.
_MOST_VOXELS = 2**33


@dataclass(frozen=True)
class Plan:
    """Plan of a transform, made by `plan`.

    Attributes
    ----------
    grid : Grid
        Grid of S.
    cell : (6,) array
    taper : Taper
    operations : (n, 3, 3) array
        Operations of the Laue group G on hkl, with the inversion.
    symmetrised : bool
        True if Friedel mates are the same measurement.
    zero : (3,) int array
        Index of Q = 0 along h, k, l.
    reach : (3,) int array
        Largest distance of used voxels from ``zero``, in voxels.
    sizes : (3,) tuple of int
        Number of voxels of the PDF along x, y, z.
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
        """ΔhΔkΔl/V, the weight of a voxel of S, 1/Å³."""
        return float(np.prod(self.grid.step)) / lattice.volume(self.cell)

    @cached_property
    def _metric(self) -> Floats:
        """Reciprocal metric tensor with 2π, 1/Å²; what rounding makes of zeros is 0."""
        g = (2 * np.pi) ** 2 * np.linalg.inv(lattice.metric(self.cell))
        diagonal = np.sqrt(np.diag(g))
        g[np.abs(g) < 1e-13 * np.outer(diagonal, diagonal)] = 0.0
        return np.asarray(g, dtype=np.float64)

    @property
    def even_in_l(self) -> bool:
        """True if the taper of a plane l is that of the plane -l."""
        return not (self._metric[0, 2] or self._metric[1, 2])

    @cached_property
    def direct(self) -> Grid:
        """Grid of x, y, z with 0 at index n // 2."""
        step = 1 / (np.array(self.sizes) * self.grid.step)
        return Grid(-(np.array(self.sizes) // 2) * step, step, self.sizes)

    @cached_property
    def half_shape(self) -> tuple[int, int, int]:
        """Shape of the stored half of the transform (l, k, h >= 0)."""
        return (self.sizes[2], self.sizes[1], self.sizes[0] // 2 + 1)

    @cached_property
    def octant(self) -> bool:
        """True if G has mirrors along all three axes, so that an octant of V is enough."""
        flips = [np.diag(d) for d in ((-1, 1, 1), (1, -1, 1), (1, 1, -1))]
        return all(any(np.array_equal(f, w) for w in self.operations) for f in flips)

    @cached_property
    def kept_shape(self) -> tuple[int, int, int]:
        """Shape of the stored part of V (z, y, x)."""
        n_x, n_y, n_z = self.sizes
        return (n_z // 2 + 1, *((n_y // 2 + 1, n_x // 2 + 1) if self.octant else (n_y, n_x)))

    @cached_property
    def moves(self) -> tuple[NDArray[np.int64], Floats, bool]:
        """Matrices 1 - Wᵀ on indices x, y, z; number of W for each; True if all are exact.

        V(u) = V(Pᵀu) for all P of the group, so each of the matrices Pᵀ - PᵀWᵀ gives the same
        result. If possible, a matrix is chosen that maps a row along x into one plane z, or into
        one row; many W share this matrix. A position between voxels gets the nearest voxel.
        """
        extent = np.array(self.sizes) * self.grid.step
        counted: dict[bytes, tuple[NDArray[np.int64], float]] = {}
        exact = True
        transposed = self.operations.transpose(0, 2, 1)
        for w in transposed:
            same = transposed @ (np.eye(3, dtype=np.int64) - w)
            order = np.lexsort((*same.reshape(-1, 9).T, *np.abs(same[:, :, 0].T)))
            move = same[order[0]] * extent[:, None] / extent[None, :]
            exact &= bool(np.allclose(move, np.rint(move), atol=1e-6))
            key = np.rint(move).astype(np.int64)
            counted[key.tobytes()] = (key, counted.get(key.tobytes(), (key, 0.0))[1] + 1)
        moves, weights = zip(*counted.values(), strict=True)
        return np.array(moves), np.array(weights, dtype=np.float64), exact

    @cached_property
    def distinct(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
        """Voxels of a plane z of the PDF that are not equivalent to earlier voxels of the plane.

        Returns
        -------
        first : (y, x) array
            Flat index of the first equivalent of each voxel.
        columns : (n,) array
            Columns of the voxels that are the first ones themselves, row by row.
        ends : (n_y + 1,) array
            Place in ``columns`` where each row begins.
        """
        n_x, n_y, _ = self.sizes
        extent = (np.array(self.sizes) * self.grid.step)[:2]
        x, y = np.arange(n_x) - n_x // 2, np.arange(n_y)[:, None] - n_y // 2
        own = np.arange(n_x * n_y, dtype=np.int32).reshape(n_y, n_x)
        first = own.copy()
        for w in self.operations:
            # With inversion, z may change its sign.
            if np.any(w[2, :2]) or np.any(w[:2, 2]):
                continue
            move = w[2, 2] * w[:2, :2].T * extent[:, None] / extent
            (a, b), (c, d) = index = np.rint(move).astype(np.int64)
            if np.allclose(move, index, atol=1e-6):
                at_x, at_y = a * x + b * y + n_x // 2, c * x + d * y + n_y // 2
                np.minimum(first, (at_y % n_y * n_x + at_x % n_x).astype(np.int32), out=first)
        rows, columns = np.nonzero(first == own)
        return first, columns, np.searchsorted(rows, np.arange(n_y + 1))

    def weights(self, l: int) -> Floats:  # noqa: E741
        """Return the taper (k, h) on plane l; k from -reach to reach, h from 0 to reach."""
        g = self._metric
        h = np.arange(self.reach[0] + 1) * self.grid.step[0]
        k = np.arange(-self.reach[1], self.reach[1] + 1)[:, None] * self.grid.step[1]
        z = l * self.grid.step[2]
        if self.taper.kind in ("tukey", "hann"):
            out = np.empty((k.size, h.size))
            flat = self.taper.flat if self.taper.kind == "tukey" else 0.0
            pdf_kernels.tukey(g, h, k[:, 0], z, self.taper.q_max, flat, out)
            return out
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
    """Plan the transform of a volume.

    Parameters
    ----------
    grid : Grid
        Grid of hkl; Q = 0 must be a voxel centre.
    cell : (6,) array
    taper : Taper
    operations : (n, 3, 3) array
        Operations on hkl, with inversion, by which S was symmetrised. Only the identity: S was not
        symmetrised.
    sizes : (3,) ints, optional
        Number of voxels of the PDF along x, y, z. None: the smallest 11-smooth size (fast to
        transform) that is not smaller than the data. If 1/step is an integer, the size is a
        multiple of 2/step, so that (1, 0, 0) and (½, ½, 0) are voxels. If this size exceeds the
        data by more than a factor of 1.5, a multiple of 1/step is tried, and then any size. Axes
        that the symmetry mixes get the same size.

    Raises
    ------
    HklflowError
        If Q = 0 is not a voxel, inversion is missing, or the sizes are too small or too large.
    """
    exact = -grid.first / grid.step
    zero = np.rint(exact).astype(np.int64)
    if np.any(np.abs(exact - zero) > 1e-4) or np.any(zero < 0) or np.any(zero >= grid.shape):
        raise HklflowError(
            f"grid: Q = 0 is not a voxel centre (it is at index {exact.round(4).tolist()} of "
            f"{list(grid.shape)} along h, k, l); transform to a grid with a voxel at h = k = l = 0"
        )
    cell = np.asarray(cell, dtype=np.float64)
    group = np.asarray(operations, dtype=np.int64).reshape(-1, 3, 3)
    inversion = -np.eye(3, dtype=np.int64)
    symmetrised = any(np.array_equal(w, inversion) for w in group)
    if not symmetrised:
        if len(group) != 1 or not np.array_equal(group[0], -inversion):
            raise HklflowError(
                f"operations: the inversion is missing among the {len(group)} operations; give the "
                "Laue group, or the identity alone for data that were not symmetrised"
            )
        group = np.stack([-inversion, inversion])
    on_grid = np.maximum(zero, np.array(grid.shape) - 1 - zero)
    # |h| <= q_max a / 2π, because h = a · Q / 2π.
    sphere = np.floor(taper.q_max * cell[:3] / (2 * np.pi) / grid.step + 1e-6).astype(np.int64)
    reach = np.minimum(on_grid, sphere)
    n_voxels = [int(n) for n in (_sizes(grid, on_grid, group) if sizes is None else sizes)]
    if math.prod(n_voxels) > _MOST_VOXELS:
        raise HklflowError(
            f"sizes: {n_voxels} along x, y, z are {math.prod(n_voxels):.3g} voxels, more than the "
            f"limit of {_MOST_VOXELS:.3g}; give smaller sizes"
        )
    chosen = np.array(n_voxels, dtype=np.int64)
    if np.any(chosen < 2 * reach + 1):
        raise HklflowError(
            f"sizes: {chosen.tolist()} voxels along x, y, z are fewer than the "
            f"{(2 * reach + 1).tolist()} voxels of S within q_max; give larger sizes or a smaller "
            "q_max"
        )
    n_x, n_y, n_z = (int(n) for n in chosen)
    return Plan(grid, cell, taper, group, symmetrised, zero, reach, (n_x, n_y, n_z))


def _sizes(grid: Grid, on_grid: NDArray[np.int64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return fast sizes with lattice vectors on voxels, equal for axes that symmetry mixes."""
    sizes = np.array(
        [_size(2 * int(n) + 1, float(s)) for n, s in zip(on_grid, grid.step, strict=True)]
    )
    for _ in range(2):
        for w in group:
            for i, j in zip(*np.nonzero(w), strict=True):
                if np.isclose(grid.step[i], grid.step[j], rtol=1e-9):
                    sizes[[i, j]] = sizes[[i, j]].max()
    return sizes


def _size(least: int, step: float) -> int:
    per_cell = round(1 / step)
    if abs(per_cell * step - 1) < 1e-6:
        for unit in (2 * per_cell, per_cell):
            size = -(-least // unit) * unit
            while scipy.fft.next_fast_len(size) != size:
                size += unit
            if size <= _MOST_PADDING * least:
                return size
    return int(scipy.fft.next_fast_len(least))
