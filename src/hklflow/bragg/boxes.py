"""Boxes of voxels around predicted reflections, filled while frames are read in order."""

import itertools
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# The half axes of the foreground times this factor, plus some voxels, give the box. The shell then
# has several times as many voxels as the foreground.
_SHELL = np.array([1.0, 1.25, 1.25])
_MORE = np.array([1.5, 2.0, 2.0])
# The boxes of a group begin within this number of frames.
_GROUP = 16
_BYTES = 4


def half_axes(sigma: Floats, n_sigma: float) -> Floats:
    """Return half axes (n, 3) of the foreground: the spot's ellipsoid plus half a voxel."""
    return n_sigma * sigma + 0.5


@dataclass(frozen=True)
class Boxes:
    """Positions and sizes of boxes.

    Attributes
    ----------
    origin, shape : (n, 3) int array
        First voxel (may be before the scan or outside the detector), and number of voxels per axis.
    """

    origin: Integers
    shape: Integers

    @classmethod
    def around(cls, centre: Floats, half: Floats) -> "Boxes":
        """Return boxes for foregrounds with these centres and half axes (n, 3)."""
        reach = _SHELL * half + _MORE
        low = np.floor(centre - reach).astype(np.int64)
        return cls(low, np.floor(centre + reach).astype(np.int64) + 1 - low)

    @property
    def n_voxels(self) -> Integers:
        """Number of voxels (n,) of each box."""
        return np.prod(self.shape, axis=1)


@dataclass(frozen=True)
class Group:
    """Boxes of similar length that begin at similar frames.

    Attributes
    ----------
    rows : (m,) int array
        Indices into `Boxes`.
    first, last : int
        First frame of the boxes, and last frame of the boxes plus 1.
    n_voxels : int
    """

    rows: Integers
    first: int
    last: int
    n_voxels: int


