"""Compiled loops of `pairs`.

Sums over a row of voxels are first kept for each column, because LLVM vectorises loops without a
sum over their own index.
"""

import numpy as np

from hklflow.simd.jit import kernel
from hklflow.volumes.disagreement import EDGE

# Sums of `compare` for each rotation: pairs, χ², its variance, weight (see `pairs.Difference`), ...
PAIRS, CHI2, SPREAD, WEIGHT = 0, 1, 2, 3
# ... x, v, and decrease of χ² by one factor for each block.
X, V, SMOOTH = 4, 5, 6
SUMS = 7

# A voxel is a spot if it exceeds this multiple of the rate of its block plus 5 standard deviations.
_SPOT = 3.0


@kernel(error_model="numpy")
def compared_pair(c1, m1, r1, c2, m2, r2, use):  # type: ignore[no-untyped-def]
    """Compare the counts of two voxels; see `pairs`.

    Parameters
    ----------
    c1, m1, r1, c2, m2, r2 : float
        Counts, norm, and variance of the read noise.
    use : bool
        False: the pair is not compared. Pairs without counts or with an unmeasured voxel are not
        compared either.

    Returns
    -------
    known : bool
        True if the pair was compared.
    x, variance, square, spread, weight : float
        x, v, x² / v, and the terms of `pairs.Difference`; all 0 if the pair was not compared.
    """
    total = c1 + c2
    known = use & (m1 > 0) & (m2 > 0) & (total + r1 + r2 >= 1)
    p = m1 / (m1 + m2) if known else 0.5
    q = 1 - p
    photons = max(total, 0.0)
    variance = p * q * photons + q * q * r1 + p * p * r2
    inverse = 1 / variance if known else 0.0
    spread = 2 + photons * p * q * (1 - 6 * p * q) * (inverse * inverse)
    weight = max(photons - 1, 0.0) * photons * ((p * q) * (p * q)) * inverse
    x = c1 - p * total if known else 0.0
    return (
        known,
        x,
        variance if known else 0.0,
        x * x * inverse,
        max(spread, 0.0) if known else 0.0,
        weight,
    )


