"""Find signs of a phase transition: a refined scan compared with the space group of its parent.

A scan is refined with the constraints of the space group of its parent. This module tests if the
peaks still obey them, with three tests: the unindexed peaks and their propagation vectors, the
peaks on reflections that the group forbids, and the relations between the six cell parameters after
a second refinement with a free cell. `quality.gates` judges the results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.values import CELL_NAMES
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.subgroups import Subgroup, maximal, subgroups
from hklflow.orientation.expected import settings_by_absences
from hklflow.orientation.limits import Limits
from hklflow.orientation.refinement import Peaks, Refined, RefinementLimits, refine
from hklflow.orientation.satellites import INDEXED, satellites
from hklflow.orientation.superlattice import superlattice

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_MOST = 5  # largest number of reported space groups
_REGIONS = 9  # number of regions over which geometry errors are assumed to average out
_CHANCE = 0.1  # fraction of the forbidden peaks that may also be forbidden in a subgroup


def figures(
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    *,
    free: Sequence[str],
    intensities: Sequence[Floats] | None = None,
    limits: Limits,
) -> dict[str, Any]:
    """Return the results of `examine` without the refinement."""
    return examine(refined, peaks, group, free=free, intensities=intensities, limits=limits).figures


@dataclass(frozen=True)
class Examined:
    """Result of `examine`: numbers, and the refinement with a free cell (None if it failed)."""

    figures: dict[str, Any]
    free: Refined | None

    def broken(self, limits: Limits) -> list[str]:
        """Return the broken relations of the cell, such as ``a = b``."""
        return [str(x["relation"]) for x in self.figures["relations"] if limits.broken(x)]


def examine(
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    *,
    free: Sequence[str],
    intensities: Sequence[Floats] | None = None,
    limits: Limits,
) -> Examined:
    """Test if a crystal still has the symmetry of its parent; `quality.gates` judges the numbers.

    Parameters
    ----------
    refined : Refined
        Refinement of the scan with the constraints of ``group``.
    peaks : sequence of Peaks
        Peaks of the refinement.
    free : sequence of str
        Groups of parameters that were refined.
    intensities : sequence of (n,) arrays, optional
        Intensities of the peaks, used only to select the forbidden reflections that are named.
    limits : Limits
        Limits above which a relation counts as broken when subgroups are searched.

    Returns
    -------
    Examined
        The refinement with a free cell, and the numbers (None without peaks):
        ``space group``, ``crystal system``; ``peaks``, ``unindexed peaks``,
        ``fraction unindexed``; ``offsets``, ``incommensurate``: see `satellites`;
        ``absent reflections``: ``number`` ``of`` indexed peaks, ``fraction``, ``strongest`` hkl,
        and ``settings`` of the space group that forbid far fewer;
        ``cell`` and ``volume`` (constrained, with σ);
        ``free cell``: ``cell``, ``sigma`` (Å, degrees), the ``systematic factor`` in all σ of the
        free cell and its relations, ``reduced chi2`` of both refinements over the peaks that both
        use, or None with ``why not``;
        ``relations``: see `relations`;
        ``metric``: Bravais type and cell of the free cell within its errors;
        ``subgroups``: the largest space groups that agree with the free cell and forbid no observed
        reflection, with their cells; empty if nothing is broken;
        ``superlattice``: see `orientation.superlattice`.
    """
    miller = _miller(refined, peaks)
    deviation = np.abs(miller - np.rint(miller)).max(axis=1)
    unindexed = deviation >= INDEXED
    absent, forbidden = _absences(refined, deviation, group, intensities)
    result: dict[str, Any] = {
        "space group": group.symbol,
        "crystal system": group.crystal_system,
        "peaks": len(miller),
        "unindexed peaks": int(unindexed.sum()),
        "fraction unindexed": float(unindexed.mean()) if len(miller) else None,
        "absent reflections": absent,
        "cell": refined.cell,
        "cell_sigma": refined.cell_sigma,
        "volume": lattice.volume(refined.cell),
        "volume_sigma": lattice.volume_sigma(refined.cell, refined.cell_covariance),
    }
    try:
        loose = _free_refinement(refined, peaks, free)
    except HklflowError as error:
        none: dict[str, Any] = {"free cell": None, "why not": str(error), "relations": []}
        none |= {"metric": None, "subgroups": [], "superlattice": None}
        return Examined(result | none | _offsets(miller, group), None)
    factor = systematic(loose.chi2, int(loose.used.sum()))
    free_covariance = factor**2 * loose.cell_covariance
    cell_relations = relations(loose.cell, free_covariance, group)
    broken = any(limits.broken(relation) for relation in cell_relations)
    if broken:
        # From the constrained cell, the deviations would increase in proportion to hkl.
        miller = _miller(loose, peaks)
    both = (refined.used | refined.held_out) & (loose.used | loose.held_out)
    result |= {
        "free cell": {
            "cell": loose.cell,
            "sigma": factor * loose.cell_sigma,
            "systematic factor": factor,
            "reduced chi2": _chi2(loose, peaks, both),
            "reduced chi2 constrained": _chi2(refined, peaks, both),
            "peaks": int(both.sum()),
        },
        "relations": cell_relations,
        "metric": _metric(loose.cell, free_covariance, group, limits),
        "subgroups": [],
        **_offsets(miller, group),
    }
    if broken or len(forbidden) >= limits.min_absent_peaks:
        chosen = _compatible(loose.cell, free_covariance, group, forbidden, limits)
        result["subgroups"] = [
            {"space_group": x.symbol, "cell": x.proposed_cell(loose.cell)} for x in chosen[:_MOST]
        ]
    result["superlattice"] = _superlattice(miller, result, free_covariance, group, limits)
    return Examined(result, loose)


def _offsets(miller: Floats, group: symmetry.SpaceGroup) -> dict[str, Any]:
    unindexed = np.abs(miller - np.rint(miller)).max(axis=1) >= INDEXED
    rational, others = satellites(miller[unindexed], group)
    return {"offsets": rational, "incommensurate": others}


def _superlattice(
    miller: Floats,
    known: dict[str, Any],
    covariance: Floats,
    group: symmetry.SpaceGroup,
    limits: Limits,
) -> dict[str, Any] | None:
    """Return the lattice of peaks at rational vectors and at centring-forbidden reflections."""
    whole = np.rint(miller)
    indexed = np.abs(miller - whole).max(axis=1) < INDEXED
    lost = indexed & ~_is_integer(whole @ group.to_primitive.T)
    if lost.sum() < max(limits.min_absent_peaks, limits.max_absent * indexed.sum()):
        lost[:] = False
    offsets = known["offsets"]
    new = np.vstack([miller[~indexed] if offsets else miller[:0], whole[lost]])
    cell = known["free cell"]["cell"]
    return superlattice(
        new,
        group,
        np.lcm.reduce([[1, 1, 1], *(offset["multiples"] for offset in offsets)], axis=0).tolist(),
        float(sum(offset["expected by chance"] for offset in offsets)),
        cell,
        lambda operations: _obeys(cell, covariance, operations, limits),
    )


def _is_integer(rows: Floats) -> Mask:
    whole: Mask = np.abs(rows - np.rint(rows)).max(axis=1) < 1e-6
    return whole


def _triclinic() -> symmetry.SpaceGroup:
    return symmetry.space_group("P 1")


def _free_refinement(refined: Refined, peaks: Sequence[Peaks], free: Sequence[str]) -> Refined:
    """Refine again with six free cell parameters, from the constrained result.

    Detector and heads are free if they were free in the constrained refinement, so that the
    covariance contains their errors.
    """
    return refine(
        refined.rotations,
        peaks,
        refined.ub,
        _triclinic(),
        free=free,
        cell=refined.cell,
        limits=RefinementLimits(hkl=INDEXED, min_fraction=0.5 * refined.fraction_indexed),
    )


def systematic(chi2: float, n: int) -> float:
    """Return the factor for standard deviations if residuals of n peaks exceed their errors.

    The excess (distortion of a detector, a crystal off the centre) is common to neighbouring peaks.
    It does not average over the number of peaks n but over the number of `_REGIONS`. With the
    excess fraction e = (χ² - 1) / χ² the variance is ``σ² ((1 - e) + e n / regions)``, where σ is
    already scaled by χ². The statistical scatter of χ² does not count as excess.
    """
    doubt = 4 * np.sqrt(2 / (3 * n))
    if chi2 <= 1 + doubt:
        return 1.0
    share = 1 - 1 / chi2
    return float(np.sqrt(1 - share + share * max(n / _REGIONS, 1.0)))


def _miller(refined: Refined, peaks: Sequence[Peaks]) -> Floats:
    return np.concatenate(
        [
            rotation.hkl(refined.ub, p.frame, p.slow, p.fast).reshape(-1, 3)
            for rotation, p in zip(refined.rotations, peaks, strict=True)
        ]
    )


def _chi2(refined: Refined, peaks: Sequence[Peaks], rows: Mask) -> float | None:
    """Return the mean square of (residual / σ) for some peaks."""
    if not rows.any():
        return None
    sigma = np.concatenate([p.sigma for p in peaks])
    return float(np.mean((refined.residuals[rows] / sigma[rows]) ** 2))


def _slopes(function: Any, cell: Floats) -> Floats:
    """Return the derivatives (n, 6) of a function of the cell."""
    steps = np.diag(np.array([1e-5, 1e-5, 1e-5, 1e-4, 1e-4, 1e-4]))
    columns = [(function(cell + s) - function(cell - s)) / (2 * s.max()) for s in steps]
    return np.stack(columns, axis=-1)


# ------------------------------------------------------------------- reflections


def _absences(
    refined: Refined,
    deviation: Floats,
    group: symmetry.SpaceGroup,
    intensities: Sequence[Floats] | None,
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Return the numbers on forbidden reflections, and their hkl (n, 3)."""
    # Count only peaks at their predicted positions; random peaks are rarely near them.
    good = (refined.used | refined.held_out) & (deviation < INDEXED)
    rows = np.nonzero(good)[0]
    rows = rows[group.is_absent(refined.hkl[rows])]
    intensity = np.ones(len(deviation)) if intensities is None else np.concatenate(intensities)
    strongest = refined.hkl[rows[np.argsort(-intensity[rows], kind="stable")]]
    distinct = list(dict.fromkeys(tuple(int(x) for x in hkl) for hkl in strongest))
    number = int(good.sum())
    settings = settings_by_absences(refined.cell, refined.hkl[good], group) if len(rows) else []
    absences = {
        "number": len(rows),
        "of": number,
        "fraction": len(rows) / number if number else 0.0,
        "strongest": [list(hkl) for hkl in distinct[:3]],
        "settings": [
            {"space group": symbol, "cell": cell, "number": absent}
            for symbol, cell, absent in settings
        ],
    }
    return absences, refined.hkl[rows]


