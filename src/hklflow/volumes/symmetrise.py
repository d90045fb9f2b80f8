"""Sums of counts and norm over voxels that a Laue group makes equivalent.

An operation W of the group that takes voxel centres to voxel centres is applied as a map of
indices, ``i' = (step⁻¹ W step) i + step⁻¹ (W first - first)``. Those operations are a group of
their own; each of its orbits is summed once, over distinct voxels, and all of them get the sum.
Other operations take voxels to places between others, whose counts and norms are then dealt with
trilinear weights. What lies outside the grid is absent.

Memory is one record for each voxel, of all volumes, in bricks of 8 × 8 × 8 voxels, so that those of
an orbit and its neighbours are on a few pages of memory, or of a file where that is not enough.
"""

import mmap
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.transform.bricks import EDGE
from hklflow.volumes import symmetrise_kernels as kernels

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Bricks that one task leads: after each, pages of a file are given back.
_TASK = 128
# Voxels by which an image may miss a centre, at the far end of the grid.
_MISS = 1e-3
# Relative difference of squares of lengths that a cell may have from the group's.
_STRAIN = 0.05


@dataclass(frozen=True)
class Images:
    """Where the operations of a Laue group take the voxels of a grid.

    Attributes
    ----------
    turns, shifts : (n, 3, 3), (n, 3) int arrays
        Of the n operations that take centres to centres: ``i' = turns i + shifts``. The identity
        is the first.
    dealt_turns, dealt_shifts : (m, 3, 3), (m, 3) arrays
        One operation of each coset of these among the others.
    """

    turns: Integers
    shifts: Integers
    dealt_turns: Floats
    dealt_shifts: Floats

    @property
    def exact(self) -> bool:
        """Whether all operations take centres to centres."""
        return len(self.dealt_turns) == 0


