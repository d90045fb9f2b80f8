"""Dark frames: offset, noise and digital level of every gain stage, and the thresholds.

Each stage is forced in its own run. Values of a pixel far from its median are left out, because
cosmic rays are not noise. The mean and the spread of the other values are the parameters of a
normal distribution that is cut at the same limits and rounded to integers, so that neither the cut
nor the rounding biases them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import erf, exp, pi, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.base import Process
from hklflow.constants.detectors import STAGES
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.gathered import CellFrames
from hklflow.constants.status import Bit
from hklflow.simd.jit import kernel

F64 = NDArray[np.float64]
U16 = NDArray[np.uint16]

#: Variance added by rounding to integers.
ROUNDING = 1 / 12

# Median absolute deviation of a normal distribution of width 1.
_MAD = 0.67449


@dataclass(frozen=True)
class DarkLimits:
    """Limits for a good dark.

    Attributes
    ----------
    clip : float
        Standard deviations from the median beyond which a value is left out.
    max_clipped : float
        Largest fraction of values left out; above it, noise and offset are not reliable.
    min_frames : int
    min_separation : float
        Distance of the gain levels of neighbouring stages, in standard deviations.
    """

    clip: float
    max_clipped: float
    min_frames: int
    min_separation: float


class Dark(Process):
    """Evaluation of the dark runs of the stages high, medium, low.

    Parameters
    ----------
    digital : {"level", "stage"}
        Kind of digital output, see `gathered.About`.
    limits : DarkLimits
    """

    def __init__(self, digital: str, limits: DarkLimits) -> None:
        self._stage = digital == "stage"
        self._limits = limits

    def initiate(self, cells: int, shape: tuple[int, int]) -> dict[str, Quantity]:
        """Return arrays (3, cells, ss, fs); thresholds and separations are (2, cells, ss, fs)."""

        def unknown(stages: int, units: str = "ADU", **attrs: Any) -> Quantity:
            return Quantity(np.full((stages, cells, *shape), np.nan, np.float32), units, attrs)

        def numbers(fill: int) -> Quantity:
            return Quantity(np.full((3, cells, *shape), fill, np.uint32))

        return {
            "offset": unknown(3, source=["dark"] * 3),
            "offset_errors": unknown(3),
            "noise": unknown(3),
            "noise_errors": unknown(3),
            "level": unknown(3),
            "level_errors": unknown(3),
            "gain_threshold": unknown(2),
            "separation": unknown(2, ""),
            "n_frames": numbers(0),
            "n_wrong_stage": numbers(0),
            "constants_status": numbers(Bit.NO_DARK_DATA),
        }

    def calculate(
        self, frames: Sequence[CellFrames], cell: int, rows: slice
    ) -> Mapping[str, NDArray[Any]]:
        """Return the results of one memory cell."""
        per_stage = [
            self._stage_results(frames_of_stage, stage)
            for stage, frames_of_stage in enumerate(frames)
        ]
        results = {
            name: np.stack([frames_of_stage[name] for frames_of_stage in per_stage])
            for name in per_stage[0]
        }
        spread = results.pop("level_spread")
        if self._stage:
            steps = np.array([0.5, 1.5])[:, None, None]
            results["gain_threshold"] = np.broadcast_to(steps, (2, *spread.shape[1:]))
            return results
        threshold, separation = thresholds(results["level"], spread)
        near = np.isfinite(separation) & ~(separation >= self._limits.min_separation)
        for stage in range(2):
            results["constants_status"][stage : stage + 2] |= _bit(
                near[stage], Bit.GAIN_THRESHOLDING_ERROR
            )
        return results | {"gain_threshold": threshold, "separation": separation}

    def _stage_results(self, frames: CellFrames, stage: int) -> dict[str, NDArray[Any]]:
        limits, total = self._limits, len(frames.analog)
        wanted = stage if self._stage else -1
        analog = clipped(frames.analog, frames.digital, wanted, wanted, limits.clip)
        # With gain bits, the level is the mean over all stages that occurred.
        digital = clipped(
            frames.digital, frames.digital, *((0, 2) if self._stage else (-1, -1)),
            np.inf if self._stage else limits.clip,
        )  # fmt: skip
        n, kept = analog[0], np.maximum(analog[1], 1)
        variance = analog[3] ** 2 - ROUNDING
        noise = np.sqrt(np.maximum(variance, 0))
        few = n < limits.min_frames
        wrong = total - n
        status = _bit(analog[3] == 0, Bit.DATA_STD_IS_ZERO) | _bit(
            few | (n - analog[1] > limits.max_clipped * n), Bit.OFFSET_NOISE_EVAL_ERROR
        )
        if self._stage:
            status |= _bit(2 * wrong > total, Bit.WRONG_GAIN_VALUE)
        if total == 0:
            status |= np.uint32(Bit.NO_DARK_DATA)
        with np.errstate(divide="ignore", invalid="ignore"):
            noise_errors = analog[3] ** 2 / (noise * np.sqrt(2 * np.maximum(kept - 1, 1)))
        return {
            "offset": analog[2],
            "offset_errors": analog[3] / np.sqrt(kept),
            "noise": noise,
            "noise_errors": np.where(noise > 0, noise_errors, np.nan),
            "level": digital[2],
            "level_errors": digital[3] / np.sqrt(np.maximum(digital[1], 1)),
            "level_spread": digital[3],
            "n_frames": analog[1].astype(np.uint32),
            "n_wrong_stage": wrong.astype(np.uint32),
            "constants_status": status,
        }


def thresholds(
    level: NDArray[np.floating[Any]], spread: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the thresholds between neighbouring stages, and the separation of their levels.

    Between levels d with spreads s, the threshold is the same number of spreads from both levels:
    t = (d1 s2 + d2 s1) / (s1 + s2).

    Parameters
    ----------
    level, spread : (3, ...) arrays
        Mean and standard deviation of the digital output, ADU.

    Returns
    -------
    threshold : (2, ...) array
        Digital level between two stages, ADU.
    separation : (2, ...) array
        (d2 - d1) / sqrt(s1² + s2²), negative if the levels do not rise.
    """
    # The precision of an integer is limited by its rounding, even if it is constant.
    s = np.maximum(spread, sqrt(ROUNDING))
    threshold = (level[:-1] * s[1:] + level[1:] * s[:-1]) / (s[1:] + s[:-1])
    return threshold, (level[1:] - level[:-1]) / np.hypot(s[1:], s[:-1])


