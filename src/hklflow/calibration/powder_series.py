"""One detector geometry from several powder images at known displacements.

Known steps of the distance or of a 2θ arm separate wavelength and distance. A wrong wavelength
changes all distances by the same factor, but the known step does not change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.calibration.calibrants import Calibrant, read_calibrant
from hklflow.calibration.powder import PowderCalibration, result, start_poni
from hklflow.calibration.powder_cycles import prepared, refine
from hklflow.calibration.ring_fit import PARAMETERS, Setting
from hklflow.formats.poni import Poni

Floats = NDArray[np.float64]

MIN_IMAGE_POINTS = 10


@dataclass(frozen=True)
class PowderImage:
    """A powder image and the setting of the detector.

    Attributes
    ----------
    counts : (slow, fast) array
    bad : (slow, fast) bool array
        True for pixels that must not be used.
    offset : float
        Distance along the beam minus the distance of the reference setting, metres.
    arm_deg : float
        Angle of the detector's 2θ arm, degrees.
    """

    counts: ArrayLike
    bad: ArrayLike
    offset: float = 0.0
    arm_deg: float = 0.0


@dataclass(frozen=True)
class PowderSeries:
    """One geometry from several images.

    Attributes
    ----------
    poni : Poni
        Geometry of the reference setting: offset 0, arm at 0.
    free : tuple of n str
        Refined parameters, in the order of `covariance`.
    covariance, correlation : (n, n) array
        Units: metres, radians, Å.
    wavelength, wavelength_given : float
        Refined and starting wavelength, Å.
    wavelength_sigma : float or None
        None: the wavelength was not refined.
    images : list of PowderCalibration
        Calibration of each image, with the geometry of its setting.
    """

    poni: Poni
    free: tuple[str, ...]
    covariance: Floats
    correlation: Floats
    wavelength: float
    wavelength_given: float
    wavelength_sigma: float | None
    images: list[PowderCalibration]


def calibrate_powder_series(
    images: Sequence[PowderImage],
    *,
    calibrant: str | Path | Calibrant,
    wavelength: float,
    pixel_size: tuple[float, float],
    orientation: int,
    distance: float | None = None,
    beam_centre: tuple[float, float] | None = None,
    arm_axis: tuple[float, float, float] = (0.0, 1.0, 0.0),
    free_wavelength: bool | None = None,
    polarization: float = 0.99,
    min_rings: int = 3,
    min_points: int = 30,
    max_cycles: int = 10,
) -> PowderSeries:
    """Refine one geometry, and also the wavelength if the images determine it.

    Parameters
    ----------
    images : sequence of PowderImage
        Images of the same shape. If `distance` or `beam_centre` is None, the first image must be
        at the reference setting.
    wavelength : float
        Wavelength, Å; the starting value if it is refined.
    distance, beam_centre : optional
        Starting values at the reference setting, as in `calibrate_powder`.
    arm_axis : (3,)
        Lab axis of the arm. For the default, lab y, a positive angle moves the detector towards
        lab x.
    free_wavelength : bool, optional
        Refine the wavelength. None: refine it if there are two or more distances.

    The other parameters have the same meaning as in `calibrate_powder`.

    Raises
    ------
    HklflowError
        If shapes differ, if the wavelength shall be refined from one setting, if an image does not
        fit with the other images, and as in `calibrate_powder`.
    """
    if not images:
        raise HklflowError("the series has no powder images; list one or more")
    known = calibrant if isinstance(calibrant, Calibrant) else read_calibrant(calibrant)
    ready = [
        prepared(i.counts, i.bad, Setting(i.offset, float(np.radians(i.arm_deg)), arm_axis))
        for i in images
    ]
    shapes = {image.counts.shape for image in ready}
    if len(shapes) > 1:
        listed = ", ".join(str(shape) for shape in sorted(shapes))
        raise HklflowError(f"the powder images have shapes {listed}; use images of one detector")
    several = len({i.offset for i in images}) > 1
    turned = len({i.arm_deg for i in images}) > 1
    if free_wavelength and not (several or turned):
        raise HklflowError(
            f"the wavelength cannot be refined from {len(images)} powder image(s) at one "
            "distance: a wrong wavelength and a wrong distance have the same effect; add images "
            "at other distances, or fix the wavelength"
        )
    first = images[0]
    guessed = distance is None or beam_centre is None
    if guessed and (first.offset != 0 or first.arm_deg != 0):
        raise HklflowError(
            f"the first powder image is at offset {first.offset:g} m and arm {first.arm_deg:g} "
            "deg; set distance and beam centre of the reference setting, or put an image at the "
            "reference setting first"
        )
    free_it = several if free_wavelength is None else free_wavelength
    free = (*PARAMETERS, "wavelength") if free_it else PARAMETERS
    refined = refine(
        ready,
        known,
        start_poni(ready[0], known, wavelength, pixel_size, orientation, distance, beam_centre),
        free=free,
        polarization=polarization,
        min_rings=min_rings,
        min_points=min_points,
        max_cycles=max_cycles,
    )
    fit = refined.fit
    for number, (image, points) in enumerate(zip(images, fit.points, strict=True), start=1):
        if len(points) < MIN_IMAGE_POINTS or len(points) < len(fit.rejected[number - 1]):
            raise HklflowError(
                f"only {len(points)} ring points of powder image {number} of {len(images)} (offset "
                f"{image.offset:g} m, arm {image.arm_deg:g} deg) fit with the other images; check "
                "its offset, its arm angle and their signs"
            )
    sigma = np.sqrt(np.diag(fit.covariance))
    return PowderSeries(
        poni=fit.poni,
        free=free,
        covariance=fit.covariance,
        correlation=fit.covariance / np.outer(sigma, sigma),
        wavelength=float(fit.poni.wavelength or 0),
        wavelength_given=wavelength,
        wavelength_sigma=float(sigma[-1]) if free_it else None,
        images=[result(refined, i, image, known, polarization) for i, image in enumerate(ready)],
    )
