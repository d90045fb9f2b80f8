"""Fit of one pixel's spectrum to the model of `fluorescence_model`.

The Poisson likelihood is maximised by Fisher scoring with Levenberg-Marquardt damping.
"""

from enum import IntEnum
from math import exp, sqrt

import numpy as np
from numpy.typing import NDArray

from hklflow.constants.fluorescence_model import F64, expect
from hklflow.peaks.fit import solve_factorised
from hklflow.simd.jit import kernel


class Fit(IntEnum):
    """Outcome of a fit: values of ``fit_status``."""

    GOOD = 0
    NO_FRAMES = 1
    TOO_FEW_PHOTONS = 2
    NO_DARK = 3
    NOT_CONVERGED = 4
    SINGULAR = 5
    OUT_OF_BOUNDS = 6
    NO_PEAK = 7


#: Rows of the array that `fit_all` returns.
FOUND = ("spacing", "spacing_errors", "width", "width_errors", "photons", "shared", "quality",
         "chi2", "fit_status")  # fmt: skip

# Stray counts per bin, as a fraction of the pixel's counts: cosmic rays then do not bias the fit.
_STRAY = 1e-6
_STEPS = 60
# Squared distance to the maximum, in standard deviations, at which the fit has converged.
_NEAR = 1e-4


@kernel
def fill(
    counts: NDArray[np.int32],
    analog: NDArray[np.uint16],
    digital: NDArray[np.uint16],
    threshold: F64,
    start: NDArray[np.int32],
    width: int,
) -> None:
    """Add frames to histograms.

    Parameters
    ----------
    counts : (ss, fs, bins) int32 array
        Changed in place.
    analog, digital : (n, ss, fs) uint16 arrays
    threshold : (ss, fs) array
        Frames with a digital output above this are in another stage; NaN: none are.
    start : (ss, fs) int32 array
        Lowest value of the first bin, ADU.
    width : int
        Width of a bin, ADU.
    """
    n, n_rows, n_fast = analog.shape
    top = counts.shape[2] * width
    per_value = 1.0 / width
    for row in range(n_rows):
        for i in range(n):
            for column in range(n_fast):
                if digital[i, row, column] > threshold[row, column]:
                    continue
                value = int(analog[i, row, column]) - start[row, column]
                if 0 <= value < top:
                    # Half a value is added so that rounding never selects the bin before.
                    counts[row, column, int((value + 0.5) * per_value)] += 1


@kernel(error_model="numpy")
def fit_all(
    counts: NDArray[np.int32],
    first: float,
    width: int,
    offset: F64,
    noise: F64,
    spacing: float,
    peaks: int,
    beta: float,
    beta_weight: float,
    min_photons: float,
    parts: F64,
) -> F64:
    """Fit the histograms of many pixels.

    Parameters
    ----------
    counts : (pixels, bins) int32 array
    first : float
        Lower edge of the first bin, ADU.
    width : int
        Width of a bin, ADU.
    offset, noise : (pixels,) arrays
        Offset and noise of the dark, on the scale of ``first``; NaN: unknown.
    spacing : float
        Approximate ADU of one photon.
    peaks : int
        Number of photons of the last fitted peak.
    beta : float
        Energy of K-beta divided by K-alpha; 0: no K-beta.
    beta_weight : float
        Fraction of K-beta photons; NaN: fitted.
    min_photons : float
    parts : (2, n) array
        Steps of the distribution of shared charge, from `fluorescence_model.sharing`.

    Returns
    -------
    (len(FOUND), pixels) array
    """
    n_pixels, n_bins = counts.shape
    results = np.full((9, n_pixels), np.nan)
    free_beta = beta > 0 and not beta_weight >= 0
    n = peaks + 5 + (1 if free_beta else 0)
    model, slopes = np.empty(n_bins), np.empty((n, n_bins))
    theta = np.empty(peaks + 6)
    for pixel in range(n_pixels):
        data = counts[pixel]
        total = data.sum()
        code = Fit.GOOD.value
        if not (noise[pixel] > 0 and offset[pixel] > -np.inf):
            code = Fit.NO_DARK.value
        elif total == 0:
            code = Fit.NO_FRAMES.value
        else:
            _start(theta, data, first, width, noise[pixel], spacing, peaks)
            theta[peaks + 5] = beta_weight if beta_weight >= 0 else 0.1
            photons = 0.0
            for k in range(1, peaks + 1):
                photons += k * theta[k]
            results[4, pixel] = photons
            if photons < min_photons:
                code = Fit.TOO_FEW_PHOTONS.value
        if code == Fit.GOOD.value:
            covariance = np.zeros((n, n))
            bounds = (0.4 * spacing, 2.2 * spacing)
            code = _fit(
                theta, data, first, width, peaks, beta, n, bounds, parts, model, slopes, covariance
            )
            if code == Fit.GOOD.value:
                mu, s, sigma = theta[peaks + 2], theta[peaks + 3], theta[peaks + 4]
                results[0, pixel] = s
                results[1, pixel] = sqrt(covariance[peaks + 3, peaks + 3])
                results[2, pixel] = sigma
                results[3, pixel] = sqrt(covariance[peaks + 4, peaks + 4])
                photons = 0.0
                for k in range(1, peaks + 1):
                    photons += k * theta[k]
                # The fitted heights are for frames without shared photons.
                results[4, pixel] = photons * exp(theta[peaks + 1])
                results[5, pixel] = theta[peaks + 1]
                results[6, pixel] = _quality(model, first, width, mu, s)
                results[7, pixel] = _chi2(data, model, n)
        results[8, pixel] = code
    return results


