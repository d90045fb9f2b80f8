"""Prediction of the angles and pixel positions where lattice points cross the Ewald sphere."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import BEAM, Floats, Rotation, cross


@dataclass(frozen=True)
class Prediction:
    """Predicted reflections, one row per crossing of the Ewald sphere.

    Attributes
    ----------
    index : (n,) int array
        Row number in the input ``hkl``.
    angle : (n,) array
        Scan-axis angle in radians.
    frame, slow, fast : (n,) array
        Frame and pixel coordinates.
    zeta : (n,) array
        ``|ê · (ŝ × ẑ)| / |ŝ × ẑ|``. It is 1 for the fastest crossing, and near 0 for reflections
        that graze the sphere.
    """

    index: NDArray[np.int64]
    angle: Floats
    frame: Floats
    slow: Floats
    fast: Floats
    zeta: Floats


@dataclass(frozen=True)
class Circles:
    """The circles on which reciprocal-lattice points move during a scan.

    Attributes
    ----------
    parallel, perpendicular : (n, 3) array
        Parts of the scattering vectors along the rotation axis and across it, at the angle 0.
    across : (n, 3) array
        ``axis × perpendicular``.
    """

    parallel: Floats
    perpendicular: Floats
    across: Floats

    def at(self, angles: Floats) -> Floats:
        """Return the scattering vectors (n, 3) in the lab at one angle (n,) in radians for each."""
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        vectors: Floats = self.parallel + cos * self.perpendicular + sin * self.across
        return vectors


def crossing_angles(rotation: Rotation, ub: ArrayLike, hkl: ArrayLike) -> tuple[Floats, Circles]:
    """Return the scan angles at which reciprocal-lattice points cross the Ewald sphere.

    These angles solve ``|k ẑ + R(φ) G| = k``, which is ``A cos φ + B sin φ = C``.

    Parameters
    ----------
    hkl : (n, 3) array

    Returns
    -------
    angles : (n, 2) array
        Angles in radians; NaN if the point never crosses the sphere.
    circles : Circles
    """
    goniometer = rotation.goniometer
    axis = goniometer.scan_axis_lab()
    # Outer axes move the scan axis: R(φ) G = turn(axis, φ) (outer · inner · G).
    at_zero = goniometer.rotation(0.0)
    g = np.asarray(hkl, dtype=np.float64) @ (at_zero @ np.asarray(ub, dtype=np.float64)).T
    along = g @ axis
    parallel = along[:, None] * axis
    perpendicular = g - parallel
    across = cross(axis, g)
    k = rotation.beam.k
    a, b = perpendicular @ BEAM, across @ BEAM
    c = -np.einsum("ij,ij->i", g, g) / (2 * k) - parallel @ BEAM
    amplitude = np.hypot(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.arccos(np.where(np.abs(c) <= amplitude, c / amplitude, np.nan))
    middle = np.arctan2(b, a)
    angles = np.stack([middle - half, middle + half], axis=1)
    return angles, Circles(parallel, perpendicular, across)


def ewald_crossings(rotation: Rotation, ub: ArrayLike, hkl: ArrayLike) -> tuple[Floats, Floats]:
    """Return the angles (n, 2) of `crossing_angles`, and the scattering vectors (n, 2, 3) there."""
    angles, circles = crossing_angles(rotation, ub, hkl)
    return angles, np.stack([circles.at(one) for one in angles.T], axis=1)


def predict(rotation: Rotation, ub: ArrayLike, hkl: ArrayLike, margin: float = 0.0) -> Prediction:
    """Predict frame and position of reflections on the detector during the scan.

    Parameters
    ----------
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π.
    hkl : (n, 3) array
    margin : float
        Number of frames before the first and after the last frame, and of pixels outside the edges
        of the detector, that are included.
    """
    angles, q_lab = ewald_crossings(rotation, ub, hkl)
    scan = rotation.scan
    low, high = sorted((scan.angle(-margin), scan.angle(scan.n_frames + margin)))
    index, which = np.nonzero(np.isfinite(angles))
    angle, q = angles[index, which], q_lab[index, which]
    # A scan of more than 360 degrees passes the same angle several times.
    first = np.ceil((low - angle) / (2 * np.pi))
    turns = (np.floor((high - angle) / (2 * np.pi)) - first + 1).clip(min=0).astype(np.int64)
    rows = np.repeat(np.arange(len(angle)), turns)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(turns) - turns, turns)
    angle = angle[rows] + 2 * np.pi * (first[rows] + nth)
    index, q = index[rows], q[rows]
    slow, fast = rotation.detector.intersect(q + rotation.beam.k * BEAM)
    n_slow, n_fast = rotation.detector.shape
    on_detector = (
        (slow >= -margin)
        & (slow <= n_slow + margin)
        & (fast >= -margin)
        & (fast <= n_fast + margin)
    )
    normal = cross(q, BEAM)
    with np.errstate(divide="ignore", invalid="ignore"):
        zeta = np.abs(normal @ rotation.goniometer.scan_axis_lab()) / np.linalg.norm(normal, axis=1)
    return Prediction(
        index[on_detector],
        angle[on_detector],
        scan.frame(angle[on_detector]),
        slow[on_detector],
        fast[on_detector],
        zeta[on_detector],
    )
