"""Residuals by module and frame against displacements put in by hand."""

from dataclasses import replace

import numpy as np
import pytest

from hklflow.bragg.converge import RefinedModel, seen
from hklflow.bragg.residual_map import Spots, by_frame, by_module
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.geometry.modules import Modules
from tests.truth import convergence as made
from tests.truth.defaults import limits

PIXEL = (1e-4, 2e-4)
BOXES = np.array([[0, 90, 0, 60], [100, 200, 0, 60]])


def rotation(tilt: float = 0.0) -> Rotation:
    """A detector across the beam, or leaning; slow is down, fast to the right."""
    slow = np.array([0.0, -np.cos(tilt), np.sin(tilt)])
    fast = np.array([1.0, 0.0, 0.0])
    middle = np.array([0.0, 0.0, 0.1])
    origin = middle - 100 * PIXEL[0] * slow - 30 * PIXEL[1] * fast
    return Rotation(
        Beam(0.5),
        Detector((200, 60), PIXEL, origin, slow, fast),
        Goniometer.single([1, 0, 0]),
        Scan(0.0, 0.01, 50),
    )


def spots(n: int = 4000, noise: float = 0.0, tilt: float = 0.0) -> Spots:
    rng = np.random.default_rng(1)
    at = rng.uniform(0, 1, (n, 3)) * [200, 60, 50]
    off = noise * rng.normal(size=(n, 3))
    return Spots([rotation(tilt)], np.zeros(n, np.int64), at, off)


def test_a_shift_is_told_in_pixels_and_micrometres_of_its_module_alone() -> None:
    given = spots(noise=0.1)
    second = given.position[:, 0] >= 100
    given.off[second, :2] += [0.3, -0.2]
    whole, first, moved = by_module(given, Modules.ideal(BOXES, 2.0))
    assert (whole.module, first.module, moved.module) == (-1, 0, 1)
    assert whole.rectangle == [0, 200, 0, 60]
    assert moved.rectangle == [100, 200, 0, 60]
    # In the gap from 90 to 100 is no module.
    assert first.spots + moved.spots < 0.97 * whole.spots
    assert moved.median_px == pytest.approx([0.3, -0.2], abs=0.015)
    assert first.median_px == pytest.approx([0.0, 0.0], abs=0.015)
    assert moved.rms_px == pytest.approx([np.hypot(0.3, 0.1), np.hypot(0.2, 0.1)], abs=0.01)
    assert first.rmsd_px == pytest.approx(0.1 * np.sqrt(2), abs=0.005)


def test_radial_is_outward_and_tangential_a_quarter_turn_from_slow_to_fast() -> None:
    given = spots()
    from_beam = (given.position[:, :2] - [100, 30]) * PIXEL
    outward = from_beam / np.linalg.norm(from_beam, axis=1, keepdims=True)
    across = np.stack([-outward[:, 1], outward[:, 0]], axis=1)
    given.off[:, :2] = (3e-5 * outward - 1e-5 * across) / PIXEL
    np.testing.assert_allclose(given.along(), np.tile([30.0, -10.0], (len(outward), 1)), atol=1e-9)
    (whole,) = by_module(given, None)
    assert whole.median_um == pytest.approx([30, -10])
    assert whole.rms_um == pytest.approx([30, 10])


def test_radial_follows_two_theta_on_a_leaning_detector() -> None:
    given = spots(tilt=0.5)
    detector = given.rotations[0].detector

    def two_theta(at: np.ndarray) -> np.ndarray:
        x, y, z = detector.lab(at[:, 0], at[:, 1]).T
        return np.arctan2(np.hypot(x, y), z)

    along = []
    for axis in (0, 1):
        step = np.zeros(2)
        step[axis] = 1e-3
        change = two_theta(given.position[:, :2] + step) - two_theta(given.position[:, :2] - step)
        along.append(change / PIXEL[axis])
    gradient = np.stack(along, axis=1)
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    moved = replace(given, off=np.column_stack([gradient / PIXEL, np.zeros(len(gradient))]))
    far = np.hypot(*((given.position[:, :2] - [100, 30]) * PIXEL).T) > 1e-3
    np.testing.assert_allclose(moved.along()[far, 0], 1e6, rtol=1e-4)
    np.testing.assert_allclose(moved.along()[far, 1], 0, atol=3e4)


