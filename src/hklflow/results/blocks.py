"""Boxes of voxels that reach into a region; each consists of parts of a few blocks of the file."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry.grid import Grid
from hklflow.results.regions import Axes, Region

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BATCH = 1000  # boxes


@dataclass(frozen=True)
class Block:
    """A box of voxels.

    Attributes
    ----------
    region : tuple of slice
        Along l, k, h.
    candidates : (n,) int array
        Operations by which a voxel can have an image in its own bin.
    """

    region: tuple[slice, ...]
    candidates: Integers

    def axes(self, grid: Grid) -> Axes:
        """Return h, k, l of the voxels; the three arrays broadcast to (l, k, h)."""
        axes = [grid.axis(i)[part] for i, part in zip((2, 1, 0), self.region, strict=True)]
        return np.meshgrid(*axes, indexing="ij", sparse=True)[::-1]


def fewest(
    grid: Grid, shapes: Sequence[tuple[int, int, int]], region: Region
) -> tuple[int, int, int]:
    """Return the shape of boxes of which the fewest reach into a region; the first of equal ones.

    Long boxes along h would have few voxels of a plane that is thin along h.
    """
    return min(
        shapes, key=lambda shape: int(region.near(*_centres(grid, *_boxes(grid, shape))).sum())
    )


def _boxes(grid: Grid, shape: tuple[int, int, int]) -> tuple[Integers, Integers]:
    """Return the first and last voxels (n, 3) along l, k, h of the boxes of a volume."""
    starts = [np.arange(0, n, step) for n, step in zip(grid.array_shape, shape, strict=True)]
    first = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3)
    return first, np.minimum(first + shape, grid.array_shape) - 1


def blocks_of(
    grid: Grid, block: tuple[int, int, int], region: Region, turned: Sequence[Region]
) -> Iterator[Block]:
    """Yield the boxes that reach into a region, cut to the layers that do.

    Parameters
    ----------
    block : (int, int, int)
        Shape (l, k, h) of the boxes.
    turned : sequence of Region
        The region turned by each operation, see `Region.turned`.
    """
    first, last = _boxes(grid, block)
    for begin in range(0, len(first), _BATCH):
        low, high = first[begin : begin + _BATCH], last[begin : begin + _BATCH]
        kept = region.near(*_centres(grid, low, high))
        low, high = low[kept], high[kept]
        for axis, n in enumerate(block):
            low, high = _cropped(grid, low, high, region, axis, n)
        box = _centres(grid, low, high)
        near = [one.near(*box) & ~region.apart(one, *box) for one in turned]
        for a, b, own in zip(
            low.tolist(), (high + 1).tolist(), np.stack(near, axis=1), strict=True
        ):
            yield Block(tuple(map(slice, a, b)), np.flatnonzero(own))


def _centres(grid: Grid, low: Integers, high: Integers) -> tuple[Floats, Floats]:
    """Return the centres (n, 3) in hkl of boxes from voxel to voxel, and half of their edges."""
    middle = grid.first + (low + high)[:, ::-1] / 2 * grid.step
    return middle, (high - low)[:, ::-1] / 2 * grid.step


def _cropped(
    grid: Grid, low: Integers, high: Integers, region: Region, axis: int, n: int
) -> tuple[Integers, Integers]:
    """Leave out the layers on both sides of boxes that do not reach into a region."""
    layers = np.minimum(low[:, axis, None] + np.arange(n), high[:, axis, None])
    one, other = np.repeat(low, n, axis=0), np.repeat(high, n, axis=0)
    one[:, axis] = other[:, axis] = layers.ravel()
    near = region.near(*_centres(grid, one, other)).reshape(layers.shape)
    kept = near.any(axis=1)
    low, high, layers, near = low[kept], high[kept], layers[kept], near[kept]
    rows = np.arange(len(low))
    low[:, axis] = layers[rows, near.argmax(axis=1)]
    high[:, axis] = layers[rows, n - 1 - near[:, ::-1].argmax(axis=1)]
    return low, high


def in_threads(function: Callable[[Any], Any], items: Iterator[Any], threads: int) -> Iterator[Any]:
    """Yield a function of each item, in order; a few are calculated ahead in threads."""
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[Future[Any]] = [pool.submit(function, i) for i in islice(items, 2 * threads)]
        while ahead:
            found = ahead.pop(0).result()
            ahead += [pool.submit(function, item) for item in islice(items, 1)]
            yield found
