"""Independent geometry of the simulator.

This module does not use `geometry.rotation` or `geometry.lattice`, because the simulator is the
reference in the tests of these modules. The conventions are defined in `geometry.frames`. Rotations
are quaternions, reciprocal vectors are cross products of Cartesian cell axes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]


def real_axes(cell: ArrayLike) -> Floats:
    """Return the Cartesian cell axes (3, 3) in Å, one per row; a along x, b in the xy plane.

    Parameters
    ----------
    cell : (6,) array
        Å and degrees.

    Raises
    ------
    HklflowError
        If the cell has no volume.
    """
    a, b, c, alpha, beta, gamma = np.asarray(cell, dtype=np.float64)
    cos_a, cos_b, cos_g = np.cos(np.radians([alpha, beta, gamma]))
    sin_g = np.sin(np.radians(gamma))
    x, y = cos_b, (cos_a - cos_b * cos_g) / sin_g
    height = 1 - x * x - y * y
    if min(a, b, c) <= 0 or not height > 0:
        raise HklflowError(
            f"simulated cell {a:g} {b:g} {c:g} {alpha:g} {beta:g} {gamma:g} has no volume; "
            "enter lengths in Å and angles in degrees"
        )
    return np.array([[a, 0, 0], [b * cos_g, b * sin_g, 0], [c * x, c * y, c * np.sqrt(height)]])


def reciprocal_basis(cell: ArrayLike) -> Floats:
    """Return the matrix (3, 3) with columns a*, b*, c* in 1/Å, including 2π.

    ``a* = 2π b × c / V``; the vectors are then rotated so that a* is along x and b* in the xy plane
    (Busing & Levy, Acta Cryst. 22, 457, 1967).
    """
    a, b, c = real_axes(cell)
    stars = np.array([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
    stars *= 2 * np.pi / (a @ np.cross(b, c))
    x = stars[0] / np.linalg.norm(stars[0])
    z = np.cross(stars[0], stars[1])
    z /= np.linalg.norm(z)
    turned: Floats = np.array([x, np.cross(z, x), z]) @ stars.T
    return turned


def turn(axis: ArrayLike, angle: ArrayLike) -> Rotation:
    """Return the right-handed rotation about a lab axis by angles in radians."""
    unit = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    return Rotation.from_rotvec(np.multiply.outer(np.asarray(angle, dtype=np.float64), unit))


def chain(axes: Sequence[Sequence[float]], angles: Sequence[float]) -> Rotation:
    """Return the product of rotations; the first axis is fixed to the laboratory."""
    result = Rotation.identity()
    for axis, angle in zip(axes, angles, strict=True):
        result = result * turn(axis, angle)
    return result


def crossings(g: Floats, axis: Floats, beam: Floats, k: float) -> Floats:
    """Return angles (n, 2) in radians with ``|k beam + R(axis, angle) g| = k``; NaN if none.

    The component of the rotated vector along the beam must be ``-g² / 2k``. The basis vectors of
    the calculation are p, the component of beam normal to the axis, and q = axis × p.

    Parameters
    ----------
    g : (n, 3) array
        Scattering vectors at angle zero, 1/Å.
    axis, beam : (3,) array
        Unit vectors.
    k : float
        Wavenumber, 1/Å.
    """
    p = beam - (beam @ axis) * axis
    q = np.cross(axis, p)
    wanted = -np.sum(g * g, axis=1) / (2 * k) - (g @ axis) * (beam @ axis)
    # In the plane of p and q, g has the polar angle `phase`; a rotation adds its angle.
    radius = np.hypot(g @ p, g @ q)
    phase = np.arctan2(g @ q, g @ p)
    opening = np.arctan2(
        np.sqrt(np.where(radius >= abs(wanted), radius, np.nan) ** 2 - wanted**2), wanted
    )
    return np.stack([-opening - phase, opening - phase], axis=1)
