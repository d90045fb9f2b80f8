"""Common mode: what all dark pixels of a part of a module are shifted by on one frame.

The shift is the middle of the peak of pixels without a photon. Around a first guess, the 5 %
quantile (photons only add), the mean of the values within two standard deviations of the read
noise is taken again and again until it rests: the window is symmetric, so pixels with photons,
which lie outside of it, do not pull. Its error is ``1.1 σ / √n`` for n dark pixels. Where photons
share their charge with neighbours a few per cent of the pixels lie in the window's upper part.
Two standard deviations must stay below half a photon: where they do not, the window ends at half a
photon, pixels without a photon are not told from those with one, and the shift is not to be relied
on.

Nothing is shifted where too few pixels are dark, and where the shift is above half a photon, which
could be a photon in every pixel: the metrics count both.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.constants.correct_kernels import common_modes
from hklflow.constants.detectors import Integrating

Kind = Literal["none", "module", "asic", "row"]


def boxes(kind: Kind, detector: Integrating) -> NDArray[np.int64]:
    """Parts of a module that share a shift (n, 4): first and last (exclusive) row and column.

    `row` is one row of one ASIC.
    """
    if kind == "module":
        return np.array([[0, detector.module[0], 0, detector.module[1]]])
    places = [detector.box(asic) for asic in range(detector.asics)] if kind != "none" else []
    found = [
        [row, row + step, across.start, across.stop]
        for down, across in places
        for step in (detector.asic[0] if kind == "asic" else 1,)
        for row in range(down.start, down.stop, step)
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def groups(parts: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Number of the part (ss, fs) that each pixel is in; 0 where there is none."""
    found = np.zeros(shape, np.int32)
    for number, (top, bottom, left, right) in enumerate(parts):
        found[top:bottom, left:right] = number
    return found


def find(
    analog: NDArray[np.uint16],
    stage: NDArray[np.uint8],
    offset: NDArray[Any],
    noise: NDArray[Any],
    photon: NDArray[Any],
    parts: NDArray[np.int64],
    least: float = 0.2,
) -> NDArray[np.float64]:
    """Shift of stage high (n, parts) in ADU; NaN where it is not known.

    Parameters
    ----------
    analog, stage : (n, ss, fs) arrays
        Raw values, and their stage of gain (0 is high).
    offset, noise, photon : (ss, fs) arrays
        Of stage high in ADU; ``photon`` is what one of them adds. NaN where not to be used.
    parts : (parts, 4) array
        See `boxes`.
    least : float
        Fraction of a part's usable pixels that must be dark.
    """
    result = np.empty((len(analog), len(parts)))
    reach = 0.5 * np.abs(photon)
    common_modes(analog, stage, offset, noise, reach, parts, least, result)
    return result
