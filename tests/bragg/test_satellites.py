"""Positions and arms of simulated satellites; `benchmarks/satellite_truth.py` has many more."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hklflow.bragg import satellite_position, star_arms
from hklflow.bragg.satellite_course import Course, course
from hklflow.bragg.satellite_position import Position
from hklflow.geometry.grid import Grid
from hklflow.quality import satellite_words
from hklflow.volumes import satellite_voxels, star_boxes
from hklflow.volumes.satellite_voxels import star_of
from tests.truth.satellite_reduction import every, measured
from tests.truth.satellite_worlds import CRYSTALS, World, draw

HALF = (0.15, 0.15, 0.15)
CUBIC = [
    np.diag(signs)[list(order)]
    for signs in itertools.product((1.0, -1.0), repeat=3)
    for order in itertools.permutations(range(3))
]


def body_centred(hkl: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(hkl.sum(axis=-1)) % 2 == 0)


@pytest.mark.parametrize(
    ("crystal", "vector", "free"),
    [
        (0, (0.29, 0, 0), [[1, 0, 0]]),
        (0, (0.5, 0, 0), []),
        (0, (0.29, 0.29, 0), [[2**-0.5, 2**-0.5, 0]]),
        (0, (0.5, 0, 0.21), [[0, 0, 1]]),
        (1, (0.333, 0.333, 0), []),  # the corner of the hexagonal zone
        (1, (0.3, 0.3, 0), [[2**-0.5, 2**-0.5, 0]]),
        (2, (0.31, 0.22, 0), [[1, 0, 0], [0, 1, 0]]),
    ],
)
def test_symmetry_leaves_displacements_free(
    crystal: int, vector: tuple[float, ...], free: list[list[float]]
) -> None:
    star = star_of(vector, CRYSTALS[crystal].operations(), every)
    np.testing.assert_allclose(star.basis.T, np.reshape(free, (-1, 3)), atol=1e-9)


def test_a_vector_near_a_special_point_is_on_it() -> None:
    star = star_of((0.333, 0.333, 0), CRYSTALS[1].operations(), every)
    np.testing.assert_allclose(star.vector, [1 / 3, 1 / 3, 0], atol=1e-9)
    assert len(star.operations) == 2  # K and K'


def test_half_a_forbidden_reflection_is_not_fixed() -> None:
    """(1, 0, 0) is no reflection of a body-centred lattice, so (1/2, 0, 0) is within the zone."""
    operations = np.array(CUBIC)
    assert star_of((0.5, 0, 0), operations, every).basis.shape == (3, 0)
    np.testing.assert_allclose(star_of((0.5, 0, 0), operations, body_centred).basis.T, [[1, 0, 0]])


def test_two_arms_in_one_box_are_one_place() -> None:
    star = star_of((0.45, 0, 0), CRYSTALS[0].operations(), every)
    points = [(0.45, 0.0, 0.0), (0.55, 0.0, 0.0), (0.0, 0.45, 0.0)]
    found = satellite_voxels.places_of(star, points, (0.12, 0.12, 0.3), every)
    assert [row for row, _ in found] == [0, 2]
    assert [len(place.arm) for _, place in found] == [2, 2]


def test_a_vector_within_the_zone_of_a_centred_lattice_is_followed() -> None:
    """In a body-centred lattice satellites are at (0.52, 0, 0) and (0.48, 1, 0)."""
    grid = Grid.symmetric([1.8, 1.8, 1.8], [0.06, 0.06, 0.06])
    q, arms = np.array([0.52, 0, 0]), np.concatenate([np.eye(3), -np.eye(3)])
    h = np.stack(np.meshgrid(*(grid.axis(i) for i in range(3)), indexing="ij"), axis=-1)
    mean = np.full(h.shape[:3], 0.2)
    for main in itertools.product((-2, -1, 0, 1, 2), repeat=3):
        if sum(main) % 2 == 0:
            for arm in arms:
                away = h - np.array(main) - 0.52 * arm
                mean += 30 * np.exp(-0.5 * (away**2).sum(axis=-1) / 0.03**2)
    counts = np.random.default_rng(5).poisson(mean).astype(float).transpose(2, 1, 0)
    norm = np.ones_like(counts)
    star = star_of((0.5, 0, 0), np.array(CUBIC), body_centred)
    points = [
        point
        for point, _ in star_boxes.places(grid, star_boxes.star((0.5, 0, 0), CUBIC), HALF, 1, 500)
    ]
    places = [x for _, x in satellite_voxels.places_of(star, points, HALF, body_centred)]
    voxels = satellite_voxels.gather(
        grid,
        lambda region: (counts[region], norm[region], counts[region]),
        star,
        places,
        [1.0] * len(places),
        star.vector,
        HALF,
        1,
        0.95,
    )
    assert voxels is not None
    found = satellite_position.fit(voxels, star, star.vector, np.eye(3) * 0.03**2, usual=False)
    sigma = float(np.sqrt(found.covariance[0, 0]))
    assert sigma < 0.001
    np.testing.assert_allclose(found.vector, q, atol=4 * sigma)


@pytest.mark.parametrize("last", [0.5, 0.8])
def test_shares_that_depend_on_temperature(last: float) -> None:
    """The share of (1/2, 0, 0) goes from 0.5 to ``last``; every reflection of a set is equal."""
    operations = CRYSTALS[0].operations()
    star = star_of((0.5, 0, 0), operations, every)
    points = [
        (x, y, 0.0)
        for a in (-1.5, -0.5, 0.5, 1.5)
        for b in (-1.0, 0.0, 1.0)
        for x, y in ((a, b), (b, a))
    ]
    places = [x for _, x in satellite_voxels.places_of(star, points, (0.1, 0.1, 0.1), every)]
    assert len(places) == len(points)
    rng = np.random.default_rng(6)
    share = np.linspace(0.5, last, 10)
    first = np.array([abs(x) % 1 == 0.5 for x, _, _ in points])
    strength = {
        key: rng.uniform(20, 200) for key in {(abs(x * y), x * x + y * y) for x, y, _ in points}
    }
    size = np.array([strength[abs(x * y), x * x + y * y] for x, y, _ in points])
    mean = size[:, None] * np.where(first[:, None], share, 1 - share) + 5.0
    flat = np.ones(mean.shape)
    counted = star_boxes.Counted(
        rng.poisson(mean) * 1.0, 5 * flat, 0.5 * flat, 5 * flat, 2.5 * flat, flat, 0 * flat
    )
    found = star_arms.compared(
        star, star.vector, operations, places, counted, flat, (0.2, 0.2, 0.2),
        np.ones(10, np.bool_), 0.01, every,
    )  # fmt: skip
    assert found is not None
    assert found.changes is (last != 0.5)
    assert found.equal is (last == 0.5)
    row = int(np.argmin(np.abs(found.vectors - [0.5, 0, 0]).sum(axis=1)))
    pulls = (found.scan_shares[row] - share) / found.scan_sigma[row]
    assert np.abs(pulls).max() < 4
    assert 0.4 < pulls.std() < 1.8


def at(kind: str, seed: int, counts: float) -> World:
    return draw(seed, kind, strongest=counts)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 5])
def test_lock_in_is_found_at_its_temperature_and_fraction(seed: int) -> None:
    world = at("lock-in", seed, 200.0)
    found, _ = measured(world)
    assert found.moves
    assert found.locked is not None
    assert world.locked is not None
    assert abs(found.locked.value - world.locked) < 3 * found.locked.sigma
    np.testing.assert_allclose(found.commensurate, world.crystal.start)
    off = found.vectors - world.vectors
    assert np.abs(off[found.seen]).max() < 0.003
    text = satellite_words.position(found)
    assert "q moves on cooling, from (" in text
    assert "it locks in at (1/3, " in text


def test_a_fixed_vector_does_not_move_and_arms_are_equal() -> None:
    world = at("fixed", 4, 60.0)
    found, arms = measured(world)
    assert found.moves is False
    assert arms is not None
    assert arms.equal
    assert not arms.changes
    assert np.all(np.abs(found.mean - world.vectors[0]) < 4 * found.mean_sigma + 1e-9)
    text = satellite_words.position(found)
    assert "does not move by more than" in text
    assert "symmetry fixes k and l" in text
    assert "domains of equal volume" in satellite_words.arms(found.mean.tolist(), arms)


def test_unequal_arms_are_said_with_their_shares() -> None:
    world = at("unequal arms", 4, 60.0)
    found, arms = measured(world)
    assert arms is not None
    assert arms.equal is False
    assert found.moves is False
    strongest = int(np.argmax(arms.shares))
    assert abs(arms.shares[strongest] - 0.7) < 4 * arms.sigma[strongest]
    assert "domains of unequal volume" in satellite_words.arms(found.mean.tolist(), arms)


def test_nothing_is_said_without_photons() -> None:
    world = at("linear", 0, 0.02)
    found, arms = measured(world)
    assert found.moves is None
    assert arms is None or arms.equal is None
    assert "not determined if it moves" in satellite_words.position(found)


def positions(free: np.ndarray, sigma: float) -> list[Position | None]:
    one = Position(np.zeros(3), np.zeros(1), np.eye(1) * sigma**2, 20.0, 400.0, np.eye(3), 1.0)
    return [
        replace(one, free=np.array([x]), vector=np.array([0.3 + x, 0, 0])) for x in free.tolist()
    ]


def said(free: np.ndarray, sigma: float = 5e-4) -> Course:
    star = star_of((0.3, 0, 0), CRYSTALS[0].operations(), every)
    return course(np.linspace(20, 200, len(free)), positions(free, sigma), star)


@pytest.mark.parametrize("row", [0, 4, 9])
def test_one_bad_scan_is_no_move(row: int) -> None:
    free = 5e-4 * np.random.default_rng(1).standard_normal(10)
    free[row] += 0.02
    assert said(free).moves is False


def test_a_line_does_not_lock_in() -> None:
    free = np.linspace(0, 0.02, 12) + 5e-4 * np.random.default_rng(2).standard_normal(12)
    found = said(free)
    assert found.moves
    assert found.locked is None


@pytest.mark.parametrize("lock", np.linspace(77.5, 81.5, 6))
def test_the_interval_of_lock_in_is_not_shifted(lock: float) -> None:
    """Positions without noise, with errors of 0.3 K; a jump would lead back."""
    t = np.linspace(20, 200, 12)
    found = said(4e-4 * np.maximum(t - lock, 0), sigma=1e-9).locked
    assert found is not None
    assert found.outer[0] <= lock <= found.outer[1]
    assert np.ptp(found.outer) < 5
    assert found.value == pytest.approx(lock, abs=1)


def test_the_interval_has_what_two_scans_below_allow() -> None:
    """Lock-in between the second and third of eight scans; a claim has three below it."""
    t, rng = np.linspace(20, 200, 8), np.random.default_rng(6)
    found = [
        said(5e-5 * np.maximum(t - 58, 0) + 5e-4 * rng.standard_normal(8)).locked for _ in range(60)
    ]
    claimed = [x for x in found if x is not None]
    assert len(claimed) >= 10
    assert np.mean([x.outer[0] <= 58 <= x.outer[1] for x in claimed]) > 0.6


def test_noise_is_no_move() -> None:
    rng = np.random.default_rng(3)
    assert sum(bool(said(5e-4 * rng.standard_normal(n)).moves) for n in [4, 8, 16] * 10) == 0


def test_the_limit_holds() -> None:
    """A move that is too small to be claimed is below the limit in 95 % of the series."""
    rng = np.random.default_rng(4)
    line = np.linspace(0, 4e-4, 8)
    found = [said(line + 5e-4 * rng.standard_normal(8)) for _ in range(60)]
    below = [x.limit > 4e-4 for x in found if not x.moves]
    assert len(below) > 50
    assert np.mean(below) > 0.95


def test_boxes_outside_of_the_volume_are_not_measured() -> None:
    def read(region: tuple[slice, slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        raise AssertionError(region)

    counted = star_boxes.table([[None]], [read], 0.95)
    assert np.isnan(counted.counts).all()
    assert not counted.chosen().any()
