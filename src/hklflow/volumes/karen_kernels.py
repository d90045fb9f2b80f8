"""Kernel of `karen`: median and median absolute deviation of windows."""

import numpy as np

from hklflow.simd.jit import kernel


@kernel
def windows(data, nodes_l, nodes_k, nodes_h, half, stride, level, scatter):  # type: ignore[no-untyped-def]
    """Compute median and MAD of measured voxels in windows around nodes; NaN for too few voxels.

    ``half`` (l, k, h) are the half-widths; every ``stride``-th voxel along each axis is read.
    """
    n_l, n_k, n_h = data.shape
    room = np.empty((2 * half[0] + 1) * (2 * half[1] + 1) * (2 * half[2] + 1))
    for a, l in enumerate(nodes_l):  # noqa: E741
        for b, k in enumerate(nodes_k):
            for c, h in enumerate(nodes_h):
                n, seen = 0, 0
                for i in range(max(l - half[0], 0), min(l + half[0] + 1, n_l), stride[0]):
                    for j in range(max(k - half[1], 0), min(k + half[1] + 1, n_k), stride[1]):
                        for m in range(max(h - half[2], 0), min(h + half[2] + 1, n_h), stride[2]):
                            seen += 1
                            if np.isfinite(data[i, j, m]):
                                room[n] = data[i, j, m]
                                n += 1
                level[a, b, c] = scatter[a, b, c] = np.nan
                if n >= 20 and 10 * n > seen:
                    middle = np.median(room[:n])
                    level[a, b, c] = middle
                    scatter[a, b, c] = np.median(np.abs(room[:n] - middle))
