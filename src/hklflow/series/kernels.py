"""Kernels of the test for change: departures of voxels, and their sums over neighbours."""

import numpy as np

from hklflow.simd.jit import kernel


@kernel(error_model="numpy")
def departures(  # type: ignore[no-untyped-def]
    data, errors, inside, bins, divisor, common, level, courses, weak, strong, least, out, share
):
    """Write the departures of voxels from their thermal courses, in standard deviations.

    Householder reflections take the courses out of the weighted values. What is left are as many
    numbers as there are temperatures beyond the number of courses, independent and of width 1 if
    nothing else changes. Reflections change smoothly with the weights, so that departures of
    neighbours can be added. The number of a temperature that was not measured is 0.

    Parameters
    ----------
    data, errors : (T, l, k, h) arrays
    inside : (l, k, h) bool array
        Voxels that are tested.
    bins : (l, k, h) uint16 array
        Row of divisor and common.
    divisor, common : (b, T) arrays
    level : (b,) array
        S above which a voxel is strong.
    courses : (T, p) array
        Row 0 is the coldest, row 1 the hottest temperature, and so are all axes T.
    weak, strong : float
        Relative error of S besides the noise, below the level and of the part above it.
    least : int
        Smallest number of temperatures of a voxel.
    out : (l, k, h, T - p) array
    share : (l, k, h) array
        Share of the noise in the variance; 0 if the voxel is not tested.
    """
    n_t, n_l, n_k, n_h = data.shape
    p = courses.shape[1]
    y = np.empty(n_t)
    w = np.empty(n_t)
    x = np.empty((n_t, p))
    for l in range(n_l):  # noqa: E741
        for k in range(n_k):
            for h in range(n_h):
                share[l, k, h] = 0.0
                for t in range(n_t - p):
                    out[l, k, h, t] = 0.0
                if not inside[l, k, h]:
                    continue
                row = bins[l, k, h]
                mean = 0.0
                number = 0
                for t in range(n_t):
                    value = data[t, l, k, h]
                    sigma = errors[t, l, k, h]
                    w[t] = 0.0
                    y[t] = 0.0
                    if value == value and sigma > 0.0:
                        y[t] = (value - common[row, t]) / divisor[row, t]
                        w[t] = (sigma / divisor[row, t]) ** 2
                        mean += y[t]
                        number += 1
                if number < least or w[0] == 0.0 or w[1] == 0.0:
                    continue
                mean = abs(mean / number)
                extra = (weak * mean + (strong - weak) * max(mean - level[row], 0.0)) ** 2
                noise = 0.0
                for t in range(n_t):
                    if w[t] > 0.0:
                        total = w[t] + extra
                        noise += w[t] / total
                        w[t] = 1.0 / np.sqrt(total)
                        y[t] *= w[t]
                    for j in range(p):
                        x[t, j] = w[t] * courses[t, j]
                share[l, k, h] = noise / number
                for j in range(p):
                    length = 0.0
                    for t in range(j, n_t):
                        length += x[t, j] ** 2
                    length = np.sqrt(length)
                    if x[j, j] < 0.0:
                        length = -length
                    x[j, j] += length
                    square = length * x[j, j]
                    if square == 0.0:
                        continue
                    for i in range(j + 1, p):
                        dot = 0.0
                        for t in range(j, n_t):
                            dot += x[t, j] * x[t, i]
                        for t in range(j, n_t):
                            x[t, i] -= x[t, j] * dot / square
                    dot = 0.0
                    for t in range(j, n_t):
                        dot += x[t, j] * y[t]
                    for t in range(j, n_t):
                        y[t] -= x[t, j] * dot / square
                for t in range(p, n_t):
                    out[l, k, h, t - p] = y[t]