@kernel(error_model="numpy")
def _start(
    theta: F64,
    data: NDArray[np.int32],
    first: float,
    width: int,
    noise: float,
    spacing: float,
    peaks: int,
) -> None:
    """Write the starting values of the fit.

    The highest bin near the offset is taken as the peak without photons, and the highest bin at
    0.65 to 1.45 times the approximate spacing as the peak of one photon.
    """
    half = max(int(0.75 * noise / width), 0)
    zero = _highest(data, half, 0, int((0.5 * spacing - first) / width))
    mu = first + (zero + 0.5) * width
    low = max(0.65 * spacing, 3.5 * noise)
    begin = zero + int(low / width)
    first_peak = _highest(data, half, begin, max(zero + int(1.45 * spacing / width), begin + 1))
    s = max((first_peak - zero) * width, 0.5 * spacing)
    for k in range(peaks + 1):
        theta[k] = 0.0
    for place in range(len(data)):
        k = int(np.floor((first + (place + 0.5) * width - mu) / s + 0.5))
        theta[min(max(k, 0), peaks)] += data[place]
    for k in range(peaks + 1):
        theta[k] = 0.9 * theta[k] + 0.1
    theta[peaks + 1] = 0.05
    theta[peaks + 2] = mu
    theta[peaks + 3] = s
    theta[peaks + 4] = noise


@kernel
def _highest(data: NDArray[np.int32], half: int, begin: int, end: int) -> int:
    """Return the bin with the highest mean over ``2 half + 1`` bins."""
    best, most = begin, -1
    for place in range(max(begin, half), min(end, len(data) - half)):
        total = 0
        for i in range(place - half, place + half + 1):
            total += data[i]
        if total > most:
            best, most = place, total
    return best


@kernel(error_model="numpy")
def _fit(
    theta: F64,
    data: NDArray[np.int32],
    first: float,
    width: int,
    peaks: int,
    beta: float,
    n: int,
    bounds: tuple[float, float],
    parts: F64,
    model: F64,
    slopes: F64,
    covariance: F64,
) -> int:
    """Maximise the likelihood from the start values; return a `Fit` code, write the covariance."""
    total = float(data.sum())
    tried, best = theta.copy(), -np.inf
    score, information, factor = np.zeros(n), np.zeros((n, n)), np.zeros((n, n))
    step, last, held = np.zeros(n), np.zeros(n), np.zeros(n, np.bool_)
    damping, away = 1e-2, np.inf
    for _ in range(_STEPS):
        expect(tried, first, width, peaks, beta, n, parts, model, slopes, _STRAY * total)
        likelihood = 0.0
        for i in range(len(data)):
            likelihood += (data[i] * np.log(model[i]) if data[i] > 0 else 0.0) - model[i]
        if likelihood >= best - 1e-9 * abs(best):
            best = likelihood
            last[:] = (tried - theta)[:n]
            theta[:] = tried
            _normal(data, model, slopes, score, information)
            _hold(theta, score, information, peaks, n, held)
            factor[:] = information
            if not _factorise(factor):
                return Fit.SINGULAR.value
            step[:] = score
            solve_factorised(factor, step)
            before, away = away, np.dot(step, score)
            if away < _NEAR:
                return _invert(factor, held, covariance)
            # With few counts the expected information may be half of the observed information:
            # steps are then twice too long and oscillate.
            back = np.dot(score, last) < 0
            damping = 1.0 if back and away > 0.5 * before else max(0.1 * damping, 1e-9)
        else:
            damping *= 10
            if damping > 1e8:
                return Fit.NOT_CONVERGED.value
        factor[:] = information
        for i in range(n):
            factor[i, i] *= 1 + damping
        if not _factorise(factor):
            return Fit.SINGULAR.value
        step[:] = score
        solve_factorised(factor, step)
        tried[:] = theta
        for i in range(n):
            tried[i] += step[i]
        _confine(tried, theta, peaks, n, total)
        if not bounds[0] < tried[peaks + 3] < bounds[1]:
            return Fit.OUT_OF_BOUNDS.value
    return Fit.NOT_CONVERGED.value


