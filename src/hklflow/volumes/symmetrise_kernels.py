"""Kernels of `symmetrise`: orbits of voxels, their outliers, and their agreement.

Voxels are stored in bricks of 8 × 8 × 8. For every volume, the record of a voxel has one word for
the counts, one word for the norm and, with read noise, one word for the variance. Counts may be
integers in the same memory.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel
from hklflow.transform.bricks import EDGE

BRICK = EDGE**3

# Columns of the table of shells: all voxels, voxels measured before and after symmetrising, ...
INSIDE, BEFORE, AFTER = 0, 1, 2
# ... number of orbits divided in halves, and weighted sums of 1, x, y, x², y², xy, ...
PAIRS, W, WX, WY, WXX, WYY, WXY = 3, 4, 5, 6, 7, 8, 9
# ... χ² of equivalents, its degrees of freedom, Σ |C - M S|, Σ C, rejected and all observations.
CHI2, DOF, SPREAD, COUNTS, REJECTED, OBSERVED = 10, 11, 12, 13, 14, 15
COLUMNS = 16

# Distance in voxels below which two images are the same.
_SAME = 1e-4


@kernel(inline="always")
def number(h, k, l, strides):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return the index of a voxel in the bricks."""
    return h + (h >> 3) * 504 + 8 * k + (k >> 3) * strides[0] + 64 * l + (l >> 3) * strides[1]


@kernel(inline="always")
def image_of(op, h, k, l, orbits):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return the h, k, l of the image of a voxel, and True if the image is inside the grid."""
    a, b, shape = orbits.turns[op], orbits.shifts[op], orbits.shape
    x = a[0, 0] * h + a[0, 1] * k + a[0, 2] * l + b[0]
    y = a[1, 0] * h + a[1, 1] * k + a[1, 2] * l + b[1]
    z = a[2, 0] * h + a[2, 1] * k + a[2, 2] * l + b[2]
    return x, y, z, (0 <= x < shape[0]) & (0 <= y < shape[1]) & (0 <= z < shape[2])


@kernel
def is_last(h, k, l, orbits):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return True if a voxel has the largest index of its orbit."""
    own = number(h, k, l, orbits.strides)
    for op in range(1, orbits.turns.shape[0]):
        x, y, z, inside = image_of(op, h, k, l, orbits)
        if inside and number(x, y, z, orbits.strides) > own:
            return False
    return True


@kernel
def is_passed(h, k, l, orbits):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return True if an operation maps all voxels of a brick to bricks with larger numbers.

    No voxel of such a brick is the last of its orbit. ``h, k, l``: first voxel of the brick.
    """
    own, shape = number(h, k, l, orbits.strides), orbits.shape
    last = (min(h + EDGE, shape[0]) - 1, min(k + EDGE, shape[1]) - 1, min(l + EDGE, shape[2]) - 1)
    for op in range(1, orbits.turns.shape[0]):
        x, x1 = _range(orbits.turns[op, 0], orbits.shifts[op, 0], (h, k, l), last)
        y, y1 = _range(orbits.turns[op, 1], orbits.shifts[op, 1], (h, k, l), last)
        z, z1 = _range(orbits.turns[op, 2], orbits.shifts[op, 2], (h, k, l), last)
        inside = x >= 0 and y >= 0 and z >= 0 and x1 < shape[0] and y1 < shape[1] and z1 < shape[2]
        if inside and number(x, y, z, orbits.strides) >= own + BRICK:
            return True
    return False


@kernel
def _range(turn, shift, first, last):  # type: ignore[no-untyped-def]
    """Return the smallest and largest index of images along one axis."""
    low = high = shift
    for i in range(3):
        a, b = turn[i] * first[i], turn[i] * last[i]
        low += min(a, b)
        high += max(a, b)
    return low, high


@kernel
def _members(h, k, l, orbits, members):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return the number of distinct voxels of an orbit, and write their indices to ``members``."""
    distinct = 0
    for op in range(orbits.turns.shape[0]):
        x, y, z, inside = image_of(op, h, k, l, orbits)
        if inside:
            mate = number(x, y, z, orbits.strides)
            new = True
            for j in range(distinct):
                new &= members[j] != mate
            if new:
                members[distinct] = mate
                distinct += 1
    return distinct


