"""Merge several scans, of one or several crystals of a sample, to one set of intensities.

All scans are brought to one setting, their cells are compared, and all observations are scaled
together. Scans that contradict the others are left out one by one, the worst first, and the others
are scaled again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg import common_setting, scaling, unmerged
from hklflow.bragg.common_setting import Choice, Indexing, Lattice
from hklflow.bragg.groups import Groups
from hklflow.bragg.leave_out import Influence, influences
from hklflow.bragg.observations import Observations
from hklflow.bragg.reflections import ReflectionFlag
from hklflow.bragg.scaling import Scaling
from hklflow.bragg.structure_factors import Scaled
from hklflow.geometry import lattice, reduction
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]

_STRAY = 0.05  # largest fraction of outliers of a scan that are faults of single observations
_LEAST_ERROR = 0.02  # relative error of an intensity in the choice of the indexing
_CURE = (
    "look for another structure, a twin or wrong indices, then remove the scan from the list, or "
    "use it with `leave_out: []`"
)


@dataclass(frozen=True)
class Rules:
    """Rules that leave out scans; see the stage `merge_crystals`."""

    automatic: bool
    leave_out: Sequence[str]
    cell_tolerance: float
    least_gain: float
    significance: float


@dataclass(frozen=True)
class Member:
    """One scan with its reflections, which have the scan's own indices.

    ``rotations`` are the names of its rotations, ``spans`` their angles in degrees.
    """

    name: str
    lattice: Lattice
    observed: Observations
    rotations: Sequence[str]
    spans: Sequence[tuple[float, float]]


@dataclass
class Judged:
    """What is known about a scan.

    Attributes
    ----------
    member : Member
    choice : Choice or None
        Indexing in the common setting; None if there is none, or nobody asked.
    strain : float or None
        Largest principal strain of its cell relative to the median cell.
    influence : Influence or None
    reason : str
        Reason why the scan is left out; empty if it is merged.
    """

    member: Member
    choice: Choice | None = None
    strain: float | None = None
    influence: Influence | None = None
    reason: str = ""

    @property
    def merged(self) -> bool:
        """True if the scan is merged."""
        return not self.reason


@dataclass(frozen=True)
class Combination:
    """Scans on one scale.

    Attributes
    ----------
    scans : list of Judged
        All scans, in the given order.
    group : SpaceGroup
    observed : Observations
        Observations of the merged scans in the common setting.
    scaling : Scaling
    rotations : list of str
        Names of the rotations of the merged scans.
    scan_of : (n,) int array
        Number, among the merged scans, of each observation.
    cell, cell_sigma : (6,) arrays
        Mean of the cells of the merged scans, and its error from their scatter.
    warnings : list of str
    """

    scans: list[Judged]
    group: SpaceGroup
    observed: Observations
    scaling: Scaling
    rotations: list[str]
    scan_of: NDArray[np.int64]
    cell: Floats
    cell_sigma: Floats
    warnings: list[str]

    @property
    def merged(self) -> list[Judged]:
        """Scans that are merged."""
        return [one for one in self.scans if one.merged]

    def scaled(self) -> Scaled:
        """Return the scaled observations."""
        return self.scaling.scaled(self.observed)

    def table(self) -> list[dict[str, Any]]:
        """Return one row for each scan, for JSON and pictures."""
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        start = 0
        for one in self.scans:
            choice, influence = one.choice, one.influence
            row: dict[str, Any] = {
                "scan": one.member.name,
                "merged": one.merged,
                "reason": one.reason,
                "observations": len(one.member.observed),
                "indices": None if choice is None else choice.indexing.text,
                "correlation": None if choice is None else choice.correlation,
                "other indices": None if choice is None else choice.second,
                "their correlation": None if choice is None else choice.next_correlation,
                "cell": list(one.member.lattice.cell if choice is None else choice.indexing.cell),
                "strain": one.strain,
                "common": None if influence is None else influence.common,
                "CC1/2 with": None if influence is None else influence.cc_half,
                "CC1/2 without": None if influence is None else influence.cc_half_without,
                "delta CC1/2": None if influence is None else influence.delta,
                "gain": None if influence is None else influence.gain,
                "significance": None if influence is None else influence.significance,
                "scale": None,
                "B": None,
            }
            if one.merged:
                stop = start + len(one.member.rotations)
                curves = self.scaling.curves[start:stop]
                row["scale"] = float(np.exp(np.mean([curve.log_scale for curve in curves])))
                row["B"] = float(np.mean([curve.decay for curve in curves]))
                start = stop
            yield row


def combine(
    members: Sequence[Member], group: SpaceGroup, settings: scaling.Settings, rules: Rules
) -> Combination:
    """Bring scans to one setting, scale them together, and leave out the ones that disagree.

    Parameters
    ----------
    members : sequence of Member
        Scans; the first scan that is merged defines scale and B.
    group : SpaceGroup
        Space group in the setting of the first scan.
    settings : scaling.Settings
    rules : Rules

    Raises
    ------
    HklflowError
        If fewer than two scans can be merged.
    """
    scans = [Judged(member) for member in members]
    work = _Work(scans, group, settings, rules, [])
    work.leave_out_named(rules.leave_out)
    work.index()
    work.compare_cells()
    work.require_two()
    return work.scale()


@dataclass
class _Work:
    """State of the search for scans that agree."""

    scans: list[Judged]
    group: SpaceGroup
    settings: scaling.Settings
    rules: Rules
    warnings: list[str] = field(default_factory=list)

    @property
    def merged(self) -> list[Judged]:
        return [one for one in self.scans if one.merged]

    def leave_out_named(self, names: Sequence[str]) -> None:
        for one in self.scans:
            if one.member.name in names:
                one.reason = f"{one.member.name} is left out because `leave_out` names it"

    def require_two(self) -> None:
        if len(self.merged) < 2:
            reasons = "; ".join(one.reason for one in self.scans if one.reason)
            raise HklflowError(
                f"{len(self.merged)} of {len(self.scans)} scans can be merged, and two are needed: "
                f"{reasons}"
            )

    # ------------------------------------------------------------------- one setting

    def index(self) -> None:
        """Choose the indices of every scan, and leave out scans of another lattice."""
        tolerance, anomalous = self.rules.cell_tolerance, self.settings.anomalous
        common = self._common_lattice()
        ways: list[list[Indexing]] = []
        for one in self.merged:
            own = one.member.lattice
            found = common_setting.indexings(own, common, self.group, anomalous, tolerance)
            if found:
                ways.append(found)
                continue
            ratio = common_setting.volume_ratio(own, common)
            reason = (
                f"{one.member.name} has a cell of another lattice, {_text(own.cell)} ({ratio:.3g} "
                f"times the volume of {_text(common.cell)}): index it with the cell of the other "
                "scans"
            )
            if not self.rules.automatic:
                raise HklflowError(f"{reason}, or name it in `leave_out`")
            one.reason = f"{reason}; it is left out"
        usable = self.merged
        choices = common_setting.choose(
            [_intensities(one.member, anomalous) for one in usable], ways, self.group, anomalous
        )
        for one, choice in zip(usable, choices, strict=True):
            one.choice = choice

    def _common_lattice(self) -> Lattice:
        """Return the lattice with which most lattices agree; of several the first."""
        lattices = [one.member.lattice for one in self.merged]
        if not lattices:
            self.require_two()
        alike = [
            sum(
                bool(
                    common_setting.indexings(
                        one, other, other.group, False, self.rules.cell_tolerance
                    )
                )
                for one in lattices
            )
            for other in lattices
        ]
        return lattices[int(np.argmax(alike))]

    # ------------------------------------------------------------------------- cells

    def compare_cells(self) -> None:
        """Name cells that differ from the median cell, and leave their scans out."""
        indexed = [one for one in self.merged if one.choice is not None]
        cells = np.array([one.choice.indexing.cell for one in indexed if one.choice is not None])
        if len(cells) < 2:
            return
        median = np.median(cells, axis=0)
        metrics = np.array([lattice.metric(cell) for cell in cells])
        strains = reduction.strain(metrics, median)
        for one, strain in zip(indexed, strains.tolist(), strict=True):
            one.strain = strain
        limit = self.rules.cell_tolerance
        beyond = [one for one in indexed if (one.strain or 0.0) > limit]
        for one in beyond:
            assert one.choice is not None
            said = (
                f"the cell of {one.member.name}, {_text(one.choice.indexing.cell)}, is strained by "
                f"{100 * (one.strain or 0.0):.2f} % relative to the median cell {_text(median)} "
                f"(limit {100 * limit:.3g} %, `cell_tolerance`): check its temperature, wavelength "
                "and detector distance"
            )
            if not self.rules.automatic:
                self.warnings.append(said)
            elif 2 * len(beyond) >= len(indexed):
                self.warnings.append(
                    f"{said}. No majority of the cells agrees: nothing is left out"
                )
            else:
                one.reason = f"{said}; it is left out"

    # ------------------------------------------------------------------------- scale

    def scale(self) -> Combination:
        """Scale the scans, and leave out the worst until all of them agree."""
        while True:
            found = self._scaled()
            influence = self._influences(found)
            for one, its in zip(self.merged, influence, strict=True):
                one.influence = its
            worst = self._worst()
            if worst is None:
                return self._told(found)
            its = worst.influence
            assert its is not None
            assert its.cc_half is not None
            said = (
                f"{worst.member.name} contradicts the other scans: without it, CC1/2 of the "
                f"{its.common} reflections in common rises from {its.cc_half:.4f} to "
                f"{its.cc_half_without:.4f} (ΔCC1/2 {its.delta:.4f}), and the equivalents of "
                f"{its.worse:.0%} agree better ({its.significance:.1f} standard errors above half; "
                f"limit {self.rules.significance:g})"
            )
            if self.rules.automatic and self._has_majority():
                worst.reason = f"{said}; it is left out: {_CURE}"
                continue
            if self.rules.automatic:
                self.warnings.append(
                    f"{said}, but too few other scans agree to tell which is wrong: nothing more "
                    "is left out; compare the scans, and name the wrong ones in `leave_out`"
                )
            else:
                self.warnings.append(f"{said}; it is used: name it in `leave_out` to leave it out")
            return self._told(found)

    def _told(self, found: Combination) -> Combination:
        """Return the result with the warnings on the indices of the scans that are merged."""
        of_indices = [
            text
            for one in self.merged
            if one.choice is not None
            for text in _of_choice(one.member.name, one.choice)
        ]
        return replace(found, warnings=[*of_indices, *self.warnings])

    def _has_majority(self) -> bool:
        """Return True if two scans, and more than half of all, remain without the worst."""
        remaining = len(self.merged) - 1
        usable = [one for one in self.scans if one.merged or one.influence is not None]
        return remaining >= 2 and 2 * remaining > len(usable)

    def _worst(self) -> Judged | None:
        harmful = [
            one
            for one in self.merged
            if one.influence is not None
            and one.influence.harms(self.rules.least_gain, self.rules.significance)
        ]
        return max(
            harmful, key=lambda one: one.influence.gain if one.influence else 0.0, default=None
        )

    def _scaled(self) -> Combination:
        parts, spans, names, crystals = [], [], [], []
        cells = []
        for number, one in enumerate(self.merged):
            assert one.choice is not None
            parts.append(_reindexed(one.member, one.choice.indexing, len(names)))
            cells.append(one.choice.indexing.cell)
            spans += one.member.spans
            names += [f"{one.member.name}/{rotation}" for rotation in one.member.rotations]
            crystals += [number] * len(one.member.rotations)
        cell = np.mean(cells, axis=0)
        joined = {
            c.name: np.concatenate([getattr(part, c.name) for part in parts])
            for c in fields(Observations)
        }
        # One cell for all, so that equivalents have the same resolution.
        joined["d"] = lattice.d_spacing(cell, joined["hkl"])
        flags = joined["flags"] & ~int(ReflectionFlag.ABSENT | ReflectionFlag.OUTLIER)
        absent = self.group.is_absent(joined["hkl"])
        joined["flags"] = flags | np.where(absent, int(ReflectionFlag.ABSENT), 0)
        observed = Observations(**joined)
        outcome = scaling.scale(observed, self.group, spans, self.settings, names, crystals)
        return Combination(
            scans=self.scans,
            group=self.group,
            observed=observed,
            scaling=outcome,
            rotations=names,
            scan_of=np.array(crystals)[observed.rotation],
            cell=cell,
            cell_sigma=np.std(cells, axis=0, ddof=1) / np.sqrt(len(cells)),
            warnings=self.warnings,
        )

    def _influences(self, found: Combination) -> list[Influence]:
        observed, outcome = found.observed, found.scaling
        use = (observed.flags & int(ReflectionFlag.ABSENT)) == 0
        n = len(self.merged)
        # Many outliers are no accidents: then the scan is in question, not its observations.
        outliers = np.bincount(found.scan_of, outcome.outlier, n)
        stray = outliers < _STRAY * np.bincount(found.scan_of, minlength=n)
        use &= ~(outcome.outlier & stray[found.scan_of])
        hkl = self.group.asymmetric(observed.hkl[use], anomalous=self.settings.anomalous)
        groups = Groups.of(hkl)
        value, variance = observed.intensity[use] / outcome.scale[use], outcome.variance[use]
        mean, weight = groups.mean(value, 1 / variance)
        d_star = np.zeros(len(groups))
        d_star[groups.index] = 1 / observed.d[use]
        level = unmerged.shell_means(d_star, mean, weight**-0.5)
        return influences(value, variance, level[groups.index], groups, found.scan_of[use], n)


def _reindexed(member: Member, indexing: Indexing, first: int) -> Observations:
    """Return the observations in the common setting, with rotations counted from ``first``."""
    observed = member.observed
    hkl = observed.hkl @ indexing.matrix.T
    whole = np.rint(hkl)
    if not np.allclose(hkl, whole, atol=1e-6):
        raise HklflowError(
            f"{member.name} has reflections whose indices {indexing.text} are not whole numbers in "
            f"the common setting: its space group {member.lattice.group.symbol} has the wrong "
            "centring; index it again"
        )
    return replace(observed, hkl=whole.astype(np.int64), rotation=observed.rotation + first)


def _intensities(member: Member, anomalous: bool) -> unmerged.Intensities:
    observed = member.observed
    use = (observed.flags & int(ReflectionFlag.ABSENT)) == 0
    return unmerged.unmerged(
        observed.hkl[use],
        observed.intensity[use],
        observed.sigma[use],
        lattice.metric(member.lattice.cell),
        _LEAST_ERROR,
        friedel=not anomalous,
    )


def _of_choice(name: str, choice: Choice) -> Iterator[str]:
    """Yield sentences on indices that changed, or are ambiguous."""
    kept = choice.indexing.text
    if not choice.indexing.is_identity:
        yield f"{name} is indexed again: {kept} of its indices"
    if choice.sure:
        return
    if choice.correlation is None:
        yield (
            f"the indices {kept} of {name} are not tested: it has only {choice.common} reflections "
            "in common with the other scans"
        )
        return
    other = choice.next_correlation
    yield (
        f"the indices of {name} are ambiguous: {kept} correlate with the other scans with "
        f"{choice.correlation:.3f}, {choice.second} with "
        f"{'too few reflections' if other is None else f'{other:.3f}'}; the first are used. "
        "Measure more of it, or name it in `leave_out`"
    )


def _text(cell: Floats) -> str:
    return " ".join(f"{x:.5g}" for x in cell)
