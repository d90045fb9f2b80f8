r"""Fit an order parameter: at which temperature a reflection appears, how, and if it does.

The likelihood of the counts is averaged over a grid of T_c, exponent and shapes of the curve
(`order_curves.Shape`); at each point of the grid the amplitudes have their best values. So
intervals of T_c and exponent contain what the shape leaves open (saturation, critical scattering,
smearing, a static intensity that changes), and they need not be symmetric. Ratios of averaged
likelihoods decide between a transition and a smooth change, and between first order and continuous.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

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
_FAR = 9.0  # shapes and grid points whose log-likelihood is lower by more do not count
_LEVELS = 6  # of finer grids
_RESOLVED = 24  # points of a fine grid within two units of the highest log-likelihood
_BLUR = (0.1, 0.02)  # errors over the change of the intensity, for the first searches
_STATIC = (0, 1, 2)  # degrees of the smooth curves without a transition

# Saturation, with its probability: ln θ is uniform, and a small θ is as none.
_SATURATED = (
    (Shape(), 0.3),
    *((Shape(saturation=s), 0.14) for s in (0.6, 1.3)),
    (Shape(two_states=True), 0.14),
    *((Shape(power=p), 0.14) for p in (2.0, 4.0)),
)
# Critical scattering, the smearing of T_c, a static intensity that changes. For the usual box the
# width is (0.75 ξ / a)^(1/ν) with the correlation length ξ |1 - x|^-ν: 0.2 for ξ = a/2, as in the
# Ising model on a simple cubic lattice of edge a.
_PLAIN: tuple[tuple[dict[str, Any], float], ...] = (
    ({}, 0.4),
    *(({"critical": w}, 0.15) for w in (0.03, 0.1, 0.3)),
    ({"smearing": 0.02}, 0.1),
    ({"slope": True}, 0.05),
)
_JUMPS = (0.2, 0.35, 0.5, 0.7, 0.85)


def shapes(saturated: Sequence[tuple[Shape, float]] = _SATURATED) -> dict[Shape, float]:
    """Return the shapes with their probabilities; both kinds of transitions have the same.

    Parameters
    ----------
    saturated : sequence of (Shape, float)
        Continuous shapes far from the transition, with their probabilities; the first is a power
        law, the second also belongs to jumps.
    """
    continuous = {
        replace(shape, **more): 0.5 * p * q for shape, p in saturated for more, q in _PLAIN
    }
    second = saturated[1][0]
    step = [
        *(Shape(jump=j) for j in _JUMPS),
        *(replace(second, jump=j) for j in _JUMPS[1::2]),
        Shape(jump=1.0),
        Shape(jump=1.0, smearing=0.01),
        Shape(slope=True, jump=0.5),
        Shape(slope=True, jump=1.0),
    ]
    return continuous | {shape: 0.5 / len(step) for shape in step}


@dataclass(frozen=True)
class Interval:
    """A number with its standard deviation, and its intervals of 68 % and 95 %."""

    value: float
    sigma: float
    inner: tuple[float, float]
    outer: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers by their names, JSON-ready."""
        return {"value": self.value, "sigma": self.sigma, "68 %": self.inner, "95 %": self.outer}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Interval":
        """Return the interval from the result of `to_dict`."""
        return cls(data["value"], data["sigma"], tuple(data["68 %"]), tuple(data["95 %"]))


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
    above : bool
        True if the reflections appear above T_c, which `order_along.fit` tries for other axes than
        temperature. All words above then hold for the other direction.
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
    above: bool = False


@dataclass(frozen=True)
class _Patch:
    """Part of the plane of T_c and exponent in which a shape is likely.

    Attributes
    ----------
    shape : Shape
    prior : float
        Probability of the shape before the data.
    t_c, exponent : (a,) and (b,) arrays
        T_c in equal steps, the exponent in equal steps of its logarithm.
    value : (a, b) array
        Log-likelihoods with the best amplitudes, less the cost of the amplitudes.
    """

    shape: Shape
    prior: float
    t_c: Floats
    exponent: Floats
    value: Floats

    def weight(self, span: float) -> Floats:
        """Return ln of the posterior mass of each cell; T_c is uniform, n uniform in ln n."""
        cell = (self.t_c[1] - self.t_c[0]) / span
        if len(self.exponent) > 1:
            cell *= np.log(self.exponent[1] / self.exponent[0]) / np.log(
                np.divide(*_EXPONENTS[::-1])
            )
        weight: Floats = self.value + np.log(cell * self.prior)
        return weight


def _patch(data: Counts, shape: Shape, prior: float, t_c: Floats, exponent: Floats) -> _Patch:
    if shape.jump == 1:  # the exponent has no effect
        exponent = exponent[:1]
    place, power = (x.ravel() for x in np.meshgrid(t_c, exponent, indexing="ij"))
    curves = order_curves.terms(data.temperature, data.temperature_sigma, place, power, shape)
    likelihood = best(data, *curves, order_curves.widths(shape))[1].reshape(len(t_c), len(exponent))
    # Critical scattering costs nothing: most continuous transitions have it.
    return _Patch(shape, prior, t_c, exponent, likelihood - _cost(data, 2 + shape.slope))