@kernel(error_model="numpy")
def reject(c, m, r, use, limit, tolerance):  # type: ignore[no-untyped-def]
    """Reject the worst observation until all agree or two remain.

    If all observations have the same rate, the counts for a given total T are binomial,
    ``C_i ~ B(T, M_i / Σ M)``. z² is the deviance of an observation relative to the others. It gives
    an upper limit of the tail probability, ``P <= exp(-z² / 2)``, for any number of counts
    (Chernoff). Read noise is treated as a Poisson background with the same variance.

    Parameters
    ----------
    c, m, r : (n,) arrays
        Counts, norms > 0, read variances.
    use : (n,) bool array
        True for observations to use; set to False for rejected observations.
    limit : float
        z² above which an observation is rejected.
    tolerance : float
        Relative difference that is allowed in addition to noise: z² is divided by
        ``1 + tolerance² μ``, with the counts μ expected from the other observations.

    Returns
    -------
    int
        Number of rejected observations.
    """
    left, out = 0, 0
    for i in range(c.size):
        left += use[i]
    while left >= 3:
        counts, norm, read = 0.0, 0.0, 0.0
        for i in range(c.size):
            if use[i]:
                counts += c[i]
                norm += m[i]
                read += r[i]
        rate, total = max(counts, 0.0) / norm, max(counts, 0.0) + read
        worst, most = -1, limit
        for i in range(c.size):
            if not use[i]:
                continue
            expected = m[i] * rate + r[i]
            x = min(max(c[i] + r[i], 0.0), total)
            # This test saves two logarithms, because the deviance is at most twice Pearson's χ².
            if 2 * (x - expected) ** 2 * total <= limit * expected * (total - expected):
                continue
            deviance = 0.0
            if x > 0:
                deviance += 2 * x * np.log(x / expected)
            if x < total:
                deviance += 2 * (total - x) * np.log((total - x) / (total - expected))
            others = max(m[i] * (counts - c[i]) / (norm - m[i]), 0.0)
            z2 = deviance / (1 + tolerance**2 * others)
            if z2 > most:
                worst, most = i, z2
        if worst < 0:
            break
        use[worst] = False
        left -= 1
        out += 1
    return out


@kernel
def near_bragg(q, metric, radius):  # type: ignore[no-untyped-def]
    """Return True if hkl is closer than a radius (1/Å) to integers."""
    a, b, c = q[0] - np.rint(q[0]), q[1] - np.rint(q[1]), q[2] - np.rint(q[2])
    return _square(a, b, c, metric) < radius * radius


@kernel
def shell(h, k, l, shells, n, q):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return the index of a voxel's shell, of n shells; q is set to the hkl of the voxel."""
    axes, metric, per_q = shells
    q[0] = axes[0][0] + axes[1][0] * h
    q[1] = axes[0][1] + axes[1][1] * k
    q[2] = axes[0][2] + axes[1][2] * l
    return min(int(np.sqrt(max(_square(q[0], q[1], q[2], metric), 0.0)) * per_q), n - 1)


@kernel(inline="always")
def _square(a, b, c, g):  # type: ignore[no-untyped-def]
    return (
        g[0, 0] * a * a
        + g[1, 1] * b * b
        + g[2, 2] * c * c
        + 2 * (g[0, 1] * a * b + g[0, 2] * a * c + g[1, 2] * b * c)
    )


class Words(NamedTuple):
    """Records of voxels with ``fields`` words each, as two views of the same memory."""

    counts: NDArray[Any]
    norm: NDArray[Any]
    fields: int
    noisy: bool
    """True if the third field of a record is the variance of the counts."""


class Maps(NamedTuple):
    """Arrays with one word for each voxel."""

    chi2: NDArray[np.float32]
    multiplicity: NDArray[np.uint8]


class Orbits(NamedTuple):
    """Shape of the grid, strides of `number`, and maps: the mate of voxel i is turns i + shifts."""

    shape: tuple[int, int, int]
    strides: tuple[int, int]
    turns: NDArray[np.int64]
    """Matrices (n, 3, 3); the first is the identity."""
    shifts: NDArray[np.int64]


