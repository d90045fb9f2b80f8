"""Find lattice, symmetry and cell that the reflections of a parent and new reflections generate.

New reflections are between the reflections of the primitive cell of the parent: at rational
propagation vectors, or at integer hkl that the centring forbids. The observed new reflections show
which translations remain. Some arms of a vector may be missing: the arms of a single domain
generate a smaller cell than all arms.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice, symmetry
from hklflow.geometry.subgroups import Subgroup, maximal, of_operations, point_subgroups
from hklflow.orientation.satellites import NEAR

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_FEWEST = 5  # smallest number of peaks at a point of the new lattice, modulo the old lattice
_DENOMINATOR = 12  # denominator of the translations that cctbx can represent


def superlattice(
    hkl: ArrayLike,
    group: symmetry.SpaceGroup,
    multiples: Sequence[int],
    chance: float,
    cell: Floats,
    obeys: Callable[[Integers], bool],
) -> dict[str, Any] | None:
    """Propose a space group and cell for the reflections of the parent and the new reflections.

    Parameters
    ----------
    hkl : (n, 3) array
        New reflections on the axes of the parent, as measured; integers if the centring forbids the
        reflection.
    group : SpaceGroup
        Space group of the parent.
    multiples : (3,) sequence of int
        Multiples of a, b, c in a cell in which all new reflections have integer indices.
    chance : float
        Number of new peaks expected by chance.
    cell : (6,) array
        Cell of the child on the axes of the parent, Å and degrees, without constraints.
    obeys : callable
        Function that returns True if the cell obeys operations (m, 3, 3) on hkl within its errors.

    Returns
    -------
    dict or None
        ``space_group`` and ``cell`` of the most symmetric symmorphic group that lattice and
        metric allow; ``others``: symbols of equally good groups; ``volume``: volume of the
        primitive cell relative to the parent. None if the lattice is that of the parent.
    """
    reciprocal = _generated(np.asarray(hkl, dtype=np.float64), group, multiples, chance)
    if reciprocal is None:
        return None
    volume = round(1 / abs(np.linalg.det(group.to_primitive @ reciprocal)))
    operations = [
        w for w in group.laue_operations if _is_integer(_inverse(reciprocal) @ w @ reciprocal)
    ]
    # Prefer a cell along the axes of the parent if it has a simple symbol.
    scale = [_multiple(row) for row in reciprocal]
    basis = np.diag(1.0 / np.array(scale, dtype=np.float64))
    to_basis = _inverse(basis)
    if not _is_plain(to_basis @ reciprocal, [to_basis @ w @ basis for w in operations]):
        child = lattice.cell_from_metric(_direct_metric(cell, reciprocal))
        _, reduce = symmetry.niggli(child)
        basis = reciprocal @ _inverse(reduce)
        to_basis = _inverse(basis)
    chosen = _groups(to_basis @ reciprocal, operations, basis, obeys)
    new_cell = lattice.cell_from_metric(_direct_metric(cell, basis))
    best, *rest = [{"space_group": x.symbol, "cell": x.proposed_cell(new_cell)} for x in chosen]
    return {**best, "others": [x["space_group"] for x in rest], "volume": volume}


def _direct_metric(cell: Floats, basis: Floats) -> Floats:
    """Return the direct metric (3, 3) of axes given by reciprocal columns (3, 3) of hkl."""
    reciprocal = basis.T @ _inverse(lattice.metric(cell)) @ basis
    return _inverse(reciprocal)


def _inverse(matrix: ArrayLike) -> Floats:
    inverse: Floats = np.linalg.inv(np.asarray(matrix, dtype=np.float64))
    return inverse


def _generated(
    hkl: Floats, group: symmetry.SpaceGroup, multiples: Sequence[int], chance: float
) -> Floats | None:
    """Return the primitive reciprocal basis as columns (3, 3) in hkl; None if it is not new."""
    to_primitive = group.to_primitive
    # Integer hkl that the centring forbids are fractional in the primitive cell.
    n = int(np.lcm.reduce(np.array(multiples))) * max(_multiple(row) for row in to_primitive)
    near = np.abs(hkl * multiples - np.rint(hkl * multiples)) < NEAR * np.array(multiples)
    rounded = (np.rint(hkl * multiples) / multiples) @ to_primitive.T * n
    points = np.rint(rounded[near.all(axis=1)]).astype(np.int64) % n
    cosets, counts = np.unique(points, axis=0, return_counts=True)
    new = cosets.any(axis=1)
    cosets, counts = cosets[new], counts[new]
    if not len(cosets):
        return None
    expected = chance / len(cosets)
    cosets = cosets[(counts >= _FEWEST) & (counts - expected > 5 * np.sqrt(expected + 1))]
    if not len(cosets):
        return None
    rows = _reduced(np.vstack([cosets, n * np.eye(3, dtype=np.int64)]))
    basis: Floats = _inverse(to_primitive) @ (rows.T / n)
    return basis


def _reduced(vectors: Integers) -> Integers:
    """Return a triangular basis, as rows (3, 3), of the lattice that vectors (n, 3) generate."""
    left = [list(map(int, row)) for row in vectors]
    rows = []
    for column in range(3):
        while sum(row[column] != 0 for row in left) > 1:
            smallest = min((r for r in left if r[column]), key=lambda r: abs(r[column]))
            for row in left:
                if row is not smallest:
                    times = row[column] // smallest[column]
                    row[:] = [x - times * y for x, y in zip(row, smallest, strict=True)]
        (pivot,) = (row for row in left if row[column])
        rows.append(pivot)
        left = [row for row in left if row is not pivot]
    return np.array(rows, dtype=np.int64)


def _is_integer(matrix: Floats) -> bool:
    return bool(np.abs(matrix - np.rint(matrix)).max() < 1e-6)


def _multiple(row: ArrayLike) -> int:
    """Return the smallest factor that makes rational numbers integer."""
    values = np.asarray(row)
    return next(n for n in range(1, 145) if _is_integer(n * values))


def _is_plain(reciprocal: Floats, operations: list[Floats]) -> bool:
    """Return True if cctbx can represent translations and operations on this basis."""
    translations = _inverse(reciprocal) * _DENOMINATOR
    return _is_integer(translations) and all(map(_is_integer, operations))


def _groups(
    reciprocal: Floats,
    operations: list[Integers],
    basis: Floats,
    obeys: Callable[[Integers], bool],
) -> list[Subgroup]:
    """Return the largest groups of operations on hkl that the metric obeys, on another basis."""
    to_basis = _inverse(basis)
    # Coordinates transform with R, indices with W = Rᵀ.
    on_basis = {
        tuple(int(x) for x in np.rint(to_basis @ w @ basis).T.ravel()): w for w in operations
    }
    inversion = (-1, 0, 0, 0, -1, 0, 0, 0, -1)
    allowed = [
        of_operations(members, _inverse(reciprocal))
        for members in point_subgroups(list(on_basis))
        if inversion in members and obeys(np.array([on_basis[r] for r in sorted(members)]))
    ]
    return sorted(maximal(allowed), key=lambda x: (-len(x.rotations), x.symbol, x.hall))
