"""Merge the ramps of several currents: select the best current for each pixel and memory cell.

A ramp is valid if it has no bit of ``fit_status``. Each valid current is judged by the largest
relative error of its slopes; the current with the smallest value is chosen. If no current is
valid, the ratios are the medians of the ASIC. These ratios get the bit INTERPOLATED for display,
and the bit CI2_EVAL_ERROR, which masks them.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.cells import cell_ids, of_cells, require_same_asic
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.ramp_process import RATIOS, FitStatus, bit_names
from hklflow.constants.status import Bit


def merge_currents(
    parts: Sequence[Constants], currents: Sequence[str], weighted: bool
) -> Constants:
    """Merge the results that `current_source` gave at different currents.

    Parameters
    ----------
    parts : sequence of Constants
        Results for one ASIC; a memory cell that is missing from a part is not valid in this part.
    currents : sequence of str
        Name of the current of each part.
    weighted : bool
        True: ratios are weighted means over all valid currents. False: ratios of the chosen
        current.

    Returns
    -------
    Constants
        Ratios and errors, ``chosen_current`` (0: none, else its position in ``currents`` from 1),
        ``ratio_chi2`` (reduced χ² of the valid ratios about their weighted mean; NaN with fewer
        than two), ``fit_status`` (0 if a current is valid, else the bits of all currents),
        ``constants_status``.

    Raises
    ------
    HklflowError
        If the numbers of names and parts differ, or the parts are of different ASICs.
    """
    if len(parts) != len(currents) or not parts:
        raise HklflowError(
            f"{len(parts)} files of currents have {len(currents)} names; list one name per file"
        )
    require_same_asic(*(part.about for part in parts))
    cells = reduce(np.union1d, [cell_ids(part) for part in parts])
    nothing = float(FitStatus.NO_SWITCH_HM)
    status = np.stack([of_cells(part, "fit_status", cells, nothing) for part in parts])
    relative = np.stack([_relative_error(part, cells) for part in parts])
    relative = np.where((status == 0) & np.isfinite(relative), relative, np.inf)
    best = relative.argmin(axis=0)
    valid = np.isfinite(relative)
    determined = valid.any(axis=0)
    chosen = np.where(determined, best + 1, 0).astype(np.uint16)
    bits = np.zeros((3, *chosen.shape), np.uint32)
    bits[1:, ~determined] |= np.uint32(Bit.CI2_EVAL_ERROR)

    quantities: dict[str, Quantity] = {}
    chi2, freedom = np.zeros(chosen.shape), np.zeros(chosen.shape)
    for upper, name in enumerate(RATIOS, 1):
        values = np.stack([of_cells(p, name, cells, np.nan).astype(float) for p in parts])
        errors = np.stack(
            [of_cells(p, f"{name}_errors", cells, np.nan).astype(float) for p in parts]
        )
        mean, mean_error, this = weighted_mean(values, errors, valid)
        chi2, freedom = chi2 + this, freedom + np.maximum(valid.sum(axis=0) - 1, 0)
        if not weighted:
            mean = np.take_along_axis(values, best[None], axis=0)[0]
            mean_error = np.take_along_axis(errors, best[None], axis=0)[0]
        if determined.any():
            middle = np.median(mean[determined])
            spread = 1.4826 * np.median(np.abs(mean[determined] - middle))
            mean, mean_error = (
                np.where(determined, mean, middle),
                np.where(determined, mean_error, spread),
            )
            bits[upper, ~determined] |= np.uint32(Bit.INTERPOLATED)
        else:
            mean, mean_error = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
        quantities[name] = Quantity(mean.astype(np.float32))
        quantities[f"{name}_errors"] = Quantity(mean_error.astype(np.float32))
    with np.errstate(invalid="ignore"):
        reduced = np.where(freedom > 0, chi2 / np.maximum(freedom, 1), np.nan)
    quantities["ratio_chi2"] = Quantity(reduced.astype(np.float32))
    names = {"currents": [str(current) for current in currents]}
    quantities["chosen_current"] = Quantity(chosen, "", names)
    # If no current is valid: the bits of all currents.
    every = np.bitwise_or.reduce(status, axis=0)
    quantities["fit_status"] = Quantity(
        np.where(determined, 0, every).astype(np.uint32), "", bit_names(FitStatus)
    )
    quantities["constants_status"] = Quantity(bits, "", bit_names(Bit))
    about = dict(parts[0].about) | {
        "cell_ids": cells.tolist(),
        **{key: [item for p in parts for item in p.about[key]] for key in ("measures", "runs")},
        "currents": names["currents"],
    }
    about.pop("frames", None)
    return Constants(about, quantities)


def weighted_mean(
    values: NDArray[np.float64], errors: NDArray[np.float64], valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the weighted mean of valid values along the first axis, its error, and χ².

    The results are NaN, NaN and 0 where no value is valid.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(valid, errors**-2.0, 0.0)
        total = weights.sum(axis=0)
        mean = (weights * np.where(valid, values, 0.0)).sum(axis=0) / total
        chi2 = (weights * np.where(valid, values - mean, 0.0) ** 2).sum(axis=0)
        return mean, total**-0.5, chi2


def _relative_error(part: Constants, cells: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the largest relative error of the slopes of the stages, (cell, ss, fs)."""
    slope, error = (
        of_cells(part, name, cells, np.nan).astype(np.float64) for name in ("slope", "slope_errors")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.abs(error / slope).max(axis=0))
