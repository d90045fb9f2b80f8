"""Kernels of the fit of the scale: likelihood and its derivatives; see `redundancy`."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Runs of four parameters on which ln s of a record depends, at most; without and with g.
RUNS, MORE_RUNS = 18, 21


class Positions(NamedTuple):
    """Node of each record before its frame, and the share of the way to the next node."""

    node: NDArray[np.int32]
    part: NDArray[np.float32]


class Table(NamedTuple):
    """Rotation, counts, norm and expected background of the records."""

    rotation: NDArray[np.uint16]
    counts: NDArray[np.float32]
    norm: NDArray[np.float32]
    background: NDArray[np.float32]


class NearSplines(NamedTuple):
    """Four splines at each node along one axis, and the parameter of the first of them.

    Tables of curve and angle have the nodes of all rotations, one rotation after the other.

    Attributes
    ----------
    first, row, nodes : (rotations,) int arrays
        First node of a rotation, its first row in the tables, and its nodes along the frames.
    start, start_at
        Fast part of the start (empty: none), the last parameter of the run.
    n_fast, places : int
        Splines along the detector's rows, and on the whole detector.
    outgoing_at, outgoing : (n, 3) arrays
        Parameters of g at each node, and its terms; n = 0: there is no g.
    """

    first: Ints
    row: Ints
    nodes: Ints
    curve: Floats
    curve_at: Ints
    start: Floats
    start_at: Ints
    angle: Floats
    angle_at: Ints
    slow: Floats
    slow_at: Ints
    fast: Floats
    fast_at: Ints
    n_fast: int
    places: int
    outgoing_at: NDArray[np.integer[Any]]
    outgoing: NDArray[np.floating[Any]]


class Fit(NamedTuple):
    """Derivative of the likelihood by ln s of each record, its information, orbits' weights."""

    off: Floats
    info: Floats
    weight: Floats


@kernel
def _orbit(counts, signal, background, first, last):  # type: ignore[no-untyped-def]
    """Return S of an orbit for which the likelihood of its records is largest.

    ``signal`` are the expected counts for S = 1.
    """
    total, whole, below = 0.0, 0.0, 0.0
    for g in range(first, last):
        total += counts[g]
        whole += signal[g]
        below += background[g]
    if below <= 0 or total == 0:
        return total / whole
    s = max(total - below, 0.01 * total) / whole
    for _ in range(20):
        slope, change = 0.0, -whole
        for g in range(first, last):
            mean = signal[g] * s + background[g]
            ratio = counts[g] * signal[g] / mean
            change += ratio
            slope += ratio * signal[g] / mean
        if slope <= 0:
            return s
        new = max(s + change / slope, 0.1 * s)
        if abs(new - s) < 1e-7 * s:
            return new
        s = new
    return s


@kernel
def expect(scale, positions, table, starts, fit, chi2, sums):  # type: ignore[no-untyped-def]
    """Write the derivatives for s on the nodes, and χ² of the orbits.

    Weighted derivatives are added to the nodes' ``sums``.
    """
    off, info, signal = fit.off, fit.info, fit.info
    for v in range(len(starts) - 1):
        weight = fit.weight[v]
        for g in range(starts[v], starts[v + 1]):
            i, u = positions.node[g], positions.part[g]
            signal[g] = table.norm[g] * ((1 - u) * scale[i] + u * scale[i + 1])
        s = _orbit(table.counts, signal, table.background, starts[v], starts[v + 1])
        chi2[v] = 0.0
        for g in range(starts[v], starts[v + 1]):
            own = signal[g] * s
            mean = own + table.background[g]
            if own <= 0:
                off[g] = 0.0
                info[g] = 0.0
                continue
            ratio, more = own / mean, table.counts[g] - mean
            off[g] = ratio * more
            info[g] = own * ratio
            chi2[v] += more**2 / mean
            i, u = positions.node[g], positions.part[g]
            sums[i] += (1 - u) * weight * off[g]
            sums[i + 1] += u * weight * off[g]


@kernel
def scattered(positions, values, sums):  # type: ignore[no-untyped-def]
    """Add the values of the records to the nodes on both sides."""
    for g in range(len(values)):
        i, u = positions.node[g], positions.part[g]
        sums[i] += (1 - u) * values[g]
        sums[i + 1] += u * values[g]


@kernel
def _splines(near, rotation, node, at, value):  # type: ignore[no-untyped-def]
    """Write the first parameters of the runs of four splines at a node, and their values.

    Return the number of runs: one of the curve, one of the start, three of g, 16 of the direction.
    """
    place, n = node - near.first[rotation], near.nodes[rotation]
    cell, z = place // n, place % n + near.row[rotation]
    at[0] = near.curve_at[z]
    for k in range(4):
        value[0, k] = near.curve[z, k]
    m = 1
    if near.start.size > 0:
        at[m] = near.start_at[z]
        value[m] = 0.0
        value[m, 3] = near.start[z]
        m += 1
    if near.outgoing.size > 0:
        # One parameter each, with others behind it.
        for k in range(3):
            at[m] = near.outgoing_at[node, k]
            value[m] = 0.0
            value[m, 0] = near.outgoing[node, k]
            m += 1
    if near.places == 0:
        return m
    x, y = cell // len(near.fast_at), cell % len(near.fast_at)
    for i in range(4):
        for j in range(4):
            b = near.angle[z, i] * near.slow[x, j]
            row = (near.slow_at[x] + j) * near.n_fast
            at[m] = near.angle_at[z] + i * near.places + row + near.fast_at[y]
            for k in range(4):
                value[m, k] = b * near.fast[y, k]
            m += 1
    return m


