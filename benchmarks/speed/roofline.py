"""What the machine can do of the transform's parts, each by itself.

    python -m benchmarks.speed.roofline index|scatter|copy|updates FOLDER [--grid 501]

A transform cannot be faster than to decode a frame, to find the voxel of every pixel, and to
add to each voxel once per run of frames in which a pixel stays in it:
``1 / (1 / decode + 1 / index + updates / scatter)``. Decoding is measured in `peers` (with the
bitshuffle package and with h5py) and in `ours`.
"""

import argparse
from pathlib import Path
from typing import Any

import numba
import numpy as np

from benchmarks.speed.clock import Clock, tell

TILE = 4096
BLOCK = 32
COLUMNS = 1 << 16  # of 8 bytes: half a MiB, which a level-2 cache holds


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def _index(q, matrices, offset, limit, size, out):  # type: ignore[no-untyped-def]
    """Voxel numbers (frames, tile) of a tile of pixels, those outside clipped; float32."""
    for z in range(len(matrices)):
        m = matrices[z]
        for p in range(q.shape[1]):
            x, y, w = q[0, p], q[1, p], q[2, p]
            h = np.int32(m[0, 0] * x + m[0, 1] * y + m[0, 2] * w + offset)
            k = np.int32(m[1, 0] * x + m[1, 1] * y + m[1, 2] * w + offset)
            l = np.int32(m[2, 0] * x + m[2, 1] * y + m[2, 2] * w + offset)  # noqa: E741
            h = min(max(h, np.int32(0)), limit)
            k = min(max(k, np.int32(0)), limit)
            l = min(max(l, np.int32(0)), limit)  # noqa: E741
            out[z, p] = np.int32((l * size + k) * size + h)


@numba.njit(cache=True, nogil=True)
def _scatter(index, values, total):  # type: ignore[no-untyped-def]
    for i in range(len(index)):
        total[index[i], 0] += values[i]
        total[index[i], 1] += np.float32(1)


def index(options: argparse.Namespace, clock: Clock) -> tuple[float, dict[str, Any]]:
    """Voxels of pixels per CPU second: tiles of 4096 pixels × 32 frames, single precision."""
    stored = np.load(options.folder / "geometry.npz")
    n = options.grid
    step = 2 * stored["limits"] / (n - 1)
    matrices = (stored["to_hkl"] / step[:, None]).astype(np.float32)[:BLOCK]
    q = np.ascontiguousarray(stored["q"].reshape(-1, 3).T, np.float32)
    out = np.empty((BLOCK, TILE), np.int32)
    tiles = [np.ascontiguousarray(q[:, i : i + TILE]) for i in range(0, q.shape[1], TILE)]
    given = (np.float32(0.5 * n), np.int32(n - 1), np.int32(n), out)
    _index(tiles[0], matrices, *given)
    rounds = 40
    with clock.running():
        for tile in tiles * rounds:
            _index(tile, matrices, *given)
    return rounds * q.shape[1] * BLOCK, {}


def scatter(options: argparse.Namespace, clock: Clock) -> tuple[float, dict[str, Any]]:
    """Random additions to (C, M) pairs of floats in the level-2 cache."""
    rng = np.random.default_rng(0)
    where = rng.integers(0, COLUMNS, 1 << 14).astype(np.int32)
    values = rng.random(len(where)).astype(np.float32)
    total = np.zeros((COLUMNS, 2), np.float32)
    _scatter(where, values, total)
    rounds = 4000
    with clock.running():
        for _ in range(rounds):
            _scatter(where, values, total)
    return rounds * len(where), {}


def copy(options: argparse.Namespace, clock: Clock) -> tuple[float, dict[str, Any]]:
    """Bytes copied per CPU second, arrays of 256 MB; each is read and written."""
    source = np.ones(1 << 25)
    target = np.zeros_like(source)
    with clock.running():
        for _ in range(8):
            np.copyto(target, source)
    return 8 * source.nbytes, {}


def updates(options: argparse.Namespace, clock: Clock) -> tuple[float, dict[str, Any]]:
    """How often a pixel changes its voxel: runs of frames per pixel-frame in blocks of 32."""
    stored = np.load(options.folder / "geometry.npz")
    n = options.grid
    step = 2 * stored["limits"] / (n - 1)
    q = stored["q"].reshape(-1, 3)[stored["good"].ravel()][::997]
    found = []
    for first in range(0, len(stored["to_hkl"]) - BLOCK + 1, 4 * BLOCK):
        hkl = np.einsum("zij,pj->zpi", stored["to_hkl"][first : first + BLOCK], q)
        voxel = np.rint((hkl + stored["limits"]) / step).astype(np.int64)
        inside = (np.abs(hkl) < stored["limits"]).all(axis=-1).all(axis=0)
        changed = (np.diff(voxel, axis=0) != 0).any(axis=-1)[:, inside]
        found.append((1 + changed.sum(axis=0).mean()) / BLOCK)
    return 0, {"updates": float(np.mean(found))}


WORK = {f.__name__: f for f in (index, scatter, copy, updates)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grid", type=int, default=501)
    options = parser.parse_args()
    clock = Clock()
    amount, more = WORK[options.work](options, clock)
    tell(clock, amount, **more)
