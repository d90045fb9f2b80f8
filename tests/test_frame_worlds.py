"""Frames of simulated worlds against geometry and integrals written apart, with numpy alone."""

from dataclasses import replace

import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from tests.truth.frames import FrameWorld, frame_world
from tests.truth.frames_world import MASKED
from tests.truth.worlds_physics import Array

SMALL = {"n_frames": 60, "shape": (180, 200), "pixel_size": 440e-6}


def alone(world: FrameWorld, h: Array) -> FrameWorld:
    """Return the world with one reflection of 10⁶ counts by Lorentz factor, and no gaps."""
    one = replace(world.draft.main, position=h[None], hkl=h[None], strength=np.ones(1))
    draft = replace(world.draft, main=one, families=[])
    return replace(world, draft=draft, scale=1e6, module=0 * world.module, _kept={})


def turn(axis: Array, degrees: float) -> Array:
    """Return Rodrigues' matrix."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K


def recorded(world: FrameWorld, h: Array, n: int = 40) -> Array:
    """Return the counts of a reflection in every frame, summed over n steps in each."""
    sample = world.sample
    scan, mosaic = sample.scans[0], np.radians(sample.mosaic)
    frame = (np.arange(scan.n_frames * n) + 0.5) / n
    total = np.zeros(len(frame))
    slips = [f for _, f, _ in sample.motion.slips]
    vectors = [v for _, _, v in sample.motion.slips]
    G = world.draft.UB @ h
    for i, f in enumerate(frame):
        part = G
        for at, v in zip(slips, vectors, strict=True):
            part = turn(v, np.linalg.norm(v)) @ part if f >= at else part
        Q = turn(scan.axis, scan.start + f * scan.step) @ scan.setting @ part
        k = np.array([0, 0, sample.instrument.k])
        misfit = np.arccos(np.clip(-Q[2] / np.linalg.norm(Q), -1, 1))
        misfit -= np.arccos(np.linalg.norm(Q) / 2 / k[2])  # how far to turn Q onto the sphere
        total[i] = np.exp(-((misfit / mosaic) ** 2) / 2) / mosaic / np.sqrt(2 * np.pi)
        total[i] /= np.linalg.norm(np.cross(k + Q, k)) / k[2] ** 2
    step = np.radians(abs(scan.step)) / n
    return 1e6 * step * total.reshape(-1, n).sum(axis=1)


def reflections_at(world: FrameWorld, frame: float, n: int) -> Array:
    """Return the n reflections that cross nearest to a frame, away from tangency."""
    rows = world.spots
    order = np.argsort(abs(rows["frame"] - frame))
    return rows["hkl"][order[rows["origin"][order] == 0][:n]]


@pytest.mark.parametrize("system", ["cubic", "triclinic"])
def test_spots_are_where_and_as_strong_as_the_peak_table_has_them(system: str) -> None:
    world = frame_world("off_centre", system, 7, mosaic=0.2, arm=0, **SMALL)
    for h in reflections_at(world, 30, 8):
        one = alone(world, h)
        spots = one.sample.spots(one.draft.main)
        images = np.array([one.bragg(0, z) for z in range(60)])
        at = np.indices(images.shape) + 0.5
        for i in range(len(spots["frame"])):
            true = [spots[n][i] for n in ("frame", "slow", "fast")]
            counts = images * (np.abs(at[0] - true[0]) < 5 * spots["width_frame"][i] + 1)
            total = counts.sum()
            assert total == pytest.approx(1e6 * spots["intensity"][i], rel=0.01)
            assert [(a * counts).sum() / total for a in at] == pytest.approx(true, abs=0.05)


def test_mosaic_spread_keeps_the_bragg_angle() -> None:
    """To 1e-5 of tan 2θ, where the square of the spread is 7e-4."""
    world = frame_world("plain", "cubic", 7, mosaic=1.5, arm=0, **SMALL)
    inst, length = world.sample.instrument, 0.0
    for h in reflections_at(world, 30, 20):
        rows = alone(world, h).passages(0)[0]
        point = inst.point(rows[:, 1], rows[:, 2])
        angle = np.arccos(point[:, 2] / np.linalg.norm(point, axis=1))
        length = np.linalg.norm(world.draft.UB @ h)
        assert 2 * inst.k * np.sin(angle / 2) == pytest.approx(length, rel=1e-5)


def moments(image: Array) -> tuple[float, Array, Array]:
    """Return sum, centroid and widths (slow, fast)."""
    at = np.indices(image.shape) + 0.5
    total = image.sum()
    mean = np.sum(at * image, axis=(1, 2)) / total
    return (
        total,
        mean,
        np.sqrt(np.sum((at - mean[:, None, None]) ** 2 * image, axis=(1, 2)) / total),
    )


def test_a_broad_maximum_is_a_gaussian_in_reciprocal_space() -> None:
    """Its widths to the tenth by which oblique rays make a spot larger on the detector."""
    world = frame_world("plain", "cubic", 7, mosaic=1e-3, arm=0, **SMALL)
    inst, scan = world.sample.instrument, world.sample.scans[0]
    h = reflections_at(world, 30, 1)[0]
    one = alone(world, h)
    spot = one.sample.spots(one.draft.main)
    point = inst.point(float(spot["slow"][0]), float(spot["fast"][0]))
    gamma = 6 * inst.k * inst.pixel_size / np.linalg.norm(point)
    one.draft.main = replace(one.draft.main, gamma=gamma)
    i, j = np.indices(world.shape) + 0.5
    r = inst.point(i, j)
    s = r / np.linalg.norm(r, axis=2, keepdims=True)
    solid_angle = np.abs(s @ np.cross(inst.fast, inst.slow)) ** 3
    ratios = []
    for z in np.arange(-6, 7, 3) + int(spot["frame"][0]):
        density = np.zeros(world.shape)
        for f in z + (np.arange(4) + 0.5) / 4:
            G = turn(scan.axis, scan.start + f * scan.step) @ world.draft.UB @ h
            Q = inst.k * (s - [0, 0, 1])
            density += np.exp(-np.sum((Q - G) ** 2, axis=2) / 2 / gamma**2) * solid_angle
        painted, true = moments(one.bragg(0, z)), moments(density)
        assert painted[1] == pytest.approx(true[1], abs=0.3)
        assert painted[2] == pytest.approx(true[2], rel=0.08)
        ratios.append(painted[0] / true[0])
    assert ratios == pytest.approx(np.full(5, np.mean(ratios)), rel=0.02)


def test_a_reflection_cut_by_a_slip_is_recorded_frame_by_frame() -> None:
    world = frame_world("slip", "monoclinic", 5, 0.4, mosaic=0.8, arm=0, **SMALL)
    frame = world.sample.motion.slips[0][1]
    whole = frame_world("plain", "monoclinic", 5, mosaic=0.8, arm=0, **SMALL)
    cut = 0
    for h in reflections_at(whole, frame, 5):
        one = alone(world, h)
        counts = np.array([one.bragg(0, z).sum() for z in range(60)])
        true = recorded(world, h)
        assert counts == pytest.approx(true, abs=0.01 * true.max() + 1)
        cut += true[int(frame)] > 0.1 * true.max()
    assert cut > 2


def pixels(world: FrameWorld, n: int = 300) -> tuple[Array, ...]:
    rng = np.random.default_rng(1)
    at = np.argwhere(world.module >= 0)
    slow, fast = at[rng.integers(len(at), size=n)].T
    return rng.integers(world.beam.shape[1], size=n), slow, fast


def test_diffuse_scattering_is_that_of_hkl() -> None:
    """The mean of S over a pixel and a frame by 5 × 3 × 3 points, within 0.5 % of S's mean."""
    for system in ("hexagonal", "triclinic"):
        world = frame_world("drift", system, 3, 2.0, **SMALL)
        sample = world.sample
        scan, inst, axis = sample.scans[0], sample.instrument, sample.motion.drifts[0]
        for z, slow, fast in zip(*pixels(world, 40), strict=True):
            values = []
            for f in (np.arange(5) + 0.5) / 5 + z:
                drift = turn(axis, np.linalg.norm(axis) * f / scan.n_frames)
                M = turn(scan.axis, scan.start + f * scan.step) @ drift @ world.draft.UB
                for i, j in np.ndindex(3, 3):
                    y, x = slow + (i + 0.5) / 3, fast + (j + 0.5) / 3
                    r = inst.origin + inst.pixel_size * (x * inst.fast + y * inst.slow)
                    Q = inst.k * (r / np.linalg.norm(r) - [0, 0, 1])
                    hkl = np.linalg.inv(M) @ Q
                    waves = np.cos(2 * np.pi * (world.vectors @ hkl))
                    values.append(1 + np.sum(world.amplitudes * waves))
            assert world.structure(0, int(z))[slow, fast] == pytest.approx(
                np.mean(values), abs=0.01
            )


