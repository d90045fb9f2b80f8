"""Loops, branches and variables of vector code, and how kernels call it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba import njit

from hklflow.simd.control import Variable, assume, either, repeat_while, span
from hklflow.simd.define import LIKE, Array, word
from hklflow.simd.kinds import BOOL, F32, F64, I32, I64, U8, U32
from hklflow.simd.lanes import any_lane
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, constant, convert, select


@pytest.mark.parametrize("step", [1, 3, 16])
def test_span_is_a_range(step: int) -> None:
    @word(I64, I64, I64, returns=I64)
    def write(out: Value, start: Value, stop: Value) -> Value:
        n = Variable(constant(I64, 0))
        with span(stop, start=start, step=step) as j:
            store(j, out, n.value)
            n.value = n.value + 1
        return n.value

    @njit
    def run(out, start, stop):  # type: ignore[no-untyped-def]
        return write(out.ctypes.data, start, stop)

    for start, stop in ((0, 0), (5, 5), (7, 3), (0, 1), (-4, 20), (3, 48)):
        out = np.zeros(64, np.int64)
        n = run(out, start, stop)
        assert out[:n].tolist() == [*range(start, stop, step)]


def test_a_loop_that_always_runs() -> None:
    @word(I64, returns=I64)
    def count(n: Value) -> Value:
        assume(n > 0)
        total = Variable(constant(I64, 0))
        with span(n) as j:
            total.value = total.value + j
        return total.value

    @njit
    def run(n):  # type: ignore[no-untyped-def]
        return count(n)

    assert [run(n) for n in (1, 2, 5, 100)] == [0, 1, 10, 4950]


def test_loops_in_loops_with_vectors() -> None:
    @word(I64, I64, I64)
    def add_up(table: Value, rows: Value, out: Value) -> None:
        total, turns = Variable(constant(F64, 0.0, 8)), Variable(constant(I64, 0))
        with span(rows) as i, span(i + 1) as j:
            total.value = total.value + load(F64, table, j * 8, 8)
            turns.value = turns.value + 1
        store(total.value, out)
        store(convert(turns.value, F64), out, 8)

    @njit
    def run(table, out):  # type: ignore[no-untyped-def]
        add_up(table.ctypes.data, len(table), out.ctypes.data)

    table, out = np.arange(40.0).reshape(5, 8), np.zeros(9)
    run(table, out)
    assert out[:8].tolist() == sum((5 - j) * table[j] for j in range(5)).tolist()
    assert out[8] == 15


def test_repeat_while_a_lane_is_left() -> None:
    """Collatz' sequences of sixteen numbers, each until it is 1."""

    @word(I64)
    def count(numbers: Value) -> None:
        x, steps = Variable(load(U32, numbers, lanes=16)), Variable(constant(U32, 0, 16))
        with repeat_while(lambda: any_lane(x.value != 1)):
            now = x.value
            going = now != 1
            following = select((now & 1) == 0, now >> 1, now * 3 + 1)
            x.value = select(going, following, now)
            steps.value = select(going, steps.value + 1, steps.value)
        store(steps.value, numbers)

    @njit
    def run(numbers):  # type: ignore[no-untyped-def]
        count(numbers.ctypes.data)

    def collatz(n: int) -> int:
        steps = 0
        while n != 1:
            n = 3 * n + 1 if n % 2 else n // 2
            steps += 1
        return steps

    for numbers in (np.ones(16, np.uint32), np.arange(20, 36, dtype=np.uint32)):
        expected = [collatz(int(n)) for n in numbers]
        run(numbers)
        assert numbers.tolist() == expected


def test_one_of_two_branches() -> None:
    @word(I64, returns=I64)
    def sign(number: Value) -> Value:
        result = Variable(constant(I64, 0))
        with either(number < 0) as (negative, other):
            with negative:
                result.value = constant(I64, -1)
            with other:
                result.value = select(number > 0, constant(I64, 1), 0)
        return result.value

    @njit
    def run(number):  # type: ignore[no-untyped-def]
        return sign(number)

    assert [run(n) for n in (-5, 0, 7, -(2**63), 2**63 - 1)] == [-1, 0, 1, -1, 1]


@word(LIKE, I64, U32, F32, returns=F64)
def _sum_of(like: Array, a: Value, b: Value, c: Value) -> Value:
    first = convert(load(like.kind, like.address), F64)
    return first + convert(a, F64) + convert(b, F64) + convert(c, F64)


@njit
def _call_sum(array, a, b, c):  # type: ignore[no-untyped-def]
    return _sum_of(array, a, b, c)


@pytest.mark.parametrize("of", ["uint8", "int16", "uint32", "int64", "float32", "float64"])
def test_arguments_are_converted_and_arrays_are_taken_as_they_are(of: str) -> None:
    array = np.array([5, 9, 7], of)
    assert _call_sum(array, 3, 4, 0.5) == 12.5
    # A view's first item, of numbers of other types.
    assert _call_sum(array[1:], np.int8(-3), np.uint16(4), np.float64(0.1)) == 10 + np.float32(0.1)


def test_a_number_gives_its_kind() -> None:
    @word(LIKE, returns=I64)
    def bits(like: Value) -> Value:
        return constant(I64, like.kind.bits)

    @word(LIKE, returns=BOOL)
    def is_set(number: Value) -> Value:
        return number != 0

    @njit
    def run(number):  # type: ignore[no-untyped-def]
        return bits(number), is_set(number)

    assert run(np.uint8(0)) == (8, False)
    assert run(np.float32(2)) == (32, True)
    assert run(np.int64(-1)) == (64, True)


def _compiled(function: Callable[..., Any], *kinds: Any) -> Callable[..., Any]:
    made = word(*kinds)(function)

    @njit
    def run(a, b):  # type: ignore[no-untyped-def]
        made(a, b)

    return run


def test_mixed_kinds_are_found_when_a_kernel_is_compiled() -> None:
    def add(a: Value, b: Value) -> None:
        a + b

    with pytest.raises(Exception, match="1 × int64 and 1 × uint8 in one operation"):
        _compiled(add, I64, U8)(1, 2)
    _compiled(add, I32, I32)(1, 2)


def test_types_without_a_kind_are_refused() -> None:
    def nothing(a: Value, b: Value) -> None:
        pass

    with pytest.raises(Exception, match="no vector code is written for complex128"):
        _compiled(nothing, LIKE, LIKE)(1, 2j)


def test_every_argument_has_a_kind() -> None:
    with pytest.raises(TypeError, match="add has 2 arguments and 1 kinds"):

        @word(I64)
        def add(a: Value, b: Value) -> None:
            pass
