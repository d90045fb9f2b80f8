"""Sums of counts and norm over voxels that a Laue group makes equivalent.

An operation W of the group is exact if it maps voxel centres onto voxel centres. An exact operation
is a map of indices, ``i' = (step⁻¹ W step) i + step⁻¹ (W first - first)``. The exact operations
form a group. Each orbit of this group is summed once over its distinct voxels, and all these voxels
get the sum. The other operations map voxels to positions between voxel centres. For these, the
counts and norms of the eight voxels around the position are added with trilinear weights. Voxels
outside the grid are left out.

Memory contains one record for each voxel, with all volumes, in bricks of 8 × 8 × 8 voxels. The
voxels of an orbit and their neighbours are then on a few pages of memory (or of a file, if the
memory is too small).
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
from hklflow.volumes import orbit_kernels
from hklflow.volumes import symmetrise_kernels as kernels

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

#: Number of bricks of one task; after each task, pages of a file are released.
_TASK = 128
# Largest distance, in voxels, of an image from a voxel centre at the far end of the grid.
_MISS = 1e-3
# Largest relative change of squares of lengths by an operation of the group.
_STRAIN = 0.05


@dataclass(frozen=True)
class Images:
    """Maps of voxel indices for the operations of a Laue group.

    Attributes
    ----------
    turns, shifts : (n, 3, 3), (n, 3) int arrays
        ``i' = turns i + shifts`` for the n exact operations; the first is the identity.
    dealt_turns, dealt_shifts : (m, 3, 3), (m, 3) arrays
        Maps of the other operations, one of each coset of the exact operations.
    """

    turns: Integers
    shifts: Integers
    dealt_turns: Floats
    dealt_shifts: Floats

    @property
    def exact(self) -> bool:
        """True if all operations map voxel centres onto voxel centres."""
        return len(self.dealt_turns) == 0


def index_maps(grid: Grid, operations: NDArray[Any]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return the maps of voxel indices (h, k, l) of operations on hkl: ``i' = turns i + shifts``.

    Parameters
    ----------
    operations : (n, 3, 3) array
        Operations on hkl.

    Returns
    -------
    turns, shifts : (n, 3, 3), (n, 3) float arrays
    whole : (n,) bool array
        True for operations that map voxel centres onto voxel centres in the whole grid; then
        ``turns`` and ``shifts`` are integers up to rounding.
    """
    turns = operations * grid.step[None, None, :] / grid.step[None, :, None]
    shifts = (operations @ grid.first - grid.first) / grid.step
    reach = np.array(grid.shape, dtype=np.float64)
    missed = np.abs(turns - np.rint(turns)) @ reach + np.abs(shifts - np.rint(shifts))
    return turns, shifts, np.all(missed < _MISS, axis=1)


def images(grid: Grid, operations: NDArray[Any]) -> Images:
    """Return the maps of voxel indices of operations (n, 3, 3) on hkl; the identity comes first."""
    turns, shifts, is_exact = index_maps(grid, operations)
    exact = operations[is_exact]
    reached = {op.tobytes() for op in exact}
    cosets = []
    for i in np.flatnonzero(~is_exact):
        if operations[i].tobytes() not in reached:
            cosets.append(i)
            reached |= {np.ascontiguousarray(op @ operations[i]).tobytes() for op in exact}
    # The inversion comes next, because it decides for half of all voxels.
    order = np.argsort([np.abs(op + np.eye(3)).sum() for op in exact], kind="stable")
    order = np.concatenate([[0], order[order != 0]])
    return Images(
        np.rint(turns[is_exact]).astype(np.int64)[order],
        np.rint(shifts[is_exact]).astype(np.int64)[order],
        turns[cosets],
        shifts[cosets],
    )


def require_metric(cell: ArrayLike, operations: NDArray[Any], symbol: str) -> None:
    """Refuse a group whose operations change the lengths of hkl.

    Raises
    ------
    HklflowError
        If an operation changes squares of lengths by more than 5 %.
    """
    b = lattice.b_matrix(cell)
    metric = b.T @ b
    scale = np.sqrt(np.outer(np.diag(metric), np.diag(metric)))
    mapped = operations.transpose(0, 2, 1) @ metric @ operations
    if np.max(np.abs(mapped - metric) / scale) > _STRAIN:
        numbers = " ".join(f"{x:.3f}" for x in np.asarray(cell, dtype=np.float64))
        raise HklflowError(
            f"symmetry {symbol!r} does not match the cell {numbers}: its operations would change "
            "the length of Q; give a space group in the setting of this cell"
        )


