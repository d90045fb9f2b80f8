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
from hklflow.volumes import symmetrise_kernels as kernels
from hklflow.volumes.pairs import SIGNIFICANT, Difference, away_from_bragg, terms
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
    first = _pooled(records, voxels)
    basis = _polynomial(records, voxels, cell)
    floor: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    done: set[bytes] = set()
    if repeated := _repeats(records, voxels, basis):
        floor.append({"of": _FLOOR[0], **repeated})
    for operation, matrix, shift in zip(exact, matrices, shifts, strict=True):
        inverse = np.rint(np.linalg.inv(operation)).astype(np.int64)
        if np.array_equal(operation, np.eye(3)) or inverse.tobytes() in done:
            continue
        done.add(np.asarray(operation, np.int64).tobytes())
        mates = voxels @ matrix.T + shift
        inside = np.all((mates >= 0) & (mates < records.grid.shape), axis=1)
        inside &= np.any(mates != voxels, axis=1)
        if not inside.any():
            continue
        other = _pooled(records, np.where(inside[:, None], mates, 0))
        figures = _row(terms(first, other, inside), basis)
        name = _FLOOR[1] if np.array_equal(operation, -np.eye(3)) else triplet(operation)
        (floor if name == _FLOOR[1] else rows).append(
            {"of": name, **figures, "matrix": operation.tolist()}
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


def _row(
    compared: tuple[Floats, Floats, Floats, Floats, NDArray[np.bool_], Floats], basis: Floats
) -> dict[str, Any]:
    """Return the difference of one operation, its part that is slow in Q, and the other part."""
    x, v, spread, weight, used, squares = compared
    slow, rank = 0.0, 0
    if squares.size > 10 * basis.shape[1]:
        part = basis[used]
        normal, right = (part * v[used, None]).T @ part, part.T @ x[used]
        rank = int(np.linalg.matrix_rank(normal))
        slow = float(right @ np.linalg.pinv(normal) @ right)
    chi2, n = float(squares.sum()), float(squares.size)
    spread_sum, weight_sum = float(spread.sum()), float(weight.sum())
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
        if len(places) and np.any(_pooled(records, places)[1] > 0):
            chosen_voxels.append(places)
    return np.concatenate(chosen_voxels) if chosen_voxels else np.empty((0, 3), np.int64)


def _words(records: Records, voxels: Integers) -> Integers:
    """Return the first word (n,) of the voxels' records; see `symmetrise_kernels.number`."""
    h, k, l = voxels.T  # noqa: E741
    across, along = records.strides
    number = h + (h >> 3) * 504 + 8 * k + (k >> 3) * across + 64 * l + (l >> 3) * along
    return np.asarray(number * records.fields)


def _of_volume(records: Records, words: Integers, volume: int) -> tuple[Floats, Floats, Floats]:
    word = words + volume * records.words
    counts = records.counts[word].astype(np.float64)
    norm = records.norm[word + 1].astype(np.float64)
    if not records.noisy:
        return counts, norm, np.zeros(len(counts))
    return counts, norm, np.maximum(records.norm[word + 2] - counts, 0.0)


def _pooled(records: Records, voxels: Integers) -> tuple[Floats, Floats, Floats]:
    """Return counts, norm and read variance, summed over all volumes."""
    words = _words(records, voxels)
    parts = [_of_volume(records, words, i) for i in range(records.n_volumes)]
    counts, norm, read = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    records.give_back()
    return counts, norm, read


def _repeats(records: Records, voxels: Integers, basis: Floats) -> dict[str, Any]:
    """Compare each volume with the sum of the others; return the volume that differs most."""
    if records.n_volumes < 2:
        return {}
    words, rows = _words(records, voxels), []
    total = _pooled(records, voxels)
    for i in range(records.n_volumes):
        volume = _of_volume(records, words, i)
        others = tuple(a - b for a, b in zip(total, volume, strict=True))
        compared = terms(volume, others, others[1] > 1e-6 * total[1])  # type: ignore[arg-type]
        rows.append(_row(compared, basis))
    return max(rows, key=lambda row: row["rest squared"])


def _polynomial(records: Records, voxels: Integers, cell: ArrayLike) -> Floats:
    """Return the monomials (n, 20) up to third order in Q, scaled to the order of 1."""
    q = (records.grid.first + records.grid.step * voxels) @ lattice.b_matrix(cell).T
    q = q / max(float(np.abs(q).max(initial=0.0)), 1e-9)
    x, y, z = q.T
    powers = [(i, j, k) for i in range(4) for j in range(4 - i) for k in range(4 - i - j)]
    return np.stack([x**i * y**j * z**k for i, j, k in powers], axis=1)


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
