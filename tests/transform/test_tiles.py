"""`transform.tiles`: no pixel that falls into a window is in a tile that is left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hklflow.transform.tiles import Tiles

WIDE, ROWS = 32, 8


def detector(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """q (2 sub-samples, 3, slow, fast) on a tilted plane, and live pixels."""
    rng = np.random.default_rng(seed)
    slow, fast = np.mgrid[: shape[0], : shape[1]]
    turn = Rotation.from_rotvec(rng.normal(0, 0.3, 3)).as_matrix()
    q = []
    for shift in (0.25, 0.75):
        at = np.stack([(slow + shift) / 300, (fast + 0.5) / 300, np.ones(shape)])
        at = np.einsum("ij,j...->i...", turn, at)
        q.append(12 * (at / np.linalg.norm(at, axis=0) - np.array([0, 0, 1.0])[:, None, None]))
    return np.array(q), rng.random(shape) > 0.5


def matrices(seed: int, n: int) -> np.ndarray:
    """Rows (n, 12) of turning matrices, a few voxels a pixel."""
    rng = np.random.default_rng(seed)
    first = Rotation.random(random_state=seed).as_matrix() * rng.uniform(3, 15, 3)[:, None]
    rows = np.empty((n, 3, 4), np.float32)
    for z in range(n):
        rows[z, :, :3] = first @ Rotation.from_euler("y", 0.02 * z).as_matrix()
        rows[z, :, 3] = 100.5
    return rows.reshape(n, 12)


def window(low: list[int], size: list[int]) -> np.ndarray:
    return np.array([low[0], size[0], low[1], size[1], low[2], size[2], 0, 0, 0], np.int32)


def voxels(q: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(steps, sub, 3, slow, fast)."""
    m = rows.reshape(-1, 3, 4).astype(float)
    return np.floor(np.einsum("sac,bcij->sbaij", m[..., :3], q) + m[:, None, :, 3, None, None])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    low=st.lists(st.integers(0, 190), min_size=3, max_size=3),
    size=st.lists(st.integers(1, 120), min_size=3, max_size=3),
)
def test_no_pixel_is_missed(seed: int, low: list[int], size: list[int]) -> None:
    q, live = detector(seed, (21, 70))
    rows, limits = matrices(seed + 1, 3), window(low, size)
    tiles = Tiles(q, live)
    assert tiles.shape == (3, 3)
    at = voxels(q, rows)
    begin, n = (np.array(x)[:, None, None] for x in (low, size))
    inside = ((at >= begin) & (at < begin + n)).all(axis=2).any(axis=(0, 1)) & live
    reached = tiles.reaching(limits, rows)
    slow, fast = np.nonzero(inside)
    assert reached[slow // ROWS, fast // WIDE].all()


def test_far_windows_and_dead_tiles_are_left_out() -> None:
    q, live = detector(1, (21, 70))
    live[:8, :32] = False
    tiles, rows = Tiles(q, live), matrices(2, 3)
    assert not tiles.reaching(window([5000, 0, 0], [10, 200, 200]), rows).any()
    reached = tiles.reaching(window([-5000] * 3, [10000] * 3), rows)
    assert not reached[0, 0]
    assert reached.sum() == reached.size - 1
    # A window of one voxel is reached by few tiles of a large detector.
    q, live = detector(1, (400, 400))
    voxel = voxels(q, rows)[1, 0, :, 200, 200].astype(int).tolist()
    reached = Tiles(q, live).reaching(window(voxel, [1, 1, 1]), rows)
    assert 1 <= reached.sum() < 0.2 * reached.size


@pytest.mark.parametrize("n", [1, 2, 5])
def test_division_covers_the_window_once(n: int) -> None:
    q, live = detector(3, (200, 300))
    tiles, rows = Tiles(q, live), matrices(4, 5)
    whole = window([0, 0, 16], [201, 190, 150])
    parts = tiles.divide(whole, rows, n)
    assert 1 <= len(parts) <= n
    covered = np.zeros((230, 230, 230), np.int8)
    for part in parts:
        cut = tuple(slice(part[2 * a], part[2 * a] + part[2 * a + 1]) for a in range(3))
        covered[cut] += 1
    expected = np.zeros_like(covered)
    expected[:201, :190, 16:166] = 1
    assert np.array_equal(covered, expected)
    if n > 1:
        assert len(parts) > 1
        work = [tiles.reaching(part, rows).sum() for part in parts]
        assert max(work) < 3 * min(work)


def test_without_live_pixels_the_window_stays_whole() -> None:
    q, live = detector(3, (20, 30))
    whole = window([0, 0, 0], [200, 200, 200])
    assert len(Tiles(q, np.zeros_like(live)).divide(whole, matrices(4, 5), 3)) == 1