def _cost(data: Counts, terms: int) -> float:
    return 0.5 * terms * float(np.log(len(data)))


def _log_sum(value: Floats) -> float:
    if not value.size:  # all scans have the same temperature
        return -np.inf
    highest = float(value.max())
    return highest + float(np.log(np.exp(value - highest).sum()))


def _reach(patch: _Patch) -> Floats:
    """Return how high the likelihood can be within half a step of each point of the grid."""
    reach = patch.value.copy()
    for axis in (0, 1):
        if patch.value.shape[axis] > 2:
            ends = np.pad(patch.value, [(1, 1) if i == axis else (0, 0) for i in (0, 1)], "edge")
            reach += np.abs(np.diff(ends, 2, axis=axis)) / 4
    return reach


def _resolved(patch: _Patch) -> bool:
    return bool((patch.value > patch.value.max() - 2).sum() >= _RESOLVED)


def _closer(data: Counts, patch: _Patch) -> _Patch:
    """Return a finer grid where the likelihood is high."""
    near = _reach(patch) > patch.value.max() - _FAR
    t_c = np.linspace(*_between(patch.t_c, near.any(axis=1)), 31)
    exponent = patch.exponent
    if len(exponent) > 1:
        exponent = np.geomspace(*_between(exponent, near.any(axis=0)), 11)
    return _patch(data, patch.shape, patch.prior, t_c, exponent)


def _likely(patches: Sequence[_Patch]) -> list[_Patch]:
    """Return the patches that may have a part of the posterior of their kind of transition."""
    heights = np.array([float(patch.value.max()) + np.log(patch.prior) for patch in patches])
    reach = np.array([float(_reach(patch).max()) + np.log(patch.prior) for patch in patches])
    jumps = np.array([patch.shape.jump > 0 for patch in patches])
    least = np.where(jumps, heights[jumps].max(), heights[~jumps].max()) - _FAR
    return [patch for patch, use in zip(patches, reach > least, strict=True) if use]


def _between(axis: Floats, use: NDArray[np.bool_]) -> tuple[float, float]:
    hit = np.flatnonzero(use)
    return float(axis[max(hit[0] - 1, 0)]), float(axis[min(hit[-1] + 1, len(axis) - 1)])


def fit(data: Counts, tried: Mapping[Shape, float] | None = None) -> Order:
    """Return what the counts of one vector say; scans from cold to warm.

    Parameters
    ----------
    tried : mapping, optional
        Probability of each shape of the curve before the data; default: `shapes`.
    """
    coldest, hottest = float(data.temperature[0]), float(data.temperature[-1])
    smooth = max(_smooth(data, degree) for degree in _STATIC)
    t_c = np.linspace(coldest, hottest + _ABOVE * _span(data), 2 * len(data) + 1)[1:]
    exponent = np.geomspace(*_EXPONENTS, 7)
    first, *sharper = stages = _blurred(data)
    tried = shapes() if tried is None else tried
    patches = [_patch(first, shape, prior, t_c, exponent) for shape, prior in tried.items()]
    highest = _evidence(data, [replace(patch, value=_reach(patch)) for patch in patches])
    if sharper or highest - smooth > _CLAIM:
        for counts in stages:
            if counts is not first:
                patches = [_closer(counts, patch) for patch in patches]
            patches = _fine(counts, patches, _LEVELS if counts is data else 1)
    return _posterior(data, patches, smooth)


def _blurred(data: Counts) -> list[Counts]:
    """Return the counts with larger errors first, so that a coarse grid finds a narrow maximum.

    The last ones have their own errors; larger ones are left out if noise is larger.
    """
    change = float(np.ptp(data.intensity)) * data.factor
    noise = float(np.min(data.sigma * data.factor / np.maximum(change, 1e-9)))
    return [
        *(
            replace(data, background_var=data.background_var + (blur * change) ** 2)
            for blur in _BLUR
            if blur > noise
        ),
        data,
    ]


def _fine(data: Counts, patches: Sequence[_Patch], levels: int) -> list[_Patch]:
    """Return the likely patches on grids that resolve them."""
    likely = _likely(patches)
    for _ in range(levels):
        if all(_resolved(patch) for patch in likely):
            break
        likely = _likely([x if _resolved(x) else _closer(data, x) for x in likely])
    return likely


def _evidence(data: Counts, patches: Sequence[_Patch]) -> float:
    """Return ln of the likelihood of a transition between the temperatures of the scans."""
    span, hottest = _span(data), float(data.temperature[-1])
    return _log_sum(
        np.concatenate([patch.weight(span)[patch.t_c <= hottest].ravel() for patch in patches])
    )


def _span(data: Counts) -> float:
    return max(float(np.ptp(data.temperature)), 1e-6)


