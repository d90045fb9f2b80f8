"""Normal equations of a background that was not measured; see `unmeasured`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]

_ORBITS = 500  # whose rows are multiplied together


class Layout(NamedTuple):
    """Numbers of parameters: radial splines, angular functions, first of ln s, all."""

    radial: int
    angular: int
    field: int
    course: int
    size: int


class Columns(NamedTuple):
    """Of each record: splines along q, harmonics, nodes of ln s and their weights."""

    at_q: NDArray[np.int64]
    of_q: NDArray[np.float32]
    of_azimuth: NDArray[np.float32]
    at_scale: NDArray[np.int32]
    of_scale: NDArray[np.float32]


@kernel
def _add(begin, off, norm, unit, weight, s, columns, layout, G, row, score, D):  # type: ignore[no-untyped-def]
    """Add the products of the records' rows to G (lower triangle); give those of each orbit with S.

    row and score (orbits, size): with the derivative by S, and with what differs; D (orbits,).
    """
    _, n_angular, first_field, first_course, _ = layout
    n_scale = columns.at_scale.shape[1]
    n = 2 * (n_angular + n_angular - 1) + n_scale
    index, value = np.empty(n, np.int64), np.empty(n)
    for o in range(len(begin) - 1):
        e = 0.0
        for i in range(begin[o], begin[o + 1]):
            w = weight[i]
            if w <= 0:
                continue
            k, signal = 0, norm[i] * s[o]
            for a in range(2):
                at, x = columns.at_q[i] + a, columns.of_q[i, a]
                for m in range(n_angular):
                    index[k] = at * n_angular + m
                    value[k] = unit[i] * x * columns.of_azimuth[i, m]
                    k += 1
                for m in range(1, n_angular):
                    index[k] = first_field + at * (n_angular - 1) + m - 1
                    value[k] = signal * x * columns.of_azimuth[i, m]
                    k += 1
            for m in range(n_scale):
                index[k] = first_course + columns.at_scale[i, m]
                value[k] = signal * columns.of_scale[i, m]
                k += 1
            D[o] += w * norm[i] * norm[i]
            e += w * norm[i] * off[i]
            for a in range(k):
                at = index[a]
                wa = w * value[a]
                row[o, at] += wa * norm[i]
                score[o, at] += wa * off[i]
                for b in range(k):
                    if index[b] <= at:
                        G[at, index[b]] += wa * value[b]
        D[o] = max(D[o], 1e-300)
        for j in range(row.shape[1]):
            score[o, j] -= row[o, j] * e / D[o]


def normal(
    begin: NDArray[np.int64], records: tuple[Floats, ...], s: Floats, columns: Columns,
    layout: Layout, scatter: bool,
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Return the normal equations with S of the orbits eliminated: information, scatter, gradient.

    Parameters
    ----------
    records : tuple of (records,) arrays
        What differs from the expected counts, norm, norm of the background, weight.
    scatter : bool
        The scatter is needed; it takes as long as all else, and is 0 otherwise.
    """
    size = layout.size
    G, eliminated, J = np.zeros((3, size, size))
    g = np.zeros(size)
    for first in range(0, len(begin) - 1, _ORBITS):
        own = begin[first : first + _ORBITS + 1]
        n = len(own) - 1
        row, score = np.zeros((2, n, size))
        D = np.zeros(n)
        _add(own, *records, s[first : first + n], columns, tuple(layout), G, row, score, D)
        row /= np.sqrt(D)[:, None]
        eliminated += row.T @ row
        if scatter:
            J += score.T @ score
        g += score.sum(axis=0)
    G = np.tril(G) + np.tril(G, -1).T - eliminated
    return G, J, g
