"""Simple interpolants for comparison with kriging: one matrix for each pattern of holes.

Each function takes the voxels of a hole (n, 3) and of its support (m, 3), as indices (l, k, h), and
the edges of a voxel (3, 3), whose rows are the steps along l, k, h in 1/Å. Each function returns
the weights (n, m) of the measured voxels of the support.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def _laplacian(voxels: Indices, edges: Floats) -> Floats:
    """Return the graph Laplacian: neighbours along the axes, weighted with 1 / distance²."""
    number = {tuple(v): i for i, v in enumerate(voxels.tolist())}
    matrix = np.zeros((len(voxels), len(voxels)))
    for axis in range(3):
        weight = float(1 / np.sum(edges[axis] ** 2))
        for (l, k, h), i in list(number.items()):  # noqa: E741
            neighbour = [l, k, h]
            neighbour[axis] += 1
            j = number.get((neighbour[0], neighbour[1], neighbour[2]))
            if j is not None:
                matrix[[i, j], [i, j]] += weight
                matrix[[i, j], [j, i]] -= weight
    return matrix


def _conditional(precision: Floats, n_hole: int) -> Floats:
    """Return the weights of the support in the expectation of the hole (the first voxels)."""
    inner, outer = precision[:n_hole, :n_hole], precision[:n_hole, n_hole:]
    weights: Floats = np.asarray(np.linalg.solve(inner, -outer), dtype=np.float64)
    return weights


def laplace(hole: Indices, support: Indices, edges: Floats) -> Floats:
    """Interpolate harmonically: every voxel of the hole is the mean of its six neighbours."""
    return _conditional(_laplacian(np.concatenate([hole, support]), edges), len(hole))


def biharmonic(hole: Indices, support: Indices, edges: Floats) -> Floats:
    """Minimise the squared Laplacian over hole and support."""
    matrix = _laplacian(np.concatenate([hole, support]), edges)
    return _conditional(matrix @ matrix, len(hole))


def polynomial(hole: Indices, support: Indices, edges: Floats) -> Floats:
    """Fit a quadratic polynomial by least squares."""

    def terms(voxels: Indices) -> Floats:
        x = (voxels - hole.mean(axis=0)) @ edges
        pairs = [x[:, i] * x[:, j] for i in range(3) for j in range(i, 3)]
        return np.column_stack([np.ones(len(x)), x, *pairs])

    weights: Floats = terms(hole) @ np.linalg.pinv(terms(support))
    return weights


def linear(hole: Indices, support: Indices, edges: Floats) -> Floats:
    """Interpolate linearly between the nearest measured voxels on each axis; average the axes."""
    del edges  # only ratios of distances along an axis are needed
    number = {tuple(v): i for i, v in enumerate(support.tolist())}
    weights = np.zeros((len(hole), len(support)))
    for i, voxel in enumerate(hole.tolist()):
        for axis in range(3):
            ends = []
            for sign in (-1, 1):
                for step in range(1, 1 + int(np.ptp(hole[:, axis])) + 1):
                    neighbour = list(voxel)
                    neighbour[axis] += sign * step
                    if tuple(neighbour) in number:
                        ends.append((step, number[tuple(neighbour)]))
                        break
            if len(ends) == 2:
                (below, a), (above, b) = ends
                weights[i, a] += above / (below + above)
                weights[i, b] += below / (below + above)
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)


OTHERS: dict[str, Callable[[Indices, Indices, Floats], Floats]] = {
    "laplace": laplace,
    "biharmonic": biharmonic,
    "polynomial": polynomial,
    "linear": linear,
}
