"""Flat field and defects of a photon counter from a flood of fluorescence.

Fluorescence is isotropic: without absorption, a pixel counts its solid angle times its response.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.files import open_constants
from hklflow.geometry import Detector, corrections
from hklflow.images.masks import Bits, MaskBit
from hklflow.images.pixel_moments import Moments

Floats = NDArray[np.float64]

#: Limits of the relative response; pixels outside these limits are masked.
UNDER, OVER = 0.6, 1.6
#: Deviation from a response of 1, in its standard deviations, beyond which chance is no reason.
#: Pixels with few counts, at oblique angles, may be outside the limits by chance.
CLEAR = 5.0
#: Probability that a good pixel is flagged as noisy.
NOISY_CHANCE = 1e-8
#: Least counts of most pixels; they determine the response of a pixel to 5 %.
MIN_COUNTS = 400
#: Least number of frames, and of counts per frame, for a χ² distribution of the dispersion.
MIN_FRAMES, MIN_PER_FRAME = 10, 4.0
_DEAD_EXPECTED = 30.0  # expected counts; a good pixel then has no count with probability exp(-30)


@dataclass(frozen=True)
class Flood:
    """Results of a flood for every pixel, (ss, fs).

    Attributes
    ----------
    flat, errors : array
        Response relative to the mean of the good pixels, and its standard error; NaN for pixels
        that were not measured.
    dispersion : array
        Ratio variance / mean of the counts; 1 for photon counting.
    bits : uint32 array
        DEAD, UNDER_RESPONDING, OVER_RESPONDING, NOISY, and the known bits.
    noise_judged : bool
        True if frames and counts were enough to detect noisy pixels.
    large_scale : float
        Range, over the detector, of a second-order surface fitted to the flat field. This smooth
        part may come from the illumination instead of the pixels.
    weak : int
        Number of pixels in use with fewer expected counts than `MIN_COUNTS`.
    """

    flat: Floats
    errors: Floats
    dispersion: Floats
    bits: Bits
    noise_judged: bool
    large_scale: float
    weak: int


def illumination(detector: Detector, attenuation: float | None = None) -> Floats:
    """Return the fluorescence that an ideal pixel (ss, fs) receives.

    The value is 1 at the point of the detector plane that is nearest to the sample.

    Parameters
    ----------
    detector : Detector
    attenuation : float, optional
        Attenuation of the fluorescence in the sensor, 1/m: at oblique incidence the sensor absorbs
        more. None: the sensor absorbs all photons.

    Raises
    ------
    HklflowError
        If the attenuation is given but the thickness of the sensor is unknown.
    """
    relative = corrections.solid_angle(detector)
    if attenuation is None:
        return relative
    if detector.sensor_thickness is None:
        raise HklflowError(
            "the geometry does not state the thickness of the sensor, which is needed for its "
            "efficiency; add it to the geometry or omit `attenuation`"
        )
    sensor = replace(detector, sensor_attenuation=attenuation)
    head_on = -np.expm1(-attenuation * detector.sensor_thickness)
    return np.asarray(relative * corrections.sensor_efficiency(sensor) / head_on)


def flat_field(moments: Moments, illuminated: Floats, bits: Bits) -> Flood:
    """Compute the flat field and find defects.

    With m the mean counts and Ω the relative intensity at an ideal pixel, F = (m/Ω)/<m/Ω>, with
    the mean over the good pixels, and σ_F = F/sqrt(counts). A pixel is dead if it has no count,
    under-responding below `UNDER`, over-responding above `OVER` (both only by more than `CLEAR`
    standard deviations from 1), and noisy if χ² of its frames exceeds the quantile
    1 - `NOISY_CHANCE` of χ² for photons.

    Parameters
    ----------
    moments : Moments
        Moments of the flood's frames relative to their levels.
    illuminated : (ss, fs) array
        Ω, from `illumination`.
    bits : (ss, fs) uint32 array
        Bits of known pixels, which are not tested.

    Raises
    ------
    HklflowError
        If the shapes differ, or there are too few counts.
    """
    from scipy.stats import chi2

    if illuminated.shape != bits.shape:
        raise HklflowError(
            f"the geometry has {illuminated.shape} pixels, the frames have {bits.shape}; "
            "use the geometry of this detector"
        )
    measured = (bits == 0) & (moments.light > 0)
    counting = measured & (moments.total > 0)
    typical = float(np.median(moments.total[counting])) if counting.any() else 0.0
    if typical < MIN_COUNTS:
        raise HklflowError(
            f"the flood has only {typical:.0f} counts per pixel; at least {MIN_COUNTS} are needed "
            "to distinguish good pixels from bad pixels, and 40000 for 0.5 %: measure longer"
        )
    response = np.full(bits.shape, np.nan)
    exposure = moments.light * illuminated
    np.divide(moments.total, exposure, where=measured, out=response)
    usual = float(np.median(response[counting]))
    dispersion = moments.dispersion
    degrees = np.maximum(moments.frames - 1, 1)
    numbers = np.arange(int(degrees.max()) + 1)
    limits = np.asarray(chi2.isf(NOISY_CHANCE, np.maximum(numbers, 1)))
    judged = int(moments.frames[measured].max()) >= MIN_FRAMES
    judged &= typical / float(np.median(moments.frames[counting])) >= MIN_PER_FRAME
    noisy = counting & (dispersion * degrees > limits[degrees]) & judged
    flat = response / usual
    expected = usual * exposure
    for _ in range(2):  # normalise to the mean of the good pixels, then select them again
        under, over = outside(flat, expected)
        good = counting & ~noisy & ~under & ~over
        if not good.any():
            raise HklflowError("the flood has no good pixels; check the raw file")
        flat /= flat[good].mean()
    flags = bits.copy()
    silent = measured & (moments.total == 0) & (expected >= _DEAD_EXPECTED)
    flags[silent] |= np.uint32(MaskBit.DEAD)
    under, over = outside(flat, expected)
    flags[counting & under] |= np.uint32(MaskBit.UNDER_RESPONDING)
    flags[counting & over] |= np.uint32(MaskBit.OVER_RESPONDING)
    flags[noisy] |= np.uint32(MaskBit.NOISY)
    errors = np.full(bits.shape, np.nan)
    errors[counting] = flat[counting] / np.sqrt(moments.total[counting])
    weak = int(np.count_nonzero(good & (expected < MIN_COUNTS)))
    return Flood(flat, errors, dispersion, flags, judged, large_scale(flat, good), weak)


def outside(flat: Floats, expected: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return pixels below and above the limits of the response, beyond chance.

    Parameters
    ----------
    flat : array
        Relative response.
    expected : array
        Expected counts of a response of 1, or the inverse of its variance.
    """
    clear = np.abs(flat - 1) * np.sqrt(expected) > CLEAR
    return clear & (flat < UNDER), clear & (flat > OVER)


