"""The sample's transmission from its background: truth, robustness, what becomes of each frame."""

import numpy as np
import pytest
from tests.truth.defaults import transmission

from hklflow.base.errors import HklflowError
from hklflow.images import frame_scale
from hklflow.images.frame_scale import FrameScale, Status, change, compare, constant, jumps, uneven
from hklflow.images.statistics import FrameStatistics
from hklflow.simulation.frames import (
    Background,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)

N = 180


def simulate(
    shape_of_s, flux=3.0, drift=-0.3, seed=0, attenuators=None, scale=30.0, finer=1, air=0.5
):
    """Background of the frames, incident intensity and truth of a crystal that absorbs.

    `attenuators` (N,) cut the beam behind the monitor; pixels are 0.5 mm / `finer`.
    """
    z = (np.arange(N) + 0.5) / N
    truth = shape_of_s(z)
    behind = np.ones(N) if attenuators is None else attenuators
    simulation = Simulation(
        DetectorModel(
            (110 * finer, 120 * finer),
            0.08,
            (52.0 * finer, 61.0 * finer),
            (5e-4 / finer, 5e-4 / finer),
        ),
        GoniometerModel(),
        ScanModel(
            0.0,
            np.radians(1.0),
            N,
            0.5,
            flux=flux,
            drift=drift,
            transmission=tuple(truth * behind),
            seed=seed,
        ),
        CrystalModel((5.2, 5.2, 7.1, 90, 90, 120), scale=scale, mosaic=0.01),
        Diffuse(flat=0.4),
        Background(air=air),
    )
    two_theta = np.arccos(simulation.detector.pixel_rays()[..., 2])
    q = 2 * simulation.scan.k * np.sin(two_theta / 2)
    annulus = (q > 0.3 * q.max()) & (q < 0.95 * q.max())
    statistics = FrameStatistics(np.zeros(q.shape, bool), annulus)
    for block in simulation.frames(20):
        statistics.add(block)
    result = statistics.result()
    return result, simulation.scan.monitor * behind, truth / np.median(truth)


def smooth(z):
    return 1 - 0.3 * np.sin(np.pi * z) ** 2 + 0.02 * np.cos(6 * np.pi * z)


def step(z):
    return np.where(z < 0.37, 1.0, 0.8) * (1 - 0.05 * z)


def one(z):
    return np.ones_like(z)


@pytest.mark.parametrize("shape_of_s", [smooth, step])
def test_the_attenuation_of_a_crystal_is_recovered(shape_of_s):
    result, incident, truth = simulate(shape_of_s)
    # Strong Bragg peaks: they are most of what the frames hold.
    assert result.maximum > 1000
    off = transmission(result.background, incident).transmission / truth - 1
    assert np.ptp(truth) > 0.15
    assert np.sqrt(np.mean(off**2)) < 0.01
    # One frame on the wrong side of the step would be off by 0.2.
    assert np.abs(off).max() < 0.03


def test_few_counts_are_enough():
    """One count in 14 pixels and frame, and peaks on top."""
    result, incident, truth = simulate(smooth, flux=0.25, finer=3)
    assert np.median(result.background) < 0.08
    found = transmission(result.background, incident)
    off = found.transmission / truth - 1
    assert np.sqrt(np.mean(off**2)) < 0.01
    assert found.scatter > 0.01  # of a frame's own value


@pytest.mark.parametrize("seed", [0, 1])
def test_a_sample_that_does_not_absorb_has_a_scale_of_one(seed):
    result, incident, _ = simulate(one, flux=10.0, seed=seed)
    found = transmission(result.background, incident)
    off = found.transmission - 1
    assert np.sqrt(np.mean(off**2)) < 0.003
    # Each frame by itself scatters more: it is the curve that is good.
    assert np.std(found.ratio) > 0.003


def test_what_monitor_and_attenuators_say_is_no_transmission():
    z = (np.arange(N) + 0.5) / N
    attenuators = np.where((z > 0.2) & (z < 0.45), 0.1, 1.0) * np.where(z > 0.8, 0.5, 1.0)
    result, incident, truth = simulate(smooth, drift=1.5, attenuators=attenuators)
    # The counts change twentyfold.
    assert result.background.max() / result.background.min() > 15
    off = transmission(result.background, incident).transmission / truth - 1
    assert np.sqrt(np.mean(off**2)) < 0.01


