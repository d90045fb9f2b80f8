"""Sums over frames, what raw files flag, the dark: against numpy and planted pixels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from hklflow.base.errors import HklflowError
from hklflow.constants import counters
from hklflow.formats.write_images import write_cbf_series
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images.dispersion import ModuleDispersion
from hklflow.images.masks import MaskBit
from hklflow.images.pixel_moments import PixelMoments, local_outliers

FLAG = 2**32 - 1


@given(st.integers(0, 10**6), st.lists(st.integers(1, 5), min_size=1, max_size=4))
@settings(deadline=None, max_examples=25)
def test_moments_are_numpys_however_the_frames_are_cut(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    frames = rng.poisson(5.0, (sum(sizes), 4, 5)).astype(np.uint32)
    frames[rng.uniform(size=frames.shape) < 0.2] = FLAG
    bad = np.zeros((4, 5), bool)
    bad[1, 2] = True
    moments = PixelMoments(bad, flag_from=FLAG)
    for block in np.split(frames, np.cumsum(sizes)[:-1]):
        moments.add(block)
    found = moments.result()
    seen = np.ma.masked_array(frames.astype(float), (frames == FLAG) | bad)
    assert np.array_equal(found.frames, seen.count(axis=0))
    assert np.array_equal(found.total, seen.sum(axis=0).filled(0))
    assert np.array_equal(found.largest, seen.max(axis=0).filled(0))
    many = found.frames > 1
    assert np.allclose(found.std[many], seen.std(axis=0, ddof=1)[many])
    assert np.isnan(found.std[~many]).all()
    assert np.isnan(found.mean[found.frames == 0]).all()
    counting = many & (found.total > 0)
    expected = seen.var(axis=0, ddof=1) / seen.mean(axis=0)
    assert np.allclose(found.dispersion[counting], expected[counting])


def test_dispersion_is_against_the_levels_of_the_frames() -> None:
    rng = np.random.default_rng(1)
    level = rng.uniform(0.3, 2.0, 200)
    frames = rng.poisson(50 * level[:, None, None], (200, 20, 30)).astype(np.int32)
    plain, against = (PixelMoments(np.zeros((20, 30), bool)) for _ in range(2))
    plain.add(frames)
    against.add(frames, level)
    assert plain.result().dispersion.mean() > 5
    assert against.result().dispersion.mean() == pytest.approx(1.0, abs=0.02)
    # The levels are found from the frames, hot pixels notwithstanding.
    frames[:, 3, 4] = rng.integers(0, 10**6, 200)
    found = [counters.frame_level(frame, np.zeros((20, 30), bool)) for frame in frames]
    assert np.allclose(found / np.mean(found), level / level.mean(), rtol=0.03)


def test_frames_of_another_shape_are_refused() -> None:
    with pytest.raises(HklflowError, match="do not match a mask"):
        PixelMoments(np.zeros((4, 5), bool)).add(np.zeros((1, 5, 4)))


def test_local_outliers_against_medians_of_numpy() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(100, 5, (40, 50))
    values[10, 20], values[0, 0], values[30, 49] = 160, 40, 160
    values[5, 5] = np.nan
    bad = rng.uniform(size=values.shape) < 0.1
    bad[[10, 0, 30], [20, 0, 49]] = False
    low, high = local_outliers(values, bad, 2.5)
    for i, j in np.ndindex(values.shape):
        near = values[max(i - 3, 0) : i + 4, max(j - 3, 0) : j + 4].copy()
        good = ~bad[max(i - 3, 0) : i + 4, max(j - 3, 0) : j + 4] & np.isfinite(near)
        good[i - max(i - 3, 0), j - max(j - 3, 0)] = False
        others = near[good]
        centre = np.median(others)
        limit = 2.5 * 1.4826 * np.median(np.abs(others - centre))
        judged = len(others) >= 8 and not bad[i, j] and np.isfinite(values[i, j])
        assert low[i, j] == (judged and values[i, j] < centre - limit)
        assert high[i, j] == (judged and values[i, j] > centre + limit)
    assert high[10, 20]
    assert high[30, 49]
    assert low[0, 0]


@pytest.mark.parametrize("mean", [0.3, 4.0, 200.0])
@pytest.mark.parametrize("gain", [1.0, 2.0, 0.7])
def test_dispersion_of_two_modules(mean: float, gain: float) -> None:
    """The second module has twice the gain of the first."""
    rng = np.random.default_rng(3)
    boxes = np.array([[0, 100, 0, 90], [0, 100, 100, 190]])
    factor = np.full((100, 190), gain)
    factor[:, 100:] *= 2
    measured = ModuleDispersion(boxes, flag_from=1e6)
    bad = np.zeros((100, 190), bool)
    for _ in range(20):
        share = rng.uniform(0.7, 1.3)
        photons = rng.poisson(np.array([mean, share * mean])[:, None, None], (2, 100, 190))
        pair = photons * factor
        pair[:, 50, 50] = 1e6
        measured.add(pair, bad)
    one, two = measured.result()
    assert abs(one.value - gain) < 4 * one.error
    assert abs(two.value - 2 * gain) < 4 * two.error
    assert max(one.error, two.error / 2) < 0.02 * gain


def test_dispersion_without_counts_is_not_told() -> None:
    measured = ModuleDispersion(np.array([[0, 40, 0, 40]]))
    bad = np.zeros((40, 40), bool)
    measured.add(np.zeros((2, 40, 40)), bad)
    (found,) = measured.result()
    assert np.isnan(found.value)
    assert found.tiles == 0


def dark_frames(rng: np.random.Generator, rate: float, n: int = 50) -> np.ndarray:
    return rng.poisson(rate, (n, 200, 300)).astype(np.uint32)


@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.01, 2.0])
def test_hot_pixels_are_found_and_no_others(rate: float) -> None:
    rng = np.random.default_rng(4)
    frames = dark_frames(rng, rate)
    # As many counts as have a chance of 1e-10; the largest of good ones has some 1e-5.
    limit = int(poisson.isf(1e-10, max(50 * rate, 1e-12))) + 1
    planted = np.zeros((200, 300), bool)
    planted.flat[rng.choice(60000, 40, replace=False)] = True
    frames[:, planted] = 0
    frames[3, planted] = max(limit, 4)
    moments = PixelMoments(np.zeros((200, 300), bool))
    moments.add(frames)
    hot, found = counters.hot_in_the_dark(moments.result(), np.zeros((200, 300), np.uint32))
    assert np.array_equal(hot, planted)
    assert found == pytest.approx(rate, abs=5 * np.sqrt(max(rate, 1e-9) / 3e6))


def test_pixels_with_fewer_dark_frames_have_a_lower_limit() -> None:
    rng = np.random.default_rng(5)
    frames = dark_frames(rng, 1.0)
    frames[5:, 7, 8] = FLAG
    frames[:5, 7, 8] = 10  # 50 counts are usual in 50 frames, not in 5
    moments = PixelMoments(np.zeros((200, 300), bool), flag_from=FLAG)
    moments.add(frames)
    hot, _ = counters.hot_in_the_dark(moments.result(), np.zeros((200, 300), np.uint32))
    assert np.argwhere(hot).tolist() == [[7, 8]]


def test_clusters_are_defects_that_touch() -> None:
    bits = np.zeros((6, 7), np.uint32)
    bits[0, 0] = bits[1, 1] = MaskBit.DEAD  # by a corner
    bits[4, 4] = MaskBit.NOISY  # alone
    bits[:, 6] = MaskBit.GAP | MaskBit.DEAD
    bits[4, 5] = MaskBit.VIRTUAL
    found = counters.with_clusters(bits)
    cluster = (found & np.uint32(MaskBit.CLUSTER)) != 0
    assert np.argwhere(cluster).tolist() == [[0, 0], [1, 1]]
    assert np.array_equal(found & ~np.uint32(MaskBit.CLUSTER), bits)
    assert counters.numbers(found) == {
        "masked": 10, "gap": 6, "dead": 8, "noisy": 1, "cluster": 2, "virtual": 1
    }  # fmt: skip


def test_flags_of_an_nxmx_file_are_kept_as_they_are(tmp_path: Path) -> None:
    bits = np.zeros((20, 30), np.uint32)
    bits[:, 10] = MaskBit.GAP
    bits[:, 20] = MaskBit.VIRTUAL
    counts = np.random.default_rng(6).poisson(9.0, (7, 20, 30)).astype(np.uint32)
    counts[:, 5, 5] = FLAG  # switched off after the mask was made
    path = tmp_path / "raw.nxs"
    with NXmxWriter(
        path, NXmxHeader(shape=(20, 30), n_frames=7, pixel_mask=bits, exposure=0.5, saturation=10)
    ) as writer:
        writer.append(counts)
    run = counters.measure(str(path), 3)
    bits[5, 5] = MaskBit.GAP
    assert np.array_equal(run.bits, bits)
    good = bits == 0
    assert np.array_equal(run.moments.total[good], counts.sum(axis=0)[good])
    assert run.about["exposure_s"] == 0.5
    # Saturated counts are left out where every count must be true.
    trusted = counters.measure(str(path), 3, trusted=True)
    assert trusted.moments.frames[0, 0] == (counts[:, 0, 0] < 10).sum()
    assert trusted.moments.largest.max() == 9
    empty = tmp_path / "empty.nxs"
    with NXmxWriter(empty, NXmxHeader(shape=(20, 30), n_frames=2)) as writer:
        writer.append(np.zeros((2, 20, 30), np.uint32))
    with pytest.raises(HklflowError, match="0 frames with light"):
        counters.measure(str(empty), 3, levels=True)


def test_flags_of_a_cbf_series(tmp_path: Path) -> None:
    gaps = np.zeros((20, 30), np.uint32)
    gaps[:, 10] = 1
    counts = np.random.default_rng(7).poisson(9.0, (3, 20, 30)).astype(np.int32)
    counts[:, 4, 4] = -2  # excluded by the vendor
    write_cbf_series(
        tmp_path, "flood", [counts], wavelength=1.0, distance=0.3, beam_centre=(10, 15),
        pixel_size=(172e-6, 172e-6), start=0.0, step=0.0, exposure=1.0, monitor=np.ones(3),
        pixel_mask=gaps,
    )  # fmt: skip
    run = counters.measure(str(tmp_path / "flood_#####.cbf"), 2)
    expected = gaps * np.uint32(MaskBit.GAP)
    expected[4, 4] = MaskBit.DEAD
    assert np.array_equal(run.bits, expected)