def require_order(constants: Constants, min_separation: float) -> None:
    """Require that the levels of most pixels rise from stage high to stage low.

    Pixels with levels too close together are not counted: a dead ASIC is not a user error.

    Raises
    ------
    HklflowError
        If the dark runs are interchanged.
    """
    level = constants["level"].astype(np.float64)
    if constants.about["digital"] == "stage":
        apart = np.full(level.shape, 0.35)  # the difference of two levels must exceed half a stage
    else:
        frames = np.maximum(constants["n_frames"], 1)
        spread = constants["level_errors"] * np.sqrt(frames)
        apart = min_separation * np.maximum(spread, sqrt(ROUNDING))
    swapped = []
    for upper, lower in ((0, 1), (1, 2), (0, 2)):
        if np.mean(level[upper] - level[lower] > np.hypot(apart[upper], apart[lower])) > 0.5:
            swapped += [f"dark_{STAGES[upper]} and dark_{STAGES[lower]}"]
    if swapped:
        about = constants.about
        runs = ", ".join(
            f"{measure} {' '.join(run) or '?'} has {np.nanmedian(values):.5g}"
            for measure, run, values in zip(about["measures"], about["runs"], level, strict=True)
        )
        raise HklflowError(
            f"gain levels of module {about['module']}, ASIC {about['asic']} do not rise from high "
            f"to low in most pixels (of run {runs}): {'; '.join(swapped)} are interchanged; assign "
            "each dark run to its stage"
        )


def _bit(where: NDArray[np.bool_], bit: Bit) -> NDArray[np.uint32]:
    return np.where(where, np.uint32(bit), np.uint32(0))


