"""Kernels of `estimator`: box sums of moments, tile by tile, and sums over volumes.

A tile is one plane of `_ROWS` × `_COLUMNS` voxels. The moments of the planes around a tile are kept
in a ring buffer. They are computed only once for each column of tiles, and all sums read cached
memory. Tiles without measured voxels are skipped.

The sums are not running sums: with a running sum, the rounding error of a Bragg peak would remain
in all voxels after the peak.
"""

import numpy as np

from hklflow.simd.jit import kernel

_ROWS, _COLUMNS = 16, 64
# A row of the ring has the five moments one after the other, each with a margin on both sides.
_MARGIN = 8
_PITCH = _COLUMNS + 2 * _MARGIN
_M, _C, _MM, _CC, _CM = (i * _PITCH for i in range(5))
_LINE = 5 * _PITCH

#: Largest half-width of the neighbourhood.
MOST_REACH = _MARGIN

# The sums of a whole tile take the same time as separate sums for 1/_FEW of its voxels.
_FEW = 12

_TINY = float(np.finfo(np.float64).tiny)

# The count of the voxel itself gets more weight than the pooled rate only if the excess variance
# exceeds this multiple of its fluctuation in a flat neighbourhood.
_SIGNIFICANT = 3.0

# Expected counts that make the Poisson distribution close to normal.
NORMAL = 25.0


@kernel(error_model="numpy")
def _fill(counts, norm, plane, k0, h0, reach, ring):  # type: ignore[no-untyped-def]
    """Compute the moments of a tile and of ``reach`` voxels around it; 0 outside the volume."""
    slot = plane % ring.shape[0]
    n_l, n_k, n_h = counts.shape
    low, high = max(h0 - reach, 0), min(h0 + _COLUMNS + reach, n_h)
    for row in range(_ROWS + 2 * reach):
        k = k0 - reach + row
        # A view is used because LLVM vectorises only loops with indices that cannot be negative.
        line = ring[slot, row, low - h0 + _MARGIN :]
        if high - low < _COLUMNS + 2 * reach or not (0 <= plane < n_l and 0 <= k < n_k):
            ring[slot, row] = 0.0
        if 0 <= plane < n_l and 0 <= k < n_k:
            some_counts, some_norm = counts[plane, k, low:high], norm[plane, k, low:high]
            for x in range(high - low):
                m, c = float(some_norm[x]), float(some_counts[x])
                line[_M + x] = m
                line[_C + x] = c
                line[_MM + x] = m * m
                line[_CC + x] = c * c
                line[_CM + x] = c * m


@kernel(error_model="numpy")
def _sums(ring, around, first, rows, across, sums):  # type: ignore[no-untyped-def]
    """Compute the box sums of the moments (rows, _LINE) of a tile.

    The sums are computed axis by axis; on an axis, outer neighbours are added before inner ones.
    ``first``: first row of the tile in the ring; ``around``: slots of the planes to sum.
    """
    reach = len(around) // 2
    middle = around[reach]
    a, b, c, d = around[0], around[1], around[-2], around[-1]
    for row in range(rows + 2 * reach):
        r = row + first - reach
        if reach == 2:
            for i in range(_LINE):
                across[row, i] = (ring[middle, r, i] + (ring[a, r, i] + ring[d, r, i])) + (
                    ring[b, r, i] + ring[c, r, i]
                )
        else:
            across[row] = ring[middle, r]
            for n in range(reach):
                b, c = around[n], around[-1 - n]
                for i in range(_LINE):
                    across[row, i] += ring[b, r, i] + ring[c, r, i]
    line = across[-1]
    for row in range(rows):
        if reach == 2:
            for i in range(_LINE):
                line[i] = (across[row + 2, i] + (across[row, i] + across[row + 4, i])) + (
                    across[row + 1, i] + across[row + 3, i]
                )
            for i in range(_LINE - 4):
                sums[row, i + 2] = (line[i + 2] + (line[i] + line[i + 4])) + (
                    line[i + 1] + line[i + 3]
                )
        else:
            line[:] = across[row + reach]
            for n in range(reach):
                for i in range(_LINE):
                    line[i] += across[row + n, i] + across[row + 2 * reach - n, i]
            total = sums[row, reach : _LINE - reach]
            total[:] = line[reach : _LINE - reach]
            for n in range(reach):
                left, right = line[n:], line[2 * reach - n :]
                for i in range(total.size):
                    total[i] += left[i] + right[i]


@kernel(error_model="numpy")
def _sum_at(ring, around, row, i):  # type: ignore[no-untyped-def]
    """Compute one of the sums of `_sums`, in the same order."""
    size = len(around)
    reach = size // 2
    total = 0.0
    for n in range(-1, reach):
        for h in range(1 if n < 0 else 2):
            at = i if n < 0 else (i - reach + n if h == 0 else i + reach - n)
            across = 0.0
            for m in range(-1, reach):
                for k in range(1 if m < 0 else 2):
                    r = row if m < 0 else (row - reach + m if k == 0 else row + reach - m)
                    along = ring[around[reach], r, at]
                    for step in range(reach):
                        along += ring[around[step], r, at] + ring[around[size - 1 - step], r, at]
                    across += along
            total += across
    return total


