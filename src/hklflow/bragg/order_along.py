r"""Fit an order parameter along an axis that may be another than temperature.

Along field, pressure, strain or time, reflections may appear on either side of the transition, and
there is no absolute zero and no law of saturation. So both sides are tried, with equal
probabilities. The curve of the intensity is :math:`A (1 - u/u_c)^n` of the distance *u* from the
end of the series on the ordered side, a power law :math:`|x - x_c|^n`; far from the transition
it may also be :math:`A (1 - (u/u_c)^p)^n`. Jumps, smearing, critical scattering and static
intensity are those of `order_parameter`, relative to the distance of the transition from this end.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hklflow.base.axis import Axis
from hklflow.bragg import order_parameter
from hklflow.bragg.order_counts import Counts
from hklflow.bragg.order_curves import Shape
from hklflow.bragg.order_parameter import Interval, Order

Floats = NDArray[np.float64]

_RANGE = 100.0  # length of the series in the fit
_DISTINCT = 3.5  # ln of the likelihood ratio of the two sides without which none is claimed
_POWERS = ((Shape(), 0.4), (Shape(power=2.0), 0.35), (Shape(power=4.0), 0.25))


def fit(data: Counts, axis: Axis) -> Order:
    """Return what the counts of one vector say; scans in ascending order of their values.

    Parameters
    ----------
    data : Counts
        Values along the axis and their errors are ``temperature`` and ``temperature_sigma``.
    """
    if axis.is_temperature:
        return order_parameter.fit(data)
    # Half the probability for each side.
    tried = {shape: p / 2 for shape, p in order_parameter.shapes(_POWERS).items()}
    sides = [
        _back(order_parameter.fit(_from_end(data, above), tried), data, above)
        for above in (False, True)
    ]
    other, best = sorted(sides, key=lambda order: order.ratio)
    ratio = float(np.logaddexp(other.ratio, best.ratio))
    if best.answer == "transition":
        clear = best.ratio - other.ratio > _DISTINCT
        return replace(best, ratio=ratio) if clear else _open(best, other, ratio)
    if best.answer == "not determined":
        return _open(best, other, ratio)
    return replace(best, ratio=ratio, limit=max(best.limit, other.limit))


def _open(best: Order, other: Order, ratio: float) -> Order:
    """Return the answer of a series that does not determine if, or where, reflections appear."""
    return replace(
        best,
        answer="not determined",
        ratio=ratio,
        t_c=None,
        exponent=None,
        covariance=0.0,
        kind="not determined",
        limit=max(best.limit, other.limit),
    )


def _scale(data: Counts) -> float:
    """Return the length of the series over that in the fit."""
    return max(float(np.ptp(data.temperature)) / _RANGE, 1e-300)


def _from_end(data: Counts, above: bool) -> Counts:
    """Return the counts along the distance from the first scan or, above, from the last."""
    rows = np.arange(len(data))[:: -1 if above else 1]
    turned = data.select(rows)
    distance = np.abs(turned.temperature - turned.temperature[0]) / _scale(data)
    return replace(
        turned, temperature=distance, temperature_sigma=turned.temperature_sigma / _scale(data)
    )


def _back(order: Order, data: Counts, above: bool) -> Order:
    """Return the answer in values along the axis."""
    sign = -1.0 if above else 1.0
    step, start = sign * _scale(data), float(data.temperature[-1 if above else 0])

    def interval(x: Interval) -> Interval:
        inner, outer = ([start + step * end for end in ends] for ends in (x.inner, x.outer))
        return Interval(
            start + step * x.value,
            abs(step) * x.sigma,
            (min(inner), max(inner)),
            (min(outer), max(outer)),
        )

    curve = np.stack([start + step * order.curve[:, 0], order.curve[:, 1]], axis=1)
    last = len(data) - 1
    return replace(
        order,
        t_c=None if order.t_c is None else interval(order.t_c),
        covariance=step * order.covariance,
        fitted=(float(data.temperature[0]), float(data.temperature[-1])),
        bad=tuple(sorted(last - i for i in order.bad)) if above else order.bad,
        curve=curve[:: -1 if above else 1],
        above=above,
    )
