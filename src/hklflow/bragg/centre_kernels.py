"""Fit where a reflection is in its box, with and without the prediction."""

import math

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.background import level_at
from hklflow.bragg.normal_sums import V_COUNTS, V_NORM, V_READ, V_X, V_Y, V_Z
from hklflow.peaks.fit import add_profile
from hklflow.simd.jit import kernel

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Largest number of steps of a fit of the centre; a coordinate is determined if its standard
# deviation is below this part of the width of the spot, convolved with a voxel.
_STEPS = 20
_DETERMINED = 0.5
#: Variance of a coordinate of which only the voxel is known.
VOXEL = 1 / 12


@kernel
def fit_centre(
    rows: F64,
    at: NDArray[np.int32],
    m: int,
    shape: I64,
    start: I64,
    centre: F64,
    sigma: F64,
    error: F64,
    background: F64,
    intensity: float,
    seen: F64,
    likely: F64,
) -> float:
    """Fit the position of a Gaussian, without and with the prediction.

    A spot much narrower than a voxel does not tell where in the voxel its centre is: the counts do
    not depend on the centre until it is near the voxel's border. Such a coordinate is reported as
    the middle of the voxel with the variance 1/12, as in the peak search, and the place of the
    profile is the most probable centre, given the counts and the prediction with its error.

    The background is fixed. The learned profile is not used, because its centre is the mean offset
    of the observed from the predicted centres in a region. With it, a common error of the
    predictions in this region, or the arc of a mosaic crystal, would not be seen.

    Parameters
    ----------
    error
        Standard deviations (3) of the predicted centre.
    seen
        Output: centroid (3), from the counts alone, and its variances (3).
    likely
        Output: most probable centre (3).

    Returns
    -------
    float
        Factor on the variance of the intensity because of the error of the most probable centre;
        NaN, as all results, if the fit diverges.
    """
    seen[:], likely[:] = np.nan, np.nan
    p, matrix, pull = centre.copy(), np.empty((4, 4)), np.empty(3)
    wide = np.sqrt(sigma**2 + VOXEL)
    intensity, scale = _most_probable(
        rows, at, m, shape, start, centre, sigma, background, wide, intensity, p, matrix
    )
    if not math.isfinite(scale):
        return np.nan
    # One more step without the prior, from where it has been of little influence.
    covariance = np.linalg.inv(matrix)
    known = np.empty(3, np.bool_)
    for a in range(3):
        known[a] = scale * covariance[a + 1, a + 1] < (_DETERMINED * wide[a]) ** 2
        pull[a] = (p[a] - centre[a]) / wide[a] ** 2 if known[a] else 0.0
        if not known[a]:
            matrix[a + 1, a + 1] += 1 / VOXEL
    covariance[:] = np.linalg.inv(matrix)
    for a in range(3):
        if known[a]:
            seen[a] = p[a]
            for b in range(3):
                seen[a] += covariance[a + 1, b + 1] * pull[b]
            seen[3 + a] = covariance[a + 1, a + 1] * scale
        else:
            seen[a], seen[3 + a] = math.floor(p[a]) + 0.5, VOXEL
    intensity, scale = _most_probable(
        rows, at, m, shape, start, centre, sigma, background, error, intensity, p, matrix
    )
    if not math.isfinite(scale):
        seen[:] = np.nan
        return np.nan
    likely[:] = p
    alone = matrix[0, 0]
    for a in range(3):
        matrix[a + 1, a + 1] += 1 / error[a] ** 2
    covariance[:] = np.linalg.inv(matrix)
    return alone * covariance[0, 0]