def test_errors_are_those_of_the_scatter():
    rng = np.random.default_rng(4)
    n = 4000
    incident = np.where(np.arange(n) % 2, 1.0, 4.0)
    noise = 0.01 * rng.standard_normal(n) / np.sqrt(incident)
    found = transmission((1 + noise) * incident, incident)
    pull = (found.transmission - 1) / found.errors
    # Neighbours share 31 frames: about 130 independent values, so 6 % for one σ of the width.
    assert 0.8 < pull[50:-50].std() < 1.25
    # The middle of a parabola has 9 / 4 of the variance of a mean; one weight for all frames
    # alike would give 1.25 times this.
    assert np.median(found.errors) == pytest.approx(1.5 * 0.01 / np.sqrt(31 * 2.5), rel=0.15)


def test_single_wild_frames_are_replaced():
    rng = np.random.default_rng(5)
    background = 1 + 0.005 * rng.standard_normal(100)
    wild = [3, 40, 41, 97]
    background[wild] = [5, 0, 3, 2]
    found = transmission(background, np.ones(100))
    assert np.abs(found.transmission - 1).max() < 0.01
    assert (found.status[wild] == Status.REPLACED).all()
    assert found.counts["used"] > 80
    assert sum(found.counts.values()) == 100


def test_frames_without_a_value_are_interpolated():
    rng = np.random.default_rng(6)
    truth = np.linspace(1, 0.8, 200)
    background = truth * (1 + 0.005 * rng.standard_normal(200))
    gap = [0, 60, *range(100, 150)]
    background[gap] = np.nan
    for window in (31, None):
        found = transmission(background, np.ones(200), window=window)
        assert found.counts["interpolated"] >= len(gap)
        assert (found.status[gap] == Status.INTERPOLATED).all()
        assert sum(found.counts.values()) == 200
        np.testing.assert_allclose(found.transmission * np.median(truth), truth, atol=0.02)
        assert np.isfinite(found.errors).all()


def test_without_a_curve_each_frame_keeps_its_own_value():
    background = np.array([1.0, 2.0, 3.0, 2.0, 0.0, 2.0])
    found = transmission(background, np.ones(6), window=None)
    np.testing.assert_array_equal(found.transmission, np.array([1, 2, 3, 2, 2, 2]) / 2)
    assert found.counts == {"used": 5, "replaced": 0, "interpolated": 1}


def test_a_constant_ratio_is_exactly_one():
    monitor = np.linspace(1, 2, 50)
    found = transmission(7 * monitor, monitor, window=5)
    # Rounding of 7 m / m only.
    np.testing.assert_allclose(found.transmission, 1, atol=1e-12)
    assert found.level == pytest.approx(7)


@pytest.mark.parametrize("area", [1.0, 0.64])
def test_rotations_are_compared_for_equal_solid_angles(area):
    """A rotation of half the transmission, measured with pixels of another solid angle."""
    monitor, z = np.linspace(1, 2, 60), np.arange(60)
    first = transmission(5 * monitor, monitor)
    own_monitor = 3.0 * monitor[::-1]
    own = transmission(5 * area * 0.5 * (1 + 0.001 * z) * own_monitor, own_monitor)
    rotation, divided = compare(own, first, area, "background", True)
    truth = 0.5 * (1 + 0.001 * z)
    assert rotation == pytest.approx(np.median(truth))
    assert divided == area
    scale = FrameScale(
        own_monitor, np.ones(60), 5 * own_monitor, own, rotation, divided, "background"
    )
    np.testing.assert_allclose(scale.scale, truth, rtol=1e-9)
    assert compare(own, first, area, "background", False) == (1.0, 1.0)
    assert compare(constant(monitor), constant(monitor), area, "none", True) == (1.0, 1.0)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_monitors_without_meaning_are_refused(value):
    monitor = np.ones(60)
    monitor[17] = value
    with pytest.raises(HklflowError, match=r"incident intensity.*frame 17"):
        transmission(np.ones(60), monitor)


@pytest.mark.parametrize("value", [-1.0, np.inf])
def test_backgrounds_without_meaning_are_refused(value):
    background = np.ones(60)
    background[17] = value
    with pytest.raises(HklflowError, match=r"background.*frame 17"):
        transmission(background, np.ones(60))


@pytest.mark.parametrize("nothing", [0.0, np.nan])
@pytest.mark.parametrize("window", [31, None])
def test_no_signal_at_all_is_told(nothing, window):
    with pytest.raises(HklflowError, match=r"0 of 60 frames have a signal.*source: none"):
        transmission(np.full(60, nothing), np.ones(60), window=window)