@kernel(error_model="numpy")
def weigh(moved, share, limit, smooth, out):  # type: ignore[no-untyped-def]
    """Write what sums over neighbours need of each voxel; see `chi_squares`.

    Parameters
    ----------
    moved : (l, k, h, d) array
        Departures.
    share : (l, k, h) array
    limit : float
        Largest departure of one temperature, in standard deviations: a bad point is no change.
    smooth : (d, m) array
        Orthonormal smooth courses.
    out : (l, k, h, d + m + 2) array
        Weighted departures, their parts along the smooth courses, and variances of the weighted
        departures by noise, and by errors that are common to neighbours.
    """
    n_l, n_k, n_h, d = moved.shape
    m = smooth.shape[1]
    for l in range(n_l):  # noqa: E741
        for k in range(n_k):
            for h in range(n_h):
                f = share[l, k, h]
                for i in range(d + m + 2):
                    out[l, k, h, i] = 0.0
                if f == 0.0:
                    continue
                # Voxels in which relative errors exceed the noise count little.
                weight = f * f
                for t in range(d):
                    value = weight * min(max(moved[l, k, h, t], -limit), limit)
                    out[l, k, h, t] = value
                    for i in range(m):
                        out[l, k, h, d + i] += value * smooth[t, i]
                out[l, k, h, d + m] = weight * weight * f
                out[l, k, h, d + m + 1] = weight * np.sqrt(1.0 - f)


@kernel(error_model="numpy")
def box_sums(values, radius, out):  # type: ignore[no-untyped-def]
    """Write sums of values (l, k, h, c) over boxes of 2 radius + 1 voxels, for the inner planes."""
    n_l, n_k, n_h, n_c = values.shape
    rows = np.empty((n_k, n_h, n_c), values.dtype)
    plane = np.empty((n_k, n_h, n_c), values.dtype)
    for l in range(n_l - 2 * radius):  # noqa: E741
        for k in range(n_k):
            for h in range(n_h):
                for c in range(n_c):
                    total = values[l, k, h, c]
                    for i in range(1, 2 * radius + 1):
                        total += values[l + i, k, h, c]
                    rows[k, h, c] = total
        for k in range(n_k):
            for h in range(n_h):
                for c in range(n_c):
                    plane[k, h, c] = rows[k, h, c]
                for i in range(max(k - radius, 0), min(k + radius + 1, n_k)):
                    if i != k:
                        for c in range(n_c):
                            plane[k, h, c] += rows[i, h, c]
        for k in range(n_k):
            for h in range(n_h):
                for c in range(n_c):
                    out[l, k, h, c] = plane[k, h, c]
                for i in range(max(h - radius, 0), min(h + radius + 1, n_h)):
                    if i != h:
                        for c in range(n_c):
                            out[l, k, h, c] += plane[k, i, c]


@kernel(error_model="numpy")
def chi_squares(sums, share, first, last, limit, out):  # type: ignore[no-untyped-def]
    """Write χ² of the parts ``first`` to ``last`` of weighted sums; -1 if a voxel is not tested.

    Errors that are relative to S are common to neighbours: the variance of a sum contains them as
    fully correlated.
    """
    n_l, n_k, n_h, n_c = sums.shape
    for l in range(n_l):  # noqa: E741
        for k in range(n_k):
            for h in range(n_h):
                out[l, k, h] = -1.0
                if share[l, k, h] == 0.0:
                    continue
                variance = sums[l, k, h, n_c - 2] + sums[l, k, h, n_c - 1] ** 2
                square = 0.0
                for i in range(first, last):
                    square += min(sums[l, k, h, i] ** 2 / variance, limit * limit)
                out[l, k, h] = square


@kernel
def independent(keys, along_h, along_k, along_l, found):  # type: ignore[no-untyped-def]
    """Set ``found`` (l, k, h) to True for one voxel of each set of equivalents.

    The chosen voxel is the highest along an irrational direction; row 0 of ``keys`` (n, 3) is this
    direction, the other rows are its images under the operations.
    """
    for l in range(len(along_l)):  # noqa: E741
        for k in range(len(along_k)):
            for h in range(len(along_h)):
                height = keys[0, 0] * along_h[h] + keys[0, 1] * along_k[k] + keys[0, 2] * along_l[l]
                found[l, k, h] = True
                for i in range(1, len(keys)):
                    other = (
                        keys[i, 0] * along_h[h] + keys[i, 1] * along_k[k] + keys[i, 2] * along_l[l]
                    )
                    if other > height + 1e-7:
                        found[l, k, h] = False
                        break


