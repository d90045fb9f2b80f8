"""Detector geometry from a powder image of a calibrant.

The centres of the rings are fitted sector by sector (`calibration.rings`), and the geometry is
refined against these centres (`calibration.ring_fit`) in cycles (`calibration.powder_cycles`).
`calibration.powder_guess` finds missing starting values.

The wavelength is not refined, because one image cannot distinguish it from the distance;
`calibration.powder_series` can refine it from several images. A mirrored image has the same rings,
so `orientation` is an input.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.calibration.calibrants import Calibrant, two_theta
from hklflow.calibration.converge import Cycle, Reason
from hklflow.calibration.powder_cycles import (
    Image,
    PowderSettings,
    Refined,
    beam_and_distance,
    prepared,
    refine,
    response,
)
from hklflow.calibration.powder_guess import find_beam_centre, find_distance, guess_poni
from hklflow.calibration.ring_fit import PARAMETERS, propagated
from hklflow.calibration.rings import RingPoints, mean_two_theta, pixel_angle
from hklflow.formats.poni import Poni, poni_from_detector
from hklflow.geometry import Detector

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Profile:
    """Mean counts of an image as a function of 2θ; one row for each bin with pixels.

    Attributes
    ----------
    two_theta_deg, counts, sigma : (n,) array
        Centre of the bin; mean of counts divided by the relative response; its error from
        counting statistics.
    """

    two_theta_deg: Floats
    counts: Floats
    sigma: Floats


@dataclass(frozen=True)
class PowderCalibration:
    """A refined detector geometry.

    Attributes
    ----------
    detector : Detector
    poni : Poni
        The refined geometry as parameters of pyFAI.
    sigma : dict of float
        Standard deviations of dist, poni1, poni2 (metres), rot1, rot2 (radians), from counting
        statistics and `extra_sigma_deg`.
    covariance, correlation : (5, 5) array
        Rows and columns in the order of `PARAMETERS`.
    beam_centre, beam_centre_sigma : (slow, fast)
        Intersection of the direct beam with the detector, pixel coordinates.
    direct_distance, direct_distance_sigma : float
        Distance from the sample to the beam centre, metres.
    rms_deg : float
        Root mean square of Δ2θ over all points.
    ring_rms_deg : dict of float
        Root mean square of Δ2θ for each ring number.
    chi2 : float
        Reduced χ² of the points, with errors from counting statistics alone.
    extra_sigma_deg : float
        Scatter of the points in 2θ beyond counting statistics (grains, distortions), degrees.
    points, outliers : RingPoints
        Points used, points left out.
    two_theta_deg : dict of float
        Calculated 2θ for each ring number.
    calibrant : Calibrant
    wavelength : float
        Å.
    wavelength_sigma : float or None
        None: the wavelength was not refined.
    history : list of Cycle
    reason : str
        Reason why the last loop ended; see `converge.Converged`.
    bad : (slow, fast) bool array
        Pixels that were not used.
    profile : Profile
        Radial profile with the refined geometry.
    """

    detector: Detector
    poni: Poni
    sigma: dict[str, float]
    covariance: Floats
    correlation: Floats
    beam_centre: tuple[float, float]
    beam_centre_sigma: tuple[float, float]
    direct_distance: float
    direct_distance_sigma: float
    rms_deg: float
    ring_rms_deg: dict[int, float]
    chi2: float
    extra_sigma_deg: float
    points: RingPoints
    outliers: RingPoints
    two_theta_deg: dict[int, float]
    calibrant: Calibrant
    wavelength: float
    wavelength_sigma: float | None
    history: list[Cycle]
    reason: Reason
    bad: Bools
    profile: Profile

    @property
    def rings(self) -> list[int]:
        """Numbers of the used rings."""
        return sorted(self.ring_rms_deg)

    @property
    def rejected(self) -> int:
        """Number of points left out as outliers."""
        return len(self.outliers)


def calibrate_powder(
    image: ArrayLike, bad: ArrayLike, settings: PowderSettings
) -> PowderCalibration:
    """Refine distance, beam centre and tilts from a powder image; the wavelength is fixed.

    Parameters
    ----------
    image : (slow, fast) array
        Counts.
    bad : (slow, fast) bool array
        True for pixels that must not be used (gaps, hot pixels).
    settings : PowderSettings

    Raises
    ------
    HklflowError
        If shapes differ, too few rings or points are found, or the refinement does not converge.
    """
    prepared_image = prepared(image, bad)
    refined = refine([prepared_image], start_poni(prepared_image, settings), settings)
    return result(refined, 0, prepared_image, settings)


def start_poni(image: Image, settings: PowderSettings) -> Poni:
    """Return an untilted starting geometry; values that are None are found from the rings.

    Raises
    ------
    HklflowError
        If the orientation is unknown, or the rings show no clear centre or distance.
    """
    centre, distance, wavelength = settings.beam_centre, settings.distance, settings.wavelength
    if centre is None:
        centre = find_beam_centre(image.counts, image.bad)
    if distance is None:
        rings = settings.calibrant.two_theta(wavelength)
        distance = find_distance(image.counts, image.bad, centre, settings.pixel_size, rings)
    shape = (image.counts.shape[0], image.counts.shape[1])
    return guess_poni(
        shape, settings.pixel_size, distance, centre, settings.orientation, wavelength
    )


def result(
    refined: Refined, number: int, image: Image, settings: PowderSettings
) -> PowderCalibration:
    """Return the calibration of image `number`, with the geometry of its setting."""
    fit, calibrant = refined.fit, settings.calibrant
    reference = fit.poni.detector()
    wavelength = float(fit.poni.wavelength or 0)
    detector = image.setting.detector(reference)
    points = fit.points[number]
    # The refined parameters belong to the reference setting; other settings are calculated from it.
    poni = poni_from_detector(detector, fit.poni.orientation, wavelength)

    def parameters_at(reference_poni: Poni) -> Floats:
        there = image.setting.detector(reference_poni.detector())
        parameters = poni_from_detector(there, reference_poni.orientation)
        return np.array(
            [getattr(parameters, name) for name in PARAMETERS] + [*beam_and_distance(there)]
        )

    spread = propagated(parameters_at, fit.poni, fit.free, fit.covariance)
    deviation = np.sqrt(np.diag(spread))
    covariance = spread[:5, :5]
    beam = beam_and_distance(detector)
    off = np.degrees(points.residual)
    used = [int(ring) for ring in np.unique(points.ring)]
    calculated = np.degrees(two_theta(calibrant.d[used], wavelength))
    in_free = "wavelength" in fit.free
    # Several images share the free parameters.
    own_free = len(fit.free) * len(points) / sum(map(len, fit.points))
    return PowderCalibration(
        detector=detector,
        poni=poni,
        sigma=dict(zip(PARAMETERS, deviation[:5].tolist(), strict=True)),
        covariance=covariance,
        correlation=covariance / np.outer(deviation[:5], deviation[:5]),
        beam_centre=(float(beam[0]), float(beam[1])),
        beam_centre_sigma=(float(deviation[5]), float(deviation[6])),
        direct_distance=float(beam[2]),
        direct_distance_sigma=float(deviation[7]),
        rms_deg=float(np.sqrt(np.mean(off**2))),
        ring_rms_deg={
            ring: float(np.sqrt(np.mean(off[points.ring == ring] ** 2))) for ring in used
        },
        chi2=float(np.sum((points.residual / points.sigma) ** 2) / (len(points) - own_free)),
        extra_sigma_deg=float(np.degrees(fit.extra)),
        points=points,
        outliers=fit.rejected[number],
        two_theta_deg=dict(zip(used, calculated.tolist(), strict=True)),
        calibrant=calibrant,
        wavelength=wavelength,
        wavelength_sigma=float(np.sqrt(fit.covariance[-1, -1])) if in_free else None,
        history=refined.history,
        reason=refined.reason,
        bad=image.bad,
        profile=_profile(image, detector, settings.polarization),
    )


def _profile(image: Image, detector: Detector, polarization: float) -> Profile:
    """Compute the mean counts in bins of half a pixel."""
    angle = mean_two_theta(detector)
    step = 0.5 * pixel_angle(angle)
    good = ~image.bad
    relative = response(detector, polarization)[good]
    low = float(angle[good].min())
    index = ((angle[good] - low) / step).astype(np.int64)
    number = np.bincount(index)
    mean = np.bincount(index, image.counts[good] / relative) / number.clip(min=1)
    variance = np.bincount(index, image.counts[good].clip(min=0) / relative**2)
    filled = number > 0
    middle = low + (np.arange(len(number)) + 0.5) * step
    sigma = np.sqrt(np.maximum(variance, 1.0)) / number.clip(min=1)
    return Profile(np.degrees(middle[filled]), mean[filled], sigma[filled])
