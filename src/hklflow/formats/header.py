"""What raw files say about themselves: geometry and measurement."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Detector, Goniometer
from hklflow.images.pixel_binning import PixelBinning


@dataclass(frozen=True)
class Header:
    """What a raw file says about itself; None means that it does not say.

    Attributes
    ----------
    wavelength : float or None
        Å.
    detector : Detector or None
        In the lab frame of `geometry.frames`.
    goniometer : Goniometer or None
        In the lab frame.
    start_deg, step_deg : float or None
        Scan-axis angle at the start of frame 0, and width of a frame; degrees.
    angles_deg : (n,) array or None
        Angle at the start of each frame, where they are not evenly spaced.
    n_frames : int or None
    exposure_time : float or None
        Seconds per frame.
    monitor : (n,) array or None
        Counts per frame.
    monitor_doubt : str or None
        Why the file's monitor is not to be used, and what to do.
    transmission : float or (n,) array or None
        Of the attenuator, 0 to 1.
    temperature : float or None
        Of the sample, kelvin.
    temperature_doubt : str or None
        Why the file's temperature is not to be believed, and what to do.
    pixel_mask : (slow, fast) bool array or None
        True where the pixel is bad.
    saturation : float or None
        Largest count that can be trusted.
    saturation_doubt : str or None
        Why the file's saturation is not to be used, and what to do.
    underload : float or None
        Smallest value that is a measurement, of frames of floating point.
    read_variance : (slow, fast) array or None
        Variance of the read noise in photons², where values are photons and read noise.
    polarization : float or None
        Fraction of the intensity with the electric vector along lab x.
    sensor_material : str or None
    binning : PixelBinning or None
        How hklflow summed the pixels in blocks; detector, mask and noise are those of the sums.
    """

    wavelength: float | None = None
    detector: Detector | None = None
    goniometer: Goniometer | None = None
    start_deg: float | None = None
    step_deg: float | None = None
    angles_deg: NDArray[np.float64] | None = None
    n_frames: int | None = None
    exposure_time: float | None = None
    monitor: NDArray[np.float64] | None = None
    monitor_doubt: str | None = None
    transmission: float | NDArray[np.float64] | None = None
    temperature: float | None = None
    temperature_doubt: str | None = None
    pixel_mask: NDArray[np.bool_] | None = None
    saturation: float | None = None
    saturation_doubt: str | None = None
    underload: float | None = None
    read_variance: NDArray[np.float64] | None = None
    polarization: float | None = None
    sensor_material: str | None = None
    binning: PixelBinning | None = None
