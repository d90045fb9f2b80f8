"""Strong voxels of a frame: a test that loses none, on every pixel, then the exact one.

A voxel is strong when the counts summed over a box of 1, 3 or 5 voxels on an edge exceed the
background in that box. The larger boxes find peaks that are broad and weak: their single
pixels do not stand out of the noise. The test is the likelihood ratio of a Poisson count ``N``
against its expectation ``V``, ``2 (N ln(N / V) - N + V) > n_sigma²``, which becomes
``N > V + n_sigma sqrt(V)`` for many counts and holds for few.

`screen` adds the narrow counts of the frame store in boxes around every pixel and compares them
with thresholds for each cell, a little below the exact ones. `test_strong` looks at what is
left, about one pixel in ten thousand and the peaks, with the true counts, the valid voxels
alone and the background interpolated between cells.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hklflow.core.background import CELL
from hklflow.core.frame_store import COLUMNS, ROWS
from hklflow.core.peaks_rows import add_frames, add_rows, exceed, lowest_bit, spread

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

#: Frames over which the largest box extends.
DEPTH = 5
#: Part of `n_sigma` that the thresholds of `screen` ask for, and beside a gap, where a box has
#: fewer voxels and less noise than the thresholds' box: they are for boxes that are whole. What
#: is lost are masked pixels inside a gap that their few neighbours alone would make strong.
_SHARE, _SHARE_AT_GAP = 0.97, 0.76
#: Columns of pixels, and rows of cells, that are treated together: the sums of a panel's rows
#: stay in the fastest cache, the counts of a band in the next.
_PANEL, _BAND = 1024, 8
#: Columns on each side of a panel; boxes need two, vectors of numbers sixteen or more.
_MARGIN = 32
#: Shape of the scratch of `screen`.
SCRATCH = (2 * DEPTH + 7, _PANEL + 2 * _MARGIN)


@njit(cache=True, nogil=True, error_model="numpy")
def _below_threshold(expected, n_sigma):  # type: ignore[no-untyped-def]
    """Counts that the likelihood ratio's threshold exceeds, by no more than 0.2 mostly."""
    root = np.sqrt(expected)
    more = root / (root + np.float32(0.0864) * n_sigma)
    bend = np.float32(0.158) * n_sigma * n_sigma * (np.float32(0.42) + np.float32(0.56) * more)
    return expected + n_sigma * root + bend


@njit(cache=True, nogil=True, error_model="numpy")
def _cell_sums(rate, slots, row, sums):  # type: ignore[no-untyped-def]
    """Expected counts of whole boxes (3 sizes, columns) in a row of cells, ends repeated."""
    a, b, c = rate[slots[0], row], rate[slots[1], row], rate[slots[2], row]
    d, e = rate[slots[3], row], rate[slots[4], row]
    zero = np.float32(0.0)
    n = c.size
    one, three, five = sums[0, 1 : n + 1], sums[1, 1 : n + 1], sums[2, 1 : n + 1]
    for j in range(n):
        middle = max(b[j], zero) + max(c[j], zero) + max(d[j], zero)
        one[j] = max(c[j], zero)
        three[j] = np.float32(9.0) * middle
        five[j] = np.float32(25.0) * (middle + max(a[j], zero) + max(e[j], zero))
    for k in range(3):
        sums[k, 0], sums[k, n + 1] = sums[k, 1], sums[k, n]


@njit(cache=True, nogil=True, error_model="numpy")
def _thresholds(up, here, down, near, n_sigma, out):  # type: ignore[no-untyped-def]
    """Thresholds (3, columns); where the background rises or falls, of the cell's lower end."""
    share, at_gap = np.float32(_SHARE) * n_sigma, np.float32(_SHARE_AT_GAP) * n_sigma
    for k in range(3):
        left, middle, right, line = here[k], here[k, 1:], here[k, 2:], out[k]
        above, below = up[k, 1:], down[k, 1:]
        for j in range(near.size):
            least = min(min(left[j], right[j]), min(above[j], below[j]))
            expected = np.float32(0.5) * (middle[j] + min(middle[j], least))
            line[j] = _below_threshold(expected, at_gap if near[j] != 0 else share)


@njit(cache=True, nogil=True)
def _append(bits, words, at, found, number):  # type: ignore[no-untyped-def]
    for word in range(words):
        rest = bits[word]
        while rest != np.uint64(0):
            if number < found.size:
                found[number] = at + 64 * word + lowest_bit(rest)
            rest &= rest - np.uint64(1)
            number += 1
    return number


