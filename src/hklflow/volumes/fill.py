"""Fill holes of S(Q): punched Bragg reflections and unmeasured voxels.

Punched voxels that touch form one hole, and so do unmeasured voxels that touch. A hole is filled as
a whole. Holes of the same shape share a `Pattern`: the voxels of the hole, the measured voxels
around them (support), and the `Kriging` from support to hole. If all equivalents of the holes are
also holes, only one hole of each set of equivalents is filled and copied to the others. Holes
larger than ``_LARGEST`` voxels, and holes with too small a measured support, get the level of their
shell of |Q| plus a smooth correction.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.volumes import fill_kernels as kernels
from hklflow.volumes.cubes import halved, interpolated
from hklflow.volumes.kriging import Kriging
from hklflow.volumes.symmetrise import index_maps

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

MEASURED, PUNCHED, UNMEASURED, LEFT = 0, 1, 2, 3

#: Covariance and order of the drift of the krigings that are compared.
MODELS = {
    "kriging (Gaussian, linear drift)": ("gaussian", 1),
    "kriging (Matérn, linear drift)": ("matern", 1),
    "kriging (Gaussian, constant drift)": ("gaussian", 0),
}
BEST = next(iter(MODELS))
#: The kriging that no control holes judge: a Gaussian covariance extrapolates the flanks of a sharp
#: maximum far below zero.
UNJUDGED = "kriging (Matérn, linear drift)"

_LARGEST = 3000  # largest number of voxels of a hole that is kriged
_BATCH = 256  # holes that are filled at a time
# Support of a rough fill, of a rare shape and of a common shape, in voxels (the time of the
# decomposition grows with the third power), and smallest number of holes of a common shape.
_ROUGH, _FEW, _MANY, _RARE = 150, 400, 800, 8
_USUAL = 0.8  # part of the voxels, in the most common shapes, that a rough fill does not save at
_SHAPES = 8  # number of shapes that get the larger support even if they are rare
_MOSTLY = 0.8  # if a smaller part of the support was measured, a hole gets its own decomposition


@dataclass
class Target:
    """Volume that is filled in place.

    Attributes
    ----------
    data, errors : (l, k, h) float32 arrays
        S and σ, NaN where not measured.
    code : (l, k, h) uint8 array
        MEASURED, PUNCHED (to be filled), UNMEASURED (to be filled) or LEFT.
    grid : Grid
    cell : (6,) array
    operations : (n, 3, 3) int array
        Operations of the Laue group on hkl.
    images : (m, 3, 4) int array
        Operations that map voxel centres onto voxel centres, on indices (h, k, l, 1).
    """

    data: NDArray[np.float32]
    errors: NDArray[np.float32]
    code: NDArray[np.uint8]
    grid: Grid
    cell: Floats
    operations: NDArray[np.int64]
    images: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        matrices, shifts, exact = index_maps(self.grid, self.operations)
        maps = np.concatenate([matrices, shifts[:, :, None]], axis=2)[exact]
        self.images = np.rint(maps).astype(np.int64)

    @property
    def edges(self) -> Floats:
        """Edges of a voxel (3, 3) in 1/Å; the rows are the steps along l, k, h."""
        rows: Floats = (lattice.b_matrix(self.cell) * self.grid.step).T[::-1]
        return rows


@dataclass(frozen=True)
class Holes:
    """Holes of one shape.

    Attributes
    ----------
    voxels : (n, 3) int array
        Voxels of a hole, (l, k, h) relative to the first voxel of the hole.
    bases : (m, 3) int array
        First voxel of each of the m holes.
    """

    voxels: Indices
    bases: Indices


def find_holes(target: Target, voxels: Indices) -> list[Holes]:
    """Find holes (connected voxels), sorted by shape; large holes are left out.

    If all images of a hole are also holes, only one hole of the set is returned.

    Parameters
    ----------
    voxels : (n,) int array
        Flat numbers of the voxels in holes, ascending.
    """
    shape = target.code.shape
    hole = kernels.connected(voxels, shape)
    order = np.argsort(hole, kind="stable")
    voxels, hole = voxels[order], hole[order]
    first = np.flatnonzero(np.diff(hole, prepend=-1))
    if not len(first):
        return []
    if kernels.is_symmetric(target.code, voxels, target.images):
        least = np.minimum.reduceat(kernels.canonical(voxels, target.images, shape), first)
        unique = least == voxels[first]
    else:
        unique = np.ones(len(first), bool)
    sizes = np.diff(np.append(first, len(voxels)))
    holes: list[Holes] = []
    for size in np.unique(sizes[unique & (sizes <= _LARGEST)]):
        starts = first[unique & (sizes == size)]
        members = voxels[starts[:, None] + np.arange(size)]
        # Holes are connected and small, so the numbers relative to the first voxel give the shape.
        kinds, which = np.unique(members - members[:, :1], axis=0, return_inverse=True)
        which = which.reshape(-1)
        for i in range(len(kinds)):
            alike = members[which == i]
            corner = np.stack(np.unravel_index(alike[0], shape), axis=1)
            bases = np.stack(np.unravel_index(alike[:, 0], shape), axis=1)
            holes.append(Holes(corner - corner[0], bases))
    return holes


def support_of(voxels: Indices, edges: Floats, most: int) -> Indices:
    """Return the voxels (m, 3) nearest to a hole, at most ``most``.

    Voxels at the same distance are either all returned or all left out. At least the voxels within
    the longest edge of a voxel are taken; of a layer with more than ``most`` voxels, every n-th.
    """
    from scipy.spatial import cKDTree

    lengths = np.linalg.norm(edges, axis=1)
    # This box is so wide that all voxels outside are farther away than the chosen voxels.
    reach = lengths.max() * (1 + (most / 4.0) ** (1 / 3))
    # In an oblique lattice, the distance between planes is smaller than the edges.
    margin = np.ceil(reach * np.linalg.norm(np.linalg.inv(edges), axis=0)).astype(int)
    low, high = voxels.min(axis=0) - margin, voxels.max(axis=0) + margin
    ranges = (np.arange(a, b + 1) for a, b in zip(low, high, strict=True))
    candidates = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    distance, _ = cKDTree(voxels @ edges).query(candidates @ edges, distance_upper_bound=reach)
    distance = np.round(distance / lengths.max(), 6)
    outside = (distance > 0) & np.isfinite(distance)
    levels, counts = np.unique(distance[outside], return_counts=True)
    enough = levels[np.cumsum(counts) <= most]
    width = max(float(enough[-1]) if len(enough) else 0.0, 1.0)
    near = candidates[outside & (distance <= width)]
    return near[near.sum(axis=1) % -(-len(near) // most) == 0] if len(near) > most else near


def most_of(voxels: int, common: bool) -> int:
    """Return the largest support, in voxels, of a hole of ``voxels`` voxels."""
    return min(_MANY if common else _FEW, max(120, 3 * voxels))


class Pattern:
    """Shape of a hole, with its support and the kriging from support to hole.

    Parameters
    ----------
    voxels, support : (n, 3), (m, 3) int arrays
        (l, k, h) relative to the first voxel of the hole.
    edges : (3, 3) array
    model : str
        One of `MODELS`.
    """

    def __init__(self, voxels: Indices, support: Indices, edges: Floats, model: str) -> None:
        self.voxels, self.support = voxels, support
        covariance, drift = MODELS[model]
        self.kriging = Kriging(voxels @ edges, support @ edges, covariance, drift)

    def measured(self, target: Target, bases: Indices) -> tuple[Floats, Floats]:
        """Return S and σ (holes, m) of the support."""
        values, sigma = np.empty((2, len(bases), len(self.support)))
        arrays = target.data, target.errors, target.code
        kernels.gather(*arrays, bases, self.support, values, sigma)
        return values, sigma

    def twins(self, target: Target, bases: Indices) -> Indices:
        """Return a number for each support voxel (holes, m); equivalents have the same number."""
        shape = np.array(target.data.shape)
        places = bases[:, None] + self.support
        numbers = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), tuple(shape), mode="clip")
        least = kernels.canonical(numbers.ravel(), target.images, target.data.shape)
        least = least.reshape(numbers.shape)
        return np.where(least < 0, numbers, least)


def fill(
    target: Target,
    model: str = BEST,
    progress: Callable[[Iterator[int], int], Iterator[int]] | None = None,
    rough: bool = False,
) -> dict[str, int]:
    """Fill PUNCHED and UNMEASURED voxels, in place.

    The result is symmetric if the support is symmetric.

    Parameters
    ----------
    model : str
        One of `MODELS`.
    progress : callable, optional
        Function that gets the iterator over the numbers of filled holes, and the number of all
        holes.
    rough : bool
        True if another fill follows, for which these values are the start.

    Returns
    -------
    dict
        Number of kriged holes, number of shapes of these holes, and number of voxels filled with
        the level of their shell.
    """
    code = target.code
    work: list[Holes] = []
    hidden = []
    for kind in (PUNCHED, UNMEASURED):
        hidden.append(kernels.numbers_of(code, kind, kind))
        if len(hidden[-1]):
            work += find_holes(target, hidden[-1])
    data, errors = target.data.reshape(-1), target.errors.reshape(-1)
    numbers = np.concatenate(hidden)
    data[numbers] = errors[numbers] = np.nan
    done = _krige(target, work, model, rough)
    total = sum(len(holes.bases) for holes in work)
    for _ in done if progress is None else progress(done, total):
        pass
    kernels.average(target.data, target.errors, code, target.images)
    unfilled = np.sort(numbers[~np.isfinite(data[numbers])])
    if len(unfilled):
        _level(target, unfilled)
        kernels.average(target.data, target.errors, code, target.images)
    return {"holes": total, "shapes": len(work), "voxels by shell": len(unfilled)}


def _krige(target: Target, work: list[Holes], model: str, rough: bool) -> Iterator[int]:
    work = sorted(work, key=lambda holes: -len(holes.bases) * len(holes.voxels))
    voxels, total = 0, sum(len(holes.bases) * len(holes.voxels) for holes in work)
    for i, holes in enumerate(work):
        common = (i < _SHAPES and not rough) or len(holes.bases) >= _RARE
        most = most_of(len(holes.voxels), common)
        if rough and voxels > _USUAL * total:
            most = _ROUGH
        voxels += len(holes.bases) * len(holes.voxels)
        support = support_of(holes.voxels, target.edges, most)
        for bases, rows in _alike(target, holes, support):
            pattern = Pattern(holes.voxels, support[rows], target.edges, model)
            for start in range(0, len(bases), _BATCH):
                batch = bases[start : start + _BATCH]
                values, sigma = pattern.measured(target, batch)
                filled = pattern.kriging.fill(values, sigma, pattern.twins(target, batch))
                place = tuple(np.moveaxis(batch[:, None] + holes.voxels, -1, 0))
                target.data[place], target.errors[place] = filled.values, filled.errors
                yield len(batch)


def _alike(
    target: Target, holes: Holes, support: Indices
) -> Iterator[tuple[Indices, NDArray[np.bool_]]]:
    """Group holes by the part of the support that they use; little of this part is unmeasured.

    Neighbouring holes and the edges of the grid remove the same voxels from the support of many
    holes; each such group gets a reduced support. Voxels that are missing in only few holes stay in
    the support, because the kriging can deal with missing voxels.
    """
    bases = holes.bases
    measured = np.empty((len(bases), len(support)), bool)
    for start in range(0, len(bases), _BATCH):
        batch = slice(start, start + _BATCH)
        values, sigma = np.empty((2, len(bases[batch]), len(support)))
        arrays = target.data, target.errors, target.code
        kernels.gather(*arrays, bases[batch], support, values, sigma)
        measured[batch] = np.isfinite(values)
    packed, which = np.unique(np.packbits(measured, axis=1), axis=0, return_inverse=True)
    which = which.reshape(-1)
    counts = np.bincount(which, minlength=len(packed))
    sets = np.unpackbits(packed, axis=1, count=len(support)).astype(bool)
    several = (counts >= _RARE) | (sets.mean(axis=1) < _MOSTLY)
    several &= sets.any(axis=1)
    for i in np.flatnonzero(several):
        yield bases[which == i], sets[i]
    others = ~several[which]
    others &= measured.any(axis=1)
    if others.any():
        yield bases[others], np.ones(len(support), bool)


def radii(target: Target, numbers: Indices) -> Floats:
    """Return |Q| (n,) of voxels in 1/Å; ``numbers`` are flat indices of [l, k, h]."""
    index = np.stack(np.unravel_index(numbers, target.data.shape), axis=1)[:, ::-1]
    q = (target.grid.first + index * target.grid.step) @ lattice.b_matrix(target.cell).T
    length: Floats = np.linalg.norm(q, axis=1)
    return length


def plane_radii(target: Target, l: int) -> Floats:  # noqa: E741
    """Return |Q| (k, h) of a plane, 1/Å."""
    b = lattice.b_matrix(target.cell)
    h, k, at_l = (target.grid.axis(i) for i in range(3))
    # Computed for each component separately, because the vectors of a plane do not fit the cache.
    q2 = (b[0, 0] * h + (b[0, 1] * k)[:, None] + b[0, 2] * at_l[l]) ** 2
    q2 += ((b[1, 1] * k + b[1, 2] * at_l[l]) ** 2)[:, None] + (b[2, 2] * at_l[l]) ** 2
    length: Floats = np.sqrt(q2)
    return length


def _level(target: Target, numbers: Indices) -> None:
    """Fill voxels with the level of their shell of |Q| plus the mean residual around them."""
    n_l, n_k, n_h = target.data.shape
    width = 2 * float(np.linalg.norm(target.edges, axis=1).max())
    corners = np.array([0, target.data.size - 1])
    bins = int(max(radii(target, corners).max(), _farthest(target)) / width) + 2
    sums = np.zeros((3, bins))
    plane = n_k * n_h
    for l in range(n_l):  # noqa: E741
        measured = np.flatnonzero((target.code[l] == MEASURED) & np.isfinite(target.data[l]))
        shell = (radii(target, measured + l * plane) / width).astype(int)
        values = target.data[l].ravel()[measured].astype(np.float64)
        for row, weights in zip(sums, (None, values, values**2), strict=True):
            row += np.bincount(shell, weights, bins)
    some = sums[0] > 0
    if not some.any():
        return
    mean = sums[1] / np.maximum(sums[0], 1)
    scatter = np.sqrt(np.maximum(sums[2] / np.maximum(sums[0], 1) - mean**2, 0))
    every_bin = np.arange(bins)
    mean, scatter = (np.interp(every_bin, every_bin[some], x[some]) for x in (mean, scatter))
    levels = _pyramid(target, mean, width)
    where = np.stack(np.unravel_index(numbers, target.data.shape), axis=1)
    correction = interpolated(levels, where)
    shell = (radii(target, numbers) / width).astype(int)
    target.data.reshape(-1)[numbers] = mean[shell] + correction
    target.errors.reshape(-1)[numbers] = scatter[shell]


def _farthest(target: Target) -> float:
    n = np.array(target.data.shape) - 1
    corners = np.array([[i, j, k] for i in (0, n[0]) for j in (0, n[1]) for k in (0, n[2])])
    numbers = np.ravel_multi_index(tuple(corners.T), target.data.shape)
    return float(radii(target, numbers).max())


def _pyramid(target: Target, mean: Floats, width: float) -> list[tuple[Any, Any]]:
    """Return sums and numbers of residuals (S - level of shell) in cubes of 2, 4, 8 ... voxels."""
    n_l, n_k, n_h = target.data.shape
    shape = [(n + 1) // 2 for n in target.data.shape]
    sums, counts = np.zeros((2, *shape), np.float32)
    for l in range(n_l):  # noqa: E741
        measured = np.flatnonzero((target.code[l] == MEASURED) & np.isfinite(target.data[l]))
        shell = (radii(target, measured + l * n_k * n_h) / width).astype(int)
        cube = measured // n_h // 2 * shape[2] + measured % n_h // 2
        size = shape[1] * shape[2]
        values = target.data[l].ravel()[measured] - mean[shell]
        sums[l // 2] += np.bincount(cube, values, size).reshape(shape[1:])
        counts[l // 2] += np.bincount(cube, None, size).reshape(shape[1:])
    levels = [(sums, counts)]
    while max(levels[-1][0].shape) > 1:
        levels.append((halved(levels[-1][0]), halved(levels[-1][1])))
    return levels
