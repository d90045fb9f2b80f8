"""Kernels of the 3-D mask: sums of frames over cells, seeds, regions around seeds, masks.

The frames of a window, summed over cells, are kept in ring buffers (slot, cell slow, cell fast) of
counts, valid pixels and overloaded pixels. Cells are numbered ``a * n_fast_cells + b``. To compute
the background of a cell takes far more time than to sum its counts. The background is therefore
computed only where a seed is possible and where a region grows.

Tuples of the kernels:

- ``window``: counts, valid, overloaded (ring buffers), slots of the window's frames, slot of the
  frame that is judged.
- ``rules``: boxes, n_sigma, min_ratio.
- ``memory``: stamp of the frame (a new number for each frame); stamps (slow, part) of the parts of
  rows, which equal the stamp of the frame if the part was computed; excess (slow, fast), limited
  excess, variance of the excess; working array (slot, PART). The excess is -inf in a cell without a
  valid pixel or without background.
"""

import numpy as np

from hklflow.simd.jit import kernel

PART = 16  # cells of a row whose background is computed together, almost as fast as for one cell

_CAP = 10.0  # largest excess of a cell in a box, in σ; one such cell in 3 x 3 is not significant
_CLIP = 4.0  # largest value used for the background, in σ above the median
_SLACK = 1e-9  # relative tolerance, larger than the rounding of a mean


@kernel
def _cell(frame, keep, rows, columns, valid_from, flag_from, overload_from):  # type: ignore[no-untyped-def]
    """Return sum and number of the valid pixels of a cell, and the number of overloaded pixels."""
    total, valid, overloaded = 0.0, 0, 0
    for i in range(rows[0], rows[1]):
        for j in range(columns[0], columns[1]):
            if not keep[i, j]:
                continue
            value = np.float64(frame[i, j])
            # NaN fails both tests.
            if value >= valid_from and value < overload_from:
                total += value
                valid += 1
            elif value >= overload_from and value < flag_from:
                overloaded += 1
    return total, valid, overloaded


