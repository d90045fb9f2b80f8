"""Voxels that were read from the frames of one rotation, kept for all integrations.

Widths of spots are learned, and models refined, in several rounds. The boxes are collected a little
larger than needed, so that later rounds need no frames. A box is found again by its position alone,
and its counts are those on the frames, whatever the reflection is called.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hklflow.bragg import boxes as bx
from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Half axes of collected foregrounds, relative to the needed ones, and additional voxels on each
# side. Widths that change by less do not need the frames again (`integrate`).
_WIDER = 1.15
_MORE = 1
# Bytes of a collected voxel, usually: floating-point numbers, or integers.
_BYTES = (4, 2)
_NONE = 65535.0  # 16 bits: no measurement


def around(centre: Floats, half: Floats) -> bx.Boxes:
    """Return the boxes to collect for foregrounds with these centres and half axes (n, 3)."""
    box = bx.Boxes.around(centre, _WIDER * half)
    return bx.Boxes(box.origin - _MORE, box.shape + 2 * _MORE)


class _Part(NamedTuple):
    """Collected boxes of one group, with counts of 16 bits if possible."""

    origin: Integers
    shape: Integers
    offset: Integers
    counts: NDArray[np.generic]
    invalid: float
    """Value of voxels without a measurement."""


class Collected:
    """Boxes of voxels of one rotation.

    Parameters
    ----------
    limit : float
        Largest memory in bytes; more boxes are not collected.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._parts: list[_Part] = []
        self._number = np.empty((0, 2), np.int64)
        self._tree: cKDTree | None = None

    def has_room_for(self, boxes: bx.Boxes, *, integers: bool) -> bool:
        """Return True if the boxes fit into the memory, with counts that are integers or not."""
        return float(boxes.n_voxels.sum()) * _BYTES[integers] <= self.limit

    def collect(self, filled: Iterable[bx.Filled]) -> None:
        """Replace the collected boxes."""
        self._parts, self._tree = [], None
        for one in filled:
            self._parts.append(_packed(one))
        if self._parts:
            self._number = np.concatenate(
                [
                    np.stack([np.full(len(part.offset), i), np.arange(len(part.offset))], axis=1)
                    for i, part in enumerate(self._parts)
                ]
            )
            self._tree = cKDTree(
                np.concatenate([part.origin + 0.5 * part.shape for part in self._parts])
            )

    def holds(self, boxes: bx.Boxes) -> bool:
        """Return True if all boxes were collected."""
        return self._tree is not None and self._sources(boxes) is not None

    def filled(self, groups: Iterable[bx.Group], boxes: bx.Boxes) -> Iterator[bx.Filled]:
        """Yield the boxes of the groups; all of them must have been collected."""
        sources = self._sources(boxes)
        assert sources is not None
        for group in groups:
            one = bx.Filled(group, boxes)
            source = sources[group.rows]
            for number in np.unique(source[:, 0]):
                to = np.flatnonzero(source[:, 0] == number)
                part = self._parts[number]
                box = (part.origin, part.shape, part.offset, part.counts, part.invalid)
                _cut_out(*box, source[to, 1], to, one.origin, one.shape, one.offset, one.counts)
            yield one

    def _sources(self, boxes: bx.Boxes) -> Integers | None:
        """Return part and row (n, 2) of the collected box around each box; None: one is missing."""
        if self._tree is None:
            return None
        nearest = self._tree.query(boxes.origin + 0.5 * boxes.shape)[1]
        origin = np.concatenate([part.origin for part in self._parts])[nearest]
        end = origin + np.concatenate([part.shape for part in self._parts])[nearest]
        inside = (boxes.origin >= origin) & (boxes.origin + boxes.shape <= end)
        return self._number[nearest] if inside.all() else None


def _packed(filled: bx.Filled) -> _Part:
    """Return the filled boxes, with counts of 16 bits if all counts are small integers."""
    measured = np.isfinite(filled.counts)
    values = filled.counts[measured]
    place = (filled.origin, filled.shape, filled.offset)
    if np.all((values >= 0) & (values < _NONE)):
        small = np.full(len(measured), _NONE, np.uint16)
        small[measured] = values
        if np.array_equal(small[measured], values):
            return _Part(*place, small, _NONE)
    return _Part(*place, filled.counts, np.nan)


@kernel
def _cut_out(  # type: ignore[no-untyped-def]
    from_origin, from_shape, from_offset, values, invalid, rows, to, origin, shape, offset, counts
):
    """Copy the counts of boxes ``to`` out of the larger boxes ``rows``."""
    for n in range(len(rows)):
        i, j = to[n], rows[n]
        z0, y0, x0 = origin[i] - from_origin[j]
        for z in range(shape[i, 0]):
            for y in range(shape[i, 1]):
                at = offset[i] + shape[i, 2] * (z * shape[i, 1] + y)
                of = from_offset[j] + x0
                of += from_shape[j, 2] * ((z0 + z) * from_shape[j, 1] + y0 + y)
                for x in range(shape[i, 2]):
                    value = values[of + x]
                    counts[at + x] = np.nan if value == invalid else value
