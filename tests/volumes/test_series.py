"""Series of cosines where regions were not measured, against S(Q) that is known there."""

import numpy as np
import pytest
from tests.truth import hole_worlds
from tests.truth.hole_worlds import UNMEASURED, World, hkl_of

from hklflow.volumes import fill
from hklflow.volumes.series import Series
from hklflow.volumes.spectrum import ROUNDS, SpectrumFill
from hklflow.volumes.tapered import Tapered
from hklflow.volumes.wave_box import reach_of


def target_of(world: World, norm: float, seed: int) -> fill.Target:
    """Return a measurement of a world, with its holes empty; nothing is filled beyond q_max."""
    values, sigma = world.measure(norm, seed)
    q = np.linalg.norm(hkl_of(world.grid) @ world.lattice.reciprocal.T, axis=-1)
    beyond = (world.punched == UNMEASURED) & (q > world.q_max * (1 + 1e-9))
    return fill.Target(
        values.astype(np.float32),
        sigma.astype(np.float32),
        np.where(beyond, np.uint8(fill.LEFT), world.punched),
        world.grid,
        np.array(world.lattice.cell),
        world.lattice.operations.astype(np.int64),
    )


@pytest.fixture(scope="module")
def world() -> World:
    """Hexagonal cell whose maxima at 0 0 l + 1/2 lie in the middle of an unmeasured cone."""
    return hole_worlds.make_world("short-range order", "hexagonal", 57, 1 / 14, True)


@pytest.mark.parametrize("seed", [1, 2])
def test_series_predicts_the_cone_within_its_errors(world: World, seed: int) -> None:
    """Few distance vectors tell what S is in the cone; drawn errors say how well."""
    target = target_of(world, 100.0, seed)
    tapered = Tapered(target, world.q_max)
    middle = tuple((n - 1) // 2 for n in target.data.shape)
    series = Series(target, tapered, middle, 1)
    tapered.series = series.field()
    cone = np.flatnonzero(target.code == UNMEASURED)
    weight = tapered.weights(cone)
    inner = weight > 0.5
    s = tapered.s_of(np.zeros(len(cone)), cone)[inner]
    error = s - world.truth.reshape(-1)[cone[inner]]
    random = np.random.default_rng(0)
    drawn = [series.field(series.drawn(random)).at(cone[inner]) for _ in range(12)]
    sigma = tapered.unit * np.sqrt(np.mean(np.square(drawn)))
    rms = np.sqrt(np.mean(error**2))
    assert rms < 0.15 * world.truth.reshape(-1)[cone[inner]].std()
    assert 0.3 < rms / sigma < 3.0


def test_fill_has_the_maxima_in_a_cone(world: World) -> None:
    """Without the series they were 20 to 40 % too weak."""
    target = target_of(world, 100.0, 3)
    holes = fill.find_holes(target, (world.punched == hole_worlds.PUNCHED).view(np.uint8))
    fill.fill(target, rough=True)
    spectrum = SpectrumFill(target, world.q_max, reach=reach_of(target, holes))
    for _ in range(ROUNDS):
        spectrum.learn()
    spectrum.write()
    cone = (world.punched == UNMEASURED) & (target.code == UNMEASURED)
    strong = cone & (world.truth > np.quantile(world.truth[cone], 0.97))
    found = target.data[strong].mean() / world.truth[strong].mean()
    assert found == pytest.approx(1, abs=0.07)


def test_values_of_a_field_are_those_of_its_planes(world: World) -> None:
    target = target_of(world, 100.0, 1)
    series = Series(target, Tapered(target, world.q_max), (28, 28, 28), 1)
    field = series.field()
    # By the definition: sums over equivalents of cos(2π hkl·u).
    numbers = np.random.default_rng(0).permutation(target.data.size)[:50]
    index = np.stack(np.unravel_index(numbers, target.data.shape)[::-1], axis=1)
    hkl = world.grid.first + index * world.grid.step
    u = series.vectors / 70 * 14
    expected = sum(
        np.cos(2 * np.pi * (hkl @ operation) @ u.T) @ series.coefficients
        for operation in np.swapaxes(world.lattice.operations, 1, 2)
    ) / len(world.lattice.operations)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(field.at(numbers), expected, rtol=0, atol=2e-5 * scale)
