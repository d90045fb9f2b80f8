"""Choose one of several equivalent indexings of each still frame by correlation.

If the lattice has a higher symmetry than the Laue group, the spots of a frame can be indexed in
several ways that only intensities distinguish (Brehm & Diederichs, Acta Cryst. D70, 101, 2014).
Here frames are added one by one to the mean of the others, each with the indexing that correlates
best, until no frame changes; of several orders of the frames the best is taken. If the lattice has
the higher symmetry only nearly, the cell of each frame distinguishes the indexings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.groups import Groups
from hklflow.bragg.partiality import first_node
from hklflow.bragg.stills import Stills, StillSpots, scattering
from hklflow.geometry import lattice
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_ORDERS, _ROUNDS = 8, 20
_FEWEST = 5  # common reflections for a correlation
_SHELLS = 10
_LEAST_PART = 0.5  # partiality of a reflection that is compared
_CLEARLY = 2.0  # ratio of strains by which the cell of a frame tells another indexing
_TOLD = 3.0  # ratio of median strains by which the cells of frames tell an operation


@dataclass(frozen=True, eq=False)
class Choice:
    """Indexing of each frame.

    Attributes
    ----------
    operation : (f,) int array
        Index of the operation; 0 leaves the indices.
    margin : (f,) array
        Correlation with the other frames, minus the correlation of the next best indexing; NaN if
        a frame shares too few reflections.
    """

    operation: Integers
    margin: Floats


def by_cell(stills: Stills, operations: Sequence[Floats]) -> Stills:
    """Return the frames with the indexing whose cell is clearly closest to the known cell.

    Parameters
    ----------
    stills : Stills
        Cells of the frames are those that DIALS refined.
    operations : sequence of (3, 3) arrays
        Operations on hkl that nearly leave the lattice.
    """
    every = np.stack([np.eye(3), *operations])
    strain = _strains(stills, every)
    best = np.argmin(strain, axis=1)
    clear = strain[:, 0] > _CLEARLY * strain[np.arange(len(best)), best]
    return reindexed(stills, every, np.where(clear, best, 0))


def not_by_cell(stills: Stills, operations: Sequence[Floats]) -> list[Floats]:
    """Return the operations that the cells of the frames do not distinguish from the known cell."""
    strain = np.median(_strains(stills, np.stack([np.eye(3), *operations])), axis=0)
    return [w for w, s in zip(operations, strain[1:], strict=True) if s <= _TOLD * strain[0]]


def _strains(stills: Stills, every: Floats) -> Floats:
    """Return the strain (f, o) of the cell of each frame under each operation, without scale."""
    known = np.linalg.inv(lattice.b_matrix(stills.cell))
    moved = stills.frames.ub[:, None] @ np.linalg.inv(every) @ known
    metric = np.swapaxes(moved, -1, -2) @ moved
    metric /= np.cbrt(np.linalg.det(metric))[..., None, None]
    strain: Floats = 0.5 * np.linalg.norm(metric - np.eye(3), axis=(-1, -2))
    return strain


def reindexed(stills: Stills, every: Floats, chosen: Integers) -> Stills:
    """Return the frames with the operation ``every[chosen[f]]`` on hkl of frame f."""
    of_frame = every[chosen]

    def moved(table: StillSpots) -> StillSpots:
        hkl = np.einsum("nij,nj->ni", of_frame[table.frame], table.hkl)
        return replace(table, hkl=np.rint(hkl).astype(np.int64))

    frames = replace(stills.frames, ub=stills.frames.ub @ np.linalg.inv(of_frame))
    return replace(
        stills, frames=frames, spots=moved(stills.spots), reflections=moved(stills.reflections)
    )


def choose(stills: Stills, group: SpaceGroup, operations: Sequence[Floats], seed: int) -> Choice:
    """Choose the indexing of each frame.

    Parameters
    ----------
    stills : Stills
    group : SpaceGroup
    operations : sequence of (3, 3) arrays
        Operations on hkl that leave the lattice, but not the intensities; see
        `geometry.symmetry.reindexing_operators`.
    seed : int
        Seed of the orders of the frames.
    """
    table = stills.reflections
    every = [np.eye(3), *operations]
    images = np.stack([np.rint(table.hkl @ operation.T).astype(np.int64) for operation in every])
    groups = Groups.of(group.asymmetric(images.reshape(-1, 3)))
    value, use = _normalized(stills)
    work = _Work(
        value=value,
        group=groups.index.reshape(len(every), -1),
        n_groups=len(groups),
        rows=_rows_of(table.frame, use, len(stills.frames)),
    )
    rng = np.random.default_rng(seed)
    best = max((work.solve(rng) for _ in range(_ORDERS)), key=lambda found: found[1])[0]
    margins = work.margins(best)
    return Choice(best, margins)


def _rows_of(frame: Integers, use: Bools, n: int) -> list[Integers]:
    order = np.flatnonzero(use)[np.argsort(frame[use], kind="stable")]
    ends = np.searchsorted(frame[order], np.arange(n + 1))
    return [order[ends[i] : ends[i + 1]] for i in range(n)]


def _normalized(stills: Stills) -> tuple[Floats, Bools]:
    """Return ranks from -1 to 1 within shells of resolution, and the reflections that have one.

    Intensities are divided by the partiality of a node that explains the strong spots; reflections
    that this node hardly records have no rank.
    """
    table, spots, k = stills.reflections, stills.spots, stills.beam.k
    node = first_node(*scattering(stills.frames.ub[spots.frame], spots.hkl, k))
    part = node.partiality(*scattering(stills.frames.ub[table.frame], table.hkl, k), k)
    use = part > _LEAST_PART
    full = np.where(use, table.intensity / np.maximum(part, _LEAST_PART), 0.0)
    d = lattice.d_spacing(stills.cell, table.hkl)
    total = np.bincount(table.frame, np.maximum(full, 0.0), len(stills.frames))
    n = np.bincount(table.frame[use], minlength=len(stills.frames))
    relative = full * (n / np.maximum(total, 1e-9))[table.frame]
    value = np.zeros(len(table))
    chosen = np.flatnonzero(use)
    for rows in np.array_split(chosen[np.argsort(d[chosen], kind="stable")], _SHELLS):
        rank = np.argsort(np.argsort(relative[rows], kind="stable"), kind="stable")
        value[rows] = (2 * rank + 1) / max(len(rows), 1) - 1
    return value, use


@dataclass
class _Work:
    """Values and groups of the reflections under each operation.

    Attributes
    ----------
    value : (n,) array
    group : (o, n) int array
    n_groups : int
    rows : list of int arrays
        Reflections of each frame.
    """

    value: Floats
    group: Integers
    n_groups: int
    rows: list[Integers]

    def solve(self, rng: np.random.Generator) -> tuple[Integers, float]:
        """Return the operations of one order of the frames, and their mean correlation."""
        order = rng.permutation(len(self.rows))
        chosen = np.full(len(self.rows), -1)
        total, n = np.zeros(self.n_groups), np.zeros(self.n_groups)
        for _ in range(_ROUNDS):
            before = chosen.copy()
            for f in order:
                if chosen[f] >= 0:
                    self._add(f, int(chosen[f]), -1, total, n)
                found = self._correlations(f, total, n)
                chosen[f] = int(np.argmax(np.nan_to_num(found, nan=-1.0)))
                self._add(f, int(chosen[f]), 1, total, n)
            if np.array_equal(before, chosen):
                break
        at = [self._without(f, chosen, total, n)[chosen[f]] for f in range(len(self.rows))]
        return chosen, float(np.nanmean(at)) if np.any(np.isfinite(at)) else -1.0

    def margins(self, chosen: Integers) -> Floats:
        """Return the lead of the chosen operation of each frame over the next best."""
        total, n = np.zeros(self.n_groups), np.zeros(self.n_groups)
        for f, operation in enumerate(chosen):
            self._add(f, int(operation), 1, total, n)
        lead = []
        for f, operation in enumerate(chosen):
            found = self._without(f, chosen, total, n)
            others = np.delete(found, operation)
            lead.append(found[operation] - np.max(others))
        return np.array(lead)

    def _add(self, f: int, operation: int, sign: int, total: Floats, n: Floats) -> None:
        rows = self.rows[f]
        np.add.at(total, self.group[operation, rows], sign * self.value[rows])
        np.add.at(n, self.group[operation, rows], sign)

    def _without(self, f: int, chosen: Integers, total: Floats, n: Floats) -> Floats:
        """Return the correlations of a frame with the means of the others."""
        self._add(f, int(chosen[f]), -1, total, n)
        found = self._correlations(f, total, n)
        self._add(f, int(chosen[f]), 1, total, n)
        return found

    def _correlations(self, f: int, total: Floats, n: Floats) -> Floats:
        """Return the correlation (o,) of a frame with the means under each operation."""
        rows, found = self.rows[f], np.full(len(self.group), np.nan)
        for i, groups in enumerate(self.group[:, rows]):
            there = n[groups] > 0.5
            if there.sum() >= _FEWEST:
                means = total[groups[there]] / n[groups[there]]
                own = self.value[rows[there]]
                if np.ptp(own) > 0 and np.ptp(means) > 0:
                    found[i] = np.corrcoef(own, means)[0, 1]
        return found
