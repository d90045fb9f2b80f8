"""Counts and norm of a grid's voxels in bricks of 8 × 8 × 8 voxels.

A wedge of rotation reaches only a thin shell of the grid. In bricks, voxels that are neighbours in
any of the three directions are close in memory. A brick is one or two pages, and the operating
system provides memory only for pages that are written. A wedge of 10° reaches one twentieth of a
volume, a full rotation about half.
"""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.simd.jit import kernel

#: Voxels along an edge of a brick.
EDGE = 8
#: Largest number of voxels. The number of a voxel has 31 bits; bit 32 marks excluded pixels.
MOST_VOXELS = 2**31


class Bricks:
    """(C, M) of the planes ``first <= l < last`` of a grid.

    Parameters
    ----------
    grid : Grid
    first, last : int
        Planes; ``first`` is a multiple of 8.
    counts, norm : numpy dtype
        Types of the same size, 4 or 8 bytes.

    Attributes
    ----------
    counts, norm : flat arrays
        Views of the same memory: the counts of voxel v are at ``2 v``, its norm is at ``2 v + 1``.
    carry : flat uint32 array
        Upper 32 bits of the norm of voxel v, for norms of 32 bits; empty for other types. The last
        item is above 0 if any voxel has a carry. Most pages are never written and take no memory.
    strides : (int, int)
        Strides in the number of a voxel: ``h + (h // 8) 504 + 8 k + (k // 8) strides[0] + 64 l' +
        (l' // 8) strides[1]`` with ``l' = l - first``.

    Raises
    ------
    HklflowError
        If the planes have more than 2³¹ voxels.
    """

    def __init__(self, grid: Grid, first: int, last: int, counts: Any, norm: Any) -> None:
        self.grid, self.first, self.last = grid, first, last
        n_h, n_k = (-(-n // EDGE) for n in grid.shape[:2])
        n_l = -(-(last - first) // EDGE)
        size = n_l * n_k * n_h * EDGE**3
        if first % EDGE or size > MOST_VOXELS:
            raise HklflowError(
                f"planes {first} to {last} of the grid have {size} voxels, more than the limit of "
                f"{MOST_VOXELS}; reduce `memory` of the transform or use a coarser grid"
            )
        self.strides = (EDGE**3 * n_h - EDGE**2, EDGE**3 * n_h * n_k - EDGE**3)
        counts, norm = np.dtype(counts), np.dtype(norm)
        self.counts = np.frombuffer(_memory(2 * size * counts.itemsize), counts)
        self.norm = self.counts.view(norm)
        self.carry = np.zeros(0, np.uint32)
        if norm.kind == "u":
            self.carry = np.frombuffer(_memory(4 * (size + 1)), np.uint32)

    def box(
        self,
        first: tuple[int, int, int],
        counts: NDArray[Any],
        norm: NDArray[Any],
        unit: float = 1.0,
    ) -> bool:
        """Copy a box of voxels out of the bricks.

        Parameters
        ----------
        first : (l, k, h)
            First voxel, on the grid; multiples of 8.
        counts, norm : (l, k, h) arrays
            Output arrays with the shape of the box, which must lie within the planes. Norms with a
            carry need float64, which is exact up to 2⁵³.
        unit : float
            Factor by which the norms are multiplied.

        Returns
        -------
        bool
            True if a voxel of the box was measured.
        """
        begin = (first[0] - self.first, first[1], first[2])
        flat = (self.counts, self.norm, self.carry)
        return bool(_box(*flat, unit, self.strides, begin, counts, norm))


def _memory(size: int) -> mmap.mmap:
    """Return zeros; their pages take memory only after they are written."""
    # Private, because in shared memory pages that are only read would take memory, too.
    memory = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # A huge page would contain 500 bricks, but only few of them are reached.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


@kernel
def _box(
    flat_counts: NDArray[Any],
    flat_norm: NDArray[Any],
    carry: NDArray[np.uint32],
    unit: float,
    strides: tuple[int, int],
    first: tuple[int, int, int],
    counts: NDArray[Any],
    norm: NDArray[Any],
) -> bool:
    n_l, n_k, n_h = counts.shape
    carried, measured = carry.size > 0 and carry[-1] > 0, False
    for i in range(n_l):
        l = first[0] + i  # noqa: E741
        plane = EDGE**2 * l + (l // EDGE) * strides[1]
        for j in range(n_k):
            k = first[1] + j
            row = plane + EDGE * k + (k // EDGE) * strides[0]
            # The voxels of a brick are adjacent in memory; the bricks of a row are not.
            for part in range(0, n_h, EDGE):
                at = 2 * (row + (first[2] + part) * EDGE**2)
                for m in range(min(EDGE, n_h - part)):
                    counts[i, j, part + m] = flat_counts[at + 2 * m]
                    value = flat_norm[at + 2 * m + 1]
                    if carried:
                        value += 4294967296.0 * carry[at // 2 + m]
                    norm[i, j, part + m] = value * unit
                    measured |= value > 0
    return measured
