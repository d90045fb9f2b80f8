"""Voxels to blobs: connected components across frames, and their separate maxima."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Voxels = NDArray[np.void]

#: A strong voxel: its place, the counts above background and the background in the box of 27
#: around it, and the first frame of the blob as far as it is known.
VOXEL = np.dtype(
    [
        *(("frame", np.int32), ("slow", np.int32), ("fast", np.int32)),
        *(("height", np.float32), ("noise", np.float32), ("first", np.int32)),
    ]
)
#: Between the tops of one peak that a gap divides: largest offset on the second axis.
_ASIDE = 3


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
                    # Tops that are apart on two axes are two peaks all the same.
                    aside = np.sort(np.abs(voxels[upper] - voxels[lower]))[1]
                    in_gap = noise[v] < 0.7 * full and aside <= _ASIDE
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


class BlobLinker:
    """Strong voxels of one frame after the other to blobs.

    Parameters
    ----------
    shape
        Detector (slow, fast).
    max_frames
        Of a longer blob only the voxels that can still be touched are kept.
    """

    def __init__(self, shape: tuple[int, ...], max_frames: int) -> None:
        self._max_frames = max_frames
        self._node_before = np.full(shape, -1, np.int32)
        self._node_now = np.full(shape, -1, np.int32)
        self._live = np.zeros(0, VOXEL)
        self._root = np.zeros(0, np.int64)

    def add(self, number: int, new: Voxels) -> list[Voxels]:
        """Link the voxels of frame `number`, in raster order; return the blobs that ended."""
        n_live = self._live.size
        parent = np.concatenate([self._root, n_live + np.arange(new.size)])
        slow, fast = new["slow"].copy(), new["fast"].copy()
        link_frame(slow, fast, n_live, self._node_before, self._node_now, parent)
        before = self._live[self._live["frame"] == number - 1]
        self._node_before[before["slow"], before["fast"]] = -1
        self._live, self._root = np.concatenate([self._live, new]), roots(parent)
        ended = self._split(number)
        # The map of this frame becomes that of the frame before, with the nodes renumbered.
        self._node_before, self._node_now = self._node_now, self._node_before
        recent = np.flatnonzero(self._live["frame"] == number)
        self._node_before[self._live["slow"][recent], self._live["fast"][recent]] = recent
        return ended

    def finish(self) -> list[Voxels]:
        """Return the blobs that have not ended."""
        return self._split(None)

    def _split(self, number: int | None) -> list[Voxels]:
        """Take the blobs without a voxel in frame `number` (None: all) out of the live ones."""
        voxels, root = self._live, self._root
        if not voxels.size:
            return []
        first, last = _ends(root, voxels["first"], voxels["frame"])
        voxels["first"] = first
        ended = np.ones(voxels.size, bool) if number is None else last < number
        order = np.flatnonzero(ended)[np.argsort(root[ended], kind="stable")]
        cuts = np.flatnonzero(np.diff(root[order])) + 1
        blobs = [voxels[members] for members in np.split(order, cuts)] if order.size else []
        keep = ~ended
        if number is not None:
            keep &= (number - first < self._max_frames) | (voxels["frame"] == number)
        self._live = voxels[keep]
        # roots are renumbered to the first kept member of each blob
        _, start, inverse = np.unique(root[keep], return_index=True, return_inverse=True)
        self._root = start[inverse].astype(np.int64)
        return blobs


@njit(cache=True, nogil=True)
def _ends(root: I64, first: I32, frame: I32) -> tuple[I32, I32]:
    """First and last frame of the blob that each voxel belongs to."""
    low, high = first.copy(), frame.copy()
    for v in range(root.size):
        r = root[v]
        low[r], high[r] = min(low[r], first[v]), max(high[r], frame[v])
    return low[root], high[root]
