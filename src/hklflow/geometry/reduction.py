"""Comparison of a lattice found from peaks with an expected cell.

Lattices are given by UB (1/Å with 2π). A lattice has infinitely many bases; this module lists the
bases that are similar to the expected cell.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice, symmetry

Floats = NDArray[np.float64]

# Largest index of the sublattices and superlattices that are searched.
_MAX_INDEX = 4


def real_basis(ub: ArrayLike) -> Floats:
    """Return the direct basis (3, 3) in Å, columns a, b, c, of UB."""
    basis: Floats = 2 * np.pi * np.linalg.inv(np.asarray(ub, dtype=np.float64)).T
    return basis


def reduced_ub(ub: ArrayLike) -> Floats:
    """Return UB (3, 3) of the same primitive lattice on its Niggli-reduced basis."""
    ub = np.asarray(ub, dtype=np.float64)
    basis = real_basis(ub)
    _, matrix = symmetry.niggli(lattice.cell_from_metric(basis.T @ basis))
    reduced: Floats = ub @ np.linalg.inv(matrix)
    return reduced


def strain(metrics: ArrayLike, expected: ArrayLike) -> Floats:
    """Return the largest principal strain (...) of metric tensors (..., 3, 3) from a cell (6,)."""
    inverse = np.linalg.inv(np.linalg.cholesky(lattice.metric(expected)))
    relative = inverse @ np.asarray(metrics, dtype=np.float64) @ inverse.T
    largest: Floats = np.abs(np.linalg.eigvalsh(relative) - 1).max(axis=-1) / 2
    return largest


@dataclass(frozen=True)
class Setting:
    """One basis of a lattice that is similar to the expected cell.

    Attributes
    ----------
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π, in the conventional setting of the space group.
    cell : (6,) array
    strain : float
        Largest principal strain relative to the expected cell.
    asymmetry : float
        Largest principal strain relative to the cell constrained by the space group.
    ratio : float
        Volume of the expected cell divided by the volume of the found cell: 1, n or 1/n.
    """

    ub: Floats
    cell: Floats
    strain: float
    asymmetry: float
    ratio: float


def matching_settings(
    ub: ArrayLike, cell: ArrayLike, group: symmetry.SpaceGroup, tolerance: float
) -> list[Setting]:
    """List the right-handed bases of a lattice that are similar to an expected cell, best first.

    Bases of the lattice itself are preferred. If there are none, the bases of superlattices and
    sublattices are listed, with the smallest index that gives bases, up to 4.

    Parameters
    ----------
    ub : (3, 3) array
        UB of the primitive lattice, on any basis.
    cell : (6,) array
        Expected conventional cell of ``group``.
    tolerance : float
        Largest principal strain at which two cells count as equal.
    """
    primitive = reduced_ub(ub)
    basis = real_basis(primitive)
    reduced, to_reduced = symmetry.niggli(cell, group)
    volume = abs(np.linalg.det(basis))
    nearest = lattice.volume(reduced) / volume
    indices = [1.0]
    for n in range(2, _MAX_INDEX + 1):
        indices += [float(n), 1.0 / n]
    for ratio in indices:
        if abs(nearest / ratio - 1) > 4 * tolerance:
            continue
        transforms = _transforms(basis, reduced, ratio, tolerance)
        if transforms:
            settings = [_setting(primitive, t, to_reduced, cell, group, ratio) for t in transforms]
            return _ranked(settings)
    return []


def _transforms(basis: Floats, cell: Floats, ratio: float, tolerance: float) -> list[Floats]:
    """Return matrices T (3, 3) of determinant ``ratio`` with ``basis @ T`` similar to a cell."""
    divisor = 1 if ratio >= 1 else round(1 / ratio)
    reach = np.arange(-2 - divisor, 3 + divisor)
    grid = np.stack(np.meshgrid(reach, reach, reach, indexing="ij"), -1).reshape(-1, 3) / divisor
    vectors = grid @ basis.T
    lengths = np.linalg.norm(vectors, axis=1)
    like = [np.nonzero(np.abs(lengths / x - 1) < 1.2 * tolerance)[0] for x in cell[:3]]
    transforms: list[Floats] = []
    for i in like[0]:
        for j in like[1]:
            if not len(like[2]):
                break
            triple = np.stack(
                [
                    np.broadcast_to(grid[i], (len(like[2]), 3)),
                    np.broadcast_to(grid[j], (len(like[2]), 3)),
                    grid[like[2]],
                ],
                axis=-1,
            )
            triple = triple[np.abs(np.linalg.det(triple) - ratio) < 1e-6]
            if len(triple):
                real = basis @ triple
                metric = real.transpose(0, 2, 1) @ real
                transforms += list(triple[strain(metric, cell) < tolerance])
    return transforms


def _setting(
    ub: Floats,
    transform: Floats,
    to_reduced: Floats,
    cell: ArrayLike,
    group: symmetry.SpaceGroup,
    ratio: float,
) -> Setting:
    conventional = ub @ np.linalg.inv(transform).T @ to_reduced
    real = real_basis(conventional)
    metric = real.T @ real
    conventional_cell = lattice.cell_from_metric(metric)
    return Setting(
        ub=conventional,
        cell=conventional_cell,
        strain=float(strain(metric, cell)),
        asymmetry=float(strain(metric, symmetry.constrain_cell(conventional_cell, group))),
        ratio=ratio,
    )


def _ranked(settings: list[Setting]) -> list[Setting]:
    # The constraints of the space group are exact, but the expected cell is not. A setting that
    # violates the constraints therefore comes last, however well it fits the cell. Settings that
    # are equal in both are symmetry mates; the smallest rotation makes the result unique.
    symmetric = min(s.asymmetry for s in settings) + 0.002
    closest = min((s.strain for s in settings if s.asymmetry <= symmetric), default=0.0) + 0.0005

    def key(s: Setting) -> tuple[bool, bool, float]:
        turn = np.trace(s.ub @ np.linalg.inv(lattice.b_matrix(s.cell)))
        return s.asymmetry > symmetric, s.strain > closest, -round(float(turn), 6)

    return sorted(settings, key=key)
