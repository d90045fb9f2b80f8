"""Explain why peaks are not indexed: the hypotheses that index them, the simplest first.

Every explanation is tested as it would be applied: with rounded numbers, by the same search for the
lattice, against the same limits.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import Rotation, lattice, symmetry
from hklflow.geometry.reduction import matching_settings, real_basis
from hklflow.orientation import arm_angles, hypotheses
from hklflow.orientation.expected import SHAPE, SearchedLattice, fitting_settings
from hklflow.orientation.hypotheses import Fitted, Hypothesis
from hklflow.orientation.lattice_search import MIN_PEAKS
from hklflow.orientation.residuals import Peaks

Floats = NDArray[np.float64]

_CONVINCING = 0.9  # fraction of the peaks from which nothing else is tried
_ALIKE = 0.93  # fraction of the best number of peaks from which explanations are equally good
_AS_NEAR = 2.0  # ratio of the rms up to which explanations are equally good
_BETTER = 1.1  # so many times the peaks of the stated geometry, or by chance, are indexed
_CANDIDATES = 6  # hypotheses that are tested by indexing
_FARTHEST_SCALE = 0.4  # logarithm of the scale of a cell that a distance explains
_NEAR_ARM = 2.0  # pixels of shift that an angle of the arm may leave
_AS_SHARP = 1.02  # largest ratio of the rms with a rounded angle
_ROUND_ARM = (1.0, 0.5, 0.1, 0.01, 0.001)  # degrees
_ROUNDED = 0.25  # largest displacement of spots by a rounded angle, pixels


@dataclass(frozen=True)
class Explanation:
    """A change with which the peaks are indexed.

    Attributes
    ----------
    kind : str
        As in `Hypothesis`; with a changed shift of the stated geometry ``beam centre``; ``scale``:
        distance, wavelength, pixel size or cell; ``setting``: the cell is of another setting of
        the space group; ``cell``: the lattice is another one, in the stated geometry.
    hypothesis : Hypothesis
        Geometry with which the peaks are indexed.
    count, of : int
        Indexed peaks, and all peaks.
    by_chance : int
        Peaks that the same search indexes, in this geometry, if their frames are exchanged.
    rms : float
        Rms deviation from integer hkl of the peaks that are near integers, per component.
    scale : float
        Of all lengths of the expected cell, in the stated geometry.
    cell : (6,) array or None
        Cell of the lattice: for ``setting`` conventional, for ``cell`` reduced.
    symbol : str
        For ``setting``: the setting of the expected cell.
    absent : int
        For ``setting``: indexed peaks at systematically absent reflections.
    alternatives : tuple of Hypothesis
        Other geometries that index the peaks: for ``scale`` all ways to change the geometry, best
        first; for a reversed axis mirrored images.
    """

    kind: str
    hypothesis: Hypothesis
    count: int
    of: int
    by_chance: int
    rms: float
    scale: float = 1.0
    cell: Floats | None = None
    symbol: str = ""
    absent: int = 0
    alternatives: tuple[Hypothesis, ...] = ()


def explained(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    strength: Floats,
    searched: SearchedLattice,
) -> list[Explanation]:
    """Return what would index peaks that are not indexed as stated; empty: nothing does.

    Parameters
    ----------
    rotations : sequence of Rotation
        Stated geometry.
    peaks : sequence of Peaks
        One for each rotation.
    strength : (n,) array
        Intensities of all peaks.
    searched : SearchedLattice

    Returns
    -------
    list of Explanation
        Equally good ones of different kinds; the simplest first.
    """
    failing = _failing(rotations, peaks, strength, searched)
    some = _of_some(failing, rotations, peaks, strength, searched) if failing else []
    most = max((one.count for one in some), default=0)
    if most > _CONVINCING * len(strength):
        return some
    # A rotation that seems right may be indexed by another lattice, by chance.
    whole = _explained(rotations, peaks, strength, searched)
    return whole if any(one.count > most for one in whole) else some or whole


def _explained(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    strength: Floats,
    searched: SearchedLattice,
) -> list[Explanation]:
    tried = hypotheses.simple(rotations, searched.cell)
    fits = [f for h in tried if (f := hypotheses.fitted(h, rotations, peaks, searched.reaches))]
    stated = _stated(fits, rotations, peaks)
    known, least = [], 0.0
    if stated is not None:
        # A lattice that is not the expected one may be the crystal's, deformed by the geometry.
        least = (_BETTER if _is_expected(stated.ub, searched) else _ALIKE) * stated.count
        if stated.count > _ALIKE * max(fit.count for fit in fits):
            known = _of_lattice(stated, rotations, peaks, strength, searched)
    if known and known[0].kind != "cell":
        return known

    def tested(some: list[Fitted]) -> list[tuple[int, Explanation]]:
        best = sorted(some, key=lambda f: -f.sharpness)[:_CANDIDATES]
        tried = [_tested(fit, rotations, peaks, strength, searched, least) for fit in best]
        return [one for one in tried if one is not None]

    explanations = tested(fits)
    if not known and not explanations:
        explanations = tested(_directly(tried, rotations, peaks, strength, searched))
    if not known and all(one.count < _CONVINCING * one.of for _, one in explanations):
        arms = arm_angles.found(rotations, peaks, searched.reaches, _CONVINCING)
        shifts = [arm_angles.as_shift(fit, rotations, peaks) for fit in arms]
        explanations += tested([*arms, *(fit for fit in shifts if fit is not None)])
    found = [
        _with_mirror_image(one, rotations, peaks, strength, searched) for one in _best(explanations)
    ]
    return found or known or _another_crystal(rotations, peaks, searched)


def _directly(
    tried: Iterable[Hypothesis],
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    strength: Floats,
    searched: SearchedLattice,
) -> list[Fitted]:
    """Return the hypotheses that need no other beam centre, by the ordinary search for the lattice.

    It finds lattices whose neighbouring peaks are too far apart for `local_lattice`.
    """
    fits = []
    for hypothesis in tried:
        if hypothesis.kind in ("as stated", "distance"):
            continue
        indexing = searched.index(hypothesis.applied(rotations), peaks, strength)
        if indexing is not None:
            to_primitive = indexing.candidates[0].group.to_primitive
            ub = indexing.ub @ np.linalg.inv(to_primitive)
            fit = hypotheses.counted(hypothesis, ub, rotations, peaks)
            fits += [fit] if fit.count > _CONVINCING * fit.of else []
    return fits


def _another_crystal(
    rotations: Sequence[Rotation], peaks: Sequence[Peaks], searched: SearchedLattice
) -> list[Explanation]:
    """Return a lattice in the stated geometry with longer vectors than the expected ones."""
    if searched.cell is None:
        return []
    free = replace(searched, cell=None)
    fit = hypotheses.fitted(Hypothesis("as stated"), rotations, peaks, free.reaches)
    stated = None if fit is None else _stated([fit], rotations, peaks)
    if stated is None or stated.count < _CONVINCING * stated.of:
        return []
    by_chance = _by_chance(stated.hypothesis, rotations, peaks, free)
    if stated.count < _BETTER * by_chance:
        return []
    reduced = _reduced(stated.ub)
    of = stated.of, by_chance, stated.rms
    return [Explanation("cell", stated.hypothesis, stated.count, *of, cell=reduced)]


def _parts(peaks: Sequence[Peaks], strength: Floats) -> list[Floats]:
    """Return the intensities of each rotation."""
    return np.split(strength, np.cumsum([len(p.frame) for p in peaks])[:-1])


def _failing(
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    strength: Floats,
    searched: SearchedLattice,
) -> tuple[int, ...]:
    """Return the numbers of the rotations that are not indexed by themselves; empty if none is."""
    parts = zip(rotations, peaks, _parts(peaks, strength), strict=True)
    failing = [i for i, (r, p, s) in enumerate(parts) if searched.index([r], [p], s) is None]
    return tuple(failing) if 0 < len(failing) < len(rotations) else ()


def _of_some(
    failing: tuple[int, ...],
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    strength: Floats,
    searched: SearchedLattice,
) -> list[Explanation]:
    """Return what would index some rotations, and all of them together."""
    some = [rotations[i] for i in failing], [peaks[i] for i in failing]
    strengths = _parts(peaks, strength)
    if sum(len(p.frame) for p in some[1]) < MIN_PEAKS:
        return []
    explanations = []
    for one in _explained(*some, np.concatenate([strengths[i] for i in failing]), searched):
        if one.kind in ("setting", "cell"):
            continue  # facts of all rotations
        # The other rotations confirm the cell: only the geometry of these can have another scale.
        scaled = one.kind == "scale"
        for way in one.alternatives if scaled else (one.hypothesis,):
            hypothesis = replace(way, only=failing)
            indexing = searched.index(hypothesis.applied(rotations), peaks, strength)
            if indexing is None:
                continue
            kind = way.kind if scaled else one.kind
            count, of = int(indexing.indexed.sum()), len(strength)
            whole = replace(one, kind=kind, hypothesis=hypothesis, count=count, of=of)
            whole = replace(whole, alternatives=())
            explanations.append(_with_mirror_image(whole, rotations, peaks, strength, searched))
    return explanations


def _with_mirror_image(
    one: Explanation,
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    strength: Floats,
    searched: SearchedLattice,
) -> Explanation:
    """Add the mirrored images that have the effect of a reversed axis, if they index the peaks."""
    if one.kind != "axis" or not one.hypothesis.reverse:
        return one
    mirrored = hypotheses.mirror_image(one.hypothesis, rotations)
    if mirrored is None:
        return one
    indexing = searched.index(mirrored.applied(rotations), peaks, strength)
    if indexing is None or indexing.indexed.sum() < _ALIKE * one.count:
        return one
    return replace(one, alternatives=(mirrored,))


def _by_chance(
    hypothesis: Hypothesis,
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    searched: SearchedLattice,
) -> int:
    """Return the number of peaks that the same search indexes if they belong to no lattice."""
    bare, none = hypothesis.with_shift((0.0, 0.0)), hypotheses.exchanged(peaks)
    fit = hypotheses.fitted(bare, rotations, none, searched.reaches, least=0.0)
    return 0 if fit is None else fit.count


def _tested(
    fit: Fitted,
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    strength: Floats,
    searched: SearchedLattice,
    least: float,
) -> tuple[int, Explanation] | None:
    """Return a hypothesis as the fewest changes with which the peaks are indexed; None: none.

    At least ``least`` peaks must be near integer hkl.
    """
    for changes, hypothesis in _variants(fit, rotations, peaks, searched):
        if not hypothesis.changes:
            continue
        sharp = hypotheses.counted(hypothesis, fit.ub, rotations, peaks)
        if sharp.count < max(least, MIN_PEAKS):
            continue
        indexing = searched.index(hypothesis.applied(rotations), peaks, strength)
        if indexing is None:
            continue
        by_chance = _by_chance(hypothesis, rotations, peaks, searched)
        if sharp.count < _BETTER * by_chance:
            return None
        kind = "beam centre" if hypothesis.kind == "as stated" else hypothesis.kind
        count = int(indexing.indexed.sum())
        return changes, Explanation(kind, hypothesis, count, fit.of, by_chance, sharp.rms)
    return None


def _variants(
    fit: Fitted, rotations: Sequence[Rotation], peaks: Sequence[Peaks], searched: SearchedLattice
) -> Iterator[tuple[int, Hypothesis]]:
    """Yield the ways to state a hypothesis, and the number of changes of each, fewest first."""
    of_distance = searched.cell is not None and fit.hypothesis.kind in ("as stated", "distance")
    if of_distance:
        bare = replace(fit, hypothesis=fit.hypothesis.with_shift((0.0, 0.0)))
        yield 1, _with_distance(bare, rotations, peaks, searched)
    yield from (x for x in _simplest(fit, rotations, peaks) if x[0] > 0)
    if of_distance:
        yield 2, _with_distance(fit, rotations, peaks, searched)


def _stated(
    fits: Iterable[Fitted], rotations: Sequence[Rotation], peaks: Sequence[Peaks]
) -> Fitted | None:
    """Return the lattice in the stated geometry, without a shift of the beam centre."""
    for fit in fits:
        if fit.hypothesis.kind == "as stated":
            return hypotheses.counted(Hypothesis("as stated"), fit.ub, rotations, peaks)
    return None


def _is_expected(ub: Floats, searched: SearchedLattice) -> bool:
    """Return True if a lattice is the expected one, or none is expected."""
    if searched.cell is None:
        return True
    matching = matching_settings(ub, searched.cell, searched.group, searched.cell_tolerance)
    return any(setting.ratio == 1 for setting in matching)


def _of_lattice(
    stated: Fitted,
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    strength: Floats,
    searched: SearchedLattice,
) -> list[Explanation]:
    """Return explanations by the expected cell, if a lattice fits the stated geometry."""
    if searched.cell is None or stated.count < searched.min_fraction * stated.of:
        return []
    ub, plain = stated.ub, stated.hypothesis
    matching = matching_settings(ub, searched.cell, searched.group, searched.cell_tolerance)
    if _is_expected(ub, searched):
        return []
    by_chance = _by_chance(plain, rotations, peaks, searched)
    if stated.count < _BETTER * by_chance:
        return []

    def explanation(kind: str, **more: object) -> Explanation:
        known = (kind, plain, stated.count, stated.of, by_chance, stated.rms)
        return Explanation(*known, **more)  # type: ignore[arg-type]

    settings = [
        explanation("setting", cell=cell, symbol=symbol, absent=absent)
        for symbol, cell, absent in fitting_settings(ub, rotations, peaks, strength, searched)
    ]
    if settings:
        return settings
    if matching:  # a superlattice
        return []
    reduced = _reduced(ub)
    primitive, _ = symmetry.niggli(searched.cell, searched.group)
    scale = float(np.cbrt(lattice.volume(reduced) / lattice.volume(primitive)))
    scaled = np.asarray(searched.cell, dtype=np.float64) * [*[scale] * 3, 1, 1, 1]
    if any(s.ratio == 1 for s in matching_settings(ub, scaled, searched.group, SHAPE)):
        wavelength = rotations[0].beam.wavelength
        factor = _rounded(wavelength / scale, 5) / wavelength
        ways = (
            _with_distance(stated, rotations, peaks, searched),
            Hypothesis("wavelength", factor=factor),
        )
        indexings = [(searched.index(w.applied(rotations), peaks, strength), w) for w in ways]
        good = sorted(
            (indexing.rms, way.kind, way)
            for indexing, way in indexings
            if indexing is not None and indexing.indexed.sum() > _ALIKE * stated.count
        )
        return [explanation("scale", scale=scale, alternatives=tuple(w for _, _, w in good))]
    return [explanation("cell", cell=reduced)]


def _with_distance(
    fit: Fitted, rotations: Sequence[Rotation], peaks: Sequence[Peaks], searched: SearchedLattice
) -> Hypothesis:
    """Return the distance with which the cell has the expected volume."""
    assert searched.cell is not None
    expected = lattice.volume(symmetry.niggli(searched.cell, searched.group)[0])
    one, ub = fit.hypothesis, fit.ub
    for _ in range(6):
        scale = float(np.cbrt(lattice.volume(_reduced(ub)) / expected))
        if abs(np.log(scale)) > _FARTHEST_SCALE:  # another lattice
            break
        one = replace(one, kind="distance", stretch=one.stretch / scale)
        ub = hypotheses.polished(one, ub * scale, rotations, peaks, shifts=False).ub
    shift = np.round(one.correction.shift, 1)
    return replace(one, stretch=_rounded(one.stretch, 4)).with_shift(shift)


def _reduced(ub: Floats) -> Floats:
    basis = real_basis(ub)
    reduced, _ = symmetry.niggli(lattice.cell_from_metric(basis.T @ basis))
    return reduced


def _simplest(
    fit: Fitted, rotations: Sequence[Rotation], peaks: Sequence[Peaks]
) -> Iterator[tuple[int, Hypothesis]]:
    """Yield a hypothesis with fewer and more numbers, and the number of changes of each."""
    hypothesis = fit.hypothesis
    own = 0 if hypothesis.kind == "as stated" else 1
    shift = np.round(hypothesis.correction.shift, 1)
    bare = hypothesis.with_shift((0.0, 0.0))
    if hypothesis.kind == "arm" and np.linalg.norm(shift) < _NEAR_ARM:
        found, detector = np.array(hypothesis.correction.arm), rotations[0].detector
        for digit in _ROUND_ARM:
            arm = np.round(np.round(found / digit) * digit, 4)
            even = bare.with_arm(arm)
            # A rounded angle of some rotations is not absorbed by the detector of all.
            moved = np.radians(np.linalg.norm(arm - found)) * detector.distance
            near = moved < _ROUNDED * min(detector.pixel_size)
            if near and _as_good(even, fit, rotations, peaks, _AS_SHARP):
                yield own, even
                return
    if own and _as_good(bare, fit, rotations, peaks):
        yield own, bare
    yield own + 1, hypothesis.with_shift(shift)


def _as_good(
    hypothesis: Hypothesis,
    fit: Fitted,
    rotations: Sequence[Rotation],
    peaks: Sequence[Peaks],
    sharp: float = np.inf,
) -> bool:
    """Return True if a rounded hypothesis indexes as many peaks, with a similar rms."""
    rounded = hypotheses.counted(hypothesis, fit.ub, rotations, peaks)
    return rounded.count > _ALIKE * fit.count and rounded.rms < sharp * fit.rms


def _best(explanations: Sequence[tuple[int, Explanation]]) -> list[Explanation]:
    """Return the equally good explanations of different kinds, fewest changes first."""
    if not explanations:
        return []
    most = max(one.count for _, one in explanations)
    good = [(changes, one) for changes, one in explanations if one.count > _ALIKE * most]
    least = min(one.rms for _, one in good)
    good = [(changes, one) for changes, one in good if one.rms <= _AS_NEAR * least]
    fewest = min(changes for changes, _ in good)
    kinds: dict[str, Explanation] = {}
    for changes, one in good:
        if changes == fewest:
            kinds.setdefault(one.kind, one)
    return list(kinds.values())


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
