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


@kernel
def set_codes(data, code, h, k, l, b, q_max):  # type: ignore[no-untyped-def]  # noqa: E741
    """Replace a mask (l, k, h) of punched voxels by the codes of `fill`, and count them.

    Punched voxels get 1, also those that were not measured (data NaN), as the 3-D mask leaves the
    middle of strong reflections, if they lie within q_max (1/Å). Other measured voxels get 0, other
    voxels 2 within q_max and 3 beyond. h, k, l are the axes of the grid, in r.l.u.; ``b`` has the
    reciprocal axes as columns and is upper triangular. Return the numbers of voxels with the codes
    0 to 3, of voxels within q_max, and of those of them that are not punched.
    """
    counts = np.zeros(6, np.int64)
    for i in range(l.size):
        for j in range(k.size):
            across = b[0, 2] * l[i]
            rest = (b[1, 1] * k[j] + b[1, 2] * l[i]) ** 2 + (b[2, 2] * l[i]) ** 2
            punched = unmeasured = left = inside = outside = 0
            row, values = code[i, j], data[i, j]
            for m in range(h.size):
                q2 = (b[0, 0] * h[m] + b[0, 1] * k[j] + across) ** 2 + rest
                within = np.sqrt(q2) <= q_max
                missing = not np.isfinite(values[m])
                is_punched = row[m] > 0 and (within or not missing)
                missing = missing and not is_punched
                row[m] = is_punched + missing * (3 - within)
                punched += is_punched
                unmeasured += missing and within
                left += missing and not within
                inside += within
                outside += within and not is_punched
            counts[1] += punched
            counts[2] += unmeasured
            counts[3] += left
            counts[4] += inside
            counts[5] += outside
    counts[0] = data.size - counts[1] - counts[2] - counts[3]
    return counts
