"""Orient a crystal of known cell by hand: from two peaks with hkl, or a zone axis and a peak."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import BEAM, Rotation, lattice

Floats = NDArray[np.float64]

_PARALLEL = np.radians(2.0)  # smallest angle between two directions that orient a crystal


def from_directions(seen: ArrayLike, known: ArrayLike) -> Floats:
    """Return U (3, 3) that maps two crystal directions to two directions in the goniometer's frame.

    The first direction is mapped exactly, the second in the plane of both (after Busing and Levy,
    Acta Cryst. 22, 457, 1967).

    Parameters
    ----------
    seen, known : (2, 3) array
        Directions in the frames of the goniometer and of the crystal, any length.

    Raises
    ------
    HklflowError
        If two directions are parallel.
    """
    return _triad(np.asarray(seen, np.float64)) @ _triad(np.asarray(known, np.float64)).T


def _triad(pair: Floats) -> Floats:
    first, second = pair / np.linalg.norm(pair, axis=1)[:, None]
    normal = np.cross(first, second)
    if not np.linalg.norm(normal) > np.sin(_PARALLEL):
        raise HklflowError(
            "the two directions are parallel to 2° or opposite, and do not orient a crystal; use "
            "another peak"
        )
    normal = normal / np.linalg.norm(normal)
    return np.column_stack([first, normal, np.cross(first, normal)])


def angle(pair: ArrayLike) -> float:
    """Return the angle in radians between two vectors (2, 3)."""
    first, second = np.asarray(pair, np.float64)
    return float(np.arctan2(np.linalg.norm(np.cross(first, second)), first @ second))


def from_peaks(rotation: Rotation, cell: ArrayLike, peaks: Floats, hkl: Floats) -> Floats:
    """Return UB (3, 3) of a known cell from two peaks; 1/Å with 2π.

    Parameters
    ----------
    peaks : (2, 3) array
        Slow, fast, frame.
    hkl : (2, 3) array
    """
    b = lattice.b_matrix(cell)
    slow, fast, frame = peaks.T
    ub: Floats = from_directions(rotation.q_crystal(frame, slow, fast), hkl @ b.T) @ b
    return ub


def from_zone(
    rotation: Rotation, cell: ArrayLike, zone: ArrayLike, frame: float, peak: Floats, hkl: Floats
) -> Floats:
    """Return UB (3, 3) of a known cell whose zone axis is along the beam at a frame.

    Parameters
    ----------
    zone : (3,) array
        Direction [u v w] that points from the crystal towards the source.
    frame : float
        Frame coordinate at which the picture shows the zone.
    peak : (3,) array
        Slow, fast, frame of a peak.
    hkl : (3,) array
        Indices of the peak.
    """
    b = lattice.b_matrix(cell)
    axis = 2 * np.pi * np.linalg.inv(b).T @ np.asarray(zone, np.float64)
    seen = -rotation.goniometer.rotation(rotation.scan.angle(frame)).T @ BEAM
    slow, fast, at = peak
    ub: Floats = from_directions([seen, rotation.q_crystal(at, slow, fast)], [axis, b @ hkl]) @ b
    return ub
