"""`geometry.rays` against `geometry.rotation`, which says the same slowly."""

import numpy as np
import pytest
from numpy.typing import NDArray

from hklflow import geometry
from hklflow.geometry import rays

SHAPE = (37, 45)


def rotation(seed: int) -> geometry.Rotation:
    rng = np.random.default_rng(seed)
    origin = np.array([0.05, -0.06, rng.uniform(0.1, 0.4)])
    flat = geometry.Detector(
        SHAPE, (2e-3, 3e-3), origin, np.array([0.0, 1.0, 0.0]), np.array([-1.0, 0.0, 0.0])
    )
    return geometry.Rotation(
        geometry.Beam(0.31, 0.9),
        flat.moved(rng.normal(0, 0.01, 3), rng.normal(0, 0.4, 3)),
        geometry.Goniometer.single([1.0, 0.0, 0.0]),
        geometry.Scan(0.0, 0.01, 5),
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [(0.5, 0.5), (0.25, 0.75)])
def test_q_is_that_of_the_geometry(
    seed: int, dtype: type[np.floating], shift: tuple[float, float]
) -> None:
    turn = rotation(seed)
    q: NDArray[np.floating] = np.full((3, *SHAPE), np.nan, dtype)
    rays.q_lab(turn, shift, q)
    slow, fast = np.indices(SHAPE)
    expected = np.moveaxis(turn.q_lab(slow + shift[0], fast + shift[1]), -1, 0)
    assert np.abs(q / expected - 1).max() < (1e-6 if dtype is np.float32 else 1e-13)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_directions_are_those_of_the_geometry(seed: int) -> None:
    detector = rotation(seed).detector
    rows = np.full((20, SHAPE[1], 3), np.nan)
    rays.directions(detector, 9, rows)
    expected = geometry.directions(detector.pixel_centres())
    assert np.abs(rows - expected[9:29]).max() < 1e-15
