"""Common mode: the shift of all dark pixels in one part of a module, frame by frame.

The shift is the centre of the peak of pixels without a photon. The first guess is the 5 % quantile,
because photons only increase the values. The next guess is the mean of the values within two
standard deviations of the read noise around the guess; this is repeated until it converges. The
window is symmetric, and pixels with photons lie outside it, so that they do not bias the mean. The
error is ``1.1 σ / √n`` for n dark pixels.
If photons share their charge between neighbours, a few per cent of the pixels lie in the upper part
of the window. Two standard deviations must stay below half a photon: otherwise the window ends at
half a photon, pixels with and without a photon cannot be distinguished, and the shift is not
reliable.

No shift is applied if too few pixels are dark, or if the shift exceeds half a photon, because that
could be a photon in every pixel: the metrics count both cases.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.constants.correct_kernels import common_modes
from hklflow.constants.detectors import Integrating

Kind = Literal["none", "module", "asic", "row"]


def boxes(kind: Kind, detector: Integrating) -> NDArray[np.int64]:
    """Return the parts of a module that share a shift (n, 4): first and last row and column.

    The last row and column are exclusive. For the kind `row`, a part is one row of one ASIC.
    """
    if kind == "module":
        return np.array([[0, detector.module[0], 0, detector.module[1]]])
    places = [detector.box(asic) for asic in range(detector.asics)] if kind != "none" else []
    edges = [
        [row, row + step, across.start, across.stop]
        for down, across in places
        for step in (detector.asic[0] if kind == "asic" else 1,)
        for row in range(down.start, down.stop, step)
    ]
    return np.array(edges, dtype=np.int64).reshape(-1, 4)


def groups(parts: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return the number of the part of each pixel (ss, fs); pixels outside all parts have 0."""
    numbers = np.zeros(shape, np.int32)
    for number, (top, bottom, left, right) in enumerate(parts):
        numbers[top:bottom, left:right] = number
    return numbers


def find(
    analog: NDArray[np.uint16],
    stage: NDArray[np.uint8],
    offset: NDArray[Any],
    noise: NDArray[Any],
    photon: NDArray[Any],
    parts: NDArray[np.int64],
    least: float = 0.2,
) -> NDArray[np.float64]:
    """Return the shift of stage high (n, parts) in ADU; NaN where it is unknown.

    Parameters
    ----------
    analog, stage : (n, ss, fs) arrays
        Raw values and their gain stage (0 is high).
    offset, noise, photon : (ss, fs) arrays
        Values of stage high in ADU; ``photon`` is the signal of one photon. NaN: not used.
    parts : (parts, 4) array
        Parts of the module, see `boxes`.
    least : float
        Fraction of a part's usable pixels that must be dark.
    """
    result = np.empty((len(analog), len(parts)))
    reach = 0.5 * np.abs(photon)
    common_modes(analog, stage, offset, noise, reach, parts, least, result)
    return result
