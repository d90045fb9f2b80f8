"""Covariance of the ΔPDF at lattice vectors, against Gaussian statistics and worlds."""

import numpy as np
import pytest
from tests.truth import hole_judge, hole_worlds
from tests.volumes.test_spectrum import target_of

from hklflow.geometry.grid import Grid
from hklflow.volumes import fill, hole_covariance, spectrum
from hklflow.volumes.control import controls
from hklflow.volumes.hole_covariance import HoleSums, Prior
from hklflow.volumes.pdf_plan import plan
from hklflow.volumes.refill import refill
from hklflow.volumes.tapers import Taper

FRIEDEL = np.stack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])


def stated(target: fill.Target, taper: Taper, prior: Prior, operations: np.ndarray) -> np.ndarray:
    made = plan(target.grid, target.cell, taper, operations)
    sums = HoleSums(made, prior)
    for l, code in enumerate(target.code):  # noqa: E741
        sums.add(l, code, target.errors[l])
    return sums.covariance()


def test_of_gaussian_fields_it_is_that_of_the_best_estimate() -> None:
    """S of three cosines and noise on 13³ voxels; every third voxel along each axis is a hole."""
    cell, grid = np.array([5.0, 5.0, 5.0, 90, 90, 90]), Grid.symmetric([2.0] * 3, [1 / 3] * 3)
    code = np.zeros(grid.array_shape, np.uint8)
    code[::3, ::3, ::3] = fill.PUNCHED  # -2, -1 ... 2
    vectors = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, -1, 1]], float)
    size, noise = code.size, 0.3
    # 27 R of a period; each set of equivalents has two, r = 0 one. The rest of R is noise.
    signal = np.array([0.6, 0.9, 0.0, 0.97])
    hkl = np.stack(np.meshgrid(*[grid.axis(0)] * 3, indexing="ij")[::-1], axis=-1).reshape(-1, 3)
    waves = np.cos(2 * np.pi * hkl @ vectors.T)
    # Independent voxels: one of each pair of Friedel mates.
    half = np.arange(size) >= size // 2
    number = np.where(np.arange(size) == size // 2, 1, 2)[half]
    waves, holes = waves[half], code.ravel()[half] == fill.PUNCHED
    # V is the variance at general r for one voxel: σ² times the number of operations.
    v = 2 * noise**2 / (1 - signal)
    # D(R) = Σ S cos has the variance V · voxels / number of equivalents.
    amplitude = (v - 2 * noise**2) / size * np.array([1, 2, 2, 2])
    of_s = waves * amplitude @ waves.T
    known = ~holes
    total = of_s + noise**2 * np.eye(len(of_s))
    best = of_s[:, known] @ np.linalg.inv(total[np.ix_(known, known)])
    # The ΔPDF has S as measured, and the best estimate in holes.
    estimate = np.zeros((len(of_s), known.sum()))
    estimate[np.flatnonzero(known), np.arange(known.sum())] = 1
    estimate[holes] = best[holes]
    rest = np.eye(len(of_s))
    rest[:, known] -= estimate
    errors = rest @ of_s @ rest.T + noise**2 * estimate @ estimate.T
    scale = 1 / 125 / 27
    transform = scale * (number[:, None] * waves).T
    expected = transform @ errors @ transform.T
    sigma = np.full(code.shape, noise, np.float32)
    target = fill.Target(sigma.copy(), sigma, code, grid, cell, FRIEDEL)
    found = stated(target, Taper("none", 1e3, 0), Prior(vectors, signal, 0.8), FRIEDEL)
    plain = noise**2 * transform @ transform.T
    np.testing.assert_allclose(found, expected, atol=0.02 * plain.max())


def test_lattice_vectors_are_independent_on_the_grid() -> None:
    """A vector of which an equivalent is beyond half a period is another one, a period away."""
    for name, world in hole_worlds.LATTICES.items():
        n, step = 4, 1 / 8
        grid = Grid.symmetric([0.5 - step] * 3, [step] * 3)
        operations = world.operations
        vectors = hole_covariance.lattice_vectors(world.cell, operations, grid.step)
        # A period of the ΔPDF is 8 cells, and S of a lattice vector has the period 1.
        hkl = np.indices((8, 8, 8)).reshape(3, -1).T * step
        images = np.einsum("vi,gij->vgj", vectors, operations)
        waves = np.cos(2 * np.pi * np.einsum("vgj,qj->vgq", images, hkl)).mean(axis=1)
        assert np.linalg.matrix_rank(waves) == len(vectors) > 20, name
        assert np.abs(images).max() < n


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1e6, 1e9])
def test_errors_scale_with_the_unit_of_s(unit: float) -> None:
    """With a monitor of 1e7 counts, S is 1e-7 times as large; before, variances became negative."""
    world = hole_worlds.make_world("short-range order", "hexagonal", 29, 1 / 14, True)
    target = target_of(world)
    target.errors[:] = np.sqrt(np.maximum(world.truth, 0.1) / 10)
    operations = world.lattice.operations
    vectors = hole_covariance.lattice_vectors(target.cell, operations, target.grid.step)
    prior = Prior(vectors, np.linspace(0.9, 0, len(vectors)), 0.8)
    taper = Taper("tukey", world.q_max, 0.5)
    plain = stated(target, taper, prior, operations)
    target.errors[:] *= np.float32(unit)
    scaled = stated(target, taper, prior, operations) / float(np.float32(unit)) ** 2
    size = np.sqrt(np.outer(np.diag(plain), np.diag(plain)))
    np.testing.assert_allclose(scaled / size, plain / size, atol=1e-4)


