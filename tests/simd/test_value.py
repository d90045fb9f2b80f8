"""Arithmetic of vector code, compared with numpy's."""

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.simd.evaluate import LANES, dtype, evaluate, kind, numbers, same

from hklflow.simd.kinds import F32, I64, U8, Kind, kind_of
from hklflow.simd.value import (
    Value,
    constant,
    convert,
    fma,
    maximum,
    minimum,
    multiply_add,
    reinterpret,
    select,
)

UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
SIGNED = ("int8", "int16", "int32", "int64")
FLOATS = ("float32", "float64")

ARITHMETIC: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: 3 + a,
    lambda a, b: 3 - a,
    lambda a, b: 3 * b,
    lambda a, b: a + 100,
    lambda a, b: a < b,
    lambda a, b: a <= b,
    lambda a, b: a > b,
    lambda a, b: a >= b,
    lambda a, b: a == b,
    lambda a, b: a != b,
    lambda a, b: a > 1,
]
OF_FLOATS: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a / b,
    lambda a, b: 2 / a,
    lambda a, b: a / 0.1,
]
OF_INTEGERS: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a & b,
    lambda a, b: a | b,
    lambda a, b: a ^ b,
    lambda a, b: a & 0x35,
    lambda a, b: ~a,
    lambda a, b: a << 3,
    lambda a, b: a >> 3,
    lambda a, b: a << (b & 7),
    lambda a, b: a >> (b & 7),
]


def check(
    operations: list[Callable[..., Any]],
    inputs: list[NDArray[Any]],
    lanes: int,
    by_numpy: list[Callable[..., Any]] | None = None,
) -> None:
    """Compare operations with what the same ones, or others, make of arrays."""
    results = evaluate(operations, inputs, lanes)
    with np.errstate(all="ignore"):
        for i, (operation, result) in enumerate(zip(by_numpy or operations, results, strict=True)):
            assert same(result, operation(*inputs)), f"operation {i} on {inputs[0].dtype}"


@pytest.mark.parametrize("of", UNSIGNED + SIGNED + FLOATS)
def test_operators(of: str) -> None:
    operations = ARITHMETIC + (OF_FLOATS if of in FLOATS else OF_INTEGERS)
    for lanes in LANES:
        check(operations, [numbers(of, 1), numbers(of, 2)], lanes)


@pytest.mark.parametrize("of", UNSIGNED + SIGNED + FLOATS)
def test_choices(of: str) -> None:
    ours = [minimum, maximum, lambda a, b: minimum(a, 7), lambda a, b: select(b != 0, a, b)]
    ours += [lambda a, b: select(a < b, b, 5)]
    numpys: list[Callable[..., Any]] = [
        lambda a, b: np.where(a < b, a, b),
        lambda a, b: np.where(a > b, a, b),
        lambda a, b: np.where(a < 7, a, a.dtype.type(7)),
        lambda a, b: np.where(b != 0, a, b),
        lambda a, b: np.where(a < b, b, a.dtype.type(5)),
    ]
    for lanes in LANES:
        check(ours, [numbers(of, 3), numbers(of, 4)], lanes, numpys)


def test_masks_are_combined() -> None:
    operations: list[Callable[[Any, Any], Any]] = [
        lambda a, b: (a < b) & (a > 3),
        lambda a, b: (a < b) | (a > 3),
        lambda a, b: ~(a < b),
        lambda a, b: (a < b) & ~(a > 3),
    ]
    for lanes in LANES:
        check(operations, [numbers("uint8", 5), numbers("uint8", 6)], lanes)


