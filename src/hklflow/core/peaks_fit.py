r"""Maximum-likelihood fit of one peak in a box of voxels.

The model of the expected counts in voxel (z, y, x) is

.. math:: \mu = A\,P_z P_y P_x + l_z \left[b + b_y (y - y_0) + b_x (x - x_0)\right] + e,

with ``P`` the integral of a normalised Gaussian over the voxel's extent on each axis (a
difference of error functions, because peaks can be narrower than a pixel or a frame), ``l``
the known relative level of each frame's background and ``e`` the known contribution of
other peaks. Poisson likelihood, Fisher scoring with
Levenberg-Marquardt damping; the covariance is the inverse Fisher information. Invalid
voxels are left out, so a gap or an edge does not shift the centre: the rest of the profile
still says where it is.

Parameters are ``A, z, y, x, ln s_z, ln s_y, ln s_x, b, b_y, b_x``.
"""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray

from hklflow.core.peaks_rows import compiled_word

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

N_PARAMETERS = 10
#: Standard deviation of the weak prior on ln(width): it only matters when nothing else does.
_PRIOR_LOG_WIDTH = 1.5
_LEAST_BACKGROUND = 1e-3
_MIN_LOG = math.log(0.1)
#: Function of x that each parameter's derivative contains: P, dP/dx, dP/d ln s, 1, x.
_BASIS = (0, 0, 0, 1, 0, 0, 2, 3, 3, 4)


@compiled_word
def _bits(typingctx: Any, value: Any) -> Any:
    """Bits of a float as an integer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate


@compiled_word
def _float(typingctx: Any, value: Any) -> Any:
    """Float that has these bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")
def log_likelihood(counts: F64, use: F64, mu: F64) -> float:
    """``sum use (mu - n ln mu)`` of a row, for ``mu`` above 0; the logarithm to 1e-12.

    A loop over the library's logarithm would not be vector code.
    """
    total = 0.0
    for j in range(mu.size):
        bits = _bits(mu[j])
        # mu = 2^e m with m from 0.707 to 1.414; ln m = 2 artanh((m - 1) / (m + 1))
        shifted = bits - 0x3FE6A09E667F3BCD
        exponent = shifted >> 52
        m = _float(bits - (exponent << 52))
        s = (m - 1.0) / (m + 1.0)
        t = s * s
        series = 1.0 + t * (
            1 / 3 + t * (1 / 5 + t * (1 / 7 + t * (1 / 9 + t * (1 / 11 + t * (1 / 13)))))
        )
        logarithm = exponent * math.log(2.0) + 2.0 * s * series
        total += use[j] * (mu[j] - counts[j] * logarithm)
    return total


@njit(cache=True, nogil=True)
def _profile(start: int, centre: float, log_width: float, out: F64) -> None:
    """Integral per voxel (row 0), its derivatives by centre (1) and by ln width (2)."""
    width = math.exp(log_width)
    n = out.shape[1]  # rows beyond the third are left alone
    u0 = (start - centre) / width
    e0, g0 = math.erf(u0 / math.sqrt(2.0)), math.exp(-0.5 * u0 * u0) / math.sqrt(2.0 * math.pi)
    for k in range(n):
        u1 = (start + k + 1 - centre) / width
        e1 = math.erf(u1 / math.sqrt(2.0))
        g1 = math.exp(-0.5 * u1 * u1) / math.sqrt(2.0 * math.pi)
        out[0, k] = 0.5 * (e1 - e0)
        out[1, k] = (g0 - g1) / width
        out[2, k] = u0 * g0 - u1 * g1
        u0, e0, g0 = u1, e1, g1


@njit(cache=True, nogil=True)
def add_profile(start: int, centre: float, width: float, out: F64) -> None:
    """Add the integral of a normalised Gaussian over each voxel from `start` on to `out`."""
    before = math.erf((start - centre) / (width * math.sqrt(2.0)))
    for k in range(out.size):
        after = math.erf((start + k + 1 - centre) / (width * math.sqrt(2.0)))
        out[k] += 0.5 * (after - before)
        before = after


