"""One detector geometry from several powder images at known displacements.

Known steps of the distance or of a 2θ arm separate wavelength and distance. A wrong wavelength
changes all distances by the same factor, but the known step does not change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.calibration.powder import PowderCalibration, result, start_poni
from hklflow.calibration.powder_cycles import Image, PowderSettings, prepared, refine
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
    settings: PowderSettings,
    *,
    arm_axis: tuple[float, float, float] = (0.0, 1.0, 0.0),
    free_wavelength: bool | None = None,
) -> PowderSeries:
    """Refine one geometry, and also the wavelength if the images determine it.

    Parameters
    ----------
    images : sequence of PowderImage
        Images of the same shape. If distance or beam centre is to be found, the first image must
        be at the reference setting.
    settings : PowderSettings
        Starting values of distance and beam centre are for the reference setting.
    arm_axis : (3,)
        Lab axis of the arm. For the default, lab y, a positive angle moves the detector towards
        lab x.
    free_wavelength : bool, optional
        Refine the wavelength. None: refine it if there are two or more distances.

    Raises
    ------
    HklflowError
        If shapes differ, if the wavelength shall be refined from one setting, if an image does not
        fit with the other images, and as in `calibrate_powder`.
    """
    if not images:
        raise HklflowError("the series has no powder images; list one or more")
    ready = [
        prepared(i.counts, i.bad, Setting(i.offset, float(np.radians(i.arm_deg)), arm_axis))
        for i in images
    ]
    free_it = len({i.offset for i in images}) > 1 if free_wavelength is None else free_wavelength
    _require_series(images, ready, settings, free_it)
    free = (*PARAMETERS, "wavelength") if free_it else PARAMETERS
    refined = refine(ready, start_poni(ready[0], settings), settings, free)
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
        wavelength_given=settings.wavelength,
        wavelength_sigma=float(sigma[-1]) if free_it else None,
        images=[result(refined, i, image, settings) for i, image in enumerate(ready)],
    )


def _require_series(
    images: Sequence[PowderImage],
    ready: Sequence[Image],
    settings: PowderSettings,
    free_wavelength: bool,
) -> None:
    """Refuse images that do not determine what is to be refined."""
    shapes = {image.counts.shape for image in ready}
    if len(shapes) > 1:
        listed = ", ".join(str(shape) for shape in sorted(shapes))
        raise HklflowError(f"the powder images have shapes {listed}; use images of one detector")
    if free_wavelength and len({(i.offset, i.arm_deg) for i in images}) == 1:
        raise HklflowError(
            f"the wavelength cannot be refined from {len(images)} powder image(s) at one "
            "distance: a wrong wavelength and a wrong distance have the same effect; add images "
            "at other distances, or fix the wavelength"
        )
    first = images[0]
    guessed = settings.distance is None or settings.beam_centre is None
    if guessed and (first.offset != 0 or first.arm_deg != 0):
        raise HklflowError(
            f"the first powder image is at offset {first.offset:g} m and arm {first.arm_deg:g} "
            "deg; set distance and beam centre of the reference setting, or put an image at the "
            "reference setting first"
        )