@kernel
def bin_any(  # type: ignore[no-untyped-def]
    frame, keep, cell, valid_from, flag_from, overload_from, counts, valid, overloaded
):
    """Sum one frame (slow, fast) of any type over cells; ``keep`` is True for good pixels."""
    n_slow, n_fast = frame.shape
    for a in range(-(-n_slow // cell)):
        rows = (a * cell, min((a + 1) * cell, n_slow))
        for b in range(-(-n_fast // cell)):
            columns = (b * cell, min((b + 1) * cell, n_fast))
            found = _cell(frame, keep, rows, columns, valid_from, flag_from, overload_from)
            counts[a, b], valid[a, b], overloaded[a, b] = found


@kernel
def bin_integers(  # type: ignore[no-untyped-def]
    frame, words, keep, n_good, sums, limit, cell, flag_from, overload_from, cells
):
    """Sum one frame of integers over cells, like `bin_any` but faster.

    ``words``: values of the frame, unsigned. ``keep``: all bits set for good pixels, 0 for bad
    pixels. ``n_good``: number of good pixels of each cell. Values below ``limit`` are valid, and
    their sum over a cell does not overflow uint32. ``sums`` (fast,): working array. ``cells``:
    counts, valid pixels and overloaded pixels; filled.
    """
    counts, valid, overloaded = cells
    n_slow, n_fast = frame.shape
    for a in range(n_good.shape[0]):
        rows = (a * cell, min((a + 1) * cell, n_slow))
        sums[:] = 0
        # The bitwise or of values is at least their maximum.
        bits = np.uint64(0)
        for i in range(rows[0], rows[1]):
            for j in range(n_fast):
                value = words[i, j] & keep[i, j]
                sums[j] += value
                bits |= value
        plain_row = bits < limit
        for b in range(n_good.shape[1]):
            columns = (b * cell, min((b + 1) * cell, n_fast))
            plain = plain_row
            if not plain:
                bits = np.uint64(0)
                for i in range(rows[0], rows[1]):
                    for j in range(columns[0], columns[1]):
                        bits |= words[i, j] & keep[i, j]
                plain = bits < limit
            if plain:
                total = np.uint64(0)
                for j in range(columns[0], columns[1]):
                    total += sums[j]
                counts[a, b], valid[a, b], overloaded[a, b] = total, n_good[a, b], 0
            else:
                found = _cell(frame, keep, rows, columns, 0.0, flag_from, overload_from)
                counts[a, b], valid[a, b], overloaded[a, b] = found


@kernel(error_model="numpy")
def _find(window, memory, a, part):  # type: ignore[no-untyped-def]
    """Compute the excess of ``PART`` cells of the row ``a``."""
    stamp, known, excess, capped, variance, rates = memory
    known[a, part] = stamp
    counts, valid, _, slots, own = window
    first = part * PART
    m = min(PART, excess.shape[1] - first)
    n = 0
    for z in slots:
        if z == own:
            continue
        different = 0
        for i in range(m):
            rates[n, i] = counts[z, a, first + i]
            different += valid[z, a, first + i] != valid[own, a, first + i]
        if different:
            for i in range(m):
                here, there = valid[own, a, first + i], valid[z, a, first + i]
                scaled = rates[n, i] * here / there
                rates[n, i] = np.inf if there == 0 else scaled
        n += 1
    # Odd-even transposition sort for all cells at once.
    for step in range(n):
        for k in range(step % 2, n - 1, 2):
            for i in range(m):
                one, two = rates[k, i], rates[k + 1, i]
                rates[k, i] = min(one, two)
                rates[k + 1, i] = max(one, two)
    for i in range(m):
        b = first + i
        others = n
        while others > 0 and rates[others - 1, i] == np.inf:
            others -= 1
        if valid[own, a, b] == 0 or others == 0:
            excess[a, b], capped[a, b], variance[a, b] = -np.inf, 0.0, 0.0
            continue
        median = 0.5 * (rates[(others - 1) // 2, i] + rates[others // 2, i])
        # Read noise can make sums of floats negative.
        limit = median + _CLIP * np.sqrt(max(median, 0.0) + 1.0)
        total = 0.0
        used = 0
        while used < others and rates[used, i] <= limit:
            total += rates[used, i]
            used += 1
        level = total / used
        excess[a, b] = counts[own, a, b] - level
        variance[a, b] = max(level, 0.0) * (1.0 + 1.0 / used) + 1.0
        capped[a, b] = min(excess[a, b], _CAP * np.sqrt(variance[a, b]))


@kernel
def _is_overloaded(window, a, b):  # type: ignore[no-untyped-def]
    """Return True if an overloaded cell is not overloaded on most of the other frames."""
    _, _, overloaded, slots, own = window
    n = 0
    for z in slots:
        n += overloaded[z, a, b] > 0 and z != own
    return 2 * n <= len(slots) - 1


@kernel
def _note_lowest(window, a, first, lowest, noted):  # type: ignore[no-untyped-def]
    """Lower ``lowest`` (slow, fast), in the row ``a``, to the smallest counts of the window.

    ``first``: number of the window's first frame. ``noted`` (slow, 2): first frame, and last frame
    + 1, that ``lowest`` includes. Frames that have left the window can only make ``lowest`` too
    low, so it is enough to compute it again from time to time.
    """
    counts, valid, _, slots, _ = window
    stop = first + len(slots)
    if noted[a, 1] < first or noted[a, 0] + 2 * len(slots) < stop:
        noted[a] = first
        lowest[a] = np.inf
    for z in slots[noted[a, 1] - first :]:
        for b in range(lowest.shape[1]):
            lower = (valid[z, a, b] > 0) & (counts[z, a, b] < lowest[a, b])
            lowest[a, b] = counts[z, a, b] if lower else lowest[a, b]
    noted[a, 1] = stop


@kernel
def find_seeds(window, memory, n_good, first, seed_counts, seed_ratio, lowest, noted, seeds):  # type: ignore[no-untyped-def]
    """Write the seeds of a frame to ``seeds`` (cells,); return the number of seeds.

    ``n_good`` (slow, fast): number of good pixels of the cells. ``first``, ``lowest``, ``noted``:
    see `_note_lowest`.
    """
    counts, valid, overloaded, _, own = window
    stamp, known, excess, _, variance, _ = memory
    n_slow, n_fast = excess.shape
    n = 0
    for a in range(n_slow):
        possible = 0
        for b in range(n_fast):
            possible += (counts[own, a, b] >= seed_counts) | (overloaded[own, a, b] > 0)
        if possible == 0:
            continue
        _note_lowest(window, a, first, lowest, noted)
        for b in range(n_fast):
            # The background is not below the lowest counts of the window. This excludes most cells
            # of a bright background without computing the background.
            floor = lowest[a, b] * (1.0 - _SLACK) if valid[own, a, b] == n_good[a, b] else 0.0
            needed = floor + max(seed_counts, seed_ratio * floor) * (1.0 - _SLACK)
            seed = False
            if counts[own, a, b] >= needed:
                if known[a, b // PART] != stamp:
                    _find(window, memory, a, b // PART)
                # variance = B (1 + 1/n) + 1 is used instead of B: the difference is small
                # compared with seed_ratio.
                seed = excess[a, b] >= max(seed_counts, seed_ratio * variance[a, b])
            if overloaded[own, a, b] > 0:
                seed |= _is_overloaded(window, a, b)
            if seed:
                seeds[n] = a * n_fast + b
                n += 1
    return n


@kernel
def _is_significant(window, rules, memory, a, b):  # type: ignore[no-untyped-def]
    """Return True if the excess is significant in one of the boxes around a cell."""
    boxes, n_sigma, min_ratio = rules
    stamp, known, excess, capped, variance, _ = memory
    n_slow, n_fast = variance.shape
    for box in boxes:
        half = box // 2
        rows = (max(a - half, 0), min(a + half + 1, n_slow))
        columns = (max(b - half, 0), min(b + half + 1, n_fast))
        total = noise = 0.0
        for i in range(rows[0], rows[1]):
            for part in range(columns[0] // PART, (columns[1] - 1) // PART + 1):
                if known[i, part] != stamp:
                    _find(window, memory, i, part)
            for j in range(columns[0], columns[1]):
                total += capped[i, j]
                noise += variance[i, j]
        if box == 1:
            total = excess[a, b]
        # As for the seeds, the variance is used instead of the background.
        if total > max(n_sigma * np.sqrt(max(noise, 1.0)), min_ratio * noise):
            return True
    return False


@kernel
def _near(a, b, first, seeds, reach):  # type: ignore[no-untyped-def]
    """Return the index of a seed (n, 2) within ``reach`` of a cell; -1: there is none.

    The seed ``first`` is tried first. ``reach`` is in squared cells.
    """
    for k in range(-1, len(seeds)):
        at = first if k < 0 else k
        da, db = seeds[at, 0] - a, seeds[at, 1] - b
        if da * da + db * db <= reach:
            return at
    return -1


@kernel
def grow(window, rules, memory, reach, own_seeds, other_seeds, met, queue, nearest, region):  # type: ignore[no-untyped-def]
    """Write the region of a frame to ``region`` (cells,); return its number of cells.

    The region starts at ``own_seeds``, and at the cells of ``other_seeds`` that are significant on
    this frame. It ends at the squared distance ``reach`` (cells²) from these seeds. ``met`` (slow,
    fast): stamp of the frame on which a cell was last visited. ``queue`` and ``nearest`` (cells,):
    working arrays.
    """
    stamp, excess = memory[0], memory[2]
    n_slow, n_fast = excess.shape
    size = 0
    for k in range(len(own_seeds) + len(other_seeds)):
        mine = k < len(own_seeds)
        cell = own_seeds[k] if mine else other_seeds[k - len(own_seeds)]
        a, b = cell // n_fast, cell % n_fast
        if met[a, b] != stamp and (mine or _is_significant(window, rules, memory, a, b)):
            met[a, b] = stamp
            region[size] = queue[size] = cell
            nearest[size] = size
            size += 1
    seeds = np.empty((size, 2), np.int64)
    for k in range(size):
        seeds[k] = region[k] // n_fast, region[k] % n_fast
    n_queue, at = size, 0
    while at < n_queue:
        a, b = queue[at] // n_fast, queue[at] % n_fast
        for i in range(max(a - 1, 0), min(a + 2, n_slow)):
            for j in range(max(b - 1, 0), min(b + 2, n_fast)):
                if met[i, j] == stamp:
                    continue
                # The result for a cell does not depend on the path to it.
                met[i, j] = stamp
                near = _near(i, j, nearest[at], seeds, reach)
                if near < 0:
                    continue
                found = _is_significant(window, rules, memory, i, j)
                if found:
                    region[size] = i * n_fast + j
                    size += 1
                if found or excess[i, j] == -np.inf:
                    queue[n_queue] = i * n_fast + j
                    nearest[n_queue] = near
                    n_queue += 1
        at += 1
    return size


@kernel
def paint(region, margin, cell, good, stamp, met, packed):  # type: ignore[no-untyped-def]
    """Set the bits of the cells of a region and around them; return the number of good pixels.

    ``margin`` (n, 2): steps from a cell to the neighbours that are flagged together with the cell.
    ``packed`` (slow, bytes): zeros before the call; the first pixel is the highest bit.
    """
    n_slow, n_fast = good.shape
    n_cells_slow, n_cells_fast = met.shape
    n = 0
    for one in region:
        for m in range(len(margin)):
            i, j = one // n_cells_fast + margin[m, 0], one % n_cells_fast + margin[m, 1]
            if not (0 <= i < n_cells_slow and 0 <= j < n_cells_fast) or met[i, j] == stamp:
                continue
            met[i, j] = stamp
            for slow in range(i * cell, min((i + 1) * cell, n_slow)):
                for fast in range(j * cell, min((j + 1) * cell, n_fast)):
                    packed[slow, fast >> 3] |= 128 >> (fast & 7)
                    n += good[slow, fast]
    return n