@kernel
def _most_probable(
    rows: F64,
    at: NDArray[np.int32],
    m: int,
    shape: I64,
    start: I64,
    centre: F64,
    sigma: F64,
    background: F64,
    error: F64,
    intensity: float,
    p: F64,
    matrix: F64,
) -> tuple[float, float]:
    """Fit intensity and position of a Gaussian, with a normal prior of the position.

    Parameters
    ----------
    error
        Standard deviations (3) of the prior, whose mean is ``centre``.
    p
        Start position (3); output: fitted position.
    matrix
        Output: Fisher information (4, 4) of intensity and position without the prior.

    Returns
    -------
    intensity, scale
        Intensity, and the reduced chi², at least 1; the latter is NaN if the fit diverges.
    """
    covariance = np.empty((4, 4))
    limit, before = 0.7 * (sigma + 0.3), np.zeros(3)
    chi2 = 1.0
    small = False
    for step in range(_STEPS):
        value = np.zeros((3, max(shape[0], shape[1], shape[2])))
        slope = np.zeros_like(value)
        for a in range(3):
            n = shape[a]
            add_profile(start[a], p[a], sigma[a], value[a, :n])
            for k in range(n):
                low = (start[a] + k - p[a]) / sigma[a]
                high = (start[a] + k + 1 - p[a]) / sigma[a]
                slope[a, k] = (math.exp(-0.5 * low * low) - math.exp(-0.5 * high * high)) / (
                    math.sqrt(2 * math.pi) * sigma[a]
                )
        right = np.zeros(4)
        m00 = m10 = m11 = m20 = m21 = m22 = m30 = m31 = m32 = m33 = 0.0
        r0 = r1 = r2 = r3 = 0.0
        chi2 = 0.0
        for r in range(m):
            k, i, j = at[r, 0], at[r, 1], at[r, 2]
            norm = rows[V_NORM, r]
            level = level_at(background, rows[V_Z, r], rows[V_Y, r], rows[V_X, r])
            vz, vy, vx = value[0, k], value[1, i], value[2, j]
            x0 = vz * vy * vx
            x1 = intensity * slope[0, k] * vy * vx
            x2 = intensity * vz * slope[1, i] * vx
            x3 = intensity * vz * vy * slope[2, j]
            mean = norm * (max(level, 0.0) + intensity * x0)
            off = rows[V_COUNTS, r] - norm * (level + intensity * x0)
            inverse = 1 / (mean + rows[V_READ, r] + 1e-3)
            chi2 += off * off * inverse
            weight = norm * inverse
            seen = weight * off
            r0 += seen * x0
            r1 += seen * x1
            r2 += seen * x2
            r3 += seen * x3
            weight *= norm
            w0, w1, w2 = weight * x0, weight * x1, weight * x2
            m00 += w0 * x0
            m10 += w0 * x1
            m20 += w0 * x2
            m30 += w0 * x3
            m11 += w1 * x1
            m21 += w1 * x2
            m31 += w1 * x3
            m22 += w2 * x2
            m32 += w2 * x3
            m33 += weight * x3 * x3
        right[0], right[1], right[2], right[3] = r0, r1, r2, r3
        matrix[0, 0], matrix[1, 1], matrix[2, 2], matrix[3, 3] = m00, m11, m22, m33
        matrix[1, 0] = matrix[0, 1] = m10
        matrix[2, 0] = matrix[0, 2] = m20
        matrix[3, 0] = matrix[0, 3] = m30
        matrix[2, 1] = matrix[1, 2] = m21
        matrix[3, 1] = matrix[1, 3] = m31
        matrix[3, 2] = matrix[2, 3] = m32
        for a in range(4):
            matrix[a, a] *= 1 + 1e-9
            matrix[a, a] += 1e-300
        covariance[:] = matrix
        for a in range(3):
            covariance[a + 1, a + 1] += 1 / error[a] ** 2
            right[a + 1] += (centre[a] - p[a]) / error[a] ** 2
        covariance[:] = np.linalg.inv(covariance)
        move = covariance @ right
        intensity = max(intensity + move[0], 0.2 * intensity)
        small = True
        for a in range(3):
            if move[a + 1] * before[a] < 0:
                # At the border of a voxel, a narrow spot would go back and forth.
                limit[a] = min(limit[a], 0.5 * abs(before[a]))
            d = min(max(move[a + 1], -limit[a]), limit[a])
            before[a] = d
            p[a] += d
            small &= d * d < 1e-4 * covariance[a + 1, a + 1]
            if not abs(p[a] - centre[a]) < 3 * (sigma[a] + 0.3):
                return intensity, np.nan
        if small and step > 0:
            break
    return intensity, max(1.0, chi2 / max(m - 4, 1)) if small else np.nan
