"""Symptoms of a phase transition: what a refined scan says against its parent's space group.

A scan is refined with the constraints of its parent's group. Here its peaks are asked whether
they still obey them: which are not indexed, and at which propagation vector; which are on
reflections that the group forbids; and, by a second refinement with a free cell, whether
the relations between the cell's six numbers hold. `core.gates` judges the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.core import lattice, symmetry
from hklflow.core.gates import CELL_NAMES, Limits
from hklflow.core.refinement import Limits as FitLimits
from hklflow.core.refinement import Peaks, Refined, refine
from hklflow.core.subgroups import Subgroup, maximal, subgroups
from hklflow.errors import HklflowError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_INDEXED = 0.1  # largest deviation from an integer of an indexed peak, the same for all scans
_NEAR = 0.04  # of a peak on a propagation vector; 1/12 is the least distance of two of them
_STEPS = np.array([0, 3, 4, 6, 2, -2, -3, -4]) / 12  # 0, 1/4, 1/3, 1/2, 1/6 and their negatives
_FEWEST = 8  # peaks on a propagation vector that is told
_MOST = 5  # propagation vectors, and space groups, that are told
_REGIONS = 9  # over which errors of the geometry are thought to average
_CHANCE = 0.1  # of the forbidden peaks may be forbidden in the subgroup too


def figures(
    refined: Refined,
    peaks: Sequence[Peaks],
    group: symmetry.SpaceGroup,
    *,
    free: Sequence[str],
    intensities: Sequence[Floats] | None = None,
    limits: Limits,
) -> dict[str, Any]:
    """Figures of `examine`, for those who need no more."""
    return examine(refined, peaks, group, free=free, intensities=intensities, limits=limits).figures


@dataclass(frozen=True)
class Examined:
    """What `examine` finds: figures, and the refinement with a free cell (None if it failed)."""

    figures: dict[str, Any]
    free: Refined | None

    def broken(self, limits: Limits) -> list[str]:
        """Relations of the cell that are broken, as ``a = b``."""
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
    """Figures by which `core.gates` tells whether a crystal still has its parent's symmetry.

    Parameters
    ----------
    refined : Refined
        Refinement of the scan with the constraints of ``group``.
    peaks : sequence of Peaks
        The peaks that it was given.
    free : sequence of str
        The groups of parameters that it had.
    intensities : sequence of (n,) arrays, optional
        Of the peaks; they only choose which forbidden reflections are named.
    limits : Limits
        From which size on a relation counts as broken when subgroups are looked for.

    Returns
    -------
    Examined
        The refinement with a free cell, and the figures (None where there are no peaks):
        ``space group``, ``crystal system``; ``peaks``, ``unindexed peaks``,
        ``fraction unindexed``; ``offsets``: see `propagation_vectors`;
        ``absent reflections``: ``number`` ``of`` indexed peaks,
        ``fraction``, ``strongest`` hkl; ``cell`` and ``volume`` (constrained, with σ); ``free
        cell``: ``cell``, ``sigma`` (Å, degrees), the ``systematic factor`` in all σ of the free
        cell and its relations, ``reduced chi2`` of both refinements over the peaks that both
        use, or None with ``why not``; ``relations``: see `relations`; ``metric``: Bravais type
        and cell that the free cell has within its errors; ``subgroups``: the largest space
        groups that agree with the free cell and forbid nothing seen, with their cells; empty if
        nothing is broken.
    """
    miller = _miller(refined, peaks)
    deviation = np.abs(miller - np.rint(miller)).max(axis=1)
    unindexed = deviation >= _INDEXED
    absent, forbidden = _absences(refined, deviation, group, intensities)
    result: dict[str, Any] = {
        "space group": group.symbol,
        "crystal system": group.crystal_system,
        "peaks": len(miller),
        "unindexed peaks": int(unindexed.sum()),
        "fraction unindexed": float(unindexed.mean()) if len(miller) else None,
        "offsets": propagation_vectors(miller[unindexed], group),
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
        return Examined(result | none | {"metric": None, "subgroups": []}, None)
    factor = systematic(loose.chi2, int(loose.used.sum()))
    free_covariance = factor**2 * loose.cell_covariance
    found = relations(loose.cell, free_covariance, group)
    broken = any(limits.broken(relation) for relation in found)
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
        "relations": found,
        "metric": _metric(loose.cell, free_covariance, group, limits),
        "subgroups": [],
    }
    if broken or len(forbidden) >= limits.min_absent_peaks:
        chosen = _compatible(loose.cell, free_covariance, group, forbidden, limits)
        result["subgroups"] = [
            {"space_group": x.symbol, "cell": x.proposed_cell(loose.cell)} for x in chosen[:_MOST]
        ]
    return Examined(result, loose)


def _triclinic() -> symmetry.SpaceGroup:
    return symmetry.space_group("P 1")


def _free_refinement(refined: Refined, peaks: Sequence[Peaks], free: Sequence[str]) -> Refined:
    """Refine again with six free cell parameters, from the constrained result.

    The detector and the heads are free if they were in the constrained refinement. Their
    errors are then in the covariance.
    """
    return refine(
        refined.rotations,
        peaks,
        refined.ub,
        _triclinic(),
        free=free,
        cell=refined.cell,
        limits=FitLimits(hkl=_INDEXED, min_fraction=0.5 * refined.fraction_indexed),
    )


def systematic(chi2: float, n: int) -> float:
    """Factor for standard deviations where residuals of n peaks exceed their own errors.

    What exceeds them (distortion of a detector, a crystal off the centre) is common to
    neighbouring peaks, and does not shrink with the root of their number n but of that of
    `_REGIONS`. With the excess share e = (χ² - 1) / χ² the variance is
    ``σ² ((1 - e) + e n / regions)``, σ² as χ² has scaled it. The scatter of χ² is no excess.
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
    """Mean square of the residuals over σ of some peaks."""
    if not rows.any():
        return None
    sigma = np.concatenate([p.sigma for p in peaks])
    return float(np.mean((refined.residuals[rows] / sigma[rows]) ** 2))


