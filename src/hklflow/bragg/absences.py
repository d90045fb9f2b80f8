"""Test the space group by systematic absences.

A symmetry element with the rotation part R and the translation t forbids the reflections with
``h R = h`` and ``h · t`` not an integer (International Tables A, 1.6.3). Tested are the elements of
all space groups with the same axes, Laue group and lattice. Elements that forbid equivalent
reflections count as one element.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.groups import Groups
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry import symmetry
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Verdict = Literal["fulfilled", "weak", "violated", "not tested"]

_BOX = 8  # largest index in the comparison of patterns: above the order of any screw axis
_FEWEST = 3  # observations: a class with fewer is not tested
_CLIP = 5.0  # I/σ: larger values are replaced by this limit
_PRESENT = 5.0  # mean I/σ over the error of this mean, above which a class has intensity
# I/σ -> fraction of a class above this I/σ. A class that exceeds one of the fractions is violated.
_ABOVE = {3: 0.2, 1: 0.4}
# Mean intensity over comparable reflections; below it, multiple scattering is possible.
_RATIO = 0.01
_CENTRINGS = {
    "A": ((0, 0.5, 0.5),),
    "B": ((0.5, 0, 0.5),),
    "C": ((0.5, 0.5, 0),),
    "I": ((0.5, 0.5, 0.5),),
    "F": ((0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)),
    "R (obverse)": ((2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3)),
    "R (reverse)": ((1 / 3, 2 / 3, 1 / 3), (2 / 3, 1 / 3, 2 / 3)),
}


@dataclass(frozen=True)
class Element:
    """Symmetry element (centring, screw axis or glide plane), with a test for forbidden hkl.

    Attributes
    ----------
    name : str
    observed : int
        Number of observations that the element forbids.
    mean, mean_error : float
        Mean I/σ of these observations, and the error of the mean; NaN without observations.
    above : float
        Fraction of these observations above 3σ.
    ratio : float
        Mean intensity relative to the allowed reflections on the same rows or planes.
    verdict : str
        "fulfilled": no intensity. "weak": significant but small intensity, which may come from
        multiple scattering or a harmonic of the wavelength. "violated". "not tested": too few
        observations, or the allowed reflections are as weak as the forbidden ones.
    given : bool
        True if the given space group has the element.
    """

    name: str
    observed: int
    mean: float
    mean_error: float
    above: float
    ratio: float
    verdict: Verdict
    given: bool


@dataclass(frozen=True)
class Candidate:
    """Space groups that forbid the same reflections.

    ``contradicted`` and ``untested`` are names of elements; ``explains`` is the number of
    observations without intensity that the space groups forbid.
    """

    symbols: tuple[str, ...]
    explains: int
    contradicted: tuple[str, ...]
    untested: tuple[str, ...]
    given: bool


@dataclass(frozen=True)
class Extinctions:
    """Tested symmetry elements, possible space groups (best first), and warnings."""

    elements: tuple[Element, ...]
    candidates: tuple[Candidate, ...]
    warnings: tuple[str, ...]

    @property
    def compatible(self) -> list[Candidate]:
        """Space groups that no reflection contradicts, sorted by ``explains``, largest first."""
        return [c for c in self.candidates if not c.contradicted]

    def to_dict(self) -> dict[str, Any]:
        """Return a dict for JSON."""
        return {
            "elements": [vars(e) for e in self.elements],
            "compatible space groups": [
                {"symbols": c.symbols, "explains": c.explains, "untested": c.untested}
                for c in self.compatible
            ],
            "contradicted space groups": [
                {"symbols": c.symbols, "by": c.contradicted}
                for c in self.candidates
                if c.contradicted
            ],
        }


@dataclass(frozen=True)
class Operation:
    """Symmetry operation: rotation part on row vectors hkl, intrinsic translation, name."""

    rotation: Integers
    shift: Floats
    name: str

    def forbids(self, hkl: Integers, laue: Integers) -> tuple[Bools, Bools]:
        """Return two masks of hkl (n, 3), which include all equivalents of the operation.

        The first is True for forbidden reflections; the second for all reflections on the row or
        plane of an equivalent.
        """
        absent, there = np.zeros((2, len(hkl)), dtype=np.bool_)
        for operation in laue:
            turned = hkl @ operation.T
            on = np.all(turned @ self.rotation == turned, axis=1)
            phase = turned @ self.shift
            there |= on
            absent |= on & (np.abs(phase - np.rint(phase)) > 1e-6)
        return absent, there


def examine(table: Scaled, group: SpaceGroup) -> Extinctions:
    """Test the given space group, and all space groups with its axes, Laue group and lattice.

    Parameters
    ----------
    table : Scaled
        Observations, including those that the space group forbids.
    group : SpaceGroup
        The given space group.
    """
    allowed = ~_by_lattice(table.hkl, group)
    observed = table.select(allowed)
    reflections = box(group)
    groups = symmetry.settings_alike(group)
    given_absent = group.is_absent(reflections)
    patterns: dict[bytes, tuple[Element, Bools, Bools]] = {}
    for name, operation, forbidden in distinct_operations(group):
        absent, there = operation.forbids(observed.hkl, group.laue_operations)
        given = bool(np.all(given_absent[forbidden]))
        element = _judged(name, observed, absent, there & ~absent, given)
        patterns[forbidden.tobytes()] = (element, forbidden, absent)
    for key, (element, forbidden, absent) in patterns.items():
        # If an element that forbids fewer reflections is violated, this element is violated too.
        if any(
            other.verdict == "violated" and np.all(forbidden[less])
            for other, less, _ in patterns.values()
        ):
            patterns[key] = (replace(element, verdict="violated"), forbidden, absent)
    elements = [element for element, _, _ in patterns.values()]
    candidates = _candidates(groups, group, reflections, list(patterns.values()))
    centrings = _centrings(table, group)
    warnings = _warnings(elements, candidates, centrings, group)
    return Extinctions((*centrings, *elements), tuple(candidates), tuple(warnings))


def distinct_operations(group: SpaceGroup) -> list[tuple[str, Operation, Bools]]:
    """Return the screw axes and glide planes that a Laue group and a lattice allow.

    Operations that forbid the same reflections are listed once, with the names of all of them. The
    third item is a mask of the forbidden reflections in `box`.
    """
    reflections = box(group)
    found: dict[bytes, tuple[str, Operation, Bools]] = {}
    for operation in _operations(symmetry.settings_alike(group)):
        forbidden, _ = operation.forbids(reflections, group.laue_operations)
        if not forbidden.any():
            continue
        key = forbidden.tobytes()
        if key not in found:
            found[key] = (operation.name, operation, forbidden)
        elif _kind(operation.name) not in {_kind(x) for x in found[key][0].split(" or ")}:
            found[key] = (f"{found[key][0]} or {operation.name}", *found[key][1:])
    return list(found.values())


def _by_lattice(hkl: Integers, group: SpaceGroup) -> Bools:
    """Return a mask of hkl (n, 3): True if the lattice translations forbid it."""
    rotations, shifts = group.operations
    pure = np.all(rotations == np.eye(3, dtype=np.int64), axis=(1, 2))
    phase = hkl @ shifts[pure].T
    forbidden: Bools = np.any(np.abs(phase - np.rint(phase)) > 1e-6, axis=1)
    return forbidden


def box(group: SpaceGroup) -> Integers:
    """Return the unique reflections with small indices that the lattice translations allow."""
    one = np.arange(-_BOX, _BOX + 1)
    cube = np.stack(np.meshgrid(one, one, one, indexing="ij"), axis=-1).reshape(-1, 3)
    # One of each set of equivalents is enough.
    return Groups.of(group.asymmetric(cube[~_by_lattice(cube, group)])).hkl


def _operations(groups: Sequence[SpaceGroup]) -> list[Operation]:
    """Return the screw axes and glide planes of all groups, each once."""
    found: dict[tuple[bytes, tuple[int, ...]], Operation] = {}
    for group in groups:
        for rotation, shift in zip(*group.operations, strict=True):
            powers = [np.eye(3, dtype=np.int64)]
            while not np.array_equal(following := rotation @ powers[-1], powers[0]):
                powers.append(following)
            intrinsic = np.mean(powers, axis=0) @ shift
            units = np.rint(intrinsic * 72).astype(np.int64) % 72
            fixed = round(float(np.trace(np.mean(powers, axis=0))))
            if len(powers) == 1 or fixed == 0 or not np.any(units):
                continue
            key = (np.ascontiguousarray(rotation).tobytes(), tuple(units.tolist()))
            if key not in found:
                name = _name(rotation, intrinsic, len(powers), group)
                found[key] = Operation(rotation, intrinsic, name)
    # Plain names first: the first name represents all elements that forbid the same reflections.
    return sorted(found.values(), key=lambda o: (o.name.count("/"), o.name.count("-"), o.name))


def _name(rotation: Integers, shift: Floats, order: int, group: SpaceGroup) -> str:
    screw = np.linalg.det(rotation) > 0
    values, vectors = np.linalg.eig(rotation.astype(np.float64))
    axis = np.real(vectors[:, np.argmin(np.abs(values - (1 if screw else -1)))])
    axis = axis / np.abs(axis[np.abs(axis) > 1e-6]).min()
    axis = np.rint(axis * np.sign(axis[np.flatnonzero(np.abs(axis) > 1e-6)[0]])).astype(int)
    along = "[" + " ".join(str(x) for x in axis) + "]"
    if screw:
        # The translation of a screw axis is a fraction of the shortest lattice vector along it.
        length = next(x for x in (1 / 3, 1 / 2, 1.0) if not _forbidding(x * axis, group))
        step = float(shift @ axis / (axis @ axis)) / length % 1
        return f"{order}_{round(step * order) % order} axis along {along}"
    letters: dict[tuple[int, ...], str] = {(36, 0, 0): "a", (0, 36, 0): "b", (0, 0, 36): "c"}
    units = tuple(int(x) for x in np.rint(72 * shift) % 72)
    halves = all(x in (0, 36) for x in units)
    letter = letters.get(units, "n" if halves else "d" if all(x % 18 == 0 for x in units) else "")
    text = " ".join(str(Fraction(x, 72)) for x in units)
    return f"{letter or 'glide'} plane normal to {along}" + ("" if letter else f" by ({text})")


def _forbidding(vector: Floats, group: SpaceGroup) -> bool:
    """Return True if a vector is not a lattice translation."""
    rotations, shifts = group.operations
    pure = np.all(rotations == np.eye(3, dtype=np.int64), axis=(1, 2))
    away = vector - shifts[pure]
    return not bool(np.any(np.all(np.abs(away - np.rint(away)) < 1e-6, axis=1)))


def _kind(name: str) -> str:
    return name.split(" ")[0]


def _judged(name: str, observed: Scaled, absent: Bools, comparable: Bools, given: bool) -> Element:
    # Use only the counting error. The error proportional to I is determined from equivalents, so a
    # wrong Laue group would make it wrong.
    ratio_of = observed.intensity / observed.sigma_counting
    n = int(absent.sum())
    if not n:
        nan = float("nan")
        return Element(name, 0, nan, nan, nan, nan, "not tested", given)
    values = ratio_of[absent]
    mean, above = float(values.mean()), float(np.mean(values > 3))
    error = n**-0.5
    others = comparable if comparable.any() else ~absent
    level = float(observed.intensity[others].mean()) if others.any() else 0.0
    ratio = float(observed.intensity[absent].mean()) / level if level > 0 else float("inf")
    # A few outliers are not a violation.
    present = float(np.minimum(values, _CLIP).mean()) > _PRESENT * error
    verdict: Verdict = "fulfilled"
    if n < _FEWEST:
        verdict = "not tested"
    elif present:
        many = any(_more(values > level, part) for level, part in _ABOVE.items())
        verdict = "violated" if many and ratio >= _RATIO else "weak"
    elif not others.any() or float(ratio_of[others].mean()) < 3:
        verdict = "not tested"
    return Element(name, n, mean, error, above, ratio, verdict, given)


def _more(hits: Bools, part: float) -> bool:
    """Return True if at least this fraction is True, and half of it can be excluded (2σ)."""
    n = len(hits)
    return bool(hits.sum() >= max(part * n, 0.5 * part * n + 2 * np.sqrt(0.5 * part * n)))


def _centrings(table: Scaled, group: SpaceGroup) -> list[Element]:
    """Return the result for the given centring; for P, centrings with no forbidden intensity."""
    found = []
    for name, shifts in _CENTRINGS.items():
        phase = table.hkl @ np.array(shifts, dtype=np.float64).T
        absent = np.any(np.abs(phase - np.rint(phase)) > 1e-6, axis=1)
        forbidden = bool(np.all(_by_lattice(table.hkl, group)[absent])) and bool(absent.any())
        given = forbidden and group.centring == name[0]
        if (given or group.centring == "P") and absent.any():
            element = _judged(f"centring {name}", table, absent, ~absent, given)
            if given or element.verdict == "fulfilled":
                found.append(element)
    return found


def _candidates(
    groups: Sequence[SpaceGroup],
    given: SpaceGroup,
    reflections: Integers,
    patterns: list[tuple[Element, Bools, Bools]],
) -> list[Candidate]:
    classes: dict[bytes, list[SpaceGroup]] = {}
    for group in groups:
        classes.setdefault(group.is_absent(reflections).tobytes(), []).append(group)
    found = []
    for members in classes.values():
        absent = members[0].is_absent(reflections)
        own = [(e, seen) for e, mask, seen in patterns if np.all(absent[mask])]
        explained = np.zeros(len(own[0][1]) if own else 0, dtype=np.bool_)
        for element, seen in own:
            if element.verdict == "fulfilled":
                explained |= seen
        found.append(
            Candidate(
                symbols=tuple(dict.fromkeys(g.symbol.split(" :")[0] for g in members)),
                explains=int(explained.sum()),
                contradicted=tuple(e.name for e, _ in own if e.verdict == "violated"),
                untested=tuple(e.name for e, _ in own if e.verdict == "not tested"),
                given=given in members,
            )
        )
    return sorted(found, key=lambda c: (bool(c.contradicted), -c.explains, len(c.untested)))


def _warnings(
    elements: list[Element],
    candidates: list[Candidate],
    centrings: list[Element],
    group: SpaceGroup,
) -> list[str]:
    sentences = []
    mine = next(c for c in candidates if c.given)
    compatible = [c for c in candidates if not c.contradicted]
    best = "; ".join(", ".join(c.symbols[:8]) for c in compatible[:2])
    for element in [*centrings, *elements]:
        if element.given and element.verdict == "violated":
            sentences.append(
                f"{element.name} of {group.symbol} is contradicted: its {element.observed} absent "
                f"reflections have a mean I/σ of {element.mean:.1f} ± {element.mean_error:.1f}, "
                f"{element.above:.0%} are above 3σ; compatible space groups: {best}"
            )
        elif element.given and element.verdict == "weak":
            sentences.append(
                f"{element.name} of {group.symbol}: its {element.observed} absent reflections have "
                f"weak intensity (mean I/σ {element.mean:.1f} ± {element.mean_error:.1f}, "
                f"{element.ratio:.2g} of comparable reflections): multiple scattering, or lower "
                "symmetry"
            )
    if not mine.contradicted and compatible and compatible[0].explains > mine.explains:
        sentences.append(
            f"{group.symbol} does not explain {compatible[0].explains - mine.explains} "
            f"observations without intensity; {best} explains them"
        )
    sentences += [
        f"the {e.observed} reflections that {e.name} would forbid have no intensity: check if the "
        "cell is a multiple of the true cell"
        for e in centrings
        if not e.given and e.verdict == "fulfilled"
    ]
    return sentences
