r"""Maximum-likelihood fit of one peak in a box of voxels.

The model of the expected counts in voxel (z, y, x) is

.. math:: \mu = A\,P_z P_y P_x + l_z \left[b + b_y (y - y_0) + b_x (x - x_0)\right] + e,

where ``P`` is the integral of a normalised Gaussian over the voxel on each axis (a difference of
error functions, because peaks can be narrower than a pixel or a frame), ``l`` the known relative
background level of each frame and ``e`` the known contribution of other peaks. The Poisson
likelihood is maximised by Fisher scoring with Levenberg-Marquardt damping; the covariance is the
inverse Fisher information. Invalid voxels are left out. A gap or an edge therefore does not shift
the centre, which the rest of the profile determines.

Parameters are ``A, z, y, x, ln s_z, ln s_y, ln s_x, b, b_y, b_x``.
"""

import math

import numpy as np
from numpy.typing import NDArray

from hklflow.peaks.strips import LEAST_BACKGROUND, N_PARAMETERS, normal_equations, profile
from hklflow.simd.jit import kernel

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Standard deviation of the prior on ln(width); it is so weak that any other information dominates.
_PRIOR_LOG_WIDTH = 1.5
_MIN_LOG = math.log(0.1)


@kernel
def add_profile(start: int, centre: float, width: float, out: F64) -> None:
    """Add the integral of a normalised Gaussian over each voxel, beginning at `start`, to `out`."""
    before = math.erf((start - centre) / (width * math.sqrt(2.0)))
    for k in range(out.size):
        after = math.erf((start + k + 1 - centre) / (width * math.sqrt(2.0)))
        out[k] += 0.5 * (after - before)
        before = after


@kernel(error_model="numpy")
def _factorise(matrix: F64) -> bool:
    """Replace a symmetric matrix by its lower Cholesky factor; return False if not positive."""
    n = matrix.shape[0]
    for j in range(n):
        pivot = matrix[j, j]
        least = 1e-13 * pivot
        for k in range(j):
            pivot -= matrix[j, k] * matrix[j, k]
        if not pivot > least:
            return False
        root = math.sqrt(pivot)
        matrix[j, j] = root
        for i in range(j + 1, n):
            value = matrix[i, j]
            for k in range(j):
                value -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = value / root
    return True


