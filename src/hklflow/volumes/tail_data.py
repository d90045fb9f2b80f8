"""Measured S(Q) around reflections, outside of the holes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import lattice
from hklflow.volumes import fill_kernels
from hklflow.volumes.fill import Target
from hklflow.volumes.tail_models import products

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_POINTS = 400  # largest number of voxels around a reflection that are used
_LEAST = 60  # for the cosines of b, C and the maximum
_PLACES = 4  # of reflections in their voxels, for the shape
_WHOLE = 0.7  # measured part of the voxels around a reflection without which it is not used


@dataclass(frozen=True)
class Ring:
    """Reflections at the same place in their voxel, and voxels around them.

    Attributes
    ----------
    members : (g,) int array
        Numbers of the reflections.
    corners : (g, 3) int array
        Voxels (l, k, h) of the reflections.
    offsets : (n, 3) int array
        Voxels relative to those of the reflections.
    q : (n, 3) array
        1/Å, from the reflection.
    """

    members: Indices
    corners: Indices
    offsets: Indices
    q: Floats


@dataclass(frozen=True)
class Data:
    """What was measured in a ring.

    Attributes
    ----------
    ring : Ring
    values, weights : (g, n) arrays
        S, and 1/σ: 0 if not measured, smaller for voxels with equivalents around the same
        reflection.
    peaks : (g, n, 6) array
        Q_i Q_j / G² over σ.
    number : float
        Number of different voxels.
    """

    ring: Ring
    values: Floats
    weights: Floats
    peaks: Floats
    number: float

    def some(self, own: NDArray[np.bool_]) -> "Data":
        """Return the data of some of the reflections."""
        ring = Ring(self.ring.members[own], self.ring.corners[own], self.ring.offsets, self.ring.q)
        share = self.number * own.sum() / len(own)
        return Data(ring, self.values[own], self.weights[own], self.peaks[own], share)


def rings(target: Target, centres: Floats, least: float, most: float) -> Iterator[Ring]:
    """Return the voxels at distances from least to most (1/Å) of centres."""
    grid = target.grid
    place = (centres - grid.first) / grid.step
    corners = np.rint(place).astype(np.int64)
    phases, which = np.unique(np.round(place - corners, 3) + 0.0, axis=0, return_inverse=True)
    edges = lattice.b_matrix(target.cell) * grid.step
    half = np.ceil(most * np.linalg.norm(np.linalg.inv(edges), axis=1)).astype(int) + 1
    axes = [np.arange(-n, n + 1) for n in half]
    box = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    for i, phase in enumerate(phases):
        members = np.flatnonzero(which.reshape(-1) == i)
        q = (box - phase) @ edges.T
        length = np.linalg.norm(q, axis=1)
        own = (length > least) & (length <= most)
        yield Ring(members, corners[members, ::-1], box[own, ::-1], q[own])


def inside(target: Target, ring: Ring, corner: Indices) -> tuple[Any, NDArray[np.bool_]]:
    """Return the voxels around a reflection that are in the grid, and which they are."""
    voxels = corner + ring.offsets
    own = np.all((voxels >= 0) & (voxels < target.data.shape), axis=1)
    return tuple(voxels[own].T), own


def nearest(positions: Floats, b: Floats) -> float:
    """Return the shortest distance between reflections, 1/Å."""
    from scipy.spatial import cKDTree

    if len(positions) < 2:
        return float("inf")
    points = positions @ b.T
    distances = np.asarray(cKDTree(points).query(points, k=2)[0])
    return float(distances[:, 1].min())


def orbits(positions: Floats, operations: NDArray[np.int64]) -> tuple[Indices, Indices]:
    """Return the number of the set of equivalents of each position, and the first of each set."""
    hkl = np.rint(positions).astype(np.int64)
    size = 2 * int(np.abs(hkl).max(initial=0)) * 3 + 1
    key = np.array([size**2, size, 1])
    least = np.max([(hkl @ w.T) @ key for w in operations], axis=0)
    # The first of a set is the one with the key, so that it does not depend on the order.
    _, numbers = np.unique(least, return_inverse=True)
    numbers = numbers.reshape(-1)
    first = np.zeros(int(numbers.max(initial=-1)) + 1, np.int64)
    first[numbers] = np.arange(len(hkl))
    own = hkl @ key == least
    first[numbers[own]] = np.flatnonzero(own)
    return numbers, first


def around(target: Target, centres: Floats, radius: float, outer: float) -> list[Data]:
    """Return S around reflections, if most of it is measured.

    Parameters
    ----------
    centres : (g, 3) array
        hkl.
    radius, outer : float
        Inner and outer end, 1/Å.
    """
    b, random, found = lattice.b_matrix(target.cell), np.random.default_rng(0), []
    for ring in rings(target, centres, radius * (1 + 1e-9), outer):
        if len(ring.q) > _POINTS:
            own = random.choice(len(ring.q), _POINTS, replace=False)
            ring = Ring(ring.members, ring.corners, ring.offsets[own], ring.q[own])
        if len(ring.q) < _LEAST:
            continue
        values, sigma = np.empty((2, len(ring.corners), len(ring.offsets)))
        arrays = target.data, target.errors, target.code
        fill_kernels.gather(*arrays, ring.corners, ring.offsets, values, sigma)
        known = np.isfinite(values) & (sigma > 0)
        own = np.flatnonzero(known.mean(axis=1) >= _WHOLE)
        if not len(own):
            continue
        values, sigma, known = values[own], sigma[own], known[own]
        ring = Ring(ring.members[own], ring.corners[own], ring.offsets, ring.q)
        # The σ of a voxel follows its counts; its mean over voxels and reflections does less.
        variance = np.where(known, sigma**2, np.nan)
        of_centre = np.nanmean(variance, axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            of_voxel = np.nan_to_num(np.nanmean(variance / of_centre, axis=0), nan=1.0)
        twins = _twins(target, ring)
        weights = np.where(known, 1 / np.sqrt(of_centre * of_voxel * twins), 0.0)
        centre = centres[ring.members] @ b.T
        peaks = products(centre[:, None] + ring.q)
        peaks *= (weights / np.sum(centre**2, axis=1)[:, None])[..., None]
        number = float(np.sum(known / twins))
        found.append(Data(ring, np.where(known, values, 0.0), weights, peaks, number))
    return found


def _twins(target: Target, ring: Ring) -> Floats:
    """Return the number of equivalents (g, n) of each voxel around its reflection."""
    shape = target.data.shape
    places = ring.corners[:, None] + ring.offsets
    numbers = np.ravel_multi_index(tuple(np.moveaxis(places, -1, 0)), shape, mode="clip")
    least = fill_kernels.canonical(numbers.ravel(), target.images, shape)
    least = np.where(least < 0, numbers.ravel(), least).reshape(numbers.shape)
    rows = np.arange(len(least))[:, None] * target.data.size
    _, which, counts = np.unique(least + rows, return_inverse=True, return_counts=True)
    twins: Floats = counts[which.reshape(least.shape)].astype(np.float64)
    return twins


def strongest(data: list[Data], most: int) -> list[Data]:
    """Return the reflections whose surroundings change most with the distance, in errors."""
    sizes = []
    for item in data:
        length = np.linalg.norm(item.ring.q, axis=1)
        means, errors = [], []
        for part in (length <= np.median(length), length > np.median(length)):
            squares = item.weights[:, part] ** 2
            total = np.maximum(squares.sum(axis=1), 1e-300)
            means.append((squares * item.values[:, part]).sum(axis=1) / total)
            errors.append(1 / total)
        sizes.append(np.abs(means[0] - means[1]) / np.sqrt(errors[0] + errors[1]))
    if not sizes:
        return []
    ranked = np.sort(np.concatenate(sizes))[::-1]
    least = ranked[min(most, len(ranked)) - 1]
    chosen = []
    for item, size in zip(data, sizes, strict=True):
        own = size >= least
        if own.any():
            chosen.append((float(np.sum(size[own] ** 2)), item.some(own)))
    # Each place in a voxel has its own q: on an odd grid, few of them suffice.
    chosen.sort(key=lambda pair: -pair[0])
    return [item for _, item in chosen[:_PLACES]]
