"""Statistics of the ring points of a calibration, for `calibration.assess`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.calibration.calibrants import two_theta
from hklflow.calibration.powder import PowderCalibration, Profile
from hklflow.calibration.powder_cycles import FWHM
from hklflow.calibration.ring_fit import extra_sigma, two_theta_at
from hklflow.calibration.rings import N_SECTORS, RingPoints

Floats = NDArray[np.float64]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Residuals:
    """Observed minus calculated 2θ of the points, one row per point.

    Attributes
    ----------
    off, sigma : (n,) array
        Residuals and their errors, radians. The errors include the scatter of the sectors about the
        mean of their ring, beyond counting statistics. A displaced ring does not increase the
        errors.
    off_px, sigma_px : (n,) array
        Residuals and their errors in pixels, along the direction of increasing 2θ.
    along : (n, 2) array
        Direction of increasing 2θ on the image (slow, fast), unit vectors.
    chi : (n,) array
        Azimuth in radians, pyFAI's chi.
    radius : (n,) array
        Distance from the beam centre in pixels.
    slow, fast : (n,) array
        Pixel coordinates.
    """

    off: Floats
    sigma: Floats
    off_px: Floats
    sigma_px: Floats
    along: Floats
    chi: Floats
    radius: Floats
    slow: Floats
    fast: Floats


def residuals_of(calibration: PowderCalibration) -> Residuals:
    """Compute the residuals of ``calibration.points`` with ``calibration.detector``."""
    points, detector = calibration.points, calibration.detector
    slow, fast = points.slow, points.fast
    calculated = two_theta(calibration.calibrant.d[points.ring], calibration.wavelength)
    off = two_theta_at(detector, slow, fast) - calculated
    sigma = np.hypot(points.sigma, _within(points, off, np.radians(calibration.extra_sigma_deg)))
    gradient = np.stack(
        [
            two_theta_at(detector, slow + 0.5, fast) - two_theta_at(detector, slow - 0.5, fast),
            two_theta_at(detector, slow, fast + 0.5) - two_theta_at(detector, slow, fast - 0.5),
        ],
        axis=1,
    )
    pixel = np.linalg.norm(gradient, axis=1)
    position = detector.lab(slow, fast)
    centre = detector.intersect(np.array([0.0, 0.0, 1.0]))
    return Residuals(
        off,
        sigma,
        off / pixel,
        sigma / pixel,
        gradient / pixel[:, None],
        np.arctan2(position[:, 1], -position[:, 0]),
        np.hypot(slow - centre[0], fast - centre[1]),
        slow,
        fast,
    )


def _within(points: RingPoints, off: Floats, extra: float) -> float:
    """Return the scatter (radians) of sectors about their ring's mean, beyond counting errors."""
    _, ring = np.unique(points.ring, return_inverse=True)
    weight = 1 / (points.sigma**2 + extra**2)
    mean = np.bincount(ring, weight * off) / np.bincount(ring, weight)
    n_free = min(len(mean), len(off) - 1)
    return extra_sigma(off - mean[ring], points.sigma, n_free)


def ring_table(calibration: PowderCalibration, residuals: Residuals) -> Rows:
    """Return a row for each ring: mean Δd/d, its standard error, widths, covered azimuth."""
    rows = []
    for ring in np.unique(calibration.points.ring):
        on_ring = calibration.points.ring == ring
        angle = float(two_theta(calibration.calibrant.d[[ring]], calibration.wavelength)[0])
        weight = residuals.sigma[on_ring] ** -2
        # Bragg's law: Δd/d = -Δθ cot θ.
        slope = -0.5 / np.tan(angle / 2)
        width, width_sigma = (
            calibration.points.width[on_ring],
            calibration.points.width_sigma[on_ring],
        )
        scatter = max(float(np.var(width) - np.mean(width_sigma**2)), 0.0)
        rows.append(
            {
                "ring": int(ring),
                "d_A": float(calibration.calibrant.d[ring]),
                "two_theta_deg": float(np.degrees(angle)),
                "points": int(on_ring.sum()),
                "azimuth_fraction": float(on_ring.sum() / N_SECTORS),
                "mean": float(slope * np.sum(weight * residuals.off[on_ring]) / weight.sum()),
                "sem": float(abs(slope) / np.sqrt(weight.sum())),
                "rms_px": float(np.sqrt(np.mean(residuals.off_px[on_ring] ** 2))),
                "fwhm_deg": _ring_fwhm(calibration, angle, float(np.median(width))),
                "sector_fwhm_deg": float(np.degrees(FWHM * np.median(width))),
                "sector_spread": float(np.sqrt(scatter) / width.mean()) if len(width) > 5 else None,
            }
        )
    return rows


