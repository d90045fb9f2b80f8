"""Normalisation: the response of the pixels to a standard of known scattering, and its file.

The file has the layout of a photon counter's constants, so the flat field of a scan can be read
from it. With m the monitor (times the transmission of the attenuators), Ω the solid angle of a
pixel, and I the expected scattering of the standard (with polarisation, sensor efficiency and its
dependence on |Q|), a pixel of response F counts ``n ~ Poisson(m K Ω I F)``. F has the mean 1, so K
is the absolute factor: counts per monitor count and sr for I = 1.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants import counters, files, flood
from hklflow.formats.header import Header
from hklflow.geometry import Beam, Detector, corrections, detector_from_dict, two_theta
from hklflow.images.masks import Bits
from hklflow.images.pixel_moments import Moments

Floats = NDArray[np.float64]

SOLID_ANGLE, POLARISATION, EFFICIENCY = "solid angle", "polarisation", "sensor efficiency"


@dataclass(frozen=True)
class Normalization:
    """Response of the pixels (ss, fs) and its description.

    Attributes
    ----------
    flat, errors : array
        Response relative to the mean of the usable pixels, and its standard error. NaN for pixels
        without a usable response.
    bits : uint32 array
        Mask of the raw file.
    about : dict
        Plain data: ``standard``, ``factors`` (corrections that are divided out), ``detector``,
        ``wavelength_A``, ``absolute`` and ``absolute_error`` (None: unknown), and figures.
    """

    flat: Floats
    errors: Floats
    bits: Bits
    about: dict[str, Any]


def incident(header: Header, frames: int) -> Floats | None:
    """Return monitor times transmission of each frame; None if the file has no usable monitor."""
    if header.monitor is None or np.shape(header.monitor) != (frames,):
        return None
    transmission = 1.0 if header.transmission is None else header.transmission
    values = np.asarray(header.monitor * np.broadcast_to(transmission, (frames,)), np.float64)
    return values if np.all(np.isfinite(values) & (values > 0)) else None


def expected_elastic(
    detector: Detector, beam: Beam, table: Floats | None = None
) -> tuple[Floats, list[str]]:
    """Return Ω I of an elastic scatterer in each pixel (ss, fs), and the factors that it contains.

    Parameters
    ----------
    table : (n, 2) array, optional
        |Q| in 1/Å and the scattering of the standard. None: the same in all directions.

    Raises
    ------
    HklflowError
        If the table does not reach all pixels.
    """
    factors = [SOLID_ANGLE, POLARISATION]
    expected = corrections.solid_angle(detector)
    expected *= corrections.polarization(detector, beam.polarization)
    if None not in (detector.sensor_thickness, detector.sensor_attenuation):
        expected *= corrections.sensor_efficiency(detector)
        factors.append(EFFICIENCY)
    if table is not None:
        q = 4 * np.pi / beam.wavelength * np.sin(two_theta(detector) / 2)
        low, high = table[0, 0], table[-1, 0]
        if q.min() < low or q.max() > high:
            raise HklflowError(
                f"the table of the standard covers |Q| from {low:g} to {high:g} 1/Å, the detector "
                f"{q.min():.3g} to {q.max():.3g} 1/Å; give a table that covers the detector"
            )
        expected *= np.interp(q, table[:, 0], table[:, 1])
    return expected, factors


def expected_fluorescence(
    detector: Detector, attenuation: float | None
) -> tuple[Floats, list[str]]:
    """Return Ω I of fluorescence in each pixel, and its factors; see `flood.illumination`."""
    return flood.illumination(detector, attenuation), [SOLID_ANGLE]


def normalization(
    standard: Moments,
    expected: Floats,
    bits: Bits,
    pixel_area: float,
    empty: tuple[Moments, float] | None = None,
) -> Normalization:
    """Compute the response of the pixels, and the absolute factor.

    Parameters
    ----------
    standard : Moments
        Moments of the standard's frames, relative to monitor times transmission.
    expected : (ss, fs) array
        Ω I, relative to a pixel at the foot of the detector's normal.
    bits : (ss, fs) uint32 array
        Mask of the raw file.
    pixel_area : float
        Solid angle of the pixel at the foot of the normal, sr.
    empty : (Moments, float), optional
        Moments of the frames without the standard, and the transmission of the standard for this
        background.

    Raises
    ------
    HklflowError
        If shapes differ, or there are too few counts.
    """
    for shape, what in (
        (expected.shape, "geometry"),
        *([] if empty is None else [(empty[0].total.shape, "empty measurement")]),
    ):
        if shape != bits.shape:
            raise HklflowError(
                f"the {what} has {shape} pixels, the standard has {bits.shape}; use one detector"
            )
    measured = (bits == 0) & (standard.light > 0)
    if empty is not None:
        measured &= empty[0].light > 0
    rate, variance = _rate(standard, measured)
    level, background = float(np.mean(rate[measured])) if measured.any() else 0.0, 0.0
    counts = float(np.median(standard.total[measured])) if measured.any() else 0.0
    if counts < flood.MIN_COUNTS:
        raise HklflowError(
            f"the standard has only {counts:.0f} counts per pixel; at least {flood.MIN_COUNTS} are "
            "needed, and 10000 for 1 %: measure longer"
        )
    if empty is not None:
        below, noise = _rate(empty[0], measured)
        rate, variance = rate - empty[1] * below, variance + empty[1] ** 2 * noise
        background = empty[1] * float(np.mean(below[measured])) / level
    response = np.where(measured, rate / expected, np.nan)
    usual = float(np.median(response[measured]))
    if not usual > 0:
        raise HklflowError(
            "the standard is not stronger than the empty measurement; check the monitors of both, "
            "and the order of the files"
        )
    light = np.where(measured, standard.light, 1.0)
    for _ in range(2):  # normalise to the mean of the usable pixels, then select them again
        flat = response / usual
        # A pixel with few counts by chance has too small a variance of its own.
        least = np.maximum(variance, usual * expected / light)
        under, over = flood.outside(flat, (expected * usual) ** 2 / least)
        good = measured & (flat > 0) & ~under & ~over
        if not good.any():
            raise HklflowError(
                "no pixel has a usable response to the standard; check geometry and files"
            )
        usual = float(np.mean(response[good]))
    flat = np.where(good, response / usual, np.nan)
    errors = np.where(good, np.sqrt(variance) / (expected * usual), np.nan)
    error = float(np.sqrt(np.sum(errors[good] ** 2))) / int(good.sum())
    about = {
        "absolute": usual / pixel_area,
        "absolute_error": error * usual / pixel_area,
        "pixels": int((bits == 0).sum()),
        "unusable": int(((bits == 0) & ~good).sum()),
        "median_error": float(np.median(errors[good])),
        "background": background,
        "large_scale": flood.large_scale(flat, good),
        "dispersion": _dispersion(standard, good),
    }
    return Normalization(flat, errors, bits, about)


def _rate(moments: Moments, measured: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return counts per monitor and their variance; 0 where not measured.

    The variance is the counts' own, times their dispersion if frames were enough to measure it.
    """
    rate, variance = np.zeros(measured.shape), np.zeros(measured.shape)
    np.divide(moments.total, moments.light, where=measured, out=rate)
    np.divide(np.maximum(moments.total, 1), moments.light**2, where=measured, out=variance)
    return rate, variance * _dispersion(moments, measured)


