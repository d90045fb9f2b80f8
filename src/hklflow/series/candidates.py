"""Voxels that may get a label: those that are claimed to change, and their neighbours."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, convolve, generate_binary_structure

from hklflow.series.change import Cuboid, Places

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

Read = Callable[[Cuboid], tuple[Singles, Singles]]
"""Return data and errors (T, l, k, h) of a part of the grid."""

_REACH = 2  # voxels around a claim that may get a label: half-width of the largest box of the test
_FACES = generate_binary_structure(3, 1) & (np.indices((3, 3, 3)) != 1).any(axis=0)


@dataclass(frozen=True)
class Candidates:
    """Voxels that changed, and their neighbours.

    Attributes
    ----------
    index : (n,) int array
        Numbers in C order of (l, k, h), ascending.
    data, errors : (n, T) arrays
    s2 : (n,) array
    outside : (n,) int array
        Number of neighbours at the faces that are not independent or not in the grid.
    claimed : (n,) bool array
    """

    index: Integers
    data: Singles
    errors: Singles
    s2: Floats
    outside: Integers
    claimed: NDArray[np.bool_]


def gather(
    read: Read,
    places: Places,
    slabs: list[Cuboid],
    claimed: Integers,
    progress: Callable[[Iterable[Cuboid], int, str], Iterable[Cuboid]],
) -> Candidates:
    """Return the claimed voxels and their independent neighbours, with their trajectories."""
    shape = places.grid.array_shape
    plane = shape[1] * shape[2]
    needed = [part for part, near in _near(slabs, claimed, plane) if len(near)]
    parts: list[tuple[Integers, Singles, Singles, Floats, Integers, NDArray[np.bool_]]] = []
    for part in progress(needed, len(needed), "slabs of changes"):
        wide = Cuboid(
            slice(max(part.l.start - _REACH, 0), min(part.l.stop + _REACH, shape[0])),
            part.k,
            part.h,
        )
        inside = places.independent(wide)
        marked = np.zeros(inside.shape, np.bool_)
        low, high = np.searchsorted(claimed, [wide.l.start * plane, wide.l.stop * plane])
        l, k, h = np.unravel_index(claimed[low:high], shape)  # noqa: E741
        marked[l - wide.l.start, k - part.k.start, h - part.h.start] = True
        chosen = binary_dilation(marked, np.ones((3, 3, 3), np.bool_), _REACH) & inside
        voters = convolve(inside.astype(np.int8), _FACES.astype(np.int8), mode="constant")
        own = slice(part.l.start - wide.l.start, part.l.stop - wide.l.start)
        place = np.nonzero(chosen[own])
        everywhere: Any = (slice(None), *place)
        data, errors = (array[everywhere].T for array in read(part))
        at = (place[0] + part.l.start, place[1] + part.k.start, place[2] + part.h.start)
        parts.append(
            (
                np.asarray(np.ravel_multi_index(at, shape), dtype=np.int64),
                data,
                errors,
                places.s2(part)[place],
                6 - voters[own][place].astype(np.int64),
                marked[own][place],
            )
        )
    if not parts:
        none = np.empty((0, 0), np.float32)
        empty = np.empty(0, np.int64)
        return Candidates(empty, none, none, np.empty(0), empty, np.empty(0, np.bool_))
    columns: Any = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Candidates(*columns)


def _near(slabs: list[Cuboid], claimed: Integers, plane: int) -> Iterator[tuple[Cuboid, Integers]]:
    """Yield the slabs with the claimed voxels in them or close to them."""
    for part in slabs:
        bounds = [(part.l.start - _REACH) * plane, (part.l.stop + _REACH) * plane]
        low, high = np.searchsorted(claimed, bounds)
        yield part, claimed[low:high]
