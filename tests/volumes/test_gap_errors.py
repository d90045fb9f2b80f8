"""Errors of the ΔPDF by gaps that were not measured, against worlds with a known S(Q)."""

from itertools import pairwise

import numpy as np
import pytest
from tests.truth import gap_judge, hole_worlds
from tests.truth.hole_worlds import PUNCHED, UNMEASURED, World

from hklflow.volumes import gap_errors, pdf

SIZE, STEP = 31, 0.125


def filled(kind: str, cell: str, missing: str, seed: int) -> tuple[World, np.ndarray, np.ndarray]:
    """Return a world, and S and σ with gaps that have the radial mean of S and its error."""
    if missing == "reflections":
        world = hole_worlds.make_world(kind, cell, SIZE, STEP, False, 0.25)
        world.punched[world.punched == PUNCHED] = UNMEASURED
    else:
        world = hole_worlds.make_world(kind, cell, SIZE, STEP, True, 0.01, (missing,))
    values, sigma = world.measure(30.0, seed)
    q = np.linalg.norm(hole_worlds.hkl_of(world.grid) @ world.lattice.reciprocal.T, axis=-1)
    shell = (q / 0.1503).astype(int)
    known = np.isfinite(values)
    mean = np.bincount(shell[known], values[known], shell.max() + 1)
    mean /= np.maximum(np.bincount(shell[known], minlength=shell.max() + 1), 1)
    values = np.where(known, values, mean[shell])
    gaps = ~known & (q < world.q_max)
    error = np.sqrt(np.mean((values - world.truth)[gaps] ** 2))
    return world, values, np.where(known, sigma, error)


@pytest.mark.parametrize(("cell", "missing"), [("cubic", "cone"), ("triclinic", "gaps")])
def test_pulls_at_short_distances_are_near_one(cell: str, missing: str) -> None:
    squares = [
        gap_judge.squared_pulls(*filled("short-range order", cell, missing, i)) for i in range(2)
    ]
    (before, *_), (after, *_) = np.sqrt(np.mean(squares, axis=0))
    assert before > 2
    assert 0.8 < after < 1.5


@pytest.mark.parametrize(
    ("cell", "missing"), [("triclinic", "gaps"), ("cubic", "cone"), ("triclinic", "reflections")]
)
def test_pulls_are_near_one_on_both_sides_of_a_small_box(
    cell: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The box ends at a third of the period, where gaps of 0.1 1/Å still have errors.
    monkeypatch.setattr(gap_errors, "_MOST", SIZE // 3)
    edges = np.array([2.0, 4, 6, 8, 10, 12, 14])
    squares = []
    for seed in range(2):
        world, values, sigma = filled("short-range order", cell, missing, seed)
        squares.append(gap_judge.squared_pulls(world, values, sigma, pairwise(edges)))
    before, after = np.sqrt(np.mean(squares, axis=0))
    assert before.max() > 2
    assert after.min() > 0.6
    assert after.max() < 1.5
    # σ decreases smoothly.
    steps = (before / after)[:-1] / (before / after)[1:]
    assert steps.max() < 2


def test_without_gaps_sigma_is_the_same() -> None:
    world, values, sigma = filled("size effect", "monoclinic", "gaps", 0)
    code = np.where(world.punched == UNMEASURED, PUNCHED, 0).astype(np.uint8)
    found = gap_judge.volumes(gap_judge.planned(world), values, sigma, code)
    assert found.factor is None
    assert np.array_equal(found.sigma, found.independent)


@pytest.mark.parametrize("most", [160, 28])
def test_factor_is_symmetric_and_its_mean_is_one(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gap_errors, "_MOST", most)
    world, values, sigma = filled("short-range order", "hexagonal", "cone", 0)
    made = gap_judge.planned(world)
    found = gap_judge.volumes(made, values, sigma, world.punched)
    assert found.factor is not None
    n_x, n_y, n_z = made.sizes
    factor = np.stack([found.factor.plane(z - n_z // 2, (n_y, n_x)) for z in range(n_z)])
    assert factor.mean(dtype=float) == pytest.approx(1, abs=1e-5)
    assert found.sigma == pytest.approx(found.independent * np.sqrt(factor), rel=1e-5)
    assert factor.max() > 3
    x = np.random.default_rng(0).integers(-6, 7, (50, 3))
    images = np.einsum("ni,gij->gnj", x, made.operations) + np.array(made.sizes) // 2
    of_images = factor[images[..., 2], images[..., 1], images[..., 0]]
    assert of_images == pytest.approx(np.broadcast_to(of_images[0], of_images.shape), rel=1e-4)


def test_replaced_errors_are_kept() -> None:
    world, _, sigma = filled("short-range order", "hexagonal", "cone", 0)
    made = gap_judge.planned(world)
    store = pdf.Store(made.half_shape, np.complex64)
    transform = pdf.Transform(made, store, 100e6, 1, 1.0)
    transform.load([(0, sigma.astype(np.float32))], variance=True)
    errors = pdf.Errors(made, pdf.Store(made.kept_shape, np.float32), transform)
    errors.replace(np.array([[1.0, 0, 0]]), np.array([7.0]))
    before = errors.planes(0, made.sizes[2])
    errors.multiply(lambda z, shape: np.full(shape, 4.0 if z == 0 else 1.0, np.float32), 1.0)
    after = errors.planes(0, made.sizes[2])
    expected = before.copy()
    middle = made.sizes[2] // 2
    expected[middle][before[middle] != 7] *= 2
    assert (before == 7).sum() == 6
    assert after == pytest.approx(expected)
    measured = errors.of_measured(middle, after[middle : middle + 1])
    assert measured[0] == pytest.approx(before[middle])
