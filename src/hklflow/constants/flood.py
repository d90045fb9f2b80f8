"""Flat field of a photon counter from a flood of fluorescence, and the defects that it shows.

Fluorescence is isotropic: without absorption each pixel counts its solid angle times its response.
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

#: Relative responses outside of which a pixel is masked.
UNDER, OVER = 0.6, 1.6
#: Chance of a good pixel to be taken for a noisy one.
NOISY_CHANCE = 1e-8
#: Counts of a pixel below which its response says nothing.
MIN_COUNTS = 400
#: Frames, and counts in a frame, below which the dispersion is not χ² distributed.
MIN_FRAMES, MIN_PER_FRAME = 10, 4.0
_DEAD_EXPECTED = 30.0  # counts, of which a good pixel has none with a chance of exp(-30)


@dataclass(frozen=True)
class Flood:
    """What a flood tells of every pixel, (ss, fs).

    Attributes
    ----------
    flat, errors : array
        Response relative to the mean of the good pixels, and its standard error; NaN where
        nothing was measured.
    dispersion : array
        Variance over mean, 1 for counted photons.
    bits : uint32 array
        DEAD, UNDER_RESPONDING, OVER_RESPONDING, NOISY, and those that were known.
    noise_judged : bool
        Whether there were frames and counts enough to tell noisy pixels.
    large_scale : float
        Range of the smooth part (second order in slow and fast) of the flat over the detector:
        what is not the pixels' but perhaps the illumination's.
    """

    flat: Floats
    errors: Floats
    dispersion: Floats
    bits: Bits
    noise_judged: bool
    large_scale: float


def illumination(detector: Detector, attenuation: float | None = None) -> Floats:
    """What an ideal pixel (ss, fs) sees of isotropic fluorescence, 1 at the foot of the normal.

    Parameters
    ----------
    detector : Detector
    attenuation : float, optional
        1/m, of the sensor for the fluorescence: the obliquely hit sensor absorbs more. None:
        it absorbs all.

    Raises
    ------
    HklflowError
        If the sensor's thickness is not known but its attenuation is.
    """
    seen = corrections.solid_angle(detector)
    if attenuation is None:
        return seen
    if detector.sensor_thickness is None:
        raise HklflowError(
            "the geometry does not state the sensor's thickness, which its efficiency needs; "
            "add it to the geometry or leave `attenuation` out"
        )
    sensor = replace(detector, sensor_attenuation=attenuation)
    head_on = -np.expm1(-attenuation * detector.sensor_thickness)
    return np.asarray(seen * corrections.sensor_efficiency(sensor) / head_on)


def flat_field(moments: Moments, illuminated: Floats, bits: Bits) -> Flood:
    """Flat field and defects.

    With m the mean counts and Ω what an ideal pixel sees, F = (m/Ω)/<m/Ω>, the mean being that of
    the good pixels, and σ_F = F/sqrt(counts). A pixel is dead without a count, under-responding
    below `UNDER`, over-responding above `OVER`, and noisy if χ² of its frames exceeds the
    quantile 1 - `NOISY_CHANCE` of that of photons.

    Parameters
    ----------
    moments : Moments
        Of the flood's frames, against their levels.
    illuminated : (ss, fs) array
        Ω, see `illumination`.
    bits : (ss, fs) uint32 array
        Known pixels, that are not judged.

    Raises
    ------
    HklflowError
        If the shapes differ, or there are too few counts.
    """
    from scipy.stats import chi2

    if illuminated.shape != bits.shape:
        raise HklflowError(
            f"the geometry is that of {illuminated.shape} pixels, the frames have {bits.shape}; "
            "give the geometry of this detector"
        )
    measured = (bits == 0) & (moments.light > 0)
    counting = measured & (moments.total > 0)
    typical = float(np.median(moments.total[counting])) if counting.any() else 0.0
    if typical < MIN_COUNTS:
        raise HklflowError(
            f"the flood has {typical:.0f} counts in a pixel; {MIN_COUNTS} are the least that tell "
            "good pixels from bad ones and 40000 give 0.5 %: measure longer"
        )
    response = np.full(bits.shape, np.nan)
    seen = moments.light * illuminated
    np.divide(moments.total, seen, where=measured, out=response)
    usual = float(np.median(response[counting]))
    dispersion = moments.dispersion
    degrees = np.maximum(moments.frames - 1, 1)
    numbers = np.arange(int(degrees.max()) + 1)
    limits = np.asarray(chi2.isf(NOISY_CHANCE, np.maximum(numbers, 1)))
    judged = int(moments.frames[measured].max()) >= MIN_FRAMES
    judged &= typical / float(np.median(moments.frames[counting])) >= MIN_PER_FRAME
    noisy = counting & (dispersion * degrees > limits[degrees]) & judged
    flat = response / usual
    for _ in range(2):  # the good ones have the mean 1, and are judged with it
        good = counting & ~noisy & (flat >= UNDER) & (flat <= OVER)
        if not good.any():
            raise HklflowError("no good pixel is left in the flood; check the raw file")
        flat /= flat[good].mean()
    found = bits.copy()
    silent = measured & (moments.total == 0) & (usual * seen >= _DEAD_EXPECTED)
    found[silent] |= np.uint32(MaskBit.DEAD)
    found[counting & (flat < UNDER)] |= np.uint32(MaskBit.UNDER_RESPONDING)
    found[counting & (flat > OVER)] |= np.uint32(MaskBit.OVER_RESPONDING)
    found[noisy] |= np.uint32(MaskBit.NOISY)
    errors = np.full(bits.shape, np.nan)
    errors[counting] = flat[counting] / np.sqrt(moments.total[counting])
    return Flood(flat, errors, dispersion, found, judged, _large_scale(flat, good))


def _large_scale(flat: Floats, good: NDArray[np.bool_]) -> float:
    """Range of the second-order surface through the good pixels, of a part of them."""
    some = tuple(slice(None, None, 1 + size // 300) for size in flat.shape)
    flat, good = flat[some], good[some]
    slow, fast = (np.linspace(-1, 1, size) for size in flat.shape)
    y, x = np.meshgrid(slow, fast, indexing="ij")
    terms = np.stack([np.ones_like(y), y, x, y * y, y * x, x * x])
    part = terms[:, good]
    surface = np.linalg.lstsq(part.T, flat[good], rcond=None)[0] @ part
    return float(np.ptp(surface))


def read_flat(path: Path) -> Floats:
    """Flat field (ss, fs) of a photon counter's constants; 0 where there is none.

    Raises
    ------
    HklflowError
        If the file has none.
    """
    flat = np.asarray(_whole(path, "flatfield"), np.float64)
    return np.where(np.isfinite(flat), flat, 0.0)


def read_pixel_mask(path: Path) -> Bits:
    """Pixel mask (ss, fs) of a photon counter's constants.

    Raises
    ------
    HklflowError
        If the file has none.
    """
    return np.asarray(_whole(path, "pixel_mask"), np.uint32)


def _whole(path: Path, name: str) -> NDArray[Any]:
    with open_constants(path) as constants:
        if constants.about.get("counter") is not True:
            raise HklflowError(
                f"{path} has the constants of modules, not of a photon counter's whole image; "
                "what corrected the frames knows them already"
            )
        values = np.asarray(constants.module(0)[name])  # a text is no array yet
    if values.dtype.kind not in "fiu" or values.ndim != 2:
        raise HklflowError(
            f"{name} of {path} is no image of numbers but {values.dtype} {values.shape}; make the "
            "constants again"
        )
    return values
