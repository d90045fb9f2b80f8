"""Fourier transforms between some voxels of a grid and the waves of a box of distance vectors.

Few lines of the grid cross a hole, and the waves are needed near the origin only. Therefore the
transform along each axis is computed for the lines that are not empty, and only waves in the box
are kept: a tenth of the work of a transform of the whole grid, and the result is the same. If S has
inversion symmetry, half of the planes suffice, and the waves are real.

Waves are arrays [l, k, h] in the order of `numpy.fft.rfftn`, without scale; h >= 0.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Complex = NDArray[np.complex64]
Indices = NDArray[np.int64]

# Bytes of the rows or columns that are transformed at a time. Larger arrays would be taken from the
# system and given back each time, which takes as long as their transform.
_AT_A_TIME = 4_000_000


class Waves:
    """Sizes of a transform.

    Parameters
    ----------
    shape : (3,) tuple of int
        Voxels of the grid (l, k, h).
    middle : (3,) tuple of int
        Voxel at the inversion centre, (l, k, h).
    even : bool
        True if all fields have inversion symmetry about ``middle``.
    threads : int

    Attributes
    ----------
    periods : (3,) tuple of int
        Lengths of the transforms.
    box : (3,) tuple of int
        Number of waves that are kept along l, k, h, of both signs; at first, all.
    """

    def __init__(
        self, shape: tuple[int, ...], middle: tuple[int, ...], even: bool, threads: int
    ) -> None:
        self.shape, self.middle, self.even, self.threads = shape, middle, even, threads
        self.periods = tuple(scipy.fft.next_fast_len(n, real=True) for n in shape)
        self.box = self.periods

    @property
    def size(self) -> int:
        """Number of voxels of a period."""
        return int(np.prod(self.periods))

    @property
    def box_shape(self) -> tuple[int, int, int]:
        """Shape of the waves."""
        return self.box[0], self.box[1], self.box[2] // 2 + 1

    def planes_of(self, plane: Callable[[int], Singles], places: Indices) -> Complex:
        """Transform planes (k, h) of a period along k and h; ``places`` are those along l.

        If the fields are even, planes of l >= 0 suffice.
        """
        made = np.empty((len(places), *self.box_shape[1:]), np.complex64)
        for i, place in enumerate(places):
            rows = scipy.fft.rfft(plane(int(place)), axis=1, workers=self.threads)
            made[i] = self.kept(self.along_k(rows[None, :, : made.shape[2]]), 1)[0]
        return made

    def padded(self, values: Singles) -> Singles:
        """Return a plane of a period from one (k, h) of the grid."""
        plane = np.zeros(self.periods[1:], np.float32)
        for to_k, from_k in self._moves(1):
            for to_h, from_h in self._moves(2):
                plane[to_k, to_h] = values[from_k, from_h]
        return plane

    def _moves(self, axis: int) -> list[tuple[slice, slice]]:
        """Return places in a period, and voxels of the grid along an axis."""
        n, c, period = self.shape[axis], self.middle[axis], self.periods[axis]
        return [
            (slice(0, n - c), slice(c, n)),
            (slice(period - c, period), slice(0, c)),
        ]

    def along_k(self, rows: Complex) -> Complex:
        """Transform rows (planes, k, h) along k, in place."""
        moved: Complex = scipy.fft.fft(rows, axis=1, overwrite_x=True, workers=self.threads)
        return moved

    def kept(self, x: NDArray[Any], axis: int, along: int | None = None) -> NDArray[Any]:
        """Return the waves in the box along an axis with all waves.

        Parameters
        ----------
        along : int, optional
            Axis of the box; None: that of the array.
        """
        low, high = self.halves(axis if along is None else along)
        if low + high == x.shape[axis]:
            return x
        return np.concatenate([x.take(range(low), axis), x.take(range(-high, 0), axis)], axis)

    def halves(self, axis: int) -> tuple[int, int]:
        """Return the number of waves from 0 on, and of negative waves, along an axis."""
        return (self.box[axis] + 1) // 2, self.box[axis] // 2

    def places_of_grid(self) -> Indices:
        """Return the places along l of the planes of the grid; only l >= 0 if fields are even."""
        first = self.middle[0] if self.even else 0
        return (np.arange(first, self.shape[0]) - self.middle[0]) % self.periods[0]

    def all_places(self) -> Indices:
        """Return the places along l of all planes of a period; only l >= 0 if fields are even."""
        return np.arange(self.periods[0] // 2 + 1 if self.even else self.periods[0])

    def columns(self) -> Iterator[slice]:
        """Return parts of the waves along k that are transformed along l at a time."""
        rows = max(1, int(_AT_A_TIME // (8 * self.periods[0] * self.box_shape[2])))
        for start in range(0, self.box[1], rows):
            yield slice(start, min(start + rows, self.box[1]))

    def along_l(self, sheets: Complex, places: Indices) -> NDArray[Any]:
        """Transform sheets (planes, k, h) along l; return waves for each l of the period."""
        n = self.periods[0]
        full = np.zeros((n // 2 + 1 if self.even else n, *sheets.shape[1:]), np.complex64)
        full[places] = sheets
        transform: Any = scipy.fft.hfft if self.even else scipy.fft.fft
        waves: NDArray[Any] = transform(full, n, axis=0, workers=self.threads)
        return waves

    def back_along_l(self, waves: NDArray[Any], places: Indices) -> Complex:
        """Return the sheets of waves for each l of the period: the adjoint of `along_l`."""
        transform: Any = scipy.fft.ihfft if self.even else scipy.fft.ifft
        sheets = transform(waves, axis=0, norm="forward", workers=self.threads)
        back: Complex = sheets[places]
        return back

    def of_planes(self, planes: Complex, places: Indices) -> NDArray[Any]:
        """Return the waves of what `planes_of` returned; also for a larger box than now."""
        waves = np.empty(self.box_shape, np.float32 if self.even else np.complex64)
        rows = self.kept(np.arange(planes.shape[1]), 0, 1)
        for part in self.columns():
            sheets = planes[:, rows[part], : waves.shape[2]]
            waves[:, part] = self.kept(self.along_l(sheets, places), 0)
        return waves


class Voxels:
    """Some voxels of the grid, ordered for their transforms.

    Parameters
    ----------
    waves : Waves
    numbers : (n,) int array
        Flat numbers of the voxels in the grid, ascending. If the fields are even, the image of each
        is one of them.
    """

    def __init__(self, waves: Waves, numbers: Indices) -> None:
        self.waves = waves
        index = np.stack(np.unravel_index(numbers, waves.shape))
        self._own = np.arange(len(numbers))
        self._from = self._own
        if waves.even:
            upper = index[0] >= waves.middle[0]
            self._own = np.flatnonzero(upper)
            self._from = np.cumsum(upper) - 1
            image = np.ravel_multi_index(
                tuple(2 * np.array(waves.middle)[:, None] - index[:, ~upper]), waves.shape
            )
            self._from[~upper] = self._from[np.searchsorted(numbers, image)]
        l, k, self._h = (  # noqa: E741
            (axis[self._own] - m) % p
            for axis, m, p in zip(index, waves.middle, waves.periods, strict=True)
        )
        # Voxels of a line, and lines of a plane, follow each other.
        lines = l * waves.periods[1] + k
        first, self._line = _runs(lines)
        self._k = k[first]
        planes, self._plane = _runs(l[first])
        self._places = l[first][planes]

    def sheets(self, x: NDArray[np.floating]) -> Complex:
        """Transform values (n,), with zero elsewhere, along h and k."""
        waves = self.waves
        lines = np.zeros((len(self._k), waves.periods[2]), np.float32)
        lines[self._line, self._h] = x[self._own]
        moved = scipy.fft.rfft(lines, axis=1, workers=waves.threads)
        sheets = np.empty((len(self._places), *waves.box_shape[1:]), np.complex64)
        for planes, own in self._parts():
            rows = np.zeros((len(sheets[planes]), *self._row_shape()), np.complex64)
            rows[self._plane[own] - planes.start, self._k[own]] = moved[own, : rows.shape[2]]
            sheets[planes] = waves.kept(waves.along_k(rows), 1)
        return sheets

    def _row_shape(self) -> tuple[int, int]:
        return self.waves.periods[1], self.waves.box_shape[2]

    def _parts(self) -> Iterator[tuple[slice, slice]]:
        """Return parts of the planes, and their lines."""
        n = max(1, _AT_A_TIME // (8 * int(np.prod(self._row_shape()))))
        for start in range(0, len(self._places), n):
            first, last = np.searchsorted(self._plane, (start, start + n))
            yield slice(start, start + n), slice(int(first), int(last))

    def values(self, sheets: Complex) -> Floats:
        """Return values (n,) from sheets: the adjoint of `sheets`."""
        waves = self.waves
        n_k = waves.periods[1]
        low, high = waves.halves(1)
        moved = np.empty((len(self._k), waves.box_shape[2]), np.complex64)
        for planes, own in self._parts():
            rows = np.zeros((len(sheets[planes]), *self._row_shape()), np.complex64)
            rows[:, :low], rows[:, n_k - high :] = sheets[planes, :low], sheets[planes, low:]
            back = scipy.fft.ifft(
                rows, axis=1, norm="forward", overwrite_x=True, workers=waves.threads
            )
            moved[own] = back[self._plane[own] - planes.start, self._k[own]]
        lines = scipy.fft.irfft(
            moved, waves.periods[2], axis=1, norm="forward", workers=waves.threads
        )
        return np.asarray(lines[self._line, self._h][self._from], dtype=np.float64)

    def taken(self, place: int, plane: Singles) -> Singles:
        """Return the values of a plane (k, h) of a period in its voxels; see `joined`."""
        i = np.searchsorted(self._places, place)
        if i == len(self._places) or self._places[i] != place:
            return np.zeros(0, np.float32)
        first, last = np.searchsorted(self._line, np.searchsorted(self._plane, (i, i + 1)))
        own = slice(int(first), int(last))
        values: Singles = plane[self._k[self._line[own]], self._h[own]]
        return values

    def joined(self, parts: list[Singles]) -> Floats:
        """Return the values (n,) of what `taken` returned for all planes from place 0 on."""
        values: Floats = np.concatenate(parts)[self._from].astype(np.float64)
        return values

    def waves_of(self, x: NDArray[np.floating]) -> NDArray[Any]:
        """Return the waves of values (n,), with zero elsewhere."""
        waves, sheets = self.waves, self.sheets(x)
        found = np.empty(waves.box_shape, np.float32 if waves.even else np.complex64)
        for part in waves.columns():
            found[:, part] = waves.kept(waves.along_l(sheets[:, part], self._places), 0)
        return found

    def of_waves(self, found: NDArray[Any], weights: Singles | None = None) -> Floats:
        """Return the sums (n,) over the waves of the box, times weights, in the voxels."""
        waves = self.waves
        low, high = waves.halves(0)
        n = waves.periods[0]
        sheets = np.empty((len(self._places), *waves.box_shape[1:]), np.complex64)
        for part in waves.columns():
            column = np.zeros((n, part.stop - part.start, waves.box_shape[2]), found.dtype)
            column[:low], column[n - high :] = found[:low, part], found[low:, part]
            if weights is not None:
                column[:low] *= weights[:low, part]
                column[n - high :] *= weights[low:, part]
            sheets[:, part] = waves.back_along_l(column, self._places)
        return self.values(sheets)

    def filtered(self, x: NDArray[np.floating], weights: Singles) -> Floats:
        """Return the values that stand in the voxels if their waves are multiplied by weights."""
        waves, sheets = self.waves, self.sheets(x)
        low, high = waves.halves(0)
        n = waves.periods[0]
        for part in waves.columns():
            column = waves.along_l(sheets[:, part], self._places)
            column[:low] *= weights[:low, part]
            column[low : n - high] = 0
            column[n - high :] *= weights[low:, part]
            sheets[:, part] = waves.back_along_l(column, self._places)
        return self.values(sheets)


def _runs(x: Indices) -> tuple[Indices, Indices]:
    """Return the first places of runs of equal numbers, and the run of each number (n,)."""
    new = np.diff(x, prepend=-1) != 0
    return np.flatnonzero(new), np.cumsum(new) - 1
