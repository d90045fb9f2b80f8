"""Compiled loops of `statistics`."""

import numpy as np
from numpy.typing import NDArray

from hklflow.images.background import CELL
from hklflow.images.frame_store import COLUMNS, ROWS
from hklflow.simd.jit import kernel

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@kernel
def add_float_frame(  # type: ignore[no-untyped-def]
    frame, mask, valid_from, invalid_from, labels, total, top, unseen, radial, radial_n
):
    """Add a frame of floats; return sum, number of flagged pixels, maximum and its index."""
    frame_sum, best = 0.0, 0.0
    flagged, best_at = 0, -1
    n_fast = frame.shape[1]
    for i in range(frame.shape[0]):
        for j in range(n_fast):
            if mask[i, j]:
                continue
            value = np.float64(frame[i, j])
            # NaN and infinity fail this test.
            if not (value >= valid_from and value < invalid_from):
                flagged += 1
                unseen[i, j] += 1
                continue
            frame_sum += value
            total[i, j] += value
            top[i, j] = max(top[i, j], value)
            if best_at < 0 or value > best:
                best, best_at = value, i * n_fast + j
            if labels[i, j] >= 0:
                radial[labels[i, j]] += value
                radial_n[labels[i, j]] += 1
    return frame_sum, flagged, best, best_at


@kernel
def add_odd(at, values, width, top, most_in_cell, total, largest, unseen):  # type: ignore[no-untyped-def]
    """Add the exceptions of a frame (see `frame_store`) to the images (slow, fast).

    Return the largest exception, its index (-1: no pixel), and the counts that are missing in the
    sum of all cells: a cell contains at most ``most_in_cell`` counts above ``top`` of a pixel.
    """
    best, best_at, lacking = 0, -1, 0
    for k in range(at.size):
        i, j = at[k] // width - ROWS, at[k] % width - COLUMNS
        if values[k] < 0.0:
            unseen[i, j] += 1
            continue
        value = int(values[k])
        lacking += value - top - int(min(values[k] - top, most_in_cell))
        total[i, j] += value
        largest[i, j] = max(largest[i, j], value)
        if best_at < 0 or value > best:
            best, best_at = value, i * total.shape[1] + j
    return best, best_at, lacking


@kernel
def narrow_largest(image, keep, shape, odd_at, odd_value):  # type: ignore[no-untyped-def]
    """Return the largest valid count of a frame that fits the narrow type, and its index.

    The index is -1 if there is no valid pixel. Invalid pixels contain expected counts and are left
    out.
    """
    flat = image.reshape(-1)
    held = flat[odd_at]
    for k in range(odd_at.size):
        flat[odd_at[k]] = 0
    best = np.zeros(1, image.dtype)
    for i in range(ROWS, ROWS + shape[0]):
        row, kept = image[i], keep[i]
        largest = best[0]
        for j in range(row.size):
            largest = max(largest, row[j] & kept[j])
        best[0] = largest
    place = -1
    for i in range(shape[0]):
        for j in range(shape[1]):
            at = (i + ROWS) * image.shape[1] + j + COLUMNS
            if place < 0 and keep[i + ROWS, j + COLUMNS] != 0 and flat[at] == best[0]:
                k = np.searchsorted(odd_at, at)
                if not (k < odd_at.size and odd_at[k] == at):
                    place = i * shape[1] + j
        if place >= 0:
            break
    flat[odd_at] = held
    return int(best[0]), place


@kernel
def _largest(a, b, c, d, line, out):  # type: ignore[no-untyped-def]
    for j in range(line.size):
        line[j] = max(max(a[j], b[j]), max(c[j], d[j]))
    for k in range(out.size):
        out[k] = max(max(line[4 * k], line[4 * k + 1]), max(line[4 * k + 2], line[4 * k + 3]))


