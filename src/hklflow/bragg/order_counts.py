r"""Likelihood of counts for given curves, with the best amplitudes of all curves.

A scan counts *n* in the box of the reflection. The expected value is
:math:`\mu = k I + b`, its variance :math:`\mu + v`: *v* contains the errors of the background, of
the scale and of the temperature. The distribution is the negative binomial one with this mean and
variance, which is Poisson's for v = 0. A small part of all scans is bad: their counts can be
anything between 0 and the largest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

Floats = NDArray[np.float64]

_BAD = 0.04  # part of the scans that are bad
_STEPS = 7
_LARGE = 1e8  # size of a negative binomial distribution that is as good as Poisson's


@dataclass(frozen=True)
class Counts:
    """Counts of one reflection or of all reflections of a vector; arrays (n,), one per scan.

    Attributes
    ----------
    temperature, temperature_sigma : array
        K; the values along another axis of the series, if there is one.
    counts : array
        Counts in the box.
    factor : array
        Counts for an intensity of 1, with the scale of the scan.
    background, background_var : array
        Expected counts of the background in the box, and the variance of this estimate.
    scale_error : array
        Relative standard deviation of ``factor``.
    """

    temperature: Floats
    temperature_sigma: Floats
    counts: Floats
    factor: Floats
    background: Floats
    background_var: Floats
    scale_error: Floats

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def intensity(self) -> Floats:
        """Intensity of each scan."""
        return (self.counts - self.background) / self.factor

    @property
    def sigma(self) -> Floats:
        """Standard deviation of each intensity; no counts have the variance of one."""
        relative = self.scale_error * np.maximum(self.counts - self.background, 0)
        var = np.maximum(self.counts, 1) + self.background_var + relative**2
        return np.sqrt(var) / self.factor

    def select(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> "Counts":
        """Return some of the scans."""
        return Counts(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def from_boxes(
    temperature: ArrayLike,
    temperature_sigma: ArrayLike,
    counts: ArrayLike,
    factor: ArrayLike,
    off: ArrayLike,
    ratio: ArrayLike,
    scale_error: ArrayLike,
) -> Counts:
    """Return the counts of boxes and of their shells, from cold to warm.

    Parameters
    ----------
    off : (n,) array
        Counts around the reflection.
    ratio : (n,) array
        Expected counts around the reflection over those of the background in the box.
    """
    t, error, n, k, around, r, relative = np.broadcast_arrays(
        *(
            np.asarray(x, dtype=np.float64)
            for x in (temperature, temperature_sigma, counts, factor, off, ratio, scale_error)
        )
    )
    order = np.argsort(t, kind="stable")
    # Half a count: no counts around the reflection are not a background of exactly 0.
    columns = (t, error, n, k, (around + 0.5) / r, (around + 0.5) / r**2, relative)
    return Counts(*(np.ascontiguousarray(x[order]) for x in columns))


def best(
    data: Counts, curves: Floats, variance: Floats, widths: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """Return amplitudes, log-likelihood and intensities of the best sum of curves.

    Parameters
    ----------
    curves : (g, n, p) array
        Curves whose amplitudes are fitted, all ≥ 0.
    variance : (g, n) array
        Variance of the first curve, for an amplitude of 1.
    widths : (p,) array, optional
        Standard deviations of the amplitudes over the first one before the data, normal about 0
        and infinite where nothing is known; the likelihood has their factor.

    Returns
    -------
    amplitudes : (g, p) array
    likelihood : (g,) array
    parts : (g, n) array
        Probability that each scan is good.
    """
    signal = data.counts - data.background
    highest = float(data.intensity.max() + 3 * data.sigma.max())
    # A bad scan has an intensity between 0 and the highest of the series.
    bad = _BAD / (np.maximum(highest * data.factor, 1.0) + data.background)
    rows = curves * data.factor[:, None]
    spread = variance * data.factor**2
    weight = np.broadcast_to(
        1 / (np.maximum(data.counts, 1) + data.background_var), curves.shape[:2]
    )
    amplitudes = np.zeros((len(curves), curves.shape[2]))
    parts = np.ones(curves.shape[:2])
    inverse = np.zeros(curves.shape[2]) if widths is None else 1 / widths
    least = 1e-12 * highest
    for step in range(_STEPS):
        ridge = (inverse / np.maximum(amplitudes[:, :1], least)) ** 2 if step else 0 * amplitudes
        amplitudes = _positive(rows, signal, weight * parts, ridge)
        expected, extra = _moments(data, rows, spread, amplitudes)
        var = expected + extra
        weight = 1 / var
        if step >= 2:
            normal = np.exp(-0.5 * (data.counts - expected) ** 2 / var) / np.sqrt(2 * np.pi * var)
            parts = (1 - _BAD) * normal / ((1 - _BAD) * normal + bad)
    expected, extra = _moments(data, rows, spread, amplitudes)
    good = np.log1p(-_BAD) + _negative_binomial(data.counts, expected, extra)
    each = np.logaddexp(good, np.log(bad))
    ratios = amplitudes * inverse / np.maximum(amplitudes[:, :1], least)
    before = -0.5 * np.sum(ratios**2, axis=1)
    return amplitudes, each.sum(axis=1) + before, np.exp(good - each)


def _moments(
    data: Counts, rows: Floats, spread: Floats, amplitudes: Floats
) -> tuple[Floats, Floats]:
    """Return the expected counts, and their variance beyond Poisson's."""
    intensity = np.einsum("gnp,gp->gn", rows, amplitudes)
    extra = data.background_var + (data.scale_error * intensity) ** 2
    return intensity + data.background, extra + spread * amplitudes[:, :1] ** 2


def _negative_binomial(counts: Floats, mean: Floats, extra: Floats) -> Floats:
    size = np.minimum(mean**2 / np.maximum(extra, 1e-300), _LARGE)
    value: Floats = (
        gammaln(counts + size)
        - gammaln(size)
        - gammaln(counts + 1)
        - size * np.log1p(mean / size)
        + counts * np.log(mean / (size + mean))
    )
    return value


def _positive(rows: Floats, y: Floats, weight: Floats, ridge: Floats) -> Floats:
    """Return the amplitudes ≥ 0 of weighted least squares; the worst negative one is left out."""
    weighted = rows * weight[:, :, None]
    normal = weighted.transpose(0, 2, 1) @ rows
    right = (weighted.transpose(0, 2, 1) @ y[:, None])[:, :, 0]
    p = rows.shape[2]
    normal += ridge[:, :, None] * np.eye(p)
    size = np.maximum(np.einsum("gpp->gp", normal), 1e-300)
    scale = np.sqrt(size)
    normal = normal / (scale[:, :, None] * scale[:, None, :]) + 1e-9 * np.eye(p)
    right = right / scale
    x = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    free = np.ones(right.shape, dtype=np.bool_)
    for _ in range(p - 1):
        again = np.flatnonzero(x.min(axis=1) < 0)
        if not len(again):
            break
        free[again, np.argmin(x[again], axis=1)] = False
        use = free[again]
        matrix = np.where(use[:, :, None] & use[:, None, :], normal[again], np.eye(p))
        x[again] = np.linalg.solve(matrix, (right[again] * use)[:, :, None])[:, :, 0]
    amplitudes: Floats = np.maximum(x, 0.0) / scale
    return amplitudes
