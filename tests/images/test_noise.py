"""Noisy pixels among Bragg peaks: simulated counts whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hklflow.base.errors import HklflowError
from hklflow.images import noise

SHAPE = (100, 120)
N_FRAMES = 900
STARTS = 2 * np.linspace(0, N_FRAMES // 2 - 1, 30).astype(int)


def rates(rng, n_peaks):
    """Expected counts of the sampled pairs (30, 2, slow, fast) without noisy pixels.

    Background from 0.02 to 60 counts that rises and falls during the scan, a beam that changes
    from frame to frame, and reflections of up to 1e5 counts on a few pixels and frames.
    """
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    level = 0.02 * 3000 ** (fast / SHAPE[1])
    frames = (STARTS[:, None] + np.arange(2)).astype(float)
    result = level * (1 + 0.4 * np.sin(frames[..., None, None] / 90 + slow / 40))
    for y, x, z in rng.uniform(0, 1, (n_peaks, 3)) * (*SHAPE, N_FRAMES):
        around = tuple(slice(max(int(c) - 5, 0), int(c) + 6) for c in (y, x))
        width, rocking = rng.uniform(0.35, 1.2), rng.uniform(0.4, 3)
        counts = 10 ** rng.uniform(2, 5) / (2 * np.pi * width**2)
        r2 = (slow[around] - y) ** 2 + (fast[around] - x) ** 2
        spot = counts * np.exp(-r2 / (2 * width**2))
        for pair, member in np.argwhere(np.abs(frames - z) < 10):
            gauss = np.exp(-(((frames[pair, member] - z) / rocking) ** 2))
            result[pair, member][around] += spot * gauss
    return result * rng.normal(1, 0.03, (30, 2))[..., None, None]


def dispersion(counts, bad, **more):
    found = noise.PairDispersion(bad, len(counts), **more)
    for pair in counts:
        found.add(pair)
    return found


def add_noise(rng, expected, where, factor, steadiness):
    """Counts of their own, gamma distributed, so that variance / mean is ``factor``.

    The smaller the steadiness (the gamma's shape), the fewer frames have them.
    """
    mean = np.minimum(expected[..., where].mean(axis=(0, 1)), 60)
    a = (factor - 1) * steadiness
    scale = (a + np.sqrt(a**2 + 4 * a * mean)) / (2 * steadiness)
    expected[..., where] += rng.gamma(steadiness, scale, (30, 2, where.sum()))


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("n_peaks", [0, 300, 3000])
def test_strongly_noisy_pixels_are_found_and_no_other(seed, n_peaks):
    rng = np.random.default_rng(seed)
    expected = rates(rng, n_peaks)
    noisy = np.zeros(SHAPE, bool)
    noisy.flat[rng.permutation(noisy.size)[:60]] = True
    add_noise(rng, expected, noisy, 10 ** rng.uniform(1.7, 3, 60), rng.uniform(0.5, 5, 60))
    counts = rng.poisson(expected).astype(np.uint32)
    bad = np.zeros(SHAPE, bool)
    bad[50:54] = True
    counts[:, :, bad] = 2**32 - 1
    found = dispersion(counts, bad, flag_from=2**32 - 1).noisy(bad)
    wanted = noisy & ~bad
    assert np.argwhere(found & ~wanted).tolist() == []
    # One may lie beside another, or below a strong reflection.
    assert (wanted & ~found).sum() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.5, 1.4])
def test_no_good_pixel_is_lost_when_the_beam_changes(factor):
    rng = np.random.default_rng(7)
    expected = rates(rng, 300)
    expected[:, 1] *= factor
    counts = rng.poisson(expected * 20)
    bad = np.zeros(SHAPE, bool)
    # Not even without the comparison with neighbours, which have the same beam.
    assert not dispersion(counts, bad).noisy(bad, contrast=0).any()


def test_a_spot_that_comes_back_on_the_same_pixels_is_no_noise():
    rng = np.random.default_rng(8)
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    spot = 300 * np.exp(-((slow - 30.2) ** 2 + (fast - 40.4) ** 2) / (2 * 0.9**2))
    expected = 2 + spot * rng.uniform(0, 1, (30, 2, 1, 1))
    expected[:, :, 70, 80] += 300 * rng.uniform(0, 1, (30, 2))
    counts = rng.poisson(expected)
    bad = np.zeros(SHAPE, bool)
    found = dispersion(counts, bad)
    assert np.argwhere(found.noisy(bad)).tolist() == [[70, 80]]
    # It is the comparison with the neighbours that tells them apart.
    assert found.noisy(bad, contrast=0)[30, 40]


def test_the_quarter_of_a_spot_that_a_gap_leaves_is_no_noise():
    rng = np.random.default_rng(12)
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    spot = 3000 * np.exp(-((slow - 30.3) ** 2 + (fast - 40.3) ** 2) / (2 * 0.6**2))
    counts = rng.poisson(2 + spot * rng.uniform(0, 1, (30, 2, 1, 1)))
    bad = np.zeros(SHAPE, bool)
    bad[31:] = True
    bad[:, 41:] = True
    assert not dispersion(counts, bad).noisy(bad).any()


def test_frames_without_a_measurement_do_not_count():
    rng = np.random.default_rng(9)
    counts = rng.poisson(4.0, (30, 2, 20, 20)).astype(np.int32)
    counts[:, 0, 3, 4] = np.where(rng.uniform(size=30) < 0.6, -1, 0)
    counts[:, 1, 3, 4] = rng.integers(0, 100, 30)
    counts[:23, 1, 5, 6] = -2  # seven pairs are left: too few
    counts[23:, 0, 5, 6] = 1000
    counts[20:, 0, 8, 8] = 10**6  # from here on a flag
    bad = np.zeros((20, 20), bool)
    found = dispersion(counts, bad, flag_from=10**6).noisy(bad)
    assert np.argwhere(found).tolist() == [[3, 4]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 100), st.floats(-12, -2))
def test_the_limit_is_a_little_above_that_of_chi_squared(pairs, exponent):
    chance = 10**exponent
    limit = noise.dispersion_limit(pairs, chance)
    assert stats.chi2.sf(limit, pairs) <= chance
    assert limit < 1.1 * stats.chi2.isf(chance, pairs) + 6.5


@pytest.mark.parametrize("rate", [0.05, 0.5, 2.0, 40.0])
def test_photons_exceed_the_limit_no_more_often_than_said(rate):
    counts = np.random.default_rng(10).poisson(rate, (20, 2, 300, 300)).astype(float)
    n = counts.sum(axis=1)
    t = np.divide((counts[:, 0] - counts[:, 1]) ** 2, n, out=np.zeros(n.shape), where=n > 0)
    above = (t.sum(axis=0) > noise.dispersion_limit(20, 0.05)).mean()
    assert above <= 0.05


def test_what_makes_no_pair_or_no_limit_is_refused():
    bad = np.zeros((4, 5), bool)
    with pytest.raises(HklflowError, match="are not a pair"):
        noise.PairDispersion(bad, 3).add(np.zeros((3, 4, 5)))
    with pytest.raises(HklflowError, match="probability"):
        noise.dispersion_limit(3, 0.0)


@pytest.mark.real_data
def test_measured_frames_have_no_noisy_pixel_but_those_planted(real_data):
    """A reflection is rocked through strong diffuse scattering, with attenuators changing."""
    import fabio

    files = sorted((real_data / "diffuse_pmnpt/images").glob("*.tif"))
    starts = 2 * np.linspace(0, len(files) // 2 - 1, 30).astype(int)
    counts = np.array([[fabio.open(files[s + k]).data for k in (0, 1)] for s in starts])
    bad = (counts < 0).any(axis=(0, 1))
    found = dispersion(counts, bad)
    assert not found.noisy(bad).any()
    # Without leaving out the strongest pairs there is no telling the reflection from noise.
    pairs = counts.sum(axis=1)
    t = (counts[:, 0] - counts[:, 1]) ** 2 / np.maximum(pairs, 1)
    assert (t.mean(axis=0)[~bad] > 5).sum() > 100
    rng = np.random.default_rng(11)
    noisy = np.zeros(bad.shape, bool)
    noisy.flat[rng.permutation(bad.size)[:100]] = True
    noisy &= ~bad
    # At least some 50 times the variance of photons, also on the brightest pixel.
    scale = 10 ** rng.uniform(1.7, 3, noisy.sum())
    scale += np.sqrt(50 * counts[..., noisy].mean(axis=(0, 1)))
    counts[..., noisy] += rng.poisson(rng.gamma(2.0, scale, (30, 2, noisy.sum())))
    assert np.array_equal(dispersion(counts, bad).noisy(bad), noisy)
