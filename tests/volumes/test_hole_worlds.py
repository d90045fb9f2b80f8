"""The worlds by which fills are judged: their S(Q) and ΔPDF against other ways to get them."""

import numpy as np
import pytest
from tests.truth import hole_judge, hole_worlds
from tests.truth.defaults import made_taper

from hklflow.geometry.grid import Grid
from hklflow.volumes import pdf, pdf_plan


@pytest.mark.parametrize("cell", hole_worlds.LATTICES)
def test_operations_keep_the_cell_and_s(cell: str) -> None:
    lattice = hole_worlds.LATTICES[cell]
    b = lattice.reciprocal
    hkl = np.random.default_rng(0).uniform(-2, 2, (6, 3))
    assert all(np.allclose(w.T @ b.T @ b @ w, b.T @ b) for w in lattice.operations)
    images = np.einsum("wij,nj->wni", lattice.operations, hkl)
    for s in (
        hole_worlds.size_effect(lattice),
        # The mean over a hexagonal voxel has not the symmetry of the point.
        hole_worlds.thermal(lattice, np.full(3, 1e-6), True),
    ):
        values = s(images)
        assert np.allclose(values, values[0], rtol=1e-9)


@pytest.mark.parametrize("kind", hole_worlds.KINDS)
def test_s_is_the_mean_intensity_of_simulated_crystals(kind: str) -> None:
    lattice = hole_worlds.LATTICES["triclinic"]
    disorder = hole_worlds.KINDS[kind](lattice)
    rng = np.random.default_rng(3)
    n, crystals = 10, 600
    # Waves that fit the periodic crystal, between reflections and close to one.
    hkl = rng.integers(-2 * n, 2 * n, (40, 3)) / n
    hkl[0] = 1.1, 0, 1
    hkl = hkl[np.any(np.abs(hkl - np.rint(hkl)) > 0.01, axis=1)]
    fields = disorder.crystals(n, crystals, rng).reshape(crystals, 4, -1)
    sites = np.indices((n, n, n)).reshape(3, -1)
    ratios = []
    for h in hkl:
        q = lattice.reciprocal @ h
        phase = 2 * np.pi * (h @ sites) + np.einsum("a,nau->nu", q, fields[:, 1:])
        f = np.sum((1 + fields[:, 0]) * np.exp(1j * phase), axis=1)
        expected = disorder(h) / np.exp(-disorder.form * (q @ q))
        ratios.append(np.mean(np.abs(f) ** 2) / n**3 / expected)
    # |F|² of one crystal has an exponential distribution.
    pulls = (np.array(ratios) - 1) * np.sqrt(crystals)
    assert abs(pulls.mean()) < 3.5 / np.sqrt(len(pulls))
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1, abs=0.4)


def test_pdf_is_that_of_the_pairs_and_of_the_stage() -> None:
    lattice = hole_worlds.LATTICES["triclinic"]
    disorder = hole_worlds.short_range_order(lattice)
    disorder.smear = disorder.form = 0.0
    grid = Grid.symmetric([1.5] * 3, [0.1] * 3)
    world = hole_worlds.World(
        lattice,
        grid,
        disorder(hole_worlds.hkl_of(grid)),
        np.zeros((31, 31, 31), np.uint8),
        np.zeros((31, 31, 31)),
    )
    judge = hole_judge.Judge(world, hole_judge.lattice_vectors(world, 20))
    # Every pair appears with the resolution of the taper, ∫ w q² sin(qr)/(qr) dq/(2π²).
    q = (np.arange(4000) + 0.5) / 4000 * world.q_max
    weight = hole_judge.taper(q, world.q_max) * q**2 / (2 * np.pi**2) * q[0] * 2
    u = np.indices((9, 9, 9)).reshape(3, -1).T - 4
    correlation = disorder.covariance[0, 0][tuple(u.T)]
    correlated = np.abs(correlation) > 0
    apart = judge.vectors[:, None] - u[correlated]
    distance = np.linalg.norm(apart @ lattice.direct.T, axis=-1)
    expected = np.sinc(distance[..., None] * q / np.pi) @ weight @ correlation[correlated]
    scale = weight.sum()
    assert np.abs(judge.truth - expected).max() < 2e-3 * scale
    assert np.abs(judge.truth).max() > 0.05 * scale
    # The stage's transform agrees, its errors too.
    plan = pdf_plan.plan(
        grid, lattice.cell, made_taper(q_max=world.q_max, kind="tukey"), lattice.operations
    )
    values, sigma = world.measure(20.0, 5)
    volume, errors, _ = pdf.transform_volume(plan, values.astype(np.float32), sigma)
    at = np.rint((judge.vectors - plan.direct.first) / plan.direct.step).astype(int).T[::-1]
    assert volume[tuple(at)] == pytest.approx(judge.transform(values), abs=1e-5 * scale)
    stated = np.sqrt(np.diag(judge.covariance(sigma)))
    assert errors[tuple(at)] == pytest.approx(stated, rel=1e-3)


def test_pulls_without_holes_are_right() -> None:
    world = hole_worlds.make_world("short-range order", "triclinic", 21, 0.1, False)
    judge = hole_judge.Judge(world, hole_judge.lattice_vectors(world, 20))
    found = hole_judge.pulls(hole_judge.without_holes(30.0, 0), judge, 30.0, 40)
    result = hole_judge.verdict(*found)
    assert result.width == pytest.approx(1, abs=0.1)
    assert result.chi2_full == pytest.approx(1, abs=0.15)
    assert result.shells == pytest.approx(1, abs=0.15)


def test_thermal_scattering_is_that_of_elastic_waves() -> None:
    lattice = hole_worlds.LATTICES["cubic"]
    waves = hole_worlds.thermal(lattice, np.full(3, 1e-9), True)
    step = 1e-3
    # Near (2, 0, 0): along a* only the longitudinal wave counts (C_11), along b* only C_44.
    along, across = waves(np.array([[2 + step, 0, 0], [2, step, 0]]))
    assert along == pytest.approx(0.004 * (2 + step) ** 2 / step**2, rel=1e-3)
    assert across / along == pytest.approx(1 / 0.6, rel=5e-3)


def test_holes_and_norm_are_as_told() -> None:
    world = hole_worlds.make_world("size effect", "monoclinic", 41, 0.1, True)
    values, sigma = world.measure(300.0, 1)
    assert np.isnan(values[world.punched > 0]).all()
    pulls = ((values - world.truth) / sigma)[world.punched == 0]
    assert pulls.mean() == pytest.approx(0, abs=0.03)
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1, abs=0.02)
    b = world.lattice.reciprocal
    q = hole_worlds.hkl_of(world.grid) @ b.T
    node = b @ np.array([1, 0, -1])
    near = np.linalg.norm(q - node, axis=-1) < hole_worlds.RADIUS
    assert (world.punched[near] == hole_worlds.PUNCHED).all()
    assert 0.01 < np.mean(world.punched == hole_worlds.UNMEASURED) < 0.25
