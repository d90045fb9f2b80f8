"""Whether a blob can be a peak at all: what known shapes say, before any fit.

Most blobs are fluctuations that one of the detection boxes happened to pick up. The score test
of a Gaussian of fixed place and widths on a flat background costs a hundredth of a fit.
"""

import numpy as np
from numba import njit

from hklflow.core.peaks_fit import add_profile

#: Standard deviations along frames and along pixels of the shapes that are tried.
_ALONG, _ACROSS = (0.5, 1.2, 2.6), (0.7, 1.3, 2.3)


@njit(cache=True, nogil=True, error_model="numpy")
def guess_significance(counts, use, level, low, centre, background, gain):  # type: ignore[no-untyped-def]
    """Largest significance of a Gaussian at a place, in standard deviations of the background.

    Parameters
    ----------
    counts, use : (frames, slow, fast)
        Box: counts, and 1 where they may be used.
    level : (frames,)
        Relative background of each frame.
    low : (3,)
        First voxel of the box.
    centre : (3,)
        Of the Gaussian.
    background : float
        Counts per voxel.
    gain : float
        Variance of the counts over the counts.
    """
    nz, ny, nx = counts.shape
    n = len(_ACROSS)
    along = np.zeros((len(_ALONG), nz))
    slow, fast = np.zeros((n, ny)), np.zeros((n, nx))
    for k in range(len(_ALONG)):
        add_profile(low[0], centre[0], _ALONG[k], along[k])
    for k in range(n):
        add_profile(low[1], centre[1], _ACROSS[k], slow[k])
        add_profile(low[2], centre[2], _ACROSS[k], fast[k])
    excess, norm = np.zeros((len(_ALONG), n)), np.zeros((len(_ALONG), n))
    for z in range(nz):
        expected = background * level[z]
        for k in range(n):
            total = weight = 0.0
            for y in range(ny):
                a = b = 0.0
                for x in range(nx):
                    p = fast[k, x] * use[z, y, x]
                    a += p * (counts[z, y, x] - expected)
                    b += p * p
                total += slow[k, y] * a
                weight += slow[k, y] ** 2 * b
            for m in range(len(_ALONG)):
                # Weights P / mu, so the score is sum P (n - mu) / mu; its variance sum P² / mu.
                excess[m, k] += along[m, z] * total / level[z]
                norm[m, k] += along[m, z] ** 2 * weight / level[z]
    best = 0.0
    for m in range(len(_ALONG)):
        for k in range(n):
            if norm[m, k] <= 0.0 or excess[m, k] <= 0.0:
                continue
            intensity = excess[m, k] / norm[m, k]
            # The peak's own counts are noise as well: those of a typical voxel.
            typical = _typical(along[m]) * _typical(slow[k]) * _typical(fast[k])
            noise = gain * (background + intensity * typical)
            best = max(best, intensity * np.sqrt(norm[m, k] / noise))
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def _typical(profile):  # type: ignore[no-untyped-def]
    square = cube = 0.0
    for p in profile:
        square += p * p
        cube += p * p * p
    return cube / square if square > 0.0 else 0.0