@kernel
def _nearest(positions, g):  # type: ignore[no-untyped-def]
    return positions.node[g] + (1 if positions.part[g] >= 0.5 else 0)


@kernel
def rows(near, positions, table, starts, chosen, fit, sums, mean, own):  # type: ignore[no-untyped-def]
    """Add the information of the chosen orbits to the nodes; write a row for each of them.

    The squares of the rows ``mean`` (n, p) have to be subtracted from the information, because S is
    not known; ``own`` (n, p) are the gradients.
    """
    at, value = np.empty(MORE_RUNS, np.int64), np.empty((MORE_RUNS, 4))
    for row in range(len(chosen)):
        v = chosen[row]
        weight, total = fit.weight[v], 0.0
        for g in range(starts[v], starts[v + 1]):
            total += fit.info[g]
        if total <= 0:
            continue
        root = np.sqrt(weight / total)
        for g in range(starts[v], starts[v + 1]):
            node = _nearest(positions, g)
            sums[node] += weight * fit.info[g]
            for m in range(_splines(near, table.rotation[g], node, at, value)):
                for k in range(4):
                    mean[row, at[m] + k] += root * fit.info[g] * value[m, k]
                    own[row, at[m] + k] += weight * fit.off[g] * value[m, k]


@kernel
def _add_square(n, at, value, made):  # type: ignore[no-untyped-def]
    """Add the square of the sum of runs; the sum of the matrix and its transpose is the square."""
    for p in range(n):
        for q in range(n):
            if at[q] < at[p]:
                continue
            part = 0.5 if at[q] == at[p] else 1.0
            for j in range(4):
                b = part * value[p, j]
                for k in range(4):
                    made[at[p] + j, at[q] + k] += b * value[q, k]


@kernel
def products(near, positions, table, starts, chosen, fit, sums, means, scatter, squares):  # type: ignore[no-untyped-def]
    """Add the chosen orbits, which have few records, without the parameters whose splines are 0.

    As `rows`; ``means`` and ``scatter`` are squares for `_add_square`, and ``scatter`` may be
    empty; ``squares`` (p,) is its diagonal.
    """
    most = 0
    for v in chosen:
        most = max(most, starts[v + 1] - starts[v])
    at, value = np.empty(MORE_RUNS * most, np.int64), np.empty((MORE_RUNS * most, 4))
    mean, own, whole = np.empty_like(value), np.empty_like(value), np.zeros(len(squares))
    for v in chosen:
        weight, total = fit.weight[v], 0.0
        for g in range(starts[v], starts[v + 1]):
            total += fit.info[g]
        if total <= 0:
            continue
        n, root = 0, np.sqrt(weight / total)
        for g in range(starts[v], starts[v + 1]):
            node = _nearest(positions, g)
            sums[node] += weight * fit.info[g]
            more = _splines(near, table.rotation[g], node, at[n:], value[n:])
            for m in range(n, n + more):
                for k in range(4):
                    mean[m, k] = root * fit.info[g] * value[m, k]
                    own[m, k] = weight * fit.off[g] * value[m, k]
                    whole[at[m] + k] += own[m, k]
            n += more
        _add_square(n, at, mean, means)
        if scatter.size > 0:
            _add_square(n, at, own, scatter)
        for m in range(n):
            for k in range(4):
                squares[at[m] + k] += whole[at[m] + k] ** 2
                whole[at[m] + k] = 0.0


@kernel
def outgoing_scale(at, share, parameters, made):  # type: ignore[no-untyped-def]
    """Add g to ln s of the nodes."""
    for i in range(len(made)):
        for k in range(3):
            made[i] += share[i, k] * parameters[at[i, k]]


@kernel
def outgoing_sums(at, share, values, made):  # type: ignore[no-untyped-def]
    """Add the values of the nodes to the parameters of g, with its terms as factors."""
    for i in range(len(values)):
        for k in range(3):
            made[at[i, k]] += share[i, k] * values[i]


@kernel
def outgoing_squares(at, share, values, of_frame, made):  # type: ignore[no-untyped-def]
    """Add the values (cells, frames) to pairs of parameters of g, and of g and a frame."""
    n = values.shape[1]
    for i in range(values.size):
        value = values[i // n, i % n]
        if value == 0:
            continue
        for k in range(3):
            part = share[i, k] * value
            of_frame[i % n, at[i, k]] += part
            for m in range(3):
                made[at[i, k], at[i, m]] += part * share[i, m]


@kernel
def outgoing_mixed(at, share, values, angle, slow, fast, made):  # type: ignore[no-untyped-def]
    """Add the values (slow, fast, frames) to pairs of parameters of g and of the direction.

    ``angle``, ``slow`` and ``fast`` are four splines at each place and the first of them; ``made``
    is (g, angle, slow, fast).
    """
    n = values.shape[2]
    for x in range(values.shape[0]):
        for y in range(values.shape[1]):
            cell = (x * values.shape[1] + y) * n
            for z in range(n):
                value = values[x, y, z]
                if value == 0:
                    continue
                for m in range(3):
                    row = made[at[cell + z, m]]
                    for i in range(4):
                        a = share[cell + z, m] * value * angle[0][z, i]
                        for j in range(4):
                            b = a * slow[0][x, j]
                            place = row[angle[1][z] + i, slow[1][x] + j]
                            for k in range(4):
                                place[fast[1][y] + k] += b * fast[0][y, k]
