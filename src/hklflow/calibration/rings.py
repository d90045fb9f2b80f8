"""Centres of powder rings: fits of the 2θ profile to the pixels of each azimuth sector.

The profile is a Gaussian on a linear background. The errors of the centres follow from the counts.
Fitted profiles are used because the positions of maxima would be biased towards pixel centres and
bright grains.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Detector, azimuth, two_theta

Floats = NDArray[np.float64]

N_SECTORS = 36


@dataclass(frozen=True)
class RingPoints:
    """Centres of ring sectors, one row per sector.

    Attributes
    ----------
    ring : (n,) int array
        Number of the ring; 0 is the innermost.
    sector : (n,) int array
        Number of the azimuth sector.
    slow, fast : (n,) array
        Pixel coordinates of the centre on the image.
    residual : (n,) array
        Observed minus calculated 2θ, radians.
    sigma : (n,) array
        Standard deviation of the observed 2θ from counting statistics, radians.
    width, width_sigma : (n,) array
        Width (standard deviation) of the ring's profile, and its error, radians.
    """

    ring: NDArray[np.int64]
    sector: NDArray[np.int64]
    slow: Floats
    fast: Floats
    residual: Floats
    sigma: Floats
    width: Floats
    width_sigma: Floats

    def __len__(self) -> int:
        return len(self.ring)

    @property
    def key(self) -> NDArray[np.int64]:
        """One number (n,) that identifies ring and sector."""
        return self.ring * 100000 + self.sector

    def keep(self, good: NDArray[np.bool_]) -> "RingPoints":
        """Return the rows where `good` is True."""
        return RingPoints(*(getattr(self, name)[good] for name in self.__dataclass_fields__))


def ring_points(
    image: Floats,
    bad: NDArray[np.bool_],
    detector: Detector,
    rings: Floats,
    *,
    used: NDArray[np.bool_] | None = None,
    innermost: int | None = None,
    window: float | None = None,
    search: bool = False,
) -> RingPoints:
    """Fit the centre of each ring in each azimuth sector.

    Parameters
    ----------
    image : (slow, fast) array
        Counts divided by the response, because the response falls across the profile of a ring.
    bad : (slow, fast) bool array
    rings : (n,) array
        2θ in radians of all rings, increasing.
    used : (n,) bool array, optional
        True for rings to fit; the other rings only limit the fitted range of their neighbours.
        None: all rings.
    innermost : int, optional
        Number of innermost rings on the image to fit; None: all.
    window : float, optional
        Half width in 2θ (radians) of the fitted range, at most 0.45 of the distance to the next
        ring; None: 6 pixels.
    search : bool
        True: the fit starts at the maximum in the window, not at the centre of the window. This is
        needed if the geometry is wrong by some pixels.
    """
    angle, chi = (two_theta if search else mean_two_theta)(detector), azimuth(detector)
    pixel = pixel_angle(angle)
    half = 6 * pixel if window is None else window
    gap = np.full(len(rings), np.inf)
    gap[1:] = np.diff(rings)
    gap[:-1] = np.minimum(gap[:-1], np.diff(rings))
    # Sort once; each ring is then a slice.
    keep = np.flatnonzero(~bad.ravel())
    keep = keep[np.argsort(angle.ravel()[keep])]
    flat_angle, flat_chi = angle.ravel()[keep], chi.ravel()[keep]
    flat_counts = image.ravel()[keep]
    n_sectors = N_SECTORS
    rows: list[tuple[float, ...]] = []
    fitted = np.ones(len(rings), bool) if used is None else used
    on_image = (rings > flat_angle[:1]) & (rings < flat_angle[-1:])
    for number in np.flatnonzero(fitted & on_image)[:innermost]:
        ring = float(rings[number])
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
            # Both flanks must be measured to determine the centre.
            if len(part) < 25 or part.min() > -0.7 * reach or part.max() < 0.7 * reach:
                continue
            start = _highest(part, counts[chosen], pixel) if search else 0.0
            profile = _fit_profile(part, counts[chosen], start, 1.2 * pixel)
            if profile is None or profile[1] > pixel:
                continue
            near = np.abs(part - profile[0]) < 1.5 * profile[2]
            if not near.any():
                continue
            mean_phi = float(np.mean(phi[chosen][near]))
            rows.append((number, i, ring + profile[0], mean_phi, *profile))
    if not rows:
        return RingPoints(*np.empty((2, 0), np.int64), *np.empty((6, 0)))
    table = np.array(rows)
    ring_number, sector_number = table[:, :2].astype(np.int64).T
    observed, phi, shift, sigma, width, width_sigma = table[:, 2:].T
    sin = np.sin(observed)
    # Azimuth is counted from -lab x towards lab y.
    ray = np.stack([-sin * np.cos(phi), sin * np.sin(phi), np.cos(observed)], axis=1)
    slow, fast = detector.intersect(ray)
    points = RingPoints(ring_number, sector_number, slow, fast, shift, sigma, width, width_sigma)
    return points.keep(np.isfinite(slow))


def _highest(x: Floats, counts: Floats, pixel: float) -> float:
    """Return the position of the maximum of the smoothed mean counts in bins of one pixel."""
    low = float(x.min())
    index = ((x - low) / pixel).astype(np.int64)
    number = np.bincount(index)
    mean = np.bincount(index, counts) / number.clip(min=1)
    mean = np.convolve(np.where(number > 0, mean, 0.0), [0.25, 0.5, 0.25], mode="same")
    return low + (int(mean.argmax()) + 0.5) * pixel


def _fit_profile(
    x: Floats, counts: Floats, start: float, width: float
) -> tuple[float, float, float, float] | None:
    """Fit a Gaussian on a linear background; return centre and width, each with its σ.

    Weights come from the fitted model, because weights from the observed counts would bias the fit
    towards low counts.
    """
    low, high = np.percentile(counts, [20, 95])
    p = np.array([max(high - low, 1.0), start, width, low, 0.0])
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
    # The signal must exceed 5 σ; below, the Gaussian approximation of the errors fails.
    if p[0] < 5 * np.sqrt(inverse[0, 0]):
        return None
    sigma = np.sqrt(np.diag(inverse))
    return float(p[1]), float(sigma[1]), float(p[2]), float(sigma[2])


def mean_two_theta(detector: Detector) -> Floats:
    """Return 2θ (slow, fast) in radians averaged over the area of each pixel.

    A pixel counts photons on its whole area, and rings are curved. For a pixel of side p at
    distance r from the beam, the mean radius is therefore larger than the radius of the pixel
    centre by about p² / (24 r). Four Gauss-Legendre points give the mean to third order.
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


def pixel_angle(angle: Floats) -> float:
    """Return the median width of a pixel in 2θ (radians), for an image (slow, fast) of 2θ."""
    slow, fast = np.gradient(angle)
    return float(np.median(np.hypot(slow, fast)))
