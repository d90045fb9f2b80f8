"""Model of one pixel's spectrum: peaks of 0, 1, 2 ... photons, each with shared photons.

The expectation at an output x in ADU is, with ``*`` for a convolution,

    m(x) = sum_k a_k N(x; mu + k S, sigma) * (1 + b U + b² / 2 U*U)

N is the normal distribution. U is the distribution of the part of a photon's charge that a pixel
collects if it shares the photon with a neighbour: uniform between 0 and S, or from a normal cloud
of charge near the border (`sharing`). b is the mean number of such parts per frame. Frames with
whole photons have such parts as often as frames without photons. A model with a plateau only
between 0 and 1 photon would shift the peak of one photon down by some tenths of a per cent.

The weight of one more peak, beyond the fitted peaks, follows from the Poisson distribution. If
K-beta is not filtered, a fraction of the photons has the energy of K-beta. Bins are integrated, not
sampled.
"""

from math import erf, exp, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel

F64 = NDArray[np.float64]

_FAR = 7.5


def sharing(kind: str) -> F64:
    """Return the density of the shared part of a photon's charge, as steps.

    Parameters
    ----------
    kind : {"even", "cloud"}
        ``even``: uniform. ``cloud``: the charge diffuses to a normal distribution of width d, and
        is shared within 2 d of the border. The density does not depend on d: the part is Phi(t),
        with t uniform from -2 to 2.

    Returns
    -------
    (2, n) array
        Positions of the steps of the density, and their heights.
    """
    if kind == "even":
        return np.array([[0.0, 1.0], [1.0, -1.0]])
    # The density is nearly constant within each of these steps.
    steps = np.linspace(-2, 2, 9)
    parts = np.array([0.5 + 0.5 * erf(t / sqrt(2)) for t in steps])
    density = 1 / ((len(steps) - 1) * np.diff(parts))
    return np.stack([parts, np.diff(density, prepend=0, append=0)])


@kernel(error_model="numpy")
def expect(
    theta: F64,
    first: float,
    width: int,
    peaks: int,
    beta: float,
    n: int,
    parts: F64,
    model: F64,
    slopes: F64,
    stray: float,
) -> None:
    """Write the expected counts of every bin, and their derivatives by the parameters."""
    # One more peak, by the Poisson distribution: proportional to a_1, the last height, and 1/a_0.
    law = theta[1] / ((peaks + 1) * theta[0])
    last = theta[peaks] * law
    shape, before = np.zeros((peaks + 2, 6)), np.zeros((peaks + 2, 6))
    places = np.zeros((4, peaks + 4))
    for edge in range(len(model) + 1):
        _cumulate(first + edge * width, theta, peaks, beta, parts, places, shape)
        if edge > 0:
            i = edge - 1
            model[i] = stray
            slopes[:, i] = 0.0
            for k in range(peaks + 2):
                height = theta[k] if k <= peaks else last
                share = shape[k, 0] - before[k, 0]
                model[i] += height * share
                if k <= peaks:
                    slopes[k, i] += share
                else:
                    slopes[peaks, i] += law * share
                    slopes[1, i] += last / theta[1] * share
                    slopes[0, i] -= last / theta[0] * share
                for j in range(1, n - peaks):
                    slopes[peaks + j, i] += height * (shape[k, j] - before[k, j])
        before[:] = shape


@kernel(error_model="numpy")
def _cumulate(
    x: float, theta: F64, peaks: int, beta: float, parts: F64, places: F64, shape: F64
) -> None:
    """Write the cumulative distribution at x of each number of photons, and its derivatives.

    Columns of ``shape`` (peaks + 2, 6): the integral; derivatives by b, mu, S, sigma, K-beta
    weight.
    """
    b, mu, s, sigma = theta[peaks + 1], theta[peaks + 2], theta[peaks + 3], theta[peaks + 4]
    cdf, pdf, ramp, curve = places
    for k in range(peaks + 4):
        y = x - mu - k * s
        cdf[k], pdf[k] = _gauss(y, sigma)
        # Integrals of the normal distribution, twice and three times.
        ramp[k] = y * cdf[k] + sigma * sigma * pdf[k]
        curve[k] = 0.5 * ((y * y + sigma * sigma) * cdf[k] + sigma * sigma * y * pdf[k])
    for k in range(peaks + 2):
        once = by_mu = by_s = by_sigma = 0.0
        for part in range(parts.shape[1]):
            share, weight = parts[0, part], parts[1, part] / s
            if share == 0.0 or share == 1.0:
                peak = k + int(share)
                below, density, sum_below = cdf[peak], pdf[peak], ramp[peak]
            else:
                y = x - mu - (k + share) * s
                below, density = _gauss(y, sigma)
                sum_below = y * below + sigma * sigma * density
            once += weight * sum_below
            by_mu -= weight * below
            by_s -= weight * (k + share) * below
            by_sigma += weight * sigma * density
        by_s -= once / s
        # Two parts in a frame are rare: a uniform distribution is accurate enough.
        i, j = k + 1, min(k + 2, peaks + 3)
        half = 0.5 * b * b
        twice = (curve[k] - 2 * curve[i] + curve[j]) / (s * s)
        ramps = (k * ramp[k] - 2 * i * ramp[i] + j * ramp[j]) / s
        shape[k, 0] = b * once + half * twice
        shape[k, 1] = once + b * twice
        shape[k, 2] = b * by_mu - half * (ramp[k] - 2 * ramp[i] + ramp[j]) / (s * s)
        shape[k, 3] = b * by_s - half * (ramps + 2 * twice) / s
        shape[k, 4] = b * by_sigma + half * sigma * (cdf[k] - 2 * cdf[i] + cdf[j]) / (s * s)
        shape[k, 5] = 0.0
        if beta > 0:
            _add_mixture(x - mu, s, sigma, k, beta, theta[peaks + 5], shape)
        else:
            shape[k, 0] += cdf[k]
            shape[k, 2] -= pdf[k]
            shape[k, 3] -= k * pdf[k]
            shape[k, 4] -= (x - mu - k * s) / sigma * pdf[k]


@kernel(error_model="numpy")
def _add_mixture(
    x: float, s: float, sigma: float, k: int, beta: float, weight: float, shape: F64
) -> None:
    """Add the lines of k photons: one line for each number of K-beta photons, from 0 to k."""
    ways = 1.0
    for of_beta in range(k + 1):
        place = k + of_beta * (beta - 1)
        cdf, pdf = _gauss(x - place * s, sigma)
        rest = k - of_beta
        share = ways * weight**of_beta * (1 - weight) ** rest
        slope = 0.0
        if of_beta > 0:
            slope += ways * of_beta * weight ** (of_beta - 1) * (1 - weight) ** rest
        if rest > 0:
            slope -= ways * rest * weight**of_beta * (1 - weight) ** (rest - 1)
        shape[k, 0] += share * cdf
        shape[k, 2] -= share * pdf
        shape[k, 3] -= share * place * pdf
        shape[k, 4] -= share * (x - place * s) / sigma * pdf
        shape[k, 5] += slope * cdf
        ways = ways * rest / (of_beta + 1)


@kernel
def _gauss(y: float, sigma: float) -> tuple[float, float]:
    """Return the cumulative normal distribution and its density."""
    z = y / sigma
    if z < -_FAR:
        return 0.0, 0.0
    if z > _FAR:
        return 1.0, 0.0
    return 0.5 + 0.5 * erf(z / sqrt(2.0)), exp(-0.5 * z * z) / (sqrt(2 * pi) * sigma)
