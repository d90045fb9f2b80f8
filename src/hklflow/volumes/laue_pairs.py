"""Test if S(Q) has a Laue group: compare equivalent voxels (mates) for each operation.

Only a part of the voxels is compared. Friedel mates have the same S in any crystal, and so has one
voxel in several volumes. Their differences measure the effect of scale, absorption, background and
motion on equal S. An operation is contradicted if its mates differ by much more. The part of a
difference that changes slowly with Q (a polynomial of third order) is reported separately. A slow
part is typical of absorption; a wrong symmetry causes differences that vary between the
reflections.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice, subgroups, symmetry
from hklflow.transform.bricks import EDGE
from hklflow.volumes import laue_kernels, pairs_kernels
from hklflow.volumes import symmetrise_kernels as kernels
from hklflow.volumes.pairs import SIGNIFICANT, Difference, away_from_bragg
from hklflow.volumes.symmetrise import Records, index_maps

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Approximate number of compared voxels times operations.
_SAMPLE = 8_000_000
_FEWEST_BRICKS, _MOST_BRICKS = 300, 1000
# Smallest number of pairs with which an operation is judged.
_FEWEST = 200
# An operation is contradicted if its difference exceeds the difference of equal S by this factor.
TIMES = 2.0
# Number of voxels that are compared at a time, with their monomials in the cache.
_CHUNK = 2048
_FLOOR = ("the same voxels in other volumes", "Friedel mates")


def examine(
    records: Records,
    group: symmetry.SpaceGroup,
    cell: ArrayLike,
    bragg_radius: float,
    reported_difference: float,
) -> dict[str, Any]:
    """Compare the mates of each operation before they are summed.

    Parameters
    ----------
    records : Records
        Counts and norm before symmetrising.
    group : SpaceGroup
    cell : (6,) array
    bragg_radius : float
        1/Å; see `symmetrise.apply`.
    reported_difference : float
        Smallest relative difference of S, in addition to the difference of equal S, that
        contradicts an operation.

    Returns
    -------
    dict
        ``floor`` (equal S) and ``operations``: differences, as lists of dicts; ``contradicted``:
        list of triplets; ``not tested``: number of operations; ``Laue group that remains``: None
        if no operation is contradicted.
    """
    operations = np.asarray(group.laue_operations)
    *maps, is_exact = index_maps(records.grid, operations)
    matrices, shifts = (np.rint(x[is_exact]).astype(np.int64) for x in maps)
    exact = operations[is_exact]
    voxels = _sample(records, cell, bragg_radius, len(exact))
    compared = _distinct(exact)
    found = _compare(records, voxels, matrices[compared], shifts[compared], cell)
    has_mates = [sums[laue_kernels.MATES] > 0 for sums in found[0]]
    figures = [_row(*parts) for parts in zip(*found, strict=True)]
    n_repeats = len(figures) - len(compared)
    floor: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    if n_repeats:
        worst = max(figures[:n_repeats], key=lambda row: row["rest squared"])
        floor.append({"of": _FLOOR[0], **worst})
    for i, row, paired in zip(compared, figures[n_repeats:], has_mates[n_repeats:], strict=True):
        if paired:
            name = _FLOOR[1] if np.array_equal(exact[i], -np.eye(3)) else triplet(exact[i])
            (floor if name == _FLOOR[1] else rows).append(
                {"of": name, **row, "matrix": exact[i].tolist()}
            )
    contradicted = _contradicted(floor, rows, reported_difference)
    return {
        "floor": floor,
        "operations": rows,
        "contradicted": [row["of"] for row in contradicted],
        "not tested": int(np.sum(~is_exact)) + sum(row["pairs"] < _FEWEST for row in rows),
        "Laue group that remains": _remaining(group, contradicted) if contradicted else None,
    }


def triplet(operation: NDArray[Any]) -> str:
    """Return the text of an operation on hkl, such as ``k h -l``."""
    words = []
    for row in np.rint(operation).astype(int):
        word = "".join(
            f"{'-' if n < 0 else '+' if i else ''}{'' if abs(n) == 1 else abs(n)}{name}"
            for i, (n, name) in enumerate(zip(row, "hkl", strict=True))
            if n
        )
        words.append(word.removeprefix("+"))
    return " ".join(words)


def _distinct(operations: NDArray[Any]) -> list[int]:
    """Return the indices of the operations without the identity and without inverses."""
    chosen, done = [], {np.eye(3, dtype=np.int64).tobytes()}
    for i, operation in enumerate(operations):
        inverse = np.rint(np.linalg.inv(operation)).astype(np.int64).tobytes()
        if inverse not in done:
            done |= {inverse, np.asarray(operation, np.int64).tobytes()}
            chosen.append(i)
    return chosen


def _row(sums: Floats, moments: Floats, right: Floats) -> dict[str, Any]:
    """Return the difference of one operation, its part that is slow in Q, and the other part."""
    n, chi2, spread_sum, weight_sum = map(float, sums[: pairs_kernels.WEIGHT + 1])
    slow, rank = 0.0, 0
    if n > 10 * len(right):
        normal = moments[_PRODUCTS]
        rank = int(np.linalg.matrix_rank(normal))
        slow = float(right @ np.linalg.pinv(normal) @ right)
    # Each pair occurs twice if the operation is its own inverse.
    difference = Difference(n, chi2, 2 * spread_sum, weight_sum)
    rest = difference._replace(chi2=chi2 - slow, pairs=n - rank)
    slowly = max(slow - rank, 0.0) / weight_sum if weight_sum > 0 else 0.0
    return {
        **difference.figures(),
        "z": difference.z,
        "slow in Q": slowly**0.5,
        "rest": rest.size,
        "rest squared": rest.square,
        "rest squared, sigma": rest.square_sigma if weight_sum > 0 else None,
    }


def _sample(records: Records, cell: ArrayLike, radius: float, operations: int) -> Integers:
    """Return indices (n, 3) in h, k, l of voxels in a sample of bricks, away from reflections."""
    n_bricks = int(np.prod(records.bricks))
    most = int(np.clip(_SAMPLE // (kernels.BRICK * operations), _FEWEST_BRICKS, _MOST_BRICKS))
    chosen = np.random.default_rng(0).permutation(n_bricks)
    chosen_voxels: list[Integers] = []
    # A brick near a reflection, or outside the measured region, has no such voxels.
    for brick in chosen:
        if len(chosen_voxels) >= most:
            break
        first = np.array(np.unravel_index(brick, records.bricks, order="F")) * EDGE
        last = np.minimum(first + EDGE, records.grid.shape)
        region = tuple(slice(a, b) for a, b in zip(first[::-1], last[::-1], strict=True))
        away = away_from_bragg(records.grid, cell, radius, region)
        places = np.argwhere(away)[:, ::-1] + first
        h, k, l = np.ascontiguousarray(places.T)  # noqa: E741
        if laue_kernels.is_measured(
            records.words_of_voxels, records.n_volumes, records.strides, h, k, l
        ):
            chosen_voxels.append(places)
        records.give_back()
    return np.concatenate(chosen_voxels) if chosen_voxels else np.empty((0, 3), np.int64)


def _powers(order: int) -> list[tuple[int, int, int]]:
    """Return the exponents of x, y, z of the monomials up to an order."""
    n = order + 1
    return [(i, j, k) for i in range(n) for j in range(n - i) for k in range(n - i - j)]


# The product of two monomials of third order is one of sixth order: its number (20, 20).
_ORDER = 3
_PRODUCTS = np.array(
    [
        [_powers(2 * _ORDER).index((a + d, b + e, c + f)) for d, e, f in _powers(_ORDER)]
        for a, b, c in _powers(_ORDER)
    ]
)


def _compare(
    records: Records, voxels: Integers, turns: Integers, shifts: Integers, cell: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Compare the volumes, if there are several, and then the mates of operations.

    Returns
    -------
    sums : (n, columns) array
        Sums of `laue_kernels.compare`.
    moments, right : (n, 84), (n, 20) arrays
        Σ v times the monomials up to sixth order in Q, and Σ x times those up to third order. Q is
        scaled to the order of 1.
    """
    several = records.n_volumes if records.n_volumes > 1 else 0
    n = several + len(turns)
    powers = _powers(2 * _ORDER)
    low = [powers.index(power) for power in _powers(_ORDER)]
    sums, moments = np.zeros((n, laue_kernels.COLUMNS)), np.zeros((n, len(powers)))
    right = np.zeros((n, len(low)))
    q = (records.grid.first + records.grid.step * voxels) @ lattice.b_matrix(cell).T
    q /= max(float(np.abs(q).max(initial=0.0)), 1e-9)
    orbits = kernels.Orbits(records.grid.shape, records.strides, turns, shifts)
    for first in range(0, len(voxels), _CHUNK):
        some = tuple(np.ascontiguousarray(voxels[first : first + _CHUNK].T))
        x, v = np.empty((2, n, len(some[0])))
        laue_kernels.compare(
            records.words_of_voxels, records.n_volumes, several > 0, orbits, some, sums, x, v
        )
        records.give_back()
        monomials = _monomials(q[first : first + _CHUNK], powers)
        moments += v @ monomials.T
        right += x @ monomials[low].T
    return sums, moments, right


