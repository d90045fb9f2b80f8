"""Place of a detector from still frames by linear least squares, with errors.

The orientation of each frame is refined with the detector, and a shift of the detector resembles a
rotation of all crystals. Errors from the residuals of the spots alone would therefore be too small:
here they come from the least squares of all parameters, at the weights of `dials.refine`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.partiality import norms
from hklflow.bragg.stills import Stills, scattering
from hklflow.geometry import BEAM, Detector

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_MAD = 1.4826  # standard deviation of a normal distribution over its median |deviation|
_OUTLIER = 4.0  # standard deviations


@dataclass(frozen=True, eq=False)
class Place:
    """Place of a detector relative to its model, if orientations, distance and shifts are free.

    Attributes
    ----------
    distance : float
        What the distance lacks, metres.
    distance_sigma : float
        Standard deviation of the distance, metres.
    shift_sigma : (n, 2) array
        Standard deviation of the shift (slow, fast) of each module, pixels; NaN for a module
        without spots.
    """

    distance: float
    distance_sigma: float
    shift_sigma: Floats


def place(stills: Stills, module: Integers, n_modules: int, position: float, angle: float) -> Place:
    """Return the distance that one step of least squares finds, and the errors of the place.

    Parameters
    ----------
    stills : Stills
        Frames and detector as refined.
    module : (n,) int array
        Module of each spot.
    position, angle : float
        Standard deviations of the weights: of a position in pixels, and of the angle between a node
        and the Ewald sphere in radians. Errors follow the scatter of the data, not these values.
    """
    spots, k = stills.spots, stills.beam.k
    q, excitation = scattering(stills.frames.ub[spots.frame], spots.hkl, k)
    s = q + k * BEAM
    tilt = norms(np.cross(q, s)) / norms(s)  # excitation error per angle
    away = np.stack([spots.slow, spots.fast]) - stills.detector.intersect(s)
    residuals = np.stack([*away, -excitation / tilt])
    sigma = _MAD * np.median(np.abs(residuals), axis=1)
    keep = np.all(np.abs(residuals) < _OUTLIER * sigma[:, None], axis=0)
    turns, moves = _columns(stills.detector, q, s, module, n_modules, tilt)
    seen = np.flatnonzero(np.any(moves[:, keep] != 0, axis=(0, 1)))
    weight = np.array([position, position, angle]) ** -2.0
    reduced = _reduced(
        turns[:, keep], moves[:, keep][:, :, seen], weight, spots.frame[keep], len(stills.frames)
    )
    n, free = 3 * int(keep.sum()), 3 * len(stills.frames) + len(seen)
    variance = sigma**2 * n / max(n - free, 1)
    inverse = np.linalg.pinv(np.einsum("k,kni,knj->ij", weight, reduced, reduced))
    scatter = np.einsum("k,kni,knj->ij", weight**2 * variance, reduced, reduced)
    step = inverse @ np.einsum("k,kni,kn->i", weight, reduced, residuals[:, keep])
    sigmas = np.full(1 + 2 * n_modules, np.nan)
    sigmas[seen] = np.sqrt(np.diag(inverse @ scatter @ inverse))
    return Place(float(step[0]), float(sigmas[0]), sigmas[1:].reshape(n_modules, 2))


def _reduced(
    turns: Floats, moves: Floats, weight: Floats, frame: Integers, n_frames: int
) -> Floats:
    """Return the derivatives (3, n, p) by the place, less what rotations of the frames explain."""
    reduced = moves.copy()
    for f in range(n_frames):
        rows = np.flatnonzero(frame == f)
        a, b = turns[:, rows].reshape(-1, 3), moves[:, rows].reshape(3 * len(rows), -1)
        weighted = np.repeat(weight, len(rows))[:, None] * a
        explained = a @ (np.linalg.pinv(weighted.T @ a) @ (weighted.T @ b))
        reduced[:, rows] = (b - explained).reshape(3, len(rows), -1)
    return reduced


def _columns(
    detector: Detector,
    q: Floats,
    s: Floats,
    module: Integers,
    n_modules: int,
    tilt: Floats,
) -> tuple[Floats, Floats]:
    """Return the derivatives by the rotations (3, n, 3), and by the place (3, n, 1 + 2 modules).

    Rows are slow, fast and the angle to the sphere; the place is the distance in metres, then the
    shifts (slow, fast) of the modules in pixels.
    """
    axes, sizes = np.stack([detector.slow, detector.fast]), np.array(detector.pixel_size)
    normal = detector.normal
    along = s @ normal
    reach = detector.distance / along
    columns = np.zeros((3, len(q), 3))
    for i, axis in enumerate(np.eye(3)):
        change = np.cross(axis, q)
        moved = reach[:, None] * (change - s * (change @ normal / along)[:, None])
        columns[:2, :, i] = (moved @ axes.T / sizes).T
        columns[2, :, i] = np.sum(change * s, axis=1) / norms(s) / tilt
    place = np.zeros((3, len(q), 1 + 2 * n_modules))
    place[:2, :, 0] = (s @ axes.T / along[:, None] / sizes).T
    for i in range(2):
        place[i, np.arange(len(q)), 1 + 2 * module + i] = -1.0
    return columns, place
