"""Evaluation of a ramp of charge: lines, ratios of their slopes, and failures."""

from collections.abc import Mapping, Sequence
from enum import IntFlag
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hklflow.constants.base import Process
from hklflow.constants.cells import of_cells, require_same_asic
from hklflow.constants.detectors import integrating
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.gathered import CellFrames, Gathered
from hklflow.constants.ramps import Fit, Floats, Lines, Segments, abscissa, fit_lines, outliers
from hklflow.constants.ramps import ratio as slope_ratio
from hklflow.constants.status import Bit

RATIOS = ("gain_ratio_mh", "gain_ratio_lm")
"""Names of the slope ratios medium / high and low / medium."""

# Fraction of saturated frames of a stage; above it, the saturation is systematic.
_SATURATED = 0.05


class FitStatus(IntFlag):
    """Bits of ``fit_status`` (cell, ss, fs): failures of a pixel's ramp.

    A bit names a cause: a ramp that never leaves stage high has no other bits for the missing
    stages.
    """

    NO_SWITCH_HM = 1 << 0
    NO_SWITCH_ML = 1 << 1
    TOO_FEW_H = 1 << 2
    TOO_FEW_M = 1 << 3
    TOO_FEW_L = 1 << 4
    SATURATED_EARLY = 1 << 5
    NON_LINEAR = 1 << 6
    RATIO_OUTLIER = 1 << 7


class RampProcess(Process):
    """Fit the lines of a ramp and compute the ratios of their slopes.

    Parameters
    ----------
    ramp : Gathered
    dark : Constants or None
        Processed dark of the same ASIC; its ``gain_threshold`` separates the stages. If it is
        None, and for pixels without a threshold, the digital levels of the ramp separate them.
    segments : sequence of (n, increment)
        Segments of the ramp, see `ramps.abscissa`.
    margin : float
        Values closer than this to either end of the output's range are not used, ADU.
    trim, least, settling, linearity
        See `ramps.Fit`.
    """

    stages: ClassVar[int]
    """Number of gain stages of the ramp, from stage high."""
    failed: ClassVar[Bit]
    """Bit in ``constants_status`` of a stage whose ratio could not be determined."""

    def __init__(
        self,
        ramp: Gathered,
        dark: Constants | None,
        segments: Segments,
        *,
        margin: float,
        trim: float,
        least: int,
        settling: float,
        linearity: float,
    ) -> None:
        ceiling = integrating(ramp.about.detector).saturation - margin
        self._ramp = segments
        self._digital = ramp.about.digital
        self._fit = Fit(self.stages, trim, settling, linearity, margin, ceiling, least)
        self._thresholds: Floats = np.full((2, ramp.cells, *ramp.shape), np.nan)
        if dark is not None:
            require_same_asic(vars(ramp.about), dark.about)
            known = of_cells(dark, "gain_threshold", ramp.cell_ids, np.nan)
            self._thresholds = known.astype(np.float64)

    def initiate(self, cells: int, shape: tuple[int, int]) -> dict[str, Quantity]:
        """Return arrays for the lines of each stage, the ratios and the status."""
        size = (cells, *shape)
        stages = (3, *size)

        def unknown(size: tuple[int, ...], units: str) -> Quantity:
            return Quantity(np.full(size, np.nan, np.float32), units)

        arrays: dict[str, Quantity] = {}
        for name in RATIOS[: self._fit.stages - 1]:
            arrays |= {name: unknown(size, ""), f"{name}_errors": unknown(size, "")}
        for name in ("slope", "slope_errors"):
            arrays[name] = unknown(stages, "ADU/step")
        for name in ("intercept", "intercept_errors", "residual"):
            arrays[name] = unknown(stages, "ADU")
        arrays["points"] = Quantity(np.zeros(stages, np.uint32))
        arrays["fit_status"] = Quantity(np.zeros(size, np.uint32), "", bit_names(FitStatus))
        arrays["constants_status"] = Quantity(np.zeros(stages, np.uint32), "", bit_names(Bit))
        return arrays

    def calculate(
        self, frames: Sequence[CellFrames], cell: int, rows: slice
    ) -> Mapping[str, NDArray[Any]]:
        """Fit the lines in some rows of a memory cell."""
        (ramp,) = frames
        fit = self._fit
        x = abscissa(self._ramp, ramp.step)
        lines = fit_lines(ramp, x, self._thresholds[:, cell, rows], self._digital, fit)
        status = fit_status(lines, fit)
        bits = np.zeros(lines.slope.shape, np.uint32)
        results: dict[str, NDArray[Any]] = {}
        for upper, name in enumerate(RATIOS[: fit.stages - 1], 1):
            value, error = slope_ratio(lines, upper)
            results |= {name: value, f"{name}_errors": error}
            lost = ~np.isfinite(value) | ((status & FitStatus.SATURATED_EARLY) != 0)
            bits[upper][lost] |= np.uint32(self.failed)
            bits[upper][lines.curved[upper - 1 : upper + 1].any(axis=0)] |= np.uint32(
                Bit.CI_LINEAR_DEVIATION
            )
        names = ("slope", "slope_errors", "intercept", "intercept_errors", "residual", "points")
        return {
            **results,
            **{name: getattr(lines, name) for name in names},
            "fit_status": status,
            "constants_status": bits,
        }


