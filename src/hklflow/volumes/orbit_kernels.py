"""Kernel of `symmetrise` that sums orbits, 32 orbits at a time.

An orbit has one place for each observation: operation after operation, and in each operation volume
after volume. Places without an observation (not measured, outside the grid, or a voxel that an
earlier operation has reached) have the norm 0. The last index of all arrays is the orbit, so that
LLVM vectorises the loops over the orbits of a batch.
"""

import numpy as np

from hklflow.simd.jit import kernel
from hklflow.transform.bricks import EDGE
from hklflow.volumes.symmetrise_kernels import (
    AFTER,
    BEFORE,
    BRICK,
    CHI2,
    COUNTS,
    DOF,
    INSIDE,
    OBSERVED,
    PAIRS,
    REJECTED,
    SPREAD,
    W,
    WX,
    WXX,
    WXY,
    WY,
    WYY,
    image_of,
    is_last,
    is_passed,
    near_bragg,
    number,
    reject,
    shell,
)

_BATCH = 32

# Least expected counts of a group of observations in χ².
_LEAST = 5.0


@kernel(error_model="numpy")
def combine(  # type: ignore[no-untyped-def]
    records, maps, bricks, orbits, shells, judge, table, rejected
):
    """Sum, in place, the orbits whose last voxel (largest index) is in some bricks.

    Parameters
    ----------
    records : Words
        Records of the voxels; the sums replace the words of the first volume.
    maps : Maps
        Output.
    bricks : (int, int)
        Number of the first brick, and number of the last brick + 1.
    orbits : Orbits
    shells : Shells
    judge : Judge
    table : (shells, COLUMNS) array
        Sums of this call are added.
    rejected : (volumes,) array
        Numbers of observations rejected by this call are added.
    """
    shape, strides = orbits.shape, orbits.strides
    n_h, n_k, n_l = shape
    across_h = (n_h + EDGE - 1) >> 3
    across_k = (n_k + EDGE - 1) >> 3
    n_ops, n_places = orbits.turns.shape[0], orbits.turns.shape[0] * rejected.size
    leaders = np.empty((BRICK, 3), np.int64)
    members = np.empty((n_ops, _BATCH), np.int64)
    c, m = np.empty((n_places, _BATCH)), np.empty((n_places, _BATCH))
    # Photons have no read noise: all places share one row of zeros.
    r = np.zeros((n_places if records.noisy else 1, _BATCH))
    for brick in range(bricks[0], bricks[1]):
        h0 = brick % across_h * EDGE
        k0 = brick // across_h % across_k * EDGE
        l0 = brick // (across_h * across_k) * EDGE
        if is_passed(h0, k0, l0, orbits):
            continue
        found = 0
        for at in range(BRICK):
            h, k, l = h0 + (at & 7), k0 + ((at >> 3) & 7), l0 + (at >> 6)  # noqa: E741
            if h < n_h and k < n_k and l < n_l and is_last(h, k, l, orbits):
                leaders[found, 0], leaders[found, 1], leaders[found, 2] = h, k, l
                found += 1
        for first in range(0, found, _BATCH):
            batch = leaders[first : min(first + _BATCH, found)]
            _find_members(batch, orbits, members)
            _gather(records, rejected.size, len(batch), members, c, m, r)
            _combine_batch(
                records, maps, batch, shells, judge, table, rejected, members, c, m, r
            )


@kernel
def _find_members(batch, orbits, members):  # type: ignore[no-untyped-def]
    """Write the voxels (operations, batch) of some orbits, -1 for places without a new voxel."""
    special = np.zeros(_BATCH, np.bool_)
    for op in range(orbits.turns.shape[0]):
        for i in range(len(batch)):
            x, y, z, inside = image_of(op, batch[i, 0], batch[i, 1], batch[i, 2], orbits)
            members[op, i] = number(x, y, z, orbits.strides) if inside else -1
            special[i] |= (op > 0) & (members[op, i] == members[0, i])
    # Two operations reach the same voxel only if an operation maps the voxel onto itself.
    for i in range(len(batch)):
        if special[i]:
            for op in range(1, len(members)):
                for other in range(op):
                    if members[op, i] == members[other, i]:
                        members[op, i] = -1


@kernel
def _gather(records, n_volumes, n, members, c, m, r):  # type: ignore[no-untyped-def]
    """Read counts, norm and read variance of all places; 0 where nothing was measured."""
    counts, norm, fields, noisy = records
    words = 3 if noisy else 2
    for op in range(len(members)):
        for v in range(n_volumes):
            place = op * n_volumes + v
            for i in range(n):
                word = max(members[op, i], 0) * fields + v * words
                exposed = float(norm[word + 1])
                used = (members[op, i] >= 0) & (exposed > 0)
                c[place, i] = float(counts[word]) if used else 0.0
                m[place, i] = exposed if used else 0.0
                if noisy:
                    variance = float(norm[word + 2])
                    r[place, i] = max(variance - float(counts[word]), 0.0) if used else 0.0


