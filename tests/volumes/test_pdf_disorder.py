"""3D-ΔPDF of simulated crystals against pairs counted in direct space."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.truth.defaults import made_taper

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.simulation import disorder
from hklflow.volumes import pdf
from hklflow.volumes.pdf_plan import Plan, plan

CELLS = {
    "cubic": np.array([4.0, 4.0, 4.0, 90.0, 90.0, 90.0]),
    "oblique": np.array([4.0, 4.6, 5.2, 90.0, 108.0, 90.0]),
}
# Unlike neighbours along the axes, like ones along the diagonals of the faces.
ORDER = [
    *((v, -0.8) for v in ((1, 0, 0), (0, 1, 0), (0, 0, 1))),
    *((v, 0.4) for v in ((1, 1, 0), (1, -1, 0), (0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1))),
]
POSITIVE = [(1, 1, 0), (1, 0, -1), (0, 1, 1), (2, 0, 0)]
NEGATIVE = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
Q_MAX, EXPOSURE, PUSH = 4.6, 30.0, 0.02


@cache
def simulated(cell: str, push: float) -> tuple[disorder.Crystal, Grid, np.ndarray]:
    made = disorder.crystal(CELLS[cell], 14, ORDER, push=push, seed=2)
    limit = Q_MAX / (2 * np.pi) * CELLS[cell][:3] + 0.1
    grid, whole, error = disorder.intensity(made, limit, 9)
    assert error < 1e-4
    return made, grid, whole


def transformed(
    cell: str, push: float, *, bragg: bool = False, noise: int | None = None
) -> tuple[disorder.Crystal, Plan, np.ndarray, np.ndarray]:
    made, grid, whole = simulated(cell, push)
    s = whole if bragg else disorder.diffuse(grid, whole)
    error = np.sqrt((s + 1e-3) / EXPOSURE)
    if noise is not None:
        s = np.random.default_rng(noise).poisson(np.maximum(s, 0) * EXPOSURE) / EXPOSURE
    planned = plan(grid, CELLS[cell], made_taper("tukey", Q_MAX), [np.eye(3)])
    found, sigma, _ = pdf.transform_volume(planned, s.astype("f4"), error.astype("f4"))
    return made, planned, found, sigma


def values(planned: Plan, array: np.ndarray, x: Any) -> np.ndarray:
    """Of the voxels at x (m, 3)."""
    i = np.rint((np.array(x) - planned.direct.first) / planned.direct.step).astype(int)
    return array[i[:, 2], i[:, 1], i[:, 0]]


def test_intensity_is_that_of_all_atoms() -> None:
    """Against a sum over atoms, one by one, at some points of the reciprocal lattice."""
    made, grid, whole = simulated("oblique", PUSH)
    cells = np.stack(np.meshgrid(*(np.arange(made.n),) * 3, indexing="ij"), axis=-1)
    x = (cells + made.push * made.steps).reshape(-1, 3)
    rng = np.random.default_rng(0)
    for _ in range(40):
        i = tuple(int(rng.integers(n)) for n in grid.array_shape)
        h = np.array([grid.axis(0)[i[2]], grid.axis(1)[i[1]], grid.axis(2)[i[0]]])
        f = made.powers.ravel() @ np.exp(2j * np.pi * (x @ h))
        assert whole[i] == pytest.approx(abs(f) ** 2 / len(x), abs=1e-3, rel=1e-4)


def test_alpha_is_that_of_counted_pairs() -> None:
    made, _, _ = simulated("cubic", 0.0)
    x_a = made.species.mean()
    for v in ((1, 0, 0), (1, 1, 0), (2, 1, -3)):
        unlike = 0
        for cell in np.ndindex(made.species.shape):
            there = tuple((np.array(cell) + v) % made.n)
            unlike += bool(made.species[cell] and not made.species[there])
        expected = 1 - unlike / made.species.size / (x_a * (1 - x_a))
        assert made.alpha(v) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_order_gives_peaks_of_its_sign_and_size(cell: str) -> None:
    """x_A x_B (f_A - f_B)² α times the resolution function, from noisy intensities."""
    made, planned, found, sigma = transformed(cell, 0.0, noise=1)
    vectors = [(0, 0, 0), *POSITIVE, *NEGATIVE]
    # Lattice vectors of a supercell of 14 cells: voxels by the choice of sizes.
    offset = np.array(vectors) - planned.direct.first
    np.testing.assert_allclose(offset / planned.direct.step % 1 % 1, 0, atol=1e-6)
    alpha = np.array([made.alpha(v) for v in vectors])
    assert np.all(alpha[1:5] > 0.05)
    assert np.all(alpha[5:] < -0.05)
    peak = float(planned.taper.resolution_function(0.0))
    seen = values(planned, found, vectors)
    np.testing.assert_allclose(seen / (made.contrast * peak), alpha, rtol=0.1)
    assert np.all(np.abs(seen) > 20 * values(planned, sigma, vectors))


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_size_effect_is_as_the_pairs_tell(cell: str) -> None:
    made, planned, found, _ = transformed(cell, PUSH)
    rng = np.random.default_rng(4)
    index = rng.integers(-15, 16, (150, 3))
    x = index * planned.direct.step
    scale = made.contrast * float(planned.taper.resolution_function(0.0))
    expected = disorder.pair_distribution(made, x, planned.taper)
    np.testing.assert_allclose(values(planned, found, x), expected, atol=1e-3 * scale)
    # Pairs AA are further apart than pairs BB: heavier outside, lighter inside.
    step = np.array([planned.direct.step[0], 0, 0])
    inside, outside = values(planned, found, [np.array([2, 0, 0]) + s * step for s in (-1, 1)])
    still = transformed(cell, 0.0)[2]
    before = values(planned, still, [np.array([2, 0, 0]) + s * step for s in (-1, 1)])
    assert abs(before[0] - before[1]) < 0.02 * scale
    reference = disorder.pair_distribution(
        made, [[2 - step[0], 0, 0], [2 + step[0], 0, 0]], planned.taper
    )
    assert outside - inside == pytest.approx(reference[1] - reference[0], rel=0.05)
    assert abs(outside - inside) > 0.02 * scale


def test_total_pdf_is_the_patterson_function() -> None:
    made, planned, found, _ = transformed("oblique", PUSH, bragg=True)
    rng = np.random.default_rng(4)
    x = rng.integers(-15, 16, (150, 3)) * planned.direct.step
    x[:3] = ((0, 0, 0), (1, 0, 0), (1, 0, 1))
    x[2:3] -= (x[2] - planned.direct.first) % planned.direct.step
    scale = float(planned.taper.resolution_function(0.0))
    expected = disorder.pair_distribution(made, x, planned.taper, delta=False)
    np.testing.assert_allclose(values(planned, found, x), expected, atol=2e-3 * scale)


def test_average_structure_gives_the_analytic_patterson() -> None:
    """Three atoms in an oblique cell, Bragg peaks only: all vectors between them and no others."""
    cell = np.array([4.0, 4.6, 5.2, 80.0, 108.0, 97.0])
    x = np.array([[0, 0, 0], [0.25, 0.4, 0.1], [0.5, 0.75, 0.55]])
    f = np.array([3.0, 1.0, -0.5])
    step = 0.125
    grid = Grid.symmetric(2 * np.pi / (2 * np.pi) * 1.2 * cell[:3], step)
    h, k, l = np.meshgrid(*(grid.axis(i) for i in range(3)), indexing="ij")  # noqa: E741
    hkl = np.stack([h, k, l], axis=-1).transpose(2, 1, 0, 3)
    whole = np.all(np.abs(hkl - np.rint(hkl)) < 1e-9, axis=-1)
    amplitude = np.exp(2j * np.pi * hkl @ x.T) @ f
    # S per r.l.u.³: a Bragg peak is all in one voxel.
    s = np.where(whole, np.abs(amplitude) ** 2 / step**3, 0).astype(np.float32)
    taper = made_taper("hann", 2 * np.pi * 1.1)
    planned = plan(grid, cell, taper, [np.eye(3)])
    found, _, _ = pdf.transform_volume(planned, s, np.ones_like(s))
    rng = np.random.default_rng(2)
    where = rng.integers(-8, 9, (60, 3)) * planned.direct.step
    g = lattice.metric(cell)
    fine = np.linspace(0, 12, 4001)
    table = taper.resolution_function(fine)
    expected = np.zeros(len(where))
    for i, j in np.ndindex(3, 3):
        for v in np.ndindex(9, 9, 9):
            apart = where - (x[j] - x[i] + np.array(v) - 4)
            r = np.sqrt(np.einsum("mi,ij,mj->m", apart, g, apart))
            expected += f[i] * f[j] * np.interp(r, fine, table, right=0.0)
    got = values(planned, found, where)
    np.testing.assert_allclose(got, expected, atol=2e-3 * float(found.max()))
    assert np.abs(expected).max() > 0.2 * float(found.max())


def test_pulls_of_noisy_intensities() -> None:
    """Poisson noise, everywhere in space."""
    _, planned, exact, _ = transformed("cubic", PUSH)
    pulls = []
    for seed in range(3):
        _, _, found, sigma = transformed("cubic", PUSH, noise=seed)
        pulls.append((found - exact) / sigma)
    assert np.std(pulls) == pytest.approx(1, abs=0.03)
    assert abs(np.mean(pulls)) < 0.05
    assert planned.symmetrised is False
