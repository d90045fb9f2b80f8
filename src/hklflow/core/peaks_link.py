"""Voxels to blobs: connected components across frames, and their separate maxima."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]


@njit(cache=True, nogil=True)
def _find(parent: I64, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def _join(parent: I64, a: int, b: int) -> None:
    a, b = _find(parent, a), _find(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@njit(cache=True, nogil=True)
def link_frame(
    slow: I32, fast: I32, first_node: int, previous: I32, current: I32, parent: I64
) -> None:
    """Join the strong voxels of a frame with each other and with those of the frame before.

    Parameters
    ----------
    slow, fast
        Strong pixels (n) in raster order; they are the nodes ``first_node ... + n``.
    previous, current
        Node at each pixel (slow, fast) or -1; `current` is filled here.
    parent
        Union-find forest, changed in place. 26 neighbours are connected.
    """
    rows, columns = previous.shape
    for k in range(slow.size):
        i, j, node = slow[k], fast[k], first_node + k
        current[i, j] = node
        for row in range(max(0, i - 1), min(rows, i + 2)):
            for column in range(max(0, j - 1), min(columns, j + 2)):
                # Pixels of this frame that come later still hold -1 and join us in their turn.
                if current[row, column] >= 0:
                    _join(parent, node, current[row, column])
                if previous[row, column] >= 0:
                    _join(parent, node, previous[row, column])


@njit(cache=True, nogil=True)
def roots(parent: I64) -> I64:
    """Root of every node."""
    out = np.empty_like(parent)
    for node in range(parent.size):
        out[node] = _find(parent, node)
    return out


@njit(cache=True, nogil=True)
def split_maxima(voxels: I32, height: F64, noise: F64, prominence: float) -> I64:
    """Divide a blob among its significant maxima (watershed with a persistence limit).

    Voxels are taken from the highest down; where two hills meet, the lower one stays apart
    only if its top exceeds the pass by `prominence` standard deviations of both, and the
    pass does not lie in a gap.

    Parameters
    ----------
    voxels
        (n, 3) frame, slow, fast of the blob.
    height, noise
        (n) smoothed counts above background, and background in the same box.
    prominence
        Number of standard deviations between a separate top and its pass.

    Returns
    -------
    ndarray (n) of int64
        Number of the top that each voxel belongs to; the number is the index of its voxel.
    """
    n = height.size
    low = np.array([voxels[:, 0].min(), voxels[:, 1].min(), voxels[:, 2].min()])
    high = np.array([voxels[:, 0].max(), voxels[:, 1].max(), voxels[:, 2].max()])
    shape = high - low + 3
    at = np.full((shape[0], shape[1], shape[2]), -1, np.int32)
    full = noise.max()
    hill = np.arange(n)  # the hill a voxel was given to
    merged = np.arange(n)  # union-find of hills; the root is the highest top
    for v in np.argsort(-height, kind="mergesort"):
        z, y, x = voxels[v, 0] - low[0] + 1, voxels[v, 1] - low[1] + 1, voxels[v, 2] - low[2] + 1
        best = -1
        for a in range(z - 1, z + 2):
            for b in range(y - 1, y + 2):
                for c in range(x - 1, x + 2):
                    other = at[a, b, c]
                    if other < 0:
                        continue
                    top = _find(merged, hill[other])
                    if best < 0 or top == best:
                        best = top
                        continue
                    upper, lower = (best, top) if height[best] >= height[top] else (top, best)
                    sigma = np.sqrt(
                        max(height[lower], 0.0) + max(height[v], 0.0) + noise[lower] + noise[v]
                    )
                    # A pass where voxels are missing proves nothing: the dip is the gap's.
                    in_gap = noise[v] < 0.7 * full
                    if in_gap or height[lower] - height[v] < prominence * sigma:
                        merged[lower] = upper
                        best = upper
                    else:
                        best = upper
        hill[v] = v if best < 0 else best
        at[z, y, x] = v
    out = np.empty(n, np.int64)
    for v in range(n):
        out[v] = _find(merged, hill[v])
    return out
