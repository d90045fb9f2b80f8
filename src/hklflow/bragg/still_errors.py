"""Errors of the place of a detector that is refined from still frames.

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

_MAD = 1.4826  # standard deviation of a normal distribution over its median |deviation|


@dataclass(frozen=True, eq=False)
class PlaceErrors:
    """Standard deviations of the place of a detector.

    Attributes
    ----------
    shift : (n, 2) array
        Of the shift (slow, fast) of each module, pixels; NaN for a module without spots.
    distance : float
        Metres.
    """

    shift: Floats
    distance: float


def place_errors(
    stills: Stills, module: NDArray[np.int64], n_modules: int, position: float, angle: float
) -> PlaceErrors:
    """Return the errors of shifts and distance.

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
    detector, spots, k = stills.detector, stills.spots, stills.beam.k
    q, excitation = scattering(stills.frames.ub[spots.frame], spots.hkl, k)
    s = q + k * BEAM
    length = norms(s)
    tilt = np.linalg.norm(np.cross(q, s), axis=1) / length  # excitation per angle
    columns, place = _columns(detector, q, s, module, n_modules, tilt)
    seen = np.unique(np.nonzero(place)[1])
    frames, rows = len(stills.frames), len(spots)
    jacobian = np.zeros((3, rows, 3 * frames + len(seen)))
    at = 3 * spots.frame[:, None] + np.arange(3)
    for kind in range(3):
        np.put_along_axis(jacobian[kind], at, columns[kind], axis=1)
    jacobian[:2, :, 3 * frames :] = place.reshape(2, rows, -1)[:, :, seen]
    away = np.stack([spots.slow, spots.fast]) - detector.intersect(s)
    residuals = np.stack([*away, excitation / tilt])
    # The median leaves out outliers, as DIALS does.
    scatter = (_MAD * np.median(np.abs(residuals), axis=1)) ** 2
    scatter *= 3 * rows / max(3 * rows - jacobian.shape[2], 1)
    weight = np.array([position, position, angle]) ** -2.0
    normal = np.einsum("k,kni,knj->ij", weight, jacobian, jacobian)
    spread = np.einsum("k,kni,knj->ij", weight**2 * scatter, jacobian, jacobian)
    inverse = np.linalg.pinv(normal)
    sigma = np.full(1 + 2 * n_modules, np.nan)
    sigma[seen] = np.sqrt(np.diag(inverse @ spread @ inverse))[3 * frames :]
    return PlaceErrors(sigma[1:].reshape(n_modules, 2), float(sigma[0]))


def _columns(
    detector: Detector,
    q: Floats,
    s: Floats,
    module: NDArray[np.int64],
    n_modules: int,
    tilt: Floats,
) -> tuple[Floats, Floats]:
    """Return derivatives by the rotations (3, n, 3), and of positions by the place (2 n, p).

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
    place = np.zeros((2, len(q), 1 + 2 * n_modules))
    place[:, :, 0] = (s @ axes.T / along[:, None] / sizes).T
    for i in range(2):
        place[i, np.arange(len(q)), 1 + 2 * module + i] = -1.0
    return columns, place.reshape(2 * len(q), -1)
