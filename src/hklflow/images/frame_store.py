"""Compact store of the last frames of a scan and their background, filled in one pass.

A frame is stored as narrow counts: 8 bits, or 16 bits if the background is high, or 32-bit floats
for floating-point frames. A list of exceptions (``odd_at``, ``odd_value``) holds, in raster order,
the pixels whose counts do not fit, and the invalid pixels. In the narrow counts, invalid and masked
pixels have the counts expected from the background around them, so that sums over boxes do not need
the mask.

All images have a border: `ROWS` above and below, `COLUMNS` on the left and at least `COLUMNS` on
the right, up to a multiple of `PER_WORD`. Images of cells are only padded to this multiple.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.images.background import CELL, cell_background, window_cells, window_sums
from hklflow.images.rows import PER_WORD, add_counts, pack_row
from hklflow.simd.jit import kernel
from hklflow.simd.words import lowest_bit

ROWS, COLUMNS = 4, 64
#: Number of frames that are added to the sums together: a row of all of them fits in the cache.
SUMMED = 8
#: Value of an invalid pixel in the list of exceptions; it is below every valid value.
FLAGGED = -np.inf
#: Largest fraction of the pixels of the first frame that may not fit 8 bits.
_MANY = 0.002
_GOLDEN = 0.6180339887498949


class Store(NamedTuple):
    """Arrays of a `FrameStore` for kernels.

    Attributes
    ----------
    counts
        (slots, rows, columns) narrow counts.
    keep
        (rows, columns) of the type of ``counts``: 0 for masked pixels; all bits set (1 for floats)
        for other pixels.
    odd_at, odd_value
        (slots, n) exceptions: flat index in the image, and value.
    odd_number, flagged
        (slots,) number of exceptions, and number of invalid pixels among them.
    rate
        (slots, cell rows, cell columns) background per pixel, -1 where unknown.
    near
        (slots, cell rows, cell columns) 1 where a box may contain an invalid or masked pixel.
    loud
        (slots, cell rows, cell columns) 1 for cells that are left out of the background.
    whole
        (slots,) counts of all cells.
    quiet
        (slots, 2) counts and pixels of the cells that are not loud.
    """

    counts: NDArray[Any]
    keep: NDArray[Any]
    odd_at: NDArray[np.int64]
    odd_value: NDArray[np.float64]
    odd_number: NDArray[np.int64]
    flagged: NDArray[np.int64]
    rate: NDArray[np.float32]
    near: NDArray[np.uint8]
    loud: NDArray[np.uint8]
    whole: NDArray[np.float64]
    quiet: NDArray[np.float64]


class Scratch(NamedTuple):
    """Arrays of the mask, and working arrays that each frame overwrites."""

    cells: NDArray[Any]
    size: NDArray[np.int32]
    sums: NDArray[Any]
    sizes: NDArray[np.int32]
    mask_size: NDArray[np.int32]
    mask_near: NDArray[np.uint8]
    mask_sizes: NDArray[np.int32]
    fill_at: NDArray[np.uint32]
    fill_cell: NDArray[np.uint32]
    fill_more: NDArray[np.float32]
    bits: NDArray[np.uint64]


@kernel
def _list_odd(raw, bits, at, invalid_from, out, store, slot, number):  # type: ignore[no-untyped-def]
    """Add the pixels whose bit is set to the list of exceptions; set invalid pixels to 0."""
    where, values = store.odd_at[slot], store.odd_value[slot]
    for word in range(bits.size):
        rest = bits[word]
        while rest != np.uint64(0):
            j = 64 * word + lowest_bit(rest)
            rest &= rest - np.uint64(1)
            value = float(raw[j])
            # This test makes NaN invalid, too.
            if not (value >= 0.0 and value < invalid_from):
                value = FLAGGED
                out[j] = 0
            if number < where.size:
                where[number] = at + j
                values[number] = value
            number += 1
    return number


@kernel
def _add_cells(a, b, c, d, line, cells):  # type: ignore[no-untyped-def]
    for j in range(line.size):
        line[j] = a[j] + b[j] + c[j] + d[j]
    for k in range(cells.size):
        cells[k] = line[4 * k] + line[4 * k + 1] + line[4 * k + 2] + line[4 * k + 3]


@kernel
def pack_integers(raw, slot, top, invalid_from, store, scratch, line):  # type: ignore[no-untyped-def]
    """Pack a frame of unsigned integers (slow, fast); return the number of exceptions.

    Values from ``top`` on are exceptions. If the list of exceptions is too short, the result is not
    valid.
    """
    counts, keep = store.counts[slot], store.keep
    rows, columns = raw.shape
    whole, inner = columns // PER_WORD * PER_WORD, counts.shape[1] - 2 * COLUMNS
    rest = np.zeros(PER_WORD, raw.dtype)
    bits = scratch.bits
    number = 0
    # Clear the last row of cells: an earlier frame may have filled pixels there.
    counts[ROWS + rows :] = 0
    for i in range(ROWS, ROWS + rows):
        out, kept, line_raw = counts[i, COLUMNS:], keep[i, COLUMNS:], raw[i - ROWS]
        pack_row(line_raw, out, top, kept.ctypes.data, bits.ctypes.data, whole)
        if whole < columns:
            rest[: columns - whole] = line_raw[whole:]
            last = bits[whole // PER_WORD :].ctypes.data
            pack_row(rest, out[whole:], top, kept[whole:].ctypes.data, last, PER_WORD)
        any_odd = np.uint64(0)
        for word in range(bits.size):
            any_odd |= bits[word]
        if any_odd != np.uint64(0):
            at = i * counts.shape[1] + COLUMNS
            number = _list_odd(line_raw, bits, at, invalid_from, out, store, slot, number)
        if (i - ROWS) % CELL == CELL - 1 or i == ROWS + rows - 1:
            r = (i - ROWS) // CELL
            four = counts[ROWS + CELL * r : ROWS + CELL * r + 4, COLUMNS : COLUMNS + inner]
            _add_cells(four[0], four[1], four[2], four[3], line, scratch.cells[r])
    store.odd_number[slot] = number
    return number


@kernel
def pack_floats(raw, slot, valid_from, invalid_from, store, scratch, line):  # type: ignore[no-untyped-def]
    """Pack a frame of floats, like `pack_integers`; only invalid values are exceptions."""
    counts, keep = store.counts[slot], store.keep
    rows, columns = raw.shape
    inner = counts.shape[1] - 2 * COLUMNS
    where, values = store.odd_at[slot], store.odd_value[slot]
    number = 0
    # Clear the last row of cells: an earlier frame may have filled pixels there.
    counts[ROWS + rows :] = 0
    for i in range(ROWS, ROWS + rows):
        out, kept = counts[i], keep[i]
        out[COLUMNS + columns :] = 0.0
        for j in range(columns):
            value = raw[i - ROWS, j]
            good = (value >= valid_from) and (value < invalid_from)
            out[COLUMNS + j] = np.float32(value) if good and kept[COLUMNS + j] else 0.0
            if not good and kept[COLUMNS + j]:
                if number < where.size:
                    where[number] = i * counts.shape[1] + COLUMNS + j
                    values[number] = FLAGGED
                number += 1
        if (i - ROWS) % CELL == CELL - 1 or i == ROWS + rows - 1:
            r = (i - ROWS) // CELL
            four = counts[ROWS + CELL * r : ROWS + CELL * r + 4, COLUMNS : COLUMNS + inner]
            _add_cells(four[0], four[1], four[2], four[3], line, scratch.cells[r])
    store.odd_number[slot] = number
    return number


@kernel
def sum_counts(slots, top, store, total, most):  # type: ignore[no-untyped-def]
    """Add frames to the images of the sum and of the maximum, without the exceptions."""
    counts = store.counts
    width, kind = counts.shape[2], counts[0, 0, 0]
    n = width - 2 * COLUMNS
    # Invalid pixels contain expected counts, which must not be added.
    held = np.zeros((slots.size, store.odd_at.shape[1]), counts.dtype)
    for f in range(slots.size):
        flat, slot = counts[slots[f]].reshape(-1), slots[f]
        for k in range(store.odd_number[slot]):
            held[f, k] = flat[store.odd_at[slot, k]]
            if store.odd_value[slot, k] < 0.0:
                flat[store.odd_at[slot, k]] = 0
    first, keep = COLUMNS * counts.itemsize, store.keep.ctypes.data
    wide = COLUMNS * total.itemsize
    for i in range(ROWS, counts.shape[1] - ROWS):
        at = i * width * counts.itemsize + first
        sums, largest = total.ctypes.data + i * width * total.itemsize + wide, most.ctypes.data + at
        for slot in slots:
            row = counts.ctypes.data + slot * counts.strides[0] + at
            add_counts(kind, row, keep + at, top, sums, largest, n)
    for f in range(slots.size):
        flat, slot = counts[slots[f]].reshape(-1), slots[f]
        for k in range(store.odd_number[slot]):
            flat[store.odd_at[slot, k]] = held[f, k]


@kernel
def _set_odd(slot, top, most_in_cell, store, scratch):  # type: ignore[no-untyped-def]
    """Add the counts of the exceptions to the cells, and remove invalid pixels from the cells."""
    scratch.size[:] = scratch.mask_size
    store.near[slot] = scratch.mask_near
    width = store.counts.shape[2]
    rows, columns = scratch.cells.shape
    flagged = 0
    for k in range(store.odd_number[slot]):
        i, j = divmod(store.odd_at[slot, k], width)
        r, c = (i - ROWS) // CELL, (j - COLUMNS) // CELL
        value = store.odd_value[slot, k]
        if value > FLAGGED:
            scratch.cells[r, c] += int(min(value - top, most_in_cell))
            continue
        flagged += 1
        scratch.size[r, c] -= 1
        for a in range(max(r - 1, 0), min(r + 2, rows)):
            for b in range(max(c - 1, 0), min(c + 2, columns)):
                store.near[slot, a, b] = 1
    store.flagged[slot] = flagged
    return flagged > 0


@kernel
def describe(slot, half, n_sigma, top, most_in_cell, store, scratch):  # type: ignore[no-untyped-def]
    """Find the background of a packed frame, and fill its invalid and masked pixels."""
    if _set_odd(slot, top, most_in_cell, store, scratch):
        window_sums(scratch.size, half, scratch.sizes)
    else:
        scratch.sizes[:] = scratch.mask_sizes
    store.whole[slot], store.quiet[slot, 0], store.quiet[slot, 1] = cell_background(
        scratch.cells, scratch.size, half, n_sigma, store.rate[slot], store.loud[slot],
        scratch.sums, scratch.sizes,
    )  # fmt: skip
    image, rate = store.counts[slot].reshape(-1), store.rate[slot].reshape(-1)
    highest = np.float32(top) - np.float32(1.0)
    for k in range(scratch.fill_at.size):
        expected = max(rate[scratch.fill_cell[k]], np.float32(0.0)) + scratch.fill_more[k]
        image[scratch.fill_at[k]] = int(min(expected, highest))
    width, cells = store.counts.shape[2], store.rate.shape[2]
    for k in range(store.odd_number[slot]):
        if store.odd_value[slot, k] < 0.0:
            at = store.odd_at[slot, k]
            cell = (at // width - ROWS) // CELL * cells + (at % width - COLUMNS) // CELL
            expected = max(rate[cell], np.float32(0.0)) + np.float32((at * _GOLDEN) % 1.0)
            image[at] = int(min(expected, highest))


class FrameStore:
    """Store of the last frames of a scan; `take` adds the next frame.

    Parameters
    ----------
    mask
        Bad pixels (slow, fast), True = bad.
    dtype
        Type of the frames.
    slots
        Number of stored frames.
    window
        Half size in pixels of the window of the background.
    n_sigma
        Limit of the cells that are left out of the background, see `cell_background`.
    invalid_from
        Smallest invalid value; NaN is always invalid.
    valid_from
        Values of floating-point frames below this value are invalid; negative integers are always
        invalid.
    sums
        True: compute the images ``total`` (sum of the narrow counts) and ``most`` (maximum), only
        for integers. Both images have the borders and omit the exceptions.
    """

    def __init__(
        self,
        mask: NDArray[np.bool_],
        dtype: np.dtype[Any],
        slots: int,
        *,
        window: int,
        n_sigma: float,
        invalid_from: float = np.inf,
        valid_from: float = 0.0,
        sums: bool = False,
    ) -> None:
        self.mask, self.dtype, self.slots = mask, dtype, slots
        self.half, self.n_sigma = window_cells(window), n_sigma
        self.n_frames = self._summed = 0
        self.sums = sums
        self._invalid_from, self._valid_from = invalid_from, valid_from
        bits = 8 * dtype.itemsize
        if dtype.kind == "i":
            # Frames are read as unsigned integers, so negative numbers become large numbers.
            self._invalid_from = min(invalid_from, 2.0 ** (bits - 1))

    def _begin(self, frame: NDArray[Any]) -> None:
        """Choose the narrow type from the first frame and create the arrays."""
        mask = self.mask
        narrow: np.dtype[Any]
        wide: np.dtype[Any]
        cell: np.dtype[Any]
        if self.dtype.kind == "f":
            narrow = wide = cell = np.dtype(np.float32)
            self.top = np.inf
        else:
            good = frame[~mask]
            large = np.count_nonzero((good >= 255) & (good < self._invalid_from))
            eight = large <= _MANY * good.size
            narrow, wide = np.dtype(np.uint8), np.dtype(np.uint16)
            if not eight:
                narrow, wide = np.dtype(np.uint16), np.dtype(np.uint32)
            cell = np.dtype(np.uint32)
            self.top = float(min(np.iinfo(narrow).max, np.ceil(self._invalid_from)))
        across = -(-mask.shape[1] // PER_WORD) * PER_WORD
        rows, columns = -(-mask.shape[0] // CELL), across // CELL
        shape = (CELL * rows + 2 * ROWS, across + 2 * COLUMNS)
        keep = np.zeros(shape, narrow)
        inner = (slice(ROWS, ROWS + mask.shape[0]), slice(COLUMNS, COLUMNS + mask.shape[1]))
        keep[inner][~mask] = 1 if narrow.kind == "f" else np.iinfo(narrow).max
        whole = keep[ROWS : ROWS + CELL * rows, COLUMNS : COLUMNS + across] != 0
        size = whole.reshape(rows, CELL, columns, CELL).sum(axis=(1, 3)).astype(np.int32)
        near = np.zeros((rows, columns), np.uint8)
        part = np.pad(size < CELL * CELL, 1, constant_values=True)
        for i in range(3):
            for j in range(3):
                near |= part[i : i + rows, j : j + columns]
        self.store = Store(
            counts=np.zeros((self.slots, *shape), narrow),
            keep=keep,
            odd_at=np.zeros((self.slots, 1024), np.int64),
            odd_value=np.zeros((self.slots, 1024)),
            odd_number=np.zeros(self.slots, np.int64),
            flagged=np.zeros(self.slots, np.int64),
            rate=np.zeros((self.slots, rows, columns), np.float32),
            near=np.zeros((self.slots, rows, columns), np.uint8),
            loud=np.zeros((self.slots, rows, columns), np.uint8),
            whole=np.zeros(self.slots),
            quiet=np.zeros((self.slots, 2)),
        )
        sizes = np.zeros_like(size)
        window_sums(size, self.half, sizes)
        fill_at = _beside(keep != 0)
        cell_row = np.clip((fill_at // shape[1] - ROWS) // CELL, 0, rows - 1)
        cell_column = np.clip((fill_at % shape[1] - COLUMNS) // CELL, 0, columns - 1)
        self.wide = wide
        # Above these limits a pixel may have reached `top`, or a sum may have overflowed.
        self.most_one = 2.0**62 if narrow.kind == "f" else self.top - 1.0
        self.most_sum = {1: 2.0**16 - 1, 2: 2.0**32 - 257, 4: 2.0**62}[narrow.itemsize]
        if self.sums and narrow.kind != "f":
            self.total, self.most = np.zeros(shape, wide), np.zeros(shape, narrow)
        self.scratch = Scratch(
            cells=np.zeros((rows, columns), cell),
            size=size.copy(),
            sums=np.zeros((rows, columns), cell),
            sizes=np.zeros((rows, columns), np.int32),
            mask_size=size,
            mask_near=near,
            mask_sizes=sizes,
            # Unsigned, because with signed indices each access would test for negative values.
            fill_at=fill_at.astype(np.uint32),
            fill_cell=(cell_row * columns + cell_column).astype(np.uint32),
            fill_more=np.asarray((fill_at * _GOLDEN) % 1.0, np.float32),
            bits=np.zeros(across // PER_WORD, np.uint64),
        )
        self._line = np.zeros(across, wide)
        # Sums over a window must fit into 32 bits.
        self.most_in_cell = 2.0**31 / ((2 * self.half + 1) ** 2 * CELL * CELL) - self.top

    def around(self, number: int) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_]]:
        """Return counts (3, slow, fast) and background of a frame and its two neighbours.

        The third array is True for pixels that are not masked. Counts that do not fit the narrow
        type have its largest value.
        """
        rows, columns = self.mask.shape
        slots = np.arange(number - 1, number + 2) % self.slots
        counts = self.store.counts[slots, ROWS : ROWS + rows, COLUMNS : COLUMNS + columns]
        return counts, self.store.rate[slots], ~self.mask

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        self.store.counts[slot] = 0
        self.store.rate[slot] = 0.0
        self.store.odd_number[slot] = self.store.flagged[slot] = 0

    def _room(self) -> int:
        return self.store.odd_at.shape[1]

    def _make_room(self, number: int) -> None:
        """Make the lists of exceptions longer."""
        more = ((0, 0), (0, number - self._room()))
        places, values = np.pad(self.store.odd_at, more), np.pad(self.store.odd_value, more)
        self.store = self.store._replace(odd_at=places, odd_value=values)

    def take(self, frame: NDArray[Any]) -> int:
        """Pack the next frame (slow, fast) and find its background; return its slot."""
        if self.n_frames == 0:
            self._begin(frame)
        frame = np.ascontiguousarray(frame)
        if self.dtype.kind == "f" and self.dtype.itemsize not in (4, 8):
            frame = frame.astype(np.float64)
        pack, limit = pack_floats, self._valid_from
        if self.dtype.kind != "f":
            frame, pack, limit = frame.view(f"u{self.dtype.itemsize}"), pack_integers, int(self.top)
        slot = self.n_frames % self.slots
        common = (frame, slot, limit, self._invalid_from)
        while (number := pack(*common, self.store, self.scratch, self._line)) > self._room():
            self._make_room(2 * number)
        describe(
            slot, self.half, self.n_sigma, self.top, self.most_in_cell, self.store, self.scratch
        )
        self.n_frames += 1
        if self.n_frames - self._summed == min(SUMMED, self.slots):
            self.add_up()
        return slot

    def add_up(self) -> None:
        """Update ``total`` and ``most`` with the frames that were taken since the last call."""
        if self.sums and self.dtype.kind != "f":
            slots = np.arange(self._summed, self.n_frames) % self.slots
            sum_counts(slots, int(self.top), self.store, self.total, self.most)
        self._summed = self.n_frames


def _beside(keep: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the flat indices of masked pixels that a box around a good pixel can contain."""
    near = np.zeros(keep.shape, bool)
    for i in range(-2, 3):
        for j in range(-2, 3):
            near |= np.roll(keep, (i, j), (0, 1))
    return np.flatnonzero(near & ~keep)
