"""Bring the reflections of several scans to one setting.

Cells and centring leave several ways to index a scan as another one if the lattice has a higher
symmetry than the intensities, or nearly so. The intensities choose among them (Brehm & Diederichs,
Acta Cryst. D70, 101, 2014): the indexing of each scan is the one with the largest correlation of
normalized amplitudes with all other scans.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.groups import Groups
from hklflow.bragg.unmerged import Intensities
from hklflow.geometry import lattice, reduction
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SAME_LATTICE = 0.03  # largest principal strain of two cells that may be of one lattice
_FEWEST = 10  # common reflections that give a correlation
_SURE = 4.0  # standard errors between the correlations of two indexings
_ROUNDS = 20
_ONE = 1 - 1e-9  # largest correlation with a finite Fisher transform
# General reflections; 12 times their indices are whole in every centred setting.
_GENERAL = 12 * np.array([[1, 2, 5], [3, -7, 4], [-6, 5, 11]])


@dataclass(frozen=True)
class Lattice:
    """Cell (6,) in Å and degrees, and the space group with its setting."""

    cell: Floats
    group: SpaceGroup

    @property
    def primitive_ub(self) -> Floats:
        """UB (3, 3) of a primitive cell in an arbitrary orientation."""
        primitive: Floats = lattice.b_matrix(self.cell) @ np.linalg.inv(self.group.to_primitive)
        return primitive


@dataclass(frozen=True)
class Indexing:
    """One way to index a scan: ``h_common = matrix @ h_scan``.

    ``cell`` is the cell (6,) of the scan in the common setting.
    """

    matrix: Floats
    cell: Floats

    @property
    def is_identity(self) -> bool:
        """True if the indices stay as they are."""
        return bool(np.allclose(self.matrix, np.eye(3), atol=1e-6))

    @property
    def text(self) -> str:
        """Operator such as ``k, h, -l``."""
        return ", ".join(_row(row) for row in self.matrix)


def _row(row: Floats) -> str:
    words = []
    for factor, name in zip(row, "hkl", strict=True):
        if abs(factor) > 1e-6:
            size = "" if abs(abs(factor) - 1) < 1e-6 else f"{abs(factor):.4g}"
            words.append(f"{'-' if factor < 0 else '+'}{size}{name}")
    return "".join(words).removeprefix("+") or "0"


def volume_ratio(one: Lattice, other: Lattice) -> float:
    """Return the ratio of the volumes of the primitive cells."""
    return float(abs(np.linalg.det(other.primitive_ub) / np.linalg.det(one.primitive_ub)))


def indexings(
    scan: Lattice, common: Lattice, group: SpaceGroup, anomalous: bool, tolerance: float
) -> list[Indexing]:
    """Return the ways to index a scan in a common setting that intensities can distinguish.

    Parameters
    ----------
    scan, common : Lattice
    group : SpaceGroup
        Space group of the intensities, in the common setting.
    anomalous : bool
        True: Friedel mates are different reflections.
    tolerance : float
        Indexings whose strain exceeds the smallest strain by more than this are left out.

    Returns
    -------
    list of Indexing
        The smallest change of the indices first; empty if the lattices differ.
    """
    ub = lattice.b_matrix(scan.cell)
    settings = reduction.matching_settings(
        scan.primitive_ub, common.cell, common.group, SAME_LATTICE
    )
    settings = [setting for setting in settings if setting.ratio == 1]
    least = min((setting.strain for setting in settings), default=0.0)
    found = [
        Indexing(np.round(np.linalg.inv(setting.ub) @ ub * 12) / 12, setting.cell)
        for setting in settings
        if setting.strain <= least + tolerance
    ]
    # A small change of the indices is what a person would choose, too.
    found.sort(key=lambda one: float(np.abs(one.matrix - np.eye(3)).sum()))
    different: dict[bytes, Indexing] = {}
    for one in found:
        rows = np.rint(_GENERAL @ one.matrix.T).astype(np.int64)
        # Equivalent indexings take a general reflection to the same place of the asymmetric unit.
        key = group.asymmetric(rows, anomalous=anomalous).tobytes()
        different.setdefault(key, one)
    return list(different.values())


@dataclass(frozen=True)
class Choice:
    """Chosen indexing of a scan.

    Attributes
    ----------
    indexing : Indexing
    correlation, next_correlation : float or None
        Correlation of normalized amplitudes with the other scans, for the chosen and for the
        second-best indexing; None if there are fewer than ten common reflections, or no second.
    second : str
        Operator of the second-best indexing; empty without one.
    common : int
        Reflections in common with the other scans.
    sure : bool
        False if the correlations differ by less than four standard errors.
    """

    indexing: Indexing
    correlation: float | None
    next_correlation: float | None
    second: str
    common: int
    sure: bool


class _Amplitudes:
    """Normalized amplitudes of every scan in each of its indexings, as rows of one table."""

    def __init__(
        self,
        scans: Sequence[Intensities],
        possible: Sequence[Sequence[Indexing]],
        group: SpaceGroup,
        anomalous: bool,
    ) -> None:
        parts = []
        for scan, ways in zip(scans, possible, strict=True):
            for way in ways:
                own = scan.transformed(way.matrix)
                parts.append((group.asymmetric(own.hkl, anomalous=anomalous), own))
        # A whole table of reflections is coded together, so that its numbers can be compared.
        groups = Groups.of(np.concatenate([hkl for hkl, _ in parts]))
        self.n = len(groups)
        values, start = [], 0
        for hkl, own in parts:
            index = groups.index[start : start + len(hkl)]
            start += len(hkl)
            weight = own.sigma**-2.0
            total = np.bincount(index, weight, self.n)
            intensity = np.bincount(index, weight * own.intensity, self.n)
            level = np.bincount(index, weight * own.mean, self.n)
            with np.errstate(divide="ignore", invalid="ignore"):
                # The root makes weak and strong reflections count alike; no reflection: NaN.
                root = np.sqrt(np.maximum(intensity, 0.0) / level)
            values.append(np.where(total > 0, root, np.nan))
        ends = np.cumsum([0, *(len(ways) for ways in possible)])
        self.of = [values[a:b] for a, b in pairwise(ends)]

    def mean(self, chosen: dict[int, int]) -> Floats:
        """Return the mean amplitudes (m,) of the chosen indexings of some scans; NaN: none."""
        stack = np.array([self.of[scan][way] for scan, way in chosen.items()])
        known = np.isfinite(stack)
        n = known.sum(axis=0)
        return np.where(n > 0, np.where(known, stack, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)

    def best(self, scan: int, others: Floats) -> "_Rank":
        """Rank the indexings of a scan by their correlation with other scans."""
        found = [_correlation(values, others) for values in self.of[scan]]
        z = [np.arctanh(np.clip(cc, -_ONE, _ONE)) if n >= _FEWEST else -9.0 for cc, n in found]
        order = np.argsort(-np.array(z), kind="stable").tolist()
        best = order[0]
        if found[best][1] < _FEWEST:
            return _Rank(0, None, None, None, found[best][1], 0.0)
        if len(order) == 1:
            return _Rank(best, None, found[best][0], None, found[best][1], np.inf)
        second = order[1]
        if found[second][1] < _FEWEST:
            return _Rank(best, second, found[best][0], None, found[best][1], 0.0)
        error = np.sqrt(1 / (found[best][1] - 3) + 1 / (found[second][1] - 3))
        away = float((z[best] - z[second]) / error)
        return _Rank(best, second, found[best][0], found[second][0], found[best][1], away)


@dataclass(frozen=True)
class _Rank:
    best: int
    second: int | None
    correlation: float | None
    next_correlation: float | None
    common: int
    away: float


def _correlation(a: Floats, b: Floats) -> tuple[float, int]:
    both = np.isfinite(a) & np.isfinite(b)
    n = int(both.sum())
    if n < _FEWEST or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return 0.0, min(n, _FEWEST - 1)
    return float(np.corrcoef(a[both], b[both])[0, 1]), n


def choose(
    scans: Sequence[Intensities],
    possible: Sequence[Sequence[Indexing]],
    group: SpaceGroup,
    anomalous: bool,
) -> list[Choice]:
    """Choose the indexing of each scan by its correlation with the others.

    Parameters
    ----------
    scans : sequence of Intensities
        Reflections of each scan, with the scan's own indices.
    possible : sequence of sequences of Indexing
        At least one for each scan.
    group : SpaceGroup
        Space group of the common setting.
    anomalous : bool
    """
    table = _Amplitudes(scans, possible, group, anomalous)
    chosen = _together(table, len(scans))
    for _ in range(_ROUNDS):
        before = dict(chosen)
        for scan in range(len(scans)):
            others = {other: way for other, way in chosen.items() if other != scan}
            if others:
                chosen[scan] = table.best(scan, table.mean(others)).best
        if chosen == before:
            break
    moved = _named(possible, chosen, _rotations(group, anomalous))
    choices = []
    for scan, ways in enumerate(possible):
        others = {other: way for other, way in chosen.items() if other != scan}
        rank = table.best(scan, table.mean(others)) if others else None
        if rank is None or rank.correlation is None:
            n = 0 if rank is None else rank.common
            choices.append(Choice(moved[scan], None, None, "", n, len(ways) == 1))
            continue
        second = "" if rank.second is None else ways[rank.second].text
        choices.append(
            Choice(
                moved[scan],
                rank.correlation,
                rank.next_correlation,
                second,
                rank.common,
                rank.away >= _SURE,
            )
        )
    return choices


def _together(table: _Amplitudes, n: int) -> dict[int, int]:
    """Return a first choice: scan after scan, always the one whose indexing is surest."""
    chosen = {0: 0}
    pairs = [
        (table.best(two, table.of[one][0]).away, one)
        for one in range(n)
        for two in range(n)
        if one != two and len(table.of[two]) > 1
    ]
    if pairs:
        finite = [pair for pair in pairs if np.isfinite(pair[0])]
        chosen = {max(finite, default=(0.0, 0), key=lambda pair: (pair[0], -pair[1]))[1]: 0}
    while len(chosen) < n:
        others = table.mean(chosen)
        ranks = {scan: table.best(scan, others) for scan in range(n) if scan not in chosen}
        surest = max(ranks, key=lambda scan: (ranks[scan].away, ranks[scan].common, -scan))
        chosen[surest] = ranks[surest].best
    return chosen


def _rotations(group: SpaceGroup, anomalous: bool) -> Floats:
    """Return the rotations (n, 3, 3) on hkl that lead to equivalent reflections."""
    if not anomalous:
        return group.proper_laue_operations.astype(np.float64)
    on_hkl = np.unique(group.operations[0].transpose(0, 2, 1), axis=0).astype(np.float64)
    rotations: Floats = on_hkl[np.linalg.det(on_hkl) > 0]
    return rotations


def _named(
    possible: Sequence[Sequence[Indexing]], chosen: dict[int, int], rotations: Floats
) -> list[Indexing]:
    """Return the chosen indexings in the setting in which most scans keep their own indices."""
    best: list[Indexing] = []
    most = -1
    for scan, ways in enumerate(possible):
        back = ways[0].matrix @ np.linalg.inv(ways[chosen[scan]].matrix)
        moved = [
            _moved(others[chosen[other]], back, rotations) for other, others in enumerate(possible)
        ]
        kept = sum(one.is_identity for one in moved)
        if kept > most:
            best, most = moved, kept
    return best


def _moved(one: Indexing, back: Floats, rotations: Floats) -> Indexing:
    """Return an indexing in another setting, with the equivalent indices that change least."""
    every = rotations @ back @ one.matrix
    least = int(np.argmin(np.round(np.abs(every - np.eye(3)).sum(axis=(1, 2)), 6)))
    matrix = np.round(every[least] * 12) / 12
    return Indexing(matrix, _moved_cell(one.cell, rotations[least] @ back))


def _moved_cell(cell: Floats, matrix: Floats) -> Floats:
    """Return the cell (6,) on the axes for which ``h_new = matrix @ h``."""
    return lattice.cell_from_metric(matrix @ lattice.metric(cell) @ matrix.T)
