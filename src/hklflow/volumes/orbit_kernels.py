"""Kernel of `symmetrise` that sums orbits, 32 orbits at a time.

An orbit has one place for each observation: operation after operation, and in each operation volume
after volume. Places without an observation (not measured, outside the grid, or a voxel that an
earlier operation has reached) have the norm 0. The last index of all arrays is the orbit, so that
LLVM vectorises the loops over the orbits of a batch.
"""

import numpy as np

from hklflow.simd.jit import kernel
from hklflow.transform.bricks import EDGE
from hklflow.volumes.orbit_lanes import BATCH, disagreement, draw
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
    WX,
    WXX,
    WXY,
    WY,
    WYY,
    W,
    image_of,
    is_last,
    is_passed,
    near_bragg,
    number,
    reject,
    shell,
)


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
    n_h, n_k, n_l = orbits.shape
    across_h = (n_h + EDGE - 1) >> 3
    across_k = (n_k + EDGE - 1) >> 3
    n_ops, n_places = orbits.turns.shape[0], orbits.turns.shape[0] * rejected.size
    leaders = np.empty((3, BRICK), np.int64)
    members = np.empty((n_ops, BATCH), np.int64)
    c, m = np.empty((n_places, BATCH)), np.empty((n_places, BATCH))
    # Photons have no read noise: all places share one row of zeros.
    r = np.zeros((n_places if records.noisy else 1, BATCH))
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
                leaders[0, found], leaders[1, found], leaders[2, found] = h, k, l
                found += 1
        for first in range(0, found, BATCH):
            n = min(BATCH, found - first)
            batch = (
                leaders[0, first : first + n],
                leaders[1, first : first + n],
                leaders[2, first : first + n],
            )
            _find_members(batch, orbits, members)
            _gather(records, rejected.size, n, members, c, m, r)
            _combine_batch(records, maps, batch, shells, judge, table, rejected, members, c, m, r)


@kernel
def _find_members(batch, orbits, members):  # type: ignore[no-untyped-def]
    """Write the voxels (operations, batch) of some orbits, -1 for places without a new voxel."""
    h, k, l = batch  # noqa: E741
    special = np.zeros(h.size, np.bool_)
    for op in range(len(members)):
        row = members[op]
        for i in range(h.size):
            x, y, z, inside = image_of(op, h[i], k[i], l[i], orbits)
            row[i] = number(x, y, z, orbits.strides) if inside else -1
        if op > 0:
            for i in range(h.size):
                special[i] |= row[i] == members[0, i]
    # Two operations reach the same voxel only if an operation maps the voxel onto itself.
    for i in range(h.size):
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
    h, k, l = batch  # noqa: E741
    n = h.size
    sums = np.zeros((3, BATCH))
    many, out = np.zeros(BATCH, np.int64), np.zeros(BATCH, np.int64)
    inside, before = np.zeros(BATCH, np.int64), np.zeros(BATCH, np.int64)
    doubtful, judged = np.zeros(BATCH, np.bool_), np.empty(BATCH, np.bool_)
    chi2, dof, spread = np.empty(BATCH), np.empty(BATCH), np.zeros(BATCH)
    rows, q = np.empty(BATCH, np.int64), np.empty(3)
    _count_members(members, m, n, inside, before)
    _add_places(c, m, r, n, sums, many)
    _find_doubtful(c, m, r, n, sums, judge.limit, doubtful)
    for i in range(n):
        rows[i] = shell(h[i], k[i], l[i], shells, len(table), q)
        judged[i] = not near_bragg(q, shells.metric, judge.radius)
        if judged[i] and doubtful[i] and many[i] >= 3:
            out[i] = _reject_places(c, m, r, i, judge, rejected, sums)
    left = many - out
    disagreement(c, m, r, sums, len(c), 1 if len(r) > 1 else 0, chi2, dof)
    _add_spread(c, m, n, sums, spread)
    drawn, sides = np.empty((len(c), BATCH), np.uint32), np.empty(BATCH, np.int64)
    draw(members[0], left, left.max(), drawn, sides)
    order = np.empty(len(c), np.uint32)
    for i in range(n):
        row = table[rows[i]]
        row[INSIDE] += inside[i]
        row[BEFORE] += before[i]
        if many[i]:
            row[AFTER] += inside[i]
        if many[i] and judged[i]:
            row[REJECTED] += out[i]
            row[OBSERVED] += many[i]
            row[CHI2] += chi2[i]
            row[DOF] += dof[i]
            if left[i] >= 2:
                _halves(c, m, i, left[i], sums, drawn, sides[i], order, row)
                row[SPREAD] += spread[i]
                row[COUNTS] += sums[0, i]
    _write(records, maps, n, members, sums, left, chi2, dof)


@kernel
def _count_members(members, m, n, inside, before):  # type: ignore[no-untyped-def]
    """Count the voxels of orbits, and the measured voxels."""
    n_volumes = len(m) // len(members)
    seen = np.empty(n, np.bool_)
    for op in range(len(members)):
        for i in range(n):
            inside[i] += members[op, i] >= 0
            seen[i] = m[op * n_volumes, i] > 0
        for v in range(1, n_volumes):
            for i in range(n):
                seen[i] |= m[op * n_volumes + v, i] > 0
        for i in range(n):
            before[i] += seen[i]


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
def _add_spread(c, m, n, sums, spread):  # type: ignore[no-untyped-def]
    """Add |C - M S| of all observations."""
    for place in range(len(c)):
        for i in range(n):
            spread[i] += abs(c[place, i] - m[place, i] * sums[0, i] / sums[1, i])


@kernel(error_model="numpy")
def _halves(c, m, orbit, n, sums, drawn, side, order, row):  # type: ignore[no-untyped-def]
    """Divide the n observations of an orbit into two halves of equal size.

    The halves are added to the sums for their correlation.
    """
    found = 0
    for place in range(len(m)):
        order[found] = place
        found += m[place, orbit] > 0
    c_half, m_half = 0.0, 0.0
    if side:
        order[drawn[0, orbit]] = order[0]
    # Every second observation belongs to this half, and the observations between to the other.
    for i in range(side, n, 2):
        other = drawn[i, orbit]
        chosen = order[other]
        order[other] = order[i]
        c_half += c[chosen, orbit]
        m_half += m[chosen, orbit]
        if i + 1 < n:
            order[drawn[i + 1, orbit]] = order[i + 1]
    m_rest = sums[1, orbit] - m_half
    x, y = c_half / m_half, (sums[0, orbit] - c_half) / m_rest
    # Weights depend on the norm, because weights from counts would favour low counts.
    w = m_half * m_rest / (m_half + m_rest)
    row[PAIRS] += 1
    row[W] += w
    row[WX] += w * x
    row[WY] += w * y
    row[WXX] += w * x * x
    row[WYY] += w * y * y
    row[WXY] += w * x * y


@kernel(error_model="numpy")
def _write(records, maps, n, members, sums, left, chi2, dof):  # type: ignore[no-untyped-def]
    """Write sums and maps to all voxels of the orbits; orbits without observations stay."""
    counts, norm, fields, noisy = records
    reduced, shown = np.empty(BATCH, np.float32), np.empty(BATCH, np.uint8)
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
                word = member * fields
                counts[word], norm[word + 1] = sums[0, i], sums[1, i]
                if noisy:
                    norm[word + 2] = sums[0, i] + sums[2, i]
                maps.multiplicity[member] = shown[i]
