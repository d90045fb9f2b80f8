r"""Thermal expansion of a cell, and the strain below a transition, from its scans.

The strain of a cell relative to a reference is Lagrange's tensor

.. math:: E = \tfrac12 (A_0^{-T} G A_0^{-1} - 1)

with the metric G and the axes A₀ of the reference in columns (Cartesian, x along a*, z along c; the
frame of `geometry.lattice.b_matrix`). It needs no orientation. In the directions that symmetry
leaves free,

.. math:: E(T) = c + \sum_i a_i u(T, θ_i) + b\,u(T, θ_0)^2 + e\,g(T)

where u is Debye's energy, divided so that du/dT is 1 at high temperature: by Grüneisen's relation,
phonons expand the crystal in proportion to their energy, soft and hard modes with coefficients of
their own. The square is anharmonicity. Below T_c, g = j + (1 - j)(1 - τ)^m with τ = T/T_c, or
coth(θ/T)/coth(θ/T_c) if it saturates: the strain e goes with the square of a primary order
parameter (linear-quadratic coupling; Salje, Phase transitions in ferroelastic and co-elastic
crystals, 1990), which may jump. Without a transition, one scan may be bad. All parameters that are
linear have Gaussian priors and are integrated; the others are averaged over a grid with their
likelihoods.

Along another axis than temperature (field, pressure, strain, time) none of these laws holds. The
smooth functions are then powers of the distance from the first scan, and the strain g may begin on
either side of the transition, without saturation.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.bragg.order_parameter import Interval
from hklflow.geometry import lattice

Floats = NDArray[np.float64]

FEWEST = 5
"""Smallest number of temperatures for an expansion."""

CLAIM = float(np.log(1000.0))
"""A transition is claimed if it is so much more likely than none (ln)."""

_DEBYE = (40.0, 75.0, 140.0, 260.0, 480.0, 900.0)  # θ, K
_MIDDLE = 3  # number of θ_0
_POWERS = 5  # largest power of a smooth function along another axis
_RANGE = 100.0  # length of the series in the fit along another axis
# Jump j, exponent m, and temperature of saturation over T_c; a step is without the last two.
_SHAPES = (
    *itertools.product((0.0, 0.3, 0.6), (0.5, 0.65, 0.8, 1.0), (0.0, 0.3)),
    (1.0, 1.0, 0.0),
)
_COARSE, _FINE = 8, 60  # T_c that are tried between two scans, and around the best ones
# Laws between those of `_SHAPES` move T_c by about this share.
_BETWEEN = 0.002
# ln of likelihood ratios that are left out, when the T_c that are tried become denser.
_UNLIKELY = (30.0, 12.0, 12.0, 12.0)
# Errors of cells may be too small by these factors, with these prior probabilities: what differs
# from scan to scan (temperature, place of the crystal) is not in the covariance of a refinement.
_FACTORS = np.array([1.0, 1.5, 2.5, 4.0, 7.0])
_PRIOR = np.array([0.4, 0.25, 0.15, 0.12, 0.08])
_STRAINS = (3e-4, 3e-3, 3e-2)  # standard deviations of the strain at 0 K before the data
# Probability that a scan is bad, and the standard deviation of the strain that it then has besides.
_BAD, _OF_BAD = 0.04, 1e-3
_OFFSET = 0.1  # standard deviation of the constant before the data
_ANHARMONIC = 1e-8  # standard deviation of b before the data, 1/K²
_LEAST = 1e-5  # least standard deviation of an expansion coefficient before the data, 1/K
_FLOOR = 2e-6  # strain; smaller errors are not believed
_STEP = 1.0  # K, for derivatives
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class Expansion:
    """Result of `fit`; tensors have the components xx, yy, zz, yz, xz, xy.

    Along another axis than temperature its values are in the place of temperatures.

    Attributes
    ----------
    temperature : (n,) array
        Distinct temperatures of the scans, K.
    alpha, alpha_sigma : (n, 6) array
        Thermal expansion dE/dT there, 1/K.
    mean, mean_covariance : (6,), (6, 6) array
        Mean expansion between the lowest and the highest temperature, 1/K.
    ratio : float
        ln of the likelihood of a transition over that of none.
    t_c : Interval or None
        Temperature of the transition, K; None if none is claimed.
    strain, strain_covariance : (6,), (6, 6) array
        Spontaneous strain at the lowest temperature, relative to the cell without a transition.
        NaN along another axis, where the side of the strain is not known.
    factor : float
        Mean factor by which the errors of the cells were enlarged.
    """

    temperature: Floats
    alpha: Floats
    alpha_sigma: Floats
    mean: Floats
    mean_covariance: Floats
    ratio: float
    t_c: Interval | None
    strain: Floats
    strain_covariance: Floats
    factor: float


def fit(
    temperature: ArrayLike,
    cells: ArrayLike,
    covariances: ArrayLike,
    reference: ArrayLike,
    axis: Axis = TEMPERATURE,
) -> Expansion | None:
    """Fit cells against temperature, or along another axis.

    Parameters
    ----------
    temperature : (n,) array
        K, or values along the axis, in any order.
    cells : (n, 6) array
        Å and degrees.
    covariances : (n, 6, 6) array
        Covariances of the cells, without errors that all cells share.
    reference : (6,) array
        Cell to which the strains are relative.
    axis : Axis
        Axis of the series.

    Returns
    -------
    Expansion or None
        None with fewer than `FEWEST` temperatures, or if nothing of the cell is free.
    """
    values = np.asarray(temperature, dtype=np.float64)
    if axis.is_temperature:
        return _fit(values, cells, covariances, reference, _Law(thermal=True))
    step = max(float(np.ptp(values)) / _RANGE, 1e-300)
    start = float(values.min())
    found = _fit((values - start) / step, cells, covariances, reference, _Law(thermal=False))
    if found is None:
        return None
    unknown = np.full_like(found.strain_covariance, np.nan)
    return replace(
        found,
        temperature=np.unique(values),
        alpha=found.alpha / step,
        alpha_sigma=found.alpha_sigma / step,
        mean=found.mean / step,
        mean_covariance=found.mean_covariance / step**2,
        t_c=found.t_c and _scaled(found.t_c, start, step),
        strain=unknown[0],
        strain_covariance=unknown,
    )


def _scaled(x: Interval, start: float, step: float) -> Interval:
    inner, outer = ((start + step * low, start + step * high) for low, high in (x.inner, x.outer))
    return Interval(start + step * x.value, step * x.sigma, inner, outer)


def _fit(
    t: Floats, cells: ArrayLike, covariances: ArrayLike, reference: ArrayLike, law: "_Law"
) -> Expansion | None:
    levels = np.unique(t)
    strains, covariance = _strains(cells, covariances, reference)
    free = _free(covariance)
    if len(levels) < FEWEST or not free.shape[1]:
        return None
    data = _Data.of(t, strains @ free, np.einsum("ai,nab,bj->nij", free, covariance, free), law)
    # One bad scan must not look like a transition, least of all the coldest one.
    every = [data, *(data.doubting(i) for i in range(len(t)))]
    nones = [x.weighed([None]) for x in every]
    chances = np.append(0.0, np.full(len(t), np.log(_BAD)))
    chances += [float(x.by_place[0]) for x in nones]
    best = int(np.argmax(chances))
    # Beyond the second temperatures from the ends, nothing distinguishes a transition from none.
    cells = law.cells(levels[1:-1])
    some = data.weighed(_middles(cells))
    for least in _UNLIKELY:
        kept = cells[some.by_place > some.by_place.max() - least]
        cells = _divided(kept, -(-_FINE // len(kept)))
        some = data.weighed(_middles(cells))
    share = np.log(np.diff(cells)[:, 0] / (levels[-2] - levels[1]))
    ratio = float(logsumexp(some.by_place + share) - logsumexp(chances))
    claimed = ratio > CLAIM
    chosen = some if claimed else nones[best]
    alpha, mean, strain = (data if claimed else every[best]).moments(chosen, levels)
    at_levels, covariances = _tensor(alpha, free)
    return Expansion(
        levels,
        at_levels,
        np.sqrt(np.maximum(np.diagonal(covariances, axis1=1, axis2=2), 0.0)),
        *_tensor(mean, free),
        ratio,
        _interval(cells, some.by_place, law) if claimed else None,
        *_tensor(strain, free),
        float(np.exp(logsumexp(chosen.log, axis=(1, 2)) - logsumexp(chosen.log)) @ _FACTORS),
    )


def _divided(cells: Floats, number: int) -> Floats:
    """Return each cell divided into a number of cells."""
    edges = cells[:, :1] + np.diff(cells) * np.linspace(0, 1, number + 1)
    return np.stack([edges[:, :-1], edges[:, 1:]], axis=2).reshape(-1, 2)


def _middles(cells: Floats) -> list[float]:
    return [float(x) for x in cells.mean(axis=1)]


def _strains(
    cells: ArrayLike, covariances: ArrayLike, reference: ArrayLike
) -> tuple[Floats, Floats]:
    """Return the strains (n, 6) relative to a reference, and their covariances (n, 6, 6)."""
    cells = np.asarray(cells, dtype=np.float64)
    inverse = lattice.b_matrix(reference).T / (2 * np.pi)  # rows a*, b*, c*: the inverse of A0

    def strain(cell: Floats) -> Floats:
        e = (inverse.T @ lattice.metric(cell) @ inverse - np.eye(3)) / 2
        return np.array([e[i, j] for i, j in _VOIGT])

    steps = np.diag([1e-4, 1e-4, 1e-4, 1e-3, 1e-3, 1e-3])
    jacobian = np.array(
        [[(strain(c + d) - strain(c - d)) / (2 * d.sum()) for d in steps] for c in cells]
    )
    covariance = np.einsum("nia,nij,njb->nab", jacobian, np.asarray(covariances), jacobian)
    return np.array([strain(cell) for cell in cells]), covariance


def _free(covariance: Floats) -> Floats:
    """Return the directions (6, k) of strain that symmetry leaves free."""
    size, directions = np.linalg.eigh(covariance.mean(axis=0))
    return np.asarray(directions[:, size > 1e-9 * max(float(size[-1]), 1e-300)])


@cache
def _nodes() -> tuple[Floats, Floats]:
    return np.polynomial.legendre.leggauss(200)


def debye(temperature: ArrayLike, theta: float) -> Floats:
    """Return Debye's energy over 3 k, in K, without the energy at 0 K."""
    t = np.maximum(np.asarray(temperature, dtype=np.float64), 1e-3)
    nodes, weights = _nodes()
    # The integrand is below 1e-12 of its maximum beyond x = 40.
    end = np.minimum(theta / t, 40.0)[..., None]
    x = end * (nodes + 1) / 2
    whole = np.sum(x**3 / np.expm1(x) * weights, axis=-1) * end[..., 0] / 2
    energy: Floats = 3 * t * (t / theta) ** 3 * whole
    return energy