def leave_out_unusable(parts: list[NDArray[Any]]) -> NDArray[np.int64]:
    """Mark unusable voxels as not measured, in place; sums with such voxels would be wrong.

    A voxel is unusable if its counts are not finite, or its norm or variance is negative or not
    finite.

    Parameters
    ----------
    parts : list of (n, ...) arrays
        Counts, norm and, if there is one, variance of n volumes; all are set to 0 for unusable
        voxels.

    Returns
    -------
    (n,) int array
        Number of unusable voxels in each volume, without voxels of norm 0 (not measured).
    """
    # Fast test: the minimum and maximum of an array with NaN are NaN.
    ends = [(part.min(), part.max()) for part in parts]
    if np.all(np.isfinite(ends)) and all(least >= 0 for least, _ in ends[1:]):
        return np.zeros(len(parts[0]), np.int64)
    bad = ~np.isfinite(parts[0])
    for part in parts[1:]:
        bad |= ~(np.isfinite(part) & (part >= 0))
    measured = bad & (parts[1] != 0)
    for part in parts:
        part[bad] = 0
    return np.asarray(measured.reshape(len(measured), -1).sum(axis=1), dtype=np.int64)


class Records:
    """Counts, norm and variance of several volumes, multiplicity and disagreement, in bricks.

    Parameters
    ----------
    grid : Grid
    n_volumes : int
    noisy : bool
        True if the variance is stored in addition to the counts (read noise).
    whole : bool
        True: counts in uint32 and norms in single precision; False: all in double precision.
    dealt : bool
        True if there are operations that are not exact, which need a second set of sums.
    shared : mmap, optional
        Mapping of a file with `size_of` zero bytes for the records. None: the records are in
        memory.
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
        #: Number of bricks along h, k, l.
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
        # First word of the sums. The sums of `kernels.deal` are behind the sums of `combine`.
        self._result = 0

    @staticmethod
    def _words(n_volumes: int, noisy: bool, dealt: bool) -> tuple[int, int]:
        words = 3 if noisy else 2
        return words, words * max(n_volumes, 2 if dealt else 1)

    @classmethod
    def size_of(cls, grid: Grid, n_volumes: int, noisy: bool, whole: bool, dealt: bool) -> int:
        """Return the size of the records in bytes."""
        bricks = int(np.prod([-(-n // EDGE) for n in grid.shape]))
        _, fields = cls._words(n_volumes, noisy, dealt)
        return bricks * kernels.BRICK * (fields * (4 if whole else 8) + 5)

    @property
    def words_of_voxels(self) -> kernels.Words:
        """Records as kernels need them."""
        return kernels.Words(self.counts, self.norm, self.fields, self.noisy)

    def put(self, first: tuple[int, int], parts: list[NDArray[Any]]) -> float:
        """Store counts, norm and variance (n, l, k, h) of all volumes.

        Parameters
        ----------
        first : (int, int)
            First plane and first row of ``parts``.

        Returns
        -------
        float
            Largest count.
        """
        counts, norm, variance = [*parts, parts[1]][:3]
        kernels.put(counts, norm, variance, self.words_of_voxels, first, self.strides)
        self.give_back()
        return float(counts.max())

    def planes(self, first: int, last: int) -> list[Floats]:
        """Return counts, norm and variance (last - first, k, h) of the first volume or the sums."""
        counts, *others = np.empty((self.words, last - first, *self.grid.array_shape[1:]))
        records = self.words_of_voxels
        kernels.take_sums(records, self._result, first, self.strides, counts, tuple(others))
        return [counts, *others]

    def maps(self, first: int, last: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Return multiplicity and disagreement (last - first, k, h)."""
        shape = (last - first, *self.grid.array_shape[1:])
        many, chi2 = np.empty(shape, np.uint8), np.empty(shape, np.float32)
        kernels.take(self.multiplicity, first, self.strides, many)
        kernels.take(self.disagreement, first, self.strides, chi2)
        self.give_back()
        return many, chi2

    def give_back(self) -> None:
        """Release the memory pages of a file; the file keeps their content."""
        if self._in_file:
            self._memory.madvise(mmap.MADV_DONTNEED)

    def use_dealt(self) -> None:
        """Let `planes` return the sums of `kernels.deal` from now on."""
        self._result = self.words


