"""Sums of the expected background in the fast loop of the transform; see `lanes`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel
from hklflow.simd.words import address, prefetch
from hklflow.transform.counts import LANES
from hklflow.transform.follow import EXCLUDED
from hklflow.transform.sums import Expected

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]

# Number of records ahead whose voxels are prefetched.
_AHEAD = 64


class Around(NamedTuple):
    """Factors of the expected background and its sums.

    Attributes
    ----------
    weights : (n + 1, pixels + 16) float32
        Factors of the pixels for n backgrounds, and for the variance of their sum.
    tails : (n + 1, slow, 16) float32
        Factors in the last group of each row, 0 beyond the end of the row.
    frames : (n + 1, n_steps) float32
        Factors of the steps, divided by the number of sub-samples and by the unit of the sums.
    sums, excluded : flat uint64
        Memory of `Bricks`: background and variance, of kept pixels and of pixels in the mask.
    """

    weights: F32
    tails: F32
    frames: F32
    sums: U64
    excluded: U64


def tables(expected: Expected) -> tuple[F32, F32]:
    """Return ``weights`` and ``tails`` of `Around`."""
    n, n_slow, n_fast = expected.pixel.shape
    weights = np.zeros((n, n_slow * n_fast + LANES), np.float32)
    weights[:, :-LANES] = expected.pixel.reshape(n, -1)
    tails = np.zeros((n, n_slow, LANES), np.float32)
    last = n_fast - LANES * (-(-n_fast // LANES) - 1)
    tails[..., :last] = expected.pixel[..., n_fast - last :]
    return weights, tails


@kernel
def add_surroundings(
    n: int, voxel: U32, expected: U32, variance: U32, sums: U64, excluded: U64
) -> None:
    """Add background and variance of records to the volumes."""
    marked = 0
    memory = address(sums)
    for r in range(n):
        v = np.int64(voxel[r])
        prefetch(memory + 16 * np.int64(voxel[r + _AHEAD] & np.uint32(EXCLUDED - 1)))
        if v >= EXCLUDED:
            marked += 1
            continue
        sums[2 * v] += np.uint64(expected[r])
        sums[2 * v + 1] += np.uint64(variance[r])
    if marked == 0:
        return
    for r in range(n):
        v = np.int64(voxel[r]) - EXCLUDED
        if v >= 0:
            excluded[2 * v] += np.uint64(expected[r])
            excluded[2 * v + 1] += np.uint64(variance[r])
