"""Flat field by groups of pixels, from the response of single pixels."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Beam, Detector
from hklflow.images import group_response
from hklflow.images.masks import Bits
from hklflow.nexus import read_groups

Floats = NDArray[np.float64]


def grouped(
    path: Path,
    flat: Floats,
    errors: Floats,
    weights: Floats,
    bits: Bits,
    detector: Detector,
    beam: Beam | None = None,
) -> tuple[Floats, Floats, dict[str, Any]]:
    """Replace the response of each good pixel by the response of its group.

    Parameters
    ----------
    path : Path
        File of groups.
    flat, errors : (ss, fs) array
        Response of each pixel, and its standard error; NaN where unknown.
    weights : (ss, fs) array
        Expected counts of an ideal pixel.
    bits : (ss, fs) uint32 array
        Mask; pixels with a bit, or without a response, get no response.

    Returns
    -------
    flat, errors : (ss, fs) array
        Factor of each pixel's group and its standard error; NaN for other pixels.
    about : dict
        Plain data: definition of the groups, factor of each group, and the detector of the groups.

    Raises
    ------
    HklflowError
        If the groups are for another detector or leave good pixels out.
    """
    groups = read_groups(path)
    groups.require(flat.shape, detector, beam)
    good = (bits == 0) & np.isfinite(flat) & np.isfinite(errors) & (weights > 0)
    result = group_response.of_pixels(flat, errors, weights, good, groups)
    known = result.about(groups) | {"fingerprint": groups.fingerprint}
    return (*result.image(groups, good), known)
