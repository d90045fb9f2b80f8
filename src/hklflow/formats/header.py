"""Header of a raw file: geometry and measurement."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import Detector, Goniometer
from hklflow.images.gain import Stated
from hklflow.images.pixel_binning import PixelBinning


@dataclass(frozen=True)
class Header:
    """Geometry and measurement from the header of a raw file; None: not in the file.

    Attributes
    ----------
    wavelength : float or None
        Wavelength, Å.
    detector : Detector or None
        Detector in the lab frame of `geometry.frames`.
    detector_doubt : str or None
        Reason why the detector of the file cannot be used, and what to do.
    goniometer : Goniometer or None
        Goniometer in the lab frame.
    start_deg, step_deg : float or None
        Scan-axis angle at the start of frame 0, and width of a frame, degrees.
    angles_deg : (n,) array or None
        Angle at the start of each frame, degrees; only if the steps are not equal.
    n_frames : int or None
    exposure_time : float or (n,) array or None
        Exposure time of a frame, seconds; an array if the exposures differ, see `per_frame`.
    monitor : (n,) array or None
        Monitor counts of each frame.
    monitor_doubt : str or None
        Reason why the monitor of the file cannot be used, and what to do.
    transmission : float or (n,) array or None
        Transmission of the attenuators, 0 to 1.
    temperature : float or None
        Temperature of the sample, K.
    temperature_doubt : str or None
        Reason why the temperature of the file cannot be used, and what to do.
    pixel_mask : (slow, fast) bool array or None
        True for bad pixels.
    saturation : float or None
        Largest reliable count.
    saturation_doubt : str or None
        Reason why the saturation of the file cannot be used, and what to do.
    underload : float or None
        Smallest valid value of frames of floating point.
    read_variance : (slow, fast) array or None
        Variance of the read noise in photons², for frames in photons with read noise.
    polarization : float or None
        Fraction of the intensity with the electric vector along lab x.
    sensor_material : str or None
    integrates : bool or None
        True if the detector integrates charge or light, so that its values (ADU) are not photons;
        False if it counts photons.
    gain : Stated or None
        Gain, offset and read noise of one readout, as far as the file states them.
    readouts : int or None
        Number of readouts in a value, for sums of scans or of blocks of pixels; None: 1.
    binning : PixelBinning or None
        Binning that hklflow applied; detector, mask and noise are for the binned pixels.
    notes : tuple of str or None
        Sentences about conventions that the file leaves open, and what was taken.
    """

    wavelength: float | None = None
    detector: Detector | None = None
    detector_doubt: str | None = None
    goniometer: Goniometer | None = None
    start_deg: float | None = None
    step_deg: float | None = None
    angles_deg: NDArray[np.float64] | None = None
    n_frames: int | None = None
    exposure_time: float | NDArray[np.float64] | None = None
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
    notes: tuple[str, ...] | None = None
    integrates: bool | None = None
    gain: Stated | None = None
    readouts: int | None = None


def per_frame(values: ArrayLike) -> float | NDArray[np.float64]:
    """Return values of all frames; one number if they are equal."""
    array = np.ravel(np.asarray(values, dtype=np.float64))
    equal = array.size == 1 or np.ptp(array) <= 1e-4 * np.abs(array).max()
    return float(array[0]) if equal else array
