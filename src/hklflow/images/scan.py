"""Rotation scan: its raw frames and their metadata."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Rotation
from hklflow.images.gain import Gain
from hklflow.images.pixel_binning import PixelBinning

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RotationScan:
    """Rotation scan with the metadata of the import.

    Attributes
    ----------
    raw : str
        File or pattern of the raw frames.
    first : int
        Number of the first raw frame used.
    rotation : Rotation
        Geometry; the ``scan.n_frames`` frames from ``first`` on are used.
    monitor : (n_frames,) array
        Incident intensity before the attenuators, integrated over the exposure of each frame; the
        exposure time if the experiment has no monitor. If monitor or attenuation of a frame in
        ``left_out`` is not a positive number, it is replaced by the median of the other frames,
        because the frame is not used.
    exposure : (n_frames,) array
        Exposure time, s.
    attenuation : (n_frames,) array
        Transmission of the attenuators, 0 to 1.
    monitor_source : str
        Source of the monitor, or "none" if the experiment has no monitor.
    temperature : float or None
        Temperature, K; None: unknown.
    saturation : float or None
        Smallest count of a saturated pixel. None: pixels do not saturate.
    underload : float
        Smallest valid value of floating-point frames: 0 for photon counts, below 0 for data with
        read noise. Negative integers are always flags.
    binning : PixelBinning or None
        Binning of the frames. None: the frames are not binned. Geometry and saturation are for the
        binned frames.
    left_out : tuple of int
        Numbers (from 0) of the raw frames that are not used, in rising order.
    gain : Gain or None
        How the stored values become photons; saturation and underload are in photons. None: the
        frames are photons.
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
    gain: Gain | None = None
