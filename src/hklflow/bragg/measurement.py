"""Input of the integration for one rotation's frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Rotation

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """Frames of one rotation, and the norm of each pixel.

    The counts of a pixel are ``n ~ Poisson(pixel_norm * frame_norm * S)``, plus read noise if any.

    Attributes
    ----------
    rotation : Rotation
        Refined rotation.
    pixel_norm : (slow, fast) array
        Norm of the pixels; 0 for masked pixels.
    frame_norm : (n_frames,) array
        Norm of the frames; 0 or less for frames that are not used.
    blocks : callable
        Function that returns an iterator over the frames of the scan: arrays (n, slow, fast) in
        order, from the first frame to the last. A block is valid only until the next one is read.
    invalid_from : float
        Smallest value that is a flag instead of a measurement.
    saturation : float
        Smallest saturated count.
    valid_from : float
        Smallest valid value, for frames of floats; negative integers are never valid.
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
