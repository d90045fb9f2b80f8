"""Unit cells: metric, B matrix, and the decomposition of a UB matrix.

Lengths are in Å, angles in degrees (as in tables of cells), reciprocal vectors in 1/Å with 2π. B is
defined as by Busing & Levy, Acta Cryst. 22, 457 (1967).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]


def metric(cell: ArrayLike) -> Floats:
    """Return the direct metric tensor (3, 3) in Å² of a cell ``a b c alpha beta gamma``.

    Raises
    ------
    HklflowError
        If the cell has no volume.
    """
    a, b, c, alpha, beta, gamma = np.asarray(cell, dtype=np.float64)
    ca, cb, cg = np.cos(np.radians([alpha, beta, gamma]))
    g = np.array(
        [
            [a * a, a * b * cg, a * c * cb],
            [a * b * cg, b * b, b * c * ca],
            [a * c * cb, b * c * ca, c * c],
        ]
    )
    if min(a, b, c) <= 0 or np.linalg.det(g) <= 0:
        raise HklflowError(
            f"cell {a:g} {b:g} {c:g} {alpha:g} {beta:g} {gamma:g} has no volume; "
            "enter lengths in Å and angles in degrees"
        )
    return g


def cell_from_metric(g: ArrayLike) -> Floats:
    """Return the cell (6,) in Å and degrees of a metric tensor in Å²."""
    g = np.asarray(g, dtype=np.float64)
    a, b, c = np.sqrt(np.diag(g))
    cosines = np.array([g[1, 2] / (b * c), g[0, 2] / (a * c), g[0, 1] / (a * b)])
    return np.array([a, b, c, *np.degrees(np.arccos(np.clip(cosines, -1, 1)))])


def reciprocal(cell: ArrayLike) -> Floats:
    """Return the reciprocal cell (6,): a* b* c* in 1/Å (with 2π), angles in degrees."""
    return cell_from_metric((2 * np.pi) ** 2 * np.linalg.inv(metric(cell)))


def volume(cell: ArrayLike) -> float:
    """Return the cell volume in Å³."""
    return float(np.sqrt(np.linalg.det(metric(cell))))


def volume_sigma(cell: ArrayLike, covariance: ArrayLike) -> float:
    """Return the standard deviation in Å³ of the volume of a cell.

    Parameters
    ----------
    cell : (6,) array
        Å and degrees.
    covariance : (6, 6) array
        Covariance of the cell in the same units.
    """
    a, b, c, *angles = np.asarray(cell, dtype=np.float64)
    whole = volume(cell)
    cos, sin = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    # V = a b c √(1 - Σ cos² + 2 Π cos)
    root = whole / (a * b * c)
    turned = np.array([cos[1] * cos[2], cos[0] * cos[2], cos[0] * cos[1]])
    by_angle = a * b * c * sin * (cos - turned) / root * np.pi / 180
    gradient = np.array([whole / a, whole / b, whole / c, *by_angle])
    return float(np.sqrt(gradient @ np.asarray(covariance, dtype=np.float64) @ gradient))


def b_matrix(cell: ArrayLike) -> Floats:
    """Return B (3, 3) in 1/Å with 2π: columns a*, b*, c*; a* along x, b* in the xy plane."""
    return np.linalg.cholesky((2 * np.pi) ** 2 * np.linalg.inv(metric(cell))).T


def decompose_ub(ub: ArrayLike) -> tuple[Floats, Floats]:
    """Split UB (1/Å with 2π) into a proper rotation U (3, 3) and a cell (6,).

    Raises
    ------
    HklflowError
        If UB is left-handed or singular.
    """
    ub = np.asarray(ub, dtype=np.float64)
    if np.linalg.det(ub) <= 0:
        raise HklflowError(
            f"UB has determinant {np.linalg.det(ub):.3g}; a right-handed lattice has a positive "
            "determinant: check the order and sign of the columns a*, b*, c*"
        )
    cell = cell_from_metric((2 * np.pi) ** 2 * np.linalg.inv(ub.T @ ub))
    return nearest_rotation(ub @ np.linalg.inv(b_matrix(cell))), cell


def nearest_rotation(matrix: ArrayLike) -> Floats:
    """Return the rotation (3, 3) closest to a matrix in the Frobenius norm."""
    u, _, vt = np.linalg.svd(np.asarray(matrix, dtype=np.float64))
    return u @ np.diag([1.0, 1.0, float(np.sign(np.linalg.det(u @ vt)))]) @ vt


def d_spacing(cell: ArrayLike, hkl: ArrayLike) -> Floats:
    """Return the lattice-plane spacings (...) in Å of hkl (..., 3)."""
    g = np.asarray(hkl, dtype=np.float64) @ b_matrix(cell).T
    return 2 * np.pi / np.linalg.norm(g, axis=-1)


def indices_within(cell: ArrayLike, q_max: float, q_min: float = 0.0) -> NDArray[np.int64]:
    """Return all integer hkl (n, 3) with ``q_min < |Q| <= q_max`` (1/Å, with 2π)."""
    # |h| <= q_max |a| / 2π, because h = Q · a / 2π.
    lengths = np.asarray(cell, dtype=np.float64)[:3]
    limit = np.floor(q_max * lengths / (2 * np.pi)).astype(int)
    grid = np.meshgrid(*(np.arange(-n, n + 1) for n in limit), indexing="ij")
    hkl = np.stack(grid, axis=-1).reshape(-1, 3)
    q = np.linalg.norm(hkl @ b_matrix(cell).T, axis=1)
    return hkl[(q > q_min) & (q <= q_max)]


def rotation_angle(a: ArrayLike, b: ArrayLike) -> float:
    """Return the angle in radians of the rotation that maps one rotation matrix to another."""
    turn = np.asarray(a, dtype=np.float64) @ np.asarray(b, dtype=np.float64).T
    # The antisymmetric part gives an accurate angle also if it is small, unlike arccos(trace).
    skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return float(np.arctan2(np.linalg.norm(skew), np.trace(turn) - 1))