Form = tuple[float, float, float, bool]
"""Jump, exponent, temperature of saturation over T_c, and if the strain is above the transition."""


class _Term(NamedTuple):
    """A transition at T_c (None: none) with its form."""

    t_c: float | None
    shape: Form

    def onset(self, temperature: Floats) -> Floats:
        """Return g (n,)."""
        if self.t_c is None:
            return np.zeros_like(temperature)
        jump, power, saturation, above = self.shape
        t, t_c = (_RANGE - x if above else x for x in (temperature, self.t_c))
        reduced = t / t_c
        if saturation:
            reduced = np.tanh(saturation) / np.tanh(saturation / np.maximum(reduced, 1e-3))
        below = np.clip(1 - reduced, 0.0, None)
        return np.where(t < t_c, jump + (1 - jump) * below**power, 0.0)


@dataclass(frozen=True)
class _Law:
    """Functions of the axis: those of temperature, or powers between 0 and `_RANGE`."""

    thermal: bool

    @property
    def shapes(self) -> list[Form]:
        """Forms of a transition."""
        if self.thermal:
            return [(*shape, False) for shape in _SHAPES]
        plain = [shape for shape in _SHAPES if shape[2] == 0]
        return [(*shape, above) for shape in plain for above in (False, True)]

    @property
    def terms(self) -> int:
        """Number of functions: constant, smooth functions, and the strain below a transition."""
        return 2 + (len(_DEBYE) + 1 if self.thermal else _POWERS)

    def smooth(self, t: Floats) -> Floats:
        """Return the functions without a transition, (n, terms - 1)."""
        if not self.thermal:
            return np.vander(t / _RANGE, _POWERS + 1, increasing=True)
        energies = [debye(t, theta) for theta in _DEBYE]
        return np.stack([np.ones_like(t), *energies, energies[_MIDDLE] ** 2], axis=1)

    def bases(self, terms: Sequence[_Term], t: Floats) -> Floats:
        """Return all functions, (m, n, terms)."""
        onsets = np.array([term.onset(t) for term in terms])
        smooth = np.broadcast_to(self.smooth(t), (len(terms), len(t), self.terms - 1))
        return np.concatenate([smooth, onsets[:, :, None]], axis=2)

    def widths(self, spread: float, size: float) -> list[float]:
        """Return the standard deviations of the amplitudes before the data.

        Parameters
        ----------
        spread : float
            Standard deviation of an expansion coefficient.
        size : float
            Standard deviation of the strain below a transition.
        """
        if not self.thermal:
            return [_OFFSET, *[spread * _RANGE] * _POWERS, size]
        return [_OFFSET, *[spread] * len(_DEBYE), _ANHARMONIC, size]

    def cells(self, levels: Floats) -> Floats:
        """Return cells (m, 2) between temperatures; they are narrow just above each of these.

        There, a law such as √(T_c − T) of the scan below changes fastest with T_c. Along another
        axis this holds on both sides.
        """
        part = np.linspace(0, 1, _COARSE + 1)
        part = part**2 if self.thermal else (1 - np.cos(np.pi * part)) / 2
        edges = np.append((levels[:-1, None] + np.diff(levels)[:, None] * part[:-1]), levels[-1])
        return np.stack([edges[:-1], edges[1:]], axis=1)

    def between(self, t_c: float) -> float:
        """Return by how much laws between those of the fit move T_c."""
        return _BETWEEN * (t_c if self.thermal else _RANGE)