def _ring_fwhm(calibration: PowderCalibration, angle: float, width: float) -> float | None:
    """Return the FWHM in degrees of a pseudo-Voigt fit to the profile; None if the fit fails."""
    from scipy.optimize import curve_fit

    guess = float(np.degrees(FWHM * width))
    centre = float(np.degrees(angle))
    rings = np.degrees(calibration.calibrant.two_theta(calibration.wavelength))
    others = np.abs(rings - centre)
    reach = min(3 * guess, 0.5 * float(others[others > 1e-9].min(initial=np.inf)))
    profile = calibration.profile
    near = np.abs(profile.two_theta_deg - centre) < reach
    if near.sum() < 10:
        return None
    x, y, sigma = (a[near] for a in (profile.two_theta_deg, profile.counts, profile.sigma))

    def model(x: Floats, height: float, middle: float, fwhm: float, eta: float, b: float, c: float
              ) -> Floats:  # fmt: skip
        u = 2 * (x - middle) / fwhm
        shape: Floats = eta / (1 + u**2) + (1 - eta) * np.exp(-np.log(2) * u**2)
        return height * shape + b + c * (x - centre)

    low = float(y.min())
    start = [float(y.max()) - low + 1e-9, centre, guess, 0.3, low, 0.0]
    bounds = (
        [0, centre - reach, 0.2 * guess, 0, -np.inf, -np.inf],
        [np.inf, centre + reach, 2 * reach + guess, 1, np.inf, np.inf],
    )
    try:
        best, _ = curve_fit(model, x, y, start, sigma, bounds=bounds)
    except RuntimeError:  # the fit did not converge
        return None
    return float(best[2])


def d_spacings(table: Rows) -> dict[str, float]:
    """Return statistics of Δd/d: weighted mean and rms, largest mean in σ, slope against 2θ."""
    mean, sem, angle = (
        np.array([row[name] for row in table]) for name in ("mean", "sem", "two_theta_deg")
    )
    weight = sem**-2
    middle = float(np.sum(weight * angle) / weight.sum())
    spread = float(np.sum(weight * (angle - middle) ** 2))
    # A single ring has no slope.
    slope = float(np.sum(weight * (angle - middle) * mean)) / spread if spread > 0 else 0.0
    return {
        "mean": float(np.sum(weight * mean) / weight.sum()),
        "rms": float(np.sqrt(np.sum(weight * mean**2) / weight.sum())),
        "max_pull": float(np.abs(mean / sem).max()),
        "slope_per_deg": slope,
        "slope_pull": abs(slope) * float(np.sqrt(spread)),
    }


