"""Compiled loops of `extrema`, and of the stages that search extrema of whole volumes."""

import numpy as np

from hklflow.simd.jit import kernel


@kernel
def clean(values, out):  # type: ignore[no-untyped-def]
    """Copy planes (n, k, h) in single precision, with 0 for NaN and +∞."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            row, target = values[i, j], out[i, j]
            for m in range(row.size):
                value = row[m]
                target[m] = np.float32(value) if value < np.inf else np.float32(0)


@kernel
def maxima(planes, found):  # type: ignore[no-untyped-def]
    """Find voxels above 0 and not below their 26 neighbours, in all planes but the first and last.

    Outside of the planes, neighbours are 0. Return the number of these voxels; their indices in the
    flattened inner planes are written to ``found``.
    """
    n_l, n_k, n_h = planes.shape
    # Maxima of three rows of a plane, of three planes, and of three voxels.
    rows = np.zeros((n_l, n_h + 2), np.float32)
    count = 0
    across = np.empty(n_h + 2, np.float32)
    for k in range(n_k):
        below, above = max(k - 1, 0), min(k + 1, n_k - 1)
        for l in range(n_l):  # noqa: E741
            a, b, c, row = planes[l, below], planes[l, k], planes[l, above], rows[l]
            for h in range(n_h):
                row[h + 1] = max(max(a[h], b[h]), c[h])
        for l in range(1, n_l - 1):  # noqa: E741
            a, b, c, here = rows[l - 1], rows[l], rows[l + 1], planes[l, k]
            for h in range(n_h + 2):
                across[h] = max(max(a[h], b[h]), c[h])
            place = ((l - 1) * n_k + k) * n_h
            for h in range(n_h):
                top = max(max(across[h], across[h + 1]), across[h + 2])
                if here[h] >= top and here[h] > 0:
                    found[count] = place + h
                    count += 1
    return count


@kernel
def asymmetric(own, others, h, k, l, kept):  # type: ignore[no-untyped-def]  # noqa: E741
    """Keep points (l, k, h) at least as high along ``own`` as along ``others`` (n, 3)."""
    for i in range(l.size):
        for j in range(k.size):
            base = own[2] * l[i] + own[1] * k[j]
            row = kept[i, j]
            row[:] = True
            for n in range(others.shape[0]):
                other = others[n, 2] * l[i] + others[n, 1] * k[j]
                left = 0
                for m in range(h.size):
                    row[m] &= base + own[0] * h[m] >= other + others[n, 0] * h[m] - 1e-7
                    left += row[m]
                if left == 0:
                    break


@kernel(error_model="numpy")
def add_weighted(data, sigma, top, weights):  # type: ignore[no-untyped-def]
    """Add |data| / σ² and 1 / σ² of one volume, where both are known."""
    for i in range(data.shape[0]):
        for j in range(data.shape[1]):
            values, errors, above, below = data[i, j], sigma[i, j], top[i, j], weights[i, j]
            for m in range(values.size):
                value, error = abs(np.float64(values[m])), np.float64(errors[m])
                known = (value < np.inf) & (error > 0)
                weight = 1.0 / (error * error) if known else 0.0
                above[m] += weight * (value if known else 0.0)
                below[m] += weight


@kernel(error_model="numpy")
def divide(top, weights):  # type: ignore[no-untyped-def]
    """Divide sums (n, k, h) by their weights, in place; 0 where the weight is 0."""
    for i in range(top.shape[0]):
        for j in range(top.shape[1]):
            above, below = top[i, j], weights[i, j]
            for m in range(above.size):
                above[m] = above[m] / below[m] if below[m] > 0 else 0.0


@kernel(error_model="numpy")
def subtract(a, sa, b, sb, scale, data, errors, strength, sums):  # type: ignore[no-untyped-def]
    """Write a - scale b, its σ and their quotient; add up the size of the differences.

    Parameters
    ----------
    a, sa, b, sb : (n, k, h) arrays
        Data and errors of two volumes.
    data, errors, strength : (n, k, h) float32 arrays
        Difference, σ (both NaN where unknown), and |difference| / σ (0 where unknown).
    sums : (5,) array
        Numbers of known differences and of those with an error; sums of the squares of
        difference, σ, and difference / σ.
    """
    n_h = a.shape[2]
    differences, sigmas, quotients = np.empty((3, n_h))
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            va, vsa, vb, vsb = a[i, j], sa[i, j], b[i, j], sb[i, j]
            for m in range(n_h):
                difference = np.float64(va[m]) - scale * np.float64(vb[m])
                error, other = np.float64(vsa[m]), scale * np.float64(vsb[m])
                sigma = np.sqrt(error * error + other * other)
                sigma = sigma if difference == difference else np.nan
                known = (sigma > 0) & (abs(difference) < np.inf)
                differences[m], sigmas[m] = difference, sigma
                quotients[m] = difference / sigma if known else np.nan
            row = data[i, j]
            for m in range(n_h):
                row[m] = differences[m]
            row = errors[i, j]
            for m in range(n_h):
                row[m] = sigmas[m]
            row = strength[i, j]
            for m in range(n_h):
                row[m] = abs(quotients[m]) if quotients[m] == quotients[m] else 0.0
            measured, judged, d2, s2, z2 = 0, 0, 0.0, 0.0, 0.0
            for m in range(n_h):
                measured += abs(differences[m]) < np.inf
                judged += abs(quotients[m]) < np.inf
                d2 += differences[m] ** 2 if differences[m] == differences[m] else 0.0
                s2 += sigmas[m] ** 2 if sigmas[m] == sigmas[m] else 0.0
                z2 += quotients[m] ** 2 if quotients[m] == quotients[m] else 0.0
            sums[0] += measured
            sums[1] += judged
            sums[2] += d2
            sums[3] += s2
            sums[4] += z2
