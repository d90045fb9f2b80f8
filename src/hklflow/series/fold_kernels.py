"""Kernels of the average over zones: residuals of a slab, and their sums in the folded cell."""

import numpy as np

from hklflow.simd.jit import kernel


@kernel(error_model="numpy")
def residuals(  # type: ignore[no-untyped-def]
    data, sigma, axes_h, axes_k, axes_l, bins_h, bins_k, bins_l, nearest, metric, reach, growth,
    half, profile, width, unit, out, variance, good
):  # fmt: skip
    """Write S minus its profile in |Q|; voxels in Bragg reflections and gaps are not good.

    Parameters
    ----------
    data, sigma : (l, k, h) arrays
    axes_h, axes_k, axes_l : arrays
        Voxel centres, r.l.u.
    bins_h, bins_k, bins_l : int arrays
        Bins of the folded cell.
    nearest : (L, K, H, 3) array
        Offset of each bin from the nearest reflection, r.l.u.
    metric : (3, 3) array
        Of reciprocal space, 1/Å².
    reach : (3,) array
        Half-widths of a reflection at Q = 0, r.l.u.
    growth : float
        Half-widths are ``1 + growth Q²`` times those at Q = 0.
    half : (3,) array
        Half a voxel, which is added to the half-widths.
    profile : (n,) array
        S at |Q| = (i + 1/2) · width.
    width : float
        1/Å.
    unit : float
        Unit of σ in ``variance``: products of variances of any S must stay in single precision.
    out, variance : (l, k, h) float32 arrays
        0 where not good.
    good : (l, k, h) float32 array
        1 or 0.
    """
    n_l, n_k, n_h = data.shape
    last = len(profile) - 1
    for l in range(n_l):  # noqa: E741
        for k in range(n_k):
            for h in range(n_h):
                out[l, k, h] = 0.0
                variance[l, k, h] = 0.0
                good[l, k, h] = 0.0
                value = data[l, k, h]
                error = sigma[l, k, h]
                if not (value == value and error > 0.0):
                    continue
                x, y, z = axes_h[h], axes_k[k], axes_l[l]
                q2 = (
                    metric[0, 0] * x * x
                    + metric[1, 1] * y * y
                    + metric[2, 2] * z * z
                    + 2.0 * (metric[0, 1] * x * y + metric[0, 2] * x * z + metric[1, 2] * y * z)
                )
                off = nearest[bins_l[l], bins_k[k], bins_h[h]]
                wide = 1.0 + growth * q2
                distance = 0.0
                for i in range(3):
                    distance += (off[i] / (wide * reach[i] + half[i])) ** 2
                if distance <= 1.0:
                    continue
                place = np.sqrt(max(q2, 0.0)) / width - 0.5
                place = min(max(place, 0.0), float(last))
                i = min(int(place), last - 1)
                level = profile[i] + (profile[i + 1] - profile[i]) * (place - i)
                out[l, k, h] = value - level
                variance[l, k, h] = (error / unit) ** 2
                good[l, k, h] = 1.0


@kernel(error_model="numpy")
def fold(  # type: ignore[no-untyped-def]
    residual, variance, good, mean, mean_variance, share, least, independent, first, last, bins_h,
    bins_k, bins_l, zones_h, zones_k, zones_l, group, sums
):  # fmt: skip
    """Add residuals beyond their local mean to the bins of the folded cell, by group of zones.

    Parameters
    ----------
    residual, variance, good : (l, k, h) arrays
        See `residuals`.
    mean, mean_variance, share : (l, k, h) arrays
        Means over a unit cell around each voxel, and the share of good voxels in it: the first two
        are means over all voxels of the cell.
    least : float
        Smallest share of a voxel that is used.
    independent : (l, k, h) bool array
        Voxels that are counted.
    first, last : int
        Planes that are counted.
    bins_h, bins_k, bins_l, zones_h, zones_k, zones_l : int arrays
    group : (zones l, zones k, zones h) int array
    sums : (groups, 3, L, K, H) array
        Sums of weighted residuals, of weights, and of the variances of weighted residuals.
    """
    _, n_k, n_h = residual.shape
    for l in range(first, last):  # noqa: E741
        for k in range(n_k):
            for h in range(n_h):
                part = share[l, k, h]
                if good[l, k, h] == 0.0 or part < least or not independent[l, k, h]:
                    continue
                weight = part / mean_variance[l, k, h]
                i = group[zones_l[l], zones_k[k], zones_h[h]]
                a, b, c = bins_l[l], bins_k[k], bins_h[h]
                sums[i, 0, a, b, c] += weight * (residual[l, k, h] - mean[l, k, h] / part)
                sums[i, 1, a, b, c] += weight
                sums[i, 2, a, b, c] += weight * weight * variance[l, k, h]
