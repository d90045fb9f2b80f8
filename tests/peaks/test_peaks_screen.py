"""The fast screening against boxes added up by scipy, and what the frames share."""

import numpy as np
import pytest
from scipy.ndimage import map_coordinates, uniform_filter
from tests.truth.defaults import peak_params

from hklflow.images.frame_store import COLUMNS, ROWS
from hklflow.images.statistics import FrameStatistics
from hklflow.peaks.search import PeakSearch

SHAPE = (24, 118, 150)
N_SIGMA = 3.0  # so that chance makes many strong voxels


def boxes(values: np.ndarray, edge: int) -> np.ndarray:
    return uniform_filter(values.astype(float), edge, mode="constant") * edge**3


def background(frames: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Mean over 5 x 5 cells of 4 x 4 pixels, raised where curved, between the middles."""
    n, slow, fast = frames.shape
    # Rows end at a multiple of 64 columns; cells beyond the edge have a background, too.
    padded = np.zeros((n, -(-slow // 4) * 4, -(-fast // 64) * 64))
    seen = np.zeros(padded.shape[1:])
    padded[:, :slow, :fast], seen[:slow, :fast] = frames * good, good
    cells = padded.reshape(n, padded.shape[1] // 4, 4, -1, 4).sum(axis=(2, 4))
    sizes = seen.reshape(cells.shape[1], 4, -1, 4).sum(axis=(1, 3))
    window = np.round(25 * uniform_filter(sizes, 5, mode="constant"))
    at = np.meshgrid((np.arange(slow) + 0.5) / 4 - 0.5, (np.arange(fast) + 0.5) / 4 - 0.5)

    def smooth(values: np.ndarray) -> np.ndarray:
        """Mean over windows, cut at the edges, of cells whose background is known."""
        known = uniform_filter((window > 0).astype(float), 5, mode="constant")
        return uniform_filter(values, 5, mode="constant") / np.maximum(known, 0.01)

    out, curve, variance = [], 0.0, 0.0
    for k, frame in enumerate(cells):
        seen = 25 * uniform_filter(frame, 5, mode="constant") + 1
        rate = np.where(window > 0, seen, 0.0) / np.maximum(window, 1)
        weight = max(1 / (k + 1), 1 / 8)
        here = np.where(window > 0, 1 - smooth(rate) / np.maximum(rate, 1e-9), 0.0)
        curve = curve + weight * (here - curve)
        variance = (1 - weight) ** 2 * variance + weight**2
        more = 2 * curve - smooth(curve)
        sure = more - 2 * np.sqrt(1.17 * variance / np.maximum(rate * window, 1e-9))
        rate = rate * (1 + np.clip(sure, 0, 0.5))
        out.append(map_coordinates(rate, [at[0].T, at[1].T], order=1, mode="nearest"))
    return np.array(out)


def naive(frames: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Strong voxels by the definition, on every voxel."""
    rate = background(frames, good)
    counts = frames * good
    strong = np.zeros(frames.shape, bool)
    for edge in (1, 3, 5):
        reach = edge // 2
        in_plane = np.rint(uniform_filter(good.astype(float), edge, mode="constant") * edge**2)
        expected = np.zeros(frames.shape)
        for shift in range(-reach, reach + 1):
            low, high = max(0, -shift), len(frames) - max(0, shift)
            expected[low:high] += rate[low + shift : high + shift] * in_plane
        number = np.rint(boxes(counts, edge))
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.where(number > 0, number * np.log(number / expected), 0.0)
            ratio = 2 * (log - number + expected)
        strong |= (number > expected) & (expected > 0) & (ratio > N_SIGMA**2)
    return strong


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "dtype"),
    [(0.05, np.uint16), (4.0, np.uint32), (60.0, np.int32), (400.0, np.uint16), (4.0, np.float32)],
)
def test_strong_voxels_are_those_of_the_definition(level, dtype):
    """8 bits, 16 bits (400 counts) and floats; a gap, edges and both ends of the scan."""
    rng = np.random.default_rng(int(level * 100))
    slope = 1 + 0.3 * np.linspace(-1, 1, SHAPE[2])
    frames = rng.poisson(level * slope, SHAPE).astype(dtype)
    good = np.ones(SHAPE[1:], bool)
    good[60:67] = good[:, 80:83] = False
    run = PeakSearch(~good, peak_params(n_sigma=N_SIGMA, max_frames=100))
    run.add(frames)
    run._test(len(frames) - 2)  # all of them that have both neighbours
    found = np.zeros(SHAPE, bool)
    width = run._frames.store.counts.shape[2]
    for z in range(len(frames) - 2):
        at = run._strong_at[z, : run._strong_number[z]]
        found[z, at // width - ROWS, at % width - COLUMNS] = True
    truth = naive(frames, good)
    truth[-2:] = False
    assert truth.sum() > 400
    assert not (found & ~truth).any()
    # A pixel of a gap that only its few neighbours make strong may be lost, no other.
    missed = truth & ~found
    assert (missed & good).sum() <= 0.002 * truth.sum()
    assert missed.sum() <= 0.04 * truth.sum()


def test_statistics_are_the_same_with_a_search_or_alone():
    rng = np.random.default_rng(3)
    frames = rng.poisson(3.0, (40, 90, 130)).astype(np.uint16)
    frames[10:13, 40:43, 60:63] += rng.poisson(3000, (3, 3, 3)).astype(np.uint16)
    frames[:, 5, 5] = 65535
    frames[20:, 50, 70] = 65535
    mask = np.zeros(frames.shape[1:], bool)
    mask[30:35] = True
    labels = np.broadcast_to(np.arange(130) // 8, mask.shape)
    results = []
    for shared in (True, False):
        statistics = FrameStatistics(mask, ~mask, invalid_from=65535, labels=labels)
        search = PeakSearch(
            mask, peak_params(invalid_from=65535), statistics=statistics if shared else None
        )
        for start in range(0, 40, 7):
            search.add(frames[start : start + 7])
            if not shared:
                statistics.add(frames[start : start + 7])
        assert len(search.finish()) == 1
        results.append(statistics.result())
    for name in vars(results[0]):
        assert np.array_equal(getattr(results[0], name), getattr(results[1], name)), name
    valid = ~mask & (frames < 65535)
    assert np.array_equal(results[0].summed, np.where(valid, frames, 0).sum(axis=0))
    assert np.array_equal(results[0].valid_frames, valid.sum(axis=0))
