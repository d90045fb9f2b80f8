r"""Error model for equivalents: ``σ'² = a² (σ² + (b I)²)``.

The likelihood uses the differences within groups of equivalents (restricted maximum likelihood,
Patterson & Thompson, Biometrika 58, 545, 1971). Group means are unknown, so n equivalents count as
n - 1 deviations. Pairs therefore get the right weight.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from hklflow.bragg.groups import Groups

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_FEWEST = 30  # deviations; with this number, a has an error of 13 %
_SURE = 4.0  # difference of -2 ln L: two standard deviations
_GRID = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 41)])
_MAD = 1.4826  # standard deviation of a normal distribution over its median |deviation|
_BINS = 10


@dataclass(frozen=True)
class ErrorModel:
    """Parameters a and b of ``σ'² = a² (σ² + (b I)²)``, and their standard deviations.

    ``deviations`` is the number of deviations of equivalents in the fit. ``why_not`` is the reason
    why the model was not refined; it is empty if the model was refined.
    """

    a: float = 1.0
    b: float = 0.0
    a_sigma: float = 0.0
    b_sigma: float = 0.0
    deviations: int = 0
    why_not: str = ""

    def variance(self, counting: Floats, mean: Floats) -> Floats:
        """Return the variances (n,) for counting variances and expected intensities (n,)."""
        return self.a**2 * (counting + (self.b * np.maximum(mean, 0.0)) ** 2)


def fit(
    intensity: Floats,
    counting: Floats,
    mean: Floats,
    groups: Groups,
    use: Bools,
    parameters: float = 0.0,
) -> ErrorModel:
    """Fit a and b.

    Parameters
    ----------
    intensity, counting : (n,) arrays
        Intensities on one scale, and their counting variances.
    mean : (n,) array
        Expected intensity: the mean of the group.
    groups : Groups
    use : (n,) bool array
        False for outliers.
    parameters : float
        Number of parameters that were fitted to the same deviations.

    Returns
    -------
    ErrorModel
        The model; b is 0 unless it exceeds twice its standard deviation.
    """
    use = use & (groups.sum(use)[groups.index] >= 2)
    rows = np.flatnonzero(use)
    own = Groups.of(groups.hkl[groups.index[rows]])
    free = len(rows) - len(own)
    if free - parameters < _FEWEST:
        return ErrorModel(
            deviations=free,
            why_not=f"the scales use {parameters:.0f} of {free} deviations of equivalents, and "
            f"{_FEWEST} are needed",
        )
    likelihood = _Likelihood(intensity[rows], counting[rows], mean[rows], own)
    at = int(np.argmin([likelihood.minus_twice_log(b) for b in _GRID]))
    if at == len(_GRID) - 1:
        return ErrorModel(
            deviations=free,
            why_not="equivalents differ by more than their intensity: b is undefined",
        )
    found = minimize_scalar(
        likelihood.minus_twice_log,
        bounds=(_GRID[max(at - 1, 0)], _GRID[at + 1]),
        method="bounded",
        options={"xatol": 1e-6},
    )
    # If all intensities are similar, a and b are correlated: then only a is fitted.
    b = float(found.x) if found.fun < likelihood.minus_twice_log(0.0) - _SURE else 0.0
    a = likelihood.a(b)
    b_sigma = likelihood.sigma(b)
    slope = (likelihood.a(b + b_sigma) - a) / b_sigma
    a_sigma = float(np.hypot(a / np.sqrt(2 * free), slope * b_sigma))
    # Correct for the deviations that the scales have fitted.
    a *= float(np.sqrt(free / (free - parameters)))
    return ErrorModel(a, b, a_sigma, b_sigma, free)


@dataclass(frozen=True)
class _Likelihood:
    intensity: Floats
    counting: Floats
    mean: Floats
    groups: Groups

    def _parts(self, b: float) -> tuple[float, float]:
        """Return χ² of the deviations for a = 1, and the logarithm of the determinant."""
        variance = self.counting + (b * np.maximum(self.mean, 0.0)) ** 2
        middle, total = self.groups.mean(self.intensity, 1 / variance)
        chi2 = np.sum((self.intensity - middle[self.groups.index]) ** 2 / variance)
        return float(chi2), float(np.log(variance).sum() + np.log(total).sum())

    @property
    def _free(self) -> int:
        return len(self.intensity) - len(self.groups)

    def a(self, b: float) -> float:
        """Return the best a for a given b."""
        return float(np.sqrt(self._parts(b)[0] / self._free))

    def minus_twice_log(self, b: float) -> float:
        """Return ``-2 ln L`` for the best a."""
        chi2, log_determinant = self._parts(b)
        return float(log_determinant + self._free * np.log(chi2 / self._free))

    def sigma(self, b: float) -> float:
        """Return the standard deviation of b: ``-2 ln L`` is 1 higher at b plus this value."""
        base, low, high = self.minus_twice_log(b), b, b + 1e-4
        while self.minus_twice_log(high) < base + 1 and high < 10:
            low, high = high, b + 2 * (high - b)
        for _ in range(40):
            middle = 0.5 * (low + high)
            inside = self.minus_twice_log(middle) < base + 1
            low, high = (middle, high) if inside else (low, middle)
        return high - b


def robust_start(
    intensity: Floats, counting: Floats, groups: Groups, use: Bools
) -> tuple[ErrorModel, Floats]:
    """Return first estimates of a and b before outliers are known, and the group medians (n,).

    b makes the median deviations in all bins of intensity equal.
    """
    middle = groups.median(intensity, use)[groups.index]
    rows = np.flatnonzero(use & (groups.sum(use)[groups.index] >= 2))
    if len(rows) < 2 * _FEWEST:
        return ErrorModel(), middle
    own = Groups.of(groups.hkl[groups.index[rows]])
    value, base, level = intensity[rows], counting[rows], np.maximum(middle[rows], 0.0)
    bins = _bins(level, np.sqrt(base))
    # The deviation from the group's median is smaller than the deviation from the truth.
    shrink = np.sqrt(own.n[own.index] / (own.n[own.index] - 1.0))
    best = (np.inf, 1.0, 0.0)
    for b in _GRID[:-1]:
        size = np.abs(value - middle[rows]) * shrink / np.sqrt(base + (b * level) ** 2)
        width = np.log([max(_MAD * np.median(size[bins == k]), 1e-6) for k in np.unique(bins)])
        best = min(best, (float(np.var(width)), float(np.exp(np.mean(width))), float(b)))
    return ErrorModel(a=best[1], b=best[2]), middle


def _bins(level: Floats, sigma: Floats) -> NDArray[np.int64]:
    """Return the bin number (n,) of each intensity; the bins in I/σ have equal populations."""
    n = max(1, min(_BINS, len(level) // _FEWEST))
    rank = np.argsort(np.argsort(level / sigma, kind="stable"), kind="stable")
    found: NDArray[np.int64] = rank * n // len(level)
    return found


@dataclass(frozen=True)
class Spread:
    """Widths of the normalised deviations of equivalents in bins of intensity.

    Attributes
    ----------
    intensity : (k,) array
        Mean intensity.
    n : (k,) int array
        Number of observations.
    before, after : (k,) arrays
        Root mean square of the deviations; ``before``: relative to the counting errors, ``after``:
        relative to the errors of the error model.
    """

    intensity: Floats
    n: NDArray[np.int64]
    before: Floats
    after: Floats


def spread(
    intensity: Floats, counting: Floats, variance: Floats, groups: Groups, use: Bools
) -> Spread:
    """Return the widths of the deviations of equivalents before and after the error model."""
    rows = np.flatnonzero(use & (groups.sum(use)[groups.index] >= 2))
    if not len(rows):
        none = np.zeros(0)
        return Spread(none, none.astype(np.int64), none, none)
    own = Groups.of(groups.hkl[groups.index[rows]])
    widths, value = [], intensity[rows]
    for var in (counting[rows], variance[rows]):
        middle, total = own.mean(value, 1 / var)
        # The mean includes the observation itself: var(I - mean) = var - 1 / Σ w.
        expected = var - 1 / total[own.index]
        widths.append((value - middle[own.index]) ** 2 / expected)
    level = own.mean(value, 1 / variance[rows])[0][own.index]
    bins = _bins(level, np.sqrt(counting[rows]))
    numbers = np.unique(bins)

    def over_bins(values: Floats) -> Floats:
        return np.array([float(np.mean(values[bins == k])) for k in numbers])

    return Spread(
        over_bins(level),
        np.array([int((bins == k).sum()) for k in numbers]),
        np.sqrt(over_bins(widths[0])),
        np.sqrt(over_bins(widths[1])),
    )