@kernel(error_model="numpy")
def amplitudes(rows, chance, top, bottom, out):  # type: ignore[no-untyped-def]
    """Add numerators and denominators of the amplitudes of the neighbours of voxels.

    Parameters
    ----------
    rows : (n, 26) array
        Neighbours among the candidates, -1 for none.
    chance : (n, K + 1) array
        Probability of each label.
    top, bottom : (n, K) arrays
        Numerator and denominator of amplitudes.
    out : (n, K, 2) array
    """
    for i in range(len(rows)):
        for k in range(out.shape[1]):
            out[i, k, 0] = 0.0
            out[i, k, 1] = 0.0
        for j in range(rows.shape[1]):
            row = rows[i, j]
            if row >= 0:
                for k in range(out.shape[1]):
                    out[i, k, 0] += chance[row, k + 1] * top[row, k]
                    out[i, k, 1] += chance[row, k + 1] * bottom[row, k]


@kernel(error_model="numpy")
def evidence(rows, near, top, bottom, spread, least, free, out):  # type: ignore[no-untyped-def]
    """Write the logarithm of the likelihood of each label over that of no change.

    The amplitude is free, or that of the surroundings; see `labels.smooth`.

    Parameters
    ----------
    rows : (n, 26) array
    near : (n, K, 2) array
        See `amplitudes`.
    top, bottom : (n, K) arrays
    spread : float
        Relative difference of the amplitudes of neighbours.
    least : float
        Least significance of the amplitude of the neighbours.
    free : float
        Half of the logarithm of the range of a free amplitude.
    out : (n, K) array
    """
    for i in range(len(rows)):
        for k in range(out.shape[1]):
            value = max(top[i, k], 0.0) ** 2 / bottom[i, k] / 2 - free
            if near[i, k, 1] > 0.0:
                upper, lower = near[i, k]
                for j in range(rows.shape[1]):
                    if rows[i, j] >= 0:
                        upper += near[rows[i, j], k, 0]
                        lower += near[rows[i, j], k, 1]
                mean = max(upper, 0.0) / lower
                if mean * mean * near[i, k, 1] > least * least:
                    wide = 1.0 + (1.0 / near[i, k, 1] + (spread * mean) ** 2) * bottom[i, k]
                    rest = top[i, k] - mean * bottom[i, k]
                    alike = top[i, k] ** 2 - rest**2 / wide
                    alike = alike / bottom[i, k] / 2 - np.log(wide) / 2
                    highest = max(value, alike)
                    value = highest + np.log(np.exp(value - highest) + np.exp(alike - highest))
            out[i, k] = value


@kernel
def count(rows, faces, chance, outside, out):  # type: ignore[no-untyped-def]
    """Count the labels at the faces of voxels; 6 in total.

    Parameters
    ----------
    rows : (n, 26) array
    faces : (26,) bool array
        Neighbours that share a face.
    chance : (n, K + 1) array
    outside : (n,) array
        Number of neighbours at the faces that have no vote. Other neighbours that are no candidates
        do not change.
    out : (n, K + 1) array
    """
    for i in range(len(rows)):
        voters = 6 - outside[i]
        for k in range(out.shape[1]):
            out[i, k] = 0.0
        quiet = voters
        for j in range(rows.shape[1]):
            row = rows[i, j]
            if row >= 0 and faces[j]:
                quiet -= 1
                for k in range(out.shape[1]):
                    out[i, k] += chance[row, k]
        out[i, 0] += quiet
        if voters > 0:
            for k in range(out.shape[1]):
                out[i, k] *= 6.0 / voters


