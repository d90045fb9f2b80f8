"""Tiles of the detector, and selection of the tiles that reach into a part of the grid."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel
from hklflow.transform.bricks import EDGE
from hklflow.transform.counts import LANES
from hklflow.transform.lanes import ROWS, TILE_GROUPS

Floats = NDArray[np.float64]
Window = NDArray[np.int32]

# Tolerance in voxels, larger than the error of positions in single precision.
_SLACK = 0.01


class Tiles:
    """Spheres in q_lab around the pixels of each tile of 8 × 32 pixels.

    Parameters
    ----------
    q : (sub-samples, 3, slow, fast) array
        q_lab in 1/Å.
    live : (slow, fast) bool array
        True for pixels in use.

    Attributes
    ----------
    shape : (int, int)
        Number of tiles along slow and fast.
    """

    def __init__(self, q: NDArray[np.floating[Any]], live: NDArray[np.bool_]) -> None:
        n_slow, n_fast = live.shape
        wide = TILE_GROUPS * LANES
        self.shape = (-(-n_slow // ROWS), -(-n_fast // wide))
        self._centre = np.zeros((*self.shape, 3))
        self._radius = np.full(self.shape, -1.0)
        _spheres(q, live, self._centre, self._radius)

    def reaching(self, window: Window, to_voxel: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return True for tiles (slow, fast) that may reach into a window on one of the steps.

        Parameters
        ----------
        window : (9,) array
            First voxel and number of voxels along h, k, l, and strides (see `follow.follow`).
        to_voxel : (steps, 12) array
            Rows of the matrices from q_lab to voxels, each followed by its offset.
        """
        return _reaching(self._centre, self._radius, window, to_voxel.astype(np.float64))

    def divide(self, window: Window, to_voxel: NDArray[np.float32], n: int) -> list[Window]:
        """Cut a window, at edges of bricks, into at most n windows with equal numbers of tiles.

        The window is cut across the axis along which these frames extend farthest.
        """
        use = self._radius >= 0
        if n == 1 or np.count_nonzero(use) < 2:
            return [window]
        rows = to_voxel[len(to_voxel) // 2].reshape(3, 4).astype(np.float64)
        centres = self._centre[use] @ rows[:, :3].T + rows[:, 3]
        low, high = window[0:6:2], window[0:6:2] + window[1:6:2]
        centres = centres[((centres >= low) & (centres < high)).all(axis=1)]
        if len(centres) < n:
            return [window]
        axis = int(np.argmax(np.ptp(centres, axis=0)))
        cuts = np.quantile(centres[:, axis], np.arange(1, n) / n)
        cuts = np.unique(np.rint(cuts / EDGE).astype(np.int32) * EDGE)
        cuts = cuts[(cuts > low[axis]) & (cuts < high[axis])]
        edges = np.concatenate([[low[axis]], cuts, [high[axis]]]).astype(np.int32)
        windows = []
        for first, last in pairwise(edges):
            part = window.copy()
            part[2 * axis], part[2 * axis + 1] = first, last - first
            windows.append(part)
        return windows


@kernel
def _reaching(centre: Floats, radius: Floats, window: Window, rows: Floats) -> NDArray[np.bool_]:
    n_slow, n_fast = radius.shape
    found = np.zeros((n_slow, n_fast), np.bool_)
    norm = np.sqrt(rows[:, 0:11:4] ** 2 + rows[:, 1:11:4] ** 2 + rows[:, 2:11:4] ** 2)
    for i in range(n_slow):
        for j in range(n_fast):
            if radius[i, j] < 0:
                continue
            x, y, z = centre[i, j]
            for step in range(len(rows)):
                inside = True
                for axis in range(3):
                    row = rows[step, 4 * axis : 4 * axis + 4]
                    at = row[0] * x + row[1] * y + row[2] * z + row[3]
                    reach = norm[step, axis] * radius[i, j] + _SLACK
                    first = window[2 * axis]
                    last = first + window[2 * axis + 1]
                    inside &= at + reach >= first and at - reach < last
                if inside:
                    found[i, j] = True
                    break
    return found


@kernel
def _spheres(
    q: NDArray[np.floating[Any]], live: NDArray[np.bool_], centre: Floats, radius: Floats
) -> None:
    """Fill centre and radius of tiles with a used pixel; spheres also contain unused pixels."""
    n_slow, n_fast = live.shape
    wide = TILE_GROUPS * LANES
    farthest = np.empty(wide)
    for i in range(radius.shape[0]):
        top, bottom = i * ROWS, min((i + 1) * ROWS, n_slow)
        for j in range(radius.shape[1]):
            left, right = j * wide, min((j + 1) * wide, n_fast)
            if not live[top:bottom, left:right].any():
                continue
            middle = q[:, :, (top + bottom) // 2, (left + right) // 2]
            for axis in range(3):
                centre[i, j, axis] = middle[:, axis].mean()
            x0, y0, z0 = centre[i, j]
            farthest[:] = 0
            for s in range(q.shape[0]):
                for row in range(top, bottom):
                    x, y, z = q[s, 0, row], q[s, 1, row], q[s, 2, row]
                    for k in range(left, right):
                        off = (x[k] - x0) ** 2 + (y[k] - y0) ** 2 + (z[k] - z0) ** 2
                        farthest[k - left] = max(farthest[k - left], off)
            radius[i, j] = np.sqrt(farthest.max())
