"""Lanes, masks and bits of vector code, compared with numpy."""

import numpy as np
import pytest
from numba import njit
from tests.simd.evaluate import LANES, evaluate, numbers, same

from hklflow.simd.define import word
from hklflow.simd.kinds import I64, U8, U64
from hklflow.simd.lanes import (
    any_lane,
    bits_of,
    compress,
    count_bits,
    count_lanes,
    lane,
    lowest_bit,
    mask_of,
    splat,
    take,
)
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value

KINDS = ("uint8", "uint16", "uint32", "int64", "float32", "float64")
VECTORS = LANES[1:]


@pytest.mark.parametrize("of", KINDS)
def test_numbers_move_between_lanes(of: str) -> None:
    values = numbers(of, 1)
    for lanes in VECTORS:
        # Any order, some more than once, and another number of lanes.
        order = np.random.default_rng(lanes).integers(lanes, size=16).tolist()
        results = evaluate(
            [
                lambda a, lanes=lanes: lane(a, 0) + lane(a, lanes - 1).like(0),
                lambda a, lanes=lanes: lane(a, lanes - 1),
                lambda a, lanes=lanes: splat(lane(a, 3), lanes),
                lambda a, order=order: take(a, order),
                lambda a: take(a, [k // 4 for k in range(32)]),
            ],
            [values],
            lanes,
        )
        table = values.reshape(-1, lanes)
        assert np.array_equal(results[0], table[:, 0] + table[:, 0].dtype.type(0), equal_nan=True)
        assert same(results[1], table[:, -1])
        assert same(results[2], np.repeat(table[:, 3], lanes))
        assert same(results[3], table[:, order].ravel())
        assert same(results[4], np.repeat(table[:, :8], 4, axis=1).ravel())


@pytest.mark.parametrize("lanes", VECTORS)
def test_masks_are_bits(lanes: int) -> None:
    a, b = numbers("uint8", 2), numbers("uint8", 3)
    # All, none, and one lane only.
    a[:64], b[:64] = 1, 0
    a[64:128], b[64:128] = 0, 1
    a[128:192], b[128:192] = 0, 1
    a[191] = 2
    bits, back, some, number = evaluate(
        [
            lambda a, b: bits_of(a > b),
            lambda a, b: mask_of(bits_of(a > b)),
            lambda a, b: any_lane(a > b),
            lambda a, b: count_lanes(a > b),
        ],
        [a, b],
        lanes,
    )
    table = (a > b).reshape(-1, lanes)
    packed = np.packbits(table, axis=1, bitorder="little").view(f"<u{lanes // 8}")[:, 0]
    assert same(bits, packed)
    assert same(back, table.ravel())
    assert same(some, table.any(axis=1))
    assert same(number, table.sum(axis=1))


@pytest.mark.parametrize("of", KINDS)
def test_marked_numbers_move_to_the_front(of: str) -> None:
    a, b = numbers(of, 4), numbers("uint8", 5).astype(of)
    for lanes in VECTORS:
        if not 16 <= lanes * a.itemsize <= 64:
            with pytest.raises(Exception, match="16 to 64 bytes only"):
                evaluate([lambda a, b: compress(a, b > 100)], [a, b], lanes)
            continue
        for mark in (lambda a, b: b > 100, lambda a, b: b >= 0, lambda a, b: b < 0):
            (result,) = evaluate([lambda a, b, mark=mark: compress(a, mark(a, b))], [a, b], lanes)
            rows = zip(
                result.reshape(-1, lanes),
                a.reshape(-1, lanes),
                mark(a, b).reshape(-1, lanes),
                strict=True,
            )
            for packed, row, marked in rows:
                assert same(packed[: marked.sum()], row[marked])


@pytest.mark.parametrize("of", ["uint8", "uint16", "uint32", "uint64", "int32", "int64"])
def test_bits_are_counted(of: str) -> None:
    values = numbers(of, 6)
    values[values == 0] = 1  # the lowest bit of 0 is undefined
    bits = np.unpackbits(values.view(np.uint8).reshape(len(values), -1), axis=1, bitorder="little")
    for lanes in LANES:
        number, lowest = evaluate([count_bits, lowest_bit], [values], lanes)
        assert same(number, bits.sum(axis=1).astype(of))
        assert same(lowest, bits.argmax(axis=1).astype(of))


def test_no_bits_are_none() -> None:
    zeros = np.zeros(64, np.uint64)
    assert not evaluate([count_bits], [zeros], 64)[0].any()
    assert not evaluate([lambda a: count_lanes(a != 0)], [zeros], 64)[0].any()


def test_lanes_of_a_loaded_word() -> None:
    """Bits in memory are a mask of bytes."""

    @word(I64, I64, I64)
    def keep(values: Value, bits: Value, out: Value) -> None:
        store(compress(load(U8, values, lanes=64), mask_of(load(U64, bits))), out)

    @njit
    def run(values, bits, out):  # type: ignore[no-untyped-def]
        keep(values.ctypes.data, bits.ctypes.data, out.ctypes.data)

    values, out = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
    run(values, np.array([1 << 63 | 1 << 8 | 1], np.uint64), out)
    assert out[:3].tolist() == [0, 8, 63]
