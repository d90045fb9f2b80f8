"""The lattice of a known cell among peaks of which many belong to something else.

A twin, satellites or half the wavelength make a lattice of their own with the crystal's, and the
one that indexes most is not the crystal's. Here only vectors as long as those of the cell count.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice, symmetry
from hklflow.geometry.reduction import real_basis, strain
from hklflow.orientation.lattice_search import MIN_PEAKS, fit, is_indexed, vectors_of_lengths

Floats = NDArray[np.float64]

_MAX_PEAKS = 3000
_ANGLE = np.radians(3.0)  # of two vectors from what it is in the cell
_NEAR = 0.08  # of its length, from where the third vector must be
_TOLERANCE = 0.15  # of h, k, l before the fit
_TRIED = 24  # orientations that are fitted
_AT_ONCE = 100
_PARTS = (1.0, 0.4, 0.15)  # strongest peaks: satellites and half the wavelength are weak


def known_lattice(
    g: Floats,
    cell: ArrayLike,
    group: symmetry.SpaceGroup,
    tolerance: float,
    cell_tolerance: float,
    strength: Floats | None = None,
) -> Floats | None:
    """Find the UB (3, 3) of the primitive lattice of a cell that indexes the most peaks.

    Parameters
    ----------
    g : (n, 3) array
        Scattering vectors in 1/Å with 2π.
    cell : (6,) array
        Expected conventional cell, good to ``cell_tolerance``.
    tolerance : float
        Largest deviation of h, k and l from integers of an indexed peak.
    strength : (n,) array, optional
        Of the peaks: the strongest are tried by themselves, too.

    Returns
    -------
    array or None
        1/Å with 2π; None where no vectors make the cell.
    """
    reduced, _ = symmetry.niggli(cell, group)
    basis = real_basis(lattice.b_matrix(reduced))
    parts = _PARTS if strength is not None else _PARTS[:1]
    best, most = None, MIN_PEAKS - 1
    for part in parts:
        number = max(int(part * len(g)), 4 * MIN_PEAKS)
        order = np.arange(len(g)) if strength is None else np.argsort(-strength, kind="stable")
        own = g[order[:number]]
        own = own[np.argsort(np.linalg.norm(own, axis=1), kind="stable")[:_MAX_PEAKS]]
        for ub in _orientations(own, basis, cell_tolerance):
            fitted = fit(ub, own, np.ones(len(own)), tolerance)
            metric = real_basis(fitted)
            if not strain(metric.T @ metric, reduced) < cell_tolerance:
                continue
            # By chance many are indexed at a wide tolerance.
            count = int(is_indexed(fitted, g, min(tolerance, 0.1)).sum())
            if count > most:
                best, most = fitted, count
    return best


def _orientations(g: Floats, basis: Floats, tolerance: float) -> list[Floats]:
    """UB of the triples of vectors like a basis (3, 3) that index most, the best first."""
    lengths = np.linalg.norm(basis, axis=0)
    found = vectors_of_lengths(g / (2 * np.pi), lengths, tolerance)
    found = np.concatenate([found, -found])
    size = np.linalg.norm(found, axis=1)
    like = [np.flatnonzero(np.abs(size / x - 1) < tolerance) for x in lengths]
    triples = [t for i in range(3) for t in _triples(found, like, basis, i)]
    if not triples:
        return []
    ubs = 2 * np.pi * np.linalg.inv(np.array(triples)).transpose(0, 2, 1)
    counts = np.concatenate(
        [_counts(ubs[first : first + _AT_ONCE], g) for first in range(0, len(ubs), _AT_ONCE)]
    )
    return list(ubs[np.argsort(-counts, kind="stable")[:_TRIED]])


def _triples(found: Floats, like: list[NDArray[np.int64]], basis: Floats, i: int) -> list[Floats]:
    """Direct bases (3, 3) of two vectors at the cell's angle, and the third where it must be."""
    j, k = (i + 1) % 3, (i + 2) % 3
    a, b = basis[:, i], basis[:, j]
    first, second = found[like[i]], found[like[j]]
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
        off = np.linalg.norm(found - triple[:, k], axis=1)
        nearest = int(np.argmin(off))
        if off[nearest] < _NEAR * np.linalg.norm(basis[:, k]):
            triple[:, k] = found[nearest]
        triples.append(triple)
    return triples


def _counts(ubs: Floats, g: Floats) -> NDArray[np.int64]:
    """Peaks that each lattice (n, 3, 3) indexes."""
    hkl = np.linalg.inv(ubs) @ g.T
    numbers: NDArray[np.int64] = np.sum(np.abs(hkl - np.rint(hkl)).max(axis=1) < _TOLERANCE, axis=1)
    return numbers