@kernel(error_model="numpy")
def _combine_batch(  # type: ignore[no-untyped-def]
    records, maps, batch, shells, judge, table, rejected, members, c, m, r
):
    """Judge and sum the orbits of a batch; write the sums to all voxels of the orbits."""
    n, n_volumes = len(batch), rejected.size
    sums = np.zeros((3, _BATCH))
    many, doubtful = np.zeros(_BATCH, np.int64), np.zeros(_BATCH, np.bool_)
    chi2, dof, spread = np.zeros(_BATCH), np.zeros(_BATCH), np.zeros(_BATCH)
    out = np.zeros(_BATCH, np.int64)
    rows, judged = np.empty(_BATCH, np.int64), np.empty(_BATCH, np.bool_)
    _add_places(c, m, r, n, sums, many)
    _find_doubtful(c, m, r, n, sums, judge.limit, doubtful)
    q = np.empty(3)
    for i in range(n):
        rows[i] = shell(batch[i, 0], batch[i, 1], batch[i, 2], shells, len(table), q)
        judged[i] = not near_bragg(q, shells.metric, judge.radius)
        row = table[rows[i]]
        for op in range(len(members)):
            row[INSIDE] += members[op, i] >= 0
            measured = False
            for v in range(n_volumes):
                measured |= m[op * n_volumes + v, i] > 0
            row[BEFORE] += measured
        if judged[i] and doubtful[i] and many[i] >= 3:
            out[i] = _reject_places(c, m, r, i, judge, rejected, sums)
    _disagreement(c, m, r, n, sums, chi2, dof)
    _add_spread(c, m, n, sums, spread)
    for i in range(n):
        row, left = table[rows[i]], many[i] - out[i]
        if many[i] and judged[i]:
            row[REJECTED] += out[i]
            row[OBSERVED] += many[i]
            row[CHI2] += chi2[i]
            row[DOF] += dof[i]
            if left >= 2:
                _halves(c, m, i, left, members[0, i], row)
                row[SPREAD] += spread[i]
                row[COUNTS] += sums[0, i]
    _write(records, maps, n, members, sums, many - out, chi2, dof, table, rows)


@kernel
def _add_places(c, m, r, n, sums, many):  # type: ignore[no-untyped-def]
    """Add counts, norms and read variances (3, batch) of all places; count the observations."""
    for place in range(len(c)):
        for i in range(n):
            sums[0, i] += c[place, i]
            sums[1, i] += m[place, i]
            many[i] += m[place, i] > 0
    if len(r) > 1:
        for place in range(len(r)):
            for i in range(n):
                sums[2, i] += r[place, i]


@kernel(error_model="numpy")
def _find_doubtful(c, m, r, n, sums, limit, doubtful):  # type: ignore[no-untyped-def]
    """Set ``doubtful`` for orbits with an observation that `reject` has to examine."""
    for place in range(len(c)):
        noise = r[place if len(r) > 1 else 0]
        for i in range(n):
            rate, total = max(sums[0, i], 0.0) / sums[1, i], max(sums[0, i], 0.0) + sums[2, i]
            expected = m[place, i] * rate + noise[i]
            x = min(max(c[place, i] + noise[i], 0.0), total)
            passes = 2 * (x - expected) ** 2 * total <= limit * expected * (total - expected)
            doubtful[i] |= (m[place, i] > 0) & (not passes)


@kernel(error_model="numpy")
def _reject_places(c, m, r, i, judge, rejected, sums):  # type: ignore[no-untyped-def]
    """Remove the outliers of an orbit from its places and sums; return their number."""
    used = np.flatnonzero(m[:, i] > 0)
    use = np.ones(used.size, np.bool_)
    noise = r[used, i] if len(r) > 1 else np.zeros(used.size)
    out = reject(c[used, i], m[used, i], noise, use, judge.limit, judge.tolerance)
    if out:
        sums[:, i] = 0.0
        for j in range(used.size):
            place = used[j]
            if use[j]:
                sums[0, i] += c[place, i]
                sums[1, i] += m[place, i]
                sums[2, i] += noise[j]
            else:
                rejected[place % rejected.size] += 1
                c[place, i], m[place, i] = 0.0, 0.0
                if len(r) > 1:
                    r[place, i] = 0.0
    return out


