r"""Average of the diffuse scattering over all zones, in one cell of the reciprocal lattice.

Diffuse features are periodic in the reciprocal lattice in their positions, though not in their
intensities. S(Q) without its profile in \|Q\| (background, powder rings) and without its mean over
the unit cell around each voxel is averaged over all zones, with weights 1/σ², and over the Laue
group. Voxels in Bragg reflections are left out.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hklflow.geometry.grid import Grid
from hklflow.series import fold_kernels, kernels
from hklflow.series.feature_copies import Region
from hklflow.series.feature_voxels import orbit_keys
from hklflow.series.features import Lattice
from hklflow.series.resolution import Resolution

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Read = Callable[[Region], tuple[Floats, Floats]]

_MOST_BINS = 50  # bins of the cell along an axis, per r.l.u.
_GROUPS = 8  # groups of zones for the jack-knife
_LEAST = 0.3  # smallest measured share of the unit cell around a voxel
_REACH = 5.0  # standard deviations of the resolution at which a reflection ends
_SAMPLE = 4_000_000  # voxels from which the profile in |Q| is made
_TRIM = 0.8  # share of the voxels of a shell, the weakest, whose mean is its profile
_SLAB = 4_000_000  # voxels of a slab


@dataclass(frozen=True)
class Cell:
    """Bins of one cell of the reciprocal lattice; of 2 or 3 r.l.u. if the lattice is centred.

    Attributes
    ----------
    lattice : Lattice
    period : int
        Length of the cell along h, k and l, r.l.u.
    shape : (3,) tuple of int
        Bins along l, k, h.
    points : (n, 3) array
        Centres of the bins, hkl, in C order of (l, k, h).
    images : (m, n) array
        Bin to which each operation, with each translation of the cell, takes each bin.
    operations, translations : (m, 3, 3) and (m, 3) arrays
        ``W`` and ``t`` of the images: ``W hkl + t``.
    orbit : (n,) array
        Number of the first equivalent bin.
    nearest : (n, 3) array
        Offset from the nearest reflection, hkl.
    """

    lattice: Lattice
    period: int
    shape: tuple[int, int, int]
    points: Floats
    images: Integers
    operations: Floats
    translations: Floats
    orbit: Integers
    nearest: Floats

    @property
    def distance(self) -> Floats:
        """Distance (n,) of the bins from the nearest reflection, 1/Å."""
        square = np.einsum("ni,ij,nj->n", self.nearest, self.lattice.metric, self.nearest)
        return np.asarray(np.sqrt(np.maximum(square, 0)))

    def bins(self, axis: Floats, i: int) -> Integers:
        """Return the bins of coordinates along h, k or l (i = 0, 1, 2)."""
        n = self.shape[2 - i]
        return np.asarray(np.rint(axis * n / self.period).astype(np.int64) % n)

    def averaged(self, values: Floats) -> Floats:
        """Return the mean over all operations of values (n,) of the bins."""
        return np.asarray(np.mean([values[image] for image in self.images], axis=0))


def cell_of(grid: Grid, lattice: Lattice) -> Cell:
    """Return the cell in which volumes on a grid are averaged."""
    period = {"P": 1, "": 1, "R": 3, "H": 3}.get(lattice.centring, 2)
    both = np.concatenate([lattice.operations, -lattice.operations])
    unique = np.unique(np.round(both, 6) + 0.0, axis=0)
    each = np.minimum(np.floor(1 / grid.step + 1e-6), _MOST_BINS).astype(int)
    # Axes that operations mix have the same number of bins.
    mixed = np.abs(unique).max(axis=0) > 0
    for _ in range(2):
        each = np.array([each[row].min() for row in mixed])
    number = each * period
    index = np.stack(
        np.meshgrid(*(np.arange(n) for n in number[::-1]), indexing="ij"), axis=-1
    ).reshape(-1, 3)[:, ::-1]
    nodes = np.array(list(itertools.product(range(period), repeat=3)), dtype=np.float64)
    nodes = nodes[lattice.allowed(nodes)]
    images, operations, translations = [], [], []
    for operation, node in itertools.product(unique, nodes):
        place = np.rint(index @ operation.T + node * each).astype(np.int64) % number
        images.append((place[:, 2] * number[1] + place[:, 1]) * number[0] + place[:, 0])
        operations.append(operation)
        translations.append(node)
    points = index / each
    return Cell(
        lattice=lattice,
        period=period,
        shape=(int(number[2]), int(number[1]), int(number[0])),
        points=points,
        images=np.array(images),
        operations=np.array(operations),
        translations=np.array(translations),
        orbit=np.min(images, axis=0),
        nearest=np.concatenate([lattice.folded(x) for x in np.array_split(points, 50)]),
    )


@dataclass(frozen=True)
class ZoneAverage:
    """Mean of the diffuse scattering over zones, in the bins of a cell.

    Attributes
    ----------
    cell : Cell
    mean, variance : (n,) arrays
        NaN where nothing was measured. The variance is that of noise, and larger if zones differ
        by more.
    without : (g, n) array
        Mean without each group of zones.
    groups, group_variance : (g, n) arrays
        Mean of each group and its variance; NaN where nothing was measured.
    level : float
        Mean of S.
    """

    cell: Cell
    mean: Floats
    variance: Floats
    without: Floats
    groups: Floats
    group_variance: Floats
    level: float


def zone_average(
    read: Read, grid: Grid, lattice: Lattice, resolution: Resolution, symmetrised: bool
) -> ZoneAverage:
    """Return the average of a volume over its zones.

    Parameters
    ----------
    read : function
        Returns S and σ, NaN if not measured, of a part (l, k, h) of the volume.
    symmetrised : bool
        True if equivalent voxels are equal; then one of each set is counted.
    """
    cell = cell_of(grid, lattice)
    axes = [grid.axis(i) for i in range(3)]
    bins = [cell.bins(axis, i) for i, axis in enumerate(axes)]
    whole = [np.floor(axis + 0.5 + 1e-9).astype(np.int64) for axis in axes]
    zones = [x - x[0] for x in whole]
    group = _groups([np.arange(x[0], x[-1] + 1) for x in whole], lattice)
    profile, width, level, unit = _profile(read, grid, lattice)
    sums = np.zeros((int(group.max()) + 1, 3, *cell.shape))
    nearest = cell.nearest.reshape(*cell.shape, 3)
    reach = _REACH * np.sqrt(np.diag(resolution.covariance))
    key = np.array([1.0, np.sqrt(2.0), np.sqrt(3.0)])
    keys = np.array([key, *(key @ operation for operation in lattice.operations)])
    size = [max(int(np.rint(cell.period / step)), 2) for step in grid.step[::-1]]
    for region, first, last in _slabs(grid, size[0] // 2 + 1):
        data, sigma = read((region, slice(None), slice(None)))
        shape = data.shape
        own = (*axes[:2], axes[2][region])
        folded = (*bins[:2], bins[2][region])
        residual, variance, good = (np.empty(shape, np.float32) for _ in range(3))
        fold_kernels.residuals(
            data, sigma, *own, *folded, nearest, lattice.metric, reach, resolution.growth,
            grid.step / 2, profile, width, unit, residual, variance, good,
        )  # fmt: skip
        mean, mean_variance, share = (_unit_cell_mean(x, size) for x in (residual, variance, good))
        independent = np.ones(shape, np.bool_)
        if symmetrised:
            kernels.independent(keys, *own, independent)
        fold_kernels.fold(
            residual, variance, good, mean, mean_variance, share, _LEAST, independent, first, last,
            *folded, *zones[:2], zones[2][region], group, sums,
        )  # fmt: skip
    sums[:, 2] *= unit**2
    return _averaged(cell, sums.reshape(len(sums), 3, -1), level)


def _unit_cell_mean(values: NDArray[np.float32], size: list[int]) -> NDArray[np.float32]:
    """Return the mean over boxes of whole periods (n voxels) around each voxel.

    Both ends of an even box count half: otherwise features would leave a ghost half a period away.
    """
    for axis, n in enumerate(size):
        parts = [
            width * ndimage.uniform_filter1d(values, width, axis, mode="constant")
            for width in ((n,) if n % 2 else (n - 1, n + 1))
        ]
        values = np.asarray(np.sum(parts, axis=0) / np.float32(n * len(parts)))
    return values


def _slabs(grid: Grid, margin: int) -> Iterator[tuple[slice, int, int]]:
    """Yield slabs along l with margins, and the planes in them that are counted."""
    n = grid.shape[2]
    planes = max(_SLAB // (grid.shape[0] * grid.shape[1]), margin, 1)
    for start in range(0, n, planes):
        low, high = max(start - margin, 0), min(start + planes + margin, n)
        yield slice(low, high), start - low, min(start + planes, n) - low


def _groups(nodes: list[Integers], lattice: Lattice) -> Integers:
    """Return the group (l, k, h) of each zone; equivalent zones are in the same group."""
    l, k, h = np.meshgrid(*nodes[::-1], indexing="ij")  # noqa: E741
    hkl = np.stack([h, k, l], axis=-1).reshape(-1, 3).astype(np.float64)
    both = np.concatenate([lattice.operations, -lattice.operations])
    _, orbit = np.unique(np.round(orbit_keys(hkl, both), 6), return_inverse=True)
    return np.asarray((orbit % min(_GROUPS, orbit.max() + 1)).reshape(h.shape), dtype=np.int64)


def _profile(read: Read, grid: Grid, lattice: Lattice) -> tuple[Floats, float, float, float]:
    r"""Return the profile of S in \|Q\|, the width of its bins (1/Å), mean of S and median of σ.

    It is the mean of the weaker voxels of each shell, which features and reflections do not change.
    """
    plane = grid.shape[0] * grid.shape[1]
    planes = np.unique(
        np.linspace(0, grid.shape[2] - 1, max(min(_SAMPLE // plane, grid.shape[2]), 2)).astype(int)
    )
    lengths, values, errors = [], [], []
    h, k = np.meshgrid(grid.axis(0), grid.axis(1), indexing="xy")
    for i in planes:
        data, sigma = (x[0] for x in read((slice(i, i + 1), slice(None), slice(None))))
        good = np.isfinite(data) & (sigma > 0)
        hkl = np.stack([h[good], k[good], np.full(good.sum(), grid.axis(2)[i])], axis=1)
        lengths.append(np.sqrt(np.einsum("ni,ij,nj->n", hkl, lattice.metric, hkl)))
        values.append(data[good])
        errors.append(sigma[good])
    q, s = np.concatenate(lengths), np.concatenate(values)
    width = float((grid.step * np.sqrt(np.diag(lattice.metric))).min())
    shell = (q / width).astype(np.int64)
    order = np.lexsort((s, shell))
    counts = np.bincount(shell)
    ends = np.cumsum(counts)
    total = np.concatenate([[0.0], np.cumsum(s[order])])
    starts = ends - counts
    kept = np.maximum((_TRIM * counts).astype(np.int64), 1)
    known = counts >= 20
    mean = (total[starts + np.minimum(kept, counts)] - total[starts]) / kept
    place = np.flatnonzero(known)
    profile = np.interp(np.arange(max(len(counts), 2)), place, mean[place])
    return profile, width, float(np.mean(s)), float(np.median(np.concatenate(errors)))


def _averaged(cell: Cell, sums: Floats, level: float) -> ZoneAverage:
    """Return the means over the Laue group of the sums (groups, 3, n) of zones."""
    # Bins on symmetry elements are counted as often as operations keep them.
    fixed = np.sum(cell.images == np.arange(len(cell.points)), axis=0)
    every = np.array([[cell.averaged(x) for x in group] for group in sums])
    m = len(cell.images) / fixed  # different images

    def ratio(value: Floats, weight: Floats) -> Floats:
        return np.divide(value, weight, out=np.full(value.shape, np.nan), where=weight > 0)

    def noise(part: Floats) -> Floats:
        return ratio(part[..., 2, :] / m, part[..., 1, :] ** 2)

    total = every.sum(axis=0)
    rest = total - every
    # A bin is known if more than a hundredth of the usual weight was measured.
    usual = np.median(total[1][total[1] > 0]) if np.any(total[1] > 0) else 0.0
    mean = np.where(total[1] > 0.01 * usual, ratio(total[0], total[1]), np.nan)
    variance = np.where(np.isfinite(mean), noise(total), np.nan)
    groups, group_variance = ratio(every[:, 0], every[:, 1]), noise(every)
    if len(sums) > 2:
        spread = group_variance - variance
        pulls = ratio((groups - mean) ** 2, np.where(spread > 0, spread, 0.0))
        pulls = pulls[np.isfinite(pulls)]
        # The median of χ² with one degree of freedom is 0.4549.
        usual_pull = float(np.median(pulls)) / 0.4549 if pulls.size else 1.0
        variance = variance * max(usual_pull, 1.0)
    without = ratio(rest[:, 0], rest[:, 1])
    return ZoneAverage(cell, mean, variance, without, groups, group_variance, level)
