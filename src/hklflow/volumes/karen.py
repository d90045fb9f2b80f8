"""Search for outliers of S(Q) in a moving window: Bragg reflections at unknown positions.

The method follows KAREN (Weng et al., J. Appl. Cryst. 53, 159, 2020). KAREN punches voxels that
exceed the median of a window by 2.2 median absolute deviations (MAD). This is 1.5 standard
deviations, so KAREN punches 7 % of pure noise. The threshold here is
``median + k max(1.4826 MAD, σ)`` with the σ of the voxel, so that badly measured voxels do not
count as peaks. The windows lie on a coarse lattice at distances of half their width; median and MAD
are interpolated between windows. Each flagged region is extended by one voxel in all 26 directions.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.volumes import karen_kernels

# Approximate number of voxels for the median of a window; more do not improve the median.
_ENOUGH = 2000


def outliers(
    data: NDArray[np.float32], errors: NDArray[np.float32], half: ArrayLike, k: float
) -> NDArray[np.uint8]:
    """Flag outliers (l, k, h) with 1; other voxels and unmeasured voxels are 0.

    Parameters
    ----------
    data, errors : (l, k, h) arrays
        NaN where not measured.
    half : (3,) ints
        Half-widths of the window along l, k, h, in voxels. The window should contain far more
        voxels than a reflection.
    k : float
        Threshold in standard deviations.
    """
    from scipy.ndimage import binary_dilation

    half = np.maximum(np.asarray(half, dtype=np.int64), 1)
    nodes = [_nodes(n, int(w)) for n, w in zip(data.shape, half, strict=True)]
    size = float(np.prod(2 * half + 1))
    # The stride is odd, so that a superstructure with an even period in voxels is not missed.
    stride = np.full(3, 2 * int(round((size / _ENOUGH) ** (1 / 3)) // 2) + 1, np.int64)
    level, scatter = (np.empty([len(n) for n in nodes]) for _ in range(2))
    at_l, at_k, at_h = nodes
    karen_kernels.windows(data, at_l, at_k, at_h, half, stride, level, scatter)
    flagged = np.zeros(data.shape, np.uint8)
    across = [
        _weights(np.arange(n), axis_nodes)
        for n, axis_nodes in zip(data.shape[1:], nodes[1:], strict=True)
    ]
    for l in range(data.shape[0]):  # noqa: E741
        centre, width = (_plane(field, l, nodes[0], across) for field in (level, 1.4826 * scatter))
        with np.errstate(invalid="ignore"):
            flagged[l] = data[l] > centre + k * np.fmax(width, errors[l])
    wide = binary_dilation(flagged, np.ones((3, 3, 3), bool)).view(np.uint8)
    wide &= np.isfinite(data)
    return wide


def _nodes(n: int, half: int) -> NDArray[np.int64]:
    """Return the middles of the windows, symmetric about the middle of the axis."""
    count = max(int(np.ceil((n - 1) / half)), 1) + 1
    return np.rint(np.linspace(0, n - 1, count)).astype(np.int64)


def _weights(voxels: NDArray[np.int64], nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the matrix (voxels, nodes) of linear interpolation."""
    matrix = np.zeros((len(voxels), len(nodes)))
    below = np.clip(np.searchsorted(nodes, voxels, side="right") - 1, 0, len(nodes) - 2)
    gap = np.maximum(nodes[below + 1] - nodes[below], 1)
    part = (voxels - nodes[below]) / gap
    matrix[np.arange(len(voxels)), below] = 1 - part
    matrix[np.arange(len(voxels)), below + 1] = part
    return matrix


def _plane(
    field: NDArray[np.float64],
    plane: int,
    nodes: NDArray[np.int64],
    across: list[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Interpolate a field on the nodes to the voxels (k, h) of a plane.

    Windows with too few measured voxels are left out. The result is NaN where all windows around
    are left out.
    """
    along = _weights(np.array([plane]), nodes)[0]
    known = np.isfinite(field)
    parts = []
    for values in (np.where(known, field, 0.0), known.astype(np.float64)):
        on_plane = np.tensordot(along, values, axes=1)
        parts.append(across[0] @ on_plane @ across[1].T)
    return np.divide(parts[0], parts[1], out=np.full(parts[0].shape, np.nan), where=parts[1] > 1e-6)