@pytest.mark.parametrize("window", [4, 3, 61])
def test_impossible_windows_are_refused(window):
    with pytest.raises(HklflowError, match="window"):
        transmission(np.ones(60), np.ones(60), window=window)


def test_lengths_that_differ_are_refused():
    with pytest.raises(HklflowError, match="one value per frame"):
        transmission(np.ones(60), np.ones(61))


@pytest.mark.parametrize("window", [None, 31])
def test_parts_that_differ_by_counting_only_make_no_error(window: int | None) -> None:
    significant = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        counts = rng.poisson(2000, (N, 16)) / 2000
        found = uneven(counts, np.full((N, 16), 2000**-0.5), window)
        assert found is not None
        assert found.error < 0.003
        significant += found.significant
    assert significant == 0


@pytest.mark.parametrize("window", [None, 31])
def test_the_error_is_that_of_the_mean_of_parts_that_wander(window: int | None) -> None:
    """Opposite parts wander alike; the mean of all is off by what the error says."""
    size, off, told = 0.05, [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        phase = np.tile(rng.uniform(0, 2 * np.pi, 8), 2)
        wander = 1 + size * np.sin(2 * np.pi * np.arange(N)[:, None] / 90 + phase)
        mean = wander.mean(axis=1)
        parts = rng.poisson(5000 * wander / mean[:, None]) / 5000
        found = uneven(parts, np.full((N, 16), 5000**-0.5), window)
        assert found is not None
        assert found.significant
        off.append(np.mean((mean - 1) ** 2))
        told.append(found.error**2)
    assert np.sqrt(np.mean(off) / np.mean(told)) == pytest.approx(1, abs=0.15)


def test_few_parts_tell_nothing() -> None:
    parts = np.full((N, 16), np.nan)
    parts[:, :5] = 1.0
    assert uneven(parts, np.full((N, 16), 0.01), 31) is None


@pytest.mark.parametrize("window", [None, 31])
def test_a_curve_changes_by_more_than_its_noise(window: int | None) -> None:
    """Counting alone makes no change; a swing has the rms of a sine."""
    flat, swing = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        noise = 1 + 0.02 * rng.normal(size=N)
        sine = 1 + 0.05 * np.sin(2 * np.pi * np.arange(N) / N)
        flat.append(change(frame_scale.transmission(noise, np.ones(N), window), window))
        swing.append(change(frame_scale.transmission(noise * sine, np.ones(N), window), window))
    assert flat == [0.0] * 20
    assert swing == pytest.approx([0.05 / np.sqrt(2)] * 20, abs=0.008)


def rotation_of(seed, jump=None, factor=1.0, feature=False):
    """Counts of a plate that is edge-on once, with frames that scatter by 1 %."""
    rng = np.random.default_rng(seed)
    frame = np.arange(2 * N)
    expected = 1e4 * (1 - 0.5 * np.abs(np.sin(3 * frame / (2 * N) + seed)))
    if feature:
        place, width = rng.integers(20, 2 * N - 20), rng.uniform(0.5, 4)
        expected *= 1 + rng.uniform(0, 2) * np.exp(-0.5 * ((frame - place) / width) ** 2)
    if jump is not None:
        expected[jump:] *= factor
    return rng.poisson(expected * np.exp(0.01 * rng.standard_normal(2 * N)))


@pytest.mark.parametrize("feature", [False, True])
def test_a_plate_and_narrow_diffuse_scattering_do_not_jump(feature):
    for seed in range(60):
        assert jumps(rotation_of(seed, feature=feature), np.ones(2 * N)) == []


def test_a_jump_is_found_at_its_frame():
    for seed in range(20):
        place = 20 + 17 * seed % (2 * N - 40)
        (found,) = jumps(rotation_of(seed, place, 0.7), np.ones(2 * N))
        assert (found.before, found.after) == (place - 1, place)
        assert found.factor == pytest.approx(0.7, rel=0.06)
        assert found.error == pytest.approx(1 / found.factor - 1)


def test_frames_without_a_signal_do_not_hide_a_jump():
    signal = rotation_of(3, 200, 0.7).astype(float)
    signal[198:201] = np.nan
    (found,) = jumps(signal, np.ones(2 * N))
    assert (found.before, found.after) == (197, 201)
