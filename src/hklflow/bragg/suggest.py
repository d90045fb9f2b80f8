"""Suggest lattice, Laue group and space group from a cell and intensities."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg import absence_likelihood, bravais_ranking
from hklflow.bragg.absence_likelihood import Class, Extinction
from hklflow.bragg.bravais_ranking import Fit
from hklflow.bragg.laue_groups import Laue, laue_groups
from hklflow.bragg.laue_likelihood import Agreement, agreement, direction
from hklflow.bragg.sublattices import sublattices
from hklflow.bragg.unmerged import Intensities, hemisphere, unmerged
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_WIDEST = 1.0  # Le Page angle of the lattices whose rotations are tested, degrees
_FEW = 0.05  # probability, relative to the best, above which a Laue group stays possible
_SIGNIFICANT = 10.0  # sum of all I/σ over its error, below which the intensities are noise
_MOMENT_FEWEST = 200  # reflections that give the moment of the intensities
_TWIN = 1.6  # moment below which a twin is suspected: 1.5 is expected
_CENTRIC = 2.3  # the same for centrosymmetric crystals; cells with few atoms come near to it
# Laue groups of lower order on the same lattice (mmm: with a pseudo-orthorhombic cell): their twins
# by merohedry have the higher symmetry.
_MEROHEDRY = {
    "mmm": ("2/m",),
    "4/mmm": ("4/m",),
    "-3m": ("-3",),
    "6/m": ("-3",),
    "6/mmm": ("6/m", "-3m", "-3"),
    "m-3m": ("m-3",),
}
_MOMENT_RATIO = 3.0  # their smallest mean I/σ


@dataclass(frozen=True)
class Measured:
    """What is known of a crystal.

    Attributes
    ----------
    cell, sigma : (6,) array
        Cell without constraints in Å and degrees; σ or None.
    group : SpaceGroup
        Its lattice translations are those of the cell.
    hkl, intensity, sigma_intensity : arrays or None
        Observations with errors from counting.
    merged_in : SpaceGroup or None
        The observations are means over its Laue group: agreement in it cannot be tested.
    relative : float
        Smallest relative error of the observations.
    """

    cell: Floats
    sigma: Floats | None
    group: SpaceGroup
    hkl: Integers | None = None
    intensity: Floats | None = None
    sigma_intensity: Floats | None = None
    merged_in: SpaceGroup | None = None
    relative: float = 0.0


@dataclass(frozen=True)
class Suggestion:
    """Result of `suggest`.

    Attributes
    ----------
    lattices : list of Fit
        All 14 Bravais types.
    sublattices : list of Class
        Reflections that a larger set of lattice translations forbids, if absent or weak.
    rotations : list of Agreement
        On the axes of the cell.
    laue : list of Laue
        The most probable first; without intensities, the highest compatible symmetry first.
    classes, extinctions : list of Class, list of Extinction
        In the setting of the first Laue group; empty without intensities.
    moment, reflections : float, int
        <I²>/<I>² of the acentric Wilson scale, NaN if too few reflections; number of reflections.
    repeated : int
        Number of repeated measurements, and their relative error.
    relative : float
    notes : list of str
        What the data cannot tell.
    """

    lattices: list[Fit]
    sublattices: list[Class]
    laue: list[Laue]
    notes: list[str]
    rotations: list[Agreement] = field(default_factory=list)
    classes: list[Class] = field(default_factory=list)
    extinctions: list[Extinction] = field(default_factory=list)
    moment: float = float("nan")
    reflections: int = 0
    repeated: int = 0
    relative: float = float("nan")

    @property
    def possible(self) -> list[Laue]:
        """Laue groups that the data do not exclude."""
        best = self.laue[0]
        if np.isnan(best.probability):
            return [best]
        return [item for item in self.laue if item.probability > _FEW * best.probability]

    @property
    def undecided(self) -> list[Extinction]:
        """Extinctions that the data do not exclude."""
        if not self.extinctions:
            return []
        limit = self.extinctions[0].probability / absence_likelihood.DECIDED
        return [item for item in self.extinctions if item.probability > limit]

    @property
    def space_group(self) -> SpaceGroup:
        """The suggested space group: of those possible, the one that forbids the fewest.

        Of space groups with the same absences, it is the one with the most operations: hklflow uses
        only the Laue group and the absences, which they share.
        """
        if not self.extinctions:
            return self.laue[0].group
        groups = min(self.undecided, key=lambda item: item.forbidden).groups
        return max(groups, key=lambda g: (len(g.operations[0]), -g.number, ":2" in g.symbol))

    @property
    def determined(self) -> bool:
        """True if one Laue group and one set of absences remain."""
        return bool(self.reflections) and len(self.possible) == len(self.undecided) == 1

    @property
    def keeps_axes(self) -> bool:
        """True if the suggested space group is on the axes of the cell."""
        return bool(np.allclose(self.laue[0].matrix, np.eye(3)))

    @property
    def metric_doubt(self) -> bool:
        """True if the cell deviates from the first Laue group by more than its errors."""
        best = self.laue[0]
        return bravais_ranking.verdict(best.percent, best.sigmas) != "compatible"

    @property
    def twins(self) -> list[str]:
        """Laue groups of which a perfect twin by merohedry has the first Laue group."""
        below = _MEROHEDRY.get(self.laue[0].laue, ())
        # Twins by pseudo-merohedry need a special cell: they are named only with a reason.
        suspect = "suspect" in self.twin_verdict
        return list(below) if suspect or self.laue[0].laue != "mmm" else []

    @property
    def twin_verdict(self) -> str:
        """Sentence on the moment of the intensities."""
        if self.moment < _TWIN:
            return "low, suspect a twin"
        centric = all(g.is_centric([[1, 2, 3]])[0] for g in self.extinctions[0].groups)
        if centric and self.moment < _CENTRIC:
            return "low for a centrosymmetric space group, suspect a twin"
        return "no sign of a twin" if self.moment > _CENTRIC else "a twin is not excluded"


def suggest(measured: Measured) -> Suggestion:
    """Rank Bravais types, Laue groups and space groups.

    Raises
    ------
    HklflowError
        If the cell has no volume, or no reflection has an intensity with an error.
    """
    data = _intensities(measured)
    noise = data is not None and _is_noise(data)
    found = sublattices(None if noise else data, measured.group)
    data = found.data
    reduced, to_reduced = symmetry.niggli(measured.cell, found.group)
    fits = bravais_ranking.rank(reduced, to_reduced, measured.cell, measured.sigma)
    rotations = symmetry.lattice_rotations(reduced, None, _WIDEST)
    scored = _scored(measured, data, rotations, to_reduced, found.weak)
    groups = laue_groups(measured.cell, measured.sigma, to_reduced, rotations, scored)
    if not groups:
        raise HklflowError(
            f"no lattice contains the Laue group {_merged_symbol(measured)} in which the "
            "reflections are merged: the cell contradicts it; give the scaled reflections instead"
        )
    result = Suggestion(lattices=fits, sublattices=found.classes, laue=groups, notes=found.notes)
    if noise:
        result.notes.append("the intensities are not significant, and are not used")
    if data is None or scored is None:
        return result
    best = groups[0]
    there = data.transformed(best.matrix)
    classes, extinctions = absence_likelihood.examine(there, best.group)
    back = np.linalg.inv(to_reduced)
    on_axes = [
        replace(
            a,
            rotation=back @ a.rotation @ to_reduced,
            axis=direction(to_reduced.T @ np.array(a.axis)),
        )
        for a in scored
    ]
    return replace(
        result,
        rotations=on_axes,
        classes=classes,
        extinctions=extinctions,
        moment=_moment(there, best.group),
        reflections=len(data),
        repeated=data.repeated,
        relative=data.relative,
    )


def _intensities(measured: Measured) -> Intensities | None:
    if measured.hkl is None or measured.intensity is None or measured.sigma_intensity is None:
        return None
    metric = lattice.metric(measured.cell)
    data = unmerged(
        measured.hkl, measured.intensity, measured.sigma_intensity, metric, measured.relative
    )
    if not len(data):
        raise HklflowError(
            "no reflection has an intensity with an error above 0; integrate the scan again"
        )
    return data


def _is_noise(data: Intensities) -> bool:
    """Return True if the sum of all I/σ is less than 10 times its error."""
    return float(np.sum(data.intensity / data.sigma)) < _SIGNIFICANT * len(data) ** 0.5


def _scored(
    measured: Measured,
    data: Intensities | None,
    rotations: Floats,
    to_reduced: Floats,
    weak: Bools | None,
) -> list[Agreement] | None:
    """Return the agreement for each rotation except the identity, on the reduced axes."""
    if data is None:
        return None
    back = np.linalg.inv(to_reduced)
    merged = measured.merged_in
    known = [] if merged is None else list(to_reduced @ merged.laue_operations @ back)

    def unique(hkl: Integers) -> Integers:
        if merged is None:
            return hemisphere(hkl)
        return merged.asymmetric(np.rint(hkl @ back.T).astype(np.int64))

    part = data.transformed(to_reduced)
    scored = [agreement(rotation, part, weak, unique) for rotation in rotations[1:]]
    return [
        replace(a, assumed=True) if any(np.allclose(a.rotation, k) for k in known) else a
        for a in scored
    ]


def _merged_symbol(measured: Measured) -> str:
    return "1" if measured.merged_in is None else measured.merged_in.laue


def _moment(data: Intensities, group: SpaceGroup) -> float:
    """Return <I²>/<I>² of general reflections, without the variance of the errors."""
    merged = absence_likelihood.merged(data, group)
    use = (group.epsilon(merged.hkl) == 1) & (merged.mean > 0)
    value, sigma = merged.intensity[use], merged.sigma[use]
    if use.sum() < _MOMENT_FEWEST or np.mean(value / sigma) < _MOMENT_RATIO:
        return float("nan")
    mean = merged.mean[use]
    squares = (value**2 - sigma**2 - (merged.relative * value) ** 2) / mean**2
    return float(np.mean(squares) / np.mean(value / mean) ** 2)
