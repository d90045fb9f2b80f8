"""Boxes of voxels for the fits, compared with the frames that were stored."""

import numpy as np
import pytest

from hklflow.images.frame_store import COLUMNS, ROWS, FrameStore
from hklflow.peaks.boxes import FOREIGN, OVERLOAD, OWN, VALID, Scene, as_bytes, cut_box

SHAPE = (12, 50, 77)
SATURATION = 900.0


def expected_box(frames, good, strong, own, low, high):
    """Counts and kinds of a box, without padding."""
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    kinds = np.where(good, VALID | np.where(frames >= SATURATION, OVERLOAD, 0), 0)
    kinds = np.where(strong, kinds | FOREIGN, kinds)
    kinds[tuple(own.T)] = kinds[tuple(own.T)] & (VALID | OVERLOAD) | OWN
    return np.where(good, frames, 0.0)[box], kinds[box]


@pytest.mark.parametrize(
    ("dtype", "mean", "invalid_from"),
    [(np.uint16, 5.0, 60000.0), (np.uint32, 300.0, 2.0**32), (np.float32, 5.0, np.inf)],
)
def test_boxes_have_counts_and_kinds_of_the_frames(dtype, mean, invalid_from):
    """8 bits, 16 bits and floats; large counts, masked, invalid and strong voxels, any width."""
    rng = np.random.default_rng(3)
    frames = rng.poisson(mean, SHAPE).astype(dtype)
    frames[rng.random(SHAPE) < 0.001] = 1000
    mask = rng.random(SHAPE[1:]) < 0.05
    invalid = np.zeros(SHAPE, bool)
    if dtype is not np.uint32:
        invalid[3] = rng.random(SHAPE[1:]) < 0.02
        frames[invalid] = np.nan if dtype is np.float32 else 65535
    stored = FrameStore(
        mask, np.dtype(dtype), 16, window=9, n_sigma=4.5, invalid_from=invalid_from
    )  # fmt: skip
    for frame in frames:
        stored.take(frame)
    strong = rng.random(SHAPE) < 0.03
    width = stored.store.counts.shape[2]
    places, numbers = np.zeros((16, 400), np.int64), np.zeros(16, np.int64)
    for k, frame in enumerate(strong):
        slow, fast = np.nonzero(frame)
        numbers[k] = len(slow)
        places[k, : len(slow)] = (slow + ROWS) * width + fast + COLUMNS
    scene = Scene(
        as_bytes(stored.store), stored.store.counts.itemsize, places, numbers,
        np.array(SHAPE[1:]), stored.top, SATURATION,
    )  # fmt: skip
    good = ~mask & ~invalid
    for _ in range(200):
        low = rng.integers(0, SHAPE)
        high = np.minimum(low + rng.integers(0, 30, 3), SHAPE)
        own = np.argwhere(strong & (rng.random(SHAPE) < 0.1))
        counts, kind, _ = cut_box(scene, low, high, own)
        columns = high[2] - low[2]
        truth = expected_box(frames, good, strong, own, low, high)
        assert np.array_equal(counts[:, :, :columns], truth[0])
        assert np.array_equal(kind[:, :, :columns], truth[1])
        assert not counts[:, :, columns:].any()
        assert not kind[:, :, columns:].any()