@dataclass(frozen=True)
class Agreement:
    """Agreement of equivalents in shells of |Q|; only the coverage includes Bragg surroundings.

    Attributes
    ----------
    edges : (n + 1,) array
        Edges of the shells, 1/Å.
    table : (n, columns) array
        Statistics of the shells; the columns are defined in `symmetrise_kernels`.
    rejected : (volumes,) int array
        Number of rejected observations of each volume.
    """

    edges: Floats
    table: Floats
    rejected: Integers

    def total(self, column: int) -> float:
        """Return the sum over all shells."""
        return float(self.table[:, column].sum())

    def ratio(self, above: int, below: int) -> Floats:
        """Return the quotient (n,) of two columns, NaN for empty shells."""
        part, divisor = self.table[:, above], self.table[:, below]
        return np.divide(part, divisor, out=np.full(len(part), np.nan), where=divisor > 0)

    @property
    def coverage(self) -> tuple[Floats, Floats]:
        """Measured fraction of each shell before and after symmetrising."""
        return (
            self.ratio(kernels.BEFORE, kernels.INSIDE),
            self.ratio(kernels.AFTER, kernels.INSIDE),
        )

    @property
    def half_correlation(self) -> Floats:
        """CC1/2 (n,): correlation of S from two halves of the observations of each orbit.

        Orbits are weighted with the norm, because orbits with little exposure are mostly noise.
        CC1/2 is NaN for fewer than 10 orbits.
        """
        return _correlation(self.table)

    @property
    def overall_half_correlation(self) -> float:
        """Mean CC1/2 of the shells, weighted with the number of orbits; NaN if no shell has CC1/2.

        The CC1/2 of all orbits together would be high only because S decreases with |Q|.
        """
        halves, orbits = self.half_correlation, self.table[:, kernels.PAIRS]
        known = np.isfinite(halves)
        return float(np.average(halves[known], weights=orbits[known])) if known.any() else np.nan


def _correlation(rows: Floats) -> Floats:
    w, x, y, xx, yy, xy = rows[:, kernels.W : kernels.WXY + 1].T
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
    """Sum equivalents, in place; the result does not depend on the number of threads.

    Parameters
    ----------
    records : Records
    maps : Images
    cell : (6,) array
        Å and degrees.
    n_sigma, tolerance
        See `symmetrise_kernels.reject`.
    bragg_radius : float
        Voxels that reach closer than this distance (1/Å) to integer hkl are not judged, and their
        observations are not rejected; 0: all voxels are judged.
    progress : callable
        Function that gets the tasks and the number of tasks.
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
    words = records.words_of_voxels
    filled = kernels.Maps(records.disagreement, records.multiplicity)
    orbits = kernels.Orbits(grid.shape, records.strides, maps.turns, maps.shifts)
    dealt = kernels.Dealt(maps.dealt_turns, maps.dealt_shifts)
    shells = kernels.Shells((grid.first, grid.step), b.T @ b, 1 / edges[1])
    judge = kernels.Judge(near, n_sigma**2, tolerance)

    def combine(bricks: tuple[int, int]) -> tuple[Floats, Integers]:
        table = np.zeros((n_shells, kernels.COLUMNS))
        rejected = np.zeros(records.n_volumes, np.int64)
        orbit_kernels.combine(words, filled, bricks, orbits, shells, judge, table, rejected)
        records.give_back()
        return table, rejected

    def deal(bricks: tuple[int, int]) -> Floats:
        table = np.zeros((n_shells, kernels.COLUMNS))
        kernels.deal(
            records.norm, records.fields, records.words, bricks, orbits, dealt, shells, table
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
