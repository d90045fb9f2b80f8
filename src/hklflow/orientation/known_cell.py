"""Find the lattice of a known cell among many peaks that do not belong to the lattice.

Peaks of a twin, satellites or λ/2 peaks can form a lattice together with the peaks of the crystal.
The lattice that indexes the largest number of peaks may then be wrong. This module uses only
vectors with the lengths of the cell axes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice, symmetry
from hklflow.geometry.reduction import real_basis, strain
from hklflow.orientation.lattice_search import MIN_PEAKS, fit, is_indexed, vectors_of_lengths

Floats = NDArray[np.float64]

_MAX_PEAKS = 3000
# largest deviation of the angle between two vectors from the angle of the cell
_ANGLE = np.radians(3.0)
_NEAR = 0.08  # largest deviation of the third vector, relative to its length
_TOLERANCE = 0.15  # tolerance of h, k, l before the fit
_TRIED = 24  # number of orientations that are fitted
_AT_ONCE = 100
# fractions of the peaks, the strongest first: satellites and λ/2 peaks are weak
_PARTS = (1.0, 0.4, 0.15)


def known_lattice(
    g: Floats,
    cell: ArrayLike,
    group: symmetry.SpaceGroup,
    tolerance: float,
    cell_tolerance: float,
    strength: Floats | None = None,
) -> Floats | None:
    """Return the UB (3, 3) of a cell's primitive lattice that indexes the most peaks.

    Parameters
    ----------
    g : (n, 3) array
        Scattering vectors in 1/Å with 2π.
    cell : (6,) array
        Expected conventional cell, accurate to ``cell_tolerance``.
    tolerance : float
        Largest deviation of h, k and l of an indexed peak from integers.
    strength : (n,) array, optional
        Intensities of the peaks; the search is repeated with the strongest peaks only.

    Returns
    -------
    array or None
        1/Å with 2π; None if no vectors form the cell.
    """
    reduced, _ = symmetry.niggli(cell, group)
    basis = real_basis(lattice.b_matrix(reduced))
    parts = _PARTS if strength is not None else _PARTS[:1]
    best, most = None, MIN_PEAKS - 1
    for part in parts:
        number = max(int(part * len(g)), 4 * MIN_PEAKS)
        order = np.arange(len(g)) if strength is None else np.argsort(-strength, kind="stable")
        strongest = g[order[:number]]
        strongest = strongest[
            np.argsort(np.linalg.norm(strongest, axis=1), kind="stable")[:_MAX_PEAKS]
        ]
        for ub in _orientations(strongest, basis, cell_tolerance):
            fitted = fit(ub, strongest, np.ones(len(strongest)), tolerance)
            metric = real_basis(fitted)
            if not strain(metric.T @ metric, reduced) < cell_tolerance:
                continue
            # With a wide tolerance, many peaks would be indexed by chance.
            count = int(is_indexed(fitted, g, min(tolerance, 0.1)).sum())
            if count > most:
                best, most = fitted, count
    return best


def _orientations(g: Floats, basis: Floats, tolerance: float) -> list[Floats]:
    """Return the UB of vector triples similar to a basis (3, 3), most indexed peaks first."""
    lengths = np.linalg.norm(basis, axis=0)
    vectors = vectors_of_lengths(g / (2 * np.pi), lengths, tolerance)
    vectors = np.concatenate([vectors, -vectors])
    size = np.linalg.norm(vectors, axis=1)
    like = [np.flatnonzero(np.abs(size / x - 1) < tolerance) for x in lengths]
    triples = [t for i in range(3) for t in _triples(vectors, like, basis, i)]
    if not triples:
        return []
    ubs = 2 * np.pi * np.linalg.inv(np.array(triples)).transpose(0, 2, 1)
    counts = np.concatenate(
        [_counts(ubs[first : first + _AT_ONCE], g) for first in range(0, len(ubs), _AT_ONCE)]
    )
    return list(ubs[np.argsort(-counts, kind="stable")[:_TRIED]])


def _triples(vectors: Floats, like: list[NDArray[np.int64]], basis: Floats, i: int) -> list[Floats]:
    """Return direct bases (3, 3): two vectors at the angle of the cell, and a third that fits."""
    j, k = (i + 1) % 3, (i + 2) % 3
    a, b = basis[:, i], basis[:, j]
    first, second = vectors[like[i]], vectors[like[j]]
    if not len(first) or not len(second):
        return []
    norms = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)
    angle = np.arccos(np.clip(first @ second.T / norms, -1, 1))
    expected = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    triples = []
    for m, n in zip(*np.nonzero(np.abs(angle - expected) < _ANGLE), strict=True):
        triple = np.empty((3, 3))
        triple[:, i], triple[:, j] = first[m], second[n]
        frame = np.stack([first[m], second[n], np.cross(first[m], second[n])], axis=1)
        model = np.stack([a, b, np.cross(a, b)], axis=1)
        triple[:, k] = frame @ np.linalg.solve(model, basis[:, k])
        off = np.linalg.norm(vectors - triple[:, k], axis=1)
        nearest = int(np.argmin(off))
        if off[nearest] < _NEAR * np.linalg.norm(basis[:, k]):
            triple[:, k] = vectors[nearest]
        triples.append(triple)
    return triples


def _counts(ubs: Floats, g: Floats) -> NDArray[np.int64]:
    """Return the number of peaks that each lattice (n, 3, 3) indexes."""
    hkl = np.linalg.inv(ubs) @ g.T
    numbers: NDArray[np.int64] = np.sum(np.abs(hkl - np.rint(hkl)).max(axis=1) < _TOLERANCE, axis=1)
    return numbers
