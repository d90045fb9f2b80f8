"""Transforms of some voxels in a box of r, against numpy's transform of the whole grid."""

import numpy as np
import pytest
from tests.truth import hole_worlds

from hklflow.geometry.grid import Grid
from hklflow.volumes import fill
from hklflow.volumes.hole_waves import Voxels, Waves
from hklflow.volumes.wave_box import box_of

SHAPE = (11, 13, 9)
MIDDLE = tuple(n // 2 for n in SHAPE)


def waves_and_voxels(
    even: bool, box: tuple[int, int, int] | None
) -> tuple[Waves, Voxels, np.ndarray]:
    waves = Waves(SHAPE, MIDDLE, even, 1)
    waves.box = box or waves.periods
    chosen = np.random.default_rng(1).random(SHAPE) < 0.2
    if even:
        chosen |= chosen[::-1, ::-1, ::-1]
    numbers = np.flatnonzero(chosen)
    return waves, Voxels(waves, numbers), numbers


def values_of(numbers: np.ndarray, even: bool) -> np.ndarray:
    field = np.random.default_rng(2).normal(size=SHAPE)
    if even:
        field += field[::-1, ::-1, ::-1]
    return field.ravel()[numbers]


def in_period(waves: Waves, numbers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The field in the order of a transform, with the middle at 0."""
    field = np.zeros(waves.periods)
    index = np.stack(np.unravel_index(numbers, SHAPE)) - np.array(MIDDLE)[:, None]
    field[tuple(index)] = values  # negative numbers count from the end
    return field


def kept(waves: Waves, all_waves: np.ndarray) -> np.ndarray:
    for axis in range(2):
        index = np.fft.fftfreq(waves.box[axis], 1 / waves.box[axis]).astype(int)
        all_waves = all_waves.take(index, axis)
    return all_waves[..., : waves.box[2] // 2 + 1]


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("box", [None, (7, 9, 5)])
def test_waves_are_those_of_numpy(even: bool, box: tuple[int, int, int] | None) -> None:
    waves, voxels, numbers = waves_and_voxels(even, box)
    x = values_of(numbers, even)
    field = in_period(waves, numbers, x)
    expected = kept(waves, np.fft.rfftn(field))
    found = voxels.waves_of(x)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    planes = np.array([field[place] for place in waves.all_places()], np.float32)
    dense = waves.planes_of(lambda place: planes[place], waves.all_places())
    np.testing.assert_allclose(waves.of_planes(dense, waves.all_places()), expected, atol=1e-4)

    weights = np.random.default_rng(3).random(waves.periods)
    weights += np.roll(weights[::-1, ::-1, ::-1], 1, (0, 1, 2))
    inside = np.zeros(waves.periods, bool)
    inside[
        np.ix_(
            *(
                np.abs(np.fft.fftfreq(n, 1 / n)) <= b // 2
                for n, b in zip(waves.periods, waves.box, strict=True)
            )
        )
    ] = True
    weights = np.where(inside, weights, 0)
    full = np.fft.ifftn(weights * np.fft.fftn(field)).real * field.size
    back = full[tuple(np.stack(np.unravel_index(numbers, SHAPE)) - np.array(MIDDLE)[:, None])]
    half = kept(waves, weights).astype(np.float32)
    np.testing.assert_allclose(voxels.filtered(x, half), back, atol=2e-2)
    np.testing.assert_allclose(voxels.of_waves(half * found), back, atol=2e-2)


@pytest.mark.parametrize("far", [False, True])
def test_the_box_contains_distant_correlations(far: bool) -> None:
    """Noise, and a wave with r = 40 Å along b, which makes the box as long as needed there only."""
    grid = Grid.symmetric([1.0, 2.0, 1.0], [0.04, 0.04, 0.04])
    cell = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])
    lattice = hole_worlds.LATTICES["triclinic"]
    noise = np.random.default_rng(0).normal(size=grid.array_shape)
    noise += noise[::-1, ::-1, ::-1]
    wave = np.cos(2 * np.pi * 8 * grid.axis(1))[None, :, None]
    data = (noise + 0.3 * far * wave).astype(np.float32)
    code = np.zeros(grid.array_shape, np.uint8)
    target = fill.Target(data, data, code, grid, cell, lattice.operations.astype(np.int64))
    waves = Waves(data.shape, tuple(n // 2 for n in data.shape), True, 1)
    places = waves.places_of_grid()
    first = len(data) - len(places)
    planes = waves.planes_of(lambda place: waves.padded(data[first + place]), places)
    box = box_of(waves, planes, places, target, 20.0)
    # Half a period is 0.5 · 5 Å / 0.04 = 62.5 Å of r.
    reach = [62.5 * b / n for b, n in zip(box, waves.periods, strict=True)]
    assert 20 <= reach[0] < 30
    assert 20 <= reach[2] < 30
    assert (40 <= reach[1] < 50) if far else (20 <= reach[1] < 30)