@kernel(error_model="numpy")
def _disagreement(c, m, r, n, sums, chi2, dof):  # type: ignore[no-untyped-def]
    """Compute χ² of the observations of orbits about their common rate, and its expectation.

    Observations are joined, in their order, to groups of at least 5 expected counts. The groups
    depend only on the norms, so that the expectation is right for few counts. For n groups the
    expectation is n - 1 for photons, and ``n - 2 + (V / M²) Σ M_g² / V_g`` with read noise. For
    fewer than two groups the result is (0, 0).
    """
    groups, shares, variance = np.zeros(_BATCH), np.zeros(_BATCH), np.zeros(_BATCH)
    # Suffix 0: last complete group, which gets the remainder at the end; 1: incomplete group.
    c0, m0, v0 = np.zeros(_BATCH), np.zeros(_BATCH), np.zeros(_BATCH)
    c1, m1, v1 = np.zeros(_BATCH), np.zeros(_BATCH), np.zeros(_BATCH)
    for place in range(len(c)):
        noise = r[place if len(r) > 1 else 0]
        for i in range(n):
            rate = max(sums[0, i], 0.0) / sums[1, i] if sums[1, i] > 0 else 0.0
            expected = m[place, i] * rate + noise[i]
            some_c, some_m, some_v = c1[i] + c[place, i], m1[i] + m[place, i], v1[i] + expected
            variance[i] += expected
            full = some_v >= _LEAST
            inverse = 1 / (v0[i] if groups[i] > 0 else 1.0)
            away = c0[i] - m0[i] * rate
            chi2[i] += away * away * inverse if full else 0.0
            shares[i] += m0[i] * m0[i] * inverse if full else 0.0
            groups[i] += 1.0 if full else 0.0
            c0[i], m0[i], v0[i] = (
                some_c if full else c0[i],
                some_m if full else m0[i],
                some_v if full else v0[i],
            )
            c1[i], m1[i], v1[i] = (
                0.0 if full else some_c,
                0.0 if full else some_m,
                0.0 if full else some_v,
            )
    for i in range(n):
        rate = max(sums[0, i], 0.0) / sums[1, i] if sums[1, i] > 0 else 0.0
        norm, expected = m0[i] + m1[i], v0[i] + v1[i]
        known = groups[i] >= 2
        inverse = 1 / (expected if known else 1.0)
        away = c0[i] + c1[i] - norm * rate
        all_norm = sums[1, i] if known else 1.0
        shares[i] += norm * norm * inverse
        chi2[i] = chi2[i] + away * away * inverse if known else 0.0
        dof[i] = groups[i] - 2 + variance[i] * shares[i] / all_norm**2 if known else 0.0


@kernel(error_model="numpy")
def _add_spread(c, m, n, sums, spread):  # type: ignore[no-untyped-def]
    """Add |C - M S| of all observations."""
    for place in range(len(c)):
        for i in range(n):
            spread[i] += abs(c[place, i] - m[place, i] * sums[0, i] / sums[1, i])


@kernel(error_model="numpy")
def _halves(c, m, orbit, n, seed, row):  # type: ignore[no-untyped-def]
    """Divide the n observations of an orbit into two halves of equal size by a hash.

    The halves are added to the sums for their correlation.
    """
    order = np.empty(n, np.int64)
    found = 0
    for place in range(len(m)):
        if m[place, orbit] > 0:
            order[found] = place
            found += 1
    state = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0xD1B54A32D192ED03)
    sums = np.zeros((2, 2))
    side = 0
    for i in range(n):
        state ^= state >> np.uint64(29)
        state = state * np.uint64(0xBF58476D1CE4E5B9) + np.uint64(0x94D049BB133111EB)
        drawn = state >> np.uint64(33)
        if i == 0:
            side = int(drawn >> np.uint64(20)) & 1
        other = i + int(drawn % np.uint64(n - i))
        chosen = order[other]
        order[other] = order[i]
        sums[(side + i) & 1, 0] += c[chosen, orbit]
        sums[(side + i) & 1, 1] += m[chosen, orbit]
    x, y = sums[0, 0] / sums[0, 1], sums[1, 0] / sums[1, 1]
    # Weights depend on the norm, because weights from counts would favour low counts.
    w = sums[0, 1] * sums[1, 1] / (sums[0, 1] + sums[1, 1])
    row[PAIRS] += 1
    row[W] += w
    row[WX] += w * x
    row[WY] += w * y
    row[WXX] += w * x * x
    row[WYY] += w * y * y
    row[WXY] += w * x * y


@kernel(error_model="numpy")
def _write(  # type: ignore[no-untyped-def]
    records, maps, n, members, sums, left, chi2, dof, table, rows
):
    """Write sums and maps to all voxels of the orbits; orbits without observations stay."""
    counts, norm, fields, noisy = records
    reduced, shown = np.empty(_BATCH, np.float32), np.empty(_BATCH, np.uint8)
    for i in range(n):
        reduced[i] = chi2[i] / dof[i] if dof[i] > 0 else np.nan
        shown[i] = min(left[i], 255)
    for op in range(len(members)):
        for i in range(n):
            member = members[op, i]
            if member < 0:
                continue
            maps.chi2[member] = reduced[i]
            if left[i]:
                table[rows[i], AFTER] += 1
                word = member * fields
                counts[word], norm[word + 1] = sums[0, i], sums[1, i]
                if noisy:
                    norm[word + 2] = sums[0, i] + sums[2, i]
                maps.multiplicity[member] = shown[i]
