"""Operations of vector code on numpy arrays, to compare with numpy's own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hklflow.simd.define import word
from hklflow.simd.kinds import BOOL, I64, Kind
from hklflow.simd.lanes import bits_of
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, convert

#: Lanes of the vectors in hklflow's kernels, and single numbers.
LANES = (1, 8, 16, 32, 64)
#: An operation on values, and the same one on arrays.
Operation = Callable[..., Any]


def kind(dtype: Any) -> Kind:
    """Kind of an array's items."""
    of = np.dtype(dtype)
    return BOOL if of.kind == "b" else Kind(of.kind, 8 * of.itemsize)


def dtype(kind: Kind) -> np.dtype[Any]:
    """Type of arrays of such a kind."""
    return np.dtype(str(kind).replace("boolean", "bool"))


def evaluate(
    operations: Sequence[Operation], inputs: Sequence[NDArray[Any]], lanes: int
) -> list[NDArray[Any]]:
    """Results of each operation on vectors of so many items, one after the other.

    Results have any kind and number of lanes; masks become arrays of bool.
    """
    results: list[tuple[Kind, int]] = []

    @word(I64, I64)
    def all_of_them(sources: Value, targets: Value) -> None:
        results.clear()
        given = [
            load(kind(array.dtype), load(I64, sources, i), lanes=lanes)
            for i, array in enumerate(inputs)
        ]
        for i, operation in enumerate(operations):
            result = operation(*given)
            results.append((result.kind, result.lanes))
            if result.kind == BOOL:
                result = bits_of(result) if result.lanes > 1 else convert(result, kind(np.uint8))
            store(result, load(I64, targets, i))

    @njit
    def run(sources, targets):  # type: ignore[no-untyped-def]
        all_of_them(sources.ctypes.data, targets.ctypes.data)

    sources, targets = np.empty(len(inputs), np.int64), np.empty(len(operations), np.int64)
    room = np.zeros((len(operations), 64 * 8), np.uint8)
    targets[:] = [row.ctypes.data for row in room]
    parts: list[list[NDArray[Any]]] = [[] for _ in operations]
    for first in range(0, len(inputs[0]), lanes):
        vectors = [np.ascontiguousarray(array[first : first + lanes]) for array in inputs]
        sources[:] = [vector.ctypes.data for vector in vectors]
        run(sources, targets)
        for (of_kind, n), row, part in zip(results, room, parts, strict=True):
            if of_kind == BOOL:
                part.append(np.unpackbits(row, count=n, bitorder="little").astype(bool))
            else:
                part.append(row.view(dtype(of_kind))[:n].copy())
    return [np.concatenate(part) for part in parts]


def numbers(of: Any, seed: int, n: int = 512) -> NDArray[Any]:
    """Random numbers of a type, all its bits in use, and its edges, in random order."""
    rng = np.random.default_rng(seed)
    of = np.dtype(of)
    if of.kind == "f":
        info = np.finfo(of)
        edges = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, info.max, info.min, info.tiny]
        edges += [info.smallest_subnormal, info.eps, 0.5, 1.5, 2.5]
        values = rng.normal(size=n) * 10.0 ** rng.integers(-6, 7, n)
    else:
        limits = np.iinfo(of)
        edges = [limits.min, limits.max, 0, 1, 2, limits.max - 1, limits.max // 2]
        edges += [limits.min + 1, limits.max // 2 + 1]
        values = np.frombuffer(rng.bytes(n * of.itemsize), of).copy()
    array = values.astype(of)
    # Edges meet each other, and themselves.
    where = rng.choice(n, n // 2, replace=False)
    array[where] = rng.choice(np.array(edges, of), n // 2)
    return array


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays have the same type and numbers, to the sign of 0; NaN is NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return bool(np.array_equal(a, b))
    equal = (a == b) & (np.signbit(a) == np.signbit(b))
    return bool(np.all(equal | (np.isnan(a) & np.isnan(b))))