def test_the_diffuse_level_is_that_of_the_air_and_S_goes_deep() -> None:
    world = frame_world("plain", "cubic", 3, **SMALL)
    diffuse = world.diffuse * world.structure(0, 10) * world.solid_angle * world.weight
    good = (world.module >= 0) & (world.shadow == 1)
    assert diffuse[good].mean() == pytest.approx(world.background[good].mean(), rel=0.1)
    h = np.random.default_rng(0).uniform(-5, 5, (4000, 3))
    assert 0.1 < world.S(h).min() < 0.7 < 1.3 < world.S(h).max() < 1.9
    assert world.S(h) == pytest.approx(world.S(h[:, [1, 0, 2]] * [1, 1, -1]))  # cubic


def test_counts_are_poisson() -> None:
    world = frame_world("plain", "tetragonal", 4, **SMALL)
    mean, n = world.expected(0, 7), world.photons(0, 7)
    good = mean > 0
    pull = (n[good] - mean[good]) / np.sqrt(mean[good])
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)
    assert pull.var() == pytest.approx(1, abs=0.05)
    assert np.mean(n[good] == 0) == pytest.approx(np.exp(-mean[good]).mean(), abs=0.01)
    assert not n[~good].any()
    assert (world.frame(0, 7)[~good & (world.module < 0)] == MASKED).all()
    bright = replace(world, air=300.0, diffuse=0.0, scale=0.0, _kept={})
    mean = bright.expected(0, 3)[good]
    pull = (bright.photons(0, 3)[good] - mean) / np.sqrt(mean)
    assert abs(pull.mean()) < 4 / np.sqrt(pull.size)
    assert pull.var() == pytest.approx(1, abs=0.05)
