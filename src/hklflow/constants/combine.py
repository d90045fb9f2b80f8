"""Put the measurements of one ASIC together: gain of every stage in ADU/keV.

High: from X-rays, g_H. Medium: g_M = g_H r_MH, with the ratio of pulse capacitor and current
source, their weighted mean where both are good. Low: g_L = g_M r_LM of the current source. What
was not measured is from a gain map, else from numbers that the user gives, else it is NaN; the
attribute ``source`` of ``gain`` says so for each stage.

Offsets of all stages are those of the darks: they change with temperature, and intercepts of ramps
were measured at another time.
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
"""Source of the gain of a stage that was neither measured nor given."""


@dataclass(frozen=True)
class Measured:
    """Something measured in the dark's memory cells, (cell, ss, fs) each.

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
        """What may be used."""
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

    Memory cells are those of the dark. A cell that another measurement lacks takes the mean of the
    pixel's good cells and is INTERPOLATED.

    Parameters
    ----------
    dark : Constants
        With offset, offset_errors, noise, gain_threshold, constants_status.
    xray : Constants, optional
        With gain_high, gain_high_errors, constants_status.
    pulse_capacitor : Constants, optional
        Of `PulseCapacitor`.
    current_source : Constants, optional
        Of `merge_currents`.
    gain_map : (3, ss, fs) array, optional
        ADU/keV of all memory cells, for stages that were not measured.
    default_gain : 3 floats, optional
        ADU/keV of high, medium, low, for stages that have no other gain.

    Raises
    ------
    HklflowError
        If the measurements are of different ASICs.
    """
    parts = [part for part in (dark, xray, pulse_capacitor, current_source) if part is not None]
    require_same_asic(*(part.about for part in parts))
    cells = cell_ids(dark)
    status = dark["constants_status"].astype(np.uint32)
    found = {
        name: _dark(dark, name) for name in ("offset", "offset_errors", "noise", "gain_threshold")
    }

    measured: list[Measured | None] = [
        None if xray is None else on_cells(xray, "gain_high", cells, 0, "xray")
    ]
    ramps = {"pulse_capacitor": pulse_capacitor, "current_source": current_source}
    for upper, name in enumerate(RATIOS, 1):
        every = [
            on_cells(part, name, cells, upper, source)
            for source, part in ramps.items()
            if part is not None and name in part
        ]
        measured.append(_both(every))
        if len(every) == 2:
            for one in every:
                found[f"{name}_{one.source}"] = _quantity(one.values)
            apart = (every[0].values - every[1].values) / np.hypot(every[0].errors, every[1].errors)
            both = every[0].good & every[1].good
            found[f"{name}_difference"] = _quantity(np.where(both, apart, np.nan), units="sigma")
    for name, ratio in zip(RATIOS, measured[1:], strict=True):
        if ratio is not None:
            found[name] = _quantity(ratio.values, source=ratio.source)
            found[f"{name}_errors"] = _quantity(ratio.errors)

    gains: list[Measured] = []
    for stage, part in enumerate(measured):
        if part is None or (stage > 0 and gains[-1].source == NONE):
            gains.append(_given(stage, gain_map, default_gain, status.shape[1:]))
        else:
            gains.append(_product(gains[-1], part) if stage > 0 else part)
        status[stage] |= gains[-1].status
    sources = [gain.source for gain in gains]
    gain = np.stack([gain.values for gain in gains])
    errors = np.stack([gain.errors for gain in gains])
    status[~np.isfinite(gain)] |= np.uint32(Bit.VALUE_IS_NAN)
    quantities = {
        "offset": found.pop("offset"),
        "offset_errors": found.pop("offset_errors"),
        "noise": found.pop("noise"),
        "gain": _quantity(gain, "ADU/keV", source=sources),
        "gain_errors": _quantity(errors, "ADU/keV"),
        **found,
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
    """Values and errors of a quantity in the cells wanted; those of others from the pixel's mean.

    The error of a mean is the scatter of one cell about it and its own; with one good cell there
    is no scatter, and the cell's error is taken.
    """
    own = Measured(
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
        n = own.good.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(own.good, own.values, 0).sum(axis=0) / n
            scatter = (np.where(own.good, own.values - mean, 0) ** 2).sum(axis=0) / (n - 1)
            single = np.where(own.good, own.errors, 0).sum(axis=0)
            error = np.where(n > 1, np.sqrt(scatter * (1 + 1 / n)), single)
        values[lacking] = mean
        errors[lacking] = np.where(n > 0, error, np.nan)
        # Where no cell is good, why it is not stays with the pixel.
        reasons = np.bitwise_or.reduce(own.status, axis=0)
        status[lacking] = np.where(n > 0, np.uint32(Bit.INTERPOLATED), reasons)
    return Measured(values, errors, status, source)


def _both(every: Sequence[Measured]) -> Measured | None:
    """Weighted mean of the good ones; where none is good the last one, with all that is said."""
    if len(every) < 2:
        return every[0] if every else None
    good = np.stack([one.good for one in every])
    values = np.stack([one.values for one in every])
    errors = np.stack([one.errors for one in every])
    mean, error, _ = weighted_mean(values, errors, good)
    some = good.any(axis=0)
    said = [np.where(g | ~some, one.status, 0) for g, one in zip(good, every, strict=True)]
    return Measured(
        np.where(some, mean, values[-1]),
        np.where(some, error, errors[-1]),
        np.bitwise_or.reduce(said).astype(np.uint32),
        "combined",
    )


def _product(gain: Measured, ratio: Measured) -> Measured:
    """Gain of the next stage; the relative errors add in squares."""
    with np.errstate(divide="ignore", invalid="ignore"):
        values = gain.values * ratio.values
        # The error of a gain that was given and not measured is not known.
        relative = np.hypot(gain.errors / gain.values, ratio.errors / ratio.values)
    status = gain.status | ratio.status
    return replace(ratio, values=values, errors=np.abs(values) * relative, status=status)


def _given(
    stage: int,
    gain_map: Floats | None,
    default: Sequence[float] | None,
    size: tuple[int, ...],
) -> Measured:
    """Gain that was not measured here."""
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
