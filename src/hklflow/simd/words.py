"""Words that kernels call directly: memory access by address, and bits.

The caller must own every byte that is read or written.
"""

from typing import Any

from hklflow.simd import lanes, memory
from hklflow.simd.define import LIKE, Array, word
from hklflow.simd.kinds import BOOL, I64, U8, U64, Kind
from hklflow.simd.value import Value, convert, reinterpret


@word(LIKE, returns=I64)
def address(array: Array) -> Value:
    """Return the address of the first item of an array."""
    return array.address


@word(I64)
def prefetch(address: Value) -> None:
    """Prefetch the memory at an address into the cache for writing."""
    memory.prefetch(U8, address, write=True)


@word(U64, returns=I64)
def lowest_bit(number: Value) -> Value:
    """Return the position of the lowest bit that is set in a number other than 0."""
    return reinterpret(lanes.lowest_bit(number), I64)


def _loader(bits: int) -> Any:
    @word(I64, returns=I64)
    def load(address: Value) -> Value:
        """Return a little-endian unsigned number; with 64 bits, the highest bit is the sign."""
        return convert(memory.load(Kind("u", bits), address), I64)

    return load


load8, load16, load64 = _loader(8), _loader(16), _loader(64)


def _storer(bits: int) -> Any:
    @word(I64, I64)
    def store(target: Value, number: Value) -> None:
        """Write the lowest bits of a number in little-endian order."""
        memory.store(convert(number, Kind("u", bits)), target)

    return store


store8, store64 = _storer(8), _storer(64)


def _copier(n_bytes: int) -> Any:
    @word(I64, I64)
    def copy(target: Value, source: Value) -> None:
        """Copy a fixed number of bytes; all bytes are read before any byte is written."""
        memory.store(memory.load(U8, source, lanes=n_bytes), target)

    return copy


copy8, copy16, copy32 = _copier(8), _copier(16), _copier(32)


@word(I64, I64, I64)
def copy(target: Value, source: Value, n: Value) -> None:
    """Copy `n` bytes; source and target must not overlap."""
    memory.copy_bytes(target, source, n)


@word(I64, I64, I64)
def fill(target: Value, byte: Value, n: Value) -> None:
    """Set `n` bytes to one value."""
    memory.fill_bytes(target, convert(byte, U8), n)


@word(I64, I64, returns=BOOL)
def differ64(a: Value, b: Value) -> Value:
    """Return True if 64 bytes differ."""
    return lanes.any_lane(memory.load(U8, a, lanes=64) != memory.load(U8, b, lanes=64))