@kernel(error_model="numpy")
def solve_factorised(factor: F64, x: F64) -> None:
    """Solve in place with a Cholesky factor (n, n), lower triangle; ``x`` (n,) is overwritten."""
    n = x.size
    for i in range(n):
        for k in range(i):
            x[i] -= factor[i, k] * x[k]
        x[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            x[i] -= factor[k, i] * x[k]
        x[i] /= factor[i, i]


@kernel
def _solve(matrix: F64, right: F64) -> F64:
    """Solve the equations of a step; for ten parameters a library call would be too slow."""
    factor, step = matrix.copy(), right.copy()
    if not _factorise(factor):
        return np.linalg.solve(matrix, right).astype(np.float64)
    solve_factorised(factor, step)
    return step


@kernel
def _inverse(matrix: F64) -> F64:
    factor, out = matrix.copy(), np.eye(matrix.shape[0])
    if not _factorise(factor):
        return np.linalg.inv(matrix).astype(np.float64)
    for a in range(matrix.shape[0]):
        solve_factorised(factor, out[a])
    return out


@kernel
def _add_priors(
    p: F64, start: F64, centre_precision: F64, slopes: float, gradient: F64, fisher: F64
) -> float:
    penalty = 0.0
    for a in range(1, N_PARAMETERS):
        if a <= 3:
            precision = centre_precision[a - 1]
        elif a <= 6:
            precision = 1.0 / _PRIOR_LOG_WIDTH**2
        elif a >= 8:
            precision = slopes
        else:
            continue
        off = p[a] - start[a]
        penalty += 0.5 * precision * off * off
        gradient[a] -= precision * off
        fisher[a, a] += precision
    return penalty


@kernel
def fit_peak(
    counts: F64,
    use: F64,
    extra: F64,
    level: F64,
    origin: I64,
    columns: int,
    start: F64,
    centre_precision: F64,
    max_log_width: F64,
    max_iterations: int,
) -> tuple[F64, F64, float, float, int, bool, float]:
    """Fit one peak.

    Parameters
    ----------
    counts, use, extra
        Box (frame, slow, fast): counts, 1 for usable voxels, counts of other peaks. The number of
        columns is a multiple of `STRIP`; padding is not used.
    level
        Relative background of each frame, about 1.
    origin
        Coordinates (3) of the first voxel of the box; voxel k spans ``origin + k`` to
        ``origin + k + 1``.
    columns
        Number of columns of the box without padding.
    start
        Start values of the ten parameters; the priors are centred on them.
    centre_precision
        1/variance (3) of the prior on the centre; 0 for no prior.
    max_log_width
        Largest ln(width) (3); wider features belong to the background.
    max_iterations
        Largest number of steps.

    Returns
    -------
    p, covariance, information, chi2, n_voxels, converged, minus_log
        Parameters (10), covariance (10, 10), Fisher information on the amplitude with all other
        parameters known, Pearson's chi², number of voxels used, True if the steps became small,
        and -ln of the posterior.
    """
    p = start.copy()
    middle = np.empty(3)
    for a in range(3):
        middle[a] = origin[a] + 0.5 * (counts.shape[a] if a < 2 else columns)
    number = int(use.sum())
    gradient, fisher = np.zeros(N_PARAMETERS), np.zeros((N_PARAMETERS, N_PARAMETERS))
    new_gradient, new_fisher = gradient.copy(), fisher.copy()
    # The prior keeps slopes below about the background over the box, so that boxes without counts
    # can be fitted.
    extent = max(counts.shape[1], columns)
    slopes = (0.5 * extent / max(start[7], 0.05)) ** 2
    value, chi2 = normal_equations(counts, use, extra, level, origin, p, middle, gradient, fisher)
    alone = fisher[0, 0]
    value += _add_priors(p, start, centre_precision, slopes, gradient, fisher)
    damping, converged = 1e-3, False
    for _ in range(max_iterations):
        matrix, pull = fisher.copy(), gradient.copy()
        for a in range(N_PARAMETERS):
            matrix[a, a] += damping * fisher[a, a] + 1e-12
        for a in range(4, 7):
            # A width is fixed for this step if it is at its limit and would exceed the limit.
            low, high = p[a] <= _MIN_LOG, p[a] >= max_log_width[a - 4]
            if (low and pull[a] < 0.0) or (high and pull[a] > 0.0):
                matrix[a, :] = 0.0
                matrix[:, a] = 0.0
                matrix[a, a], pull[a] = 1.0, 0.0
        step = _solve(matrix, pull)
        trial = p + step
        trial[0] = max(trial[0], 0.1 * p[0])
        trial[7] = max(trial[7], LEAST_BACKGROUND)
        for a in range(1, 4):
            trial[a] = p[a] + min(max(trial[a] - p[a], -2.0), 2.0)
        for a in range(4, 7):
            step[a] = min(max(step[a], -0.7), 0.7)
            trial[a] = min(max(p[a] + step[a], _MIN_LOG), max_log_width[a - 4])
        new_value, new_chi2 = normal_equations(
            counts, use, extra, level, origin, trial, middle, new_gradient, new_fisher
        )
        new_alone = new_fisher[0, 0]
        new_value += _add_priors(trial, start, centre_precision, slopes, new_gradient, new_fisher)
        # Expected gain of the step in ln L; 1e-3 corresponds to 0.045 standard deviations. If a
        # width is at its limit, even such a small step can fail.
        promised = abs(float(np.sum((trial - p) * gradient)))
        # If the model does not describe the profile, the likelihood is chi² times steeper.
        enough = 1e-3 * max(1.0, chi2 / max(number, 1))
        converged = abs(value - new_value) < enough and promised < enough
        if new_value <= value + 1e-9:
            p, value, chi2, alone = trial, new_value, new_chi2, new_alone
            gradient, new_gradient = new_gradient, gradient
            fisher, new_fisher = new_fisher, fisher
            damping = max(damping * 0.2, 1e-7)
        else:
            damping *= 8.0
        if converged or damping > 1e8:
            break
    for a in range(N_PARAMETERS):
        fisher[a, a] += 1e-12
    covariance = _inverse(fisher)
    return p, covariance, alone, chi2, number, converged, value


@kernel
def add_model(p: F64, origin: I64, out: F64) -> None:
    """Add the counts of a peak (without background) to a box (frame, slow, fast)."""
    nz, ny, nx = out.shape
    pz, py, px = np.empty((3, nz)), np.empty((3, ny)), np.empty((3, nx))
    profile(origin[0], p[1], p[4], pz, nz)
    profile(origin[1], p[2], p[5], py, ny)
    profile(origin[2], p[3], p[6], px, nx)
    for k in range(nz):
        for i in range(ny):
            for j in range(nx):
                out[k, i, j] += p[0] * pz[0, k] * py[0, i] * px[0, j]