class Dealt(NamedTuple):
    """Maps (n, 3, 3), (n, 3), as floats, of one operation of each coset that is not exact."""

    turns: NDArray[np.float64]
    shifts: NDArray[np.float64]


class Shells(NamedTuple):
    """Data that determine the shell of |Q| of a voxel."""

    axes: tuple[NDArray[np.float64], NDArray[np.float64]]
    """First value and step of h, k, l."""
    metric: NDArray[np.float64]
    """Reciprocal metric tensor (3, 3), 1/Å²."""
    per_q: float
    """Number of shells per 1/Å."""


class Judge(NamedTuple):
    """Limits for rejecting observations."""

    radius: float
    """Distance (1/Å) from integer hkl within which observations are neither judged nor rejected."""
    limit: float
    """See `reject`."""
    tolerance: float
    """See `reject`."""


@kernel(error_model="numpy")
def deal(  # type: ignore[no-untyped-def]
    values, fields, words, bricks, orbits, dealt, shells, table
):
    """Add the images that lie between voxel centres, for the orbits of some bricks (see `combine`).

    Each image adds the words of the 8 voxels around it with trilinear weights. Counts and norm have
    the same weights, so that S is an average weighted with the exposure. The sums are written to
    the second ``words`` words of the records.

    Parameters
    ----------
    values : flat float array
    bricks : (int, int)
        Number of the first brick, and number of the last brick + 1.
    orbits : Orbits
        Orbits of the exact operations.
    dealt : Dealt
    shells : Shells
    table : (shells, COLUMNS) array
        The number of voxels with a norm is added to this table.
    """
    shape, strides, turns, shifts = orbits
    turns_dealt, shifts_dealt = dealt
    n_h, n_k, n_l = shape
    members = np.empty(turns.shape[0], np.int64)
    images = np.empty((turns_dealt.shape[0] + 1, 3))
    image, sums, q = np.empty(3), np.empty(words), np.empty(3)
    across_h = (n_h + EDGE - 1) >> 3
    across_k = (n_k + EDGE - 1) >> 3
    for brick in range(bricks[0], bricks[1]):
        h0 = brick % across_h * EDGE
        k0 = brick // across_h % across_k * EDGE
        l0 = brick // (across_h * across_k) * EDGE
        if is_passed(h0, k0, l0, orbits):
            continue
        for at in range(BRICK):
            h, k, l = h0 + (at & 7), k0 + ((at >> 3) & 7), l0 + (at >> 6)  # noqa: E741
            if h >= n_h or k >= n_k or l >= n_l or not is_last(h, k, l, orbits):
                continue
            distinct = _members(h, k, l, orbits, members)
            images[0, 0], images[0, 1], images[0, 2] = h, k, l
            for word in range(words):
                sums[word] = values[members[0] * fields + word]
            n = 1
            for op in range(turns_dealt.shape[0]):
                a, b = turns_dealt[op], shifts_dealt[op]
                for i in range(3):
                    image[i] = a[i, 0] * h + a[i, 1] * k + a[i, 2] * l + b[i]
                if _is_new(image, images[:n], turns, shifts):
                    images[n] = image
                    n += 1
                    _gather(image, values, fields, shape, strides, turns, shifts, sums)
            row = shell(h, k, l, shells, table.shape[0], q)
            table[row, AFTER] += distinct * (sums[1] > 0)
            for i in range(distinct):
                for word in range(words):
                    values[members[i] * fields + words + word] = sums[word]


@kernel
def _is_new(image, images, turns, shifts):  # type: ignore[no-untyped-def]
    """Return True if no exact symmetry operation maps another image onto this image."""
    for n in range(images.shape[0]):
        for op in range(turns.shape[0]):
            away = 0.0
            for i in range(3):
                there = shifts[op, i] - image[i]
                for j in range(3):
                    there += turns[op, i, j] * images[n, j]
                away = max(away, abs(there))
            if away < _SAME:
                return False
    return True