def test_covariance_is_positive_definite_where_the_signal_is_strong() -> None:
    world = hole_worlds.make_world("short-range order", "hexagonal", 29, 1 / 14, False)
    target = target_of(world)
    target.errors[:] = np.sqrt(world.truth / 1e3)
    operations = world.lattice.operations
    vectors = hole_covariance.lattice_vectors(target.cell, operations, target.grid.step)
    # Vectors that were not taken for strong together.
    signal = np.random.default_rng(0).uniform(0.9, 1, len(vectors))
    covariance = stated(
        target, Taper("tukey", world.q_max, 0.5), Prior(vectors, signal, 0.8), operations
    )
    sigma = np.sqrt(np.diag(covariance))
    assert np.linalg.eigvalsh(covariance / sigma / sigma[:, None])[0] > 0.009


def test_chi_square_of_a_world_is_one() -> None:
    world = hole_worlds.make_world("size effect", "triclinic", 31, 0.125, False)
    vectors = hole_judge.lattice_vectors(world, 60)
    judge = hole_judge.Judge(world, vectors)

    def candidate(values, sigma, punched, world):  # type: ignore[no-untyped-def]
        target = target_of(world)
        holes = punched == hole_worlds.PUNCHED
        target.data[~holes], target.errors[~holes] = values[~holes], sigma[~holes]
        again = spectrum.SpectrumFill(target, world.q_max)
        for _ in range(spectrum.ROUNDS):
            again.learn()
        again.write()
        prior = hole_covariance.prior_of(target, again)
        taper = Taper("tukey", world.q_max, 0.5)
        covariance = stated(target, taper, prior, world.lattice.operations)
        both = np.concatenate([prior.vectors, -prior.vectors]).tolist()
        own = [both.index(v) % len(prior.vectors) for v in vectors.tolist()]
        errors = target.errors.astype(float)
        part = covariance[np.ix_(own, own)] - judge.covariance(errors)
        return target.data.astype(float), errors, lambda _: part

    residuals, covariances = hole_judge.pulls(candidate, judge, 100.0, 3)
    result = hole_judge.verdict(residuals, covariances)
    assert 0.8 < result.chi2_full < 1.25
    assert 0.7 < result.shells < 1.3


@pytest.mark.slow
def test_chi_square_of_a_world_with_a_cone_and_gaps_is_near_one() -> None:
    """With σ of the filled voxels alone, sums over shells have pulls of 0.3."""
    world = hole_worlds.make_world("size effect", "monoclinic", 41, 0.1, True)
    judge = hole_judge.Judge(world, hole_judge.lattice_vectors(world, 82))
    residuals, covariances = [], []
    for seed in range(2):
        target = target_of(world)
        values, sigma = world.measure(100.0, seed)
        measured = target.code == fill.MEASURED
        target.data[measured], target.errors[measured] = values[measured], sigma[measured]
        holes = fill.find_holes(target, np.flatnonzero(target.code == fill.PUNCHED))
        found = controls(target, holes, world.q_max)
        fill.fill(target)
        again = refill(target, holes, found, fill.BEST, world.q_max)[2]
        assert again is not None
        prior = hole_covariance.prior_of(target, again)
        assert len(prior.missed) > 8
        taper = Taper("tukey", world.q_max, 0.5)
        covariance = stated(target, taper, prior, world.lattice.operations)
        numbers = {
            tuple(np.rint(mate).astype(int)): i
            for i, vector in enumerate(prior.vectors)
            for mate in vector @ world.lattice.operations
        }
        own = [numbers[tuple(v)] for v in judge.vectors]
        covariances.append(covariance[np.ix_(own, own)])
        residuals.append(judge.transform(target.data.astype(float)) - judge.truth)
    result = hole_judge.verdict(np.array(residuals), covariances)
    assert 0.75 < result.chi2_full < 1.3
    assert 0.7 < result.shells < 1.3


def test_errors_of_gaps_add_up_where_the_pdf_is_strong() -> None:
    """A slab of two planes was not measured; what is lost there has the spectrum of one cosine."""
    cell, grid = np.array([5.0, 5.0, 5.0, 90, 90, 90]), Grid.symmetric([1.0] * 3, [0.1] * 3)
    code = np.zeros(grid.array_shape, np.uint8)
    code[[5, -6]] = fill.UNMEASURED
    errors = np.where(code == fill.UNMEASURED, 2.0, 0.1).astype(np.float32)
    target = fill.Target(errors.copy(), errors, code, grid, cell, FRIEDEL)
    vectors = np.array([[1, 0, 0], [0, 2, 0]], float)
    prior = Prior(vectors, np.array([0.9, 0.0]), 0.0)
    # A taper of such a range has no width in r: the field is 2 √2 z cos(2π x) with <z²> = 1.
    found = stated(target, Taper("none", 1e9, 0), prior, FRIEDEL)
    hkl = np.stack(np.meshgrid(*[grid.axis(0)] * 3, indexing="ij")[::-1], axis=-1)
    waves = np.cos(2 * np.pi * hkl @ vectors.T)
    gap, voxel = code == fill.UNMEASURED, 1e-3 / 125
    lost = 2 * np.sqrt(2) * voxel * (waves[gap].T @ waves[gap][:, 0])
    noise = 2 * (0.1 * voxel) ** 2 * waves[~gap].T @ waves[~gap]
    np.testing.assert_allclose(found, np.outer(lost, lost) + noise, rtol=1e-4, atol=1e-12)