def _slopes(function: Any, cell: Floats) -> Floats:
    """Derivatives (n, 6) of a function of the cell."""
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
    """Figures of the forbidden reflections, and their hkl (n, 3)."""
    # Only peaks that are where the model has them: a chance peak rarely is.
    good = (refined.used | refined.held_out) & (deviation < _INDEXED)
    rows = np.nonzero(good)[0]
    rows = rows[group.is_absent(refined.hkl[rows])]
    intensity = np.ones(len(deviation)) if intensities is None else np.concatenate(intensities)
    strongest = refined.hkl[rows[np.argsort(-intensity[rows], kind="stable")]]
    distinct = list(dict.fromkeys(tuple(int(x) for x in hkl) for hkl in strongest))
    number = int(good.sum())
    told = {
        "number": len(rows),
        "of": number,
        "fraction": len(rows) / number if number else 0.0,
        "strongest": [list(hkl) for hkl in distinct[:3]],
    }
    return told, refined.hkl[rows]


def propagation_vectors(miller: Floats, group: symmetry.SpaceGroup) -> list[dict[str, Any]]:
    """Rational propagation vectors on which unindexed peaks lie more often than by chance.

    All vectors with the denominators 2, 3, 4 and 6 are tried, symmetry mates and opposites
    together; the most significant first, whose peaks are then taken out. By chance there are as
    many peaks as evenly spread ones, or as many as there are beside the vector along an axis:
    maxima on a diffuse rod are everywhere on it.

    Parameters
    ----------
    miller : (n, 3) array
        Miller coordinates of the peaks that are not indexed.

    Returns
    -------
    offsets : list of dict
        ``vector`` (3,), ``arms`` (mates modulo integers), ``peaks``, ``expected by chance``;
        ``multiples`` (3,) of a, b, c in a cell that indexes all arms, and ``space_group``, a
        primitive one of the same point group that the multiplied cell obeys.
    """
    if len(miller) < _FEWEST:
        return []
    offset = miller - np.rint(miller)
    # What is left of the unit cube when the surroundings of integers are taken out.
    volume = 1 - (2 * _INDEXED) ** 3
    per_arm = (2 * _NEAR) ** 3 / volume
    near = [(*_near(offset, star), star) for star in _stars(group)]
    left = np.ones(len(offset), dtype=np.bool_)
    found: list[dict[str, Any]] = []
    while len(found) < _MOST:
        rows = []
        for hits, beside, star in near:
            number = int((hits & left).sum())
            spread = per_arm * len(star) * int(left.sum())
            # The two flanks are twice as long as the window.
            expected = max(spread, 0.5 * int((beside & left).sum()))
            rows.append(((number - expected) / np.sqrt(expected + 1), number, expected, hits, star))
        if not rows:
            break
        score, number, expected, hits, star = max(rows, key=lambda row: row[0])
        if number < _FEWEST or score < 5:
            break
        found.append(
            {
                "vector": list(star[0]),
                "arms": len(star),
                "peaks": number,
                "expected by chance": float(expected),
                "multiples": _multiples(star),
                "space_group": subgroups(group, False)[0].symbol,
            }
        )
        left &= ~hits
    return found