@njit(cache=True, nogil=True, fastmath=True)
def _row_sums(counts: F64, use: F64, mu: F64, basis: F64, sums: F64, products: F64) -> float:
    """Add up one row of voxels; return Pearson's chi².

    With the five functions of x in `basis`, which all derivatives are made of: fill
    ``sums[a] = sum (n / mu - 1) f_a`` and ``products[a, b] = sum f_a f_b / mu``.
    """
    f0, f1, f2, f4 = basis[0], basis[1], basis[2], basis[4]
    chi2, s0, s1, s2, s3, s4 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    p00, p01, p02, p03, p04, p11, p12, p13 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    p14, p22, p23, p24, p33, p34, p44 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(mu.size):
        w = use[j] / mu[j]
        off = counts[j] - mu[j]
        pull = w * off
        chi2 += pull * off
        s0 += pull * f0[j]
        s1 += pull * f1[j]
        s2 += pull * f2[j]
        s3 += pull
        s4 += pull * f4[j]
        w0, w1, w2, w4 = w * f0[j], w * f1[j], w * f2[j], w * f4[j]
        p00 += w0 * f0[j]
        p01 += w0 * f1[j]
        p02 += w0 * f2[j]
        p03 += w0
        p04 += w0 * f4[j]
        p11 += w1 * f1[j]
        p12 += w1 * f2[j]
        p13 += w1
        p14 += w1 * f4[j]
        p22 += w2 * f2[j]
        p23 += w2
        p24 += w2 * f4[j]
        p33 += w
        p34 += w4
        p44 += w4 * f4[j]
    sums[0], sums[1], sums[2], sums[3], sums[4] = s0, s1, s2, s3, s4
    products[0, 0], products[0, 1], products[0, 2] = p00, p01, p02
    products[0, 3], products[0, 4], products[1, 1] = p03, p04, p11
    products[1, 2], products[1, 3], products[1, 4] = p12, p13, p14
    products[2, 2], products[2, 3], products[2, 4] = p22, p23, p24
    products[3, 3], products[3, 4], products[4, 4] = p33, p34, p44
    for a in range(5):
        for b in range(a):
            products[a, b] = products[b, a]
    return chi2


@njit(cache=True, nogil=True)
def _normal_equations(
    counts: F64,
    use: F64,
    extra: F64,
    level: F64,
    origin: I64,
    p: F64,
    middle: F64,
    gradient: F64,
    fisher: F64,
) -> tuple[float, float, float]:
    """Fill gradient and Fisher matrix; return -ln L, chi² and the information on A alone."""
    nz, ny, nx = counts.shape
    pz, py, basis = np.empty((3, nz)), np.empty((3, ny)), np.ones((5, nx))
    _profile(origin[0], p[1], p[4], pz)
    _profile(origin[1], p[2], p[5], py)
    _profile(origin[2], p[3], p[6], basis)
    for j in range(nx):
        basis[3, j], basis[4, j] = 1.0, origin[2] + j + 0.5 - middle[2]
    gradient[:] = 0.0
    fisher[:] = 0.0
    mu, factor = np.empty(nx), np.ones(N_PARAMETERS)
    sums, products = np.empty(5), np.empty((5, 5))
    minus_log, chi2, alone = 0.0, 0.0, 0.0
    for k in range(nz):
        for i in range(ny):
            y = origin[1] + i + 0.5 - middle[1]
            shape = pz[0, k] * py[0, i]
            for j in range(nx):
                flat = level[k] * (p[7] + p[8] * y + p[9] * basis[4, j])
                flat = max(flat, _LEAST_BACKGROUND)
                mu[j] = p[0] * shape * basis[0, j] + flat + extra[k, i, j]
            minus_log += log_likelihood(counts[k, i], use[k, i], mu)
            chi2 += _row_sums(counts[k, i], use[k, i], mu, basis, sums, products)
            alone += shape * shape * products[0, 0]
            factor[0] = shape
            factor[1], factor[4] = p[0] * pz[1, k] * py[0, i], p[0] * pz[2, k] * py[0, i]
            factor[2], factor[5] = p[0] * pz[0, k] * py[1, i], p[0] * pz[0, k] * py[2, i]
            factor[3] = factor[6] = p[0] * shape
            factor[7] = factor[9] = level[k]
            factor[8] = level[k] * y
            for a in range(N_PARAMETERS):
                gradient[a] += factor[a] * sums[_BASIS[a]]
                for b in range(a + 1):
                    fisher[a, b] += factor[a] * factor[b] * products[_BASIS[a], _BASIS[b]]
    for a in range(N_PARAMETERS):
        for b in range(a):
            fisher[b, a] = fisher[a, b]
    return minus_log, chi2, alone


@njit(cache=True, nogil=True, error_model="numpy")
def _factorise(matrix: F64) -> bool:
    """Turn a symmetric matrix into its lower Cholesky factor; False if it is not positive."""
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