@kernel(error_model="numpy")
def slopes(chance, votes, strength, bias):  # type: ignore[no-untyped-def]
    """Return the derivatives of the pseudo-likelihood of labels in strength and bias.

    Returns
    -------
    (5,) array
        First derivatives, and minus the second: strength, mixed, bias.
    """
    found = np.zeros(5)
    n, size = votes.shape
    part = np.empty(size)
    for i in range(n):
        highest = -np.inf
        for k in range(size):
            part[k] = strength * votes[i, k] + (bias if k > 0 else 0.0)
            highest = max(highest, part[k])
        total = 0.0
        for k in range(size):
            part[k] = np.exp(part[k] - highest)
            total += part[k]
        mean, square, mixed, own = 0.0, 0.0, 0.0, 0.0
        for k in range(size):
            part[k] /= total
            mean += part[k] * votes[i, k]
            square += part[k] * votes[i, k] ** 2
            own += chance[i, k] * votes[i, k]
            if k > 0:
                mixed += part[k] * votes[i, k]
        changed = 1.0 - part[0]
        found[0] += own - mean
        found[1] += part[0] - chance[i, 0]
        found[2] += square - mean * mean
        found[3] += mixed - mean * changed
        found[4] += changed * part[0]
    return found


@kernel(error_model="numpy")
def update(likely, votes, strength, bias, chance):  # type: ignore[no-untyped-def]
    """Write the probability of each label from its likelihood and the labels at the faces.

    Parameters
    ----------
    likely : (n, K) array
        See `evidence`.
    votes : (n, K + 1) array
        See `count`.
    strength, bias : float
    chance : (n, K + 1) array
    """
    for i in range(len(votes)):
        highest = -np.inf
        for k in range(votes.shape[1]):
            value = strength * votes[i, k] + (likely[i, k - 1] + bias if k > 0 else 0.0)
            chance[i, k] = value
            highest = max(highest, value)
        total = 0.0
        for k in range(votes.shape[1]):
            chance[i, k] = np.exp(chance[i, k] - highest)
            total += chance[i, k]
        for k in range(votes.shape[1]):
            chance[i, k] /= total


@kernel
def connect(rows, labels, parts):  # type: ignore[no-untyped-def]
    """Write a number of the connected part of each voxel: neighbours with the same label.

    Parameters
    ----------
    rows : (n, 26) array
    labels : (n,) array
    parts : (n,) int array
        Becomes the lowest number of a voxel of the part.
    """
    for i in range(len(rows)):
        parts[i] = i
    for i in range(len(rows)):
        for j in range(rows.shape[1]):
            row = rows[i, j]
            if row < i and row >= 0 and labels[row] == labels[i]:
                a, b = i, row
                while parts[a] != a:
                    parts[a] = parts[parts[a]]
                    a = parts[a]
                while parts[b] != b:
                    parts[b] = parts[parts[b]]
                    b = parts[b]
                if a < b:
                    parts[b] = a
                else:
                    parts[a] = b
    for i in range(len(rows)):
        parts[i] = parts[parts[i]]


@kernel
def peel(order, radius, rows, items):  # type: ignore[no-untyped-def]
    """Divide voxels into items: each voxel in ``order`` takes the free voxels around it.

    Parameters
    ----------
    order : (c,) int array
        Voxels that become centres if they are free.
    radius : (c,) int array
        Half-width of the item of each of them: 1 or 2 voxels.
    rows : (n, 26) array
        Neighbours, -1 for none.
    items : (n,) int array
        -1: free; -2: in no item. Becomes the number of the item.

    Returns
    -------
    int
        Number of items.
    """
    number = 0
    for centre, wide in zip(order, radius):  # noqa: B905
        if items[centre] != -1:
            continue
        items[centre] = number
        for j in range(rows.shape[1]):
            near = rows[centre, j]
            if near < 0:
                continue
            if items[near] == -1:
                items[near] = number
            if wide > 1:
                for i in range(rows.shape[1]):
                    far = rows[near, i]
                    if far >= 0 and items[far] == -1:
                        items[far] = number
        number += 1
    return number