def index_maps(grid: Grid, operations: NDArray[Any]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """What operations on hkl do to indices of voxels: ``i' = turns i + shifts``, in (h, k, l).

    Parameters
    ----------
    operations : (n, 3, 3) array
        On hkl.

    Returns
    -------
    turns, shifts : (n, 3, 3), (n, 3) float arrays
    whole : (n,) bool array
        Which take centres of voxels to centres, all over the grid; of them, `turns` and `shifts`
        are integers but for rounding.
    """
    turns = operations * grid.step[None, None, :] / grid.step[None, :, None]
    shifts = (operations @ grid.first - grid.first) / grid.step
    reach = np.array(grid.shape, dtype=np.float64)
    missed = np.abs(turns - np.rint(turns)) @ reach + np.abs(shifts - np.rint(shifts))
    return turns, shifts, np.all(missed < _MISS, axis=1)


def images(grid: Grid, operations: NDArray[Any]) -> Images:
    """Maps of voxel indices of the operations (n, 3, 3) on hkl, the first the identity."""
    turns, shifts, whole = index_maps(grid, operations)
    exact = operations[whole]
    reached = {op.tobytes() for op in exact}
    rest = []
    for i in np.flatnonzero(~whole):
        if operations[i].tobytes() not in reached:
            rest.append(i)
            reached |= {np.ascontiguousarray(op @ operations[i]).tobytes() for op in exact}
    # The inversion next: half of all voxels need look no further.
    order = np.argsort([np.abs(op + np.eye(3)).sum() for op in exact], kind="stable")
    order = np.concatenate([[0], order[order != 0]])
    return Images(
        np.rint(turns[whole]).astype(np.int64)[order],
        np.rint(shifts[whole]).astype(np.int64)[order],
        turns[rest],
        shifts[rest],
    )


def require_metric(cell: ArrayLike, operations: NDArray[Any], symbol: str) -> None:
    """Refuse a group whose operations change the lengths of hkl.

    Raises
    ------
    HklflowError
        If the cell is not, within 5 % of squares of lengths, one of the group's.
    """
    b = lattice.b_matrix(cell)
    metric = b.T @ b
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    turned = operations.transpose(0, 2, 1) @ metric @ operations
    if np.max(np.abs(turned - metric) / scale) > _STRAIN:
        numbers = " ".join(f"{x:.3f}" for x in np.asarray(cell, dtype=np.float64))
        raise HklflowError(
            f"symmetry {symbol!r} does not go with the cell {numbers}: its operations would take Q "
            "to other lengths; name a space group in the setting of this cell"
        )


def leave_out_unusable(parts: list[NDArray[Any]]) -> NDArray[np.int64]:
    """Make voxels not measured, in place, that would spoil the sums of all their equivalents.

    Those are voxels with a norm or variance that is negative or not finite, and counts that are
    not finite.

    Parameters
    ----------
    parts : list of (n, ...) arrays
        Counts, norm and, if there is one, variance of n volumes; all are 0 afterwards where one
        of them was such.

    Returns
    -------
    (n,) int array
        Number of such voxels in each volume; those of norm 0 were not measured anyhow.
    """
    # Least and largest say whether there are any (NaN is passed on), without a mask.
    ends = [(part.min(), part.max()) for part in parts]
    if np.all(np.isfinite(ends)) and all(least >= 0 for least, _ in ends[1:]):
        return np.zeros(len(parts[0]), np.int64)
    bad = ~np.isfinite(parts[0])
    for part in parts[1:]:
        bad |= ~(np.isfinite(part) & (part >= 0))
    told = bad & (parts[1] != 0)
    for part in parts:
        part[bad] = 0
    return np.asarray(told.reshape(len(told), -1).sum(axis=1), dtype=np.int64)


class Records:
    """Counts, norm and variance of several volumes, and the maps, in bricks.

    Parameters
    ----------
    grid : Grid
    n_volumes : int
    noisy : bool
        Whether the counts have variances of their own.
    whole : bool
        Counts as uint32 beside single-precision norms; else all is double precision.
    dealt : bool
        Whether there are operations that are not exact: they need a second set of sums.
    shared : mmap, optional
        Keep them in this mapping of a file, of `size_of` bytes that are 0, instead of in memory.
    """

    def __init__(
        self,
        grid: Grid,
        n_volumes: int,
        noisy: bool,
        whole: bool,
        dealt: bool,
        shared: mmap.mmap | None = None,
    ) -> None:
        self.grid, self.n_volumes, self.noisy = grid, n_volumes, noisy
        self.words, self.fields = self._words(n_volumes, noisy, dealt)
        #: Bricks along h, k, l.
        self.bricks = tuple(-(-n // EDGE) for n in grid.shape)
        n_h, n_k, _ = self.bricks
        self.strides = (kernels.BRICK * n_h - 64, kernels.BRICK * n_h * n_k - kernels.BRICK)
        size = int(np.prod(self.bricks)) * kernels.BRICK
        integer, real = (np.uint32, np.float32) if whole else (np.float64, np.float64)
        records = size * self.fields * np.dtype(real).itemsize
        self._in_file = shared is not None
        if shared is None:
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            shared = mmap.mmap(-1, records + 5 * size, flags=private)
        self._memory = shared
        every = np.frombuffer(self._memory, np.uint8)
        self.counts: NDArray[Any] = every[:records].view(integer)
        self.norm: NDArray[Any] = every[:records].view(real)
        self.disagreement = every[records : records + 4 * size].view(np.float32)
        self.multiplicity = every[records + 4 * size :]
        # Word of the sums: dealt ones are behind those they are made of.
        self._result = 0

    @staticmethod
    def _words(n_volumes: int, noisy: bool, dealt: bool) -> tuple[int, int]:
        words = 3 if noisy else 2
        return words, words * max(n_volumes, 2 if dealt else 1)

    @classmethod
    def size_of(cls, grid: Grid, n_volumes: int, noisy: bool, whole: bool, dealt: bool) -> int:
        """Bytes that they take."""
        bricks = int(np.prod([-(-n // EDGE) for n in grid.shape]))
        _, fields = cls._words(n_volumes, noisy, dealt)
        return bricks * kernels.BRICK * (fields * (4 if whole else 8) + 5)

    def put(self, first: tuple[int, int], parts: list[NDArray[Any]]) -> float:
        """Take counts, norm and variance (n, l, k, h) of all volumes from a plane and row on.

        Returns
        -------
        float
            Largest count.
        """
        sizes = self.fields, self.words
        largest = kernels.put(parts[0], self.counts, *sizes, 0, first, self.strides)
        for word in range(1, self.words):
            kernels.put(parts[word], self.norm, *sizes, word, first, self.strides)
        self.give_back()
        return float(largest)

    def planes(self, first: int, last: int) -> list[Floats]:
        """Counts, norm and variance (last - first, k, h) of the first volume or of the sums."""
        found = []
        for word in range(self.words):
            target = np.empty((last - first, *self.grid.array_shape[1:]))
            source = self.norm if word else self.counts
            kernels.take(source, self.fields, self._result + word, first, self.strides, target)
            found.append(target)
        return found

    def maps(self, first: int, last: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Multiplicity and disagreement (last - first, k, h)."""
        shape = (last - first, *self.grid.array_shape[1:])
        many, chi2 = np.empty(shape, np.uint8), np.empty(shape, np.float32)
        kernels.take(self.multiplicity, 1, 0, first, self.strides, many)
        kernels.take(self.disagreement, 1, 0, first, self.strides, chi2)
        self.give_back()
        return many, chi2

    def give_back(self) -> None:
        """Let go of pages of a file; what was written to them stays in it."""
        if self._in_file:
            self._memory.madvise(mmap.MADV_DONTNEED)

    def use_dealt(self) -> None:
        """From now on `planes` gives what `kernels.deal` made."""
        self._result = self.words


@dataclass(frozen=True)
class Agreement:
    """How equivalents agree, by shell of |Q|; all but coverage without the surroundings of Bragg.

    Attributes
    ----------
    edges : (n + 1,) array
        1/Å.
    table : (n, columns) array
        See `symmetrise_kernels`.
    rejected : (volumes,) int array
        Observations of each volume that were left out.
    """

    edges: Floats
    table: Floats
    rejected: Integers

    def total(self, column: int) -> float:
        """Sum over all shells."""
        return float(self.table[:, column].sum())

    def ratio(self, above: int, below: int) -> Floats:
        """Quotient (n,) of two columns, NaN where nothing is."""
        part, whole = self.table[:, above], self.table[:, below]
        return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)

    @property
    def coverage(self) -> tuple[Floats, Floats]:
        """Measured fraction of each shell before and after."""
        return (
            self.ratio(kernels.BEFORE, kernels.INSIDE),
            self.ratio(kernels.AFTER, kernels.INSIDE),
        )

    @property
    def half_correlation(self) -> Floats:
        """CC1/2 (n,): correlation of S from two halves of the observations of each orbit.

        Weighted with the norm, for orbits of little exposure are noise; NaN below 10 orbits.
        """
        return _correlation(self.table)

    @property
    def overall_half_correlation(self) -> float:
        """Mean CC1/2 of the shells, weighted with their orbits; NaN if no shell has one.

        That of all orbits together would be high for the fall of S with |Q| alone.
        """
        found, orbits = self.half_correlation, self.table[:, kernels.PAIRS]
        known = np.isfinite(found)
        return float(np.average(found[known], weights=orbits[known])) if known.any() else np.nan


def _correlation(rows: Floats) -> Floats:
    w, x, y, xx, yy, xy = rows[:, kernels.W : kernels.XY + 1].T
    enough = (rows[:, kernels.PAIRS] >= 10) & (w > 0)
    w = np.where(enough, w, 1.0)
    square = (xx / w - (x / w) ** 2) * (yy / w - (y / w) ** 2)
    good = enough & (square > 0)
    across = xy / w - x * y / w**2
    return np.divide(across, np.sqrt(np.abs(square)), out=np.full(len(w), np.nan), where=good)


def apply(
    records: Records,
    maps: Images,
    cell: ArrayLike,
    *,
    n_sigma: float,
    tolerance: float,
    bragg_radius: float,
    n_shells: int = 50,
    threads: int = 1,
    progress: Callable[[Iterable[Any], int], Iterator[Any]] = lambda items, _: iter(items),
) -> Agreement:
    """Sum equivalents, in place; the same to the bit for any number of threads.

    Parameters
    ----------
    cell : (6,) array
        Å and degrees.
    n_sigma, tolerance
        See `symmetrise_kernels.reject`.
    bragg_radius : float
        1/Å; nothing is rejected or judged in voxels that reach so close to integer hkl; 0: all are.
    progress : callable
        Is given the tasks and their number.
    """
    grid = records.grid
    b = lattice.b_matrix(cell)
    diagonals = (grid.step * np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])) @ b.T
    near = bragg_radius + float(np.linalg.norm(diagonals, axis=1).max()) / 2
    near = near if bragg_radius > 0 else 0.0
    ends = [(grid.axis(i)[0], grid.axis(i)[-1]) for i in range(3)]
    corners = np.stack(np.meshgrid(*ends), -1).reshape(-1, 3)
    far = max(float(np.linalg.norm(corners @ b.T, axis=1).max()), 1e-6)
    edges = np.linspace(0, far * (1 + 1e-9), n_shells + 1)
    n_bricks = int(np.prod(records.bricks))
    tasks = [(i, min(i + _TASK, n_bricks)) for i in range(0, n_bricks, _TASK)]
    place = (grid.shape, records.strides, maps.turns, maps.shifts)
    where = ((grid.first, grid.step), b.T @ b, 1 / edges[1])

    def combine(bricks: tuple[int, int]) -> tuple[Floats, Integers]:
        table = np.zeros((n_shells, kernels.COLUMNS))
        rejected = np.zeros(records.n_volumes, np.int64)
        kernels.combine(
            records.counts,
            records.norm,
            records.fields,
            records.noisy,
            records.disagreement,
            records.multiplicity,
            bricks,
            *place,
            *where,
            near,
            n_sigma**2,
            tolerance,
            table,
            rejected,
        )
        records.give_back()
        return table, rejected

    def deal(bricks: tuple[int, int]) -> Floats:
        table = np.zeros((n_shells, kernels.COLUMNS))
        kernels.deal(
            records.norm,
            records.fields,
            records.words,
            bricks,
            *place,
            maps.dealt_turns,
            maps.dealt_shifts,
            *where,
            table,
        )
        records.give_back()
        return table

    total, out = np.zeros((n_shells, kernels.COLUMNS)), np.zeros(records.n_volumes, np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for table, rejected in progress(pool.map(combine, tasks), len(tasks)):
            total += table
            out += rejected
        if not maps.exact:
            total[:, kernels.AFTER] = 0
            for table in progress(pool.map(deal, tasks), len(tasks)):
                total += table
            records.use_dealt()
    return Agreement(edges, total, out)