@njit(cache=True, nogil=True, error_model="numpy")
def _solve_factorised(factor: F64, x: F64) -> None:
    """Solve in place with the factor of `_factorise`."""
    n = x.size
    for i in range(n):
        for k in range(i):
            x[i] -= factor[i, k] * x[k]
        x[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            x[i] -= factor[k, i] * x[k]
        x[i] /= factor[i, i]


@njit(cache=True, nogil=True)
def _solve(matrix: F64, right: F64) -> F64:
    """Solve for a step; ten parameters are too few for a library's overhead."""
    factor, step = matrix.copy(), right.copy()
    if not _factorise(factor):
        return np.linalg.solve(matrix, right).astype(np.float64)
    _solve_factorised(factor, step)
    return step


@njit(cache=True, nogil=True)
def _inverse(matrix: F64) -> F64:
    factor, out = matrix.copy(), np.eye(matrix.shape[0])
    if not _factorise(factor):
        return np.linalg.inv(matrix).astype(np.float64)
    for a in range(matrix.shape[0]):
        _solve_factorised(factor, out[a])
    return out


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def fit_peak(
    counts: F64,
    use: F64,
    extra: F64,
    level: F64,
    origin: I64,
    start: F64,
    centre_precision: F64,
    max_log_width: F64,
    max_iterations: int,
) -> tuple[F64, F64, float, float, int, bool, float]:
    """Fit one peak.

    Parameters
    ----------
    counts, use, extra
        Box (frame, slow, fast): counts, 1 where they may be used, counts of other peaks.
    level
        Relative background of each frame, about 1.
    origin
        Coordinates (3) of the box's first voxel; voxel k spans ``origin + k ... + 1``.
    start
        The ten parameters to begin with; the priors are centred on them.
    centre_precision
        1/variance (3) of the prior on the centre, 0 for none.
    max_log_width
        Largest ln(width) (3): a wider bump is background.
    max_iterations
        Limit of the number of steps.

    Returns
    -------
    p, covariance, information, chi2, n_voxels, converged, minus_log
        Parameters (10), covariance (10, 10), Fisher information on the amplitude with all
        else known, Pearson's chi², number of voxels used, whether the steps became small, and
        -ln of the posterior.
    """
    p = start.copy()
    middle = np.empty(3)
    for a in range(3):
        middle[a] = origin[a] + 0.5 * counts.shape[a]
    number = int(use.sum())
    gradient, fisher = np.zeros(N_PARAMETERS), np.zeros((N_PARAMETERS, N_PARAMETERS))
    new_gradient, new_fisher = gradient.copy(), fisher.copy()
    # A slope cannot exceed the background over the box by much: it keeps empty frames solvable.
    extent = max(counts.shape[1], counts.shape[2])
    slopes = (0.5 * extent / max(start[7], 0.05)) ** 2
    value, chi2, alone = _normal_equations(
        counts, use, extra, level, origin, p, middle, gradient, fisher
    )
    value += _add_priors(p, start, centre_precision, slopes, gradient, fisher)
    damping, converged = 1e-3, False
    for _ in range(max_iterations):
        matrix, pull = fisher.copy(), gradient.copy()
        for a in range(N_PARAMETERS):
            matrix[a, a] += damping * fisher[a, a] + 1e-12
        for a in range(4, 7):
            # A width at its limit that would go further is fixed for this step.
            low, high = p[a] <= _MIN_LOG, p[a] >= max_log_width[a - 4]
            if (low and pull[a] < 0.0) or (high and pull[a] > 0.0):
                matrix[a, :] = 0.0
                matrix[:, a] = 0.0
                matrix[a, a], pull[a] = 1.0, 0.0
        step = _solve(matrix, pull)
        trial = p + step
        trial[0] = max(trial[0], 0.1 * p[0])
        trial[7] = max(trial[7], _LEAST_BACKGROUND)
        for a in range(1, 4):
            trial[a] = p[a] + min(max(trial[a] - p[a], -2.0), 2.0)
        for a in range(4, 7):
            step[a] = min(max(step[a], -0.7), 0.7)
            trial[a] = min(max(p[a] + step[a], _MIN_LOG), max_log_width[a - 4])
        new_value, new_chi2, new_alone = _normal_equations(
            counts, use, extra, level, origin, trial, middle, new_gradient, new_fisher
        )
        new_value += _add_priors(trial, start, centre_precision, slopes, new_gradient, new_fisher)
        # The gain that the step promises, in units of ln L: 1e-3 is 0.045 of a standard
        # deviation. A width at its limit can make a step fail that was as small as this.
        promised = abs(float(np.sum((trial - p) * gradient)))
        # Where the model does not describe the profile the likelihood is steeper by chi².
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


@njit(cache=True, nogil=True)
def add_model(p: F64, origin: I64, out: F64) -> None:
    """Add the counts of a peak (without background) to a box (frame, slow, fast)."""
    nz, ny, nx = out.shape
    pz, py, px = np.empty((3, nz)), np.empty((3, ny)), np.empty((3, nx))
    _profile(origin[0], p[1], p[4], pz)
    _profile(origin[1], p[2], p[5], py)
    _profile(origin[2], p[3], p[6], px)
    for k in range(nz):
        for i in range(ny):
            for j in range(nx):
                out[k, i, j] += p[0] * pz[0, k] * py[0, i] * px[0, j]
