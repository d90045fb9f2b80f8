"""Images of runs without the crystal, their factors, and the fitted factor."""

import numpy as np
import pytest

from hklflow.images import surroundings
from hklflow.images.surroundings import Part, Valid

SHAPE = (40, 50)
FLAG = 2**32 - 1


def run(rng: np.random.Generator, rate: np.ndarray, incident: np.ndarray) -> np.ndarray:
    return rng.poisson(incident[:, None, None] * rate).astype(np.uint32)


def test_mean_and_variance_are_those_of_poisson_counts() -> None:
    """Pulls of 300 runs with unequal frames, at 0.1 to 30 counts in all."""
    rng = np.random.default_rng(1)
    rate = np.geomspace(0.02, 6, SHAPE[1])[None, :] * np.ones(SHAPE)
    incident = np.array([0.5, 3.0, 1.5])
    bad = np.zeros(SHAPE, bool)
    pulls = []
    for _ in range(60):
        frames = run(rng, rate, incident)
        level, variance = surroundings.mean_image([frames[:1], frames[1:]], incident, bad, Valid())
        pulls.append((level - rate) / np.sqrt(variance))
    inside = np.array(pulls)[:, 3:-3, 3:-3]
    assert abs(inside.mean()) < 0.03
    assert inside.std() == pytest.approx(1, abs=0.03)
    # By counts: few counts take the variance of their neighbours, which change with the level.
    assert np.all(np.abs(inside.std(axis=(0, 1)) - 1) < 0.12)


def test_flagged_frames_are_left_out_and_saturated_pixels_are_not_known() -> None:
    frames = np.full((4, *SHAPE), 10, np.uint32)
    frames[1, 3, 4] = FLAG
    frames[2, 5, 6] = 1000
    frames[:, 7, 8] = FLAG
    bad = np.zeros(SHAPE, bool)
    bad[0, 0] = True
    incident = np.array([1.0, 2.0, 3.0, 4.0])
    valid = Valid(FLAG, 500.0)
    level, variance = surroundings.mean_image([frames], incident, bad, valid)
    assert level[3, 4] == pytest.approx(30 / 8)
    assert level[10, 10] == pytest.approx(40 / 10)
    assert variance[10, 10] == pytest.approx(40 / 10**2)
    for pixel in ((5, 6), (7, 8), (0, 0)):
        assert np.isnan(level[pixel])
        assert np.isnan(variance[pixel])


def test_read_noise_adds_its_variance() -> None:
    frames = np.full((5, *SHAPE), 100.0)
    incident = np.full(5, 2.0)
    none = np.zeros(SHAPE, bool)
    noise = np.full(SHAPE, 30.0)
    _, photons = surroundings.mean_image([frames], incident, none, Valid())
    _, noisy = surroundings.mean_image([frames], incident, none, Valid(), noise)
    np.testing.assert_allclose(noisy - photons, 5 * 30 / 10**2)


@pytest.mark.parametrize(
    ("seen", "share", "factor"), [("not", 0, 1.0), ("crystal", 0, 0.4), ("part", 0.25, 0.85)]
)
def test_factor_is_that_of_paalman_and_pings(seen: str, share: float, factor: float) -> None:
    """Upstream 1, downstream T; a share s of it passes: 1 - s + s T."""
    found = surroundings.frame_factor(seen, np.array([0.4]), share)  # type: ignore[arg-type]
    assert found == pytest.approx(factor)


def test_shells_know_the_noise_that_more_frames_do_not_reduce() -> None:
    """Repeated runs and repeated measurements: the rest of each shell has the stated error."""
    rng = np.random.default_rng(2)
    q = np.linspace(1, 5, SHAPE[1])[None, :] * np.ones(SHAPE)
    rate, crystal = 2.0 + 0 * q, 6.0
    incident, short = np.ones(20), np.array([1.0])
    none = np.zeros(SHAPE, bool)
    pulls = []
    for _ in range(80):
        level, variance = surroundings.mean_image([run(rng, rate, short)], short, none, Valid())
        part = Part("air", level, variance, np.full(20, 0.5), 0.0)
        frames = run(rng, 0.5 * rate + crystal, incident)
        found = surroundings.rings(enumerate(frames), incident, [part], q, Valid(), 10)
        rest = found.measured - found.background
        pulls.append((rest - crystal) / np.hypot(found.measured_error, found.noise))
        np.testing.assert_allclose(found.background, 1.0, rtol=0.3)
    assert abs(np.mean(pulls)) < 0.1
    assert np.std(pulls) == pytest.approx(1, abs=0.08)
    assert found.noise.mean() > found.measured_error.mean()


def test_error_of_the_level_is_that_of_the_whole_background() -> None:
    q = np.ones(SHAPE) * np.linspace(1, 2, SHAPE[1])
    part = Part("air", np.full(SHAPE, 2.0), np.zeros(SHAPE), np.ones(3), 0.1)
    found = surroundings.rings(
        enumerate(np.full((3, *SHAPE), 9)), np.ones(3), [part], q, Valid(), 5
    )
    np.testing.assert_allclose(found.level, 0.2)
    np.testing.assert_allclose(found.background, 2.0)


def test_factor_of_powder_rings_is_found() -> None:
    rng = np.random.default_rng(3)
    q = np.linspace(1, 8, 300)
    rings = 5 + 40 * np.exp(-(((q[:, None] - [2.7, 3.1, 4.4, 5.1]) / 0.04) ** 2) / 2).sum(axis=1)
    crystal, pixels = 50 * np.exp(-q / 5) + 10 * np.sin(q / 2) ** 2, 400
    pulls = []
    for _ in range(60):
        expected = crystal + 0.7 * rings
        error = np.sqrt(expected / pixels)
        measured = rng.normal(expected, error)
        factor, sigma = surroundings.fitted_scale(q, measured, error, rings)
        pulls.append((factor - 0.7) / sigma)
        assert sigma < 0.01
    assert abs(np.mean(pulls)) < 0.4
    assert 0.6 < np.std(pulls) < 1.3


def test_factor_of_a_smooth_background_is_not_known() -> None:
    q = np.linspace(1, 8, 300)
    air, crystal = 20 * np.exp(-q / 4), 30 * np.exp(-((q / 6) ** 2))
    error = np.sqrt(air + crystal) / 20
    rng = np.random.default_rng(4)
    factor, sigma = surroundings.fitted_scale(q, rng.normal(air + crystal, error), error, air)
    assert sigma > 0.3 * abs(factor)


def test_too_strong_pixels_are_found() -> None:
    level = np.ones(SHAPE)
    level[4, 5] = 3 * surroundings.MOST_RATIO
    level[0, 0] = np.nan
    assert np.argwhere(surroundings.too_strong(level)).tolist() == [[4, 5]]