@kernel(error_model="numpy")
def _is_calm(largest, cells, size, rate, use):  # type: ignore[no-untyped-def]
    """Return True if the used cells of a group of 2 x 2 cells contain no Bragg peak.

    The background is the middle of the means of the cells; a peak in one or two cells does not
    change it. If the background around the group is lower, this background is used, because a peak
    may cover all four cells.
    """
    low, high, total = np.inf, -np.inf, 0.0
    n, top, around = 0, 0.0, np.inf
    for i in range(size.shape[0]):
        for j in range(size.shape[1]):
            if use[i, j] and size[i, j] > 0:
                # Read noise can make sums of floats negative.
                mean = max(cells[i, j] / size[i, j], 0.0)
                low, high, total = min(low, mean), max(high, mean), total + mean
                top = max(top, float(largest[i, j]))
                around = min(around, max(float(rate[i, j]), 0.0))
                n += 1
    if n == 0:
        return False
    middle = min(around, (total - low - high) / (n - 2) if n > 2 else low)
    # Half of the background is added, because the background may have a slope within the cells.
    return top <= 1.5 * middle + 6.0 * np.sqrt(middle + 1.0)


@kernel(error_model="numpy")
def _bounds(largest, cells, size, rate, ring, low, top):  # type: ignore[no-untyped-def]
    """Lower ``low`` to means and backgrounds of a row of used cells, raise ``top`` to maxima."""
    for k in range(cells.size):
        used = ring[k] & (size[k] > 0)
        mean = np.float32(cells[k]) / np.float32(max(size[k], np.int32(1)))
        least = min(max(mean, np.float32(0.0)), max(rate[k], np.float32(0.0)))
        low[k] = min(low[k], least if used else np.float32(np.inf))
        top[k] = max(top[k], np.float32(largest[k]) if used else np.float32(0.0))


@kernel(error_model="numpy")
def _surely_calm(low, top, state):  # type: ignore[no-untyped-def]
    """Set the state of pairs of columns. 1: `_is_calm` is True; 0: no used cell; 2: not known.

    This test is fast: instead of the middle of the means it uses the lowest mean or background.
    """
    for q in range(state.size):
        least, most = min(low[2 * q], low[2 * q + 1]), max(top[2 * q], top[2 * q + 1])
        limit = np.float32(1.5) * least + np.float32(6.0) * np.sqrt(least + np.float32(1.0))
        calm = most <= np.float32(0.999) * limit
        used = least < np.float32(np.inf)
        state[q] = (np.uint8(1) if calm else np.uint8(2)) * np.uint8(used)


@kernel
def _add_calm(cells, size, ring, calm, counts, pixels):  # type: ignore[no-untyped-def]
    for k in range(cells.size):
        use = calm[k] & ring[k]
        counts[k] += cells[k] if use else counts.dtype.type(0)
        pixels[k] += size[k] if use else np.int32(0)


