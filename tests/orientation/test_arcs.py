"""Places of the spots of mosaic crystals, against blocks that are turned one by one."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn
from tests.truth.worlds_physics import Instrument, rotation

from hklflow import geometry
from hklflow.orientation import arcs

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


def clouds(
    inst: Instrument, spread: float, n: int, seed: int, half: float = np.inf
) -> tuple[Floats, Floats, Floats]:
    """Mean blocks' spots (n, 3), centroids (n, 3) and squared widths (n, 3): slow, fast, frame.

    Seen is what is nearer than `half` (pixels) to the mean block's spot.
    Every block is turned about all axes and then by the goniometer until it diffracts; the slower
    it passes, the more it counts.
    """
    rng = np.random.default_rng(seed)
    places, centres, squares = [], [], []
    while len(places) < n:
        slow, fast = rng.uniform(20, 460), rng.uniform(20, 490)
        s = inst.point(np.array([slow]), np.array([fast]))[0]
        s /= np.linalg.norm(s)
        q = inst.k * (s - [0, 0, 1])
        normal = np.cross(s, [0, 0, 1])
        if abs(normal @ AXIS) < 0.4 * np.linalg.norm(normal):
            continue  # it grazes the sphere
        turns = rng.normal(0, spread, (2000, 3))
        blocks = Turn.from_rotvec(np.concatenate([turns, -turns])).apply(q)
        angle = np.zeros(len(blocks))
        for _ in range(6):
            turned = Turn.from_rotvec(angle[:, None] * AXIS).apply(blocks)
            off = turned[:, 2] + q @ q / (2 * inst.k)
            angle -= off / np.cross(AXIS, turned)[:, 2]
        turned = Turn.from_rotvec(angle[:, None] * AXIS).apply(blocks)
        y, x, _ = inst.pixel(np.zeros(3), turned / inst.k + [0, 0, 1])
        seen = np.stack([y, x, np.degrees(angle) / 0.5], axis=1)
        weight = 1 / np.abs(np.cross(AXIS, turned)[:, 2])
        weight *= np.hypot(y - slow, x - fast) < half
        places.append((slow, fast, 0.0))
        centres.append(np.average(seen, axis=0, weights=weight))
        about = np.average((seen - centres[-1]) ** 2, axis=0, weights=weight)
        squares.append(about + np.array([SPOT**2, SPOT**2, 0]))
    return np.array(places), np.array(centres), np.array(squares)


def moved(inst: Instrument, centres: Floats, squares: Floats) -> Floats:
    """Places (n, 3) that the centroids are moved to."""
    off = arcs.displaced(
        model(inst), *centres[:, :2].T, *np.sqrt(squares.T), np.full(len(centres), 50.0)
    )
    return centres - np.stack([off.slow, off.fast, off.frame], axis=1)


@pytest.mark.parametrize("degrees", [0.3, 1.0, 1.5])
def test_centroids_of_arcs_are_moved_to_the_mean_block(degrees: float) -> None:
    inst = instrument(1)
    places, centres, squares = clouds(inst, np.radians(degrees), 200, seed=2)
    before, after = (_off(inst, x, places) for x in (centres, moved(inst, centres, squares)))
    # Pixels along the radius, pixels across it, frames. A tenth of a pixel at 1.5°.
    assert before[0].mean() < -0.015 * degrees**2
    assert abs(after[0].mean()) < 0.07 * abs(before[0].mean())
    for was, found in zip(before, after, strict=True):
        assert np.sqrt(np.mean(found**2)) < 0.35 * np.sqrt(np.mean(was**2))


@pytest.mark.parametrize("half", [40.0, 6.0, 2.5])
def test_centroids_in_a_foreground_are_moved_by_as_much_of_an_arc_as_it_has(half: float) -> None:
    inst, spread = instrument(9), np.radians(1.0)
    places, centres, _ = clouds(inst, spread, 300, seed=10, half=half)
    at = centres[:, :2].T
    off = arcs.within(model(inst), *at, np.full((300, 2), half), spread**2, spread)
    found = centres - np.stack([*off], axis=1)
    before, after = (_off(inst, x, places) for x in (centres, found))
    assert abs(after[0].mean()) < 0.07 * abs(before[0].mean())
    # By all of an arc they would be moved too far.
    off = arcs.within(model(inst), *at, np.full((300, 2), 100.0), spread**2, spread)
    far = _off(inst, centres - np.stack([*off], axis=1), places)
    assert (far[0].mean() > 0.3 * abs(before[0].mean())) == (half < 10)


def _off(inst: Instrument, found: Floats, places: Floats) -> tuple[Floats, Floats, Floats]:
    """Deviations along the radius, across it, and in frames."""
    middle = np.concatenate(inst.pixel(np.zeros(3), np.array([[0.0, 0.0, 1.0]]))[:2])
    out = places[:, :2] - middle
    out /= np.linalg.norm(out, axis=1)[:, None]
    slow, fast, frame = (found - places).T
    return slow * out[:, 0] + fast * out[:, 1], slow * out[:, 1] - fast * out[:, 0], frame


def test_round_spots_stay_where_they_are() -> None:
    """Spots of a perfect crystal, and maxima that are broad in all directions."""
    rng = np.random.default_rng(3)
    inst = instrument(4)
    places = rng.uniform(20, 460, (300, 2))
    for size in (SPOT, 3.0):
        widths = np.c_[size * np.exp(rng.normal(0, 0.1, (300, 2))), np.full(300, 0.1)]
        found = moved(inst, np.c_[places, np.zeros(300)], widths**2)
        assert np.abs(found[:, :2] - places).max() < 0.02


def test_few_peaks_are_left_alone() -> None:
    inst = instrument(5)
    _, centres, squares = clouds(inst, np.radians(1.0), 20, seed=6)
    found = moved(inst, centres, np.c_[squares[:, :2], np.zeros(20)])
    np.testing.assert_allclose(found, centres, atol=1e-9)


def test_widths_of_all_sizes_show_no_arcs() -> None:
    """No class of them is the narrowest."""
    rng = np.random.default_rng(7)
    inst = instrument(8)
    places = np.c_[rng.uniform(20, 460, (300, 2)), np.zeros(300)]
    found = moved(inst, places, np.exp(rng.uniform(-3, 3, (300, 3))) ** 2)
    assert np.isfinite(found).all()
    assert np.abs(found[:, :2] - places[:, :2]).max() < 0.2
