"""Probabilities of the Laue groups that a lattice allows, each in a conventional setting."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg import bravais_ranking
from hklflow.bragg.laue_likelihood import Agreement
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.subgroups import of_operations, point_subgroups
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]


# Prior probability by the deviation of the cell. Errors of refined cells are often too small, so
# that 5σ alone excludes nothing.
_PRIOR = {"compatible": 1.0, "nearly": 0.1, "excluded": 1e-6}
# Proper rotations of the lattice of each type.
_HOLOHEDRY = {"a": 1, "m": 2, "o": 4, "t": 8, "hR": 6, "hP": 12, "c": 24}


@dataclass(frozen=True)
class Laue:
    """Laue group on the axes of a setting.

    Attributes
    ----------
    laue : str
        For example ``4/mmm``.
    group : SpaceGroup
        Centrosymmetric symmorphic group of this Laue group and lattice, in the setting.
    matrix : (3, 3) array
        ``h_setting = matrix @ h``; the identity if the axes of the cell are kept.
    cell : (6,) array
        Cell in the setting, constrained.
    order : int
        Order of the Laue group.
    percent, sigmas : float
        Largest deviation of the cell from the group, see `bravais_ranking.deviation`.
    r, pairs : float, int
        Disagreement of the pairs related by the group's rotations, and their number.
    probability : float
        NaN without intensities.
    untested : int
        Rotations of the group without a clear answer, because too few pairs were measured.
    """

    laue: str
    group: SpaceGroup
    matrix: Floats
    cell: Floats
    order: int
    percent: float
    sigmas: float
    r: float
    pairs: int
    probability: float
    untested: int


def laue_groups(
    cell: Floats,
    sigma: Floats | None,
    to_reduced: Floats,
    rotations: Floats,
    scored: list[Agreement] | None,
) -> list[Laue]:
    """Return the Laue groups, the most probable first.

    Without intensities, they are the groups of the lattices that the cell is compatible with, the
    highest symmetry first.

    Parameters
    ----------
    cell, sigma : (6,) array
        Cell, and its σ or None.
    to_reduced : (3, 3) array
        ``h_reduced = to_reduced @ h``; its rows are a primitive basis of the direct lattice.
    rotations : (n, 3, 3) array
        Rotations of the lattice on hkl of the reduced cell.
    scored : list of Agreement or None
        Agreement for each of these rotations, except the identity; None without intensities.
    """
    by_key = {_key(a.rotation.T): a for a in scored or ()}
    merged = [key for key, a in by_key.items() if a.assumed]
    found = []
    for members in point_subgroups([_key(w.T) for w in rotations]):
        if any(key not in members for key in merged):
            continue
        group, matrix = _setting(members, to_reduced, cell)
        holohedry = _HOLOHEDRY.get(group.bravais) or _HOLOHEDRY[group.bravais[0]]
        percent, sigmas = bravais_ranking.deviation(cell, sigma, matrix, group)
        verdict = bravais_ranking.verdict(percent, sigmas)
        if scored is None and (len(members) != holohedry or verdict == "excluded"):
            continue
        inside = [by_key[key] for key in members if key in by_key]
        score = sum(_log_odds(a) for a in inside) + np.log(_PRIOR[verdict])
        moved = lattice.cell_from_metric(matrix @ lattice.metric(cell) @ matrix.T)
        tested = [a for a in inside if a.pairs]
        weights = [a.pairs for a in tested]
        laue = Laue(
            laue=group.laue,
            group=group,
            matrix=matrix,
            cell=symmetry.constrain_cell(moved, group),
            order=2 * len(members),
            percent=percent,
            sigmas=sigmas,
            r=float(np.average([a.r for a in tested], weights=weights)) if tested else np.nan,
            pairs=sum(weights),
            probability=score,
            untested=sum(not a.decided for a in inside),
        )
        found.append(laue)
    if scored is None:
        ordered = sorted(found, key=lambda item: (-item.order, item.percent))
        return [replace(item, probability=float("nan")) for item in ordered]
    total = np.logaddexp.reduce([item.probability for item in found])
    final = [replace(i, probability=float(np.exp(i.probability - total))) for i in found]
    return sorted(final, key=lambda item: (-item.probability, -item.order, item.percent))


def _log_odds(a: Agreement) -> float:
    # W and its inverse relate the same pairs; of order 2 it is its own inverse.
    share = 1.0 if a.order == 2 else 0.5
    return share * (a.log_present - a.log_missing)


def _key(matrix: Floats) -> tuple[int, ...]:
    return tuple(int(x) for x in np.rint(matrix).ravel())


def _setting(
    members: frozenset[tuple[int, ...]], to_reduced: Floats, cell: Floats
) -> tuple[SpaceGroup, Floats]:
    """Return the symmorphic group, and the matrix to its axes from those of the cell.

    The axes of the cell are kept if the group has a standard symbol on them.
    """
    reduced = [np.array(key, dtype=np.float64).reshape(3, 3) for key in sorted(members)]
    # Coordinates transform with the transpose of the matrix on hkl: x_reduced = T⁻ᵀ x.
    turned = [to_reduced.T @ r @ np.linalg.inv(to_reduced).T for r in reduced]
    if all(np.allclose(r, np.rint(r), atol=1e-6) for r in turned):
        kept = of_operations(_with_inversion(turned), to_reduced)
        if np.allclose(kept.matrix, np.eye(3)):
            return symmetry.space_group(kept.symbol), np.eye(3)
    if len(members) == 2 and (best := _monoclinic(reduced, to_reduced, cell)) is not None:
        return best
    sub = of_operations(_with_inversion(reduced), np.eye(3))
    return symmetry.space_group(sub.symbol), sub.matrix @ to_reduced


def _with_inversion(rotations: list[Floats]) -> frozenset[tuple[int, ...]]:
    return frozenset(_key(sign * r) for r in rotations for sign in (1, -1))


def _monoclinic(
    rotations: list[Floats], to_reduced: Floats, cell: Floats
) -> tuple[SpaceGroup, Floats] | None:
    """Return the monoclinic setting with the shortest axes, as cctbx chooses it."""
    metric = to_reduced @ lattice.metric(cell) @ to_reduced.T
    for setting in symmetry.bravais_settings(lattice.cell_from_metric(metric), 2.0):
        s = setting.matrix
        on_hkl = [s @ r.T @ np.linalg.inv(s) for r in rotations]
        known = setting.group.laue_operations
        if len(known) == 4 and all(
            any(np.allclose(w, k, atol=1e-6) for k in known) for w in on_hkl
        ):
            return setting.group, s @ to_reduced
    return None