@kernel
def add_patches(image, cells, size, rate, ring, side, counts, pixels):  # type: ignore[no-untyped-def]
    """Add the calm cells of a frame in patches, separately for both colours of cells.

    Four cells, 8 x 8 pixels, are judged together, so that the tails of a peak are left out together
    with the peak, whatever the intensity of the beam. If single cells were judged, fewer tails
    would be left out on frames with few counts.

    Parameters
    ----------
    image
        Narrow counts with borders.
    cells, size, rate, ring
        (rows, columns) counts, valid pixels, background, and True for cells in the annulus.
    side : (2,)
        Number of cells along the sides of a patch.
    counts, pixels : (patch rows, patch columns, 2)
        Output: the sums of the frame are added.
    """
    rows, columns = cells.shape
    line = np.zeros(CELL * columns, image.dtype)
    largest = np.zeros((2, columns), image.dtype)
    # Sums of the even and the odd rows of a row of patches.
    added, number = np.zeros((2, columns), cells.dtype), np.zeros((2, columns), np.int32)
    calm = np.empty(columns, np.bool_)
    low, top = np.empty(columns, np.float32), np.empty(columns, np.float32)
    state = np.empty(columns // 2, np.uint8)
    for pair in range(0, rows, 2):
        low[:], top[:] = np.inf, 0.0
        for r in range(pair, min(pair + 2, rows)):
            i = ROWS + CELL * r
            part = image[i : i + CELL, COLUMNS : COLUMNS + CELL * columns]
            _largest(part[0], part[1], part[2], part[3], line, largest[r - pair])
            _bounds(largest[r - pair], cells[r], size[r], rate[r], ring[r], low, top)
        _surely_calm(low, top, state)
        for q in range(columns // 2):
            c = 2 * q
            yes = state[q] == 1
            if state[q] == 2:
                here = (slice(pair, pair + 2), slice(c, c + 2))
                yes = _is_calm(
                    largest[:, c : c + 2], cells[here], size[here], rate[here], ring[here]
                )
            calm[c] = calm[c + 1] = yes
        for r in range(pair, min(pair + 2, rows)):
            _add_calm(cells[r], size[r], ring[r], calm, added[r % 2], number[r % 2])
            if r % side[0] < side[0] - 1 and r < rows - 1:
                continue
            p = r // side[0]
            for parity in range(2):
                for c in range(columns):
                    colour = (c + parity) % 2
                    counts[p, c // side[1], colour] += added[parity, c]
                    pixels[p, c // side[1], colour] += number[parity, c]
            added[:] = 0
            number[:] = 0


@kernel
def add_labels(cells, size, cell_at, cell_labels, image, at, labels, radial, radial_n):  # type: ignore[no-untyped-def]
    """Add complete cells, and single pixels, to the sums of their labels (flat indices)."""
    flat, number = cells.reshape(-1), size.reshape(-1)
    for k in range(cell_at.size):
        radial[cell_labels[k]] += flat[cell_at[k]]
        radial_n[cell_labels[k]] += number[cell_at[k]]
    pixels = image.reshape(-1)
    for k in range(at.size):
        radial[labels[k]] += pixels[at[k]]
        radial_n[labels[k]] += 1


@kernel
def correct_labels(odd_at, odd_value, image, labels, whole, top, most_in_cell, radial, radial_n):  # type: ignore[no-untyped-def]
    """Correct the sums of `add_labels` for the exceptions (see `frame_store`).

    ``labels`` and ``whole`` are images (slow, fast); ``whole`` is True for pixels that were added
    with their cell.
    """
    width, pixels = image.shape[1], image.reshape(-1)
    for k in range(odd_at.size):
        at, value = odd_at[k], odd_value[k]
        i, j = at // width - ROWS, at % width - COLUMNS
        label = labels[i, j]
        if label < 0:
            continue
        if whole[i, j]:
            if value >= 0.0:
                radial[label] += int(value) - top - int(min(value - top, most_in_cell))
        elif value >= 0.0:
            radial[label] += int(value) - pixels[at]
        else:
            radial[label] -= pixels[at]
            radial_n[label] -= 1


@kernel
def trimmed_level(counts, pixels, shape):  # type: ignore[no-untyped-def]
    """Return the level of a frame; one half of each patch decides if the other half is used.

    Parameters
    ----------
    counts, pixels : (n, 2)
        Counts and pixels of the calm cells in both halves of the patches.
    shape : (n,)
        Expected counts per pixel, relative to the level.

    Returns
    -------
    level, error
        Both NaN if no counts are expected.
    """
    use = np.empty(len(shape), np.int64)
    n = 0
    for k in range(len(shape)):
        if min(pixels[k, 0], pixels[k, 1]) * shape[k] > 0:
            use[n] = k
            n += 1
    if n == 0:
        return np.nan, np.nan
    use, cut = use[:n], n // 10
    found = norm = 0.0
    for judge in range(2):
        ratio = counts[use, judge] / (pixels[use, judge] * shape[use])
        order = np.argsort(ratio, kind="mergesort")
        for k in use[order[cut : n - cut]]:
            found += counts[k, 1 - judge]
            norm += pixels[k, 1 - judge] * shape[k]
    # The error of zero counts is the error of one count.
    return found / norm, np.sqrt(max(found, 1.0)) / norm