# ------------------------------------------------------------------------- cell


def relations(cell: Floats, covariance: Floats, group: symmetry.SpaceGroup) -> list[dict[str, Any]]:
    """Return the deviations of a free cell from the constraints of a space group.

    Parameters
    ----------
    cell : (6,) array
        Å and degrees, refined without constraints.
    covariance : (6, 6) array

    Returns
    -------
    relations : list of dict
        ``relation`` (such as ``b = a`` or ``gamma = 120``), ``deviation`` and ``sigma`` in
        ``unit`` (A or deg), ``z`` = |deviation| / σ, ``relative``: deviation divided by the
        length, or deviation of the angle in radians.
    """
    constraints = symmetry.cell_constraints(group)
    records = []
    for i, name in enumerate(CELL_NAMES):
        if name in constraints.free:
            continue
        weight = np.zeros(6)
        weight[i] = 1
        target = constraints.fixed[i]
        text = f"{name} = {target:g}"
        if constraints.matrix[i].any():
            partner = CELL_NAMES.index(constraints.free[int(np.argmax(constraints.matrix[i]))])
            weight[partner] = -1
            text = f"{CELL_NAMES[partner]} = {name}"
        deviation = float(weight @ cell - target)
        sigma = float(np.sqrt(weight @ covariance @ weight))
        records.append(
            {
                "relation": text,
                "deviation": deviation,
                "sigma": sigma,
                "unit": "A" if i < 3 else "deg",
                "z": abs(deviation) / max(sigma, 1e-12),
                "relative": abs(deviation) / cell[i] if i < 3 else abs(np.radians(deviation)),
            }
        )
    return records


