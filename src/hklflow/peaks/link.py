"""Link voxels to blobs: connected components across frames, and their separate maxima."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: Largest offset, on the second axis, between two maxima of a peak that a gap divides.
_ASIDE = 3


class Blobs(NamedTuple):
    """Voxels of blobs, one blob after the other.

    Attributes
    ----------
    at
        (n, 3) frame, index in the image (row times width plus column), and first known frame of the
        blob.
    values
        (n, 3) counts above background, background, and number of valid voxels, in the box of 27
        voxels around the voxel.
    cuts
        (blobs + 1) index at which each blob begins and the previous blob ends.
    """

    at: I64
    values: F64
    cuts: I64

    @classmethod
    def none(cls) -> "Blobs":
        """Return an empty set of blobs."""
        return cls(np.zeros((0, 3), np.int64), np.zeros((0, 3)), np.zeros(1, np.int64))

    def join(self, other: "Blobs") -> "Blobs":
        """Return the blobs of both sets."""
        return Blobs(
            np.concatenate([self.at, other.at]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.cuts, other.cuts[1:] + self.cuts[-1]]),
        )

    def select(self, keep: NDArray[np.bool_]) -> "Blobs":
        """Return the blobs chosen by a mask (blobs)."""
        sizes = np.diff(self.cuts)
        voxels = np.repeat(keep, sizes)
        cuts = np.concatenate([[0], np.cumsum(sizes[keep])]).astype(np.int64)
        return Blobs(self.at[voxels], self.values[voxels], cuts)


@kernel
def _find(parent: I64, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@kernel
def _join(parent: I64, a: int, b: int) -> None:
    a, b = _find(parent, a), _find(parent, b)
    if a < b:
        parent[b] = a
    else:
        parent[a] = b


@kernel
def _link_row(key: I64, low: int, at: int, target: int, parent: I64) -> int:
    """Join a voxel with the voxels whose key differs from `target` by 1 or less.

    Return the new value of `low`, which only increases.
    """
    while low < at and key[low] < target - 1:
        low += 1
    k = low
    while k < at and key[k] <= target + 1:
        _join(parent, at, k)
        k += 1
    return low


@kernel
def link_voxels(key: I64, begin: int, size: int, width: int, parent: I64) -> None:
    """Join voxels with their neighbours; each voxel has 26 neighbours.

    Parameters
    ----------
    key
        (n) ``frame * size + row * width + column`` in ascending order. The border of the image
        separates the ends of rows and of frames.
    begin
        Index of the first new voxel; the voxels before this index are already joined.
    size, width
        Pixels of a frame and of a row.
    parent
        Union-find forest, changed in place.
    """
    below = before = above = upper = same = 0
    for v in range(begin, key.size):
        below = _link_row(key, below, v, key[v] - size - width, parent)
        before = _link_row(key, before, v, key[v] - size, parent)
        above = _link_row(key, above, v, key[v] - size + width, parent)
        upper = _link_row(key, upper, v, key[v] - width, parent)
        same = _link_row(key, same, v, key[v], parent)


@kernel
def split_maxima(voxels: I64, values: F64, prominence: float) -> I64:
    """Divide a blob among its significant maxima (watershed with a persistence limit).

    Voxels are processed from the highest to the lowest. Where two hills meet (at a pass), the lower
    hill remains separate only if its top exceeds the pass by `prominence` standard deviations of
    the difference, and if the pass is not in a gap.

    Parameters
    ----------
    voxels
        (n, 3) frame, slow, fast of the blob's voxels.
    values
        Values (n, 3) of the voxels, see `Blobs`.
    prominence
        Number of standard deviations by which a separate top must exceed its pass.

    Returns
    -------
    ndarray (n) of int64
        Index of the top to which each voxel belongs.
    """
    height, noise, valid = values[:, 0].copy(), values[:, 1], values[:, 2]
    n = height.size
    low = np.array([voxels[:, 0].min(), voxels[:, 1].min(), voxels[:, 2].min()])
    high = np.array([voxels[:, 0].max(), voxels[:, 1].max(), voxels[:, 2].max()])
    shape = high - low + 3
    at = np.full((shape[0], shape[1], shape[2]), -1, np.int32)
    full = valid.max()
    hill = np.arange(n)  # hill of each voxel
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
                    # A pass in a gap proves nothing, because missing voxels cause the dip. But tops
                    # that are separated on two axes are two peaks.
                    aside = np.sort(np.abs(voxels[upper] - voxels[lower]))[1]
                    in_gap = valid[v] < 0.7 * full and aside <= _ASIDE
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


@kernel
def _split(at: I64, parent: I64, last: int, max_frames: int) -> tuple[I64, I64, I64, I64]:
    """Separate the voxels of blobs that ended before frame `last` from those to keep.

    Return the voxels of the ended blobs, blob after blob; their cuts; the kept voxels; and, for
    each kept voxel, the first kept voxel of the same blob. The first frames of the blobs are
    written to `at`.
    """
    n = parent.size
    root, low, high = np.empty(n, np.int64), at[:, 2].copy(), at[:, 0].copy()
    for v in range(n):
        r = root[v] = _find(parent, v)
        low[r], high[r] = min(low[r], at[v, 2]), max(high[r], at[v, 0])
    # The root of a blob is its first voxel.
    size, start, cuts = np.zeros(n, np.int64), np.zeros(n, np.int64), [0]
    for v in range(n):
        at[v, 2] = low[root[v]]
        size[root[v]] += high[root[v]] < last
    for r in range(n):
        if size[r]:
            start[r] = cuts[-1]
            cuts.append(cuts[-1] + size[r])
    ended, kept, first_kept = np.empty(cuts[-1], np.int64), [0 for _ in range(0)], np.full(n, -1)
    new_root = [0 for _ in range(0)]
    for v in range(n):
        r = root[v]
        if size[r]:
            ended[start[r]] = v
            start[r] += 1
        elif last - low[r] < max_frames or at[v, 0] == last:
            if first_kept[r] < 0:
                first_kept[r] = len(kept)
            new_root.append(first_kept[r])
            kept.append(v)
    return ended, np.array(cuts), np.array(kept), np.array(new_root)


@kernel
def blob_extents(at: I64, cuts: I64, width: int) -> tuple[I64, I64, I64]:
    """Return the numbers of frames and pixels over which each blob extends, and its last frame."""
    n = cuts.size - 1
    frames, pixels, last = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    for k in range(n):
        part = at[cuts[k] : cuts[k + 1]]
        slow, fast = part[:, 1] // width, part[:, 1] % width
        last[k] = part[:, 0].max()
        frames[k] = last[k] - part[:, 2].min() + 1
        pixels[k] = max(slow.max() - slow.min(), fast.max() - fast.min()) + 1
    return frames, pixels, last


class BlobLinker:
    """Object that links strong voxels into blobs, a few frames at a time.

    Parameters
    ----------
    rows, width
        Rows and columns of the image.
    max_frames
        Largest number of frames of a blob. For longer blobs, only voxels that can still get
        neighbours are kept.
    """

    def __init__(self, rows: int, width: int, max_frames: int) -> None:
        self._size, self.width, self._max_frames = rows * width, width, max_frames
        self._at, self._values = np.zeros((0, 3), np.int64), np.zeros((0, 3))
        self._root = np.zeros(0, np.int64)

    def add(self, last: int, at: I64, values: F64) -> Blobs:
        """Link the voxels of the frames up to `last`, in the order of frame and place.

        Parameters
        ----------
        last
            Number of the last frame.
        at, values
            See `Blobs`; as first frame, each voxel has the number of its frame.

        Returns
        -------
        Blobs
            Blobs that ended before the last frame.
        """
        n_live = len(self._at)
        parent = np.concatenate([self._root, n_live + np.arange(len(at))])
        self._at = np.concatenate([self._at, at])
        self._values = np.concatenate([self._values, values])
        key = self._at[:, 0] * self._size + self._at[:, 1]
        link_voxels(key, n_live, self._size, self.width, parent)
        ended, cuts, kept, self._root = _split(self._at, parent, last, self._max_frames)
        blobs = Blobs(self._at[ended], self._values[ended], cuts)
        self._at, self._values = self._at[kept], self._values[kept]
        return blobs

    def finish(self, n_frames: int) -> Blobs:
        """Return the blobs that have not yet ended."""
        return self.add(n_frames, np.zeros((0, 3), np.int64), np.zeros((0, 3)))
