"""Grid on which repeated measurements of S(Q) are compared."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hklflow.geometry import Rotation
from hklflow.geometry.grid import Grid, pixel_pitch

_STEPS = tuple(1 / n for n in (20, 16, 12, 10, 8, 6, 5, 4, 3))
_MOST_VOXELS = 6e7
_MOST_SUMS = 4e7  # sums over a block of pixels and a range of frames; more take long
_MOST_SUMS_EVER = 4e8  # if pixels are too coarse to be summed before
_MOST_RECORDS = 6e6  # sums of the voxels that are used
_BLOCK, _RANGE = 0.7, 1.0  # voxels that a block of pixels, and a range of frames, may span
_LARGEST_RANGE = 2.0  # voxels that one frame may span; above, frames blur S(Q) anyway


class RepeatGrid(NamedTuple):
    """Grid, and sums before it.

    Attributes
    ----------
    grid : Grid
    block : (int, int)
        Pixels along (slow, fast) that are summed.
    frames : int
        Frames that are summed.
    share : float
        Share of the orbits that are used.
    """

    grid: Grid
    block: tuple[int, int]
    frames: int
    share: float


def choose(
    rotations: list[Rotation], ub: ArrayLike, cell: ArrayLike, q_max: float
) -> RepeatGrid | None:
    """Return the finest grid whose voxels are about as large as pixel-frames.

    With fewer counts in a voxel nothing is lost, because counts are compared as counts; in large
    voxels S(Q) differs between measurements.

    Returns
    -------
    RepeatGrid or None
        None if reflections and the space between them can't be told apart: a frame spans too much,
        or the cell is too large.
    """
    costly: RepeatGrid | None = None
    pixel_frames = sum(r.scan.n_frames * float(np.prod(r.detector.shape)) for r in rotations)
    for step in _STEPS:
        grid = Grid.covering(cell, q_max, step)
        pitch = np.max([pixel_pitch(r, ub, grid) for r in rotations], axis=0)
        if np.prod(grid.shape, dtype=np.float64) > _MOST_VOXELS or pitch[0] > _LARGEST_RANGE:
            continue
        slow, fast = (max(1, int(_BLOCK / p)) for p in pitch[1:])
        frames = max(1, int(_RANGE / pitch[0]))
        sums = pixel_frames / (slow * fast * frames)
        plan = RepeatGrid(grid, (slow, fast), frames, min(1.0, _MOST_RECORDS / sums))
        if sums <= _MOST_SUMS:
            return plan
        if costly is None and sums <= _MOST_SUMS_EVER:
            costly = plan
    return costly
