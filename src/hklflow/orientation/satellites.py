"""Find propagation vectors of peaks that a cell does not index, rational or incommensurate."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from hklflow.geometry import symmetry
from hklflow.geometry.subgroups import subgroups

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

INDEXED = 0.1  # largest deviation of an indexed peak from integers, the same for all scans
# largest distance of a peak from a propagation vector; two vectors differ by at least 1/12
NEAR = 0.04
_STEPS = np.array([0, 3, 4, 6, 2, -2, -3, -4]) / 12  # 0, 1/4, 1/3, 1/2, 1/6 and their negatives
_FEWEST = 8  # smallest number of peaks to report a propagation vector
_MOST = 5  # largest number of reported propagation vectors
_OFF = 0.003  # smallest distance from a rational vector; a smaller distance is a geometry error
# a vector with only smaller components is a displaced main reflection
_LEAST = 0.115
_PLACES = 150  # number of offsets that are tried as incommensurate vectors
# largest standard deviation of offsets at a vector; a uniform distribution has 0.023
_WIDEST = 0.015


def satellites(
    miller: Floats, group: symmetry.SpaceGroup
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Find propagation vectors with significantly more unindexed peaks than by chance.

    All rational vectors with denominators 2, 3, 4 and 6 are tested, each with symmetry mates and
    opposites. The peaks of the most significant vector are removed before the next test. If the
    peaks are displaced from a rational vector, or are not near one, the position with the most
    peaks is an incommensurate vector. The number of peaks by chance is estimated in two ways, and
    the larger estimate is used: from uniformly distributed peaks, and from peaks next to the vector
    along an axis. The second is needed because a diffuse rod has maxima everywhere.

    Parameters
    ----------
    miller : (n, 3) array
        Miller coordinates of the peaks that are not indexed.

    Returns
    -------
    rational : list of dict
        ``vector`` (3,), ``arms`` (number of mates modulo integers), ``peaks``,
        ``expected by chance``; ``multiples`` (3,) of a, b, c in a cell that indexes all arms;
        ``space_group``: a primitive group of the same point group that the multiplied cell obeys.
    incommensurate : list of dict
        ``vector``; ``sigma`` (3,), 0 for components fixed by symmetry; ``arms``, ``peaks``,
        ``expected by chance``.
    """
    rational: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    if len(miller) < _FEWEST:
        return rational, others
    offset = miller - np.rint(miller)
    near = [(*_near(offset, star), star) for star in _stars(group)]
    left = np.ones(len(offset), dtype=np.bool_)
    while len(rational) + len(others) < _MOST:
        rows = [(*_significance(hits, beside, left, len(s)), hits, s) for hits, beside, s in near]
        score, number, expected, hits, star = max(rows, key=lambda row: row[0])
        clear = number >= _FEWEST and score >= 5
        if not clear or _is_beside(offset[hits & left], star, group):
            free = _incommensurate(offset, left, group)
            if free is not None:
                found, hits = free
                others.append(found)
                left &= ~hits
                continue
        if not clear:
            break
        rational.append(
            {
                "vector": list(star[0]),
                "arms": len(star),
                "peaks": number,
                "expected by chance": expected,
                "multiples": _multiples(star),
                "space_group": subgroups(group, False)[0].symbol,
            }
        )
        left &= ~hits
    return rational, others


def _significance(hits: Mask, beside: Mask, left: Mask, n_arms: int) -> tuple[float, int, float]:
    """Return the significance in standard deviations, the number of peaks, and that by chance."""
    # Volume of the unit cube outside the surroundings of integers.
    volume = 1 - (2 * INDEXED) ** 3
    number = int((hits & left).sum())
    spread = (2 * NEAR) ** 3 / volume * n_arms * int(left.sum())
    # The two neighbouring ranges along an axis are together twice as long as the window.
    expected = max(spread, 0.5 * int((beside & left).sum()))
    return float((number - expected) / np.sqrt(expected + 1)), number, float(expected)


def _nearest(difference: Floats) -> Floats:
    """Return the differences from the nearest integers."""
    return difference - np.rint(difference)


