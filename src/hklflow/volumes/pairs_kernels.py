"""Compiled loops of `pairs`, with the operations of numpy in the same order."""

import numpy as np

from hklflow.simd.jit import kernel


@kernel(error_model="numpy")
def terms(first, other, use, x, v, spread, weight, used, squares):  # type: ignore[no-untyped-def]
    """Compare counts pair by pair; see `pairs.terms`. All arrays are flat."""
    c1, m1, r1 = first
    c2, m2, r2 = other
    for i in range(use.size):
        total = c1[i] + c2[i]
        known = use[i] & (m1[i] > 0) & (m2[i] > 0) & (total + r1[i] + r2[i] >= 1)
        p = m1[i] / (m1[i] + m2[i]) if known else 0.5
        q = 1 - p
        photons = max(total, 0.0)
        variance = p * q * photons + q * q * r1[i] + p * p * r2[i]
        variance = variance if known else 1.0
        wide = 2 + photons * p * q * (1 - 6 * p * q) / (variance * variance)
        share = max(photons - 1, 0.0) * photons * ((p * q) * (p * q)) / variance
        x[i] = c1[i] - p * total if known else 0.0
        v[i] = variance if known else 0.0
        spread[i] = max(wide, 0.0) if known else 0.0
        weight[i] = share if known else 0.0
        used[i] = known
    n = 0
    for i in range(use.size):
        if used[i]:
            squares[n] = x[i] * x[i] / v[i]
            n += 1
    return n


@kernel
def equal(away, c1, m1, c2, m2):  # type: ignore[no-untyped-def]
    """Return the numbers of voxels with counts in one of two volumes, and with equal counts.

    Both volumes must have measured the voxel, and ``away`` must be true.
    """
    compared, alike = np.int64(0), np.int64(0)
    for i in range(away.size):
        both = away[i] & (m1[i] > 0) & (m2[i] > 0) & ((c1[i] != 0) | (c2[i] != 0))
        compared += both
        alike += both & (c1[i] == c2[i])
    return compared, alike
