"""Combine the measurements of one ASIC: gain of every stage in ADU/keV.

High: the X-rays give g_H. Medium: g_M = g_H r_MH, with the ratio from the pulse capacitor and the
current source (the weighted mean if both are good). Low: g_L = g_M r_LM, from the current source.
A gain that was not measured comes from a gain map, else from the user's default values, else it
is NaN. The attribute ``source`` of ``gain`` names the source of each stage.

The offsets of all stages come from the darks: offsets change with temperature, and the intercepts
of the ramps were measured at another time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.constants.cells import cell_ids, of_cells, require_same_asic
from hklflow.constants.detectors import STAGES
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.merge_currents import weighted_mean
from hklflow.constants.ramp_process import RATIOS, bit_names
from hklflow.constants.status import Bit, Status, bad

Floats = NDArray[np.float64]

NONE = "none"
"""Source of the gain of a stage that was neither measured nor entered by the user."""


@dataclass(frozen=True)
class Measured:
    """A quantity measured in the dark's memory cells; arrays are (cell, ss, fs).

    Attributes
    ----------
    values, errors : float arrays
    status : uint32 array
    source : str
    """

    values: Floats
    errors: Floats
    status: Status
    source: str

    @property
    def good(self) -> NDArray[np.bool_]:
        """True where the value is finite and no status bit forbids its use."""
        return np.isfinite(self.values) & ~bad(self.status)


def combine(
    dark: Constants,
    xray: Constants | None = None,
    pulse_capacitor: Constants | None = None,
    current_source: Constants | None = None,
    gain_map: Floats | None = None,
    default_gain: Sequence[float] | None = None,
) -> Constants:
    """Combine measurements of one ASIC.

    The result has the memory cells of the dark. If another measurement has no value for a cell,
    the cell gets the mean of the pixel's good cells and the bit INTERPOLATED.

    Parameters
    ----------
    dark : Constants
        Constants with offset, offset_errors, noise, gain_threshold, constants_status.
    xray : Constants, optional
        Constants with gain_high, gain_high_errors, constants_status.
    pulse_capacitor : Constants, optional
        Constants that `PulseCapacitor` returns.
    current_source : Constants, optional
        Constants that `merge_currents` returns.
    gain_map : (3, ss, fs) array, optional
        Gain in ADU/keV for stages that were not measured. All memory cells use the same gain.
    default_gain : 3 floats, optional
        Gain in ADU/keV of high, medium, low, for stages without any other gain.

    Raises
    ------
    HklflowError
        If the measurements are of different ASICs.
    """
    parts = [part for part in (dark, xray, pulse_capacitor, current_source) if part is not None]
    require_same_asic(*(part.about for part in parts))
    cells = cell_ids(dark)
    status = dark["constants_status"].astype(np.uint32)
    results = {
        name: _dark(dark, name) for name in ("offset", "offset_errors", "noise", "gain_threshold")
    }

    measured: list[Measured | None] = [
        None if xray is None else on_cells(xray, "gain_high", cells, 0, "xray")
    ]
    ramps = {"pulse_capacitor": pulse_capacitor, "current_source": current_source}
    for upper, name in enumerate(RATIOS, 1):
        ratios = [
            on_cells(part, name, cells, upper, source)
            for source, part in ramps.items()
            if part is not None and name in part
        ]
        measured.append(_combined_ratio(ratios))
        if len(ratios) == 2:
            for ratio_part in ratios:
                results[f"{name}_{ratio_part.source}"] = _quantity(ratio_part.values)
            apart = (ratios[0].values - ratios[1].values) / np.hypot(
                ratios[0].errors, ratios[1].errors
            )
            both = ratios[0].good & ratios[1].good
            results[f"{name}_difference"] = _quantity(np.where(both, apart, np.nan), units="sigma")
    for name, ratio in zip(RATIOS, measured[1:], strict=True):
        if ratio is not None:
            results[name] = _quantity(ratio.values, source=ratio.source)
            results[f"{name}_errors"] = _quantity(ratio.errors)

    gains: list[Measured] = []
    for stage, part in enumerate(measured):
        if part is None or (stage > 0 and gains[-1].source == NONE):
            gains.append(_unmeasured_gain(stage, gain_map, default_gain, status.shape[1:]))
        else:
            gains.append(_product(gains[-1], part) if stage > 0 else part)
        status[stage] |= gains[-1].status
    sources = [gain.source for gain in gains]
    gain = np.stack([gain.values for gain in gains])
    errors = np.stack([gain.errors for gain in gains])
    status[~np.isfinite(gain)] |= np.uint32(Bit.VALUE_IS_NAN)
    quantities = {
        "offset": results.pop("offset"),
        "offset_errors": results.pop("offset_errors"),
        "noise": results.pop("noise"),
        "gain": _quantity(gain, "ADU/keV", source=sources),
        "gain_errors": _quantity(errors, "ADU/keV"),
        **results,
    }
    if current_source is not None:
        chosen = of_cells(current_source, "chosen_current", cells, 0)
        attrs = current_source.quantities["chosen_current"].attrs
        quantities["chosen_current"] = Quantity(chosen, "", attrs)
    quantities["constants_status"] = Quantity(status, "", bit_names(Bit))
    lists = {
        key: [item for part in parts for item in part.about.get(key, [])]
        for key in ("measures", "runs")
    }
    return Constants(dark.about | lists | {"gain_source": sources}, quantities)


def on_cells(
    part: Constants, name: str, wanted: NDArray[np.int64], stage: int, source: str
) -> Measured:
    """Return a quantity in the requested cells; a missing cell gets the pixel's mean.

    The error of a missing cell combines the scatter of the pixel's cells with the error of their
    mean. If a pixel has only one good cell, the error of this cell is used.
    """
    measured = Measured(
        part[name].astype(np.float64),
        part[f"{name}_errors"].astype(np.float64),
        part["constants_status"][stage],
        source,
    )
    values, errors = (
        of_cells(part, key, wanted, np.nan).astype(np.float64) for key in (name, f"{name}_errors")
    )
    status = of_cells(part, "constants_status", wanted, 0)[stage].astype(np.uint32)
    lacking = np.flatnonzero(~np.isin(wanted, cell_ids(part)))
    if lacking.size:
        n = measured.good.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(measured.good, measured.values, 0).sum(axis=0) / n
            scatter = (np.where(measured.good, measured.values - mean, 0) ** 2).sum(axis=0) / (
                n - 1
            )
            single = np.where(measured.good, measured.errors, 0).sum(axis=0)
            error = np.where(n > 1, np.sqrt(scatter * (1 + 1 / n)), single)
        values[lacking] = mean
        errors[lacking] = np.where(n > 0, error, np.nan)
        # If no cell is good, the pixel keeps the status bits of its cells.
        reasons = np.bitwise_or.reduce(measured.status, axis=0)
        status[lacking] = np.where(n > 0, np.uint32(Bit.INTERPOLATED), reasons)
    return Measured(values, errors, status, source)


def _combined_ratio(parts: Sequence[Measured]) -> Measured | None:
    """Return the weighted mean of the good ratios.

    If no ratio is good, return the last measurement with the bits of all measurements.
    """
    if len(parts) < 2:
        return parts[0] if parts else None
    good = np.stack([part.good for part in parts])
    values = np.stack([part.values for part in parts])
    errors = np.stack([part.errors for part in parts])
    mean, error, _ = weighted_mean(values, errors, good)
    some = good.any(axis=0)
    reasons = [np.where(g | ~some, part.status, 0) for g, part in zip(good, parts, strict=True)]
    return Measured(
        np.where(some, mean, values[-1]),
        np.where(some, error, errors[-1]),
        np.bitwise_or.reduce(reasons).astype(np.uint32),
        "combined",
    )


def _product(gain: Measured, ratio: Measured) -> Measured:
    """Return the gain of the next stage; relative errors add in quadrature."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = gain.values * ratio.values
        # The error of a gain that was not measured is unknown.
        relative = np.hypot(gain.errors / gain.values, ratio.errors / ratio.values)
    status = gain.status | ratio.status
    return replace(ratio, values=values, errors=np.abs(values) * relative, status=status)


def _unmeasured_gain(
    stage: int,
    gain_map: Floats | None,
    default: Sequence[float] | None,
    size: tuple[int, ...],
) -> Measured:
    """Return the gain of a stage that was not measured, from the gain map or the default."""
    unknown = np.full(size, np.nan)
    values, source = unknown, NONE
    if gain_map is not None:
        values, source = np.broadcast_to(gain_map[stage], size), "gain_map"
    elif default is not None:
        values, source = np.full(size, float(default[stage])), "default"
    return Measured(values, unknown, np.zeros(size, np.uint32), source)


def _dark(dark: Constants, name: str) -> Quantity:
    item = dark.quantities[name] if name in dark else None
    attrs = {"source": ["dark"] * len(STAGES)} if name == "offset" else {}
    return Quantity(dark[name], item.units if item else "", attrs)


def _quantity(values: NDArray[Any], units: str = "", **attrs: Any) -> Quantity:
    return Quantity(values.astype(np.float32), units, attrs)