def _is_beside(offset: Floats, star: Sequence[tuple[float, ...]], group: Any) -> bool:
    """Return True if peaks (n, 3) at the arms of a star have equal displacements by symmetry."""
    first = np.array(star[0])
    operations = group.laue_operations.astype(np.float64)
    images = operations @ offset.T  # (operations, 3, n)
    away = _nearest(images - first[:, None])
    best = np.argmin(np.abs(away).max(axis=1), axis=0)
    aligned = away[best, :, np.arange(len(offset))]
    little = operations[
        [bool(np.all(np.abs(_nearest(w @ first - first)) < 1e-6)) for w in operations]
    ]
    # Test the component that is invariant under the symmetry of the vector: zero or significant.
    along = aligned @ little.mean(axis=0).T
    error = along.std(axis=0) / np.sqrt(len(along))
    if np.any(np.abs(along.mean(axis=0)) > np.maximum(5 * error, _OFF)):
        return True
    # Other components are folded onto symmetry mates. The mean of folded noise is up to 2.4 of its
    # standard deviations.
    place = aligned[np.argsort(np.abs(aligned).max(axis=1))[len(aligned) // 2]]
    for _ in range(5):
        mates = np.einsum("wij,nj->nwi", little, aligned)
        choice = np.argmin(np.abs(mates - place).max(axis=2), axis=1)
        folded = mates[np.arange(len(aligned)), choice]
        place = folded.mean(axis=0)
    return bool(np.any(np.abs(place) > np.maximum(4 * folded.std(axis=0), _OFF)))


def _incommensurate(
    offset: Floats, left: Mask, group: symmetry.SpaceGroup
) -> tuple[dict[str, Any], Mask] | None:
    """Return the vector with the most peaks, and its peaks; None if there is no such vector."""
    rows = np.nonzero(left)[0]
    if len(rows) < _FEWEST:
        return None
    operations = group.laue_operations.astype(np.float64)
    tree = cKDTree(offset[rows] % 1 % 1, boxsize=np.ones(3))
    tried = rows[np.unique(np.linspace(0, len(rows) - 1, _PLACES).astype(np.int64))]
    numbers = []
    for place in offset[tried]:
        arms = _arms(place, operations)
        inside = tree.query_ball_point(np.array(arms) % 1 % 1, NEAR, p=np.inf)
        numbers.append(len(set().union(*inside)) / len(arms) ** 0.5)
    place = offset[tried[int(np.argmax(numbers))]]
    for _ in range(4):
        images = np.einsum("wij,nj->nwi", operations, offset[rows])
        away = _nearest(images - place)
        size = np.abs(away).max(axis=2)
        best = np.argmin(size, axis=1)
        close = size[np.arange(len(rows)), best] < NEAR
        if close.sum() < _FEWEST:
            return None
        aligned = away[np.arange(len(rows)), best][close]
        little = [w for w in operations if np.abs(_nearest(w @ place - place)).max() < NEAR]
        # A component that is not invariant under the symmetry of the vector is 0 or a fraction.
        along = np.mean([_nearest((place + aligned) @ w.T - place) for w in little], axis=0)
        place = place + np.median(along, axis=0)
    if along.std(axis=0).max() > _WIDEST or np.abs(_nearest(place)).max() < _LEAST:
        return None
    star = _arms(place, operations)
    hits, beside = _near(offset, star)
    score, number, expected = _significance(hits, beside, left, len(star))
    if number < _FEWEST or score < 5:
        return None
    place = min(star, key=lambda arm: (sum(x < -1e-9 for x in arm), [-x for x in arm]))
    sigma = float(along.std(axis=0).max() / np.sqrt(len(along)))
    fixed = np.abs(12 * np.array(place) - np.rint(12 * np.array(place))) < 1e-6
    return {
        "vector": list(place),
        "sigma": [0.0 if is_fixed else sigma for is_fixed in fixed],
        "arms": len(star),
        "peaks": number,
        "expected by chance": expected,
    }, hits


def _arms(place: Floats, operations: Floats) -> list[tuple[float, ...]]:
    """Return the mates of a vector modulo integers; mates within the window count once."""
    arms: list[Floats] = []
    for mate in _nearest(operations @ place):
        if all(np.abs(_nearest(mate - arm)).max() >= NEAR for arm in arms):
            arms.append(mate)
    return [tuple(float(x) for x in arm) for arm in arms]


def _near(offset: Floats, star: Sequence[tuple[float, ...]]) -> tuple[Mask, Mask]:
    """Return masks (n,): peaks at an arm of a star, and peaks next to an arm along an axis."""
    hits = np.zeros(len(offset), dtype=np.bool_)
    beside = np.zeros(len(offset), dtype=np.bool_)
    for arm in star:
        difference = offset - np.array(arm)
        away = np.abs(difference - np.rint(difference))
        hits |= away.max(axis=1) < NEAR
        for axis in range(3):
            others = np.delete(away, axis, axis=1).max(axis=1) < NEAR
            beside |= others & (away[:, axis] >= NEAR) & (away[:, axis] < 3 * NEAR)
    return hits, beside


@lru_cache(maxsize=16)
def _stars(group: symmetry.SpaceGroup) -> list[list[tuple[float, ...]]]:
    """Return the stars of vectors modulo integers under the Laue group, simplest star first."""
    grid = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS, indexing="ij"), -1).reshape(-1, 3)
    assigned: set[tuple[float, ...]] = set()
    stars = []
    for vector in sorted(map(_folded, grid), key=_plainness):
        if vector in assigned or not any(vector):
            continue
        # The Laue group contains the inversion, and therefore the opposite vectors.
        mates = {_folded(w @ np.array(vector)) for w in group.laue_operations}
        # A mate that is not in the list (1/2 - 1/3 along other axes) is still an arm.
        assigned |= mates
        stars.append(sorted(mates, key=_plainness))
    return stars


def _multiples(star: Sequence[tuple[float, ...]]) -> list[int]:
    """Return the multiples of a, b and c for which all arms have integer indices."""
    twelfths = np.rint(np.array(star) * 12).astype(np.int64)
    return [int(n) for n in np.lcm.reduce(12 // np.gcd(twelfths, 12), axis=0)]


def _folded(vector: Floats) -> tuple[float, ...]:
    """Return components in (-1/2, 1/2], as multiples of 1/12."""
    twelfths = np.rint(np.asarray(vector) * 12).astype(int)
    return tuple(float(x) / 12 for x in -((-twelfths + 6) % 12 - 6))


def _plainness(vector: tuple[float, ...]) -> tuple[Any, ...]:
    return (sum(x < 0 for x in vector), sum(abs(x) for x in vector), [-x for x in vector])
