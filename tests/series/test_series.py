"""Clusters of trajectories: the test for change, the mixture and the places, against truth."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.ndimage import label as connected
from scipy.stats import chi2, kstest

from hklflow.geometry.grid import Grid
from hklflow.series import features, find, mixture, thermal
from hklflow.series import labels as labelling
from hklflow.series.change import ChangeTest, Cuboid, Places
from hklflow.stages import cluster
from tests.truth import scattered, trajectories

CUBIC = np.eye(3) * (2 * np.pi / 4) ** 2


def wishes(**changes: Any) -> find.Wishes:
    values = cluster.Settings().model_dump() | changes
    return find.Wishes(**{name: values[name] for name in find.Wishes.__dataclass_fields__})


def run(world: trajectories.World) -> tuple[find.Trajectories, np.ndarray]:
    """Cluster a world; return the labels on its grid, too."""
    n = world.data.shape[1]
    grid = Grid(np.full(3, world.first), np.full(3, world.step), (n, n, n))
    order = find.pivoted(world.temperatures)
    data, errors = (np.ascontiguousarray(x[order]) for x in (world.data, world.errors))
    metric = np.diag((2 * np.pi / np.array(trajectories.CELL)) ** 2)
    found = find.find(
        lambda part: (data[:, *part.region].copy(), errors[:, *part.region].copy()),
        Places(grid, metric, np.eye(3)[None]),
        world.temperatures[order],
        wishes(),
        planes=16,
        threads=1,
        progress=lambda parts, n, text: parts,
    )
    labels = np.zeros(world.labels.size, np.int64)
    labels[found.index] = found.label
    return found, labels.reshape(world.labels.shape)


@cache
def clustered() -> tuple[trajectories.World, find.Trajectories, np.ndarray]:
    world = trajectories.world(0, sigmas=4.0, n=49, n_t=12)
    return world, *run(world)


def test_clusters_are_those_of_the_truth() -> None:
    world, found, labels = clustered()
    changed = world.labels > 0
    assert len(found.size) == 3
    assert trajectories.rand_index(world.labels[changed], labels[changed]) > 0.95
    assert np.count_nonzero(labels[~changed]) < 0.02 * np.count_nonzero(changed)


@cache
def scattered_features() -> tuple[trajectories.World, find.Trajectories, np.ndarray]:
    world = scattered.world(2, n=49, n_t=16, features=18, number=3)
    return world, *run(world)


def test_small_features_are_found_whole_and_share_labels_with_distant_ones() -> None:
    world, found, labels = scattered_features()
    changed = world.labels > 0
    assert len(found.size) == len(world.courses)
    assert trajectories.rand_index(world.labels[changed], labels[changed]) > 0.95
    assert np.mean(labels[changed] == 0) < 0.03
    assert np.count_nonzero(labels[~changed]) < 0.08 * np.count_nonzero(changed)
    # Each feature has one label, the same in all features of its course.
    parts, n = connected(changed)
    of_course: dict[int, set[int]] = {}
    for part in range(1, n + 1):
        true = int(world.labels[parts == part][0])
        of_course.setdefault(true, set()).add(int(np.bincount(labels[parts == part]).argmax()))
    assert n == 18
    assert [len(labels) for labels in of_course.values()] == [1] * len(world.courses)
    assert len(set.union(*of_course.values())) == len(world.courses)


def test_corners_of_a_box_are_kept() -> None:
    random = np.random.default_rng(3)
    true = np.zeros((13, 13, 40), np.int64)
    for i in range(4):
        true[4:9, 4:9, 2 + 10 * i : 7 + 10 * i] = 1 + i % 2
    place = np.nonzero(binary_dilation(true > 0, iterations=3))
    inside = true[place]
    top = random.normal(size=(len(inside), 2)).astype(np.float32)
    top[np.arange(len(inside)), np.maximum(inside, 1) - 1] += 1.5 * (inside > 0)
    near = labelling.Neighbours(np.ravel_multi_index(place, true.shape), true.shape)
    labels, field = labelling.smooth(top, np.ones_like(top), near, np.zeros(len(inside), np.int64))
    assert np.mean(labels[inside > 0] == inside[inside > 0]) > 0.95
    assert np.count_nonzero(labels[inside == 0]) < 0.1 * np.count_nonzero(inside)
    assert field.strength > 0.8
    # Voxels with three changed neighbours are the corners.
    neighbours: Any = sum(
        np.roll(true > 0, step, axis).astype(int) for axis in range(3) for step in (1, -1)
    )
    corners = (inside > 0) & (neighbours[place] == 3)
    assert np.count_nonzero(corners) == 32
    assert np.mean(labels[corners] > 0) > 0.7


def _items(kind: Any, courses: Any, size: tuple[float, float], seed: int) -> mixture.Items:
    """Return items with courses of the given kinds and random amplitudes, errors 1."""
    random = np.random.default_rng(seed)
    t = np.linspace(20, 300, courses.shape[1])
    y = random.uniform(*size, (len(kind), 1)) * courses[kind] + random.normal(
        size=(len(kind), len(t))
    )
    return mixture.items(y + 9, np.ones_like(y), thermal.heat(t, 1))


def test_a_course_of_few_items_is_found_among_many() -> None:
    t = np.linspace(20, 300, 15)
    rows = [
        trajectories.order(t, 150, 0.5),
        trajectories.anomaly(t, 150, 25),
        -trajectories.order(t, 90, 0.5),
        trajectories.anomaly(t, 80, 25),
        -trajectories.anomaly(t, 220, 20),
    ]
    kind = np.repeat(np.arange(5), [300, 300, 8, 8, 8])
    data = _items(kind, np.array(rows), (15, 40), 4)
    chosen = mixture.choose(mixture.cluster(data, 8), 0.8)
    assert len(chosen.phi) == 5
    assert mixture.agreement(mixture.divide(data, chosen), kind) > 0.99


def test_strong_features_with_slightly_different_tc_are_one_cluster() -> None:
    t = np.linspace(20, 300, 20)
    at = 150 + np.random.default_rng(1).normal(size=200)
    courses = [trajectories.order(t, x, 0.5) for x in at] + [
        trajectories.anomaly(t, x, 25) for x in at
    ]
    data = _items(np.arange(400), np.array(courses), (60, 200), 2)
    chosen = mixture.choose(mixture.cluster(data, 8), 0.8)
    assert len(chosen.phi) == 2
    assert mixture.agreement(mixture.divide(data, chosen), np.repeat([0, 1], 200)) == 1.0


def test_one_item_is_one_cluster() -> None:
    t = np.linspace(20, 300, 12)
    y = 30 * trajectories.order(t, 150, 0.5)[None]
    data = mixture.items(y, np.ones_like(y), thermal.heat(t, 1))
    (only,) = mixture.cluster(data, 6)
    assert abs(only.phi[0] @ data.phi[0]) == pytest.approx(np.linalg.norm(data.phi[0]))


@pytest.mark.parametrize("scatter", [0.0, 0.01])
def test_the_scatter_of_weak_voxels_is_measured(scatter: float) -> None:
    random = np.random.default_rng(7)
    t = np.linspace(20, 300, 16)
    block = np.repeat(np.arange(300), 128)
    common = random.normal(1, scatter, (300, len(t)))[block]
    mean = random.uniform(90, 110, (len(block), 1)) * (1 + 0.1 * t / 300) * common
    errors = np.full(mean.shape, 10.0)
    data = mean + random.normal(size=mean.shape) * errors
    s2 = random.uniform(0, 0.5, 300)[block]
    found = thermal.fit(thermal.group(block, s2, data, errors), t, 1, 6)
    assert found.scatter == pytest.approx(scatter, abs=0.003)
    np.testing.assert_allclose(found.level, 100, rtol=0.2)


def test_a_voxel_that_no_scan_measured_has_no_amplitude() -> None:
    """Its matrix was singular, so that the whole stage failed."""
    rng = np.random.default_rng(4)
    courses = np.stack([np.ones(6), np.linspace(-1, 1, 6)], axis=1)
    shape = np.array([[0.0, 0.0, 0.0, 1.0, 2.0, 3.0]])
    variance = np.full((5, 6), 0.01)
    variance[2] = np.inf
    y = 7.0 * shape + 0.1 * rng.normal(size=(5, 6))
    top, bottom = labelling.matched(
        np.where(np.isfinite(variance), y, 0.0), variance, courses, shape
    )
    known = np.arange(5) != 2
    amplitude = top[known, 0] / bottom[known, 0]
    assert np.abs((amplitude - 7.0) * np.sqrt(bottom[known, 0])).max() < 4
    assert top[2, 0] == 0
    assert np.float32(bottom[2, 0]) > 0
    labels, _ = labelling.smooth(
        top.astype(np.float32),
        bottom.astype(np.float32),
        labelling.Neighbours(np.arange(5), (1, 1, 5)),
        np.zeros(5, np.int64),
    )
    assert labels[0] == 1


def test_connected_parts_are_those_of_scipy() -> None:
    random = np.random.default_rng(8)
    volume = (random.random((9, 10, 11)) < 0.12).astype(np.int64)
    index = np.flatnonzero(volume)
    near = labelling.Neighbours(index, volume.shape)
    parts, n = connected(volume, np.ones((3, 3, 3)))
    found = near.connected(np.ones(len(index), np.int64))
    assert len(np.unique(found)) == n
    assert trajectories.rand_index(parts.ravel()[index].astype(np.int64), found) == 1.0


def test_courses_are_those_of_the_truth_beyond_a_line() -> None:
    world, found, labels = clustered()
    order = find.pivoted(world.temperatures)
    line = np.stack([np.ones(len(order)), world.temperatures[order]], axis=1)
    for course, number in zip(found.course, range(1, 4), strict=True):
        true = np.bincount(world.labels[labels == number], minlength=4)[1:].argmax()
        shape = world.courses[true][order]
        shape = shape - line @ np.linalg.lstsq(line, shape)[0]
        cosine = course @ shape / np.linalg.norm(course) / np.linalg.norm(shape)
        assert cosine > 0.95


def test_nothing_is_claimed_without_a_change() -> None:
    world = trajectories.world(1, changes=False, n=33, n_t=12, drift=0.06)
    found, labels = run(world)
    assert not len(found.size)
    assert not labels.any()


def _noise(seed: int, n_t: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    t = np.linspace(50, 300, n_t)
    errors = random.uniform(0.5, 2.0, (n_t, n, n, n))
    level, slope = random.uniform(5, 9, (n, n, n)), random.uniform(-2, 2, (n, n, n))
    data = level + slope * t[:, None, None, None] / 300 + random.normal(size=errors.shape) * errors
    return t, data.astype(np.float32), errors.astype(np.float32)


def _tested(n_t: int, n: int, relative: float = 0.0) -> tuple[ChangeTest, Cuboid, Any]:
    t, data, errors = _noise(2, n_t, n)
    order = find.pivoted(t)
    grid = Grid(np.zeros(3), np.full(3, 0.1), (n, n, n))
    flat = thermal.Thermal(
        thermal.heat(t[order], 1),
        np.ones(n_t),
        np.zeros(n_t),
        np.array([0.0]),
        np.zeros((1, n_t)),
        np.zeros(1),
        0.0,
    )
    places = Places(grid, CUBIC, np.eye(3)[None])
    test = ChangeTest(places, flat, relative=relative, least=5, rate=0.3, threads=2)
    part = Cuboid(*(slice(0, n),) * 3)
    return test, part, (data[order], errors[order])


def test_probabilities_of_noise_are_uniform() -> None:
    test, part, values = _tested(9, 22)
    moved, share = test._departures(part, *values)
    closed = (np.pad(x, [(2, 2)] + [(0, 0)] * (x.ndim - 1)) for x in (moved, share))
    chi = test._chi_squares(*closed)
    # Every sixth voxel: their boxes do not overlap.
    for values_of_test, size in zip(chi, (7, 7, 6, 6), strict=True):
        apart = values_of_test[2::5, 2::5, 2::5].ravel().astype(float)
        assert kstest(apart, chi2(size).cdf).pvalue > 1e-3
    assert kstest(chi[0].ravel().astype(float), chi2(7).cdf).pvalue > 1e-3


def test_slabs_give_what_one_block_gives() -> None:
    whole, part, (data, errors) = _tested(9, 12)
    whole.add(part, data, errors)
    slabs, _, _ = _tested(9, 12)
    for first in (0, 5, 10):
        rows = slice(first, min(first + 5, 12))
        slabs.add(Cuboid(rows, part.k, part.h), data[:, rows], errors[:, rows])
    expected, found = whole.claims(), slabs.claims()
    assert found.tested == expected.tested == 12**3
    key = [np.sort(np.concatenate([i for i, *_ in test._found])) for test in (whole, slabs)]
    np.testing.assert_array_equal(key[0], key[1])
    assert len(key[0]) > 100


def test_missing_temperatures_are_left_out() -> None:
    test, part, (data, errors) = _tested(9, 12)
    data[4] = np.nan
    data[5, ::2] = np.nan
    moved, share = test._departures(part, data, errors)
    assert (moved[..., 2] == 0).all()
    assert (moved[::2, ..., 3] == 0).all()
    assert (share > 0).all()
    squares = np.sum(moved[::2].astype(float) ** 2, axis=-1)
    assert kstest(squares.ravel(), chi2(5).cdf).pvalue > 1e-3
    data[0] = np.nan  # the coldest temperature is needed
    assert not test._departures(part, data, errors)[1].any()


def test_only_one_voxel_of_equivalents_is_tested() -> None:
    grid = Grid.symmetric(1.0, 0.1)
    places = Places(grid, CUBIC, np.array(trajectories.MMM))
    (part,) = places.needed(32)
    inside = places.independent(part)
    assert inside.sum() == 11**3
    labels = features.dense(
        np.flatnonzero(_whole(places)), np.ones(11**3, np.int64), grid, np.array(trajectories.MMM)
    )
    assert labels.all()


def _whole(places: Places) -> np.ndarray:
    return places.independent(Cuboid(*(slice(0, n) for n in places.grid.array_shape)))


def test_scale_is_found_although_features_change() -> None:
    world, found, _ = clustered()
    random = np.random.default_rng([20261127, 0])
    random.uniform(-4, 4, 12)
    random.uniform(0.5, 1.5)
    true = np.cumsum(random.normal(0, 0.015, 12)) + random.normal(0, 0.01, 12)
    line = np.stack([np.ones(12), world.temperatures], axis=1)
    true -= line @ np.linalg.lstsq(line, true)[0]
    order = find.pivoted(world.temperatures)
    np.testing.assert_allclose(np.log(found.thermal.scale), true[order], atol=0.008)


def test_a_mixture_finds_number_and_courses() -> None:
    random = np.random.default_rng(0)
    t = np.linspace(20, 300, 15)
    courses = np.array([trajectories.order(t, 150, 0.5), trajectories.anomaly(t, 150, 25)])
    kind = np.arange(200) % 2
    y = random.uniform(5, 30, (200, 1)) * courses[kind] + random.normal(size=(200, 15)) + 7 - t / 50
    data = mixture.items(y, np.ones_like(y), thermal.heat(t, 1))
    tried = mixture.cluster(data, 5)
    chosen = mixture.choose(tried, 0.8)
    assert len(chosen.phi) == 2
    assert mixture.agreement(mixture.divide(data, chosen), kind) > 0.95


def test_the_rand_index_of_the_code_is_that_of_the_truth() -> None:
    random = np.random.default_rng(1)
    a, b = random.integers(0, 3, 50), random.integers(0, 4, 50)
    assert mixture.agreement(a, b) == pytest.approx(trajectories.rand_index(a, b))
    assert mixture.agreement(a, a) == 1.0


@pytest.mark.parametrize(
    ("system", "centring", "point", "name"),
    [
        ("cubic", "P", (1.5, 2.0, 0.5), "M"),
        ("cubic", "F", (1.0, 0.0, 0.0), "X"),
        ("cubic", "F", (1.0, 1.0, 1.0), "Γ"),
        ("cubic", "I", (0.5, 0.5, 0.0), "N"),
        ("orthorhombic", "P", (0.0, 0.5, 3.5), "T"),
        ("monoclinic", "P", (0.0, 0.5, 0.5), ""),
    ],
)
def test_names_of_points(system: str, centring: str, point: Any, name: str) -> None:
    permutations = [np.eye(3)[list(p)] for p in ((0, 1, 2), (1, 2, 0), (2, 0, 1))]
    signs = [s @ p for s in trajectories.MMM for p in permutations]
    operations = np.array(signs if system == "cubic" else trajectories.MMM)
    lattice = features.Lattice(CUBIC, operations, system, centring)
    assert lattice.name(lattice.folded(np.array([point]))[0]) == name


def test_points_rods_and_sheets() -> None:
    grid = Grid.symmetric(2.0, 0.1)
    volume = np.zeros(grid.array_shape, np.uint8)
    volume[24:27, 24:27, 24:27] = 1  # 0.5, 0.5, 0.5
    volume[:, 4:7, 4:7] = 2  # along l at -1.5, -1.5
    volume[10, :, :] = 3  # l = -1
    lattice = features.Lattice(CUBIC, np.array(trajectories.MMM), "orthorhombic", "P")
    (point,), (rod,), (sheet,) = (features.kinds(volume, i, grid, lattice) for i in (1, 2, 3))
    assert (point.shape, point.place, point.name) == ("point", "(1/2, 1/2, 1/2)", "R")
    assert (rod.shape, rod.place, rod.direction) == ("rod", "(1/2, 1/2, l)", "0 0 1")
    assert (sheet.shape, sheet.place, sheet.direction) == ("sheet", "(h, k, 0)", "0 0 1")