@kernel(error_model="numpy")
def _pool(m, norm, counts, squares, counts2, mixed):  # type: ignore[no-untyped-def]
    """Return the pooled rate of a neighbourhood, and the weight of the count of the voxel itself.

    The weight is V / (V + r / M) of `estimator`, 0 to 1; it is 0 if the voxel's norm m is 0.
    """
    pooled_norm = max(norm, _TINY)
    # A neighbourhood without counts limits the rate to about one count.
    rate = max(counts, 0.5) / pooled_norm
    # Σ (C - r M)², whose Poisson expectation is r (Σ M - Σ M² / Σ M).
    spread = counts2 + rate * (rate * squares - 2 * mixed)
    poisson = rate * (pooled_norm - squares / pooled_norm)
    # Fluctuation of `spread` for Poisson counts: (C - μ)² has the variance 2 μ² + μ.
    noise = np.sqrt(rate * (2 * rate * squares + pooled_norm))
    excess = max(spread - poisson - _SIGNIFICANT * noise, 0.0)
    variance = excess / max(squares, _TINY)
    return rate, variance * m / max(variance * m + rate, _TINY)


@kernel(error_model="numpy")
def _is_used(norm, plane, k0, k1, h0, h1):  # type: ignore[no-untyped-def]
    """Return True if a voxel of a tile was measured."""
    for k in range(k0, k1):
        used = 0
        for h in range(h0, h1):
            used |= norm[plane, k, h] > 0
        if used:
            return True
    return False


@kernel(error_model="numpy")
def _expect(ring, plane, rows, reach, scratch, expected):  # type: ignore[no-untyped-def]
    """Compute the expected counts (rows, _COLUMNS) of a tile; valid where norm > 0."""
    across, sums, rate, own = scratch
    slots = np.arange(plane - reach, plane + reach + 1) % len(ring)
    slot = slots[reach]
    least = reach + 1
    wanted = rows * _COLUMNS
    while wanted and least > 1:
        least -= 1
        around = slots[reach - least : reach + least + 1]
        if wanted * _FEW > rows * _COLUMNS:
            _sums(ring, around, reach, rows, across, sums)
            for row in range(rows):
                for x in range(_COLUMNS):
                    i = x + _MARGIN
                    rate[least, row, x], own[least, row, x] = _pool(
                        ring[slot, reach + row, _M + i],
                        sums[row, _M + i],
                        sums[row, _C + i],
                        sums[row, _MM + i],
                        sums[row, _CC + i],
                        sums[row, _CM + i],
                    )
        else:
            for row in range(rows):
                for x in range(_COLUMNS):
                    rate[least, row, x], own[least, row, x] = 0.0, 0.0
                    if own[least + 1, row, x] > 0:
                        i = x + _MARGIN
                        rate[least, row, x], own[least, row, x] = _pool(
                            ring[slot, reach + row, _M + i],
                            _sum_at(ring, around, reach + row, _M + i),
                            _sum_at(ring, around, reach + row, _C + i),
                            _sum_at(ring, around, reach + row, _MM + i),
                            _sum_at(ring, around, reach + row, _CC + i),
                            _sum_at(ring, around, reach + row, _CM + i),
                        )
        # A smaller neighbourhood is needed only where the larger one gives the count a weight.
        wanted = 0
        for row in range(rows):
            for x in range(_COLUMNS):
                wanted += own[least, row, x] > 0
    for row in range(rows):
        for x in range(_COLUMNS):
            expected[row, x] = max(ring[slot, reach + row, _C + _MARGIN + x], 1.0)
        for half_width in range(least, reach + 1):
            for x in range(_COLUMNS):
                weight = own[half_width, row, x]
                pooled = rate[half_width, row, x] * ring[slot, reach + row, _M + _MARGIN + x]
                expected[row, x] = weight * expected[row, x] + (1 - weight) * pooled


