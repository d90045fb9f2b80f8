"""Find the domains of a pseudo-merohedral twin, whose lattice nearly has a higher symmetry.

The spots of the domains nearly coincide, and indexing finds their mean lattice. Each domain has the
cell in one of the orientations that would be equivalent in the higher symmetry; the spots decide
which two orientations occur.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice, symmetry

Floats = NDArray[np.float64]

_NEARLY = 5.0  # degrees, largest deviation of a rotation from a symmetry of the lattice
_STRONGEST = 2000  # number of the strongest peaks that are used to find the domains
_ROUNDS = 8
_FEWEST = 10  # smallest number of peaks to fit the orientation of a domain
_CLEAR = 0.5  # largest ratio: distance of peaks from two lattices to distance from one lattice


@dataclass(frozen=True)
class Pair:
    """UB (3, 3) of two domains in 1/Å with 2π; the first domain has more intensity."""

    first: Floats
    second: Floats


def pair(
    ub: Floats, g: Floats, intensity: Floats, cell: ArrayLike, group: symmetry.SpaceGroup
) -> Pair | None:
    """Find two domains that explain the peaks where one mean lattice does not.

    Parameters
    ----------
    ub : (3, 3) array
        The mean lattice that indexes the peaks, 1/Å with 2π.
    g : (n, 3) array
        Scattering vectors in the goniometer's frame.
    intensity : (n,) array
    cell : (6,) array
        Expected cell, which defines the strain of the domains.

    Returns
    -------
    Pair or None
        None if the lattice has no higher approximate symmetry, or if one crystal explains the
        peaks.
    """
    expected = symmetry.constrain_cell(cell, group)
    b = lattice.b_matrix(expected)
    nearly = symmetry.reindexing_operators(expected, group, _NEARLY)
    places = [lattice.nearest_rotation(ub @ w @ np.linalg.inv(b)) for w in (np.eye(3), *nearly)]
    strong = np.argsort(-intensity, kind="stable")[:_STRONGEST]
    strong_g, length = g[strong], np.linalg.norm(g[strong], axis=1)
    alone = float(np.median(_distances(ub, strong_g)[0] / length))
    best, least = None, _CLEAR * alone
    for begun in combinations(places, 2):
        turned = _settled(begun, b, strong_g)
        away = float(np.median(_nearest(turned, b, strong_g) / length))
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
    """Return distances (n,) of peaks from the nearest lattice points, in 1/Å, and hkl (n, 3)."""
    points = np.rint(g @ np.linalg.inv(ub).T) @ ub.T
    return np.linalg.norm(g - points, axis=1), points


def _nearest(us: tuple[Floats, ...], b: Floats, g: Floats) -> Floats:
    distances: Floats = np.min([_distances(u @ b, g)[0] for u in us], axis=0)
    return distances


def _settled(us: tuple[Floats, ...], b: Floats, g: Floats) -> tuple[Floats, ...]:
    """Rotate each domain to fit the peaks that are nearer to it than to the other domain."""
    for _ in range(_ROUNDS):
        each = [_distances(u @ b, g) for u in us]
        owner = np.argmin([distance for distance, _ in each], axis=0)
        turned = []
        for i, (u, (distance, points)) in enumerate(zip(us, each, strict=True)):
            on_domain = owner == i
            if on_domain.any():
                on_domain &= distance < 2 * np.median(distance[on_domain])
            few = on_domain.sum() < _FEWEST
            # Kabsch: G = R (U B h).
            turned.append(
                u if few else lattice.nearest_rotation(g[on_domain].T @ points[on_domain]) @ u
            )
        us = tuple(turned)
    return us
