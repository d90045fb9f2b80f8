"""Input data for fitting the modules, with derivatives with respect to modules and geometry.

A ring point measures the displacement of its module along the radius of the ring. A Bragg peak
measures it along slow and fast.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.calibration.rings import ring_points
from hklflow.geometry import Detector, Rotation
from hklflow.geometry.modules import Modules
from hklflow.orientation.residuals import Peaks, compare

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_NEAR = 0.25  # largest deviation of h, k, l from integers; other peaks belong to another lattice


@dataclass(frozen=True)
class RingImage:
    """Ring points of one powder image, each from the pixels of a single module.

    Attributes
    ----------
    detector : Detector
        Starting geometry of this image; its modules are not used.
    slow, fast : (n,) array
        Pixel coordinates of the points on the image.
    two_theta : (n,) array
        Calculated 2θ of each point's ring, radians.
    sigma : (n,) array
        σ of each point's 2θ, radians.
    """

    detector: Detector
    slow: Floats
    fast: Floats
    two_theta: Floats
    sigma: Floats


@dataclass(frozen=True)
class BraggPeaks:
    """Residuals of the Bragg peaks of one rotation scan.

    Attributes
    ----------
    detector : Detector
        Refined geometry. The predictions were calculated with this geometry and its modules.
    slow, fast : (n,) array
        Observed pixel coordinates on the image.
    off_slow, off_fast : (n,) array
        Observed minus predicted, pixels.
    sigma_slow, sigma_fast : (n,) array
        σ of the residuals, pixels.
    """

    detector: Detector
    slow: Floats
    fast: Floats
    off_slow: Floats
    off_fast: Floats
    sigma_slow: Floats
    sigma_fast: Floats


class Rows(NamedTuple):
    """Residuals of points, and derivatives of the residuals.

    Attributes
    ----------
    residual : (n,) array
        Residuals divided by their σ.
    by_module : (n, 3) array
        Derivatives with respect to the shift of the module along slow and fast, and its rotation.
    by_detector : (n, p) array
        Derivatives with respect to the free parameters of the detector.
    pixels : (n,) array
        Distance in pixels that corresponds to a residual of 1.
    """

    residual: Floats
    by_module: Floats
    by_detector: Floats
    pixels: Floats


def _turning(modules: Modules, number: Ints, slow: Floats, fast: Floats) -> Floats:
    """Return the derivative (2, n) of the effective coordinates by the module's rotation."""
    effective = np.stack(modules.displaced(slow, fast))
    off = effective - (modules.centres + modules.shift)[number].T
    return np.stack([-modules.aspect * off[1], off[0] / modules.aspect])


class Rings:
    """A powder image in the fit; its distance, beam centre and two tilts are refined."""

    per_point, free = 1, 5

    def __init__(self, image: RingImage, modules: Modules) -> None:
        use = modules.module_at(image.slow, image.fast) >= 0
        self.off_module = int(np.sum(~use))
        self.detector, self.modules = replace(image.detector, modules=modules), modules
        self.slow, self.fast = (np.asarray(a, np.float64)[use] for a in (image.slow, image.fast))
        self.two_theta, self.sigma = image.two_theta[use], image.sigma[use]
        self.number = modules.module_at(self.slow, self.fast)

    def rows(self) -> Rows:
        """Return the residuals of all points for the present geometry."""
        detector, modules = self.detector, self.modules
        position = detector.lab(self.slow, self.fast)
        angle, gradient = two_theta_gradient(position)
        axes = np.stack(
            [detector.slow * detector.pixel_size[0], detector.fast * detector.pixel_size[1]]
        )
        by_shift = gradient @ axes.T
        turning = _turning(modules, self.number, self.slow, self.fast)
        by_turn = np.einsum("ni,in->n", by_shift, turning)
        centre = detector.plane.lab(detector.shape[0] / 2, detector.shape[1] / 2)
        tilts = [
            np.einsum("ni,ni->n", gradient, np.cross(axis, position - centre))
            for axis in (detector.slow, detector.fast)
        ]
        by_detector = np.column_stack([gradient, *tilts])
        weight = 1 / self.sigma
        return Rows(
            (angle - self.two_theta) * weight,
            np.column_stack([by_shift, by_turn]) * weight[:, None],
            by_detector * weight[:, None],
            self.sigma / np.linalg.norm(by_shift, axis=1),
        )

    def move(self, modules: Modules, step: Floats) -> None:
        """Set new modules, and add a step to the free parameters."""
        self.modules = modules
        tilt = step[3] * self.detector.slow + step[4] * self.detector.fast
        self.detector = replace(self.detector.moved(step[:3], tilt), modules=modules)


