"""Kernel of `laue_pairs`: compare voxels with their mates, and volumes with each other."""

import numpy as np

from hklflow.simd.jit import kernel
from hklflow.volumes.pairs_kernels import CHI2, PAIRS, SPREAD, WEIGHT, compared_pair
from hklflow.volumes.symmetrise_kernels import image_of, number

# Columns of `compare` in addition to those of `pairs_kernels`.
MATES = 4
COLUMNS = 5


@kernel(error_model="numpy")
def compare(records, n_volumes, several, orbits, voxels, sums, x, v):  # type: ignore[no-untyped-def]
    """Compare each volume with the others, and each voxel with its mate by each operation.

    Parameters
    ----------
    records : Words
    n_volumes : int
    several : bool
        True: volumes are compared, too.
    orbits : Orbits
        Operations to compare; the identity is not among them.
    voxels : three (n,) int arrays
        h, k, l.
    sums : (volumes, if several, + operations, COLUMNS) array
        Sums of this call are added. ``MATES``: number of voxels with another voxel as their mate.
    x, v : (volumes, if several, + operations, n) arrays
        Output: x and v of `pairs`; 0 for pairs that were not compared.
    """
    h, k, l = voxels  # noqa: E741
    for i in range(h.size):
        place = number(h[i], k[i], l[i], orbits.strides)
        own_c, own_m, own_r = _pooled(records, place, n_volumes)
        for volume in range(n_volumes if several else 0):
            c, m, r = _of_volume(records, place, volume)
            # A smaller remainder of the norm is only a rounding error.
            use = own_m - m > 1e-6 * own_m
            found = compared_pair(c, m, r, own_c - c, own_m - m, own_r - r, use)
            _add(found, volume, i, sums, x, v)
        for op in range(orbits.turns.shape[0]):
            row = (n_volumes if several else 0) + op
            a, b, c, inside = image_of(op, h[i], k[i], l[i], orbits)
            x[row, i], v[row, i] = 0.0, 0.0
            if not inside:
                continue
            mate = number(a, b, c, orbits.strides)
            if mate == place:
                continue
            sums[row, MATES] += 1
            other_c, other_m, other_r = _pooled(records, mate, n_volumes)
            found = compared_pair(own_c, own_m, own_r, other_c, other_m, other_r, True)
            _add(found, row, i, sums, x, v)


@kernel
def _add(found, row, i, sums, x, v):  # type: ignore[no-untyped-def]
    known, x[row, i], v[row, i], square, spread, weight = found
    sums[row, PAIRS] += known
    sums[row, CHI2] += square
    sums[row, SPREAD] += spread
    sums[row, WEIGHT] += weight


@kernel
def _of_volume(records, place, volume):  # type: ignore[no-untyped-def]
    """Return counts, norm and read variance of a voxel."""
    word = place * records.fields + volume * (3 if records.noisy else 2)
    counts = np.float64(records.counts[word])
    norm = np.float64(records.norm[word + 1])  # `float` would stay in single precision
    read = max(float(records.norm[word + 2]) - counts, 0.0) if records.noisy else 0.0
    return counts, norm, read


@kernel
def _pooled(records, place, n_volumes):  # type: ignore[no-untyped-def]
    """Return counts, norm and read variance of a voxel, summed over all volumes."""
    counts, norm, read = _of_volume(records, place, 0)
    for volume in range(1, n_volumes):
        c, m, r = _of_volume(records, place, volume)
        counts += c
        norm += m
        read += r
    return counts, norm, read


@kernel
def is_measured(records, n_volumes, strides, h, k, l):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return True if a volume has measured one of the voxels."""
    for i in range(h.size):
        if _pooled(records, number(h[i], k[i], l[i], strides), n_volumes)[1] > 0:
            return True
    return False
