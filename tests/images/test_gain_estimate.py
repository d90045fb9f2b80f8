"""Gain and read noise of cameras that are known, from their frames."""

import numpy as np
import pytest
from tests.truth.ccd import Ccd

from hklflow.images.gain_estimate import FRAMES, Estimate, NoiseLine

SIDE, GROUPS = 256, 8


def measured(
    camera: Ccd,
    seed: int,
    *,
    moving: float = 0.0,
    period: float = 20.0,
    peaks: bool = False,
    offset: float | None = None,
) -> NoiseLine:
    """Frames of a broad maximum on a background; a part of it is a wave that moves."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIDE, SIDE))
    line = NoiseLine(camera.offset if offset is None else offset)
    rate = 3 + 60 * np.exp(-((x - 120) ** 2 + (y - 130) ** 2) / (2 * 60**2))
    for group in range(GROUPS):
        photons = []
        for frame in range(FRAMES):
            wave = 1 + moving * np.sin(2 * np.pi * (x / 60 + (FRAMES * group + frame) / period))
            expected = rate * wave * (1 + 0.05 * rng.standard_normal())
            if peaks and frame == 2:
                for at in rng.integers(8, SIDE - 8, (60, 2)):
                    expected[at[0] - 2 : at[0] + 3, at[1] - 2 : at[1] + 3] += 400
            photons.append(rng.poisson(expected))
        frames = camera.adu(np.array(photons), rng)
        line.add(frames.astype(np.int32), np.zeros((SIDE, SIDE), bool))
    return line


def pull(seen: Estimate, camera: Ccd) -> float:
    assert 0 < seen.gain_error < 0.06 * camera.gain
    return (seen.gain - camera.gain) / seen.gain_error


@pytest.mark.parametrize("spread", [0.0, 0.5, 0.8])
def test_gain_and_read_noise_whatever_the_spread_of_the_light(spread: float) -> None:
    camera = Ccd(1.6, 40.0, 3.0, spread)
    line = measured(camera, 1)
    seen = line.result()
    assert abs(pull(seen, camera)) < 3.5
    assert abs(seen.noise2 - 3.0**2 - 1 / 12) < 3.5 * seen.noise2_error
    known = line.result(read_noise=np.hypot(3.0, 12**-0.5))
    assert abs(pull(known, camera)) < 3.5
    assert known.gain_error < seen.gain_error
    # A single pixel shows less than half of the gain.
    assert (seen.single < 0.5) == (spread > 0)


def test_peaks_on_single_frames_are_left_out() -> None:
    camera = Ccd(1.6, 40.0, 3.0)
    assert abs(pull(measured(camera, 2, peaks=True).result(), camera)) < 3.5


KNOWN = np.hypot(3.0, 12**-0.5)


@pytest.mark.parametrize(("moving", "period"), [(0.3, 12.0), (0.5, 4.0), (0.5, 6.0), (0.5, 40.0)])
def test_diffuse_scattering_that_rotates_changes_nothing(moving: float, period: float) -> None:
    camera = Ccd(1.6, 40.0, 3.0, spread=0.6)
    seen = measured(camera, 3, moving=moving, period=period).result(read_noise=KNOWN)
    assert abs(pull(seen, camera)) < 3.5
    assert abs(seen.excess) < 4 * seen.excess_error


def test_scattering_that_changes_within_4_frames_is_an_excess() -> None:
    seen = measured(Ccd(1.6, 40.0, 3.0), 3, moving=0.3, period=3.0).result(read_noise=KNOWN)
    assert seen.excess > 0.1 * seen.gain
    assert seen.excess > 4 * seen.excess_error


def test_photons_have_a_gain_of_1() -> None:
    camera = Ccd(1.0, 0.0, 0.0)
    seen = measured(camera, 4).result()
    assert abs(pull(seen, camera)) < 3.5
    assert seen.single == pytest.approx(1, abs=0.03)


def test_an_offset_that_is_not_stated_makes_the_noise_negative() -> None:
    camera = Ccd(1.6, 40.0, 3.0)
    seen = measured(camera, 5, offset=0.0).result()
    assert seen.noise2 < -4 * seen.noise2_error
    # The noise vanishes above the offset less what the read noise stands for.
    assert -seen.noise2 / seen.gain == pytest.approx(40 - 9.08 / 1.6, abs=5)


def test_few_frames_give_no_number() -> None:
    assert np.isnan(NoiseLine(0.0).result().gain)
