"""Relation of two orientations of one crystal, whose cells and settings may differ."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice

Floats = NDArray[np.float64]

_DENOMINATORS = (1, 2, 3, 4, 6)  # centrings, and supercells up to six times an axis
_MISFIT = 0.05  # largest deviation of an element of the matrix from a rational number
_LARGEST = 12  # largest element: longer supercells cannot be distinguished from chance


@dataclass(frozen=True, eq=False)
class Relation:
    """Relation of lattice B to lattice A.

    Attributes
    ----------
    matrix : (3, 3) array
        Rational matrix that maps hkl of A to hkl of B.
    angle : float
        Rotation in degrees from the lattice of B to that of A, which the matrix does not explain.
    strain : float
        Largest relative difference of a length that remains.
    """

    matrix: Floats
    angle: float
    strain: float

    @property
    def same_indices(self) -> bool:
        """True if a reflection has the same hkl in both."""
        return bool(np.array_equal(self.matrix, np.eye(3)))


def relation(ub_a: ArrayLike, ub_b: ArrayLike) -> Relation | None:
    """Return the relation of two lattices of one crystal; None if they share no rational lattice.

    ``UB_A h_A = UB_B h_B`` gives ``h_B = UB_B⁻¹ UB_A h_A``. The matrix is rounded to a rational
    one; the polar decomposition of the rest gives rotation and strain.

    Parameters
    ----------
    ub_a, ub_b : (3, 3) array
        UB in the same frame and in the same unit.
    """
    a, b = (np.asarray(ub, dtype=np.float64) for ub in (ub_a, ub_b))
    exact = np.linalg.solve(b, a)
    for denominator in _DENOMINATORS:
        matrix = np.rint(exact * denominator) / denominator
        fits = np.abs(exact - matrix).max() <= _MISFIT / denominator
        if fits and np.abs(matrix).max() <= _LARGEST and abs(np.linalg.det(matrix)) > 1e-6:
            left, stretch, right = np.linalg.svd(a @ np.linalg.inv(b @ matrix))
            angle = float(np.degrees(lattice.rotation_angle(left @ right, np.eye(3))))
            return Relation(matrix + 0.0, angle, float(np.abs(stretch - 1).max()))
    return None