@kernel(error_model="numpy")
def derive(counts, norm, planes, rows, reach, data, errors, only_expected):  # type: ignore[no-untyped-def]
    """Compute S and its errors for some planes and rows, or only the expected counts.

    Parameters
    ----------
    counts, norm : (l, k, h) arrays
        Planes to calculate, and ``reach`` more planes on both sides, unless the volume ends there.
    planes, rows : (int, int)
        First number, and last number + 1.
    data, errors : (planes, k, h) arrays
        Output arrays; only these rows are written. NaN where nothing was measured.
    only_expected : bool
        True: write the expected counts to ``errors`` (0 where nothing was measured) and nothing to
        ``data``.
    """
    low, high = planes
    n_h = counts.shape[2]
    ring = np.empty((2 * reach + 1, _ROWS + 2 * reach, _LINE))
    across, sums = np.empty((_ROWS + 2 * reach + 1, _LINE)), np.zeros((_ROWS, _LINE))
    rate, own = np.empty((reach + 1, _ROWS, _COLUMNS)), np.empty((reach + 1, _ROWS, _COLUMNS))
    scratch = (across, sums, rate, own)
    expected = np.empty((_ROWS, _COLUMNS))
    for k0 in range(rows[0], rows[1], _ROWS):
        k1 = min(k0 + _ROWS, rows[1])
        for h0 in range(0, n_h, _COLUMNS):
            h1 = min(h0 + _COLUMNS, n_h)
            ahead = low - reach  # first plane that was not yet in the ring
            for plane in range(low, high):
                used = _is_used(norm, plane, k0, k1, h0, h1)
                if used:
                    for there in range(max(ahead, plane - reach), plane + reach + 1):
                        _fill(counts, norm, there, k0, h0, reach, ring)
                    ahead = plane + reach + 1
                    _expect(ring, plane, k1 - k0, reach, scratch, expected)
                for k in range(k0, k1):
                    errors_row = errors[plane - low, k, h0:h1]
                    if only_expected:
                        _end_expected(used, norm[plane, k, h0:h1], expected[k - k0], errors_row)
                    else:
                        c, m = counts[plane, k, h0:h1], norm[plane, k, h0:h1]
                        data_row = data[plane - low, k, h0:h1]
                        _end_row(used, c, m, expected[k - k0], data_row, errors_row)


@kernel(error_model="numpy")
def _end_row(used, counts, norm, expected, data, errors):  # type: ignore[no-untyped-def]
    """Write S and its errors of the voxels in a row."""
    if not used:
        data[:] = np.nan
        errors[:] = np.nan
        return
    for h in range(norm.size):
        m = float(norm[h]) if norm[h] > 0 else np.nan
        data[h] = float(counts[h]) / m
        errors[h] = np.sqrt(expected[h]) / m


@kernel(error_model="numpy")
def _end_expected(used, norm, expected, target):  # type: ignore[no-untyped-def]
    """Write the expected counts of the voxels in a row."""
    for h in range(norm.size):
        target[h] = expected[h] if used and norm[h] > 0 else 0.0


@kernel(error_model="numpy")
def add(parts_counts, parts_norm, counts, norm, plane, row):  # type: ignore[no-untyped-def]
    """Sum n volumes, and compare them; see `estimator.Sums`.

    Parameters
    ----------
    parts_counts, parts_norm : (n, l, k, h) arrays
    counts, norm : (l, k, h) float64 arrays
        Output arrays; they are written from ``plane`` and ``row`` on.

    Returns
    -------
    measured, total, chi2, dof
    """
    n, n_l, n_k, n_h = parts_counts.shape
    measured, total, chi2, dof = 0, 0.0, 0.0, 0
    for l in range(n_l):  # noqa: E741
        for k in range(n_k):
            c, m = counts[plane + l, row + k], norm[plane + l, row + k]
            for h in range(n_h):
                c[h] = float(parts_counts[0, l, k, h])
                m[h] = float(parts_norm[0, l, k, h])
            for i in range(1, n):
                for h in range(n_h):
                    c[h] += float(parts_counts[i, l, k, h])
                    m[h] += float(parts_norm[i, l, k, h])
            in_row, row_total, row_chi2 = 0, 0.0, 0.0
            for h in range(n_h):
                in_row += m[h] > 0
                row_total += c[h]
            if n > 1:
                for h in range(n_h):
                    # The expected count of one part cannot exceed the counts of all parts.
                    if c[h] > 0.99 * NORMAL and m[h] > 0:
                        part, terms = _disagreement(parts_counts, parts_norm, l, k, h, c[h] / m[h])
                        row_chi2 += part
                        dof += terms
            measured += in_row
            total += row_total
            chi2 += row_chi2
    return measured, total, chi2, dof


@kernel(error_model="numpy")
def _disagreement(counts, norm, l, k, h, rate):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return χ² and degrees of freedom of one voxel."""
    c, m, terms = 0.0, 0.0, 0
    for i in range(counts.shape[0]):
        # Volumes are selected by expected counts, not by counts, which would bias χ².
        if norm[i, l, k, h] * rate >= NORMAL:
            c += float(counts[i, l, k, h])
            m += float(norm[i, l, k, h])
            terms += 1
    if terms < 2:
        return 0.0, 0
    chi2, pooled = 0.0, c / m
    for i in range(counts.shape[0]):
        if norm[i, l, k, h] * rate >= NORMAL:
            mu = pooled * float(norm[i, l, k, h])
            chi2 += (float(counts[i, l, k, h]) - mu) ** 2 / mu
    return chi2, terms - 1
