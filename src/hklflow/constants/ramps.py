"""Straight lines through ramps of charge: one per pixel and gain stage, with errors.

A ramp is a series of frames with increasing charge. The digital part gives the stage of each frame.
In each stage, frames next to a switch are left out, because the output has not settled.
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
    """Settings of the line fits.

    Attributes
    ----------
    stages : int
        Number of stages: 2 (high, medium) or 3.
    trim : float
        Fraction of a stage's frames that is left out at each side next to a switch.
    floor, ceiling : float
        Range of used values, ADU.
    least : int
        Least number of frames for a line.
    settling : float
        Decay constant, in units of the ramp, of the exponential that is fitted after each switch
        in addition to the line; 0: none.
    linearity : float
        Largest systematic deviation from the line (rms), as a fraction of the rise of the line.
        Ramps with a larger deviation are marked as curved.
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
        Slope in ADU per unit of the ramp, intercept in ADU; NaN if there are too few frames. The
        errors are computed from the scatter about the line.
    residual : float array
        Standard deviation about the line, ADU.
    points : int array
        Number of fitted frames.
    reached : int array
        Number of frames of the stage between its switches, including frames left out.
    saturated : int array
        Number of frames left out as saturated.
    curved : bool array
        True if the frames do not follow a line.
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
    """Return the position of each frame on the ramp.

    Parameters
    ----------
    segments : sequence of (n, increment)
        Each of the n frames of a segment is one increment after the frame before. After the last
        segment the ramp starts again. Empty: one ramp with increment 1.
    step : (n,) array
        Number of each frame; lost frames are counted, too.

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
                f"a ramp's segment [{n}, {increment}] must have frames and rise; use [n, "
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
    """Fit the lines of each pixel.

    If a threshold is unknown, the stages are separated at the gaps between the pixel's digital
    levels.

    Parameters
    ----------
    frames : CellFrames
        n frames (ss, fs).
    x : (n,) array
        Positions of the frames on the ramp.
    thresholds : (2, ss, fs) array
        Digital levels above which the next stage begins; NaN: unknown.
    digital : {"level", "stage"}
        Meaning of the digital part.
    fit : Fit
    """
    shape = frames.analog.shape[1:]
    order = np.argsort(x, kind="stable")
    # Frames of one pixel next to each other in memory, because they are processed together.
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
    """Return the ratio of the slopes of a stage and the stage before, and its error; (ss, fs)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        value = lines.slope[upper] / lines.slope[upper - 1]
        relative = [lines.slope_errors[g] / lines.slope[g] for g in (upper, upper - 1)]
    return value, np.abs(value) * np.hypot(*relative)


def outliers(
    values: NDArray[Any], n_sigma: float, among: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Mark values further from the median than n robust standard deviations (1.4826 MAD).

    Values without any scatter, such as one default for all pixels, have no outliers; values that
    are not finite are not outliers.

    Parameters
    ----------
    values : array
    n_sigma : float
    among : bool array, optional
        Values used for the median and the deviation; None: all.
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