@njit(cache=True, nogil=True)
def _band_thresholds(rates, near, slots, begin, end, n_sigma, sums, below):  # type: ignore[no-untyped-def]
    """Fill the thresholds of the boxes of 1, 3, 5 voxels: (cell rows begin to end, 3, columns)."""
    rows, sigma = rates.shape[1], np.float32(n_sigma)
    for r in range(begin, end):
        for k in range(max(r - 1, 0) if r == begin else r + 1, min(r + 2, rows)):
            _cell_sums(rates, slots, k, sums[k % 3])
        up, down = sums[max(r - 1, 0) % 3], sums[min(r + 1, rows - 1) % 3]
        _thresholds(up, sums[r % 3], down, near[slots[2], r], sigma, below[r - begin])


@njit(cache=True, nogil=True)
def _screen_band(  # type: ignore[no-untyped-def]
    counts, slots, panel, begin, end, below, most_one, most_sum, wide, bits, found, number
):
    """List the pixels of a panel, rows of cells `begin` to `end`; see `screen`."""
    kind, wide_kind, width = counts[0, 0, 0], wide[0, 0], counts.shape[2]
    frame, line, size = counts.strides[0], counts.strides[1], counts.itemsize
    step, inner = wide.strides[0], _MARGIN * wide.itemsize
    # Rows of `wide`: sums over three frames, over five; boxes of a row, of the row before.
    p3 = wide.ctypes.data
    p5, q3, q5 = p3 + DEPTH * step, p3 + 2 * DEPTH * step, p3 + (2 * DEPTH + 2) * step
    limit3 = p3 + (2 * DEPTH + 4) * step
    limit5, limit = limit3 + step, limit3 + 2 * step
    bits_at, cells_size = bits.ctypes.data, below.shape[2] * 4
    a, b, c, d, e = slots * frame
    n = min(_PANEL, width - 2 * COLUMNS - panel)
    start = counts.ctypes.data + (COLUMNS + panel - _MARGIN) * size
    first, last = ROWS + CELL * begin, ROWS + CELL * end
    for i in range(first - 2, last + 3):
        here, m0 = start + i * line, i % DEPTH * step
        if i < last + 2:
            add_frames(
                kind, here + a, here + b, here + c, here + d, here + e, p3 + m0, p5 + m0,
                n + 2 * _MARGIN,
            )  # fmt: skip
        if first + 2 <= i < last + 2:
            m1, m2 = (i - 1) % DEPTH * step, (i - 2) % DEPTH * step
            m3, m4 = (i - 3) % DEPTH * step, (i - 4) % DEPTH * step
            into = i % 2 * step
            add_rows(
                kind, p3 + m1, p3 + m2, p3 + m3, p5 + m0, p5 + m1, p5 + m2, p5 + m3, p5 + m4,
                q3 + into, q5 + into, n + 2 * _MARGIN,
            )  # fmt: skip
        # A row behind, so that what is read has left the queue of what was written.
        row = i - 3
        if row < first:
            continue
        r, part = divmod(row - first, CELL)
        if part == 0:
            cells = below.ctypes.data + 3 * r * cells_size + panel // CELL * 4
            spread(kind, cells, most_one, limit, n // CELL)
            spread(wide_kind, cells + cells_size, most_sum, limit3, n // CELL)
            spread(wide_kind, cells + 2 * cells_size, most_sum, limit5, n // CELL)
        take = (i - 1) % 2 * step + inner
        one = start + c + row * line + _MARGIN * size
        if exceed(kind, one, q3 + take, q5 + take, limit, limit3, limit5, bits_at, n) != 0:
            number = _append(bits, n // 64, row * width + COLUMNS + panel, found, number)
    return number


@njit(cache=True, nogil=True)
def screen(store, begin, end, n_sigma, most_one, most_sum, wide, found, numbers):  # type: ignore[no-untyped-def]
    """List the pixels (places in the image) of some frames that may be strong.

    The frames are gone through in bands of rows, which stay in a cache for all of them.

    Parameters
    ----------
    store : Store
    begin, end : int
        Numbers of the frames; the two before and the two after them are looked at as well.
    n_sigma : float
    most_one, most_sum : int
        Largest thresholds of a pixel and of a sum.
    wide : (n, m) array
        Of the type of sums; scratch, of the shape `SCRATCH`.
    found : (end - begin, n) int64
        Out: places.
    numbers : (end - begin,) int64
        Out: how many there are; more than fit in `found` are not there.
    """
    counts, rates, near = store.counts, store.rate, store.near
    n_slots, rows, columns = rates.shape
    slots = np.zeros((end - begin, DEPTH), np.int64)
    for f in range(end - begin):
        for k in range(DEPTH):
            slots[f, k] = (begin + f + k - DEPTH // 2) % n_slots
    numbers[:] = 0
    bits = np.zeros(_PANEL // 64, np.uint64)
    sums = np.zeros((3, 3, columns + 2), np.float32)
    below = np.zeros((_BAND, 3, columns), np.float32)
    for first in range(0, rows, _BAND):
        last = min(first + _BAND, rows)
        for f in range(end - begin):
            _band_thresholds(rates, near, slots[f], first, last, n_sigma, sums, below)
            for panel in range(0, CELL * columns, _PANEL):
                numbers[f] = _screen_band(
                    counts, slots[f], panel, first, last, below, most_one, most_sum, wide, bits,
                    found[f], numbers[f],
                )  # fmt: skip


@njit(cache=True, nogil=True)
def voxel(store, slot, at, top):  # type: ignore[no-untyped-def]
    """Counts of a pixel (its place in the image) that is not masked, or `frame_store.FLAGGED`.

    Pixels without a measurement hold what is expected of them: where there are some, the list
    of odd pixels is asked.
    """
    width = store.counts.shape[2]
    value = float(store.counts[slot, at // width, at % width])
    if value < top and store.flagged[slot] == 0:
        return value
    return _listed(store.odd_at, store.odd_value, slot, store.odd_number[slot], at, value)


@njit(cache=True, nogil=True)
def _listed(odd_at, odd_value, slot, number, at, value):  # type: ignore[no-untyped-def]
    """Counts of a pixel if it is in the list of odd ones, else ``value``."""
    low, high = 0, number
    while low < high:
        middle = (low + high) // 2
        if odd_at[slot, middle] < at:
            low = middle + 1
        else:
            high = middle
    if low < number and odd_at[slot, low] == at:
        return odd_value[slot, low]
    return value


@njit(cache=True, nogil=True)
def _between(rate, slot, i, j):  # type: ignore[no-untyped-def]
    """Background of a pixel, between the middles of four cells, of those where it is known."""
    rows, columns = rate.shape[1:]
    y, x = (i - ROWS + 0.5) / CELL - 0.5, (j - COLUMNS + 0.5) / CELL - 0.5
    r, c = math.floor(y), math.floor(x)
    y, x = y - r, x - c
    up, down = max(r, 0), min(r + 1, rows - 1)
    left, right = max(c, 0), min(c + 1, columns - 1)
    a, b = float(rate[slot, up, left]), float(rate[slot, up, right])
    d, e = float(rate[slot, down, left]), float(rate[slot, down, right])
    wa, wb, wd, we = (1.0 - y) * (1.0 - x), (1.0 - y) * x, y * (1.0 - x), y * x
    if min(min(a, b), min(d, e)) < 0.0:
        wa, wb = wa * (a >= 0.0), wb * (b >= 0.0)
        wd, we = wd * (d >= 0.0), we * (e >= 0.0)
        weight = wa + wb + wd + we
        return (wa * a + wb * b + wd * d + we * e) / weight if weight > 0.0 else 0.0
    return wa * a + wb * b + wd * d + we * e


@njit(cache=True, nogil=True)
def _whole_box(counts, rate, near, slots, i, j, top, half):  # type: ignore[no-untyped-def]
    """Counts and background of the box of ``2 half + 1`` voxels on an edge, and its valid voxels.

    Negative counts: the box is cut, or the narrow counts do not tell, and `_cut_box` must.
    """
    r, c = (i - ROWS) // CELL, (j - COLUMNS) // CELL
    total, expected = 0.0, 0.0
    for z in range(DEPTH // 2 - half, DEPTH // 2 + half + 1):
        slot = slots[z]
        if near[slot, r, c] != 0:
            return -1.0, 0.0, 0
        for a in range(i - half, i + half + 1):
            for b in range(j - half, j + half + 1):
                value = float(counts[slot, a, b])
                if value >= top:
                    return -1.0, 0.0, 0
                total += value
        expected += _between(rate, slot, i, j)
    edge = 2 * half + 1
    return total, expected * edge * edge, edge * edge * edge


@njit(cache=True, nogil=True)
def _cut_box(  # type: ignore[no-untyped-def]
    counts, keep, rate, flagged, odd_at, odd_value, odd_number, slots, i, j, top, half
):
    """As `_whole_box`, of the voxels that are valid, whatever they hold.

    It takes arrays one by one: to hand over the whole store costs more than to add up a box.
    """
    width = counts.shape[2]
    total, expected, valid = 0.0, 0.0, 0
    for z in range(DEPTH // 2 - half, DEPTH // 2 + half + 1):
        slot, number = slots[z], 0
        some_flagged = flagged[slot] > 0
        for a in range(i - half, i + half + 1):
            for b in range(j - half, j + half + 1):
                if keep[a, b] == 0:
                    continue
                value = float(counts[slot, a, b])
                if value >= top or some_flagged:
                    here = a * width + b
                    value = _listed(odd_at, odd_value, slot, odd_number[slot], here, value)
                if value >= 0.0:
                    total += value
                    number += 1
        if number > 0:
            expected += number * _between(rate, slot, i, j)
            valid += number
    return total, expected, valid


@njit(cache=True, nogil=True)
def stands_out(number, expected, n_sigma):  # type: ignore[no-untyped-def]
    """Whether counts exceed their expectation by the likelihood ratio."""
    excess = number - expected
    if excess <= 0.0 or expected <= 0.0 or excess * excess <= n_sigma * n_sigma * expected:
        return False
    return 2.0 * (number * math.log(number / expected) - excess) > n_sigma * n_sigma


@njit(cache=True, nogil=True)
def test_strong(store, slots, shape, top, n_sigma, threshold, found, strong, values):  # type: ignore[no-untyped-def]
    """Test the pixels that `screen` listed.

    Parameters
    ----------
    store, slots
        As for `screen`.
    shape : (2,) int
        Detector (slow, fast).
    top : float
        Counts from which the narrow type does not tell.
    n_sigma, threshold : float
        Limits; a pixel with more than `threshold` counts is strong by itself.
    found : (n,) int64
        Places, in ascending order.
    strong : (n,) int64
        Out: places of the strong ones. An invalid pixel can be one: it then bridges a gap.
    values : (n, 3)
        Out: counts above background, background, and valid voxels, in the box of 27.

    Returns
    -------
    int
        Number of strong pixels.
    """
    counts, rate, near, width = store.counts, store.rate, store.near, store.counts.shape[2]
    keep, flagged, odd_number = store.keep, store.flagged, store.odd_number
    odd_at, odd_value = store.odd_at, store.odd_value
    n = 0
    for at in found:
        i, j = at // width, at % width
        if i >= ROWS + shape[0] or j >= COLUMNS + shape[1]:
            continue
        yes = False
        # The box of 27 first: its numbers are wanted, and it decides for most.
        for half in (1, 0, 2):
            total, expected, valid = _whole_box(counts, rate, near, slots, i, j, top, half)
            if total < 0.0:
                total, expected, valid = _cut_box(
                    counts, keep, rate, flagged, odd_at, odd_value, odd_number, slots, i, j, top,
                    half,
                )  # fmt: skip
            if half == 1:
                strong[n] = at
                values[n, 0], values[n, 1], values[n, 2] = total - expected, expected, valid
            elif half == 0:
                yes = expected > 0.0 and total > threshold
            yes = yes or stands_out(total, expected, n_sigma)
            if yes:
                break
        n += yes
    return n


@njit(cache=True, nogil=True)
def leave_out(store, slot, strong, top):  # type: ignore[no-untyped-def]
    """Take the cells with strong voxels out of the mean of a frame.

    The beam and the exposure can change from frame to frame, and a fit must know it. The
    outskirts of peaks would raise the mean on frames with many peaks.
    """
    counts, keep, width = store.counts, store.keep, store.counts.shape[2]
    loud, some_flagged = store.loud[slot], store.flagged[slot] > 0
    total, number = 0.0, 0
    for at in strong:
        r, c = (at // width - ROWS) // CELL, (at % width - COLUMNS) // CELL
        if loud[r, c]:
            continue
        loud[r, c] = 1
        for i in range(ROWS + CELL * r, ROWS + CELL * r + CELL):
            for j in range(COLUMNS + CELL * c, COLUMNS + CELL * c + CELL):
                if keep[i, j] == 0:
                    continue
                value = float(counts[slot, i, j])
                if value >= top or some_flagged:
                    value = voxel(store, slot, i * width + j, top)
                if value >= 0.0:
                    total += value
                    number += 1
    store.quiet[slot, 0] -= total
    store.quiet[slot, 1] -= number
