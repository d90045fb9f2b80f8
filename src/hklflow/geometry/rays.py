"""Directions from the sample to all pixels of a detector, computed in one pass.

`Rotation.q_lab` gives the same results for any points. For a megapixel it takes ten times as long,
mostly to allocate temporary arrays. The results are identical to the last bit, because terms are
added in the order of `numpy.einsum`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from hklflow import geometry
from hklflow.geometry import Detector, Rotation
from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]
Vector = tuple[float, float, float]

# Number of rows that are processed together; their arrays fit in the cache.
_ROWS = 32


def directions(detector: Detector, first: int, out: Floats) -> None:
    """Write unit vectors to the pixels of rows from ``first`` into ``out`` (rows, fast, 3)."""
    if detector.modules is None:
        _directions(_plane(detector), first, out)
        return
    for rows, unit in _by_modules(detector, (0.5, 0.5), first, first + len(out)):
        out[rows.start - first : rows.stop - first] = unit


def polarization(detector: Detector, fraction: float) -> Floats:
    """Return the polarisation factor, see `corrections.polarization`."""
    factor = np.empty(detector.shape)
    if detector.modules is None:
        _polarization(_plane(detector), fraction, factor)
        return factor
    for rows, unit in _by_modules(detector, (0.5, 0.5), 0, detector.shape[0]):
        x, y = unit[..., 0], unit[..., 1]
        factor[rows] = fraction * (1 - x * x) + (1 - fraction) * (1 - y * y)
    return factor


def q_lab(rotation: Rotation, shift: tuple[float, float], out: NDArray[np.floating[Any]]) -> None:
    """Write q_lab in 1/Å of one point in each pixel into ``out`` (3, slow, fast).

    Parameters
    ----------
    shift : (slow, fast)
        Position in each pixel, 0 to 1.
    """
    detector, k = rotation.detector, rotation.beam.k
    if detector.modules is None:
        _q_lab(_plane(detector), shift, k, out)
        return
    for rows, unit in _by_modules(detector, shift, 0, detector.shape[0]):
        out[:, rows] = np.moveaxis(k * (unit - geometry.BEAM), -1, 0)


def _by_modules(
    detector: Detector, shift: tuple[float, float], first: int, last: int
) -> Iterator[tuple[slice, Floats]]:
    """Yield rows and the unit vectors (rows, fast, 3) to the pixels of displaced modules."""
    modules, plane = detector.modules, _plane(detector)
    assert modules is not None
    centres, shifts, turns = modules.centres, modules.shift, modules.turns
    fast = np.arange(detector.shape[1], dtype=np.float64) + shift[1]
    unit = np.empty((_ROWS, len(fast), 3))
    for top in range(first, last, _ROWS):
        rows = slice(top, min(top + _ROWS, last))
        slow = np.arange(rows.start, rows.stop, dtype=np.float64) + shift[0]
        part = unit[: len(slow)]
        near = modules.nearest(slow[:, None], fast)
        _displaced_directions(plane, near, centres, shifts, turns, modules.aspect, slow, fast, part)
        yield rows, part


class _Plane(NamedTuple):
    """Plane of a detector as tuples of numbers, which compiled loops keep in registers."""

    origin: Vector
    slow: Vector
    fast: Vector
    size: tuple[float, float]


def _plane(detector: Detector) -> _Plane:
    origin, slow, fast = (
        (float(v[0]), float(v[1]), float(v[2]))
        for v in (detector.origin, detector.slow, detector.fast)
    )
    size = (float(detector.pixel_size[0]), float(detector.pixel_size[1]))
    return _Plane(origin, slow, fast, size)


# Division without a check for zero, so that loops are vectorised.
@numba.njit(inline="always", error_model="numpy")
def _towards(plane: _Plane, at_slow: float, at_fast: float) -> Vector:
    """Return the unit vector to pixel coordinates."""
    origin, slow, fast, size = plane
    s, f = at_slow * size[0], at_fast * size[1]
    x = origin[0] + s * slow[0] + f * fast[0]
    y = origin[1] + s * slow[1] + f * fast[1]
    z = origin[2] + s * slow[2] + f * fast[2]
    length = np.sqrt((x * x + z * z) + y * y)
    return x / length, y / length, z / length


@kernel(error_model="numpy")
def _directions(plane: _Plane, first: int, out: Floats) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x, y, z = _towards(plane, first + i + 0.5, j + 0.5)
            out[i, j, 0], out[i, j, 1], out[i, j, 2] = x, y, z


@kernel(error_model="numpy")
def _displaced_directions(
    plane: _Plane,
    module: NDArray[np.int64],
    centres: Floats,
    shifts: Floats,
    turns: Floats,
    aspect: float,
    slow: Floats,
    fast: Floats,
    out: Floats,
) -> None:
    """Write unit vectors, term by term as `Modules.displaced` and `Detector.lab`."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            m = module[i, j]
            ds, df = slow[i] - centres[m, 0], fast[j] - centres[m, 1]
            at_slow = slow[i] + (shifts[m, 0] + turns[m, 0] * ds - turns[m, 1] * aspect * df)
            at_fast = fast[j] + (shifts[m, 1] + turns[m, 0] * df + turns[m, 1] / aspect * ds)
            x, y, z = _towards(plane, at_slow, at_fast)
            out[i, j, 0], out[i, j, 1], out[i, j, 2] = x, y, z


@kernel(error_model="numpy")
def _polarization(
    plane: _Plane,
    fraction: float,
    out: Floats,
) -> None:
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            x, y, _ = _towards(plane, i + 0.5, j + 0.5)
            out[i, j] = fraction * (1 - x * x) + (1 - fraction) * (1 - y * y)


@kernel(error_model="numpy")
def _q_lab(
    plane: _Plane,
    shift: tuple[float, float],
    k: float,
    out: NDArray[np.floating[Any]],
) -> None:
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            x, y, z = _towards(plane, i + shift[0], j + shift[1])
            out[0, i, j], out[1, i, j], out[2, i, j] = k * x, k * y, k * (z - 1)
