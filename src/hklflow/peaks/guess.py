"""Fast test, before any fit, if a blob can be a peak; it uses known shapes.

Most blobs are fluctuations that exceeded the threshold of one of the detection boxes by chance. The
score test of a Gaussian with fixed position and widths on a flat background takes a hundredth of
the time of a fit.
"""

import numpy as np

from hklflow.peaks.fit import add_profile
from hklflow.simd.jit import kernel

#: Standard deviations of the tested shapes along frames and along pixels.
_ALONG, _ACROSS = (0.5, 1.2, 2.6), (0.7, 1.3, 2.3)
_SHAPES = 3


@kernel(fastmath=True, error_model="numpy")
def _add_row(counts, use, expected, fast, slow, sums):  # type: ignore[no-untyped-def]
    """Add a row of voxels to the sums of P times excess, and of P², for three shapes P."""
    a0 = a1 = a2 = b0 = b1 = b2 = 0.0
    f0, f1, f2 = fast[0], fast[1], fast[2]
    for x in range(counts.size):
        p0, p1, p2 = use[x] * f0[x], use[x] * f1[x], use[x] * f2[x]
        over = counts[x] - expected
        a0 += p0 * over
        a1 += p1 * over
        a2 += p2 * over
        b0 += p0 * p0
        b1 += p1 * p1
        b2 += p2 * p2
    sums[0, 0] += slow[0] * a0
    sums[1, 0] += slow[1] * a1
    sums[2, 0] += slow[2] * a2
    sums[0, 1] += slow[0] * slow[0] * b0
    sums[1, 1] += slow[1] * slow[1] * b1
    sums[2, 1] += slow[2] * slow[2] * b2


@kernel(error_model="numpy")
def guess_significance(counts, use, level, low, columns, centre, background, gain):  # type: ignore[no-untyped-def]
    """Return the largest significance of a Gaussian at a position, in σ of the background.

    Parameters
    ----------
    counts, use : (frames, slow, fast)
        Box: counts, and 1 for usable voxels.
    level : (frames,)
        Relative background of each frame.
    low : (3,)
        First voxel of the box.
    columns : int
        Number of columns of the box without padding.
    centre : (3,)
        Centre of the Gaussian.
    background : float
        Background, counts per voxel.
    gain : float
        Ratio variance/mean of the counts.
    """
    nz, ny, nx = counts.shape
    along, fast = np.zeros((_SHAPES, nz)), np.zeros((_SHAPES, nx))
    line, slow = np.zeros((_SHAPES, ny)), np.empty((ny, _SHAPES))
    for k in range(_SHAPES):
        add_profile(low[0], centre[0], _ALONG[k], along[k])
        add_profile(low[1], centre[1], _ACROSS[k], line[k])
        add_profile(low[2], centre[2], _ACROSS[k], fast[k, :columns])
    slow[:] = line.T
    total, sums = np.zeros((_SHAPES, _SHAPES, 2)), np.empty((_SHAPES, 2))
    for z in range(nz):
        sums[:] = 0.0
        for y in range(ny):
            _add_row(counts[z, y], use[z, y], background * level[z], fast, slow[y], sums)
        for m in range(_SHAPES):
            for k in range(_SHAPES):
                # Weights P / mu give the score sum P (n - mu) / mu with the variance sum P² / mu.
                total[m, k, 0] += along[m, z] * sums[k, 0] / level[z]
                total[m, k, 1] += along[m, z] ** 2 * sums[k, 1] / level[z]
    best = 0.0
    for m in range(_SHAPES):
        for k in range(_SHAPES):
            excess, norm = total[m, k]
            if norm <= 0.0 or excess <= 0.0:
                continue
            intensity = excess / norm
            # The counts of the peak also contribute noise; the counts of a typical voxel are used.
            typical = _typical(along[m]) * _typical(line[k]) * _typical(fast[k])
            noise = gain * (background + intensity * typical)
            best = max(best, intensity * np.sqrt(norm / noise))
    return best


@kernel(error_model="numpy")
def _typical(profile):  # type: ignore[no-untyped-def]
    square = cube = 0.0
    for p in profile:
        square += p * p
        cube += p * p * p
    return cube / square if square > 0.0 else 0.0
