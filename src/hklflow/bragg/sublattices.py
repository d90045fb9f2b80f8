"""Find lattice translations in the intensities: centred lattices, cells that are too large.

A translation v of the lattice forbids all reflections for which ``h · v`` is no integer. Tested are
all v that are halves or thirds of lattice vectors.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg import absence_likelihood
from hklflow.bragg.absence_likelihood import Class
from hklflow.bragg.unmerged import Intensities
from hklflow.geometry import symmetry
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SURE = 0.99  # probability that decides
_FEWEST = 6  # reflections of a class
_MANY = 50  # reflections; a class without any of them is unlikely
_RATIO = 3.0  # mean I/σ of the other reflections
_WEAK = 0.1  # mean intensity of reflections of a superlattice, relative to the others
_ABSENT = 0.02  # largest relative mean intensity of absent reflections


@dataclass(frozen=True)
class Sublattices:
    """Lattice translations.

    Attributes
    ----------
    group : SpaceGroup
        Group of the translations, on the axes of the cell.
    data : Intensities or None
        Without the reflections that the translations forbid; ``mean`` is the mean of the weak, or
        of the other reflections.
    classes : list of Class
        Classes that are absent or weak.
    weak : (n,) bool array or None
        Reflections in a class that is weak, but present.
    notes : list of str
    """

    group: SpaceGroup
    data: Intensities | None
    classes: list[Class]
    weak: Bools | None
    notes: list[str]


def sublattices(data: Intensities | None, given: SpaceGroup) -> Sublattices:
    """Return the translations of the lattice, from those given and from intensities.

    Parameters
    ----------
    data : Intensities or None
    given : SpaceGroup
        Space group of the cell; its lattice translations are assumed if nothing contradicts.
    """
    known = _translations(given)
    if data is None:
        return Sublattices(_group(known), None, [], None, [])
    found, weak, classes, notes = list(known), np.zeros(len(data), dtype=np.bool_), [], []
    for vector in _vectors():
        rows = _outside(data.hkl, vector)
        rest = ~rows
        is_given = any(np.allclose((vector - v) % 1, 0) for v in known)
        if not rows.any() and rest.sum() >= _MANY and not is_given:
            notes.append(
                f"no reflection with {_name(vector)} was measured: the cell may be a multiple of "
                "the true cell"
            )
        if rows.sum() < _FEWEST or rest.sum() < _FEWEST:
            continue
        mean = data.mean * _level(data, rest)
        item = absence_likelihood.summary(_name(vector), data, rows, rest, mean)
        if item.rest_ratio_sigma < _RATIO:
            continue
        if item.probability > _SURE and item.level < _ABSENT:
            classes.append(item)
            if not is_given:
                found.append(vector)
                notes.append(
                    f"the {item.number} reflections with {item.name} have no intensity: the "
                    "lattice is centred, or the cell is too large"
                )
        elif is_given:
            found = []
            notes.append(
                f"the centring of {given.symbol} is contradicted by {item.number} reflections with "
                f"{item.name} (mean I/σ {item.ratio_sigma:.1f}); it is not used"
            )
            classes.append(item)
        elif item.level < _WEAK:
            classes.append(item)
            weak |= rows
            notes.append(
                f"the {item.number} reflections with {item.name} are weak ({item.level:.2g} of the "
                "others), but present: a superlattice, or atoms that nearly have a smaller cell"
            )
    group = _group(found)
    kept = ~np.any([_outside(data.hkl, v) for v in found] or [np.zeros(len(data), bool)], axis=0)
    # Weak reflections are compared with weak ones, so that their outliers can be recognized.
    mean = data.mean.copy()
    for rows in (kept & weak, kept & ~weak):
        if rows.any():
            mean[rows] *= _level(data, rows)
    scaled = replace(data, mean=mean).select(kept)
    return Sublattices(group, scaled, classes, weak[kept] if weak[kept].any() else None, notes)


def _level(data: Intensities, rows: Bools) -> float:
    """Return the mean intensity of the rows, relative to all reflections with the same d."""
    return max(float(data.intensity[rows].sum() / data.mean[rows].sum()), 1e-3)


def _vectors() -> Iterator[Floats]:
    """Return the vectors of order 2 and 3, of v and -v one."""
    for order in (2, 3):
        for whole in itertools.product(range(order), repeat=3):
            first = next((x for x in whole if x), 0)
            if first == 1:
                yield np.array(whole) / order


def _name(vector: Floats) -> str:
    order = 2 if np.allclose(2 * vector, np.rint(2 * vector)) else 3
    parts: list[str] = []
    for factor, letter in zip(np.rint(order * vector).astype(int), "hkl", strict=True):
        if factor:
            parts.append(("" if not parts else "+") + ("" if factor == 1 else "2") + letter)
    return f"{''.join(parts)} ≠ {order}n"


def _outside(hkl: NDArray[np.int64], vector: Floats) -> Bools:
    phase = hkl @ vector
    outside: Bools = np.abs(phase - np.rint(phase)) > 1e-6
    return outside


def _translations(group: SpaceGroup) -> list[Floats]:
    rotations, shifts = group.operations
    pure = np.all(rotations == np.eye(3, dtype=np.int64), axis=(1, 2))
    return [shift for shift in shifts[pure] if np.any(np.abs(shift) > 1e-6)]


def _group(vectors: list[Floats]) -> SpaceGroup:
    texts = []
    for vector in vectors:
        twelfths = [round(12 * x) for x in vector]
        texts.append(", ".join(f"{x}+{n}/12" for x, n in zip("xyz", twelfths, strict=True)))
    return symmetry.group_of_operations(texts or ["x, y, z"])