class Bragg:
    """A rotation scan in the fit; its shift, rotation and distance are refined."""

    per_point, free = 2, 4

    def __init__(self, peaks: BraggPeaks, modules: Modules) -> None:
        use = modules.module_at(peaks.slow, peaks.fast) >= 0
        self.off_module = int(np.sum(~use))
        self.detector, self.modules = replace(peaks.detector, modules=modules), modules
        self.slow, self.fast = (np.asarray(a, np.float64)[use] for a in (peaks.slow, peaks.fast))
        self.sigma = np.stack([peaks.sigma_slow, peaks.sigma_fast])[:, use]
        # The displacement of the prediction is subtracted; `rows` adds the present displacement.
        before = peaks.detector.modules
        image = (self.slow, self.fast)
        self.off = np.stack([peaks.off_slow, peaks.off_fast])[:, use] - np.stack(
            image if before is None else before.displaced(*image)
        )
        self.number = modules.module_at(self.slow, self.fast)
        self.moved = np.zeros(self.free)

    def rows(self) -> Rows:
        """Return the residuals of all points for the present geometry."""
        detector, modules = self.detector, self.modules
        position = np.stack(modules.displaced(self.slow, self.fast))
        ones, zeros = np.ones_like(self.slow), np.zeros_like(self.slow)
        turning = _turning(modules, self.number, self.slow, self.fast)
        by_module = np.stack([np.stack([ones, zeros]), np.stack([zeros, ones]), turning], axis=-1)
        from_centre = position - np.array(detector.shape)[:, None] / 2
        turn = np.stack([-modules.aspect * from_centre[1], from_centre[0] / modules.aspect])
        foot = np.stack(detector.plane.intersect(detector.normal))
        by_detector = np.stack(
            [by_module[..., 0], by_module[..., 1], turn, position - foot[:, None]], axis=-1
        )
        off = self.off + position + by_detector @ self.moved
        return Rows(
            (off / self.sigma).ravel(),
            (by_module / self.sigma[..., None]).reshape(-1, 3),
            (by_detector / self.sigma[..., None]).reshape(-1, self.free),
            self.sigma.ravel(),
        )

    def move(self, modules: Modules, step: Floats) -> None:
        """Set new modules, and add a step to the free parameters."""
        self.moved = self.moved + step
        self.detector, self.modules = replace(self.detector, modules=modules), modules


def two_theta_gradient(position: Floats) -> tuple[Floats, Floats]:
    """Return 2θ (n,) of lab positions and its gradient (n, 3)."""
    across = np.hypot(position[:, 0], position[:, 1])
    square = across**2 + position[:, 2] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        outward = np.nan_to_num(position[:, :2] / across[:, None])
    gradient = np.column_stack([outward * (position[:, 2] / square)[:, None], -across / square])
    return np.arctan2(across, position[:, 2]), gradient


def ring_image(
    image: Floats, bad: Mask, detector: Detector, rings: Floats, window: float | None = None
) -> RingImage:
    """Fit ring points on each module separately, so that no point has pixels of two modules.

    Parameters
    ----------
    image : (slow, fast) array
        Counts divided by the response, because the response falls across the profile of a ring.
    bad : (slow, fast) bool array
    detector : Detector
        Detector with modules; accurate to some pixels.
    rings : (n,) array
        2θ in radians, increasing.
    window : float, optional
        Half width in 2θ (radians) of the fitted range, see `rings.ring_points`.

    Raises
    ------
    ValueError
        If the detector has no modules.
    """
    if detector.modules is None:
        raise ValueError("the detector has no modules")
    parts = []
    for m, (s0, s1, f0, f1) in enumerate(detector.modules.rectangles):
        cut = np.s_[s0:s1, f0:f1]
        points = ring_points(image[cut], bad[cut], detector.patch(m), rings, window=window)
        parts.append([points.slow + s0, points.fast + f0, rings[points.ring], points.sigma])
    return RingImage(detector, *np.concatenate(parts, axis=1))


def bragg_peaks(rotation: Rotation, ub: Floats, peaks: Peaks) -> BraggPeaks:
    """Return the residuals of the peaks of one refined rotation that its lattice indexes.

    Parameters
    ----------
    rotation : Rotation
        Refined geometry.
    ub : (3, 3) array
        Orientation matrix, 1/Å.
    peaks : Peaks
    """
    hkl = rotation.hkl(ub, peaks.frame, peaks.slow, peaks.fast)
    whole = np.rint(hkl)
    off, _ = compare(rotation, ub, whole, peaks.position)
    good = np.all(np.abs(hkl - whole) < _NEAR, axis=1) & np.any(whole != 0, axis=1)
    good &= np.all(np.isfinite(off), axis=1)
    places = (peaks.slow[good], peaks.fast[good])
    return BraggPeaks(rotation.detector, *places, *off[good, :2].T, *peaks.sigma[good, :2].T)