def told_weak(weak: int) -> str:
    """Return a warning if pixels in use have few counts; else an empty text."""
    if weak == 0:
        return ""
    return (
        f"{weak} pixels in use have fewer than {MIN_COUNTS} counts, so their response has an error "
        "above 5 %: measure longer, or mask these pixels"
    )


def large_scale(flat: Floats, good: NDArray[np.bool_]) -> float:
    """Return the range of the second-order surface through a subset of the good pixels."""
    some = tuple(slice(None, None, 1 + size // 300) for size in flat.shape)
    flat, good = flat[some], good[some]
    slow, fast = (np.linspace(-1, 1, size) for size in flat.shape)
    y, x = np.meshgrid(slow, fast, indexing="ij")
    terms = np.stack([np.ones_like(y), y, x, y * y, y * x, x * x])
    part = terms[:, good]
    surface = np.linalg.lstsq(part.T, flat[good], rcond=None)[0] @ part
    return float(np.ptp(surface))


def read_flat(path: Path) -> Floats:
    """Read the flat field (ss, fs) of a photon counter's constants; 0 where it is unknown.

    Raises
    ------
    HklflowError
        If the file has no flat field.
    """
    flat = np.asarray(_whole(path, "flatfield"), np.float64)
    return np.where(np.isfinite(flat), flat, 0.0)


def read_pixel_mask(path: Path) -> Bits:
    """Read the pixel mask (ss, fs) of a photon counter's constants.

    Raises
    ------
    HklflowError
        If the file has no pixel mask.
    """
    return np.asarray(_whole(path, "pixel_mask"), np.uint32)


def _whole(path: Path, name: str) -> NDArray[Any]:
    with open_constants(path) as constants:
        if constants.about.get("counter") is not True:
            raise HklflowError(
                f"{path} has the constants of an integrating detector's modules, not the image of "
                "a photon counter; these constants were already applied when frames were corrected"
            )
        values = np.asarray(constants.module(0)[name])  # a string gives an array without axes
    if values.dtype.kind not in "fiu" or values.ndim != 2:
        raise HklflowError(
            f"{name} of {path} is not a numeric image but {values.dtype} {values.shape}; create "
            "the constants again"
        )
    return values