def harmonics(residuals: Residuals) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the amplitudes of cos χ, sin χ, cos 2χ, sin 2χ over all rings, and the radial scale.

    The amplitudes (pixels) of the ring radius are fitted together. A wrong beam centre gives terms
    in cos χ and sin χ. A wrong tilt gives the same terms, but in proportion to r². Pixels that are
    not square make the rings ellipses, with terms in cos 2χ and sin 2χ. A wrong distance changes
    the radial scale (Δr / r = -ΔL / L).
    """
    names = ("cos", "sin", "cos2", "sin2")
    chi = residuals.chi
    columns = [np.cos(chi), np.sin(chi), np.cos(2 * chi), np.sin(2 * chi), residuals.radius]
    design = np.stack(columns, axis=1) / residuals.sigma_px[:, None]
    best = np.linalg.lstsq(design, residuals.off_px / residuals.sigma_px, rcond=None)[0]
    sigma = np.sqrt(np.diag(np.linalg.pinv(design.T @ design)))
    amplitudes: dict[str, Any] = dict(zip(names, best[:4].tolist(), strict=True))
    return (
        {**amplitudes, "sigma": sigma[:4].tolist()},
        {"value": float(best[4]), "sigma": float(sigma[4])},
    )


def modules(residuals: Residuals, rectangles: Sequence[tuple[int, int, int, int]]) -> Rows:
    """Return the shift of each module: radial (median of its points) and tangential, in pixels.

    Rings measure only radial shifts. The tangential shift follows from the variation of the radial
    shift across the module, so its σ is larger. A shift is None if there are too few points.
    """
    rows = []
    for s0, s1, f0, f1 in rectangles:
        on_module = (
            (residuals.slow >= s0)
            & (residuals.slow < s1)
            & (residuals.fast >= f0)
            & (residuals.fast < f1)
        )
        row: dict[str, Any] = {"module": [s0, s1, f0, f1], "points": int(on_module.sum())}
        shift: list[float | None] = [None] * 4
        if on_module.sum() >= 5:
            off, sigma, along = (
                residuals.off_px[on_module],
                residuals.sigma_px[on_module],
                residuals.along[on_module],
            )
            design = along / sigma[:, None]
            normal = design.T @ design
            middle = along.mean(axis=0)
            length = float(np.linalg.norm(middle))
            # If the beam is on the module, the rings around it have no common radial direction.
            if length > 0.1 and np.linalg.cond(normal) < 1e8:
                radial = middle / length
                across = np.array([-radial[1], radial[0]])
                inverse = np.linalg.inv(normal)
                best = inverse @ design.T @ (off / sigma)
                scatter = 1.4826 * np.median(np.abs(off - np.median(off)))
                shift = [
                    float(np.median(off)),
                    float(1.2533 * scatter / np.sqrt(len(off))),
                    float(across @ best),
                    float(np.sqrt(across @ inverse @ across)),
                ]
        names = ("radial_px", "radial_sigma_px", "tangential_px", "tangential_sigma_px")
        rows.append({**row, **dict(zip(names, shift, strict=True))})
    return rows


def coverage(calibration: PowderCalibration, gaps: NDArray[np.bool_] | None) -> dict[str, Any]:
    """Return fractions of used rings, azimuth and pixels; missing rings; unexplained peaks."""
    existing = np.ones(calibration.bad.shape, bool) if gaps is None else ~gaps
    points, n_out = calibration.points, calibration.rejected
    numbers = np.array(calibration.rings)
    between = np.arange(numbers[0], numbers[-1] + 1)
    expected = _apart(calibration, between[calibration.calibrant.used[between]])
    missing = np.setdiff1d(expected, np.concatenate([numbers, calibration.outliers.ring]))
    peaks = _unexplained(calibration)
    return {
        "rings": len(numbers),
        "azimuth_fraction": len(np.unique(points.sector)) / N_SECTORS,
        "masked_fraction": float((calibration.bad & existing).sum() / existing.sum()),
        "rejected_fraction": n_out / (n_out + len(points)),
        "missing_rings": missing.tolist(),
        "missing_fraction": len(missing) / max(len(expected), 1),
        "unexplained_peaks": peaks[:10],
        "unexplained": peaks[0]["relative_height"] if peaks else 0.0,
    }


def _apart(calibration: PowderCalibration, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rings that are far enough from their neighbours to be fitted."""
    rings = np.degrees(calibration.calibrant.two_theta(calibration.wavelength))
    step = float(np.median(np.diff(calibration.profile.two_theta_deg)))  # half a pixel
    gap = np.diff(rings, prepend=-np.inf, append=np.inf)
    nearest = np.minimum(gap[:-1], gap[1:])
    return numbers[0.45 * nearest[numbers] > 6 * step]


def _unexplained(calibration: PowderCalibration) -> Rows:
    """Return the peaks of the profile that are not rings, highest first.

    Heights are relative to the highest ring.
    """
    from scipy.ndimage import median_filter
    from scipy.signal import find_peaks

    profile: Profile = calibration.profile
    angle = profile.two_theta_deg
    above = profile.counts - median_filter(profile.counts, 81)
    highest = max(
        float(above[np.abs(angle - ring_angle).argmin()])
        for ring_angle in calibration.two_theta_deg.values()
    )
    rings = np.degrees(calibration.calibrant.two_theta(calibration.wavelength))
    width = float(np.degrees(np.median(calibration.points.width)))
    near = 3 * width + 3 * float(np.median(np.diff(angle)))
    peaks, _ = find_peaks(above, prominence=0.01 * max(highest, 1e-9))
    rows = []
    for i in peaks:
        inside = (
            min(calibration.two_theta_deg.values())
            < angle[i]
            < max(calibration.two_theta_deg.values())
        )
        if inside and above[i] > 8 * profile.sigma[i] and np.abs(rings - angle[i]).min() > near:
            height = float(above[i] / highest)
            rows.append({"two_theta_deg": float(angle[i]), "relative_height": height})
    return sorted(rows, key=lambda row: -row["relative_height"])
