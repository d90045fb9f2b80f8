"""Detector geometry from a powder image of a calibrant.

Two steps. pyFAI finds points on the rings, few inner rings first and then more, and its
`GeometryRefinement` brings the geometry to about a tenth of a pixel. Then each ring is cut
into azimuth sectors, the profile in 2θ of each (a Gaussian on a straight background)
is fitted to its pixels, and the geometry is refined against these ring centres. Their
errors follow from the counts, so the refinement has a covariance. Picked maxima are
biased towards pixel centres and bright grains; fitted profiles are not.

rot3 turns the detector about the beam, which rings do not see: it stays 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, least_squares

from hklflow.core.corrections import polarization as polarization_factor
from hklflow.core.corrections import solid_angle
from hklflow.core.geometry import Detector, azimuth
from hklflow.errors import HklflowError
from hklflow.formats.poni import ORIENTATION_SIGNS, Poni, poni_from_detector

Floats = NDArray[np.float64]

PARAMETERS = ("dist", "poni1", "poni2", "rot1", "rot2")

RING_SCHEDULE = (3, 6, 12, 1000)


@dataclass(frozen=True)
class RingPoints:
    """Centres of ring sectors; one row each.

    Attributes
    ----------
    ring : (n,) int array
        Number of the ring, the innermost is 0.
    sector : (n,) int array
        Number of the azimuth sector.
    slow, fast : (n,) array
        Pixel coordinates of the centre on the image.
    residual : (n,) array
        Observed minus calculated 2θ, radians.
    sigma : (n,) array
        Of the observed 2θ from counting statistics, radians.
    """

    ring: NDArray[np.int64]
    sector: NDArray[np.int64]
    slow: Floats
    fast: Floats
    residual: Floats
    sigma: Floats

    def __len__(self) -> int:
        return len(self.ring)

    @property
    def key(self) -> NDArray[np.int64]:
        """One number (n,) for ring and sector."""
        return self.ring * 100000 + self.sector

    def keep(self, good: NDArray[np.bool_]) -> "RingPoints":
        """Rows where `good`."""
        return RingPoints(*(getattr(self, name)[good] for name in self.__dataclass_fields__))


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


def guess_poni(
    shape: tuple[int, int],
    pixel_size: tuple[float, float],
    distance: float,
    beam_centre: tuple[float, float],
    orientation: int,
    wavelength: float,
) -> Poni:
    """PONI of an untilted detector; beam_centre is (slow, fast) in pixel coordinates."""
    if orientation not in ORIENTATION_SIGNS:
        raise HklflowError(f"image orientation {orientation!r} is not 1, 2, 3 or 4; state it")
    along = [
        centre if sign > 0 else n - centre
        for centre, sign, n in zip(beam_centre, ORIENTATION_SIGNS[orientation], shape, strict=True)
    ]
    return Poni(
        distance,
        along[0] * pixel_size[0],
        along[1] * pixel_size[1],
        0.0,
        0.0,
        0.0,
        pixel_size[0],
        pixel_size[1],
        shape,
        orientation,
        wavelength,
    )


def find_beam_centre(image: ArrayLike, bad: NDArray[np.bool_]) -> tuple[float, float]:
    """Find the centre (slow, fast) about which the rings are symmetric, to about a pixel.

    The image is correlated with itself turned by 180°, normalised by the pixels
    that overlap. It works where the beam is well inside the image.

    Raises
    ------
    HklflowError
        If no centre stands out.
    """
    from scipy.fft import irfft2, next_fast_len, rfft2
    from scipy.ndimage import gaussian_filter

    good = (~bad).astype(np.float64)
    # Square root: a few bright grains must not decide. High-pass: nor the background.
    values = np.sqrt(np.where(bad, 0.0, np.asarray(image, dtype=np.float64)).clip(min=0))
    level = gaussian_filter(values, 15) / gaussian_filter(good, 15).clip(min=1e-3)
    values = np.where(bad, 0.0, values - level)
    spread = 5 * np.median(np.abs(values[~bad])) + 1e-12
    values = values.clip(-spread, spread)
    size = [next_fast_len(2 * n, real=True) for n in values.shape]

    def convolved(a: Floats) -> Floats:
        transform = rfft2(a, size)
        result: Floats = irfft2(transform * transform, size)
        return result[: 2 * a.shape[0] - 1, : 2 * a.shape[1] - 1]

    overlap = convolved(good)
    score = convolved(values) / np.sqrt(overlap.clip(min=1.0))
    score = gaussian_filter(score, 1.0)
    # At least a twentieth of the image must have its mirror image on the image.
    score[overlap < 0.05 * good.sum()] = -np.inf
    peak = np.unravel_index(int(score.argmax()), score.shape)
    finite = score[np.isfinite(score)]
    height = (score[peak] - finite.mean()) / finite.std()
    if not height > 8:
        raise HklflowError(
            f"no beam centre found in the powder image: the best stands out by {height:.1f} "
            "standard deviations, 8 are needed; give the beam centre"
        )
    # Index sums s = i + i' of pixels with centres i + 1/2: the centre is (s + 1) / 2.
    return (float(peak[0]) + 1) / 2, (float(peak[1]) + 1) / 2


def find_distance(
    image: ArrayLike,
    bad: NDArray[np.bool_],
    beam_centre: tuple[float, float],
    pixel_size: tuple[float, float],
    rings: Floats,
) -> float:
    """Find the distance in metres whose rings collect the most signal, to about 1 %.

    Raises
    ------
    HklflowError
        If no distance stands out.
    """
    from scipy.ndimage import gaussian_filter1d, median_filter

    values = np.asarray(image, dtype=np.float64)
    slow, fast = np.indices(values.shape) + 0.5
    radius = np.hypot(
        (slow - beam_centre[0]) * pixel_size[0], (fast - beam_centre[1]) * pixel_size[1]
    )
    width = min(pixel_size)
    index = (radius[~bad] / width).astype(np.int64)
    total = np.bincount(index, np.sqrt(values[~bad].clip(min=0)))
    count = np.bincount(index)
    profile = total / count.clip(min=1)
    profile = np.where(count > 20, profile - median_filter(profile, 61), 0.0)
    # A limit, or one strong ring would be matched by any distance.
    profile = profile.clip(0, 5 * profile.std())
    profile = gaussian_filter1d(profile - profile.mean(), 1.5)
    norm = np.sqrt(np.sum(profile**2))
    reach = len(profile) * width
    distances = np.geomspace(0.2 * reach, 50 * reach, 4000)
    scores = np.zeros(len(distances))
    forward = rings[rings < 1.4]
    for i, distance in enumerate(distances):
        at = distance * np.tan(forward) / width
        at = at[at < len(profile) - 1].astype(np.int64)
        if len(at) >= 3:
            comb = np.zeros(len(profile))
            comb[at] = 1.0
            comb = gaussian_filter1d(comb, 2.0)
            comb -= comb.mean()
            scores[i] = np.sum(comb * profile) / (np.sqrt(np.sum(comb**2)) * norm)
    best = int(scores.argmax())
    if scores[best] < 0.3:
        raise HklflowError(
            f"no distance found for the rings of the powder image: the best correlates by "
            f"{scores[best]:.2f}, 0.3 is needed; give the distance, and check calibrant and "
            "wavelength"
        )
    return float(distances[best])


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


def _mean_two_theta(detector: Detector) -> Floats:
    """2θ (slow, fast) in radians averaged over each pixel's area.

    A pixel counts what falls on all of it, and rings are curved: the mean 2θ of a
    pixel of side p at distance r from the beam is larger than that of its centre
    by about p² / (24 r). Four Gauss-Legendre points give this to third order.
    """
    offset = 0.5 / np.sqrt(3.0)
    slow = np.arange(detector.shape[0])[:, None] + 0.5
    fast = np.arange(detector.shape[1])[None, :] + 0.5
    total = np.zeros(detector.shape)
    for i in (-offset, offset):
        for j in (-offset, offset):
            position = detector.lab(slow + i, fast + j)
            total += np.arctan2(np.hypot(position[..., 0], position[..., 1]), position[..., 2])
    return total / 4


def _fit_profile(x: Floats, counts: Floats, width: float) -> tuple[float, float, float] | None:
    """Centre, its standard deviation and width of a Gaussian ring on a straight background.

    Weights come from the fitted model, not from the counts: weights from observed
    Poisson counts pull the fit towards low pixels.
    """
    low, high = np.percentile(counts, [20, 95])
    p = np.array([max(high - low, 1.0), 0.0, width, low, 0.0])
    variance = np.full(len(x), max(float(counts.mean()), 1.0))
    reach = float(np.abs(x).max())
    normal = np.eye(5)
    for _ in range(12):
        g = np.exp(-0.5 * ((x - p[1]) / p[2]) ** 2)
        slope = p[0] * g * (x - p[1]) / p[2] ** 2
        jacobian = np.stack([g, slope, slope * (x - p[1]) / p[2], np.ones_like(x), x / reach], 1)
        model = p[0] * g + p[3] + p[4] * x / reach
        variance = np.maximum(model, max(0.05 * float(counts.mean()), 0.05))
        weighted = jacobian / variance[:, None]
        normal = weighted.T @ jacobian
        try:
            step = np.linalg.solve(normal, weighted.T @ (counts - model))
        except np.linalg.LinAlgError:
            return None
        limit = 0.5 * p[2] / max(abs(step[1]), abs(step[2]), 1e-30)
        p = p + step * min(1.0, limit)
        if abs(p[1]) > 0.7 * reach or not 0.1 * width < p[2] < reach or p[0] <= 0:
            return None
        if abs(step[1]) < 1e-3 * p[2] and limit > 1:
            break
    inverse = np.linalg.inv(normal)
    # At least 5 σ of signal, or the Gaussian approximation of the errors fails.
    if p[0] < 5 * np.sqrt(inverse[0, 0]):
        return None
    return float(p[1]), float(np.sqrt(inverse[1, 1])), float(p[2])


def ring_points(
    image: Floats,
    bad: NDArray[np.bool_],
    detector: Detector,
    rings: Floats,
    sector_deg: float = 10.0,
    window: float | None = None,
) -> tuple[RingPoints, float]:
    """Fit the centre of each ring in each azimuth sector.

    Parameters
    ----------
    window : float, optional
        Half width in 2θ (radians) of what is fitted; default 6 pixels. Never more
        than 0.45 of the way to the next ring.

    Returns
    -------
    points : RingPoints
    width : float
        Median standard deviation of the rings' profiles, radians.
    """
    angle, chi = _mean_two_theta(detector), azimuth(detector)
    pixel = float(np.median(np.abs(np.gradient(angle)[0]) + np.abs(np.gradient(angle)[1])) / 1.3)
    half = 6 * pixel if window is None else window
    gap = np.full(len(rings), np.inf)
    gap[1:] = np.diff(rings)
    gap[:-1] = np.minimum(gap[:-1], np.diff(rings))
    # Sort once; each ring is then a slice.
    keep = np.flatnonzero(~bad.ravel())
    keep = keep[np.argsort(angle.ravel()[keep], kind="stable")]
    flat_angle, flat_chi = angle.ravel()[keep], chi.ravel()[keep]
    flat_counts = image.ravel()[keep]
    n_sectors = round(360 / sector_deg)
    rows: list[tuple[float, ...]] = []
    widths = []
    for number, ring in enumerate(rings):
        reach = min(half, 0.45 * gap[number])
        first, last = np.searchsorted(flat_angle, [ring - reach, ring + reach])
        if reach < 1.5 * pixel or last - first < 30:
            continue
        x, phi, counts = (a[first:last] for a in (flat_angle - ring, flat_chi, flat_counts))
        sector = ((phi + np.pi) / (2 * np.pi) * n_sectors).astype(np.int64) % n_sectors
        order = np.argsort(sector, kind="stable")
        bounds = np.searchsorted(sector[order], np.arange(n_sectors + 1))
        for i in range(n_sectors):
            chosen = order[bounds[i] : bounds[i + 1]]
            part = x[chosen]
            # Both flanks must be seen, or the centre is made up.
            if len(part) < 25 or part.min() > -0.7 * reach or part.max() < 0.7 * reach:
                continue
            found = _fit_profile(part, counts[chosen], 1.2 * pixel)
            if found is None or found[1] > pixel:
                continue
            near = np.abs(part - found[0]) < 1.5 * found[2]
            if not near.any():
                continue
            mean_phi = float(np.mean(phi[chosen][near]))
            rows.append((number, i, ring + found[0], mean_phi, found[0], found[1]))
            widths.append(found[2])
    if not rows:
        return RingPoints(*np.empty((2, 0), np.int64), *np.empty((4, 0))), half
    table = np.array(rows)
    ring_number, sector_number = table[:, :2].astype(np.int64).T
    observed, phi, shift, sigma = table[:, 2:].T
    sin = np.sin(observed)
    # Azimuth is from -lab x towards lab y.
    ray = np.stack([-sin * np.cos(phi), sin * np.sin(phi), np.cos(observed)], axis=1)
    slow, fast = detector.intersect(ray)
    points = RingPoints(ring_number, sector_number, slow, fast, shift, sigma)
    return points.keep(np.isfinite(slow)), float(np.median(widths))


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