@kernel(error_model="numpy")
def clipped(values: U16, digital: U16, least: int, most: int, clip: float) -> F64:
    """Return the mean and the spread of each pixel without outliers.

    Parameters
    ----------
    values, digital : (n, ss, fs) uint16 arrays
    least, most : int
        Use only values whose digital output is in this range; -1: all.
    clip : float
        Standard deviations from the median beyond which a value is left out; inf: none.

    Returns
    -------
    (4, ss, fs) array
        Number of values in the digital range; number of values without outliers; mean; standard
        deviation, which includes the rounding. NaN if no value is left.
    """
    n, n_rows, n_fast = values.shape
    statistics = np.full((4, n_rows, n_fast), np.nan)
    counts = np.zeros(65536, np.int64)
    # Values of one pixel next to each other: in the input they are far apart in memory.
    beside = np.empty((n_fast, n), np.int32)
    for row in range(n_rows):
        for i in range(n):
            for column in range(n_fast):
                beside[column, i] = values[i, row, column]
                if least >= 0 and not least <= digital[i, row, column] <= most:
                    beside[column, i] = -1
        for column in range(n_fast):
            low, high, used = 65536, -1, 0
            for i in range(n):
                value = int(beside[column, i])
                if value < 0:
                    continue
                counts[value] += 1
                used += 1
                low, high = min(low, value), max(high, value)
            statistics[0, row, column] = used
            statistics[1, row, column] = 0
            if used == 0:
                continue
            begin, end = low, high
            if clip < np.inf:
                begin, end = _limits(counts, low, high, used, clip)
            kept, mean, spread = _normal(counts[low : high + 1], low, begin, end, clip < np.inf)
            statistics[1, row, column] = kept
            statistics[2, row, column] = mean
            statistics[3, row, column] = spread
            counts[low : high + 1] = 0
    return statistics


@kernel
def _limits(
    counts: NDArray[np.int64], low: int, high: int, used: int, clip: float
) -> tuple[int, int]:
    """Return the first and the last value within ``clip`` standard deviations of the median."""
    median, below = low, 0
    while 2 * (below + counts[median]) < used:
        below += counts[median]
        median += 1
    away, inside = 0, counts[median]
    while 2 * inside < used:
        away += 1
        before = inside
        if median - away >= low:
            inside += counts[median - away]
        if median + away <= high:
            inside += counts[median + away]
    # Deviations are integers; the median deviation is interpolated within its bin.
    deviation = 0.5
    if away > 0:
        deviation += away - 1 + (0.5 * used - before) / (inside - before)
    width = clip * deviation / _MAD
    return int(np.ceil(median - width)), int(np.floor(median + width))


@kernel(error_model="numpy")
def _normal(
    counts: NDArray[np.int64], low: int, begin: int, end: int, cut: bool
) -> tuple[int, float, float]:
    """Return number, mean and spread; for cut values, correct mean and spread for the cut.

    ``counts`` begins at the value ``low``; the cut keeps values from ``begin`` to ``end``.
    """
    kept, first = 0, 0.0
    places = range(max(begin - low, 0), min(end - low + 1, len(counts)))
    for place in places:
        kept += counts[place]
        first += counts[place] * float(place)
    mean = first / kept
    second = 0.0
    for place in places:
        second += counts[place] * (place - mean) ** 2
    variance = second / (kept - 1) if kept > 1 else 0.0
    mean += low
    if not cut or variance <= 2 * ROUNDING:
        return kept, mean, sqrt(variance)
    # Moments of a normal distribution between limits, solved for mu and sigma.
    smooth = variance - ROUNDING
    mu, sigma = mean, sqrt(smooth)
    for _ in range(30):
        a, b = (begin - 0.5 - mu) / sigma, (end + 0.5 - mu) / sigma
        inside = 0.5 * (erf(b / sqrt(2.0)) - erf(a / sqrt(2.0)))
        at_a = exp(-0.5 * a * a) / sqrt(2 * pi) / inside
        at_b = exp(-0.5 * b * b) / sqrt(2 * pi) / inside
        shift = at_a - at_b
        factor = 1 + a * at_a - b * at_b - shift * shift
        if factor < 0.2:  # the cut distribution is not a single normal distribution
            return kept, mean, sqrt(variance)
        before = sigma
        mu, sigma = mean - sigma * shift, sqrt(smooth / factor)
        if abs(sigma - before) < 1e-6 * sigma:
            break
    return kept, mu, sqrt(sigma * sigma + ROUNDING)
