"""Places of the spots of mosaic crystals, against blocks that are turned one by one."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn
from tests.truth.worlds_physics import Instrument, rotation

from hklflow.core import arcs, geometry

Floats = NDArray[np.float64]

SPOT = 0.8  # pixels, in all directions
AXIS = np.array([0.0, 1.0, 0.0])


def instrument(seed: int) -> Instrument:
    rng = np.random.default_rng(seed)
    turn = rotation(rng.normal(size=3), 4.0)
    fast, slow = turn[:, 0], turn[:, 1]
    origin = turn @ [0, 0, 0.1] - 172e-6 * (230 * slow + 260 * fast)
    return Instrument(0.7, 172e-6, (480, 512), origin, fast, slow)


def model(inst: Instrument) -> geometry.Rotation:
    size = (inst.pixel_size, inst.pixel_size)
    return geometry.Rotation(
        geometry.Beam(inst.wavelength, 0.99),
        geometry.Detector(inst.shape, size, inst.origin, inst.slow, inst.fast),
        geometry.Goniometer(("phi",), AXIS[None], np.zeros(1), 0),
        geometry.Scan(0.0, np.radians(0.5), 360),
    )


def clouds(inst: Instrument, spread: float, n: int, seed: int) -> tuple[Floats, Floats, Floats]:
    """Places (n, 2) of mean blocks, centroids (n, 2) and squared widths (n, 2) of their spots.

    Every block is turned about all axes and then by the goniometer until it diffracts.
    """
    rng = np.random.default_rng(seed)
    places, centres, squares = [], [], []
    while len(places) < n:
        slow, fast = rng.uniform(20, 460), rng.uniform(20, 490)
        s = inst.point(np.array([slow]), np.array([fast]))[0]
        s /= np.linalg.norm(s)
        q = inst.k * (s - [0, 0, 1])
        normal = np.cross(s, [0, 0, 1])
        if abs(normal @ AXIS) < 0.3 * np.linalg.norm(normal):
            continue  # it grazes the sphere
        blocks = Turn.from_rotvec(rng.normal(0, spread, (4000, 3))).apply(q)
        angle = np.zeros(len(blocks))
        for _ in range(6):
            turned = Turn.from_rotvec(angle[:, None] * AXIS).apply(blocks)
            off = turned[:, 2] + q @ q / (2 * inst.k)
            angle -= off / np.cross(AXIS, turned)[:, 2]
        turned = Turn.from_rotvec(angle[:, None] * AXIS).apply(blocks)
        y, x, _ = inst.pixel(np.zeros(3), turned / inst.k + [0, 0, 1])
        seen = np.stack([y, x], axis=1)
        places.append((slow, fast))
        centres.append(seen.mean(axis=0))
        squares.append(seen.var(axis=0) + SPOT**2)
    return np.array(places), np.array(centres), np.array(squares)


@pytest.mark.parametrize("degrees", [0.3, 1.0, 1.5])
def test_centroids_of_arcs_are_moved_to_the_mean_block(degrees: float) -> None:
    inst = instrument(1)
    places, centres, squares = clouds(inst, np.radians(degrees), 200, seed=2)
    strong = np.full(len(places), 50.0)
    moved = np.stack(arcs.places(model(inst), *centres.T, *np.sqrt(squares.T), strong), axis=1)
    middle = inst.pixel(np.zeros(3), np.array([[0.0, 0.0, 1.0]]))
    outward = places - np.concatenate(middle[:2])
    outward /= np.linalg.norm(outward, axis=1)[:, None]
    before, after = (np.sum((x - places) * outward, axis=1) for x in (centres, moved))
    # Half a pixel at 1.5°, of which a twentieth and the noise of 4000 blocks are left.
    assert before.mean() < -0.015 * degrees**2
    assert abs(after.mean()) < 0.07 * abs(before.mean())


def test_round_spots_stay_where_they_are() -> None:
    """Spots of a perfect crystal, and maxima that are broad in all directions."""
    rng = np.random.default_rng(3)
    inst = instrument(4)
    places = rng.uniform(20, 460, (300, 2))
    for size in (SPOT, 3.0):
        widths = size * np.exp(rng.normal(0, 0.1, (300, 2)))
        moved = arcs.places(model(inst), *places.T, *widths.T, np.full(300, 50.0))
        assert np.abs(np.stack(moved, axis=1) - places).max() < 0.02


def test_few_peaks_are_left_alone() -> None:
    inst = instrument(5)
    _, centres, squares = clouds(inst, np.radians(1.0), 20, seed=6)
    moved = arcs.places(model(inst), *centres.T, *np.sqrt(squares.T), np.full(20, 50.0))
    np.testing.assert_allclose(np.stack(moved, axis=1), centres, atol=1e-9)