class _Weighed(NamedTuple):
    """Logarithm of the weights of the terms."""

    log: Floats
    """(factors of the errors, sizes of the strain, terms)"""
    terms: list[_Term]
    by_place: Floats
    """Logarithm of the mean likelihood at each T_c."""


class _Data(NamedTuple):
    """Strains (n, k) in the free directions, and their weights (n, k, k)."""

    temperature: Floats
    y: Floats
    weight: Floats
    spread: float
    """Standard deviation of an expansion coefficient before the data, 1/K."""
    law: _Law

    def doubting(self, number: int) -> "_Data":
        """Return the same with a large error of one scan."""
        weight = self.weight.copy()
        wider = np.linalg.inv(weight[number]) + _OF_BAD**2 * np.eye(len(weight[number]))
        weight[number] = np.linalg.inv(wider)
        return self._replace(weight=weight)

    @classmethod
    def of(cls, temperature: Floats, y: Floats, variance: Floats, law: _Law) -> "_Data":
        """Prepare strains with their covariances (n, k, k)."""
        variance = np.asarray(variance + _FLOOR**2 * np.eye(y.shape[1]), dtype=np.float64)
        spread = max(2 * float(np.ptp(y, axis=0).max() / np.ptp(temperature)), _LEAST)
        weight = np.asarray(np.linalg.inv(variance), dtype=np.float64)
        return cls(temperature, y, weight, spread, law)

    def _prior(self, size: float) -> Floats:
        """Return the standard deviations of the linear parameters before the data."""
        return np.repeat(self.law.widths(self.spread, size), self.y.shape[1])

    def _sums(self, basis: Floats) -> tuple[Floats, Floats]:
        """Return normal matrices (m, q k, q k) and right-hand sides (m, q k); bases (m, n, q)."""
        n, k = self.y.shape
        m, _, q = basis.shape
        pairs = (basis[:, :, :, None] * basis[:, :, None, :]).transpose(0, 2, 3, 1)
        matrix = (pairs.reshape(-1, n) @ self.weight.reshape(n, k * k)).reshape(m, q, q, k, k)
        right = basis.transpose(0, 2, 1) @ np.einsum("nij,nj->ni", self.weight, self.y)
        return matrix.transpose(0, 1, 3, 2, 4).reshape(m, q * k, q * k), right.reshape(m, q * k)

    def weighed(self, places: Sequence[float | None]) -> _Weighed:
        """Return the weights of all hypotheses with these T_c; None: without a transition."""
        shapes = self.law.shapes if places[0] is not None else self.law.shapes[:1]
        sizes = _STRAINS if places[0] is not None else _STRAINS[:1]
        terms = [_Term(place, shape) for place in places for shape in shapes]
        matrix, right = self._sums(self.law.bases(terms, self.temperature))
        volume = float(np.linalg.slogdet(self.weight)[1].sum())
        square = np.einsum("ni,nij,nj->", self.y, self.weight, self.y)
        log = np.empty((len(_FACTORS), len(sizes), len(terms)))
        for i, factor in enumerate(_FACTORS):
            for j, size in enumerate(sizes):
                prior = self._prior(size)
                scaled = matrix * (prior[:, None] * prior / factor**2) + np.eye(len(prior))
                b = right * prior / factor**2
                root = np.linalg.cholesky(scaled)
                solved = np.linalg.solve(root, b[..., None])[..., 0]
                log[i, j] = (
                    0.5 * np.sum(solved**2, axis=1)
                    - np.sum(np.log(np.diagonal(root, axis1=1, axis2=2)), axis=1)
                    - 0.5 * square / factor**2
                    - self.y.size * np.log(factor)
                    + 0.5 * volume
                    + np.log(_PRIOR[i] / len(sizes))
                )
        alone = log.reshape(-1, len(places), len(terms) // len(places))
        by_place = logsumexp(alone, axis=(0, 2)) - np.log(alone.shape[2])
        return _Weighed(log, terms, by_place)

    def moments(
        self, weighed: _Weighed, levels: Floats
    ) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats], tuple[Floats, Floats]]:
        """Return mean and covariance of dE/dT at the levels, of its mean, and of the last strain.

        Each is a pair of arrays (..., k) and (..., k, k), averaged over the hypotheses.
        """
        k, q = self.y.shape[1], self.law.terms
        share = np.exp(weighed.log - logsumexp(weighed.log))
        low, high = levels[[0, -1]]
        n = len(levels)
        # Around each level, for derivatives, and the ends.
        places = np.concatenate([levels + _STEP, levels - _STEP, [high, low]])
        first, second = np.zeros((n + 2, k)), np.zeros((n + 2, k, k))
        for i, j, m in np.argwhere(share > 1e-3 * share.max()):
            term, part = weighed.terms[m], share[i, j, m]
            at = self.law.bases([term], places)[0]
            rows = np.zeros((n + 2, q))
            rows[:n] = (at[:n] - at[n : 2 * n]) / (2 * _STEP)
            rows[n] = (at[-2] - at[-1]) / (high - low)
            rows[n + 1, -1] = at[-1, -1]
            matrix, right = self._sums(self.law.bases([term], self.temperature))
            factor2 = _FACTORS[i] ** 2
            prior = self._prior(_STRAINS[j])
            covariance = np.linalg.inv(
                matrix[0] * np.outer(prior, prior) / factor2 + np.eye(len(prior))
            ) * np.outer(prior, prior)
            value = (covariance @ right[0] / factor2).reshape(q, k)
            mean = rows @ value
            spread = np.einsum("ra,aibj,rb->rij", rows, covariance.reshape(q, k, q, k), rows)
            first += part * mean
            second += part * (spread + mean[:, :, None] * mean[:, None, :])
        total = share[share > 1e-3 * share.max()].sum()
        first, second = first / total, second / total
        second -= first[:, :, None] * first[:, None, :]
        return (
            (first[:n], second[:n]),
            (first[n], second[n]),
            (first[n + 1], second[n + 1]),
        )


def _tensor(moments: tuple[Floats, Floats], free: Floats) -> tuple[Floats, Floats]:
    """Return tensors (..., 6) and their covariances (..., 6, 6)."""
    value, covariance = moments
    return value @ free.T, free @ covariance @ free.T


def _interval(cells: Floats, log: Floats, law: _Law) -> Interval:
    """Return the distribution over ascending cells as mean, σ and intervals."""
    width = np.diff(cells)[:, 0]
    share = np.exp(log + np.log(width) - logsumexp(log, b=width))
    mean = float(share @ cells.mean(axis=1))
    sigma = float(np.sqrt(share @ ((cells.mean(axis=1) - mean) ** 2 + width**2 / 12)))
    whole = np.append(0.0, np.cumsum(share))
    rise = np.stack([whole[:-1], whole[1:]], axis=1).ravel()

    def at(level: float, sigmas: float) -> float:
        own = float(np.interp(level, rise, cells.ravel())) - mean
        return mean + float(np.sign(sigmas) * np.hypot(own, sigmas * law.between(mean)))

    return Interval(
        mean,
        float(np.hypot(sigma, law.between(mean))),
        (at(0.16, -1), at(0.84, 1)),
        (at(0.025, -2), at(0.975, 2)),
    )