def _monomials(q: Floats, powers: Sequence[tuple[int, int, int]]) -> Floats:
    """Return monomials (m, n) of Q (n, 3)."""
    x, y, z = (np.cumprod([np.ones(len(q)), *[values] * (2 * _ORDER)], axis=0) for values in q.T)
    return np.stack([x[i] * y[j] * z[k] for i, j, k in powers])


def floor_of(floor: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return the largest mean square difference of equal S, and its σ; 0 without measurements."""
    known = [row for row in floor if row["pairs"] >= _FEWEST and row["difference"] is not None]
    if not known:
        return 0.0, 0.0
    worst = max(known, key=lambda row: row["rest squared"])
    return max(worst["rest squared"], 0.0), worst["rest squared, sigma"]


def _contradicted(
    floor: list[dict[str, Any]], rows: list[dict[str, Any]], reported: float
) -> list[dict[str, Any]]:
    """Return the operations whose mates differ much more than equal S.

    If neither Friedel mates nor repeated voxels were measured, the operation with the best
    agreement is assumed to have equal S.
    """
    known = [row for row in rows if row["pairs"] >= _FEWEST and row["difference"] is not None]
    if not known:
        return []
    has_floor = any(row["pairs"] >= _FEWEST for row in floor)
    best = min(known, key=lambda row: row["rest squared"])
    square, sigma = floor_of(floor if has_floor else [best])
    contradicted = []
    for row in known:
        excess = row["rest squared"] - square
        noise = float(np.hypot(row["rest squared, sigma"], sigma))
        row["beyond equal S"] = float(max(excess, 0.0) ** 0.5)
        if (
            excess > SIGNIFICANT * noise
            and row["rest squared"] > TIMES**2 * square
            and row["beyond equal S"] > reported
        ):
            contradicted.append(row)
    return contradicted


def _remaining(group: symmetry.SpaceGroup, contradicted: list[dict[str, Any]]) -> str:
    """Return the largest Laue group without a contradicted operation."""
    bad = {np.asarray(row["matrix"], np.int64).tobytes() for row in contradicted}
    bad |= {
        np.rint(np.linalg.inv(row["matrix"])).astype(np.int64).tobytes() for row in contradicted
    }
    left = [
        sub
        for sub in subgroups.subgroups(group)
        if not bad & {np.ascontiguousarray(m, np.int64).tobytes() for m in sub.laue_operations}
    ]
    if not left:
        return "-1"
    best = max(left, key=lambda sub: len(sub.laue_operations))
    return f"{symmetry.space_group(f'Hall: {best.hall}').laue} ({best.symbol})"
