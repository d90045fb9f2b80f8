"""Which symmetry is left: subgroups of a space group, for what a transition may have made.

Translationengleiche subgroups keep all lattice translations (International Tables A1): each
is a subgroup of the point group with the translations of the group. Where the centring itself
is lost, those of the symmorphic group with a primitive lattice take their place.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.native import require_cctbx_is_safe
from hklflow.geometry import lattice, symmetry

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Subgroup:
    """A subgroup on the axes of the group that it was listed for.

    Attributes
    ----------
    symbol : str
        Of the setting to propose: on the parent's axes if it has a plain symbol there, else
        the reference setting.
    hall : str
        On the parent's axes.
    rotations : frozenset of 9-tuples of int
        Rotation parts: they tell which subgroup of one list it is.
    laue_operations : (n, 3, 3) int array
        On hkl column vectors of the parent's axes.
    matrix : (3, 3) array
        ``h_proposed = matrix @ h_parent``.
    """

    symbol: str
    hall: str
    rotations: frozenset[tuple[int, ...]]
    laue_operations: NDArray[np.int64]
    matrix: Floats

    def is_absent(self, hkl: ArrayLike) -> NDArray[np.bool_]:
        """Which reflections (n,) of hkl (n, 3) on the parent's axes it forbids."""
        return symmetry.space_group(f"Hall: {self.hall}").is_absent(hkl)

    def proposed_cell(self, cell: ArrayLike) -> Floats:
        """Cell (6,) of the proposed setting that obeys it, of a cell (6,) on these axes."""
        # |Q|² = hᵀ G* h = h'ᵀ (M⁻ᵀ G* M⁻¹) h'; the direct metric is the inverse.
        direct = self.matrix @ lattice.metric(cell) @ self.matrix.T
        return symmetry.constrain_cell(
            lattice.cell_from_metric(direct), symmetry.space_group(self.symbol)
        )


@lru_cache(maxsize=64)
def subgroups(group: symmetry.SpaceGroup, centred: bool = True) -> tuple[Subgroup, ...]:
    """List the subgroups that keep all translations, the largest first; the group itself leads.

    Parameters
    ----------
    group : SpaceGroup
    centred : bool
        False: those of the symmorphic group with the same point group and a primitive
        lattice on the same axes, which is left when the centring is lost.
    """
    require_cctbx_is_safe()
    from cctbx import sgtbx

    operations: dict[tuple[int, ...], list[Any]] = {}
    for op in sgtbx.space_group(group.hall).all_ops():
        kept = op if centred else sgtbx.rt_mx(op.r(), sgtbx.tr_vec((0, 0, 0), op.t().den()))
        operations.setdefault(tuple(op.r().num()), []).append(kept)
    found = []
    for rotations in point_subgroups(list(operations)):
        part = sgtbx.space_group()
        for rotation in rotations:
            for op in operations[rotation]:
                part.expand_smx(op)
        found.append(_subgroup(part))
    return tuple(sorted(found, key=lambda x: (-len(x.rotations), x.symbol, x.hall)))


def point_subgroups(rotations: list[tuple[int, ...]]) -> list[frozenset[tuple[int, ...]]]:
    """List all subgroups of a point group given by its matrices.

    Each is joined with each element.
    """
    place = {rotation: i for i, rotation in enumerate(rotations)}
    matrices = np.array(rotations).reshape(-1, 3, 3)
    products = np.einsum("iab,jbc->ijac", matrices, matrices).reshape(*2 * [len(rotations)], 9)
    table = [[place[tuple(int(x) for x in entry)] for entry in row] for row in products]
    identity = place[(1, 0, 0, 0, 1, 0, 0, 0, 1)]
    known = {frozenset({identity})}
    todo = list(known)
    while todo:
        base = todo.pop()
        for element in range(len(rotations)):
            if element in base:
                continue
            joined = _closed(base | {element}, table)
            if joined not in known:
                known.add(joined)
                todo.append(joined)
    return [frozenset(rotations[i] for i in members) for members in known]


def _closed(members: frozenset[int], table: list[list[int]]) -> frozenset[int]:
    """Group that the members generate, by its multiplication table."""
    while True:
        more = members | {table[i][j] for i in members for j in members}
        if len(more) == len(members):
            return members
        members = more


def maximal(candidates: list[Subgroup]) -> list[Subgroup]:
    """Those of one list's subgroups that are contained in no other of them."""
    return [x for x in candidates if not any(x.rotations < y.rotations for y in candidates)]


def of_operations(rotations: frozenset[tuple[int, ...]], translations: Floats) -> Subgroup:
    """Return the symmorphic group of some rotations and of lattice translations.

    Parameters
    ----------
    rotations : frozenset of 9-tuples of int
    translations : (3, 3) array
        A primitive basis of the direct lattice, rows, in multiples of 1/12 of the axes.
    """
    require_cctbx_is_safe()
    from cctbx import sgtbx

    group = sgtbx.space_group()
    for vector in np.rint(12 * translations).astype(int).tolist():
        group.expand_ltr(sgtbx.tr_vec(vector, 12))
    none = sgtbx.tr_vec((0, 0, 0), 12)
    for rotation in sorted(rotations):
        group.expand_smx(sgtbx.rt_mx(sgtbx.rot_mx(rotation, 1), none))
    return _subgroup(group)


def _subgroup(group: Any) -> Subgroup:
    from cctbx import sgtbx

    info = sgtbx.space_group_info(group=group)
    kind = info.type()
    symbol, matrix = str(kind.lookup_symbol()), np.eye(3)
    if "(" in symbol:
        symbol = str(info.reference_setting())
        matrix = symmetry.hkl_matrix(info.change_of_basis_op_to_reference_setting())
    rotations = frozenset(tuple(op.r().num()) for op in group.all_ops())
    laue = [op.r().as_double() for op in group.build_derived_laue_group().all_ops()]
    on_hkl = np.rint(laue).astype(np.int64).reshape(-1, 3, 3).transpose(0, 2, 1)
    return Subgroup(symbol, str(kind.hall_symbol()), rotations, on_hkl, matrix)