def groups(boxes: Boxes, n_frames: int, memory: float) -> list[Group]:
    """Sort boxes by first frame and divide them into groups of at most ``memory`` / 8 bytes."""
    first = np.clip(boxes.origin[:, 0], 0, n_frames - 1)
    last = np.clip(boxes.origin[:, 0] + boxes.shape[:, 0], first + 1, n_frames)
    length = np.floor(np.log2(np.maximum(last - first, _GROUP))).astype(np.int64)
    order = np.lexsort((first, length, first // _GROUP))
    key = (first // _GROUP * 64 + length)[order]
    voxels = boxes.n_voxels[order]
    limit = max(memory / 8 / _BYTES, float(voxels.max(initial=0)))
    found: list[Group] = []
    for start, stop in _runs(key):
        while start < stop:
            total = np.cumsum(voxels[start:stop])
            end = start + max(int(np.searchsorted(total, limit, side="right")), 1)
            rows = order[start:end]
            found.append(
                Group(
                    rows,
                    int(first[rows].min()),
                    int(last[rows].max()),
                    int(voxels[start:end].sum()),
                )
            )
            start = end
    return sorted(found, key=lambda group: group.first)


def _runs(key: Integers) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(key)) + 1
    bounds = [0, *edges.tolist(), len(key)]
    yield from itertools.pairwise(bounds) if len(key) else ()


def passes(found: list[Group], n_frames: int, memory: float) -> list[list[Group]]:
    """Distribute groups to the fewest passes over the frames that fit into ``memory`` bytes."""
    load = np.zeros(n_frames + 1)
    for group in found:
        load[group.first] += group.n_voxels * _BYTES
        load[min(group.last, n_frames)] -= group.n_voxels * _BYTES
    number = max(1, int(np.ceil(np.cumsum(load).max() / memory)))
    return [found[i::number] for i in range(number)]


class Filled:
    """Voxels of the boxes of one group; NaN if there is no measurement.

    Attributes
    ----------
    counts : (n_voxels,) float32 array
    offset : (m,) int array
        Index of the first voxel of each box.
    """

    def __init__(self, group: Group, boxes: Boxes) -> None:
        self.group = group
        self.origin = boxes.origin[group.rows]
        self.shape = boxes.shape[group.rows]
        ends = np.cumsum(np.prod(self.shape, axis=1))
        self.offset = np.concatenate([[0], ends[:-1]])
        self.counts = np.full(group.n_voxels, np.nan, np.float32)

    def select(self, local: Integers) -> "Filled":
        """Return some of the boxes; their voxels are not copied."""
        part = copy(self)
        part.group = replace(self.group, rows=self.group.rows[local])
        part.origin, part.shape = self.origin[local], self.shape[local]
        part.offset = self.offset[local]
        return part


def together(parts: Iterable[Filled], boxes: Boxes) -> Filled:
    """Return the voxels of all boxes in the order of the boxes, from the filled groups."""
    n_voxels = boxes.n_voxels
    rows = np.arange(len(n_voxels))
    whole = Filled(Group(rows, 0, 0, int(n_voxels.sum())), boxes)
    for part in parts:
        for row, start in zip(part.group.rows, part.offset, strict=True):
            at, n = whole.offset[row], n_voxels[row]
            whole.counts[at : at + n] = part.counts[start : start + n]
    return whole


@kernel
def fill(  # type: ignore[no-untyped-def]
    block, first, origin, shape, offset, invalid_from, valid_from, counts
):
    """Copy the voxels of boxes from a block of frames (n, slow, fast) that begins at `first`."""
    n_slow, n_fast = block.shape[1], block.shape[2]
    for i in range(len(offset)):
        z0 = max(origin[i, 0], first)
        z1 = min(origin[i, 0] + shape[i, 0], first + block.shape[0])
        y0, y1 = max(origin[i, 1], 0), min(origin[i, 1] + shape[i, 1], n_slow)
        x0, x1 = max(origin[i, 2], 0), min(origin[i, 2] + shape[i, 2], n_fast)
        for z in range(z0, z1):
            for y in range(y0, y1):
                at = offset[i] + shape[i, 2] * ((z - origin[i, 0]) * shape[i, 1] + y - origin[i, 1])
                for x in range(x0, x1):
                    value = block[z - first, y, x]
                    if value >= valid_from and value < invalid_from:
                        counts[at + x - origin[i, 2]] = value


class Cells(NamedTuple):
    """Foregrounds of reflections, sorted into square cells of the detector."""

    order: Integers
    """Numbers of the reflections, cell after cell."""
    first: Integers
    """Index in ``order`` at which each cell begins."""
    corner: Integers
    """First pixel of the first cell (slow, fast)."""
    cell: int
    """Side of a cell, pixels."""
    width: int
    """Number of cells along fast."""
    low: Integers
    """First voxel (n, 3) of each foreground."""
    high: Integers
    """Last voxel (n, 3) of each foreground, plus 1."""


def cells_of(centre: Floats, half: Floats) -> Cells:
    """Return the cells of foregrounds with these centres and half axes (n, 3)."""
    low = np.floor(centre - half).astype(np.int64)
    high = np.floor(centre + half).astype(np.int64) + 1
    cell = int((high - low)[:, 1:].max(initial=1))
    corner = low[:, 1:].min(axis=0, initial=0)
    at = (low[:, 1:] - corner) // cell
    width = int(at[:, 1].max(initial=0)) + 1
    index = at[:, 0] * width + at[:, 1]
    order = np.argsort(index, kind="stable")
    n_cells = (int(at[:, 0].max(initial=0)) + 1) * width
    first = np.searchsorted(index[order], np.arange(n_cells + 1))
    return Cells(order, first, corner, cell, width, low, high)


def neighbours(boxes: Boxes, own: Integers, cells: Cells) -> tuple[Integers, Integers]:
    """Return the reflections whose foreground may overlap each box.

    Parameters
    ----------
    boxes : Boxes
    own : (n,) int array
        Index of the reflection of each box.
    cells : Cells
        Foregrounds of all reflections.

    Returns
    -------
    start, rows
        The neighbours of box i are ``rows[start[i] : start[i + 1]]``.
    """
    arguments = (boxes.origin, boxes.shape, own, cells)
    start = np.zeros(len(own) + 1, np.int64)
    rows = np.empty(0, np.int64)
    _touching(*arguments, start, rows)
    start = np.cumsum(start)
    rows = np.empty(start[-1], np.int64)
    _touching(*arguments, start.copy(), rows)
    return start, rows


@kernel
def _touching(  # type: ignore[no-untyped-def]
    origin, shape, own, cells, start, rows
):
    """Count neighbours into start[i + 1] (``rows`` empty), or write them from start[i]."""
    order, first, corner, cell, width, low, high = cells
    n_cells = len(first) - 1
    for i in range(len(own)):
        found = 0
        y0 = (origin[i, 1] - corner[0]) // cell - 1
        y1 = (origin[i, 1] + shape[i, 1] - 1 - corner[0]) // cell
        x0 = (origin[i, 2] - corner[1]) // cell - 1
        x1 = (origin[i, 2] + shape[i, 2] - 1 - corner[1]) // cell
        for y in range(max(y0, 0), y1 + 1):
            for x in range(max(x0, 0), min(x1, width - 1) + 1):
                at = y * width + x
                if at >= n_cells:
                    continue
                for r in range(first[at], first[at + 1]):
                    other = order[r]
                    if other == own[i]:
                        continue
                    touches = True
                    for a in range(3):
                        if (
                            low[other, a] >= origin[i, a] + shape[i, a]
                            or high[other, a] <= origin[i, a]
                        ):
                            touches = False
                    if touches:
                        if len(rows):
                            rows[start[i] + found] = other
                        found += 1
        if not len(rows):
            start[i + 1] = found
