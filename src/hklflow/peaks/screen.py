"""Find candidates for strong voxels of a frame: a fast test of every pixel that misses none.

A voxel is strong if the counts, summed over a box with sides of 1, 3 or 5 voxels, exceed the
background in this box. The larger boxes find broad and weak peaks, whose single pixels do not
exceed the noise. The test is the likelihood ratio of a Poisson count ``N`` with the expectation
``V``: ``2 (N ln(N / V) - N + V) > n_sigma²``. For many counts this becomes
``N > V + n_sigma sqrt(V)``, but the test is also valid for few counts.

`screen_band` sums the narrow counts of the frame store in boxes around every pixel. The sums are
compared with thresholds for each cell, which are slightly below the exact thresholds.
`peaks.strong` tests the remaining pixels exactly: a few in a thousand, most of them next to gaps
and in peaks.
"""

import numpy as np
from numpy.typing import NDArray

from hklflow.images.background import CELL
from hklflow.images.frame_store import COLUMNS, ROWS
from hklflow.images.rows import add_frames, add_rows, exceed, spread
from hklflow.simd.jit import kernel
from hklflow.simd.words import lowest_bit

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

#: Number of frames of the largest box.
DEPTH = 5
#: Factors on `n_sigma` for the thresholds: the first for complete boxes, the second next to a gap.
#: There a box has fewer voxels, and less noise, than the complete box of the thresholds. Only
#: masked pixels inside a gap can be missed, if their few neighbours alone make them strong.
_SHARE, _SHARE_AT_GAP = 0.97, 0.76
#: Number of columns of pixels (panel), and of rows of cells (band), that are processed together.
#: The sums of the rows of a panel fit into the fastest cache, the counts of a band into the second.
PANEL, BAND = 1024, 8
#: Columns on each side of a panel; boxes need two, vector instructions sixteen or more.
_MARGIN = 32
#: Shape of the scratch array of `screen_band`.
SCRATCH = (2 * DEPTH + 7, PANEL + 2 * _MARGIN)


@kernel(error_model="numpy")
def _below_threshold(expected, n_sigma):  # type: ignore[no-untyped-def]
    """Return counts slightly below the threshold of the likelihood ratio, mostly by under 0.2."""
    root = np.sqrt(expected)
    more = root / (root + np.float32(0.0864) * n_sigma)
    bend = np.float32(0.158) * n_sigma * n_sigma * (np.float32(0.42) + np.float32(0.56) * more)
    return expected + n_sigma * root + bend


@kernel(error_model="numpy")
def _cell_sums(rate, slots, row, sums):  # type: ignore[no-untyped-def]
    """Compute expected counts of complete boxes (3 sizes, columns) of a row of cells.

    The values at both ends are repeated.
    """
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


@kernel(error_model="numpy")
def _thresholds(up, here, down, near, n_sigma, out):  # type: ignore[no-untyped-def]
    """Compute the thresholds (3, columns), for the lowest background within each cell."""
    share, at_gap = np.float32(_SHARE) * n_sigma, np.float32(_SHARE_AT_GAP) * n_sigma
    for k in range(3):
        left, middle, right, line = here[k], here[k, 1:], here[k, 2:], out[k]
        above, below = up[k, 1:], down[k, 1:]
        for j in range(near.size):
            least = min(min(left[j], right[j]), min(above[j], below[j]))
            expected = np.float32(0.5) * (middle[j] + min(middle[j], least))
            line[j] = _below_threshold(expected, at_gap if near[j] != 0 else share)


@kernel
def _append(bits, words, at, found, number):  # type: ignore[no-untyped-def]
    for word in range(words):
        rest = bits[word]
        while rest != np.uint64(0):
            if number < found.size:
                found[number] = at + 64 * word + lowest_bit(rest)
            rest &= rest - np.uint64(1)
            number += 1
    return number


@kernel
def band_thresholds(rates, near, slots, begin, end, n_sigma, sums, below):  # type: ignore[no-untyped-def]
    """Compute the thresholds (rows of cells, 3, columns) of boxes with sides of 1, 3, 5 voxels."""
    rows, sigma = rates.shape[1], np.float32(n_sigma)
    for r in range(begin, end):
        for k in range(max(r - 1, 0) if r == begin else r + 1, min(r + 2, rows)):
            _cell_sums(rates, slots, k, sums[k % 3])
        up, down = sums[max(r - 1, 0) % 3], sums[min(r + 1, rows - 1) % 3]
        _thresholds(up, sums[r % 3], down, near[slots[2], r], sigma, below[r - begin])


@kernel
def screen_band(  # type: ignore[no-untyped-def]
    counts, slots, panel, begin, end, below, most_one, most_sum, wide, bits, found, number
):
    """List the pixels of a panel that may be strong, in the rows of cells `begin` to `end`.

    `below` are the thresholds, `most_one` and `most_sum` the largest thresholds; `wide` and `bits`
    are scratch arrays. Flat indices are written to `found` from index `number` on; if `found` is
    full, they are only counted.
    """
    kind, wide_kind, width = counts[0, 0, 0], wide[0, 0], counts.shape[2]
    frame, line, size = counts.strides[0], counts.strides[1], counts.itemsize
    step, inner = wide.strides[0], _MARGIN * wide.itemsize
    # Rows of `wide`: sums over three frames and over five frames; boxes of this row and of the
    # previous row.
    p3 = wide.ctypes.data
    p5, q3, q5 = p3 + DEPTH * step, p3 + 2 * DEPTH * step, p3 + (2 * DEPTH + 2) * step
    limit3 = p3 + (2 * DEPTH + 4) * step
    limit5, limit = limit3 + step, limit3 + 2 * step
    bits_at, cells_size = bits.ctypes.data, below.shape[2] * 4
    a, b, c, d, e = slots * frame
    n = min(PANEL, width - 2 * COLUMNS - panel)
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
        # The test is one row behind, so that the data it reads are no longer in the write queue.
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
