"""Detector geometry from a powder image of a calibrant.

Two steps. pyFAI finds points on the rings, few inner rings first and then more, and its
`GeometryRefinement` brings the geometry to about a tenth of a pixel. Then the geometry is
refined against fitted centres of ring sectors (`calibration.rings`). Their errors follow
from the counts, so the refinement has a covariance. Starting values that are not given are
found by `calibration.powder_guess`.

rot3 turns the detector about the beam, which rings do not see: it stays 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, least_squares

from hklflow.calibration.powder_guess import find_beam_centre, find_distance, guess_poni
from hklflow.calibration.rings import RingPoints, ring_points
from hklflow.core.corrections import polarization as polarization_factor
from hklflow.core.corrections import solid_angle
from hklflow.core.geometry import Detector
from hklflow.errors import HklflowError
from hklflow.formats.poni import Poni, poni_from_detector

Floats = NDArray[np.float64]

PARAMETERS = ("dist", "poni1", "poni2", "rot1", "rot2")

RING_SCHEDULE = (3, 6, 12, 1000)


@dataclass(frozen=True)
class PowderCalibration:
    """A refined detector geometry.

    Attributes
    ----------
    detector : Detector
    poni : Poni
        The same as pyFAI's parameters.
    sigma : dict of float
        Standard deviations of dist, poni1, poni2 (metres), rot1, rot2 (radians).
        From counting statistics and `extra_sigma_deg`.
    covariance, correlation : (5, 5) array
        In the order of `PARAMETERS`.
    beam_centre, beam_centre_sigma : (slow, fast)
        Where the direct beam meets the detector, pixel coordinates.
    rms_deg : float
        Root mean square of Δ2θ over all points.
    ring_rms_deg : dict of float
        The same by ring number.
    chi2 : float
        Reduced χ² of the points against counting statistics alone.
    extra_sigma_deg : float
        Scatter of the points in 2θ beyond counting statistics (grains, distortions).
    points : RingPoints
        Points used.
    rejected : int
        Points left out as outliers.
    two_theta_deg : dict of float
        Calculated 2θ by ring number.
    """

    detector: Detector
    poni: Poni
    sigma: dict[str, float]
    covariance: Floats
    correlation: Floats
    beam_centre: tuple[float, float]
    beam_centre_sigma: tuple[float, float]
    rms_deg: float
    ring_rms_deg: dict[int, float]
    chi2: float
    extra_sigma_deg: float
    points: RingPoints
    rejected: int
    two_theta_deg: dict[int, float]

    @property
    def rings(self) -> list[int]:
        """Rings used."""
        return sorted(self.ring_rms_deg)


def calibrant_two_theta(name: str, wavelength: float) -> Floats:
    """2θ (n,) in radians of a calibrant's rings, rising (d-spacings of pyFAI).

    Raises
    ------
    HklflowError
        If pyFAI does not know the calibrant.
    """
    calibrant = _calibrant(name, wavelength)
    return np.unique([angle for angle in calibrant.get_2th() if angle is not None])


def _calibrant(name: str, wavelength: float) -> Any:
    from pyFAI.calibrant import get_calibrant, names

    if name not in names():
        raise HklflowError(
            f"calibrant {name!r} is not known to pyFAI; use one of {', '.join(sorted(names()))}"
        )
    return get_calibrant(name, wavelength=wavelength * 1e-10)


def _pyfai_refined(
    image: Floats, bad: NDArray[np.bool_], calibrant_name: str, poni: Poni, min_points: int
) -> Poni:
    """Ring points picked by pyFAI with more and more rings, outliers rejected."""
    from pyFAI.detectors import Detector as PyfaiDetector
    from pyFAI.goniometer import SingleGeometry

    rings = calibrant_two_theta(calibrant_name, float(poni.wavelength or 0))
    detector = PyfaiDetector(
        poni.pixel1, poni.pixel2, max_shape=poni.shape, orientation=poni.orientation
    )
    detector.mask = bad.astype(np.int8)
    for rings_wanted in RING_SCHEDULE:
        calibrant = _calibrant(calibrant_name, float(poni.wavelength or 0))
        start = {name: getattr(poni, name) for name in (*PARAMETERS, "rot3")}
        single = SingleGeometry(
            "powder", image, calibrant=calibrant, detector=detector, geometry=start
        )
        single.extract_cp(max_rings=rings_wanted, pts_per_deg=0.5)
        data = np.asarray(single.geometry_refinement.data, dtype=np.float64).reshape(-1, 3)
        tilts = ["rot1", "rot2"] if rings_wanted == RING_SCHEDULE[0] else []
        for _ in range(4):
            if len(data) < min_points:
                raise HklflowError(
                    f"only {len(data)} points found on the inner {rings_wanted} rings of "
                    f"{calibrant_name}, {min_points} are needed; check distance "
                    f"({poni.dist:.6g} m), beam centre, wavelength and mask"
                )
            refinement = single.geometry_refinement
            refinement.data = data
            refinement.refine3(fix=["rot3", "wavelength", *tilts])
            poni = _with(poni, [getattr(refinement, name) for name in PARAMETERS])
            # pyFAI counts from pixel centres, we from corners.
            seen = _two_theta_at(poni.detector(), data[:, 0] + 0.5, data[:, 1] + 0.5)
            off = seen - rings[data[:, 2].astype(int)]
            spread = 1.4826 * np.median(np.abs(off - np.median(off)))
            good = np.abs(off - np.median(off)) < 4 * spread + 1e-9
            if good.all():
                break
            data = data[good]
    return poni


def _with(poni: Poni, values: ArrayLike) -> Poni:
    """Replace the refined parameters, in the order of `PARAMETERS`."""
    dist, poni1, poni2, rot1, rot2 = np.asarray(values, dtype=np.float64).tolist()
    return replace(poni, dist=dist, poni1=poni1, poni2=poni2, rot1=rot1, rot2=rot2)


def _two_theta_at(detector: Detector, slow: Floats, fast: Floats) -> Floats:
    position = detector.lab(slow, fast)
    angle: Floats = np.arctan2(np.hypot(position[:, 0], position[:, 1]), position[:, 2])
    return angle


def _extra_sigma(off: Floats, sigma: Floats) -> float:
    """Scatter (radians) beyond `sigma` that makes the reduced χ² of the residuals 1.

    Few grains in the beam and distortions of the detector move ring centres by more
    than counting statistics does, and by as much on strong rings as on weak ones. Without this
    the few strongest sectors would decide alone.
    """
    wanted = len(off) - len(PARAMETERS)

    def excess(extra: float) -> float:
        return float(np.sum(off**2 / (sigma**2 + extra**2))) - wanted

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, 10 * float(np.sqrt(np.mean(off**2))) + 1e-12))


def _refine(
    points: RingPoints, sigma: Floats, rings: Floats, poni: Poni
) -> tuple[Poni, Floats, Floats]:
    """Least squares of the points; gives geometry, covariance and residuals in radians."""
    # Metres and radians are alike in size here, but not in effect: scale by a pixel.
    scale = np.array([poni.pixel1] * 3 + [poni.pixel1 / poni.dist] * 2)
    start = np.array([getattr(poni, name) for name in PARAMETERS])

    def geometry(p: Floats) -> Poni:
        return _with(poni, start + p * scale)

    def residuals(p: Floats) -> Floats:
        seen = _two_theta_at(geometry(p).detector(), points.slow, points.fast)
        result: Floats = (seen - rings[points.ring]) / sigma
        return result

    fit = least_squares(residuals, np.zeros(5), jac="3-point", x_scale=1.0, method="lm")
    jacobian = np.asarray(fit.jac, dtype=np.float64)
    inverse = np.asarray(np.linalg.inv(jacobian.T @ jacobian), dtype=np.float64)
    covariance = inverse * np.outer(scale, scale)
    return geometry(fit.x), covariance, residuals(fit.x) * sigma


def _beam_centre(poni: Poni) -> Floats:
    slow, fast = poni.detector().intersect(np.array([0.0, 0.0, 1.0]))
    return np.array([float(slow), float(fast)])


def _propagated(
    function: Callable[[Poni], Floats], poni: Poni, covariance: Floats
) -> tuple[float, ...]:
    """Propagate the covariance to a function of the parameters (central differences)."""
    columns = []
    at = np.array([getattr(poni, name) for name in PARAMETERS])
    for i in range(5):
        step = 0.1 * float(np.sqrt(covariance[i, i]))
        up, down = (function(_with(poni, at + s * np.eye(5)[i])) for s in (step, -step))
        columns.append((up - down) / (2 * step))
    jacobian = np.stack(columns, axis=1)
    return tuple(float(s) for s in np.sqrt(np.diag(jacobian @ covariance @ jacobian.T)))


def calibrate_powder(
    image: ArrayLike,
    bad: ArrayLike,
    *,
    calibrant: str,
    wavelength: float,
    pixel_size: tuple[float, float],
    orientation: int,
    distance: float | None = None,
    beam_centre: tuple[float, float] | None = None,
    polarization: float = 0.99,
    min_rings: int = 3,
    min_points: int = 30,
    max_cycles: int = 10,
) -> PowderCalibration:
    """Refine distance, beam centre and tilts from a powder image.

    Parameters
    ----------
    image : (slow, fast) array
        Counts.
    bad : (slow, fast) bool array
        True where a pixel must not be used (gaps, hot pixels).
    calibrant : str
        pyFAI's name, for example CeO2 or LaB6.
    wavelength : float
        Å; fixed.
    pixel_size : (slow, fast)
        Metres.
    orientation : int
        How the image lies, 1 to 4 as in `formats.poni`.
    distance : float, optional
        Starting value in metres, good to some per cent; found from the rings if absent.
    beam_centre : (slow, fast), optional
        Starting value in pixel coordinates, good to some pixels; found from the
        symmetry of the rings if absent.
    polarization : float
        Fraction of the intensity with the electric vector along lab x.
    min_rings, min_points : int
        Fewer are an error.

    Raises
    ------
    HklflowError
        If shapes differ, the calibrant is unknown, too few rings or points are
        found, or the refinement does not converge.
    """
    values = np.ascontiguousarray(image, dtype=np.float64)
    masked = np.asarray(bad, dtype=bool)
    if values.ndim != 2 or masked.shape != values.shape:
        raise HklflowError(
            f"the powder image is {values.shape} and its mask {masked.shape}; they must be one "
            "2-D shape"
        )
    masked = masked | ~np.isfinite(values)
    values = np.where(masked, 0.0, values)
    shape = (values.shape[0], values.shape[1])
    rings = calibrant_two_theta(calibrant, wavelength)
    centre = find_beam_centre(values, masked) if beam_centre is None else beam_centre
    if distance is None:
        distance = find_distance(values, masked, centre, pixel_size, rings)
    poni = guess_poni(shape, pixel_size, distance, centre, orientation, wavelength)
    poni = _pyfai_refined(values, masked, calibrant, poni, min_points)

    window: float | None = None
    rejected, extra = 0, 0.0
    known: NDArray[np.int64] | None = None
    for cycle in range(max_cycles):
        detector = poni.detector()
        # A ring of finite width on a falling response would appear at too small an angle.
        response = solid_angle(detector) * polarization_factor(detector, polarization)
        found, width = ring_points(values / response, masked, detector, rings, window=window)
        if known is not None:
            # Sectors at the limit of what can be fitted must not come and go for ever.
            found = found.keep(np.isin(found.key, known))
        points = found
        for _ in range(20):
            n_rings = len(np.unique(points.ring))
            if n_rings < min_rings or len(points) < min_points:
                raise HklflowError(
                    f"{len(points)} points on {n_rings} rings of {calibrant} were found, "
                    f"{min_points} points on {min_rings} rings are needed; check distance "
                    f"({poni.dist:.6g} m), beam centre, wavelength, calibrant and mask"
                )
            total = np.hypot(points.sigma, extra)
            after, covariance, off = _refine(points, total, rings, poni)
            spread = max(1.4826 * float(np.median(np.abs(off / total))), 1.0)
            good = np.abs(off) < 5 * spread * total
            before, extra = extra, _extra_sigma(off[good], points.sigma[good])
            if good.all() and abs(extra - before) <= 0.01 * extra:
                break
            points = points.keep(good)
        rejected = len(found) - len(points)
        moved = np.array([getattr(after, n) - getattr(poni, n) for n in PARAMETERS])
        poni = after
        if cycle < 2:
            window = 4 * width
        else:
            known = points.key
        if np.all(np.abs(moved) < 0.1 * np.sqrt(np.diag(covariance))):
            break
    else:
        raise HklflowError(
            f"the geometry still moved by {np.abs(moved / np.sqrt(np.diag(covariance))).max():.2g} "
            f"standard deviations after {max_cycles} cycles; check the mask and the starting values"
        )
    return _result(poni, points, rings, covariance, extra, rejected)


def _result(
    poni: Poni,
    points: RingPoints,
    rings: Floats,
    covariance: Floats,
    extra: float,
    rejected: int,
) -> PowderCalibration:
    sigma = np.sqrt(np.diag(covariance))
    detector = poni.detector()
    off = np.degrees(_two_theta_at(detector, points.slow, points.fast) - rings[points.ring])
    chi2 = float(np.sum((np.radians(off) / points.sigma) ** 2) / (len(points) - len(PARAMETERS)))
    used = [int(ring) for ring in np.unique(points.ring)]
    beam = _beam_centre(poni)
    beam_sigma = _propagated(_beam_centre, poni, covariance)
    return PowderCalibration(
        detector=detector,
        poni=poni_from_detector(detector, poni.orientation, poni.wavelength),
        sigma=dict(zip(PARAMETERS, (float(s) for s in sigma), strict=True)),
        covariance=covariance,
        correlation=covariance / np.outer(sigma, sigma),
        beam_centre=(float(beam[0]), float(beam[1])),
        beam_centre_sigma=(beam_sigma[0], beam_sigma[1]),
        rms_deg=float(np.sqrt(np.mean(off**2))),
        ring_rms_deg={
            ring: float(np.sqrt(np.mean(off[points.ring == ring] ** 2))) for ring in used
        },
        chi2=chi2,
        extra_sigma_deg=float(np.degrees(extra)),
        points=replace(points, residual=np.radians(off)),
        rejected=rejected,
        two_theta_deg={ring: float(np.degrees(rings[ring])) for ring in used},
    )
