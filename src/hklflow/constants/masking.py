"""Test the constants of an ASIC: bits of ``constants_status`` and the pixel mask.

A value is out of bounds if it is outside its absolute range, or if its distance from the median of
its stage and ASIC exceeds n robust standard deviations of the values without a bit. Each bit names
the measurement that failed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.combine import NONE
from hklflow.constants.detectors import STAGES
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.ramp_process import beyond, bit_names
from hklflow.constants.ramps import outliers
from hklflow.constants.status import HARMLESS, Bit, bad
from hklflow.images.masks import MaskBit

Range = tuple[float, float]

RANGES: Mapping[str, Mapping[str, Range]] = {
    "agipd": {"offset_high": (2000, 9000), "noise_high": (2, 40), "gain_high": (2.5, 25)},
    "jungfrau": {"offset_high": (500, 8000), "noise_high": (2, 60), "gain_high": (20, 150)},
}
"""Default ranges, used if the configuration has none: ADU; ADU/keV for gains."""

_BITS = {
    "offset": (Bit.OFFSET_OUT_OF_THRESHOLD,) * 3,
    "noise": (Bit.NOISE_OUT_OF_THRESHOLD,) * 3,
    "gain": (Bit.FF_GAIN_DEVIATION, Bit.CI_GAIN_OUT_OF_THRESHOLD, Bit.CI_GAIN_OUT_OF_THRESHOLD),
}


def range_names() -> list[str]:
    """Return the names of possible ranges: a quantity and a gain stage."""
    return [f"{name}_{stage}" for name in _BITS for stage in STAGES]


def mask_constants(
    constants: Constants,
    *,
    n_sigma: float,
    ranges: Mapping[str, Range] | None = None,
    user: NDArray[np.bool_] | None = None,
    edges: int,
    max_bad_cells: float,
    stages: Sequence[str],
) -> Constants:
    """Complete the status and create the pixel mask.

    Parameters
    ----------
    constants : Constants
        Constants from `combine`.
    n_sigma : float
        Robust standard deviations beyond which a value is an outlier.
    ranges : mapping, optional
        ``<quantity>_<stage>`` -> smallest and largest value; None: the detector's default.
    user : (ss, fs) or (cell, ss, fs) bool array, optional
        Pixels that the user marks as bad.
    edges : int
        Width in pixels of the masked border of the ASIC.
    max_bad_cells : float
        Largest fraction of bad memory cells of a good pixel; a pixel that is bad in all cells
        is always masked.
    stages : sequence of str
        Gain stages that a pixel needs; stages with unknown gain or without a dark are ignored.
        If no stage is left, all pixels are dead.

    Returns
    -------
    Constants
        The same quantities, with ``constants_status`` completed and ``pixel_mask`` (ss, fs).

    Raises
    ------
    HklflowError
        If the name of a range is unknown, or the user's mask has a wrong shape.
    """
    known = RANGES.get(constants.about["detector"], {}) if ranges is None else ranges
    if wrong := [name for name in known if name not in range_names()]:
        raise HklflowError(f"unknown range {wrong[0]}; use {', '.join(range_names())}")
    status = constants["constants_status"].astype(np.uint32)
    for name, bits in _BITS.items():
        values = constants[name].astype(np.float64)
        for stage, bit in enumerate(bits):
            values_of_stage = values[stage]
            far = beyond(values_of_stage, known.get(f"{name}_{STAGES[stage]}"))
            far |= outliers(values_of_stage, n_sigma, ~bad(status[stage]) & ~far)
            status[stage][far] |= np.uint32(bit)
            status[stage][~np.isfinite(values_of_stage)] |= np.uint32(Bit.VALUE_IS_NAN)
    status[constants["gain"] == 0] |= np.uint32(Bit.VALUE_OUT_OF_RANGE)
    cells, shape = status.shape[1], status.shape[2:]
    by_user = _user(user, cells, shape)
    status[:, by_user] |= np.uint32(Bit.NON_SENSITIVE)
    border = np.ones(shape, bool)
    border[edges : shape[0] - edges, edges : shape[1] - edges] = False
    status[..., border] |= np.uint32(Bit.NON_STANDARD_SIZE)

    sources = constants.about["gain_source"]
    measured = np.isfinite(constants["offset"]).any(axis=(1, 2, 3))
    used = [
        g for g, name in enumerate(STAGES) if name in stages and sources[g] != NONE and measured[g]
    ]
    mask = pixel_mask(status, constants["gain"], used, max_bad_cells)
    if not used:
        mask |= np.uint32(MaskBit.DEAD)
    mask[border] |= np.uint32(MaskBit.USER)
    mask[_in_too_many(by_user, max_bad_cells)] |= np.uint32(MaskBit.USER)
    quantities = dict(constants.quantities)
    quantities["constants_status"] = Quantity(status, "", bit_names(Bit))
    quantities["pixel_mask"] = Quantity(mask, "", bit_names(MaskBit))
    return Constants(constants.about, quantities)


def pixel_mask(
    status: NDArray[np.uint32],
    gain: NDArray[np.floating[Any]],
    stages: Sequence[int],
    max_bad_cells: float,
) -> NDArray[np.uint32]:
    """Return NXmx bits (ss, fs) of pixels that are bad in too many memory cells of any stage.

    Bad noise gives NOISY. A gain out of bounds gives UNDER_RESPONDING or OVER_RESPONDING, for
    gains below or above the ASIC's median. Everything else gives DEAD.

    Parameters
    ----------
    status : (3, cell, ss, fs) array
    gain : (3, cell, ss, fs) array
    stages : sequence of int
        Stages that a pixel needs.
    max_bad_cells : float
    """
    mask = np.zeros(status.shape[2:], np.uint32)
    noisy = Bit.NOISE_OUT_OF_THRESHOLD
    response = Bit.FF_GAIN_DEVIATION | Bit.CI_GAIN_OUT_OF_THRESHOLD
    other = ~(noisy | response | Bit.NON_SENSITIVE | HARMLESS) & 0xFFFFFFFF
    for stage in stages:
        bits_of_stage, size = status[stage], np.abs(gain[stage])
        good = size[~bad(bits_of_stage) & np.isfinite(size)]
        middle = np.median(good) if good.size else np.nan
        failed = (bits_of_stage & np.uint32(other)) != 0
        deviates = ((bits_of_stage & np.uint32(response)) != 0) & ~failed
        with np.errstate(invalid="ignore"):
            kinds = {
                MaskBit.DEAD: failed,
                MaskBit.NOISY: (bits_of_stage & np.uint32(noisy)) != 0,
                MaskBit.UNDER_RESPONDING: deviates & (size < middle),
                MaskBit.OVER_RESPONDING: deviates & ~(size < middle),
            }
        many = _in_too_many(bad(bits_of_stage & ~np.uint32(Bit.NON_SENSITIVE)), max_bad_cells)
        for bit, where in kinds.items():
            mask[many & where.any(axis=0)] |= np.uint32(bit)
    return mask


def cut_out(
    image: NDArray[np.bool_], module: tuple[int, int], box: tuple[slice, slice]
) -> NDArray[np.bool_]:
    """Cut the ASIC's part out of a module mask (..., ss, fs); a mask of the ASIC is unchanged."""
    size = tuple(side.stop - side.start for side in box)
    if image.shape[-2:] == module:
        return image[..., box[0], box[1]]
    if image.shape[-2:] == size:
        return image
    raise HklflowError(
        f"the user's mask has shape {image.shape}; use a mask (ss, fs) of the module {module} or "
        f"of the ASIC {size}, or one mask for each memory cell"
    )


def _in_too_many(wrong: NDArray[np.bool_], max_bad_cells: float) -> NDArray[np.bool_]:
    """Return pixels (ss, fs) that are bad in more than this fraction of cells, or in all cells."""
    return np.asarray((wrong.mean(axis=0) > max_bad_cells) | wrong.all(axis=0))


def _user(user: NDArray[np.bool_] | None, cells: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if user is None:
        return np.zeros((cells, *shape), bool)
    if user.shape not in (shape, (cells, *shape)):
        raise HklflowError(
            f"the user's mask has shape {user.shape}; the ASIC has {shape} pixels and {cells} "
            "memory cells"
        )
    return np.array(np.broadcast_to(user, (cells, *shape)))
