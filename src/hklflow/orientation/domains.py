"""Domains of a crystal whose lattice is nearly more symmetric: pseudo-merohedral twins.

Their spots nearly coincide, and what indexes them is the mean lattice. Each domain is the cell laid
along one of the axes that it has nearly lost; which two, their spots tell.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice, symmetry

Floats = NDArray[np.float64]

_NEARLY = 5.0  # degrees by which a rotation may miss being one of the lattice
_STRONGEST = 2000  # peaks by which domains are found
_ROUNDS = 8
_FEWEST = 10  # peaks that turn a domain
_CLEAR = 0.5  # times the distance of the peaks from one lattice that those of two have


@dataclass(frozen=True)
class Pair:
    """Two domains, that with more intensity first: UB (3, 3) in 1/Å with 2π."""

    first: Floats
    second: Floats


def pair(
    ub: Floats, g: Floats, intensity: Floats, cell: ArrayLike, group: symmetry.SpaceGroup
) -> Pair | None:
    """Find two domains that make the peaks where one mean lattice does not.

    Parameters
    ----------
    ub : (3, 3) array
        The lattice that indexes them, 1/Å with 2π.
    g : (n, 3) array
        Scattering vectors in the goniometer's frame.
    intensity : (n,) array
    cell : (6,) array
        Expected, from which the domains' strain is.

    Returns
    -------
    Pair or None
        None where the lattice is not nearly more symmetric, or is that of one crystal.
    """
    expected = symmetry.constrain_cell(cell, group)
    b = lattice.b_matrix(expected)
    nearly = symmetry.reindexing_operators(expected, group, _NEARLY)
    places = [lattice.nearest_rotation(ub @ w @ np.linalg.inv(b)) for w in (np.eye(3), *nearly)]
    strong = np.argsort(-intensity, kind="stable")[:_STRONGEST]
    own, length = g[strong], np.linalg.norm(g[strong], axis=1)
    alone = float(np.median(_distances(ub, own)[0] / length))
    best, least = None, _CLEAR * alone
    for begun in combinations(places, 2):
        turned = _settled(begun, b, own)
        away = float(np.median(_nearest(turned, b, own) / length))
        if away < least:
            best, least = turned, away
    if best is None:
        return None
    first, second = (_distances(u @ b, g)[0] for u in best)
    counts = np.maximum(np.nan_to_num(intensity), 0.0)
    ubs = [u @ b for u in best]
    if counts[second < first].sum() > counts[first < second].sum():
        ubs.reverse()
    return Pair(*ubs)


def _distances(ub: Floats, g: Floats) -> tuple[Floats, Floats]:
    """Distances (n,) of peaks from the nearest lattice points, in 1/Å, and these (n, 3)."""
    points = np.rint(g @ np.linalg.inv(ub).T) @ ub.T
    return np.linalg.norm(g - points, axis=1), points


def _nearest(us: tuple[Floats, ...], b: Floats, g: Floats) -> Floats:
    distances: Floats = np.min([_distances(u @ b, g)[0] for u in us], axis=0)
    return distances


def _settled(us: tuple[Floats, ...], b: Floats, g: Floats) -> tuple[Floats, ...]:
    """Turn each domain to the peaks that are nearer to it than to the others."""
    for _ in range(_ROUNDS):
        each = [_distances(u @ b, g) for u in us]
        owner = np.argmin([distance for distance, _ in each], axis=0)
        turned = []
        for i, (u, (distance, points)) in enumerate(zip(us, each, strict=True)):
            mine = owner == i
            if mine.any():
                mine &= distance < 2 * np.median(distance[mine])
            few = mine.sum() < _FEWEST
            # Kabsch: G = R (U B h).
            turned.append(u if few else lattice.nearest_rotation(g[mine].T @ points[mine]) @ u)
        us = tuple(turned)
    return us