def _dispersion(moments: Moments, good: NDArray[np.bool_]) -> float:
    """Return the index of dispersion of most pixels; 1, as of photons, with too few frames."""
    enough = good & (moments.frames >= flood.MIN_FRAMES) & (moments.total > 0)
    if not enough.any():
        return 1.0
    degrees = float(np.median(moments.frames[enough])) - 1
    # The median of χ² is below its mean (Wilson & Hilferty, PNAS 17, 684, 1931).
    return float(np.median(moments.dispersion[enough])) / (1 - 2 / (9 * degrees)) ** 3


def ideal(shape: tuple[int, int]) -> Normalization:
    """Return the normalisation of version 0: all pixels respond alike, the factor is unknown."""
    about: dict[str, Any] = {
        "standard": "none",
        "factors": [],
        "absolute": None,
        "absolute_error": None,
    }
    return Normalization(np.ones(shape), np.zeros(shape), np.zeros(shape, np.uint32), about)


def write_normalization(path: Path, normalization: Normalization) -> None:
    """Write a normalisation, in the layout of the constants of a photon counter."""
    about = {"detector": "normalisation", "counter": True, "normalization": normalization.about}
    quantities = {
        "flatfield": files.Quantity(normalization.flat.astype(np.float32)),
        "flatfield_errors": files.Quantity(normalization.errors.astype(np.float32)),
        "pixel_mask": counters.mask_quantity(normalization.bits),
    }
    title = f"normalisation with {normalization.about['standard']}"
    with files.create_detector(path, title, about) as group:
        module = group.create_group(files.module_name(0))
        files.add_quantities(module, files.Constants(about | {"module": 0}, quantities))


def response_change(about: dict[str, Any], now: Detector) -> float:
    """Return the largest relative change of a pixel's solid angle since the standard was measured.

    The mean change is left out, because the response is relative. 0 if the geometry of the
    measurement is not known.
    """
    if "detector" not in about:
        return 0.0
    then = detector_from_dict(about["detector"])
    if then.shape != now.shape:
        return 0.0
    ratio = corrections.solid_angle(replace(now, modules=None)) / corrections.solid_angle(
        replace(then, modules=None)
    )
    return float(np.max(np.abs(ratio / ratio.mean() - 1)))