def _strain_off(cell: Floats, operations: NDArray[np.int64]) -> Floats:
    """Return twice the strain (6,) by which a reciprocal metric breaks operations on hkl.

    With the factor two, a component is the relative difference of two lengths, or the deviation of
    an angle in radians.
    """
    reciprocal = np.linalg.inv(lattice.metric(cell))
    w = operations.astype(np.float64)
    average = np.mean(w.transpose(0, 2, 1) @ reciprocal @ w, axis=0)
    inverse = np.linalg.inv(np.linalg.cholesky(average))
    strain = inverse @ (reciprocal - average) @ inverse.T
    rows, columns = np.triu_indices(3)
    result: Floats = strain[rows, columns]
    return result


def _obeys(cell: Floats, covariance: Floats, operations: NDArray[np.int64], limits: Limits) -> bool:
    """Return True if a free cell has a Laue symmetry within its errors."""
    strain = _strain_off(cell, operations)
    slopes = _slopes(lambda x: _strain_off(x, operations), cell)
    sigma = np.sqrt(np.diag(slopes @ covariance @ slopes.T))
    return not np.any(
        (np.abs(strain) > limits.min_strain) & (np.abs(strain) > limits.min_z * sigma)
    )


def _compatible(
    cell: Floats,
    covariance: Floats,
    group: symmetry.SpaceGroup,
    forbidden: NDArray[np.int64],
    limits: Limits,
) -> list[Subgroup]:
    """Return the largest subgroups that allow the free cell and the observed reflections."""
    many = len(forbidden) >= limits.min_absent_peaks
    for centred in (True, False):
        every = subgroups(group, centred)
        agreeing = [
            x
            for x in every
            if not (many and x.is_absent(forbidden).mean() > _CHANCE)
            and _obeys(cell, covariance, x.laue_operations, limits)
        ]
        # If its lattice is the same, the trivial group always agrees.
        if agreeing:
            return maximal(agreeing)
    return []


def _metric(
    cell: Floats, covariance: Floats, group: symmetry.SpaceGroup, limits: Limits
) -> dict[str, Any]:
    """Return the most symmetric Bravais type that the free cell allows within its errors."""
    # Le Page's angle of a lattice is about its strain; the least certain length or angle sets the
    # limit.
    relative = np.sqrt(np.diag(covariance)) * np.array([*(1 / cell[:3]), *np.full(3, np.pi / 180)])
    tolerance = max(limits.min_strain, limits.min_z * float(relative.max()))
    # With h' = M h the direct metric becomes M G Mᵀ.
    m = group.to_primitive
    primitive = lattice.cell_from_metric(m @ lattice.metric(cell) @ m.T)
    best = symmetry.bravais_settings(primitive, float(np.degrees(tolerance)))[0]
    return {
        "bravais": best.bravais,
        "crystal system": best.group.crystal_system,
        "cell": best.cell,
        "tolerance": tolerance,
    }
