"""Find strong voxels of some frames: a fast test of every pixel, then the exact test.

`peaks.screen` defines strong voxels. The exact test uses the true counts, only valid voxels, and
the background interpolated between the centres of the cells.
"""

import math

import numpy as np

from hklflow.images.background import CELL
from hklflow.images.frame_store import COLUMNS, FLAGGED, ROWS
from hklflow.images.rows import box_sums
from hklflow.peaks.screen import BAND, DEPTH, PANEL, band_thresholds, screen_band
from hklflow.simd.jit import kernel


@kernel
def voxel(store, slot, at, top):  # type: ignore[no-untyped-def]
    """Return the counts of a pixel that is not masked, or `frame_store.FLAGGED`.

    Invalid pixels contain expected counts. If the frame has such pixels, the list of exceptions is
    searched.
    """
    width = store.counts.shape[2]
    value = float(store.counts[slot, at // width, at % width])
    if value < top and store.flagged[slot] == 0:
        return value
    return listed(store.odd_at, store.odd_value, slot, store.odd_number[slot], at, value)


@kernel
def listed(odd_at, odd_value, slot, number, at, value):  # type: ignore[no-untyped-def]
    """Return the counts of a pixel from the list of exceptions, or ``value`` if not listed."""
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


@kernel
def _between(rate, slot, i, j):  # type: ignore[no-untyped-def]
    """Return the background of a pixel, interpolated between the four nearest known cells."""
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


@kernel
def _cut_box(  # type: ignore[no-untyped-def]
    counts, keep, rate, flagged, odd_at, odd_value, odd_number, slots, i, j, top, half
):
    """Return counts, background and number of valid voxels of a box.

    The sides of the box have ``2 half + 1`` voxels. The function is for boxes with narrow counts
    that are not exact. Its arguments are single arrays, because passing the whole store takes
    longer than summing a box.
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
                    value = listed(odd_at, odd_value, slot, odd_number[slot], here, value)
                if value > FLAGGED:
                    total += value
                    number += 1
        if number > 0:
            expected += number * _between(rate, slot, i, j)
            valid += number
    return total, expected, valid


@kernel
def _add_large(counts, keep, odd_at, odd_value, odd_number, slots, i, j, top, box):  # type: ignore[no-untyped-def]
    """Add what the narrow counts lack to the sums of `box_sums` around a pixel (in place)."""
    for z in range(DEPTH):
        slot = slots[z]
        for a in range(i - 2, i + 3):
            for b in range(j - 2, j + 3):
                narrow = counts[slot, a, b]
                if narrow < top or keep[a, b] == 0:
                    continue
                here, value = a * counts.shape[2] + b, float(narrow)
                more = listed(odd_at, odd_value, slot, odd_number[slot], here, value) - value
                far = max(abs(z - DEPTH // 2), max(abs(a - i), abs(b - j)))
                for k in range(far, 3):
                    box[k] += more


@kernel
def stands_out(number, expected, n_sigma):  # type: ignore[no-untyped-def]
    """Return True if counts exceed the expected counts significantly (likelihood ratio)."""
    excess = number - expected
    if excess <= 0.0 or expected <= 0.0 or excess * excess <= n_sigma * n_sigma * expected:
        return False
    return 2.0 * (number * math.log(number / expected) - excess) > n_sigma * n_sigma


@kernel
def _corners(rate, slots, r, c, level):  # type: ignore[no-untyped-def]
    """Compute `level` (3, 4): the background of four cells at (r, c), summed over 1, 3, 5 frames.

    Return True if the background of all cells is known. Cells outside the detector have the
    background of the nearest cell at the edge.
    """
    up, down = max(r, 0), min(r + 1, rate.shape[1] - 1)
    left, right = max(c, 0), min(c + 1, rate.shape[2] - 1)
    level[:] = 0.0
    known = True
    for z in range(DEPTH):
        slot, first = slots[z], abs(z - DEPTH // 2)
        a, b = float(rate[slot, up, left]), float(rate[slot, up, right])
        d, e = float(rate[slot, down, left]), float(rate[slot, down, right])
        known = known and min(min(a, b), min(d, e)) >= 0.0
        for k in range(first, 3):
            level[k, 0] += a
            level[k, 1] += b
            level[k, 2] += d
            level[k, 3] += e
    return known


@kernel
def _has_flagged(flagged, near, slots, i, j):  # type: ignore[no-untyped-def]
    """Return True if a box around a pixel may contain invalid pixels of a frame."""
    r, c = (i - ROWS) // CELL, (j - COLUMNS) // CELL
    found = False
    for slot in slots:
        found = found or (flagged[slot] > 0 and near[slot, r, c] != 0)
    return found


@kernel
def _test_band(store, slots, shape, top, n_sigma, threshold, found, strong, values):  # type: ignore[no-untyped-def]
    """Test the pixels `found` (flat indices, ascending) of the middle frame of five slots.

    Return the number of strong pixels; see `find_strong`.
    """
    counts, rate, near, width = store.counts, store.rate, store.near, store.counts.shape[2]
    keep, flagged, odd_number = store.keep, store.flagged, store.odd_number
    odd_at, odd_value = store.odd_at, store.odd_value
    kind, size, line, frame = counts[0, 0, 0], counts.itemsize, counts.strides[1], counts.strides[0]
    image, mask, slots_at = counts.ctypes.data, keep.ctypes.data, slots.ctypes.data
    some_flagged = False
    for slot in slots:
        some_flagged = some_flagged or flagged[slot] > 0
    # `box`: sums over boxes with sides of 1, 3, 5 voxels; numbers of valid pixels in the last two
    # boxes; largest count.
    box, level = np.zeros(6), np.zeros((3, 4))
    total, expected, valid = np.zeros(3), np.zeros(3), np.zeros(3)
    row = column = -(1 << 40)
    known = False
    n = 0
    for at in found:
        i, j = at // width, at % width
        if i >= ROWS + shape[0] or j >= COLUMNS + shape[1]:
            continue
        # The pixel lies between the centres of four cells.
        r, c = (i - ROWS - CELL // 2) // CELL, (j - COLUMNS - CELL // 2) // CELL
        if r != row or c != column:
            row, column = r, c
            known = _corners(rate, slots, r, c, level)
        corner = (i - 2) * line + (j - 2) * size
        box_sums(kind, image + corner, slots_at, frame, line, mask + corner, box.ctypes.data)
        plain = known and not (some_flagged and _has_flagged(flagged, near, slots, i, j))
        if plain:
            if box[5] >= top:
                _add_large(counts, keep, odd_at, odd_value, odd_number, slots, i, j, top, box)
            y, x = (i - ROWS + 0.5) / CELL - 0.5 - r, (j - COLUMNS + 0.5) / CELL - 0.5 - c
            valid[0], valid[1], valid[2] = 1.0 * (keep[i, j] != 0), 3.0 * box[3], 5.0 * box[4]
            for k in range(3):
                total[k] = box[k]
                here = (1.0 - y) * ((1.0 - x) * level[k, 0] + x * level[k, 1])
                here += y * ((1.0 - x) * level[k, 2] + x * level[k, 3])
                expected[k] = here * valid[k] / (2 * k + 1)
        else:
            for k in range(3):
                total[k], expected[k], valid[k] = _cut_box(
                    counts, keep, rate, flagged, odd_at, odd_value, odd_number, slots, i, j, top, k
                )
        yes = expected[0] > 0.0 and total[0] > threshold
        for k in range(3):
            yes = yes or stands_out(total[k], expected[k], n_sigma)
        strong[n] = at
        values[n, 0], values[n, 1], values[n, 2] = total[1] - expected[1], expected[1], valid[1]
        n += yes
    return n


@kernel
def _leave_out(store, slot, strong, top):  # type: ignore[no-untyped-def]
    """Exclude the cells with strong voxels from the mean of a frame.

    Beam and exposure can change from frame to frame, so a fit needs the background level of each
    frame. On frames with many peaks, the outskirts of the peaks would increase the mean.
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
                if value > FLAGGED:
                    total += value
                    number += 1
    store.quiet[slot, 0] -= total
    store.quiet[slot, 1] -= number


@kernel
def find_strong(store, begin, end, shape, top, limits, most, wide, found, strong, values, numbers):  # type: ignore[no-untyped-def]
    """Find the strong pixels of some frames, and exclude their cells from the frames' means.

    The frames are processed in bands of rows, which stay in a cache for all frames and for both
    tests.

    Parameters
    ----------
    store : Store
    begin, end : int
        Numbers of the first frame and of the last frame + 1. The two frames before and the two
        frames after them are also read.
    shape : (2,) int
        Shape of the detector (slow, fast).
    top : float
        Largest counts that the narrow type holds exactly.
    limits : (n_sigma, threshold)
        A pixel with more than `threshold` counts is always strong.
    most : (int, int)
        Largest thresholds of a pixel and of a sum.
    wide : array
        Scratch array of the type of sums, with the shape `SCRATCH`.
    found : (n,) int64
        Scratch array.
    strong : (end - begin, m) int64
        Output: flat indices of the strong pixels, ascending. An invalid pixel can be strong; it
        then connects the two sides of a gap.
    values : (end - begin, m, 3)
        Output: counts above background, background, and number of valid voxels, in the box of 27
        voxels.
    numbers : (end - begin,) int64
        Output: number of strong pixels of each frame.

    Returns
    -------
    int
        0; or, if the arrays are too short, the required length of `found` and of a row of `strong`,
        with which the function must be called again.
    """
    counts, rates, near = store.counts, store.rate, store.near
    n_slots, rows, columns = rates.shape
    n_sigma, threshold = limits
    slots = np.zeros((end - begin, DEPTH), np.int64)
    for f in range(end - begin):
        for k in range(DEPTH):
            slots[f, k] = (begin + f + k - DEPTH // 2) % n_slots
    numbers[:] = 0
    bits = np.zeros(PANEL // 64, np.uint64)
    sums = np.zeros((3, 3, columns + 2), np.float32)
    below = np.zeros((BAND, 3, columns), np.float32)
    for first in range(0, rows, BAND):
        last = min(first + BAND, rows)
        for f in range(end - begin):
            band_thresholds(rates, near, slots[f], first, last, n_sigma, sums, below)
            n = 0
            for panel in range(0, CELL * columns, PANEL):
                n = screen_band(
                    counts, slots[f], panel, first, last, below, most[0], most[1], wide, bits,
                    found, n,
                )  # fmt: skip
            done = numbers[f]
            if n > found.size or done + n > strong.shape[1]:
                return 2 * (done + n)
            if CELL * columns > PANEL:
                found[:n].sort()
            numbers[f] += _test_band(
                store, slots[f], shape, top, n_sigma, threshold, found[:n], strong[f, done:],
                values[f, done:],
            )  # fmt: skip
    for f in range(end - begin):
        _leave_out(store, slots[f, DEPTH // 2], strong[f, : numbers[f]], top)
    return 0
