"""Part of the grid that a rotation reaches, and division of the grid into passes by memory."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import Rotation
from hklflow.geometry.grid import Grid, pixel_pitch
from hklflow.transform.bricks import EDGE, MOST_VOXELS

#: Bytes of a brick with 8 bytes per voxel.
BRICK_BYTES = 8 * EDGE**3
# Distance between sampled pixels, and between sampled frames, in voxels.
_SPACING = 3.0
# Correction factor for bricks that are reached only at a corner, which the samples miss.
_MISSED = 1.15


def touched_bricks(
    rotation: Rotation, ub: ArrayLike, grid: Grid, first: int, last: int
) -> NDArray[np.int64]:
    """Estimate how many bricks frames ``first <= z < last`` reach in each layer of 8 planes.

    The estimate uses a sample of pixels and frames and is usually some per cent too large.
    """
    pitch = pixel_pitch(rotation, ub, grid)
    frame, slow, fast = (max(1, int(_SPACING / max(p, 1e-9))) for p in pitch)
    n_slow, n_fast = rotation.detector.shape
    n_h, n_k, n_l = (-(-n // EDGE) for n in grid.shape)
    touched = np.zeros((n_l, n_k, n_h), bool)
    i, j = _every(0, n_slow, slow), _every(0, n_fast, fast)
    shape = np.array(grid.shape)
    for z in _every(first, last, frame):
        hkl = rotation.hkl(ub, z + 0.5, i[:, None] + 0.5, j[None, :] + 0.5)
        voxel = np.rint((hkl.reshape(-1, 3) - grid.first) / grid.step).astype(np.int64)
        h, k, l = (voxel[((voxel >= 0) & (voxel < shape)).all(axis=1)] // EDGE).T  # noqa: E741
        touched[l, k, h] = True
    return np.ceil(_MISSED * touched.sum(axis=(1, 2))).astype(np.int64)


def _every(first: int, last: int, step: int) -> NDArray[np.int64]:
    return np.unique(np.append(np.arange(first, last, step), last - 1))


def passes_needed(
    rotation: Rotation, ub: ArrayLike, grid: Grid, frames: tuple[int, int], memory: float
) -> list[tuple[int, int]]:
    """Return ranges of planes (first, last) that each need at most ``memory`` bytes."""
    voxels = np.prod([EDGE * -(-n // EDGE) for n in grid.shape], dtype=np.int64)
    if voxels <= MOST_VOXELS and 8 * voxels <= memory:
        return [(0, grid.shape[2])]
    return passes(grid, touched_bricks(rotation, ub, grid, *frames), memory)


def passes(grid: Grid, bricks: NDArray[np.int64], memory: float) -> list[tuple[int, int]]:
    """Divide the planes into ranges (first, last) that each fit into ``memory`` bytes.

    Parameters
    ----------
    bricks : (layers,) array
        See `touched_bricks`.
    memory : float
        Available memory in bytes, for voxels of 8 bytes. A range has at least 16 planes, even if
        these need more memory.
    """
    n_h, n_k = (-(-n // EDGE) for n in grid.shape[:2])
    most_layers = max(1, MOST_VOXELS // (n_h * n_k * EDGE**3))
    ranges, begin, used = [], 0, 0.0
    # Cut only at every second layer, because chunks of the files have 16 planes.
    for layer in range(0, len(bricks), 2):
        size = float(bricks[layer : layer + 2].sum() * BRICK_BYTES)
        if layer > begin and (used + size > memory or layer + 2 - begin > most_layers):
            ranges.append((begin * EDGE, layer * EDGE))
            begin, used = layer, 0.0
        used += size
    return [*ranges, (begin * EDGE, grid.shape[2])]
