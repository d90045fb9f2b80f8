"""Straight lines through ramps of charge: one per pixel and stage of gain, with errors.

A ramp is frames of growing charge. The digital part says which stage each frame was measured in;
of a stage, the frames next to a switch are left out, for the output settles there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.gathered import CellFrames
from hklflow.constants.ramps_kernels import fit_pixels

Floats = NDArray[np.float64]
Segments = Sequence[tuple[int, float]]


class Fit(NamedTuple):
    """How lines are fitted.

    Attributes
    ----------
    stages : int
        2 (high, medium) or 3, from the first one.
    trim : float
        Fraction of a stage's frames that is left out on each side next to a switch.
    floor, ceiling : float
        ADU between which a value is believed.
    least : int
        Frames that a line needs.
    settling : float
        Decay constant of the exponential that is fitted after each switch beside the line, in
        units of the ramp; 0: none.
    linearity : float
        Systematic deviation from the line (rms), as a fraction of its rise, from which it is
        curved.
    """

    stages: int
    trim: float
    settling: float
    linearity: float
    floor: float
    ceiling: float
    least: int


@dataclass(frozen=True)
class Lines:
    """Lines A(x) = intercept + slope x; (3, ss, fs) arrays of the stages high, medium, low.

    Attributes
    ----------
    slope, slope_errors, intercept, intercept_errors : float arrays
        ADU per unit of the ramp, and ADU. NaN where there are too few frames. The errors are
        from the scatter about the line.
    residual : float array
        Standard deviation about the line, ADU.
    points : int array
        Frames that the line goes through.
    reached : int array
        Frames of the stage on its side of the switches, with those that were left out.
    saturated : int array
        Those of them that were left out as saturated.
    curved : bool array
        The frames follow no line.
    """

    slope: Floats
    slope_errors: Floats
    intercept: Floats
    intercept_errors: Floats
    residual: Floats
    points: NDArray[np.int64]
    reached: NDArray[np.int64]
    saturated: NDArray[np.int64]
    curved: NDArray[np.bool_]


def abscissa(segments: Segments, step: NDArray[np.int64]) -> Floats:
    """Place of each frame on the ramp.

    Parameters
    ----------
    segments : sequence of (n, increment)
        Each of n frames comes an increment after the one before. After the last segment the ramp
        starts again. None: each frame comes 1 after the one before, once.
    step : (n,) array
        Number of each frame, lost ones counted.

    Raises
    ------
    HklflowError
        If a segment has no frames or does not rise.
    """
    if not segments:
        return step.astype(np.float64)
    for n, increment in segments:
        if n < 1 or not increment > 0:
            raise HklflowError(
                f"a ramp's segment [{n}, {increment}] must have frames and rise; give [n, "
                "increment] with both above 0"
            )
    places = np.cumsum(np.repeat([s[1] for s in segments], [s[0] for s in segments]))
    return np.asarray(places[step % len(places)], np.float64)


def fit_lines(
    frames: CellFrames,
    x: Floats,
    thresholds: Floats,
    digital: str,
    fit: Fit,
) -> Lines:
    """Fit each pixel's lines.

    Where a threshold is not known, the stages are split at the gaps between the pixel's own
    levels.

    Parameters
    ----------
    frames : CellFrames
        n frames (ss, fs).
    x : (n,) array
        Abscissa.
    thresholds : (2, ss, fs) array
        Digital levels above which the next stage is taken; NaN: not known.
    digital : {"level", "stage"}
        What the digital part is.
    fit : Fit
    """
    shape = frames.analog.shape[1:]
    order = np.argsort(x, kind="stable")
    # A pixel's frames side by side: they are worked on together.
    analog, levels = (
        np.ascontiguousarray(part[order].reshape(len(x), math.prod(shape)).T)
        for part in (frames.analog, frames.digital)
    )
    limits = np.ascontiguousarray(thresholds.reshape(2, math.prod(shape)).T, np.float64)
    values = np.full((5, 3, len(analog)), np.nan)
    counts = np.zeros((3, 3, len(analog)), np.int64)
    curved = np.zeros((3, len(analog)), np.bool_)
    fit_pixels(
        np.ascontiguousarray(x[order], np.float64), analog, levels, limits, digital == "stage", fit,
        values, counts, curved,
    )  # fmt: skip
    slope, slope_errors, intercept, intercept_errors, residual = values.reshape(5, 3, *shape)
    points, reached, saturated = counts.reshape(3, 3, *shape)
    return Lines(
        slope, slope_errors, intercept, intercept_errors, residual,
        points, reached, saturated, curved.reshape(3, *shape),
    )  # fmt: skip


def ratio(lines: Lines, upper: int) -> tuple[Floats, Floats]:
    """Ratio of the slope of a stage to that of the stage before, and its error; (ss, fs)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = lines.slope[upper] / lines.slope[upper - 1]
        relative = [lines.slope_errors[g] / lines.slope[g] for g in (upper, upper - 1)]
    return value, np.abs(value) * np.hypot(*relative)


def outliers(
    values: NDArray[Any], n_sigma: float, among: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Mark values further from the median than n robust standard deviations (1.4826 MAD).

    Values without any scatter, such as one number that was given for all, have no outliers; what
    is not finite is none.

    Parameters
    ----------
    values : array
    n_sigma : float
    among : bool array, optional
        Values whose median and deviation are taken; None: all.
    """
    known = np.isfinite(values)
    if among is not None:
        known &= among
    if not known.any():
        return np.zeros(values.shape, bool)
    middle = np.median(values[known])
    sigma = 1.4826 * np.median(np.abs(values[known] - middle))
    with np.errstate(invalid="ignore"):
        return np.asarray((np.abs(values - middle) > n_sigma * sigma) & (sigma > 0))