def _near(offset: Floats, star: Sequence[tuple[float, ...]]) -> tuple[Mask, Mask]:
    """Which peaks (n,) are at an arm of a star, and which are beside one along an axis."""
    hits = np.zeros(len(offset), dtype=np.bool_)
    beside = np.zeros(len(offset), dtype=np.bool_)
    for arm in star:
        difference = offset - np.array(arm)
        away = np.abs(difference - np.rint(difference))
        hits |= away.max(axis=1) < _NEAR
        for axis in range(3):
            others = np.delete(away, axis, axis=1).max(axis=1) < _NEAR
            beside |= others & (away[:, axis] >= _NEAR) & (away[:, axis] < 3 * _NEAR)
    return hits, beside


@lru_cache(maxsize=16)
def _stars(group: symmetry.SpaceGroup) -> list[list[tuple[float, ...]]]:
    """Vectors modulo integers that the Laue group makes of one; the plainest first."""
    grid = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), -1).reshape(-1, 3)
    seen: set[tuple[float, ...]] = set()
    stars = []
    for vector in sorted(map(_folded, grid), key=_plainness):
        if vector in seen or not any(vector):
            continue
        # The Laue group has the inversion: opposites are in.
        mates = {_folded(w @ np.array(vector)) for w in group.laue_operations}
        # A mate may leave the list (1/2 - 1/3 along other axes): it is an arm all the same.
        seen |= mates
        stars.append(sorted(mates, key=_plainness))
    return stars


def _multiples(star: Sequence[tuple[float, ...]]) -> list[int]:
    """Times by which a, b and c must be taken for all arms to have integer indices."""
    twelfths = np.rint(np.array(star) * 12).astype(np.int64)
    return [int(n) for n in np.lcm.reduce(12 // np.gcd(twelfths, 12), axis=0)]


def _folded(vector: Floats) -> tuple[float, ...]:
    """Components in (-1/2, 1/2], as multiples of 1/12."""
    twelfths = np.rint(np.asarray(vector) * 12).astype(int)
    return tuple(float(x) / 12 for x in -((-twelfths + 6) % 12 - 6))


def _plainness(vector: tuple[float, ...]) -> tuple[Any, ...]:
    return (sum(x < 0 for x in vector), sum(abs(x) for x in vector), [-x for x in vector])


# ------------------------------------------------------------------------- cell


def relations(cell: Floats, covariance: Floats, group: symmetry.SpaceGroup) -> list[dict[str, Any]]:
    """Deviations of a free cell from what a space group imposes.

    Parameters
    ----------
    cell : (6,) array
        Å and degrees, refined without constraints.
    covariance : (6, 6) array

    Returns
    -------
    relations : list of dict
        ``relation`` (as ``b = a`` or ``gamma = 120``), ``deviation`` and ``sigma`` in ``unit``
        (A or deg), ``z`` = |deviation| / σ, ``relative``: of a length to the length, of an
        angle in radians.
    """
    constraints = symmetry.cell_constraints(group)
    found = []
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
        found.append(
            {
                "relation": text,
                "deviation": deviation,
                "sigma": sigma,
                "unit": "A" if i < 3 else "deg",
                "z": abs(deviation) / max(sigma, 1e-12),
                "relative": abs(deviation) / cell[i] if i < 3 else abs(np.radians(deviation)),
            }
        )
    return found


def _strain_off(cell: Floats, operations: NDArray[np.int64]) -> Floats:
    """Twice the strain (6,) by which the reciprocal metric of a cell breaks operations on hkl.

    Twice, so that a component is the relative difference of two lengths, or an angle in
    radians from its right value.
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
    """Whether a free cell has a Laue symmetry within its errors."""
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
    """Largest subgroups that the free cell obeys and that allow the reflections seen."""
    many = len(forbidden) >= limits.min_absent_peaks
    for centred in (True, False):
        every = subgroups(group, centred)
        agreeing = [
            x
            for x in every
            if not (many and x.is_absent(forbidden).mean() > _CHANCE)
            and _obeys(cell, covariance, x.laue_operations, limits)
        ]
        # The trivial group agrees always, if its lattice does.
        if agreeing:
            return maximal(agreeing)
    return []


def _metric(
    cell: Floats, covariance: Floats, group: symmetry.SpaceGroup, limits: Limits
) -> dict[str, Any]:
    """Most symmetric Bravais type that the free cell allows within its errors."""
    # Le Page's angle of a lattice is about its strain; the least certain length or angle counts.
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
