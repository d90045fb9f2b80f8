"""Lanes of vectors: copy a number to all lanes, select and reorder lanes, masks and their bits."""

from collections.abc import Sequence

from llvmlite import ir

from hklflow.simd.kinds import I64, Kind
from hklflow.simd.value import Value, builder, call, convert, llvm_type

_I32 = ir.IntType(32)


def splat(number: Value, lanes: int) -> Value:
    """Return a vector with one number in all lanes."""
    kind = llvm_type(number.kind, lanes)
    unknown = ir.Constant(kind, ir.Undefined)
    first = builder().insert_element(unknown, number.llvm, _I32(0))
    everywhere = ir.Constant(ir.VectorType(_I32, lanes), [_I32(0)] * lanes)
    return Value(builder().shuffle_vector(first, unknown, everywhere), number.kind, lanes)


def lane(vector: Value, k: int) -> Value:
    """Return the number in lane `k`."""
    return Value(builder().extract_element(vector.llvm, _I32(k)), vector.kind)


def take(vector: Value, lanes: Sequence[int]) -> Value:
    """Return a vector of the numbers in the given lanes; lanes may be repeated."""
    order = ir.Constant(ir.VectorType(_I32, len(lanes)), [_I32(k) for k in lanes])
    written = builder().shuffle_vector(vector.llvm, vector.llvm, order)
    return Value(written, vector.kind, len(lanes))


def bits_of(mask: Value) -> Value:
    """Return a mask as an integer with one bit for each lane; the first lane is the lowest bit."""
    bits = Kind("u", mask.lanes)
    return Value(builder().bitcast(mask.llvm, bits.llvm), bits)


def mask_of(bits: Value) -> Value:
    """Return the bits of an integer as a mask; the lowest bit is the first lane."""
    kind, lanes = Kind("b", 1), bits.kind.bits
    return Value(builder().bitcast(bits.llvm, llvm_type(kind, lanes)), kind, lanes)


def any_lane(mask: Value) -> Value:
    """Return True if the mask is set in at least one lane."""
    return bits_of(mask) != 0


def count_lanes(mask: Value) -> Value:
    """Return the number of lanes in which the mask is set, int64."""
    return convert(count_bits(bits_of(mask)), I64)


def compress(vector: Value, mask: Value) -> Value:
    """Return the selected numbers, moved to the front; the other lanes are undefined."""
    if not 128 <= vector.kind.bits * vector.lanes <= 512:
        # LLVM 20 aborts on smaller vectors, and larger ones corrupt memory with AVX-512.
        raise TypeError("LLVM compresses vectors of 16 to 64 bytes only")
    unknown = Value(ir.Constant(vector.llvm.type, ir.Undefined), vector.kind, vector.lanes)
    return call("llvm.experimental.vector.compress", vector, mask, unknown)


def count_bits(value: Value) -> Value:
    """Return the number of bits that are set."""
    return call("llvm.ctpop", value)


def lowest_bit(value: Value) -> Value:
    """Return the position of the lowest bit that is set; undefined if no bit is set."""
    return call("llvm.cttz", value, Value(ir.IntType(1)(1), Kind("b", 1)))
