"""One rotation scan: where its frames are and everything known about them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Rotation
from hklflow.images.pixel_binning import PixelBinning

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RotationScan:
    """A rotation scan as the import found it.

    Attributes
    ----------
    raw : str
        File or pattern of the raw frames.
    first : int
        Number of the first raw frame used.
    rotation : Rotation
        Geometry; its ``scan.n_frames`` frames are used, from ``first`` on.
    monitor : (n_frames,) array
        Incident intensity integrated over each frame's exposure, before the attenuators;
        the exposure time if the experiment has no monitor. A frame left out whose monitor or
        transmission is no positive number has the median of the others: nothing counts with it.
    exposure : (n_frames,) array
        Seconds.
    attenuation : (n_frames,) array
        Transmission of the attenuators, 0 to 1.
    monitor_source : str
        What the monitor was read from, or "none" if the experiment has none.
    temperature : float or None
        Kelvin.
    saturation : float or None
        Counts at which a pixel is saturated.
    underload : float
        Frames of floating point: values below are no measurement. 0 for counted photons; below
        it where read noise makes values negative. Negative integers are flags whatever it is.
    binning : PixelBinning or None
        How the frames' pixels were summed in blocks; None if they are as measured. Geometry and
        saturation are those of the sums.
    left_out : tuple of int
        Raw frames, counted from 0, that are not to be used, in rising order.
    """

    raw: str
    first: int
    rotation: Rotation
    monitor: Floats
    exposure: Floats
    attenuation: Floats
    monitor_source: str
    temperature: float | None = None
    saturation: float | None = None
    underload: float = 0.0
    binning: PixelBinning | None = None
    left_out: tuple[int, ...] = ()