def test_distance_and_turn_of_a_module_are_told_with_their_errors() -> None:
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        given = spots(800)
        at = given.position[:, :2] * PIXEL
        middle = np.array([150, 30]) * PIXEL  # of the second module
        second = given.position[:, 0] >= 100
        turn, farther = 2e-3, 5e-4
        off = np.stack([-turn * (at - middle)[:, 1], turn * (at - middle)[:, 0]], axis=1)
        off += farther / 0.1 * (at - np.array([100, 30]) * PIXEL)
        given.off[second, :2] = off[second] / PIXEL
        given.off[:, :2] += 0.1 * rng.normal(size=(800, 2))
        row = by_module(given, Modules.ideal(BOXES, 2.0))[2]
        pulls.append([(row.z_um - 500) / row.z_sigma_um,
                      (row.rotation_mrad - 2) / row.rotation_sigma_mrad])  # fmt: skip
    assert row.z_sigma_um < 200
    assert row.rotation_sigma_mrad < 1.5
    assert np.abs(np.mean(pulls)) < 0.35
    assert 0.8 < np.std(pulls) < 1.2


def test_few_spots_tell_no_turn_and_none_tell_nothing() -> None:
    given = spots(40)
    whole = by_module(given, Modules.ideal(BOXES, 2.0))[0]
    assert whole.z_um is None
    assert whole.median_px is not None
    none = given.select(np.zeros(40, bool))
    row = by_module(none, Modules.ideal(BOXES, 2.0))[1]
    assert (row.spots, row.median_px, row.rmsd_px) == (0, None, 0.0)


def test_blocks_of_frames_hold_every_spot_once() -> None:
    given = spots(500, noise=0.1)
    given.off[given.position[:, 2] > 40, 2] += 1.0
    rows = by_frame(given, ["r1"], blocks=5)
    assert [row["frames"] for row in rows] == [[10.0 * i, 10.0 * (i + 1)] for i in range(5)]
    assert sum(row["spots"] for row in rows) == 500
    assert rows[4]["median"][2] == pytest.approx(1.0, abs=0.1)
    assert abs(rows[0]["median"][2]) < 0.1


def test_a_simulated_detector_farther_off_and_displaced_modules_are_seen() -> None:
    """Against the simulator's own detector: the signs are those of the world."""
    shifts = made.shifts_of(4)
    truth = made.scan(seed=4, shifts=shifts)
    model = RefinedModel(truth.rotations, truth.ub, truth.cell, np.zeros(6))
    under = seen(model, truth.peaks, limits())
    which = np.repeat([0, 1], [len(p.frame) for p in truth.peaks])
    position = np.concatenate([p.position for p in truth.peaks])
    given = Spots(truth.rotations, which, position, under.off).select(under.sharp)
    rows = by_module(given, Modules.ideal(made.BOXES))
    found = np.array([row.median_px for row in rows[1:]])
    assert np.abs(found + shifts).max() < 0.03
    # The detector really is where it was, but thought to be 0.2 mm nearer.
    near = [
        replace(r, detector=r.detector.moved(-2e-4 * r.detector.normal)) for r in truth.rotations
    ]
    under = seen(replace(model, rotations=near), truth.peaks, limits())
    given = Spots(near, which, position, under.off).select(under.sharp)
    whole = by_module(given, None)[0]
    assert whole.z_um == pytest.approx(200, abs=5 * whole.z_sigma_um)
    assert whole.z_sigma_um < 20
