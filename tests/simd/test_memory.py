"""Memory by address: numbers at any alignment, and not a byte more."""

from typing import Any

import numpy as np
import pytest
from numba import njit
from numpy.typing import NDArray
from tests.simd.evaluate import LANES, kind, numbers, same

from hklflow.simd import words
from hklflow.simd.define import word
from hklflow.simd.kinds import I64
from hklflow.simd.memory import load, prefetch, store
from hklflow.simd.value import Value

KINDS = ("uint8", "uint16", "uint32", "int64", "float32", "float64")


@pytest.mark.parametrize("of", KINDS)
@pytest.mark.parametrize("lanes", LANES)
def test_numbers_are_loaded_and_stored_anywhere(of: str, lanes: int) -> None:
    @word(I64, I64, I64, I64)
    def move(source: Value, i: Value, target: Value, j: Value) -> None:
        prefetch(kind(of), source, i)
        store(load(kind(of), source, i, lanes), target, j)
        store(load(kind(of), source, 5, lanes), target, 70)

    @njit
    def run(source, i, target, j):  # type: ignore[no-untyped-def]
        move(source, i, target, j)

    size = np.dtype(of).itemsize
    values = numbers(of, lanes)[:140]
    for shift in (0, 1, 3, size):
        room, out = np.zeros(140 * size + 8, np.uint8), np.zeros(140 * size + 8, np.uint8)
        room[shift : shift + 140 * size] = values.view(np.uint8)
        run(room.ctypes.data + shift, 9, out.ctypes.data + shift, 2)
        expected = np.zeros(140 * size + 8, np.uint8)
        whole = np.zeros(140, of)
        whole[2 : 2 + lanes] = values[9 : 9 + lanes]
        whole[70 : 70 + lanes] = values[5 : 5 + lanes]
        expected[shift : shift + 140 * size] = whole.view(np.uint8)
        assert np.array_equal(out, expected)


@njit
def _use(name: str, to: int, source: int, n: int) -> int:
    if name == "copy":
        words.copy(to, source, n)
    elif name == "copy8":
        words.copy8(to, source)
    elif name == "copy16":
        words.copy16(to, source)
    elif name == "copy32":
        words.copy32(to, source)
    elif name == "fill":
        words.fill(to, source, n)
    elif name == "store8":
        words.store8(to, source)
    elif name == "store64":
        words.store64(to, source)
    elif name == "prefetch":
        words.prefetch(to)
    elif name == "load8":
        return words.load8(source)
    elif name == "load16":
        return words.load16(source)
    elif name == "load64":
        return words.load64(source)
    elif name == "differ64":
        return 1 if words.differ64(to, source) else 0
    elif name == "lowest_bit":
        return words.lowest_bit(np.uint64(source))
    return -1


def use(name: str, to: int = 0, source: int = 0, n: int = 0) -> int:
    """Call a word, as kernels do."""
    return int(_use(name, to, source, n))


@pytest.fixture
def room() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(256, size=256, dtype=np.uint8)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 100])
def test_bytes_are_copied_and_filled(room: NDArray[np.uint8], n: int) -> None:
    first = room.copy()
    use("copy", room.ctypes.data + 129, room.ctypes.data + 3, n)
    expected = first.copy()
    expected[129 : 129 + n] = first[3 : 3 + n]
    assert np.array_equal(room, expected)
    # A number's lowest byte.
    use("fill", room.ctypes.data + 129, 0x1AB, n)
    expected[129 : 129 + n] = 0xAB
    assert np.array_equal(room, expected)


@pytest.mark.parametrize("n", [8, 16, 32])
def test_bytes_are_read_before_any_is_written(room: NDArray[np.uint8], n: int) -> None:
    first = room.copy()
    use(f"copy{n}", room.ctypes.data + 3, room.ctypes.data)
    expected = first.copy()
    expected[3 : 3 + n] = first[:n]
    assert np.array_equal(room, expected)


@pytest.mark.parametrize("bits", [8, 16, 64])
def test_numbers_are_little_endian(room: NDArray[np.uint8], bits: int) -> None:
    for start in range(16):
        number = int.from_bytes(room[start : start + bits // 8].tobytes(), "little")
        signed = number - (1 << 64) if number >= 1 << 63 else number
        assert use(f"load{bits}", source=room.ctypes.data + start) == signed


@pytest.mark.parametrize("bits", [8, 64])
@pytest.mark.parametrize("number", [0, -1, 2**63 - 1, -(2**63), 0x1234567890ABCDEF])
def test_lowest_bits_are_stored(room: NDArray[np.uint8], bits: int, number: int) -> None:
    expected = room.copy()
    low = number & ((1 << bits) - 1)
    expected[5 : 5 + bits // 8] = np.frombuffer(low.to_bytes(bits // 8, "little"), np.uint8)
    use(f"store{bits}", room.ctypes.data + 5, number)
    assert np.array_equal(room, expected)


def test_each_of_64_bytes_can_differ(room: NDArray[np.uint8]) -> None:
    room[131:195] = room[1:65]
    a, b = room.ctypes.data + 1, room.ctypes.data + 131
    assert use("differ64", a, b) == 0
    for at in (130, 195):
        room[at] ^= 1
    assert use("differ64", a, b) == 0
    for at in range(131, 195):
        room[at] ^= 0x80
        assert use("differ64", a, b) == 1
        room[at] ^= 0x80


@pytest.mark.parametrize("place", range(64))
def test_lowest_bit(place: int) -> None:
    assert use("lowest_bit", source=-(1 << place)) == place
    assert use("lowest_bit", source=(1 << place) - (1 << 64 if place == 63 else 0)) == place


def test_any_address_can_be_fetched_ahead() -> None:
    for address in (0, -1, 1 << 62, 12345):
        assert use("prefetch", address) == -1


@njit
def _address(array: NDArray[Any]) -> int:
    return words.address(array)


@pytest.mark.parametrize("of", ["bool", "int16", *KINDS])
def test_address_of_an_array(of: str) -> None:
    for array in (np.zeros(5, of), np.zeros((4, 6), of)[1:, 2::2], np.zeros((2, 2), of).T):
        assert _address(array) == array.ctypes.data


def test_random_numbers_have_their_edges() -> None:
    """The inputs of these tests: extreme integers, NaN, both zeros, infinities."""
    assert {-(2**31), 2**31 - 1, 0} <= set(numbers("int32", 1).tolist())
    floats = numbers("float32", 1)
    assert np.isnan(floats).any()
    assert {np.inf, -np.inf} <= set(floats.tolist())
    assert len(set(np.signbit(floats[floats == 0]).tolist())) == 2
    assert same(floats, floats.copy())
    assert not same(np.array([0.0]), np.array([-0.0]))
