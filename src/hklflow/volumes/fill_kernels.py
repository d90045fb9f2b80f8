"""Kernels of `fill`: support of holes, and symmetry of voxels.

Voxels are numbered in C order of [l, k, h]. Operations are (n, 3, 4) integers that map the indices
(h, k, l, 1) of a voxel to the indices of its image; images may be outside the grid.
"""

import numpy as np

from hklflow.simd.jit import kernel


@kernel
def gather(data, errors, code, bases, offsets, values, sigma):  # type: ignore[no-untyped-def]
    """Read measured S and σ (holes, m) at offsets (m, 3) from bases (holes, 3), in (l, k, h).

    Voxels that are not measured, punched (code not 0) or outside the grid are NaN.
    """
    n_l, n_k, n_h = data.shape
    for i in range(len(bases)):
        for j in range(len(offsets)):
            l = bases[i, 0] + offsets[j, 0]  # noqa: E741
            k = bases[i, 1] + offsets[j, 1]
            h = bases[i, 2] + offsets[j, 2]
            values[i, j] = sigma[i, j] = np.nan
            if 0 <= l < n_l and 0 <= k < n_k and 0 <= h < n_h and code[l, k, h] == 0:
                values[i, j] = data[l, k, h]
                sigma[i, j] = errors[l, k, h]


@kernel
def numbers_of(code, least, most):  # type: ignore[no-untyped-def]
    """Return the numbers, ascending, of voxels with codes from least to most."""
    flat = code.reshape(-1)
    n = 0
    for i in range(len(flat)):
        if least <= flat[i] <= most:
            n += 1
    found = np.empty(n, np.int64)
    n = 0
    for i in range(len(flat)):
        if least <= flat[i] <= most:
            found[n] = i
            n += 1
    return found


@kernel
def connected(voxels, shape):  # type: ignore[no-untyped-def]
    """Return the place, in ascending voxels, of the first voxel that each is connected with.

    Voxels are connected through faces.
    """
    n_l, n_k, n_h = shape
    n = len(voxels)
    first = np.arange(n)
    for step, width in ((1, n_h), (n_h, n_k), (n_h * n_k, n_l)):
        j = 0
        for i in range(n):
            while j < n and voxels[j] < voxels[i] + step:
                j += 1
            if j == n:
                break
            # The last of a line is no neighbour of the first of the next.
            if voxels[j] != voxels[i] + step or voxels[i] // step % width == width - 1:
                continue
            a, b = i, j
            while first[a] != a:
                first[a] = first[first[a]]
                a = first[a]
            while first[b] != b:
                first[b] = first[first[b]]
                b = first[b]
            first[max(a, b)] = min(a, b)
    for i in range(n):
        first[i] = first[first[i]]
    return first


@kernel
def canonical(voxels, operations, shape):  # type: ignore[no-untyped-def]
    """Return the smallest number of the images of each voxel; -1 if one is outside the grid."""
    n_l, n_k, n_h = shape
    found = np.empty(len(voxels), np.int64)
    for i in range(len(voxels)):
        v = voxels[i]
        h, k, l = v % n_h, v // n_h % n_k, v // (n_h * n_k)  # noqa: E741
        least = v
        for o in range(len(operations)):
            w = operations[o]
            x = w[0, 0] * h + w[0, 1] * k + w[0, 2] * l + w[0, 3]
            y = w[1, 0] * h + w[1, 1] * k + w[1, 2] * l + w[1, 3]
            z = w[2, 0] * h + w[2, 1] * k + w[2, 2] * l + w[2, 3]
            if 0 <= x < n_h and 0 <= y < n_k and 0 <= z < n_l:
                least = min(least, (z * n_k + y) * n_h + x)
            else:
                least = -1
                break
        found[i] = least
    return found


@kernel
def is_symmetric(code, voxels, operations):  # type: ignore[no-untyped-def]
    """Return True if all images of voxels (n,) must be filled (code 1 or 2)."""
    n_l, n_k, n_h = code.shape
    for v in voxels:
        h, k, l = v % n_h, v // n_h % n_k, v // (n_h * n_k)  # noqa: E741
        for o in range(len(operations)):
            w = operations[o]
            x = w[0, 0] * h + w[0, 1] * k + w[0, 2] * l + w[0, 3]
            y = w[1, 0] * h + w[1, 1] * k + w[1, 2] * l + w[1, 3]
            z = w[2, 0] * h + w[2, 1] * k + w[2, 2] * l + w[2, 3]
            if not (0 <= x < n_h and 0 <= y < n_k and 0 <= z < n_l):
                return False
            if code[z, y, x] != 1 and code[z, y, x] != 2:
                return False
    return True


@kernel
def average(data, errors, code, operations):  # type: ignore[no-untyped-def]
    """Give every filled voxel the mean over its filled images.

    Errors are averaged, not reduced, because images are filled from images of the same
    measurements. The sum is computed only for the image with the smallest number, so that all
    images are identical to the last bit.
    """
    n_l, n_k, n_h = code.shape
    images = np.empty((len(operations), 3), np.int64)
    for l in range(n_l):  # noqa: E741
        for k in range(n_k):
            for h in range(n_h):
                if code[l, k, h] != 1 and code[l, k, h] != 2:
                    continue
                first, n = True, 0
                for o in range(len(operations)):
                    w = operations[o]
                    x = w[0, 0] * h + w[0, 1] * k + w[0, 2] * l + w[0, 3]
                    y = w[1, 0] * h + w[1, 1] * k + w[1, 2] * l + w[1, 3]
                    z = w[2, 0] * h + w[2, 1] * k + w[2, 2] * l + w[2, 3]
                    if not (0 <= x < n_h and 0 <= y < n_k and 0 <= z < n_l):
                        continue
                    if code[z, y, x] != 1 and code[z, y, x] != 2:
                        continue
                    if (z * n_k + y) * n_h + x < (l * n_k + k) * n_h + h:
                        first = False
                        break
                    images[n, 0], images[n, 1], images[n, 2] = z, y, x
                    n += 1
                if not first:
                    continue
                total, spread, found = 0.0, 0.0, 0
                for i in range(n):
                    value = data[images[i, 0], images[i, 1], images[i, 2]]
                    if np.isfinite(value):
                        total += value
                        spread += errors[images[i, 0], images[i, 1], images[i, 2]]
                        found += 1
                for i in range(n):
                    if found:
                        data[images[i, 0], images[i, 1], images[i, 2]] = total / found
                        errors[images[i, 0], images[i, 1], images[i, 2]] = spread / found


@kernel
def symmetric_mask(mask, operations):  # type: ignore[no-untyped-def]
    """Mark all images of voxels marked with 1; newly marked images get 2."""
    n_l, n_k, n_h = mask.shape
    for l in range(n_l):  # noqa: E741
        for k in range(n_k):
            for h in range(n_h):
                if mask[l, k, h] != 1:
                    continue
                for o in range(len(operations)):
                    w = operations[o]
                    x = w[0, 0] * h + w[0, 1] * k + w[0, 2] * l + w[0, 3]
                    y = w[1, 0] * h + w[1, 1] * k + w[1, 2] * l + w[1, 3]
                    z = w[2, 0] * h + w[2, 1] * k + w[2, 2] * l + w[2, 3]
                    if 0 <= x < n_h and 0 <= y < n_k and 0 <= z < n_l and mask[z, y, x] == 0:
                        mask[z, y, x] = 2
