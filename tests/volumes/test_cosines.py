"""Injected cosines: which are injected, and when the loss is told."""

import numpy as np
import pytest
from tests.truth import hole_worlds
from tests.volumes.test_spectrum import target_of

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.stage import hole_checks
from hklflow.volumes.cosine_waves import CosineWaves
from hklflow.volumes.cosines import Cosine, injected
from hklflow.volumes.hole_covariance import prior_of
from hklflow.volumes.hole_waves import Waves
from hklflow.volumes.spectrum import SpectrumFill
from hklflow.volumes.tapers import Taper


def test_cosines_are_at_lattice_vectors_and_elsewhere() -> None:
    world = hole_worlds.make_world("size effect", "triclinic", 21, 0.125, False)
    target = target_of(world)
    found = SpectrumFill(target, world.q_max)
    cosines = injected(target, found, prior_of(target, found))
    assert [cosine.at_lattice_vector for cosine in cosines] == [True] * 3 + [False] * 2
    lengths = [np.linalg.norm(world.lattice.direct @ cosine.vector) for cosine in cosines]
    np.testing.assert_allclose([cosine.length for cosine in cosines], lengths)
    assert lengths[0] == min(world.lattice.cell[:3])
    # What is lost is at most what stands in holes, of a signal that is a few times the noise.
    assert all(0.9 < cosine.recovered < 1.001 for cosine in cosines)
    assert all(0 <= cosine.lost < 1 for cosine in cosines)
    # The shorter a vector, the farther the ΔPDF is above its noise.
    noise = [cosine.error for cosine in cosines[:3]]
    assert 0 < noise[0] < 0.3
    assert noise == sorted(noise)


def test_a_loss_above_the_noise_is_told() -> None:
    def told(lost: float) -> list[str]:
        small = Cosine(np.zeros(3), 0.0, 0.99, np.inf)
        middle = Cosine(np.array([1, 0, 0.5]), 5.0, 0.9, 0.1 / lost)
        of = hole_checks.of_cosines([small, middle, small])
        first, second, _ = of["injected cosines"]
        assert first["lost in units of the noise"] == 0
        assert first["noise in units of the amplitude"] is None
        assert second["lost in units of the noise"] == pytest.approx(lost)
        assert second["noise in units of the amplitude"] == 0.1 / lost
        return list(of["warnings"])

    assert told(0.9) == []
    (words,) = told(1.2)
    assert "90.0 % of a cosine at (1, 0, 0.5): 1.2 times the noise there is lost" in words


@pytest.mark.parametrize("even", [True, False])
def test_waves_of_a_cosine_are_those_of_its_sum_over_voxels(even: bool) -> None:
    """In a skewed cell, on a grid with and without hkl = 0 in its middle; numpy's transform."""
    cell = np.array([4.0, 5.0, 5.5, 80.0, 95.0, 112.0])
    grid = Grid.symmetric([1.6, 1.6, 1.8], [0.04, 0.04, 0.045])
    if not even:
        grid = Grid(
            grid.first,
            grid.step,
            tuple(n + more for n, more in zip(grid.shape, (3, 0, 2), strict=True)),
        )
    shape = grid.shape[::-1]
    waves = Waves(shape, tuple(n // 2 for n in shape) if even else (0, 0, 0), even, 1)
    found = CosineWaves(waves, grid, cell, 1.7)
    l, k, h = np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    hkl = np.stack([h, k, l], axis=-1)
    w = Taper("tukey", 1.7, 0.5)(np.linalg.norm(hkl @ lattice.b_matrix(cell).T, axis=-1))
    vectors = np.array([[1.0, -2.0, 0.5], [0.0, 1.0, 1.0]])
    cosine = np.mean([np.cos(2 * np.pi * hkl @ vector) for vector in vectors], axis=0)
    field = np.zeros(waves.periods)
    field[: shape[0], : shape[1], : shape[2]] = w * cosine
    field = np.roll(field, tuple(-m for m in waves.middle), (0, 1, 2))
    expected = np.fft.rfftn(field)
    made, squares = found.of(vectors)
    np.testing.assert_allclose(made, expected, atol=3e-6 * np.abs(expected).max())
    assert squares == pytest.approx(np.sum(w * cosine**2), rel=1e-5)
