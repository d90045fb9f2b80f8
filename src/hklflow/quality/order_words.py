"""Sentences on the order parameter of a propagation vector."""

import math
from collections.abc import Sequence

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.bragg.order_parameter import Interval, Order

_STATIC = 3.0  # intensity above T_c, in standard deviations, that is called static
_NEGATIVE = -3.0  # the same, below which the background must be wrong
_UNEVEN = 1.5  # ratio of the two sides of an interval above which both are written
_FEW_ZEROS = 4  # largest power of ten of a number that is written without it


def number(x: Interval, unit: str = "") -> str:
    """Write a number with its σ; the interval of 68 % if it is not symmetric."""
    low, high = x.value - x.inner[0], x.inner[1] - x.value
    digits = decimals(x.sigma)
    if min(low, high) > 0 and max(low, high) < _UNEVEN * min(low, high):
        return f"{x.value:.{digits}f} ± {x.sigma:.{digits}f}{unit}"
    first, last = (f"{y:.{digits}f}" for y in x.inner)
    return f"{x.value:.{digits}f}{unit} (68 %: {first} to {last}{unit})"


def sentence(vector: str, order: Order, scans: Sequence[str], axis: Axis = TEMPERATURE) -> str:
    """Return what the intensities of a vector say; nothing that they do not carry.

    Parameters
    ----------
    vector : str
        The vector as text.
    scans : sequence of str
        Names of the scans, from cold to warm.
    axis : Axis
        Axis of the series.
    """
    if order.warm[0] < _NEGATIVE * order.warm[1]:
        pull = order.warm[0] / order.warm[1]
        return _answer(vector, order, axis) + (
            f"; but the mean intensity where they should be absent is {pull:.0f} σ, "
            "and cannot be negative: the diffuse scattering around the vector is not what its "
            "shell says; reduce `order_parameters: box` and `shell`, or follow it with `features`"
        )
    bad = ", ".join(scans[i] for i in order.bad)
    return _answer(vector, order, axis) + (
        f"; look at {bad}, which is not on the curve" if bad else ""
    )


def _answer(vector: str, order: Order, axis: Axis) -> str:
    low, high = order.fitted
    span = axis.between(low, high)
    # Along another axis reflections appear or vanish.
    thermal = axis.is_temperature
    course = axis.course
    appears = f"appears {course}" if thermal else f"appears or vanishes {course}"
    end = "0 K" if thermal else axis.at(high if order.above else low)
    name = f"reflections at {vector}"
    limit = f"{order.limit:.2g}"
    if order.answer == "none":
        return (
            f"{name} show no transition {span}: less than {limit} (95 % limit of the mean "
            f"intensity) {appears}"
        )
    if order.answer == "not determined":
        return (
            f"{name}: the data do not determine if there is a transition {span}; less than "
            f"{limit} (95 % limit of the mean intensity) {appears}"
        )
    if order.t_c is None:
        verb = "become stronger" if thermal or order.above else "become weaker"
        return f"{name} {verb} {course} {span}, but the data do not determine {axis.onset}"
    static = order.warm[0] > _STATIC * order.warm[1]
    verbs = ("grow", "appear") if thermal or order.above else ("weaken", "vanish")
    words = [f"at {axis.onset} = {number(order.t_c, axis.suffix)} {name} {verbs[not static]}"]
    words[0] += f" {course}"
    if order.kind == "continuous":
        words.append(f"continuous (a jump of more than 20 % of the intensity at {end} is excluded)")
    elif order.kind == "first order":
        words.append("of first order (the intensity jumps)")
    else:
        words.append("continuous or of first order: not determined")
    if order.exponent is not None:
        beta = Interval(
            order.exponent.value / 2,
            order.exponent.sigma / 2,
            _halved(order.exponent.inner),
            _halved(order.exponent.outer),
        )
        given = "" if order.kind == "continuous" else "if continuous, "
        difference = f"{axis.onset} − {axis.symbol}"
        if order.above:
            difference = f"{axis.symbol} − {axis.onset}"
        words.append(
            f"{given}I ∝ ({difference})^n with n = {number(order.exponent)} (fitted {span}; for a "
            f"primary order parameter β = n/2 = {number(beta)})"
        )
    elif order.kind == "continuous":
        words.append("the exponent is not determined")
    text = "; ".join(words)
    if static:
        sides = ("above", "below") if order.above else ("below", "above")
        text += (
            f"; {order.warm[0] / order.cold[0]:.0%} of the mean intensity {sides[0]} {axis.onset} "
            f"is there {sides[1]} {axis.onset} too (critical scattering, λ/2, multiple diffraction "
            "or another phase)"
        )
    return text


def _halved(x: tuple[float, float]) -> tuple[float, float]:
    return x[0] / 2, x[1] / 2


def decimals(sigma: float) -> int:
    """Return the decimals for an error with one digit, or two from 10 to 19."""
    if not sigma > 0 or not math.isfinite(sigma):
        return 2
    last = math.floor(math.log10(sigma))
    if round(sigma / 10.0 ** (last - 1)) < 20:
        last -= 1
    return max(-last, 0)


def value_and_error(value: float, sigma: float) -> str:
    """Return a value with its error as text; S(Q) may have any unit, so it may need a power of ten.

    Examples
    --------
    >>> value_and_error(0.194, 0.0101), value_and_error(1.94e-13, 1.01e-14)
    ('0.194 ± 0.010', '(1.94 ± 0.10)e-13')
    """
    size = max(abs(value), sigma) if math.isfinite(sigma) else abs(value)
    power = math.floor(math.log10(size)) if 0 < size < math.inf else 0
    if -_FEW_ZEROS <= power <= _FEW_ZEROS:
        digits = decimals(sigma)
        return f"{value:.{digits}f} ± {sigma:.{digits}f}"
    value, sigma = value / 10.0**power, sigma / 10.0**power
    digits = decimals(sigma)
    return f"({value:.{digits}f} ± {sigma:.{digits}f})e{power:+03d}"
