"""Sentences on a diffuse feature against temperature."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.quality.order_words import decimals, value_and_error
from hklflow.series.feature_fit import Fit, Interval

UNCHANGED = "does not change beyond errors"
"""Words of a sentence on a length that is the same in all scans."""
_BAD = 2.0  # χ² per degree of freedom above which the line shape does not fit
_CHANGE = 4.0  # change that is claimed, in standard deviations


@dataclass(frozen=True)
class Course:
    """Fits of a feature in the scans of a parent, from cold to warm.

    Attributes
    ----------
    name : str
        The feature in words, such as "rods along c* at (1/2, 1/2, l)".
    axes : sequence of str
        Names of the axes of the correlation lengths.
    temperatures : sequence of float
        K.
    fits : sequence of Fit or None
        None if no copy was measured.
    intensity_sigma : sequence of float
        Standard deviations of the intensities, with the error of the scale.
    """

    name: str
    axes: Sequence[str]
    temperatures: Sequence[float]
    fits: Sequence[Fit | None]
    intensity: Sequence[float]
    intensity_sigma: Sequence[float]


def length(xi: Interval, determined: str) -> str:
    """Write a correlation length with its error or limit."""
    if determined == "longer":
        return f"more than {_rounded(xi.limit[0])} Å"
    if determined == "shorter":
        return f"less than {_rounded(xi.limit[1])} Å"
    low, high = xi.value - xi.inner[0], xi.inner[1] - xi.value
    n = decimals(xi.sigma)
    if max(low, high) < 1.5 * min(low, high):
        return f"{xi.value:.{n}f} ± {xi.sigma:.{n}f} Å"
    return f"{xi.value:.{n}f} Å (68 %: {xi.inner[0]:.{n}f} to {xi.inner[1]:.{n}f} Å)"


def _rounded(x: float) -> str:
    return f"{float(f'{x:.2g}'):g}"


def sentences(course: Course, along: Axis = TEMPERATURE) -> list[str]:
    """Return what the fits say; changes are said only if they are significant."""
    rows = [i for i, fit in enumerate(course.fits) if fit is not None and fit.seen]
    measured = [i for i, fit in enumerate(course.fits) if fit is not None]
    if not measured:
        return [f"{course.name}: not measured; no copy lies in the measured part of the volumes"]
    span = along.between(*(course.temperatures[i] for i in along.ends(measured)))
    if not rows:
        i = measured[0]
        limit = max(course.intensity[i], 0) + 1.645 * course.intensity_sigma[i]
        return [
            f"{course.name} are not seen {span}: the mean intensity at "
            f"{along.at(course.temperatures[i])} is below {limit:.2g} (95 %)"
        ]
    found = []
    ends = along.ends(rows)
    pair = along.between(*(course.temperatures[i] for i in ends))
    for number, axis in enumerate(course.axes):
        found.append(_of_length(course, number, axis, ends, pair, along))
    found += _of_intensity(course, ends, pair, along)
    found += _of_position(course, ends, pair, along)
    worst = max(x.chi2 / x.freedom for x in course.fits if x is not None and x.seen)
    if worst > _BAD:
        found.append(
            f"{course.name}: the line shape does not fit (χ² per degree of freedom up to "
            f"{worst:.1f}); errors are enlarged, but the correlation lengths are doubtful"
        )
    gone = [along.at(course.temperatures[i]) for i in measured if i not in rows]
    if gone:
        found.append(f"{course.name} are not seen at {', '.join(gone)}")
    return found


def _of_length(
    course: Course, number: int, axis: str, ends: tuple[int, int], pair: str, along: Axis
) -> str:
    first, last = (course.fits[i] for i in ends)
    assert first is not None
    assert last is not None
    a, b = first.xi[number], last.xi[number]
    texts = [length(x.xi[number], x.determined[number]) for x in (first, last)]
    if ends[0] == ends[1]:
        value = along.at(course.temperatures[ends[0]])
        return f"{course.name}: ξ along {axis} is {texts[1]} at {value}"
    change = change_of(a, b)
    if abs(change) < _CHANGE:
        return f"{course.name}: ξ along {axis} {UNCHANGED} {pair}: {texts[0]} and {texts[1]}"
    verb = "sharpen" if change > 0 else "broaden"
    return (
        f"{course.name} {verb} {along.course}: ξ along {axis} from {texts[0]} to {texts[1]} {pair}"
    )


def change_of(a: Interval, b: Interval) -> float:
    """Return ln(b/a) in standard deviations, from the ends of the intervals between them."""
    if b.value < a.value:
        return -change_of(b, a)
    # The half of each interval that faces the other value.
    up = math.log(a.inner[1] / a.value) if math.isfinite(a.inner[1]) else math.inf
    down = math.log(b.value / b.inner[0]) if b.inner[0] > 0 else math.inf
    error = math.hypot(up, down)
    return math.log(b.value / a.value) / error if error > 0 else 0.0


def _of_intensity(course: Course, ends: tuple[int, int], pair: str, along: Axis) -> list[str]:
    a, b = (course.intensity[i] for i in ends)
    error = math.hypot(*(course.intensity_sigma[i] for i in ends))
    if ends[0] == ends[1] or not abs(b - a) > _CHANGE * error:
        return []
    texts = [value_and_error(course.intensity[i], course.intensity_sigma[i]) for i in ends]
    verb = "grows" if b > a else "decreases"
    return [
        f"{course.name}: the integrated intensity {verb} {along.course}, from {texts[0]} to "
        f"{texts[1]} {pair}"
    ]


def _of_position(course: Course, ends: tuple[int, int], pair: str, along: Axis) -> list[str]:
    first, last = (course.fits[i] for i in ends)
    assert first is not None
    assert last is not None
    found = []
    for i, axis in enumerate("hkl"):
        move = float(last.shift[i] - first.shift[i])
        error = math.hypot(float(first.shift_sigma[i]), float(last.shift_sigma[i]))
        if ends[0] != ends[1] and error > 0 and abs(move) > _CHANGE * error:
            n = decimals(error)
            found.append(
                f"{course.name} move by {move:.{n}f} ± {error:.{n}f} r.l.u. along {axis} "
                f"{along.course} {pair}"
            )
    return found