@kernel
def _fixing(x, y, z, turns, shifts):  # type: ignore[no-untyped-def]
    """Return the number of exact operations that map a position onto itself."""
    n = 0
    for op in range(turns.shape[0]):
        a, b = turns[op], shifts[op]
        away = abs(a[0, 0] * x + a[0, 1] * y + a[0, 2] * z + b[0] - x)
        away = max(away, abs(a[1, 0] * x + a[1, 1] * y + a[1, 2] * z + b[1] - y))
        away = max(away, abs(a[2, 0] * x + a[2, 1] * y + a[2, 2] * z + b[2] - z))
        n += away < _SAME
    return n


@kernel
def _gather(image, values, fields, shape, strides, turns, shifts, sums):  # type: ignore[no-untyped-def]
    # A voxel on a mirror was summed once, but is a neighbour of images on both sides of the mirror.
    alone = _fixing(image[0], image[1], image[2], turns, shifts)
    # A position that is only by rounding below a voxel centre belongs to this voxel.
    h, k, l = (  # noqa: E741
        int(np.floor(image[0] + 1e-9)),
        int(np.floor(image[1] + 1e-9)),
        int(np.floor(image[2] + 1e-9)),
    )
    for corner in range(8):
        i, j, m = corner & 1, (corner >> 1) & 1, corner >> 2
        x, y, z = h + i, k + j, l + m
        weight = (1 - abs(image[0] - x)) * (1 - abs(image[1] - y)) * (1 - abs(image[2] - z))
        inside = 0 <= x < shape[0] and 0 <= y < shape[1] and 0 <= z < shape[2]
        if inside and weight > 1e-9:
            weight *= _fixing(x, y, z, turns, shifts) / alone
            here = number(x, y, z, strides) * fields
            for word in range(sums.size):
                sums[word] += weight * values[here + word]


@kernel
def put(counts, norm, variance, records, first, strides):  # type: ignore[no-untyped-def]
    """Write a strip of all volumes to the records.

    Parameters
    ----------
    counts, norm, variance : (n, l, k, h) arrays
        The variance is not used if the records have none.
    records : Words
    first : (int, int)
        First plane and first row of the strip.
    """
    words = 3 if records.noisy else 2
    for l in range(counts.shape[1]):  # noqa: E741
        for k in range(counts.shape[2]):
            row = number(0, first[1] + k, first[0] + l, strides)
            # Line by line of a brick: the records of eight voxels follow each other in memory.
            for h0 in range(0, counts.shape[3], EDGE):
                for v in range(counts.shape[0]):
                    for h in range(h0, min(h0 + EDGE, counts.shape[3])):
                        word = (row + h + (h >> 3) * 504) * records.fields + v * words
                        records.counts[word] = counts[v, l, k, h]
                        records.norm[word + 1] = norm[v, l, k, h]
                        if records.noisy:
                            records.norm[word + 2] = variance[v, l, k, h]


@kernel
def take_sums(records, word, first, strides, counts, others):  # type: ignore[no-untyped-def]
    """Fill planes with the sums in the records.

    Parameters
    ----------
    records : Words
    word : int
        First word of the sums in a record.
    first : int
        First plane.
    counts : (l, k, h) array
    others : tuple of (l, k, h) arrays
        Norm and, if the records have it, variance.
    """
    for l in range(counts.shape[0]):  # noqa: E741
        for k in range(counts.shape[1]):
            row = number(0, k, first + l, strides)
            for h in range(counts.shape[2]):
                place = (row + h + (h >> 3) * 504) * records.fields + word
                counts[l, k, h] = records.counts[place]
                for i in range(len(others)):
                    others[i][l, k, h] = records.norm[place + 1 + i]


@kernel
def take(source, first, strides, target):  # type: ignore[no-untyped-def]
    """Fill planes (l, k, h) with the numbers of voxels in bricks; ``first`` is the first plane."""
    for l in range(target.shape[0]):  # noqa: E741
        for k in range(target.shape[1]):
            row = number(0, k, first + l, strides)
            for h in range(target.shape[2]):
                target[l, k, h] = source[row + h + (h >> 3) * 504]