@kernel
def _confine(tried: F64, theta: F64, peaks: int, n: int, total: float) -> None:
    """Keep weights positive and limit the step length."""
    for k in range(peaks + 2):
        least = 1e-7 * total if k <= peaks else 1e-7
        tried[k] = max(tried[k], 0.1 * theta[k], least)
    tried[peaks + 1] = min(tried[peaks + 1], 5.0)
    sigma = theta[peaks + 4]
    tried[peaks + 4] = min(max(tried[peaks + 4], 0.5 * sigma), 2 * sigma)
    tried[peaks + 2] = min(max(tried[peaks + 2], theta[peaks + 2] - 3 * sigma),
                           theta[peaks + 2] + 3 * sigma)  # fmt: skip
    tried[peaks + 3] = min(max(tried[peaks + 3], 0.7 * theta[peaks + 3]), 1.4 * theta[peaks + 3])
    if n > peaks + 5:
        tried[peaks + 5] = min(max(tried[peaks + 5], 1e-6), 0.9)


@kernel
def _hold(
    theta: F64, score: F64, information: F64, peaks: int, n: int, held: NDArray[np.bool_]
) -> None:
    """Hold weights that are zero and whose next step would make them negative."""
    total = theta[: peaks + 1].sum()
    for i in range(n):
        weight = i <= peaks + 1 or i == peaks + 5
        least = 1e-6 * total if i <= peaks else 1e-5
        held[i] = weight and theta[i] < least and score[i] < 0
        if held[i]:
            score[i] = 0.0
            information[i, :] = 0.0
            information[:, i] = 0.0
            information[i, i] = 1.0


@kernel
def _normal(data: NDArray[np.int32], model: F64, slopes: F64, score: F64, information: F64) -> None:
    """Write the score and the Fisher information."""
    n = len(score)
    score[:] = 0.0
    information[:] = 0.0
    for i in range(len(data)):
        pull, weight = data[i] / model[i] - 1, 1 / model[i]
        for j in range(n):
            score[j] += slopes[j, i] * pull
            scaled = slopes[j, i] * weight
            for k in range(j + 1):
                information[j, k] += scaled * slopes[k, i]
    for j in range(n):
        for k in range(j):
            information[k, j] = information[j, k]


@kernel
def _factorise(matrix: F64) -> bool:
    """Replace the matrix by its lower Cholesky factor; return False if it is not positive."""
    n = len(matrix)
    for j in range(n):
        for i in range(j, n):
            value = matrix[i, j]
            for k in range(j):
                value -= matrix[i, k] * matrix[j, k]
            if i > j:
                matrix[i, j] = value / matrix[j, j]
            elif value > 0:
                matrix[j, j] = sqrt(value)
            else:
                return False
    return True


@kernel
def _invert(factor: F64, held: NDArray[np.bool_], covariance: F64) -> int:
    """Write the covariance from the factor of the information; zero for held parameters."""
    for i in range(len(held)):
        column = np.zeros(len(held))
        column[i] = 0.0 if held[i] else 1.0
        solve_factorised(factor, column)
        covariance[i, :] = column
    return Fit.GOOD.value


@kernel
def _quality(model: F64, first: float, width: int, mu: float, s: float) -> float:
    """Return the height of the one-photon peak above the valley before it, relative to the peak."""
    zero, first_peak = int((mu - first) / width), int((mu + s - first) / width)
    end = min(first_peak + (first_peak - zero) // 2, len(model))
    if not 0 <= zero < first_peak < end:
        return 0.0
    valley = model[zero : first_peak + 1].min()
    height = model[zero + int(np.argmin(model[zero : first_peak + 1])) : end].max()
    return (height - valley) / height


@kernel
def _chi2(data: NDArray[np.int32], model: F64, n: int) -> float:
    """Return Pearson's χ² per degree of freedom over the bins with expected counts above 1."""
    total, bins = 0.0, 0
    for i in range(len(data)):
        if model[i] > 1:
            total += (data[i] - model[i]) ** 2 / model[i]
            bins += 1
    return total / max(bins - n, 1)
