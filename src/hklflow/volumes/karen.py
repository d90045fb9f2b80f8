"""Outliers of S(Q) against a moving window: Bragg reflections wherever they are.

After KAREN (Weng et al., J. Appl. Cryst. 53, 159, 2020), which punches what exceeds the median of a
window by 2.2 median absolute deviations: 1.5 standard deviations, so 7 % of pure noise. Here the
threshold is ``median + k max(1.4826 MAD, σ)`` with the voxel's own σ, so that badly measured voxels
are not taken for peaks. Windows lie on a coarse lattice, half their width apart; median and MAD
are interpolated between. What is flagged is widened by one voxel in all 26 directions.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.volumes import karen_kernels

# Voxels of a window that its median is made of, about: more make it no better.
_ENOUGH = 2000


def outliers(
    data: NDArray[np.float32], errors: NDArray[np.float32], half: ArrayLike, k: float
) -> NDArray[np.uint8]:
    """Voxels (l, k, h) that are flagged: 1, others and what was not measured 0.

    Parameters
    ----------
    data, errors : (l, k, h) arrays
        NaN where not measured.
    half : (3,) ints
        Half-widths of the window along l, k, h, in voxels: it should hold far more diffuse
        voxels than those of a reflection.
    k : float
        Threshold in standard deviations.
    """
    from scipy.ndimage import binary_dilation

    half = np.maximum(np.asarray(half, dtype=np.int64), 1)
    nodes = [_nodes(n, int(w)) for n, w in zip(data.shape, half, strict=True)]
    size = float(np.prod(2 * half + 1))
    # Odd, so that no lattice of voxels of a superstructure is missed altogether.
    stride = np.full(3, 2 * int(round((size / _ENOUGH) ** (1 / 3)) // 2) + 1, np.int64)
    level, scatter = (np.empty([len(n) for n in nodes]) for _ in range(2))
    at_l, at_k, at_h = nodes
    karen_kernels.windows(data, at_l, at_k, at_h, half, stride, level, scatter)
    flagged = np.zeros(data.shape, np.uint8)
    across = [_weights(np.arange(n), at) for n, at in zip(data.shape[1:], nodes[1:], strict=True)]
    for l in range(data.shape[0]):  # noqa: E741
        centre, width = (_plane(field, l, nodes[0], across) for field in (level, 1.4826 * scatter))
        with np.errstate(invalid="ignore"):
            flagged[l] = data[l] > centre + k * np.fmax(width, errors[l])
    wide = binary_dilation(flagged, np.ones((3, 3, 3), bool)).view(np.uint8)
    wide &= np.isfinite(data)
    return wide


def _nodes(n: int, half: int) -> NDArray[np.int64]:
    """Middles of windows, symmetric about the middle of the axis."""
    count = max(int(np.ceil((n - 1) / half)), 1) + 1
    return np.rint(np.linspace(0, n - 1, count)).astype(np.int64)


def _weights(at: NDArray[np.int64], nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Matrix (voxels, nodes) of linear interpolation."""
    matrix = np.zeros((len(at), len(nodes)))
    below = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
    gap = np.maximum(nodes[below + 1] - nodes[below], 1)
    part = (at - nodes[below]) / gap
    matrix[np.arange(len(at)), below] = 1 - part
    matrix[np.arange(len(at)), below + 1] = part
    return matrix


def _plane(
    field: NDArray[np.float64],
    plane: int,
    nodes: NDArray[np.int64],
    across: list[NDArray[np.float64]],
) -> NDArray[np.float64]:
    """A field on the nodes, interpolated to the voxels (k, h) of a plane.

    Windows that hold too little do not count; NaN where none of those around does.
    """
    along = _weights(np.array([plane]), nodes)[0]
    known = np.isfinite(field)
    parts = []
    for values in (np.where(known, field, 0.0), known.astype(np.float64)):
        own = np.tensordot(along, values, axes=1)
        parts.append(across[0] @ own @ across[1].T)
    return np.divide(parts[0], parts[1], out=np.full(parts[0].shape, np.nan), where=parts[1] > 1e-6)
