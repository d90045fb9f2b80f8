"""Find the voxels that change with temperature, and cluster them; volumes are read in blocks."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.stats import chi2

from hklflow.base.errors import HklflowError
from hklflow.series import kernels, mixture, thermal
from hklflow.series import labels as labelling
from hklflow.series.candidates import Candidates, Read, gather
from hklflow.series.change import ChangeTest, Claims, Cuboid, Places

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Integers = NDArray[np.int64]

_BOX = (16, 32, 32)  # voxels along l, k, h of a sampled box
_SAMPLE = 400_000  # voxels of the sample
_BLOCK = 8  # voxels along the edge of a block whose means are compared
_SHELLS = 12
_ROUNDS = 3  # of the common course: voxels that change by it are left out in the next round
_FEWEST = 2_000  # voxels of the sample without which nothing can be said
_ITEMS = 3_000  # items to which mixtures are fitted
_BORDER = 0.5  # largest share of the voxels of a cluster that have neighbours in another one
_SURE = 1e-4  # largest probability of an item without a change
# Items of fewer voxels, and their largest expected number in the volume without a change.
_FEW, _RARE = 4, 0.01
_AROUND = 8  # candidates for each claim, if features are small
_CHUNK = 100_000  # voxels that are fitted at a time


@dataclass(frozen=True)
class Wishes:
    """Parameters of the search; see `stages.cluster`."""

    thermal_order: int
    relative_error: float
    min_measured: float
    false_discovery_rate: float
    max_clusters: int
    min_stability: float
    memory: float


@dataclass(frozen=True)
class Trajectories:
    """Clusters of voxels that change alike; arrays of K clusters and T temperatures.

    Attributes
    ----------
    index, label : (n,) int arrays
        Numbers of the voxels in C order of (l, k, h), and their clusters, 1 to K.
    size : (K,) int array
        Number of independent voxels.
    mean, mean_errors : (K, T) arrays
        Mean of S over the voxels of a cluster that were measured at all temperatures.
    course, course_errors : (K, T) arrays
        Change beyond heat, relative to its largest value; the part that the courses of heat can
        describe is not in it.
    claims : Claims
    thermal : thermal.Thermal
    excess : (2,) array
        See `ChangeTest`.
    tried : list of mixture.Mixture
    smoothing : labels.Field
        Markov field that smooths the labels.
    left_out : int
        Voxels that changed and do not fit into the memory.
    """

    index: Integers
    label: Integers
    size: Integers
    mean: Floats
    mean_errors: Floats
    course: Floats
    course_errors: Floats
    claims: Claims
    thermal: thermal.Thermal
    excess: Floats
    tried: list[mixture.Mixture]
    smoothing: labelling.Field
    left_out: int


def pivoted(temperatures: Floats) -> Integers:
    """Return the order of temperatures that the test needs: coldest, hottest, all others."""
    order = np.argsort(temperatures, kind="stable")
    return np.concatenate([order[[0, -1]], order[1:-1]])


def find(
    read: Read,
    places: Places,
    temperatures: Floats,
    wishes: Wishes,
    *,
    planes: int,
    threads: int,
    progress: Callable[[Iterable[Cuboid], int, str], Iterable[Cuboid]],
) -> Trajectories:
    """Find and cluster the voxels that change.

    Parameters
    ----------
    read : function
        Reader of the volumes, in the order of ``temperatures``.
    temperatures : (T,) array
        In the order of `pivoted`.
    planes : int
        Planes that are read at a time.
    progress : function
        Reports the progress of a loop.

    Raises
    ------
    HklflowError
        If too few voxels were measured at all temperatures.
    """
    slabs = places.needed(planes)
    boxes = _sample(read, places, slabs)
    suspect = [np.zeros(data.shape[1:], np.bool_) for _, data, _ in boxes]
    for _ in range(_ROUNDS):
        course = _thermal(boxes, suspect, places, temperatures, wishes.thermal_order)
        test = ChangeTest(
            places,
            course,
            relative=wishes.relative_error,
            least=max(int(np.ceil(wishes.min_measured * len(temperatures))), 4),
            rate=wishes.false_discovery_rate,
            threads=threads,
        )
        suspect = [binary_dilation(found) for found in test.calibrate(boxes)]
    del boxes
    for part in progress(slabs, len(slabs), "slabs tested"):
        test.add(part, *read(part))
    claims = test.claims()
    voxel = 30 * len(temperatures) + 400  # bytes
    kept = claims.strongest(int(wishes.memory * 1e6 / voxel / _AROUND))
    found = gather(read, places, slabs, kept.index, progress)
    near = labelling.Neighbours(found.index, places.grid.array_shape)
    data = _items(found, kept, near, test, course.courses)
    empty, none = np.empty(0, np.int64), np.empty((0, len(temperatures)))
    result = Trajectories(
        index=empty,
        label=empty,
        size=empty,
        mean=none,
        mean_errors=none,
        course=none,
        course_errors=none,
        claims=claims,
        thermal=course,
        excess=test.excess,
        tried=[],
        smoothing=labelling.Field(),
        left_out=len(claims.index) - len(kept.index),
    )
    if len(data) == 0:
        return result
    tried = mixture.cluster(data, wishes.max_clusters)
    chosen = mixture.choose(tried, wishes.min_stability)
    shapes = labelling.shapes_of(chosen, data.basis)
    labels, field = _label(found, near, test, course.courses, shapes)
    return _summary(result, found, labels, field, tried, chosen, test, data.basis)


def _sample(
    read: Read, places: Places, slabs: list[Cuboid]
) -> list[tuple[Cuboid, Singles, Singles]]:
    """Return boxes of the grid, drawn at random with a fixed seed."""
    if not slabs:
        return []
    boxes = []
    for slab in slabs:
        rows = (
            range(s.start - s.start % step, s.stop, step)
            for s, step in zip((slab.k, slab.h), _BOX[1:], strict=True)
        )
        for k, h in itertools.product(*rows):
            boxes.append(
                Cuboid(
                    slab.l,
                    slice(max(k, slab.k.start), min(k + _BOX[1], slab.k.stop)),
                    slice(max(h, slab.h.start), min(h + _BOX[2], slab.h.stop)),
                )
            )
    found, size = [], 0
    for number in np.random.default_rng(0).permutation(len(boxes)):
        inside = places.independent(boxes[number])
        if not inside.any():
            continue
        data, errors = read(boxes[number])
        measured = inside & np.isfinite(data).all(axis=0)
        if measured.any():
            found.append((boxes[number], data, errors))
            size += int(np.count_nonzero(measured))
        if size > _SAMPLE:
            break
    return found


def _thermal(
    boxes: list[tuple[Cuboid, Singles, Singles]],
    suspect: list[NDArray[np.bool_]],
    places: Places,
    temperatures: Floats,
    order: int,
) -> thermal.Thermal:
    parts: list[Any] = []
    for number, ((part, data, errors), left_out) in enumerate(zip(boxes, suspect, strict=True)):
        chosen = places.independent(part) & ~left_out
        chosen &= np.isfinite(data).all(axis=0) & (errors > 0).all(axis=0)
        values = (x[:, chosen].T.astype(np.float64) for x in (data, errors))
        block = np.ravel_multi_index([i // _BLOCK for i in np.nonzero(chosen)], (_BOX[0],) * 3)
        parts.append((block + number * _BOX[0] ** 3, places.s2(part)[chosen], *values))
    n = sum(len(s2) for _, s2, _, _ in parts)
    if n < _FEWEST:
        raise HklflowError(
            f"clustering: {n} of the sampled voxels were measured at all {len(temperatures)} "
            f"temperatures, {_FEWEST} are needed; leave out scans that cover less of reciprocal "
            "space, or use a finer grid_step"
        )
    groups = thermal.group(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return thermal.fit(groups, temperatures, order, _SHELLS)


def _items(
    found: Candidates, claims: Claims, near: labelling.Neighbours, test: ChangeTest, courses: Floats
) -> mixture.Items:
    """Return the claimed trajectories: means over claimed voxels around the clearest ones.

    Only voxels that were measured at all temperatures are taken. Means take the noise down where
    single voxels are weak; the shape of neighbours is the same in all but a few items.
    """
    whole = found.claimed & np.isfinite(found.data).all(axis=1) & (found.errors > 0).all(axis=1)
    if not whole.any():
        d = test.dimensions
        return mixture.Items(
            mixture.beyond(courses), np.empty((0, d)), np.empty((0, d, d)), np.empty((0, d))
        )
    order = np.argsort(claims.p, kind="stable")
    centres, radius = np.flatnonzero(found.claimed)[order], np.maximum(claims.radius[order], 1)
    known = whole[centres]
    item = np.where(whole, -1, -2)
    kernels.peel(centres[known], radius[known], near.rows, item)
    # The same number of items of each connected part, as far as it has them.
    one = np.flatnonzero(whole)[np.unique(item[whole], return_index=True)[1]]
    part = near.connected(found.claimed.astype(np.int64))[one]
    mixed = np.random.default_rng(0).permutation(len(part))
    mixed = mixed[np.argsort(part[mixed], kind="stable")]
    rank = np.empty(len(part), np.int64)
    rank[mixed] = np.arange(len(part)) - np.searchsorted(part[mixed], part[mixed])
    kept = np.sort(np.argsort(rank, kind="stable")[:_ITEMS])
    member = np.flatnonzero(whole & np.isin(item, kept))
    of = np.searchsorted(kept, item[member])
    y, variance = test.reduced(found.s2[member], found.data[member], found.errors[member])
    weight = 1 / variance.mean(axis=1)
    n = len(kept)

    def total(values: Floats) -> Floats:
        return np.stack([np.bincount(of, column, n) for column in values.T], axis=1)

    bottom = np.bincount(of, weight, n)[:, None]
    mean = total(weight[:, None] * y) / bottom
    data = mixture.items(mean, total(weight[:, None] ** 2 * variance) / bottom**2, courses)
    # Next to a feature, voxels are claimed together with it: they have no course of their own.
    # Few voxels may be a false discovery: noise must not give them in the whole volume.
    alone = np.bincount(of) < _FEW
    sure = np.where(alone, _RARE / max(claims.tested, 1), _SURE)
    return data.select(data.whole > chi2.isf(sure, test.dimensions))


def _label(
    found: Candidates,
    near: labelling.Neighbours,
    test: ChangeTest,
    courses: Floats,
    shapes: Floats,
) -> tuple[Integers, labelling.Field]:
    """Return the label of each candidate; features without a claimed voxel have label 0."""
    top = np.empty((len(found.index), len(shapes)), np.float32)
    bottom = np.empty_like(top)
    for first in range(0, len(top), _CHUNK):
        part = slice(first, first + _CHUNK)
        values = test.reduced(found.s2[part], found.data[part], found.errors[part])
        top[part], bottom[part] = labelling.matched(*values, courses, shapes)
    shown = np.arange(1, len(shapes) + 1)
    while True:
        labels, field = labelling.smooth(top, bottom, near, found.outside)
        # The border of two features looks like a cluster of its own.
        border = near.between(labels)
        sizes = np.bincount(labels, minlength=len(shown) + 1)[1:]
        at_border = np.bincount(labels[border], minlength=len(shown) + 1)[1:]
        kept = at_border <= _BORDER * sizes
        if kept.all() or not kept.any():
            break
        top, bottom, shown = top[:, kept], bottom[:, kept], shown[kept]
    labels = np.concatenate([[0], shown])[labels]
    feature = near.connected(labels)
    claimed = np.bincount(feature, found.claimed, len(feature)) > 0
    return np.where(claimed[feature], labels, 0), field


def _summary(
    empty: Trajectories,
    found: Candidates,
    labels: Integers,
    field: labelling.Field,
    tried: list[mixture.Mixture],
    chosen: mixture.Mixture,
    test: ChangeTest,
    basis: Floats,
) -> Trajectories:
    """Return the clusters, the largest first."""
    counts = np.bincount(labels, minlength=len(chosen.phi) + 1)[1:]
    order = [int(k) for k in np.argsort(-counts, kind="stable") if counts[k]]
    number = np.zeros(len(counts) + 1, np.int64)
    rows = []
    for new, k in enumerate(order):
        number[k + 1] = new + 1
        mine = labels == k + 1
        data, errors = (x[mine].astype(np.float64) for x in (found.data, found.errors))
        whole = np.isfinite(data).all(axis=1)
        n = max(int(np.count_nonzero(whole)), 1)
        mean = data[whole].mean(axis=0) if whole.any() else np.full(data.shape[1], np.nan)
        sigma = np.sqrt(np.sum(errors[whole] ** 2, axis=0)) / n
        shape = basis @ chosen.phi[k]
        largest = float(np.max(np.abs(shape)))
        width = np.sqrt(np.einsum("td,de,te->t", basis, chosen.covariance[k], basis))
        rows.append((mean, sigma, shape / largest, width / largest))
    if not rows:
        return empty
    inside = labels > 0
    mean, mean_errors, course, course_errors = map(np.array, zip(*rows, strict=True))
    return replace(
        empty,
        index=found.index[inside],
        label=number[labels[inside]],
        size=counts[order],
        mean=mean,
        mean_errors=mean_errors,
        course=course,
        course_errors=course_errors,
        tried=tried,
        smoothing=field,
    )
