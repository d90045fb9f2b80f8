"""What integration needs to know of one rotation's frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Rotation

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """The frames of one rotation, and what a pixel counts for a given S.

    A pixel counts ``n ~ Poisson(pixel_norm * frame_norm * S)``, and read noise where there is some.

    Attributes
    ----------
    rotation : Rotation
        As refined.
    pixel_norm : (slow, fast) array
        0 where the pixel is masked.
    frame_norm : (n_frames,) array
        0 or less where a frame is not to be used.
    blocks : callable
        Gives the frames of the scan anew: arrays (n, slow, fast) in order, from the first frame to
        the last. A block lasts only until the next is asked for.
    invalid_from : float
        Counts from which a value is a flag and not a measurement.
    saturation : float
        Counts from which a pixel is saturated.
    valid_from : float
        Of floats: values below are no measurement; of integers negative ones never are.
    read_variance : (slow, fast) array or None
        Variance of the read noise in photons².
    """

    rotation: Rotation
    pixel_norm: Floats
    frame_norm: Floats
    blocks: Callable[[], Iterable[NDArray[Any]]]
    invalid_from: float = np.inf
    saturation: float = np.inf
    valid_from: float = 0.0
    read_variance: NDArray[np.float32] | None = None
