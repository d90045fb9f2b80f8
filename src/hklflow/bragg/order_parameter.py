r"""Fit an order parameter: at which temperature a reflection appears, how, and if it does.

The likelihood of the counts is averaged over a grid of T_c, exponent and shapes of the curve
(`order_curves.Shape`); at each point of the grid the amplitudes have their best values. So
intervals of T_c and exponent contain what the shape leaves open (saturation, critical scattering,
smearing, a static intensity that changes), and they need not be symmetric. Ratios of averaged
likelihoods decide between a transition and a smooth change, and between first order and continuous.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg import order_curves
from hklflow.bragg.order_counts import Counts, best
from hklflow.bragg.order_curves import Shape

Floats = NDArray[np.float64]
Answer = Literal["transition", "none", "not determined"]
Kind = Literal["continuous", "first order", "not determined"]

FEWEST = 5  # scans with a temperature
_CLAIM = 7.0  # ln of the likelihood ratio above which a transition is claimed: a factor of 1000
_NONE = -1.0  # below: the series speaks against a transition
_ORDER = 3.5  # the same for first order or continuous: a factor of 30
_EXPONENTS = (0.25, 3.0)  # range of exponents; the two-dimensional Ising model has 0.25
_ABOVE = 0.25  # T_c is searched up to this part of the range above the highest temperature
_WIDEST = 0.15  # largest σ of T_c over the range of temperatures that is an answer
_WORST = 0.5  # largest relative σ of an exponent that is an answer
_FAR = 12.0  # shapes and grid points whose log-likelihood is lower by more do not count
_STATIC = (0, 1, 2)  # degrees of the smooth curves without a transition

_SATURATIONS = (0.4, 0.8, 1.4)
_CRITICAL = (0.006, 0.02, 0.06)
_JUMPS = (0.2, 0.35, 0.5, 0.7, 0.85)


def _shapes() -> list[Shape]:
    continuous = [
        Shape(),
        *(Shape(saturation=x) for x in _SATURATIONS),
        *(Shape(smearing=x) for x in (0.01, 0.03)),
        *(Shape(critical=w, saturation=x) for w, x in product(_CRITICAL, (0.0, 0.8))),
    ]
    step = [
        *(Shape(jump=j) for j in _JUMPS),
        *(Shape(jump=j, saturation=0.6) for j in _JUMPS[1::2]),
        Shape(jump=1.0),
        Shape(jump=1.0, smearing=0.01),
    ]
    # A static intensity that changes, with the plainest curves only.
    sloping = [
        Shape(slope=True),
        Shape(slope=True, saturation=0.8),
        Shape(slope=True, jump=0.5),
        Shape(slope=True, jump=1.0),
    ]
    return [*continuous, *step, *sloping]


@dataclass(frozen=True)
class Interval:
    """A number with its standard deviation, and its intervals of 68 % and 95 %."""

    value: float
    sigma: float
    inner: tuple[float, float]
    outer: tuple[float, float]


@dataclass(frozen=True)
class Order:
    """What the intensities of one vector say.

    Attributes
    ----------
    answer : str
        "transition", "none" (a smooth curve is as good) or "not determined".
    ratio : float
        ln of the likelihood of a transition over that of a smooth curve.
    t_c : Interval or None
        Kelvin; None without a transition, or if T_c is not determined.
    exponent : Interval or None
        Exponent *n* of the **intensity**; None if it is not determined, or not continuous.
    covariance : float
        Covariance of T_c and exponent.
    kind : str
        "continuous" (a jump of more than 20 % of the intensity at 0 K is excluded),
        "first order" or "not determined".
    kind_ratio : float
        ln of the likelihood of a transition of first order over that of a continuous one.
    cold, warm : (float, float)
        Mean intensity of the scans below and above T_c with σ; without a transition of the colder
        and the warmer half.
    limit : float
        Upper limit (95 %) of the intensity that appears on cooling.
    fitted : (float, float)
        Temperatures between which the curve was fitted, K.
    bad : tuple of int
        Scans that agree with no curve, from cold to warm.
    shape : Shape
        The most likely shape.
    curve : (m, 2) array
        Temperatures and intensities of the most likely curve.
    """

    answer: Answer
    ratio: float
    t_c: Interval | None
    exponent: Interval | None
    covariance: float
    kind: Kind
    kind_ratio: float
    cold: tuple[float, float]
    warm: tuple[float, float]
    limit: float
    fitted: tuple[float, float]
    bad: tuple[int, ...]
    shape: Shape
    curve: Floats


@dataclass(frozen=True)
class _Grid:
    """Log-likelihoods (shapes, T_c, exponents), less the costs of the amplitudes."""

    shapes: list[Shape]
    t_c: Floats
    exponent: Floats
    value: Floats


def _evaluate(data: Counts, shapes: Sequence[Shape], t_c: Floats, exponent: Floats) -> _Grid:
    place, power = (x.ravel() for x in np.meshgrid(t_c, exponent, indexing="ij"))
    values = []
    for shape in shapes:
        if shape.jump == 1:  # the exponent has no effect
            curves = order_curves.terms(
                data.temperature, data.temperature_sigma, t_c, np.ones_like(t_c), shape
            )
            likelihood = np.repeat(best(data, *curves)[1], len(exponent))
        else:
            curves = order_curves.terms(
                data.temperature, data.temperature_sigma, place, power, shape
            )
            likelihood = best(data, *curves)[1]
        # Critical scattering costs nothing: most continuous transitions have it.
        values.append(likelihood - _cost(data, 2 + shape.slope))
    value = np.array(values).reshape(len(shapes), len(t_c), len(exponent))
    return _Grid(list(shapes), t_c, exponent, value)


def _cost(data: Counts, terms: int) -> float:
    return 0.5 * terms * float(np.log(len(data)))


def _log_mean(value: Floats) -> float:
    highest = float(value.max())
    return highest + float(np.log(np.mean(np.exp(value - highest))))


def fit(data: Counts) -> Order:
    """Return what the counts of one vector say; scans from cold to warm."""
    span = float(np.ptp(data.temperature))
    coldest, hottest = float(data.temperature[0]), float(data.temperature[-1])
    smooth = max(_smooth(data, degree) for degree in _STATIC)
    exponents = np.linspace(*_EXPONENTS, 6)
    inside = np.linspace(coldest, hottest, 2 * len(data) + 1)[1:]
    coarse = _evaluate(data, _shapes(), inside, exponents)
    ratio = _log_mean(coarse.value) - smooth
    answer: Answer = "not determined"
    if ratio > _CLAIM:
        answer = "transition"
    elif ratio < _NONE:
        answer = "none"
    if answer != "transition":
        return _without(data, answer, ratio)
    above = np.linspace(hottest, hottest + _ABOVE * span, 6)[1:]
    beyond = _evaluate(data, coarse.shapes, above, exponents)
    grid = _Grid(
        coarse.shapes,
        np.concatenate([inside, above]),
        exponents,
        np.concatenate([coarse.value, beyond.value], axis=1),
    )
    for _ in range(4):
        grid, done = _closer(data, grid)
        if done:
            break
    return _told(data, grid, ratio)


def _smooth(data: Counts, degree: int) -> float:
    curves = order_curves.polynomial(data.temperature, degree)[None]
    likelihood = best(data, curves, np.zeros((1, len(data))))[1][0]
    return float(likelihood) - _cost(data, degree + 1)


def _closer(data: Counts, grid: _Grid) -> tuple[_Grid, bool]:
    """Return a finer grid where the likelihood is high; True if it need not be finer."""
    highest = grid.value.max()
    keep = grid.value.max(axis=(1, 2)) > highest - _FAR / 2
    shapes = [shape for shape, use in zip(grid.shapes, keep, strict=True) if use]
    near = grid.value > highest - _FAR
    rows, columns = near.any(axis=(0, 2)), near.any(axis=(0, 1))

    def between(axis: Floats, use: NDArray[np.bool_]) -> tuple[float, float]:
        hit = np.flatnonzero(use)
        return float(axis[max(hit[0] - 1, 0)]), float(axis[min(hit[-1] + 1, len(axis) - 1)])

    low, high = between(grid.t_c, rows)
    powers = between(grid.exponent, columns)
    t_c = np.linspace(low, high, 33)
    finer = _evaluate(data, shapes, t_c, np.linspace(*powers, 11))
    inside = (finer.value > finer.value.max() - 2).any(axis=(0, 2)).sum()
    return finer, bool(inside >= 9)


def _interval(axis: Floats, weight: Floats) -> Interval:
    """Return mean, σ and central intervals of a density on a grid of equal cells."""
    weight = weight / weight.sum()
    step = axis[1] - axis[0]
    mean = float(weight @ axis)
    sigma = float(np.sqrt(weight @ (axis - mean) ** 2 + step**2 / 12))
    edges = np.concatenate([axis - step / 2, axis[-1:] + step / 2])
    total = np.concatenate([[0.0], np.cumsum(weight)])
    ends = np.interp([0.1587, 0.8413, 0.025, 0.975], total, edges)
    return Interval(mean, sigma, (ends[0], ends[1]), (ends[2], ends[3]))


def _told(data: Counts, grid: _Grid, ratio: float) -> Order:
    """Return T_c, exponent and kind from the grid about the best curve."""
    jumps = np.array([shape.jump for shape in grid.shapes])
    # Each kind has the same weight, however many of its shapes are on the grid.
    kinds = [_log_mean_of(grid.value[rows]) for rows in (jumps > 0, jumps == 0)]
    kind_ratio = float(np.clip(kinds[0] - kinds[1], -99, 99))
    kind: Kind = "not determined"
    if abs(kind_ratio) > _ORDER:
        kind = "first order" if kind_ratio > 0 else "continuous"
    weight = np.exp(grid.value - grid.value.max())
    t_c = _interval(grid.t_c, weight.sum(axis=(0, 2)))
    powers = weight[jumps == 0].sum(axis=0)
    exponent, covariance = None, 0.0
    if powers.size and powers.sum() > 0:
        joint = powers / powers.sum()
        exponent = _interval(grid.exponent, joint.sum(axis=0))
        covariance = float(
            np.sum(
                joint
                * np.outer(grid.t_c - joint.sum(axis=1) @ grid.t_c, grid.exponent - exponent.value)
            )
        )
    span = float(np.ptp(data.temperature))
    outside = float(weight.sum(axis=(0, 2))[grid.t_c > data.temperature[-1]].sum() / weight.sum())
    determined = t_c.sigma < _WIDEST * span and outside < 0.05
    if kind == "first order" or exponent is None or exponent.sigma > _WORST * exponent.value:
        exponent, covariance = None, 0.0
    s, i, j = np.unravel_index(np.argmax(grid.value), grid.value.shape)
    shape = grid.shapes[s]
    drawn, bad = _curve(data, shape, float(grid.t_c[i]), float(grid.exponent[j]))
    under = data.temperature < t_c.value
    cold = _mean(data, under)
    return Order(
        answer="transition",
        ratio=ratio,
        t_c=t_c if determined else None,
        exponent=exponent if determined else None,
        covariance=covariance,
        kind=kind if determined else "not determined",
        kind_ratio=kind_ratio,
        cold=cold,
        warm=_mean(data, ~under),
        limit=cold[0] + 1.645 * cold[1],
        fitted=(float(data.temperature[0]), float(data.temperature[-1])),
        bad=bad,
        shape=shape,
        curve=drawn,
    )


def _log_mean_of(value: Floats) -> float:
    return _log_mean(value) if value.size else -np.inf


def _curve(
    data: Counts, shape: Shape, t_c: float, exponent: float
) -> tuple[Floats, tuple[int, ...]]:
    """Return the curve at 200 temperatures, and the scans that disagree with it."""
    at = (np.array([t_c]), np.array([exponent]), shape)
    amplitudes, _, good = best(
        data, *order_curves.terms(data.temperature, data.temperature_sigma, *at)
    )
    places = np.linspace(data.temperature[0], data.temperature[-1], 200)
    curves = order_curves.terms(places, np.zeros(200), *at)[0]
    bad = tuple(np.flatnonzero(good[0] < 0.1).tolist())
    return np.stack([places, curves[0] @ amplitudes[0]], axis=1), bad


def _mean(data: Counts, rows: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the mean intensity of some scans, from the sums of their counts."""
    if not rows.any():
        return float("nan"), float("nan")
    total = float((data.counts - data.background)[rows].sum())
    var = max(float(data.counts[rows].sum()), 1.0) + float(data.background_var[rows].sum())
    var += float(np.sum((data.scale_error * (data.counts - data.background))[rows] ** 2))
    return total / float(data.factor[rows].sum()), np.sqrt(var) / float(data.factor[rows].sum())


def _without(data: Counts, answer: Answer, ratio: float) -> Order:
    """Return the limits of a series without a transition."""
    half = np.arange(len(data)) < len(data) // 2
    cold, warm = _mean(data, half), _mean(data, ~half)
    change = max(cold[0] - warm[0], 0.0) + 1.645 * float(np.hypot(cold[1], warm[1]))
    degree = max(_STATIC, key=lambda d: _smooth(data, d))
    amplitudes, _, good = best(
        data, order_curves.polynomial(data.temperature, degree)[None], np.zeros((1, len(data)))
    )
    places = np.linspace(data.temperature[0], data.temperature[-1], 200)
    curve = order_curves.polynomial(places, degree) @ amplitudes[0]
    return Order(
        answer=answer,
        ratio=ratio,
        t_c=None,
        exponent=None,
        covariance=0.0,
        kind="not determined",
        kind_ratio=0.0,
        cold=cold,
        warm=warm,
        limit=change,
        fitted=(float(data.temperature[0]), float(data.temperature[-1])),
        bad=tuple(np.flatnonzero(good[0] < 0.1).tolist()),
        shape=Shape(),
        curve=np.stack([places, curve], axis=1),
    )
