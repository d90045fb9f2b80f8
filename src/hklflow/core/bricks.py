"""Counts and norm of a grid's voxels in bricks of 8 × 8 × 8 voxels.

What a wedge of rotation reaches is a thin shell through the grid. In bricks, neighbours in
all three directions are neighbours in memory: a brick is one or two pages, and the
operating system gives memory only to the pages that are written. A wedge of 10° touches
one twentieth of a volume, a full turn about half.
"""

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.core.grid import Grid
from hklflow.errors import HklflowError

#: Voxels along an edge of a brick.
EDGE = 8
#: Voxels that can be numbered: one bit of 32 marks what is excluded.
MOST_VOXELS = 2**31


class Bricks:
    """(C, M) of the planes ``first <= l < last`` of a grid.

    Parameters
    ----------
    grid : Grid
    first, last : int
        Planes; ``first`` is a multiple of 8.
    counts, norm : numpy dtype
        Of the same size, 4 or 8 bytes.

    Attributes
    ----------
    counts, norm : flat arrays
        Views of one memory: the counts of voxel v at ``2 v``, its norm at ``2 v + 1``.
    strides : (int, int)
        Of a voxel's number: ``h + (h // 8) 504 + 8 k + (k // 8) strides[0] + 64 l' +
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
        self._shape = (n_l, n_k, n_h)
        size = n_l * n_k * n_h * EDGE**3
        if first % EDGE or size > MOST_VOXELS:
            raise HklflowError(
                f"planes {first} to {last} of the grid have {size} voxels, more than the "
                f"{MOST_VOXELS} that are treated at once; lower `memory` of the transform or make "
                "the grid coarser"
            )
        self.strides = (EDGE**3 * n_h - EDGE**2, EDGE**3 * n_h * n_k - EDGE**3)
        counts, norm = np.dtype(counts), np.dtype(norm)
        # Private: of shared memory, even pages that are only read would be given out.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, max(size * 2 * counts.itemsize, 1), flags=private)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            # A huge page would hold 500 bricks of which few are touched.
            self._memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.counts = np.frombuffer(self._memory, counts)
        self.norm = self.counts.view(norm)

    def layers(self) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
        """First plane, counts and norm (n, k, h) of each layer of bricks, 8 planes or fewer."""
        for layer in range(self._shape[0]):
            yield (
                self.first + EDGE * layer,
                self._layer(self.counts, 0, layer),
                self._layer(self.norm, 1, layer),
            )

    def _layer(self, flat: NDArray[Any], which: int, layer: int) -> NDArray[Any]:
        _, n_k, n_h = self._shape
        size = 2 * EDGE**3 * n_k * n_h
        bricks = flat[layer * size : (layer + 1) * size].reshape(n_k, n_h, EDGE, EDGE, EDGE, 2)
        planes = bricks[..., which].transpose(2, 0, 3, 1, 4)
        planes = planes.reshape(EDGE, n_k * EDGE, n_h * EDGE)
        n = min(EDGE, self.last - self.first - EDGE * layer)
        return planes[:n, : self.grid.shape[1], : self.grid.shape[0]]