def _smooth(data: Counts, degree: int) -> float:
    curves = order_curves.polynomial(data.temperature, degree)[None]
    likelihood = best(data, curves, np.zeros((1, len(data))))[1][0]
    return float(likelihood) - _cost(data, degree + 1)


def _interval(axes: Sequence[Floats], masses: Sequence[Floats]) -> Interval:
    """Return mean, σ and central intervals of a sum of densities, each in cells about its points.

    Masses need not be normalised.
    """
    total = sum(float(mass.sum()) for mass in masses)
    edges = [np.concatenate([axis[:1], (axis[1:] + axis[:-1]) / 2, axis[-1:]]) for axis in axes]
    mean = sum(float(mass @ axis) for axis, mass in zip(axes, masses, strict=True)) / total
    square = sum(
        float(mass @ ((axis - mean) ** 2 + np.diff(edge) ** 2 / 12))
        for axis, edge, mass in zip(axes, edges, masses, strict=True)
    )
    places = np.unique(np.concatenate(edges))
    below = np.zeros(len(places))
    for edge, mass in zip(edges, masses, strict=True):
        below += np.interp(places, edge, np.concatenate([[0.0], np.cumsum(mass)])) / total
    ends = np.interp([0.1587, 0.8413, 0.025, 0.975], below, places)
    return Interval(mean, float(np.sqrt(square / total)), (ends[0], ends[1]), (ends[2], ends[3]))


def _posterior(data: Counts, patches: Sequence[_Patch], smooth: float) -> Order:
    """Return the answer from the likelihoods of all shapes and those of smooth curves."""
    span = _span(data)
    hottest = float(data.temperature[-1])
    weights = [patch.weight(span) for patch in patches]
    ratio = _evidence(data, patches) - smooth
    if ratio <= _CLAIM:
        return _without(data, "none" if ratio < _NONE else "not determined", ratio)
    jumps = np.array([patch.shape.jump for patch in patches])
    first, continuous = (
        _log_sum(np.concatenate([w.ravel() for w, use in zip(weights, rows, strict=True) if use]))
        for rows in (jumps > 0, jumps == 0)
    )
    kind_ratio = float(np.clip(first - continuous, -99, 99))
    kind: Kind = "not determined"
    if abs(kind_ratio) > _ORDER:
        kind = "first order" if kind_ratio > 0 else "continuous"
    highest = max(float(w.max()) for w in weights)
    masses = [np.exp(w - highest) for w in weights]
    places = [patch.t_c for patch in patches]
    t_c = _interval(places, [mass.sum(axis=1) for mass in masses])
    outside = sum(float(m[x > hottest].sum()) for x, m in zip(places, masses, strict=True))
    determined = t_c.sigma < _WIDEST * span and outside < 0.05 * sum(float(m.sum()) for m in masses)
    exponent, covariance = None, 0.0
    if kind != "first order" and determined:
        exponent, covariance = _exponent(
            [(patch, m) for patch, m in zip(patches, masses, strict=True) if patch.shape.jump == 0]
        )
    likely = max(patches, key=lambda patch: float(patch.value.max()))
    i, j = np.unravel_index(np.argmax(likely.value), likely.value.shape)
    drawn, bad = _curve(data, likely.shape, float(likely.t_c[i]), float(likely.exponent[j]))
    under = data.temperature < t_c.value
    cold = _mean(data, under)
    return Order(
        answer="transition",
        ratio=ratio,
        t_c=t_c if determined else None,
        exponent=exponent,
        covariance=covariance,
        kind=kind if determined else "not determined",
        kind_ratio=kind_ratio,
        cold=cold,
        warm=_mean(data, ~under),
        limit=cold[0] + 1.645 * cold[1],
        fitted=(float(data.temperature[0]), hottest),
        bad=bad,
        shape=likely.shape,
        curve=drawn,
    )


def _exponent(parts: Sequence[tuple[_Patch, Floats]]) -> tuple[Interval | None, float]:
    """Return the exponent, and its covariance with T_c, from the continuous shapes."""
    exponent = _interval([p.exponent for p, _ in parts], [m.sum(axis=0) for _, m in parts])
    if exponent.sigma > _WORST * exponent.value:
        return None, 0.0
    total = sum(float(m.sum()) for _, m in parts)
    t_c = sum(float(m.sum(axis=1) @ p.t_c) for p, m in parts) / total
    product_of = sum(float((p.t_c - t_c) @ m @ (p.exponent - exponent.value)) for p, m in parts)
    return exponent, product_of / total


def _curve(
    data: Counts, shape: Shape, t_c: float, exponent: float
) -> tuple[Floats, tuple[int, ...]]:
    """Return the curve at 200 temperatures, and the scans that disagree with it."""
    at = (np.array([t_c]), np.array([exponent]), shape)
    terms = order_curves.terms(data.temperature, data.temperature_sigma, *at)
    amplitudes, _, good = best(data, *terms, order_curves.widths(shape))
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
