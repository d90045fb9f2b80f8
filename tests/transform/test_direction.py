"""Factor of the direction in the transform: compare with transforms of single ranges of frames."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice
from hklflow.geometry.grid import Grid
from hklflow.transform.binning import Accumulator
from hklflow.transform.direction import Direction

SHAPE, N, CELL = (45, 70), 23, (5, 6, 7, 80, 95, 102)
ROTATION = Rotation(
    beam=Beam(wavelength=0.7),
    detector=Detector(
        shape=SHAPE,
        pixel_size=(1.4e-3, 1.4e-3),
        origin=np.array((-0.043, 0.04, 0.07)),
        slow=np.array((0.0, -1, 0)),
        fast=np.array((1.0, 0, 0)),
    ),
    goniometer=Goniometer.single((1.0, 0.1, 0.0)),
    scan=Scan(start=10.0, step=1.5, n_frames=N),
)
UB = lattice.b_matrix(CELL)
GRID = Grid.covering(CELL, 12.0, 0.2)
RNG = np.random.default_rng(3)
PIXEL = np.where(RNG.random(SHAPE) < 0.1, 0, RNG.uniform(0.5, 1, SHAPE))
FRAME = RNG.uniform(0.5, 2, N)
DIRECTION = Direction(
    5,
    np.linspace(0, SHAPE[0], 4),
    np.linspace(0, SHAPE[1], 6),
    RNG.normal(0, 0.3, (5, 4, 6)),
)


def factor(number: int) -> np.ndarray:
    """Return the factor of a range (slow, fast), by interpolation along one axis at a time."""
    slow, fast = (np.arange(n) + 0.5 for n in SHAPE)
    log = DIRECTION.log[number]
    along = np.stack([np.interp(slow, DIRECTION.slow, column) for column in log.T], axis=1)
    return np.exp(np.stack([np.interp(fast, DIRECTION.fast, row) for row in along]))


@pytest.mark.parametrize("samples", [(1, 1, 1), (2, 2, 1)])
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_the_norm_contains_the_factor_of_the_direction(
    samples: tuple[int, int, int], dtype: type
) -> None:
    """In any blocks and bands, and in both loops."""
    frames = RNG.poisson(2, (N, *SHAPE)).astype(dtype)
    made = Accumulator(
        ROTATION, UB, GRID, PIXEL, FRAME, samples, seed=1, threads=2, direction=DIRECTION
    )
    made.add(frames[:7], 0)
    for row in (0, 16, 32):
        made.add(frames[7:, row : row + 16], 7, row=row)
    counts, norm = made.total()
    plain = Accumulator(ROTATION, UB, GRID, PIXEL, FRAME, samples, seed=1)
    plain.add(frames, 0)
    if dtype is np.uint16:
        assert np.array_equal(counts, plain.total()[0])
    assert (made.used, made.inside) == (plain.used, plain.inside)
    expected = np.zeros_like(norm)
    for number in range(5):
        mine = np.arange(N) // 5 == number
        part = Accumulator(
            ROTATION, UB, GRID, PIXEL * factor(number), np.where(mine, FRAME, 0), samples, seed=1
        )
        part.add(frames, 0)
        expected += part.total()[1]
    # Norms are rounded to 2⁻²² of the largest.
    assert np.allclose(norm, expected, rtol=1e-5, atol=1e-4)
    assert not np.allclose(norm, plain.total()[1], rtol=0.05)


def test_sums_do_not_depend_on_the_blocks() -> None:
    frames = RNG.poisson(2, (N, *SHAPE)).astype(np.uint16)
    sums = []
    for size in (1, 4, 23):
        made = Accumulator(ROTATION, UB, GRID, PIXEL, FRAME, seed=1, direction=DIRECTION)
        for first in range(0, N, size):
            made.add(frames[first : first + size], first)
        sums.append(made.total())
    for counts, norm in sums[1:]:
        assert np.array_equal(counts, sums[0][0])
        assert np.array_equal(norm, sums[0][1])


def test_a_factor_of_another_detector_is_refused() -> None:
    other = Direction(5, DIRECTION.slow, DIRECTION.fast * 2, DIRECTION.log)
    with pytest.raises(HklflowError, match=r"45 × 140 pixels, the rotation has 23 of 45 × 70"):
        Accumulator(ROTATION, UB, GRID, PIXEL, FRAME, direction=other)
