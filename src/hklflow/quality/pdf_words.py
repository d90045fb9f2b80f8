"""Sentences on the ΔPDF at vectors against temperature."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.quality.order_words import decimals, value_and_error
from hklflow.volumes.pdf_changes import Changes

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MOST = 8  # vectors that get a sentence of their own
_COMMON = 4.0  # deviation of a common factor that is claimed, in standard deviations
_CONTRARY = 3.0  # change against the direction that makes a course not monotone, in σ
_BETTER = 10.0  # difference of χ² by which a step or a straight line is the better course
_FITS = 0.01  # probability of χ² above which a course fits
_FEWEST = 4  # temperatures that tell a step from a straight line


@dataclass(frozen=True)
class Course:
    """ΔPDF of the scans of a parent at n vectors, from cold to warm, divided by their scales.

    Attributes
    ----------
    scans : sequence of str
    temperature : (T,) array
        K.
    reference : int
        Index of the parent, or of the warmest scan if the parent is not in the series.
    vectors : (n, 3) array
        In unit cells of each scan.
    length : (T, n) array
        Å, with the cell of each scan.
    value, sigma : (T, n) arrays
        S per Å³; σ contains the fill and the error of the scale.
    difference, difference_sigma : (T, n) arrays
        Value minus that of the reference.
    tested : (n,) bool array
        Vectors that are tested for a change.
    used : (U,) int array
        Scans that are compared; the first dimension of ``changes``.
    changes : Changes or None
        Result for the ``used`` scans and these vectors; None if nothing is tested.
    rate : float
        Share of false discoveries.
    heat : (T,) array
        Common factor that the Debye-Waller factor of the reflections gives at most; the least is 1.
    scale_sigma : (T,) array
        Relative error of each scale.
    notes : sequence of str
        What was not compared, why, and what to do.
    """

    scans: Sequence[str]
    temperature: Floats
    reference: int
    vectors: Floats
    length: Floats
    value: Floats
    sigma: Floats
    difference: Floats
    difference_sigma: Floats
    tested: Bools
    used: NDArray[np.int64]
    changes: Changes | None
    rate: float
    heat: Floats
    scale_sigma: Floats
    notes: Sequence[str]


@dataclass(frozen=True)
class Way:
    """How a vector changes.

    Attributes
    ----------
    change, sigma : float
        Coldest minus warmest scan, without what is common to all vectors.
    monotone : bool
        True if no scan contradicts the direction of the change.
    step : (colder, warmer) or None
        Temperatures between which the change is a step, if that describes it best.
    linear : bool
        True if a straight line in T describes the change best.
    """

    change: float
    sigma: float
    monotone: bool
    step: tuple[float, float] | None
    linear: bool


def way(temperature: Floats, value: Floats, sigma: Floats) -> Way:
    """Return how a value (T,) changes with T, from cold to warm."""
    change, error = float(value[0] - value[-1]), math.hypot(float(sigma[0]), float(sigma[-1]))
    sign = 1.0 if change > 0 else -1.0
    # A rise on heating where the value should fall, between any two scans.
    contrary = sign * (value[None, :] - value[:, None]) / np.hypot(sigma[None, :], sigma[:, None])
    monotone = not np.any(np.triu(contrary, 1) > _CONTRARY)
    step, linear = None, False
    places = [i for i in range(1, len(value)) if temperature[i] > temperature[i - 1]]
    if len(places) + 1 >= _FEWEST:
        weight = 1 / sigma**2
        # One free place makes a step as flexible as a line.
        steps = [_chi2(np.arange(len(value)) < i, value, weight) for i in places]
        best = places[int(np.argmin(steps))]
        line = _chi2(temperature, value, weight)
        if line - min(steps) > _BETTER and chi2.sf(min(steps), len(value) - 3) > _FITS:
            step = (float(temperature[best - 1]), float(temperature[best]))
        linear = min(steps) - line > _BETTER and chi2.sf(line, len(value) - 2) > _FITS
    return Way(change, error, monotone, step, linear)


def _chi2(course: NDArray[np.generic], value: Floats, weight: Floats) -> float:
    """Return χ² of a course with free amplitude and level."""
    design = np.stack([np.ones(len(value)), np.asarray(course, dtype=np.float64)], axis=1)
    root = np.sqrt(weight)
    fitted = np.linalg.lstsq(design * root[:, None], value * root, rcond=None)[0]
    return float(np.sum(weight * (value - design @ fitted) ** 2))


def vector_name(vector: Floats) -> str:
    """Write a vector in unit cells, such as (1 0 -1)."""
    return f"({' '.join(f'{x:.4g}' for x in vector + 0.0)})"


def strongest(course: Course) -> NDArray[np.int64]:
    """Return the numbers of the vectors that change, the most significant first."""
    if course.changes is None:
        return np.zeros(0, np.int64)
    rows = np.flatnonzero(course.changes.changed)
    return rows[np.argsort(-course.changes.chi2[rows], kind="stable")]


def sentences(course: Course, axis: Axis = TEMPERATURE) -> list[str]:
    """Return what the values say; nothing that they do not carry."""
    found = course.changes
    if found is None:
        return list(course.notes)
    t = course.temperature[course.used]
    span = axis.between(*axis.ends(t.tolist()))
    rows = strongest(course)
    n, rate = int(course.tested.sum()), f"false discovery rate {course.rate:.0%}"
    beyond = "beyond noise, fill and a common factor"
    if not found.fitted:
        beyond = "beyond noise, fill, and scale and Debye-Waller factor of the reflections"
    if len(rows) == 0:
        said = [f"3D-ΔPDF: none of {n} vectors changes {span} {beyond} ({rate})"]
    else:
        verb = "change" if len(rows) > 1 else "changes"
        said = [f"3D-ΔPDF: of {n} vectors {len(rows)} {verb} {span} {beyond} ({rate})"]
        said += [_of_vector(course, found, int(i), t, axis) for i in rows[:_MOST]]
    return [*said, *_of_factor(course, found, axis), *course.notes]


def _of_vector(course: Course, found: Changes, i: int, t: Floats, axis: Axis) -> str:
    """Return how a vector changes, as one sentence."""
    value, sigma = found.departure[:, i], found.sigma[:, i]
    how = way(t, value, sigma)
    start, end = axis.ends(list(range(len(t))))
    first, last = (value_and_error(float(value[k]), float(sigma[k])) for k in (start, end))
    length = course.length[course.reference, i]
    name = f"{vector_name(course.vectors[i])} at {length:.2f} Å"
    if not how.monotone or abs(how.change) < _CONTRARY * how.sigma:
        low, high = int(np.argmin(value)), int(np.argmax(value))
        ends = [
            f"{value_and_error(float(value[k]), float(sigma[k]))} at {axis.at(t[k])}"
            for k in (low, high)
        ]
        return f"{name} does not change steadily: least {ends[0]}, largest {ends[1]}"
    # The change is that from warm to cold.
    verb = "rises" if (how.change > 0) == axis.is_temperature else "falls"
    ends = [axis.at(t[k]) for k in (start, end)]
    text = f"{name} {verb} {axis.course} from {first} at {ends[0]} to {last} at {ends[1]}"
    if how.step is not None:
        text += f", in a step {axis.between(*axis.ends(list(how.step)))}"
    elif how.linear:
        text += ", steadily"
    return text


def _of_factor(course: Course, found: Changes, axis: Axis) -> list[str]:
    """Return a sentence if all vectors share a factor that the scales do not explain."""
    own = course.scale_sigma[course.used]
    error = np.hypot(found.factor_sigma / found.factor, own)
    away = np.log(found.factor) / np.maximum(error, 1e-9)
    i = int(np.argmax(np.abs(away)))
    if not found.fitted or abs(away[i]) < _COMMON:
        return []
    scan, heat = course.used[i], course.heat[course.used[i]]
    factor, sigma = float(found.factor[i]), float(found.factor[i] * error[i])
    digits = decimals(sigma)
    text = (
        f"3D-ΔPDF: all vectors have a common factor, {factor:.{digits}f} ± {sigma:.{digits}f} at "
        f"{axis.at(course.temperature[scan])} compared with {course.scans[course.reference]}"
    )
    low, high = sorted((float(heat), 1.0))
    if low - 2 * sigma <= factor <= high + 2 * sigma and abs(heat - 1) > sigma:
        return [f"{text}; the Debye-Waller factor of the reflections explains {heat:.2f} to 1"]
    return [
        f"{text}, beyond scale and Debye-Waller factor of the reflections: correlations change as "
        "a whole, as those of thermal displacements do, or the scale is wrong"
    ]