@kernel(error_model="numpy")
def compare(counts, norm, read, away, sums, x, v, compared, equal):  # type: ignore[no-untyped-def]
    """Compare each rotation with the sum of the others; see `pairs.Rotations`.

    Parameters
    ----------
    counts, norm, read : (n, l, k, h) arrays
        ``read``: variance of the read noise; an array without planes for photons.
    away : (l, k, h) bool array
        Voxels to compare.
    sums : (n, SUMS) array
        Sums of this call are added.
    x, v : (n, l, k blocks, h blocks) arrays
        Output: sums over blocks.
    compared, equal : (n, n) int arrays
        Numbers of voxels of two rotations are added, for the first index > the second.
    """
    n, n_l, n_k, n_h = counts.shape
    across = (n_h + EDGE - 1) // EDGE
    total_c, total_m, total_r = np.zeros((EDGE, n_h)), np.zeros((EDGE, n_h)), np.zeros((EDGE, n_h))
    use = np.empty((EDGE, n_h), np.bool_)
    no_read = np.zeros(n_h)
    columns = np.zeros((V + 1, EDGE * across))
    rates = np.empty(EDGE * across)
    for l in range(n_l):  # noqa: E741
        for k in range(0, n_k, EDGE):
            rows = min(EDGE, n_k - k)
            for row in range(rows):
                c, m, r = total_c[row], total_m[row], total_r[row]
                c[:], m[:] = counts[0, l, k + row], norm[0, l, k + row]
                for i in range(1, n):
                    _add(c, counts[i, l, k + row])
                    _add(m, norm[i, l, k + row])
                if read.shape[1]:
                    r[:] = read[0, l, k + row]
                    for i in range(1, n):
                        _add(r, read[i, l, k + row])
            columns[:2] = 0.0
            for row in range(rows):
                _add(columns[0], total_c[row])
                _add(columns[1], total_m[row])
            for block in range(across):
                part = slice(block * EDGE, (block + 1) * EDGE)
                measured = columns[1, part].sum()
                rate = columns[0, part].sum() / measured if measured > 0 else 0.0
                rates[part] = max(rate, 0.0)
            for row in range(rows):
                _choose(total_c[row], total_m[row], away[l, k + row], rates, use[row])
            for i in range(n):
                columns[:] = 0.0
                for row in range(rows):
                    _compare_row(
                        counts[i, l, k + row], norm[i, l, k + row],
                        read[i, l, k + row] if read.shape[1] else no_read,
                        total_c[row], total_m[row], total_r[row], use[row], columns,
                    )  # fmt: skip
                for block in range(across):
                    part = slice(block * EDGE, (block + 1) * EDGE)
                    for column in range(V + 1):
                        sums[i, column] += columns[column, part].sum()
                    x_block, v_block = columns[X, part].sum(), columns[V, part].sum()
                    x[i, l, k // EDGE, block], v[i, l, k // EDGE, block] = x_block, v_block
                    if v_block > 0:
                        sums[i, SMOOTH] += x_block * x_block / v_block - 1
                for j in range(i):
                    for row in range(rows):
                        found = _equal(
                            use[row], counts[i, l, k + row], norm[i, l, k + row],
                            counts[j, l, k + row], norm[j, l, k + row],
                        )  # fmt: skip
                        compared[i, j] += found[0]
                        equal[i, j] += found[1]


@kernel
def _add(target, values):  # type: ignore[no-untyped-def]
    for h in range(values.size):
        target[h] += float(values[h])


@kernel(error_model="numpy")
def _choose(counts, norm, away, rates, use):  # type: ignore[no-untyped-def]
    """Set ``use`` to True for voxels that are away from reflections, and no spots.

    Spots are far brighter than their block. They are not compared, because each rotation divides
    the counts of a sharp maximum differently among the voxels.
    """
    for h in range(counts.size):
        expected = _SPOT * norm[h] * rates[h]
        use[h] = away[h] & (counts[h] <= expected + 5 * np.sqrt(expected) + 5)


@kernel(error_model="numpy")
def _compare_row(counts, norm, read, c, m, r, use, columns):  # type: ignore[no-untyped-def]
    """Add the voxels of a row to the sums of their columns."""
    for h in range(counts.size):
        c1, m1, r1 = float(counts[h]), float(norm[h]), float(read[h])
        # A smaller remainder of the norm is only a rounding error.
        known, x, variance, square, spread, weight = compared_pair(
            c1, m1, r1, c[h] - c1, m[h] - m1, r[h] - r1, use[h] & (m[h] - m1 > 1e-6 * m[h])
        )
        columns[PAIRS, h] += known
        columns[CHI2, h] += square
        columns[SPREAD, h] += spread
        columns[WEIGHT, h] += weight
        columns[X, h] += x
        columns[V, h] += variance


@kernel
def _equal(use, c1, m1, c2, m2):  # type: ignore[no-untyped-def]
    """Return the numbers of voxels with counts in one of two volumes, and with equal counts.

    Both volumes must have measured the voxel, and ``use`` must be true.
    """
    compared, equal = np.int64(0), np.int64(0)
    for i in range(use.size):
        both = use[i] & (m1[i] > 0) & (m2[i] > 0) & ((c1[i] != 0) | (c2[i] != 0))
        compared += both
        equal += both & (c1[i] == c2[i])
    return compared, equal


@kernel
def away(h, k, l, g, square, found):  # type: ignore[no-untyped-def]  # noqa: E741
    """Set ``found`` (l, k, h) to True for voxels whose ``|Q|²`` is at least ``square``.

    ``h, k, l``: coordinates of the voxels on the axes; ``g``: reciprocal metric tensor.
    """
    for z in range(l.size):
        for y in range(k.size):
            constant = g[1, 1] * k[y] * k[y] + g[2, 2] * l[z] * l[z] + 2 * g[1, 2] * k[y] * l[z]
            slope = 2 * (g[0, 1] * k[y] + g[0, 2] * l[z])
            row = found[z, y]
            for x in range(h.size):
                row[x] = (g[0, 0] * h[x] + slope) * h[x] + constant >= square
