"""Estimate structure-factor amplitudes from intensities."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

Estimator = Literal["french_wilson", "plain"]

_PER_BIN = 40
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)
_REACH = 8.0  # half range of the integration, in standard deviations of the intensity
_BLOCK = 20_000


def amplitudes(
    intensity: Floats,
    sigma: Floats,
    d: Floats,
    epsilon: NDArray[np.int64],
    centric: Bools,
    estimator: Estimator,
) -> tuple[Floats, Floats]:
    """Return amplitudes (n,) of merged intensities (n,), and their standard deviations.

    Parameters
    ----------
    intensity, sigma : (n,) arrays
    d : (n,) array
        d-spacing, Å.
    epsilon : (n,) int array
        Factor by which symmetry increases the expected intensity of each reflection.
    centric : (n,) bool array
    estimator : "french_wilson" or "plain"
        "french_wilson": mean of F with the weight ``p(J) exp(-(I - J)² / 2σ²)``, J = F² > 0. p is
        Wilson's distribution; its mean is the mean intensity at similar d (French & Wilson, Acta
        Cryst. A34, 517, 1978). "plain": √I, or 0 for negative I, with the error ``√(I + σ) - √I``.
    """
    if estimator == "plain":
        positive = np.maximum(intensity, 0.0)
        root = np.sqrt(positive)
        return root, np.sqrt(positive + sigma) - root
    expected = epsilon * _local_mean(intensity / epsilon, sigma / epsilon, d)
    value, error = np.empty_like(intensity), np.empty_like(intensity)
    for start in range(0, len(intensity), _BLOCK):
        rows = slice(start, start + _BLOCK)
        value[rows], error[rows] = _posterior(
            intensity[rows], sigma[rows], expected[rows], centric[rows]
        )
    return value, error


def _local_mean(intensity: Floats, sigma: Floats, d: Floats) -> Floats:
    """Return the mean intensity (n,) at the resolution of each reflection; always positive."""
    s2 = 1 / d**2
    order = np.argsort(s2, kind="stable")
    parts = np.array_split(order, max(1, len(order) // _PER_BIN))
    level = []
    for rows in parts:
        # If all intensities are within the noise, the mean may be negative.
        error = float(np.sqrt(np.sum(sigma[rows] ** 2))) / len(rows)
        level.append(max(float(np.mean(intensity[rows])), error))
    at = [float(np.mean(s2[rows])) for rows in parts]
    return np.interp(s2, at, level)


def _posterior(
    intensity: Floats, sigma: Floats, expected: Floats, centric: Bools
) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of F (n,).

    The distribution of F is ``F^m exp(-(F² - I')² / 2σ²)``. For acentric reflections m = 1 and
    I' = I - σ²/Σ; for centric reflections m = 0 and I' = I - σ²/2Σ. Σ is the expected intensity.
    """
    centre = intensity - sigma**2 / (expected * np.where(centric, 2.0, 1.0))
    # For strongly negative intensities the density decays within σ² / |I'|.
    width = np.where(centre < -sigma, 5 * sigma**2 / np.maximum(-centre, sigma), sigma)
    high = np.sqrt(np.maximum(centre, 0.0) + _REACH * width)
    low = np.sqrt(np.maximum(centre - _REACH * sigma, 0.0))
    half = 0.5 * (high - low)[:, None]
    f = low[:, None] + half * (_NODES + 1)
    exponent = -((f**2 - centre[:, None]) ** 2) / (2 * sigma[:, None] ** 2)
    density = np.exp(exponent - exponent.max(axis=1, keepdims=True)) * _WEIGHTS
    density *= np.where(centric[:, None], 1.0, f)
    density /= density.sum(axis=1, keepdims=True)
    mean = np.sum(density * f, axis=1)
    return mean, np.sqrt(np.sum(density * (f - mean[:, None]) ** 2, axis=1))
