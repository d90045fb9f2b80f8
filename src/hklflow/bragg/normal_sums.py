"""Sums of the normal equations of a linear fit to voxels, for eight voxels at a time.

A voxel has the expected counts ``norm (level + intensity share)``. The level is a surface of
second order in z, y, x (`background.level_at`). The fitted terms are 1, z, y, x for a plane, z²,
y², x² in addition for a curved surface, and the share of the reflection for a fit of its intensity.

Eight sums run side by side, and are added in a fixed order at the end: the result does not depend
on the width of the processor's vectors.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.control import Variable, span
from hklflow.simd.define import LIKE, Array, word
from hklflow.simd.jit import kernel
from hklflow.simd.kinds import F64, I64
from hklflow.simd.lanes import splat
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, constant, maximum

Floats = NDArray[np.float64]

#: Voxels at a time. Lists of voxels are filled up to a multiple with voxels of norm 0, see `pad`.
LANES = 8
#: Rows of a list of voxels, or of sums over a few voxels: counts, norm, share of the reflection,
#: read noise, coordinates in half boxes and their squares, number of the cell, 1 for voxels that
#: are used (0: rejected), and number of voxels. The squares are means, like the coordinates.
N_VOXEL = 13
V_COUNTS, V_NORM, V_SHARE, V_READ, V_Z, V_Y, V_X, V_ZZ, V_YY, V_XX, V_CELL, V_USED, V_NUMBER = (
    range(N_VOXEL)
)

# Parameters of the sums, after the seven terms of the level.
_LOW, _PEAK, _KNOWN, _N_PARAMETERS = 7, 8, 9, 10
_MOST = 8 * 9 // 2 + 8


@kernel
def padded(n: int) -> int:
    """Return the length of a list of n voxels that is filled up."""
    return (n + LANES - 1) // LANES * LANES


@kernel
def pad(rows: Floats, n: int) -> None:
    """Fill up a list of n voxels with voxels that add nothing."""
    for r in range(n, padded(n)):
        rows[:, r] = 0.0
        rows[V_READ, r] = 1.0


def _summer(terms: int, *, share: bool) -> Any:
    """Return the word that sums for a surface of 4 or 7 terms, with or without the share."""

    @word(LIKE, I64, I64, LIKE, LIKE)
    def add(rows: Array, length: Value, n: Value, parameters: Array, out: Array) -> None:
        def parameter(i: int) -> Value:
            return splat(load(F64, parameters.address, i), LANES)

        level = [parameter(i) for i in range(7)]
        low, peak, known = (parameter(i) for i in (_LOW, _PEAK, _KNOWN))
        size = terms + share
        sums = [Variable(constant(F64, 0.0, LANES)) for _ in range(size * (size + 1) // 2 + size)]
        with span(n, step=LANES) as j:

            def column(i: int) -> Value:
                return load(F64, rows.address, length * i + j, LANES)

            norm, part = column(V_NORM), column(V_SHARE)
            z, y, x = column(V_Z), column(V_Y), column(V_X)
            here = level[0] + z * level[1] + y * level[2] + x * level[3]
            squares = [column(i) for i in (V_ZZ, V_YY, V_XX)] if terms == 7 else []
            for square, bend in zip(squares, level[4:], strict=False):
                here = here + square * bend
            expected = norm * (maximum(here, low) + peak * part) + column(V_READ)
            weight = column(V_USED) * norm / expected
            observed = weight * (column(V_COUNTS) - norm * (known * part))
            weight = weight * norm
            fitted: list[Value | None] = [None, z, y, x, *squares]
            if share:
                fitted.insert(0, part)
            number = 0
            for a in range(size):
                of_a = fitted[a]
                row = weight if of_a is None else weight * of_a
                for b in range(a + 1):
                    of_b = fitted[b]
                    sums[number].value = sums[number].value + (row if of_b is None else row * of_b)
                    number += 1
                right = sums[-size + a]
                right.value = right.value + (observed if of_a is None else observed * of_a)
        for number, total in enumerate(sums):
            store(total.value, out.address, LANES * number)

    return add


_add_plane, _add_curved = _summer(4, share=False), _summer(7, share=False)
_add_plane_and_share, _add_curved_and_share = _summer(4, share=True), _summer(7, share=True)


@kernel
def _eight(lanes: Floats, number: int) -> float:
    s = lanes[LANES * number : LANES * number + LANES]
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))


@kernel
def normal_sums(
    rows: Floats,
    n: int,
    level: Floats,
    low: float,
    peak: float,
    known: float,
    matrix: Floats,
    right: Floats,
) -> None:
    """Add the voxels to the lower triangle of the information matrix, and to the right-hand side.

    Parameters
    ----------
    rows : (N_VOXEL, m) array
        Voxels, filled up by `pad`.
    n : int
        Number of voxels.
    level : (7,) array
        Surface for the variances; levels below ``low`` count as ``low``.
    peak : float
        Intensity of the reflection for the variances.
    known : float
        Intensity of the reflection that is subtracted from the counts.
    matrix, right : (size, size), (size,) array
        Output. Their size says what is fitted: 4 or 7 terms of the surface; 5 or 8: the intensity
        before them.
    """
    parameters, lanes = np.empty(_N_PARAMETERS), np.empty(LANES * _MOST)
    parameters[:7] = level[:7]
    parameters[_LOW], parameters[_PEAK], parameters[_KNOWN] = low, peak, known
    length, stop, size = rows.shape[1], padded(n), len(right)
    if size == 4:
        _add_plane(rows, length, stop, parameters, lanes)
    elif size == 5:
        _add_plane_and_share(rows, length, stop, parameters, lanes)
    elif size == 7:
        _add_curved(rows, length, stop, parameters, lanes)
    else:
        _add_curved_and_share(rows, length, stop, parameters, lanes)
    number = 0
    for a in range(size):
        for b in range(a + 1):
            matrix[a, b] += _eight(lanes, number)
            number += 1
    for a in range(size):
        right[a] += _eight(lanes, number)
        number += 1
    for a in range(size):
        for b in range(a):
            matrix[b, a] = matrix[a, b]
