"""Kernels of `punch`: voxels within ellipsoids, and radial profiles around positions."""

import numpy as np

from hklflow.simd.jit import kernel


@kernel
def mark(mask, centres, form, reach):  # type: ignore[no-untyped-def]
    """Set mask (l, k, h) to 1 where ``dᵀ form d <= 1``.

    d (h, k, l) is the distance from one of the centres (n, 3), in voxels; ``centres`` are in voxels
    from the first voxel. ``reach`` (3,) is the half-width of the box around the ellipsoid.
    """
    n_l, n_k, n_h = mask.shape
    for n in range(len(centres)):
        h0, k0, l0 = centres[n]
        for l in range(max(int(np.ceil(l0 - reach[2])), 0), n_l):  # noqa: E741
            z = l - l0
            if z > reach[2]:
                break
            for k in range(max(int(np.ceil(k0 - reach[1])), 0), n_k):
                y = k - k0
                if y > reach[1]:
                    break
                for h in range(max(int(np.ceil(h0 - reach[0])), 0), n_h):
                    x = h - h0
                    if x > reach[0]:
                        break
                    s = form[0, 0] * x * x + form[1, 1] * y * y + form[2, 2] * z * z
                    s += 2 * (form[0, 1] * x * y + form[0, 2] * x * z + form[1, 2] * y * z)
                    # Voxels on the surface are inside, so that rounding cannot break symmetry.
                    if s <= 1 + 1e-9:
                        mask[l, k, h] = 1


@kernel
def profile(data, errors, centre, form, reach, bins, sums, squares, counts):  # type: ignore[no-untyped-def]
    """Sum data and squared errors in bins of d = sqrt(dᵀ form d) of equal width, from 0 to 1."""
    n_l, n_k, n_h = data.shape
    h0, k0, l0 = centre
    for l in range(max(int(np.ceil(l0 - reach[2])), 0), min(int(l0 + reach[2]) + 1, n_l)):  # noqa: E741
        for k in range(max(int(np.ceil(k0 - reach[1])), 0), min(int(k0 + reach[1]) + 1, n_k)):
            for h in range(max(int(np.ceil(h0 - reach[0])), 0), min(int(h0 + reach[0]) + 1, n_h)):
                x, y, z = h - h0, k - k0, l - l0
                s = form[0, 0] * x * x + form[1, 1] * y * y + form[2, 2] * z * z
                s += 2 * (form[0, 1] * x * y + form[0, 2] * x * z + form[1, 2] * y * z)
                # A voxel on the edge of two bins is in the outer bin, whatever the rounding.
                i = int(np.sqrt(max(s, 0.0)) * bins + 1e-6)
                value = data[l, k, h]
                if i < bins and np.isfinite(value):
                    sums[i] += value
                    squares[i] += np.float64(errors[l, k, h]) ** 2
                    counts[i] += 1