def to(of: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Conversion of values, and of arrays."""
    return lambda a: convert(a, kind(of)), lambda a: a.astype(of)


@pytest.mark.parametrize("of", UNSIGNED + SIGNED)
def test_integers_become_other_numbers(of: str) -> None:
    ours, numpys = zip(*(to(other) for other in UNSIGNED + SIGNED + FLOATS), strict=True)
    for lanes in LANES:
        check([*ours], [numbers(of, 7)], lanes, [*numpys])


@pytest.mark.parametrize("of", FLOATS)
def test_floats_become_other_numbers(of: str) -> None:
    fitting = np.random.default_rng(9).uniform(0, 127.9, 128).astype(of)
    for lanes in LANES:
        # Integers only become of numbers that they can hold.
        for others, array in (
            (FLOATS, numbers(of, 8)),
            (UNSIGNED, fitting),
            (SIGNED, fitting * np.tile([-1, 1], 64).astype(of)),
        ):
            ours, numpys = zip(*(to(other) for other in others), strict=True)
            check([*ours], [array], lanes, [*numpys])


@pytest.mark.parametrize(
    ("of", "other"), [("float32", "uint32"), ("float64", "int64"), ("uint16", "int16")]
)
def test_bits_stay_when_they_are_read_otherwise(of: str, other: str) -> None:
    for lanes in LANES:
        for a, b in ((of, other), (other, of)):
            bits = numbers(other, 10).view(a)

            def ours(value: Value, b: str = b) -> Value:
                return reinterpret(value, kind(b))

            # NaN has many patterns of bits, all of which must stay.
            result = evaluate([ours], [bits], lanes)[0]
            assert result.dtype == b
            assert result.tobytes() == bits.tobytes()


@pytest.mark.parametrize("of", FLOATS)
def test_fused_sums_are_rounded_once(of: str) -> None:
    rng = np.random.default_rng(11)
    a, b = (rng.normal(size=256).astype(of) for _ in range(2))
    c = (-a * b * (1 + rng.normal(size=256) * np.finfo(of).eps)).astype(of)
    c[::2] = rng.normal(size=128)
    separate = a * b + c
    assert separate.dtype == of
    for lanes in LANES:
        once, either = evaluate([fma, multiply_add], [a, b, c], lanes)
        exact = [
            Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
            for x, y, z in zip(a, b, c, strict=True)
        ]
        off = [abs(Fraction(float(r)) - e) for r, e in zip(once, exact, strict=True)]
        half = [Fraction(float(abs(np.spacing(r)))) / 2 for r in once]
        assert all(o <= h for o, h in zip(off, half, strict=True))
        assert np.any(once != separate)
        assert np.all((either == once) | (either == separate))


@pytest.mark.parametrize("of", FLOATS)
def test_fused_sums_of_edges(of: str) -> None:
    nan, inf, most, tiny = np.nan, np.inf, np.finfo(of).max, np.finfo(of).smallest_subnormal
    table = [
        (inf, 0.0, 1.0, nan),
        (inf, 1.0, -inf, nan),
        (nan, 1.0, 1.0, nan),
        (1.0, 1.0, nan, nan),
        (-inf, 2.0, 5.0, -inf),
        (most, 2.0, 1.0, inf),
        (most, 1.0, -most, 0.0),
        (tiny, 1.0, tiny, 2 * tiny),
        (-0.0, 1.0, -0.0, -0.0),
        (-0.0, 1.0, 0.0, 0.0),
        (1.0, -1.0, 1.0, 0.0),
    ]
    a, b, c, expected = np.resize(np.array(table).astype(of), (64, 4)).T
    for lanes in LANES:
        for result in evaluate([fma, multiply_add], [a, b, c], lanes):
            assert same(result, expected)


@pytest.mark.parametrize("lanes", LANES)
def test_constants(lanes: int) -> None:
    counted = list(range(lanes)) if lanes > 1 else 0
    known = evaluate(
        [
            lambda a: constant(U8, counted, lanes),
            lambda a: constant(U8, -1, lanes),
            lambda a: constant(I64, 2**63, lanes),
            lambda a: constant(F32, 0.1, lanes),
            lambda a: a.like(0.1),
        ],
        [np.zeros(lanes)],
        lanes,
    )
    assert known[0].tolist() == [*range(lanes)]
    assert known[1].tolist() == [255] * lanes
    assert known[2].tolist() == [-(2**63)] * lanes
    assert known[3].tolist() == [np.float32(0.1)] * lanes
    assert known[4].tolist() == [0.1] * lanes


def test_known_numbers_fit_the_lanes() -> None:
    with pytest.raises(ValueError, match="3 numbers for 8 lanes"):
        constant(U8, [1, 2, 3], 8)


def test_values_cannot_be_compared_while_code_is_written() -> None:
    with pytest.raises(TypeError, match="use select"):
        bool(constant(U8, 1))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (constant(U8, 1), constant(I64, 1)),
        (constant(U8, 1, 8), constant(U8, 1)),
        (constant(U8, 1, 8), constant(U8, 1, 16)),
        (constant(kind("uint32"), 1), constant(kind("int32"), 1)),
    ],
)
def test_both_sides_are_alike(a: Value, b: Value) -> None:
    for operation in (operator.add, operator.lt):
        with pytest.raises(TypeError, match="convert or splat one of them"):
            operation(a, b)


@pytest.mark.parametrize("operation", [lambda a: a & a, lambda a: a >> 1, lambda a: ~a])
def test_floats_have_no_bits(operation: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="float32 has no such operation"):
        operation(constant(F32, 1.0))


def test_integers_are_not_divided() -> None:
    with pytest.raises(TypeError, match="uint8 has no such operation"):
        constant(U8, 4) / constant(U8, 2)


@pytest.mark.parametrize("of", ["bool", *UNSIGNED, *SIGNED, *FLOATS])
def test_kinds_have_numpys_names(of: str) -> None:
    import numba

    found = kind_of(numba.from_dtype(np.dtype(of)))
    assert found == kind(of)
    assert dtype(found) == np.dtype(of)
    assert found.numba == numba.from_dtype(np.dtype(of))


def test_other_types_have_no_kind() -> None:
    import numba

    with pytest.raises(TypeError, match="no vector code is written for complex128"):
        kind_of(numba.complex128)
    assert Kind("u", 8) == U8
