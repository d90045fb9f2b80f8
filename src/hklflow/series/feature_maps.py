"""Maps of an averaged cell along rods and sheets: means and medians, and their maxima.

A rod along d is a point of the map in two coordinates ``c · hkl`` that are constant along d; a
sheet is a point of a map in one coordinate, and a point is a point of the cell itself.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hklflow.series.feature_copies import Shape
from hklflow.series.zone_average import Cell

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SCALES = (0.7, 1.4, 2.8, 5.6)  # widths of the maxima that are searched, bins
_WIDER = 2.0  # width of the surroundings over that of a maximum
# By the dimension of the map.
_KINDS: Mapping[int, Shape] = {1: "sheet", 2: "rod", 3: "point"}
_PIECES = {1: 8, 2: 6}  # pieces along each flat coordinate, likewise


@dataclass(frozen=True)
class Projection:
    """Lines or planes of bins that are parallel to a rod or sheet.

    Attributes
    ----------
    columns : (3, m) int array
        Covectors of the m coordinates of the map.
    direction : (3,) int array or None
        Direction of the rods, normal of the sheets; None for points.
    shape : tuple of int
        Bins of the map.
    members : (map bins, n) int array
        Bins of the cell in each bin of the map; -1 for none.
    pieces : (map bins, n) int array
        Piece of the rod or sheet of each member, from 0; -1 for none.
    """

    columns: Integers
    direction: Integers | None
    shape: tuple[int, ...]
    members: Integers
    pieces: Integers

    @property
    def kind(self) -> Shape:
        """Return "sheet", "rod" or "point"."""
        return _KINDS[self.columns.shape[1]]

    def maps(self, values: Floats) -> list[Floats]:
        """Return the mean and the median of values (bins,) along each line or plane.

        NaN are left out. To the mean, what crosses the lines is a constant, if the whole line is
        known; the median leaves it out. Points have one map, the values.
        """
        if self.direction is None:
            return [values[self.members[:, 0]].reshape(self.shape)]
        lines = np.where(self.members >= 0, values[self.members], np.nan)
        lines.sort(axis=1)
        n = np.isfinite(lines).sum(axis=1)
        row = np.arange(len(lines))
        low, high = np.maximum((n - 1) // 2, 0), np.minimum(n // 2, lines.shape[1] - 1)
        middle = (lines[row, low] + lines[row, high]) / 2
        mean = np.nansum(lines, axis=1) / np.maximum(n, 1)
        # Less than a third of the line is not enough.
        short = 3 * n < (self.members >= 0).sum(axis=1)
        return [np.where(short, np.nan, x).reshape(self.shape) for x in (mean, middle)]


def projections(cell: Cell, kind: str, largest: int, most: int) -> list[Projection]:
    """Return the projections along directions of small integers, one of each set of equivalents.

    Parameters
    ----------
    kind : str
        "sheet", "rod" or "point".
    largest : int
        Largest integer.
    most : int
        Largest number of directions; those with short vectors are taken.
    """
    if kind == "point":
        bins = np.arange(len(cell.points))[:, None]
        columns = np.eye(3, dtype=np.int64)
        shape = (cell.shape[2], cell.shape[1], cell.shape[0])
        return [Projection(columns, None, shape, _as_hkl(bins, cell), bins * 0)]
    metric = cell.lattice.metric if kind == "rod" else np.linalg.inv(cell.lattice.metric)
    turn = cell.operations if kind == "rod" else np.linalg.inv(cell.operations).transpose(0, 2, 1)
    vectors = [x for x in itertools.product(range(-largest, largest + 1), repeat=3)
               if gcd(*x) == 1 and x > (0, 0, 0)]  # fmt: skip
    vectors.sort(key=lambda x: (round(float(np.array(x) @ metric @ np.array(x)), 6), _untidy(x)))
    chosen: list[Integers] = []
    known: set[tuple[int, ...]] = set()
    for vector in vectors:
        if vector not in known:
            chosen.append(np.array(vector))
            images = np.rint(np.concatenate([turn @ vector, -turn @ vector])).astype(int)
            known.update(tuple(map(int, x)) for x in images)
    return [_projection(cell, vector, kind) for vector in chosen[:most]]


def _untidy(vector: Sequence[int]) -> tuple[int, list[int]]:
    return sum(x < 0 for x in vector), [-x for x in vector]


def _as_hkl(bins: Integers, cell: Cell) -> Integers:
    """Return bins, in C order of (l, k, h), in C order of (h, k, l)."""
    return np.ascontiguousarray(bins.reshape(*cell.shape, -1).transpose(2, 1, 0, 3)).reshape(
        len(bins), -1
    )


def _projection(cell: Cell, vector: Integers, kind: str) -> Projection:
    columns, others = _basis(vector, kind)
    number = np.array(cell.shape[::-1])
    shape = tuple(int(number[np.abs(c) > 0].min()) for c in columns)
    place = np.zeros(len(cell.points), np.int64)
    for c, n in zip(columns, shape, strict=True):
        place = place * n + np.rint(cell.points @ c * n / cell.period).astype(np.int64) % n
    piece = np.zeros(len(cell.points), np.int64)
    n = _PIECES[len(columns)] * cell.period
    for e in others:
        # Pieces are around multiples of their length: the first is around the reflections.
        piece = piece * n + np.floor(cell.points @ e * n / cell.period + 0.5).astype(np.int64) % n
    order = np.argsort(place, kind="stable")
    counts = np.bincount(place, minlength=int(np.prod(shape)))
    members = np.full((len(counts), counts.max()), -1)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    members[place[order], rank] = order
    pieces = np.where(members >= 0, piece[members], -1)
    return Projection(np.array(columns).T, vector, shape, members, pieces)


def _basis(vector: Integers, kind: str) -> tuple[list[Integers], list[Integers]]:
    """Return covectors of the map, and those that number the bins along a rod or in a sheet."""
    small = [np.array(x) for x in itertools.product(range(-2, 3), repeat=3) if any(x)]
    small.sort(key=lambda x: (int(x @ x), _untidy(x.tolist())))
    if kind == "sheet":
        for a, b in itertools.combinations(small, 2):
            if abs(round(np.linalg.det(np.array([vector, a, b])))) == 1:
                return [vector], [a, b]
    flat = [x for x in small if x @ vector == 0]
    for a, b in itertools.combinations(flat, 2):
        if np.array_equal(np.abs(np.cross(a, b)), np.abs(vector)):
            along = next(x for x in small if abs(x @ vector) == 1)
            return sorted([a, b], key=lambda x: int(np.argmax(np.abs(x)))), [along]
    raise AssertionError(vector)


def contrasts(values: Floats) -> list[Floats]:
    """Return how far a periodic map rises above its surroundings, at each of the `SCALES`."""
    full = filled(values)
    found = []
    for scale in SCALES:
        if 2 * scale > min(full.shape):
            continue
        near = ndimage.gaussian_filter(full, scale, mode="wrap")
        around = ndimage.gaussian_filter(full, _WIDER * scale + 1, mode="wrap")
        found.append(np.where(np.isfinite(values), near - around, np.nan))
    return found


def filled(values: Floats) -> Floats:
    """Return a periodic map with values that are not known (NaN) from their neighbours."""
    known = np.isfinite(values)
    if known.all() or not known.any():
        return np.nan_to_num(values)
    full = np.where(known, values, 0.0)
    weight = known.astype(np.float64)
    a, b = (ndimage.gaussian_filter(x, 1.5, mode="wrap") for x in (full, weight))
    return np.where(
        known, values, np.where(b > 1e-3, a / np.maximum(b, 1e-3), np.nanmedian(values))
    )


def is_maximum(values: Floats) -> NDArray[np.bool_]:
    """Return True where a periodic map is as large as all its neighbours."""
    return np.asarray(values >= ndimage.maximum_filter(values, 3, mode="wrap"))
