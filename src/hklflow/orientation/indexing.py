"""Find lattice and orientation of a crystal from scattering vectors, without prior knowledge.

`orientation.lattice_search` finds the primitive lattice. This module transforms the lattice to the
expected cell or to a conventional cell, fits it and judges it. The same input always gives the same
result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.reduction import matching_settings, real_basis, strain
from hklflow.orientation.known_cell import known_lattice
from hklflow.orientation.lattice_search import (
    MIN_PEAKS,
    find_lattice,
    fit,
    is_indexed,
    lattice_of_differences,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Strain that an error of the geometry can cause, for example a beam centre wrong by a pixel.
_METRIC_ACCURACY = 5e-4
_SHARP = 0.1  # deviation of h, k, l from integers within which hardly any peak is indexed by chance
_HALF = 0.5  # fraction of indexed peaks from which no other search is made
_MORE = 1.05  # ratio of indexed peaks above which a lattice replaces another lattice
# smallest number of indexed peaks relative to the best setting; below it, a setting is a twin or
# wrong
_FEWER = 0.95


@dataclass(frozen=True)
class Candidate:
    """Setting in which the peaks can be indexed.

    Attributes
    ----------
    group : SpaceGroup
        Expected group, or the most symmetric group of the lattice.
    cell : (6,) array
        Fitted cell without constraints, Å and degrees.
    ub : (3, 3) array
        UB in 1/Å with 2π.
    deviation : float
        Largest principal strain between the cell and the nearest cell with the symmetry.
    rms : float
        Rms distance in 1/Å of the indexed peaks from the lattice whose cell obeys the symmetry.
    accepted : bool
        True if the fit with the symmetry is about as good as the fit without it.
    """

    group: symmetry.SpaceGroup
    cell: Floats
    ub: Floats
    deviation: float
    rms: float
    accepted: bool


@dataclass(frozen=True)
class Indexing:
    """Lattice and orientation of a crystal.

    Attributes
    ----------
    ub : (3, 3) array
        1/Å with 2π, ``G = UB h`` in the goniometer's frame.
    u : (3, 3) array
        Proper rotation.
    cell : (6,) array
        Å and degrees, from the fit of UB without constraints.
    hkl : (n, 3) int array
        Nearest indices of all peaks, including peaks that are not indexed.
    indexed : (n,) bool array
    fraction : float
        Fraction of the peaks that are indexed within the tolerance.
    rms : float
        Rms deviation of the indexed peaks from integers, per component of hkl.
    relation : str
        Relation of the lattice to the expected cell if it is a supercell or a subcell,
        otherwise empty.
    ambiguities : list of (3, 3) array
        Rotations of the lattice (``h' = W h``) that are not symmetries of the crystal. Each
        rotation gives another orientation that indexes the same peaks; only intensities decide.
    candidates : list of Candidate
        Settings, best first.
    """

    ub: Floats
    u: Floats
    cell: Floats
    hkl: NDArray[np.int64]
    indexed: Mask
    fraction: float
    rms: float
    relation: str
    ambiguities: list[Floats]
    candidates: list[Candidate]


def index_peaks(
    g: ArrayLike,
    *,
    cell: ArrayLike | None = None,
    group: symmetry.SpaceGroup | None = None,
    sigma: ArrayLike | None = None,
    tolerance: float,
    cell_tolerance: float,
    min_fraction: float,
    max_cell: float = 100.0,
    strength: Floats | None = None,
) -> Indexing:
    """Find the lattice and orientation of a crystal.

    Parameters
    ----------
    g : (n, 3) array
        Scattering vectors in the goniometer's frame, 1/Å with 2π, of one or several
        rotations of the crystal.
    cell : (6,) array, optional
        Expected conventional cell, accurate to a few per cent.
    group : SpaceGroup, optional
        Default: P 1 if a cell is given; otherwise the symmetry of the lattice is proposed.
    sigma : (n,) array, optional
        Standard deviation of ``g`` in 1/Å, which gives the weights of the fit.
    tolerance : float
        Largest deviation of h, k and l of an indexed peak from integers.
    cell_tolerance : float
        Largest principal strain between the fitted and the expected cell.
    min_fraction : float
        Fraction of peaks that must be indexed.
    max_cell : float
        Longest primitive lattice vector in Å that is searched if no cell is given.
    strength : (n,) array, optional
        Intensities of the peaks. If the expected cell is not found, the search is repeated with
        the strongest peaks only.

    Raises
    ------
    HklflowError
        If the peaks are too few or coplanar, if no lattice indexes ``min_fraction`` of the peaks,
        or if the lattice is not the expected lattice.
    """
    g = _checked(g)
    weights = np.ones(len(g)) if sigma is None else 1 / np.asarray(sigma, dtype=np.float64)
    if weights.shape != (len(g),) or not np.all(np.isfinite(weights) & (weights > 0)):
        raise HklflowError(f"sigma of the {len(g)} peaks must be {len(g)} positive numbers in 1/Å")
    if cell is None:
        ub = _best_lattice(g, weights, tolerance, reaches(cell, group, max_cell), min_fraction)
        candidates, relation = _proposed(ub, g, group, tolerance), ""
        expected = candidates[0].group
    else:
        expected = symmetry.space_group("P 1") if group is None else group
        search = _Search(
            np.asarray(cell, dtype=np.float64), expected, tolerance, cell_tolerance, min_fraction
        )
        candidates, relation = search.candidates(g, weights, strength)
    ub = fit(candidates[0].ub, g, weights, tolerance)
    indexed = is_indexed(ub, g, tolerance)
    if indexed.mean() < min_fraction:
        raise HklflowError(
            f"the expected cell indexes {indexed.sum()} of {len(g)} peaks ({indexed.mean():.0%}, "
            f"limit {min_fraction:.0%}){f': {relation}' if relation else ''}; check the cell"
        )
    u, fitted_cell = lattice.decompose_ub(ub)
    hkl = g @ np.linalg.inv(ub).T
    rms = float(np.sqrt(np.mean((hkl - np.rint(hkl))[indexed] ** 2)))
    return Indexing(
        ub=ub,
        u=u,
        cell=fitted_cell,
        hkl=np.rint(hkl).astype(np.int64),
        indexed=indexed,
        fraction=float(indexed.mean()),
        rms=rms,
        relation=relation,
        ambiguities=symmetry.reindexing_operators(fitted_cell, expected),
        candidates=candidates,
    )


def _best_lattice(
    g: Floats, weights: Floats, tolerance: float, lengths: list[float], min_fraction: float
) -> Floats:
    """Return the lattice that indexes most peaks; if they are few, perhaps that of differences.

    Differences form a lattice also by chance, and have to index the peaks more sharply.
    """
    best, most = np.eye(3), 0
    failed: HklflowError | None = None
    for search, limit in ((find_lattice, tolerance), (lattice_of_differences, _SHARP)):
        try:
            ub = search(g, weights, tolerance, lengths)
        except HklflowError as error:
            failed = failed or error
            continue
        count = int(is_indexed(ub, g, limit).sum())
        if count > _MORE * most:
            best, most = ub, count
        if most > max(min_fraction, _HALF) * len(g):
            return best
        failed = failed or HklflowError(
            f"the best lattice indexes {most} of {len(g)} peaks ({most / len(g):.0%}, limit "
            f"{min_fraction:.0%}); check distance, beam centre, wavelength and the rotation axis "
            "with its sense"
        )
    if most < min_fraction * len(g):
        assert failed is not None
        raise failed
    return best


@dataclass(frozen=True)
class _Search:
    """Search for an expected cell, with the limits of `index_peaks`."""

    cell: Floats
    group: symmetry.SpaceGroup
    tolerance: float
    cell_tolerance: float
    min_fraction: float

    def candidates(
        self, g: Floats, weights: Floats, strength: Floats | None
    ) -> tuple[list[Candidate], str]:
        """Return the settings, and the relation of the lattice to the expected lattice."""
        lengths = reaches(self.cell, self.group, 0.0)
        failed: HklflowError | None = None
        settings: list[Candidate] = []
        relation = ""
        try:
            ub = _best_lattice(g, weights, self.tolerance, lengths, self.min_fraction)
            settings, relation = self._settings(ub, g)
            if not relation and self._fraction(settings, g, self.tolerance) >= self.min_fraction:
                return settings, relation
        except HklflowError as error:
            failed = error
        # Because of twins, satellites or half-wavelength peaks, the best lattice may be wrong.
        known = known_lattice(
            g, self.cell, self.group, self.tolerance, self.cell_tolerance, strength
        )
        if known is not None:
            others, of_others = self._settings(known, g)
            least = _MORE * self._fraction(settings, g, _SHARP) if settings else 0.0
            if self._fraction(others, g, _SHARP) > least:
                return others, of_others
        if failed is not None:
            raise failed
        return settings, relation

    def _settings(self, ub: Floats, g: Floats) -> tuple[list[Candidate], str]:
        return _expected(ub, g, self.cell, self.group, self.tolerance, self.cell_tolerance)

    def _fraction(self, settings: list[Candidate], g: Floats, tolerance: float) -> float:
        return float(is_indexed(settings[0].ub, g, tolerance).mean())


def _checked(g: ArrayLike) -> Floats:
    g = np.asarray(g, dtype=np.float64)
    if g.ndim != 2 or g.shape[1] != 3 or not np.all(np.isfinite(g)):
        raise HklflowError(f"peaks to index must be (n, 3) finite numbers; got shape {g.shape}")
    if len(g) < MIN_PEAKS:
        raise HklflowError(
            f"{len(g)} peaks are too few to index (at least {MIN_PEAKS}); lower the threshold of "
            "the peak search or use more frames"
        )
    spread = np.linalg.svd(g, compute_uv=False)
    if spread[2] < 0.02 * spread[0]:
        raise HklflowError(
            f"the {len(g)} peaks are coplanar: their rms extents are "
            f"{', '.join(f'{x:.3g}' for x in spread / np.sqrt(len(g)))} 1/Å; a lattice needs a "
            "scan of some degrees"
        )
    return g


def reaches(
    cell: ArrayLike | None, group: symmetry.SpaceGroup | None, max_cell: float
) -> list[float]:
    """Return the maximum lengths of lattice vectors in Å for the successive searches.

    Parameters
    ----------
    cell : (6,) array or None
        Expected conventional cell of ``group``.
    max_cell : float
        Longest vector that is searched if no cell is given.
    """
    if cell is None:
        return [x for x in (25.0, 50.0) if x < max_cell] + [max_cell]
    reduced, _ = symmetry.niggli(cell, group)
    return [1.3 * float(max(reduced[:3])), 2.6 * float(max(reduced[:3]))]


def _candidate(ub: Floats, g: Floats, group: symmetry.SpaceGroup, indexed: Mask) -> Candidate:
    u, cell = lattice.decompose_ub(ub)
    constrained = symmetry.constrain_cell(cell, group)
    hkl = np.rint(g[indexed] @ np.linalg.inv(ub).T)
    free = np.linalg.norm(g[indexed] - hkl @ ub.T, axis=1)
    tied = np.linalg.norm(g[indexed] - hkl @ (u @ lattice.b_matrix(constrained)).T, axis=1)
    # Random spots that are indexed by chance would hide a misfit.
    core = free < 4 * np.median(free) + 1e-12
    rms = float(np.sqrt(np.mean(tied[core] ** 2)))
    deviation = float(strain(lattice.metric(cell), constrained))
    return Candidate(
        group=group,
        cell=cell,
        ub=ub,
        deviation=deviation,
        rms=rms,
        accepted=rms < 1.15 * float(np.sqrt(np.mean(free[core] ** 2)))
        or deviation < _METRIC_ACCURACY,
    )


def _expected(
    ub: Floats,
    g: Floats,
    cell: Floats,
    group: symmetry.SpaceGroup,
    tolerance: float,
    cell_tolerance: float,
) -> tuple[list[Candidate], str]:
    """Return settings of a lattice that match the expected cell, and the name of their relation."""
    settings = matching_settings(ub, cell, group, cell_tolerance)
    basis = real_basis(ub)
    reduced = lattice.cell_from_metric(basis.T @ basis)
    if not settings:
        raise HklflowError(
            f"the peaks show a lattice with the reduced cell {_text(reduced)}, not the expected "
            f"{_text(symmetry.niggli(cell, group)[0])} (reduced); check the cell, the wavelength, "
            "the distance, and the rotation axis with its sense"
        )
    ratio = settings[0].ratio
    relation = ""
    if ratio > 1:
        relation = (
            f"the lattice found is a subcell: 1/{ratio:.0f} of the volume of the expected cell"
        )
    elif ratio < 1:
        relation = (
            f"the lattice found is a supercell: {1 / ratio:.0f} times the volume of the expected "
            "cell"
        )
    indexed = is_indexed(ub, g, tolerance)
    # If cell and metric allow several choices (a and c of a Pnma crystal with nearly equal axes),
    # the systematic absences decide; random spots violate a few absences.
    numbers = [violations(setting.ub, g[indexed], group) for setting in settings]
    allowed = most_violations(numbers)
    misses = [False] * len(settings)
    if ratio < 1:
        misses = _misses([setting.ub for setting in settings], g, group)
    ranked = sorted(
        zip(misses, numbers, settings, strict=True), key=lambda x: (x[0], x[1] > allowed)
    )
    # Keep one of the settings that are equivalent by symmetry.
    distinct: list[Candidate] = []
    for _, _, setting in ranked:
        if all(not np.allclose(setting.cell, c.cell, rtol=2e-3) for c in distinct):
            # A lattice symmetry may change the absences (Pa-3): take the mate with the fewest
            # violations.
            mates = [x for x in ranked if np.allclose(setting.cell, x[2].cell, rtol=2e-3)]
            _, _, best = min(mates, key=lambda x: x[:2])
            distinct.append(_candidate(best.ub, g, group, indexed))
    return distinct, relation


def _misses(ubs: list[Floats], g: Floats, group: symmetry.SpaceGroup) -> list[bool]:
    """Return True for sublattices of a supercell that index fewer peaks, as for a twin."""
    numbers = []
    for ub in ubs:
        good = is_indexed(ub, g, _SHARP)
        numbers.append(int(good.sum()) - violations(ub, g[good], group))
    return [number < _FEWER * max(numbers) for number in numbers]


def violations(ub: Floats, g: Floats, group: symmetry.SpaceGroup) -> int:
    """Return the number of peaks at systematically absent reflections."""
    return int(group.is_absent(np.rint(g @ np.linalg.inv(ub).T)).sum())


def most_violations(numbers: Sequence[int]) -> int:
    """Return the number of violations up to which a setting may be right, from those of all."""
    return 2 * min(numbers) + 4


def _text(cell: ArrayLike) -> str:
    a, b, c, alpha, beta, gamma = np.asarray(cell, dtype=np.float64)
    return f"{a:.3f} {b:.3f} {c:.3f} {alpha:.2f} {beta:.2f} {gamma:.2f}"


def _proposed(
    ub: Floats, g: Floats, group: symmetry.SpaceGroup | None, tolerance: float
) -> list[Candidate]:
    """Return the Bravais settings of a lattice that fit, the most symmetric first."""
    basis = real_basis(ub)
    indexed = is_indexed(ub, g, tolerance)
    candidates = []
    for setting in symmetry.bravais_settings(lattice.cell_from_metric(basis.T @ basis), 1.5):
        conventional = ub @ np.linalg.inv(setting.matrix)
        candidates.append(_candidate(conventional, g, setting.group, indexed))
    candidates.sort(key=lambda c: not c.accepted)
    if group is None:
        return candidates
    same = [c for c in candidates if c.group.bravais == group.bravais]
    if not same:
        raise HklflowError(
            f"space group {group.symbol} needs a lattice of type {group.bravais}; the peaks "
            f"allow {', '.join(c.group.bravais for c in candidates)}; check the space group or "
            "give the cell"
        )
    return [
        _candidate(
            c.ub @ np.linalg.inv(symmetry.between_settings(c.group, group)), g, group, indexed
        )
        for c in same
    ]
