"""Least-squares fit of one geometry to ring points of one or several images.

Several images must have known displacements. Points from a few strong grains deviate by more than
counting statistics. Outliers are left out, and the remaining scatter is added to the errors of all
points. The covariance is then realistic, and no strong sector dominates the fit.

rot3 rotates the detector about the beam. Rings do not measure it, so it is not refined.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, least_squares

from hklflow.base.errors import HklflowError
from hklflow.calibration.calibrants import two_theta
from hklflow.calibration.rings import RingPoints
from hklflow.formats.poni import Poni
from hklflow.geometry import BEAM, Detector, rotation_matrix

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

PARAMETERS = ("dist", "poni1", "poni2", "rot1", "rot2")


@dataclass(frozen=True)
class Setting:
    """Known displacement of the detector from the reference setting.

    The detector is shifted along the beam, then rotated with the arm about the sample.

    Attributes
    ----------
    offset : float
        Shift along the beam, metres.
    arm : float
        Angle of the arm, radians.
    arm_axis : (3,)
        Lab axis of the arm. For the default, lab y, a positive angle moves the detector towards
        lab x.
    """

    offset: float = 0.0
    arm: float = 0.0
    arm_axis: tuple[float, float, float] = (0.0, 1.0, 0.0)

    def detector(self, reference: Detector) -> Detector:
        """Return the detector at this setting."""
        if self.offset == 0 and self.arm == 0:
            return reference
        turn = rotation_matrix(self.arm_axis, self.arm)
        return replace(
            reference,
            origin=turn @ (reference.origin + self.offset * BEAM),
            slow=turn @ reference.slow,
            fast=turn @ reference.fast,
        )


@dataclass(frozen=True)
class RingFit:
    """A refined geometry.

    Attributes
    ----------
    poni : Poni
        Geometry at the reference setting.
    free : tuple of n str
        Refined parameters: from `PARAMETERS` and "wavelength".
    covariance : (n, n) array
        Rows and columns in the order of `free`; metres, radians, Å.
    points, rejected : list of RingPoints
        Points of each image, with residuals of the refined geometry.
    extra : float
        Scatter in 2θ beyond counting statistics, radians.
    """

    poni: Poni
    free: tuple[str, ...]
    covariance: Floats
    points: list[RingPoints]
    rejected: list[RingPoints]
    extra: float


def with_values(poni: Poni, free: Sequence[str], values: ArrayLike) -> Poni:
    """Return a copy with new values of the refined parameters."""
    numbers = np.asarray(values, dtype=np.float64).tolist()
    return replace(poni, **dict(zip(free, numbers, strict=True)))


def values_of(poni: Poni, free: Sequence[str]) -> Floats:
    """Return the values of the refined parameters."""
    return np.array([getattr(poni, name) for name in free], dtype=np.float64)


def two_theta_at(detector: Detector, slow: Floats, fast: Floats) -> Floats:
    """Return 2θ (n,) in radians at pixel coordinates (n,)."""
    position = detector.lab(slow, fast)
    angle: Floats = np.arctan2(np.hypot(position[:, 0], position[:, 1]), position[:, 2])
    return angle


def residuals(points: RingPoints, poni: Poni, setting: Setting, d: Floats) -> Floats:
    """Return observed minus calculated 2θ (n,) in radians; ``d`` are the ring spacings in Å."""
    observed = two_theta_at(setting.detector(poni.detector()), points.slow, points.fast)
    return observed - two_theta(d[points.ring], float(poni.wavelength or 0))


def least_squares_fit(
    points: Sequence[RingPoints],
    settings: Sequence[Setting],
    sigma: Sequence[Floats],
    d: Floats,
    poni: Poni,
    free: tuple[str, ...],
) -> tuple[Poni, Floats]:
    """Refine `free` against points with errors `sigma` (radians) in each image.

    Returns
    -------
    poni : Poni
    covariance : (n, n) array
        Covariance from the Jacobian, with weights from `sigma`.

    Raises
    ------
    HklflowError
        If the points do not determine the parameters.
    """
    # Scale metres and radians by one pixel, because similar values have different effects.
    angle = poni.pixel1 / poni.dist
    wavelength = float(poni.wavelength or 0)
    sizes = {"rot1": angle, "rot2": angle, "wavelength": wavelength * angle}
    scale = np.array([sizes.get(name, poni.pixel1) for name in free])
    start = values_of(poni, free)

    def weighted(p: Floats) -> Floats:
        moved = with_values(poni, free, start + p * scale)
        parts = zip(points, settings, sigma, strict=True)
        return np.concatenate(
            [residuals(part, moved, setting, d) / s for part, setting, s in parts]
        )

    fit = least_squares(weighted, np.zeros(len(free)), jac="3-point", x_scale=1.0, method="lm")
    jacobian = np.asarray(fit.jac, dtype=np.float64)
    normal = jacobian.T @ jacobian
    if not np.linalg.cond(normal) < 1e13:
        raise HklflowError(
            f"the {sum(map(len, points))} ring points do not determine {', '.join(free)} (their "
            "normal matrix is singular); more rings or a larger part of their azimuth are needed"
        )
    covariance = np.asarray(np.linalg.inv(normal) * np.outer(scale, scale), dtype=np.float64)
    return with_values(poni, free, start + fit.x * scale), covariance


def extra_sigma(off: Floats, sigma: Floats, n_free: int) -> float:
    """Return the scatter (radians) that must be added to `sigma` for a reduced χ² of 1.

    If few grains are in the beam, or the detector is distorted, ring centres deviate by more than
    counting statistics, equally on strong and on weak rings.
    """
    wanted = len(off) - n_free

    def excess(extra: float) -> float:
        return float(np.sum(off**2 / (sigma**2 + extra**2))) - wanted

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, 10 * float(np.sqrt(np.mean(off**2))) + 1e-12))


def robust_fit(
    points: Sequence[RingPoints],
    settings: Sequence[Setting],
    d: Floats,
    poni: Poni,
    free: tuple[str, ...],
    cut: float = 4.0,
) -> RingFit:
    """Refine repeatedly, without points beyond `cut` robust standard deviations.

    Raises
    ------
    HklflowError
        If the points do not determine the parameters.
    """
    ends = np.cumsum([len(part) for part in points])[:-1]
    sigma = np.concatenate([part.sigma for part in points])
    good = np.ones(len(sigma), dtype=bool)

    def all_residuals(trial: Poni) -> Floats:
        parts = zip(points, settings, strict=True)
        return np.concatenate([residuals(part, trial, setting, d) for part, setting in parts])

    off = all_residuals(poni)
    # At first all points have similar weights: strong grains must not dominate the geometry.
    extra = 1.4826 * float(np.median(np.abs(off - np.median(off))))
    covariance = np.empty((0, 0))
    for _ in range(30):
        kept = [part.keep(g) for part, g in zip(points, np.split(good, ends), strict=True)]
        total = np.hypot(sigma, extra)
        errors = [s[g] for s, g in zip(np.split(total, ends), np.split(good, ends), strict=True)]
        poni, covariance = least_squares_fit(kept, settings, errors, d, poni, free)
        off = all_residuals(poni)
        spread = max(1.4826 * float(np.median(np.abs(off[good] / total[good]))), 1.0)
        before, was = extra, good
        # A rejected point may be used again, because the geometry has changed.
        good = np.abs(off) < cut * spread * total
        if good.sum() <= len(free):
            good = was
        extra = extra_sigma(off[good], sigma[good], len(free))
        if np.array_equal(good, was) and abs(extra - before) <= 0.01 * extra:
            break
    parts = [replace(part, residual=r) for part, r in zip(points, np.split(off, ends), strict=True)]
    return RingFit(
        poni,
        free,
        covariance,
        [part.keep(g) for part, g in zip(parts, np.split(was, ends), strict=True)],
        [part.keep(~g) for part, g in zip(parts, np.split(was, ends), strict=True)],
        before,
    )


def propagated(
    function: Callable[[Poni], Floats], poni: Poni, free: Sequence[str], covariance: Floats
) -> Floats:
    """Return the covariance (m, m) of the values (m,) of a function of the refined geometry."""
    values = values_of(poni, free)
    columns = []
    for i, step in enumerate(0.1 * np.sqrt(np.diag(covariance))):
        move = np.zeros(len(values))
        move[i] = step
        up, down = (function(with_values(poni, free, values + s * move)) for s in (1, -1))
        columns.append((up - down) / (2 * step))
    jacobian = np.stack(columns, axis=1)
    return np.asarray(jacobian @ covariance @ jacobian.T)