def fit_status(lines: Lines, fit: Fit) -> NDArray[np.uint32]:
    """Return bits of `FitStatus`, (ss, fs), except RATIO_OUTLIER, which needs the whole ASIC."""
    reached = lines.reached
    status = np.zeros(reached.shape[1:], np.uint32)
    beyond = [np.ones(status.shape, bool), reached[1:].sum(axis=0) > 0, reached[2] > 0]
    status[~beyond[1]] |= np.uint32(FitStatus.NO_SWITCH_HM)
    if fit.stages > 2:
        status[beyond[1] & ~beyond[2]] |= np.uint32(FitStatus.NO_SWITCH_ML)
    few = (FitStatus.TOO_FEW_H, FitStatus.TOO_FEW_M, FitStatus.TOO_FEW_L)
    for stage in range(fit.stages):
        short = beyond[stage] & (lines.points[stage] < fit.least)
        cut_off = short & (lines.points[stage] + lines.saturated[stage] >= fit.least)
        status[short & ~cut_off] |= np.uint32(few[stage])
        status[cut_off] |= np.uint32(FitStatus.SATURATED_EARLY)
        if stage + 1 < fit.stages:  # the last stage always saturates at its end
            early = lines.saturated[stage] > _SATURATED * reached[stage]
            status[early] |= np.uint32(FitStatus.SATURATED_EARLY)
        status[lines.curved[stage]] |= np.uint32(FitStatus.NON_LINEAR)
    return status


def mark_outliers(
    constants: Constants, n_sigma: float, limits: Mapping[str, tuple[float, float] | None]
) -> Constants:
    """Mark ratios that are far from the ASIC's median or outside their limits.

    Parameters
    ----------
    constants : Constants
        Constants from `RampProcess`; their status is completed in place.
    n_sigma : float
        Largest distance from the median over the ASIC's pixels and cells without another bit, in
        robust standard deviations.
    limits : mapping
        Smallest and largest value of each ratio, or None for no limits.
    """
    status, bits = constants["fit_status"], constants["constants_status"]
    clean = status == 0
    for upper, name in enumerate((n for n in RATIOS if n in constants), 1):
        values = constants[name].astype(np.float64)
        far = beyond(values, limits.get(name)) | outliers(values, n_sigma, clean)
        status[far] |= np.uint32(FitStatus.RATIO_OUTLIER)
        bits[upper][far] |= np.uint32(Bit.CI_GAIN_OUT_OF_THRESHOLD)
    return constants


def beyond(values: NDArray[Any], limits: tuple[float, float] | None) -> NDArray[np.bool_]:
    """Mark finite values outside the limits; None: no limits."""
    if limits is None:
        return np.zeros(values.shape, bool)
    with np.errstate(invalid="ignore"):
        return np.asarray((values < limits[0]) | (values > limits[1]))


def bit_names(bits: type[IntFlag]) -> dict[str, Any]:
    """Return attributes with the names and values of the bits."""
    return {"bits": [str(bit.name) for bit in bits], "bit_values": [int(bit) for bit in bits]}
