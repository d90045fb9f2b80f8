"""Merge several scans, of one or several crystals of a sample, to one set of intensities.

All scans are brought to one setting, their cells are compared, and all observations are scaled
together. Scans that contradict the others are left out one by one, the worst first, and the others
are scaled again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg import common_setting, crystal_warnings, scaling, unmerged
from hklflow.bragg.combination import Combination, Judged, Member, Rules
from hklflow.bragg.common_setting import Indexing, Lattice
from hklflow.bragg.crystal_warnings import cell_text
from hklflow.bragg.groups import Groups
from hklflow.bragg.leave_out import Normalized, influences, scaled_again
from hklflow.bragg.observations import Observations
from hklflow.bragg.reflections import ReflectionFlag
from hklflow.geometry import lattice, reduction
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]

_STRAY = 0.05  # largest fraction of outliers of a scan that are faults of single observations
_LEAST_ERROR = 0.02  # relative error of an intensity in the choice of the indexing
_CURE = (
    "look for another structure, a twin, wrong indices, intensities or errors that are too small, "
    "or absorption, then remove the scan from the list, or use it with `leave_out: []`"
)
_TOO_FEW = "{} of {} scans can be merged, and two are needed: {}"


def combine(
    members: Sequence[Member], group: SpaceGroup | None, settings: scaling.Settings, rules: Rules
) -> Combination:
    """Bring scans to one setting, scale them together, and leave out the ones that disagree.

    Parameters
    ----------
    members : sequence of Member
        Scans; the first scan that is merged defines scale and B.
    group : SpaceGroup or None
        Space group in the setting of most scans; None: their own.
    settings : scaling.Settings
    rules : Rules

    Raises
    ------
    HklflowError
        If fewer than two scans can be merged, or if two scans are of the same frames.
    """
    _require_different(members)
    scans = [Judged(member) for member in members]
    for one in scans:
        if one.member.name in rules.leave_out:
            one.reason = f"{one.member.name} is left out because `leave_out` names it"
    common = _common_lattice(scans, rules.cell_tolerance)
    work = _Work(scans, common, group or common.group, settings, rules)
    work.index()
    work.compare_cells()
    work.require_two()
    return work.scale()


def _require_different(members: Sequence[Member]) -> None:
    """Refuse scans with the same intensities: equivalents that are copies have too small errors."""
    values = []
    for one in members:
        observed = one.observed
        strong = observed.intensity > 3 * observed.sigma
        rows = np.column_stack([observed.hkl, observed.intensity])[strong].tolist()
        values.append(set(map(tuple, rows)))
    for (one, mine), (other, others) in combinations(zip(members, values, strict=True), 2):
        fewest = min(len(mine), len(others))
        if 2 * (same := len(mine & others)) > fewest > 0:
            raise HklflowError(
                f"{one.name} and {other.name} are the same data: {same} of {fewest} intensities "
                "above 3σ are equal; remove one of them from the list of scans"
            )


def _common_lattice(scans: Sequence[Judged], tolerance: float) -> Lattice:
    """Return the lattice with which most lattices agree; of several the first."""
    lattices = [one.member.lattice for one in scans if one.merged]
    if len(lattices) < 2:
        raise HklflowError(_TOO_FEW.format(len(lattices), len(scans), "`leave_out` names the rest"))
    alike = [
        sum(
            bool(common_setting.indexings(one, other, other.group, False, tolerance))
            for one in lattices
        )
        for other in lattices
    ]
    return lattices[int(np.argmax(alike))]


@dataclass
class _Work:
    """State of the search for scans that agree."""

    scans: list[Judged]
    common: Lattice
    group: SpaceGroup
    settings: scaling.Settings
    rules: Rules
    warnings: list[str] = field(default_factory=list)

    @property
    def merged(self) -> list[Judged]:
        return [one for one in self.scans if one.merged]

    def require_two(self) -> None:
        if len(self.merged) < 2:
            reasons = "; ".join(one.reason for one in self.scans if one.reason)
            raise HklflowError(_TOO_FEW.format(len(self.merged), len(self.scans), reasons))

    # ------------------------------------------------------------------- one setting

    def index(self) -> None:
        """Choose the indices of every scan, and leave out scans of another lattice."""
        tolerance, anomalous = self.rules.cell_tolerance, self.settings.anomalous
        common = self.common
        ways: list[list[Indexing]] = []
        for one in self.merged:
            own = one.member.lattice
            found = common_setting.indexings(own, common, self.group, anomalous, tolerance)
            if found:
                ways.append(found)
                continue
            ratio = common_setting.volume_ratio(own, common)
            reason = (
                f"{one.member.name} has a cell of another lattice, {cell_text(own.cell)} "
                f"({ratio:.3g} times the volume of {cell_text(common.cell)}): index it with the "
                "cell of the other scans"
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
                f"the cell of {one.member.name}, {cell_text(one.choice.indexing.cell)}, is "
                f"strained by {100 * (one.strain or 0.0):.2f} % relative to the median cell "
                f"{cell_text(median)} (limit {100 * limit:.3g} %, `cell_tolerance`): check its "
                "temperature, wavelength and detector distance"
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
            found = self._scaled(self.merged)
            observed = self._normalized(found)
            for one, its in zip(self.merged, influences(observed, len(self.merged)), strict=True):
                one.influence = its
            worst = self._worst(observed)
            if worst is None:
                return self._told(found)
            said = crystal_warnings.contradiction(worst)
            if self.rules.automatic and self._has_majority():
                worst.reason = f"{said}; it is left out: {_CURE}"
                self.index()
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
        of_scans = crystal_warnings.of_merged(self.merged, self.rules.significance)
        return replace(found, warnings=[*of_scans, *self.warnings])

    def _has_majority(self) -> bool:
        """Return True if two scans, and more than half of all, remain without the worst."""
        remaining = len(self.merged) - 1
        usable = [one for one in self.scans if one.merged or one.influence is not None]
        return remaining >= 2 and 2 * remaining > len(usable)

    def _worst(self, observed: Normalized) -> Judged | None:
        """Return the scan without which the others agree best, if one contradicts the others."""
        merged, limit = self.merged, self.rules.significance
        unlike = [crystal_warnings.is_unlike(one) for one in merged]
        minority = 0 < 2 * sum(unlike) < len(merged)
        contradict = any(one.influence and one.influence.contradicts(limit) for one in merged)
        if not minority and not contradict:
            return None
        suspects: list[tuple[float, int]] = []
        for number, one in enumerate(merged):
            if one.influence is None or (minority and not unlike[number]):
                continue
            if not minority and one.influence.significance <= 0:
                continue
            if len(merged) > 2:
                rest = self._normalized(self._scaled([*merged[:number], *merged[number + 1 :]]))
                one.influence = scaled_again(one.influence, observed, number, rest)
            suspects.append((one.influence.gain, number))
        gain, number = max(suspects, default=(0.0, 0))
        # What does not correlate with the majority contradicts it, however CC1/2 changes.
        return merged[number] if gain > self.rules.least_gain or (minority and suspects) else None

    def _scaled(self, scans: list[Judged]) -> Combination:
        parts, cells, crystals = [], [], []
        spans: list[tuple[float, float]] = []
        names: list[str] = []
        for number, one in enumerate(scans):
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

    def _normalized(self, found: Combination) -> Normalized:
        observed, outcome = found.observed, found.scaling
        use = (observed.flags & int(ReflectionFlag.ABSENT)) == 0
        # Many outliers are no accidents: then the scan is in question, not its observations.
        counts = np.bincount(found.scan_of)
        stray = np.bincount(found.scan_of, outcome.outlier, len(counts)) < _STRAY * counts
        use &= ~(outcome.outlier & stray[found.scan_of])
        hkl = self.group.asymmetric(observed.hkl[use], anomalous=self.settings.anomalous)
        groups = Groups.of(hkl)
        value, variance = observed.intensity[use] / outcome.scale[use], outcome.variance[use]
        mean, weight = groups.mean(value, 1 / variance)
        d_star = np.zeros(len(groups))
        d_star[groups.index] = 1 / observed.d[use]
        level = unmerged.shell_means(d_star, mean, weight**-0.5)[groups.index]
        return Normalized(groups, value / level, level**2 / variance, found.scan_of[use])


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
