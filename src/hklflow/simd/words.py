"""Words for vector code: sixteen pixels at a time, in LLVM's own language.

Numba turns plain loops into vector code, but not every loop: it has no word for writing
the changed ones of sixteen numbers one behind the other, or for counting bits. These
helpers write such code with the builder that Numba hands to an intrinsic. Any processor
runs it; one with AVX-512 needs a few instructions for it.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Pixels that are treated together.
LANES = 16

I1, I8, I16, I32, I64, F32 = (*(ir.IntType(n) for n in (1, 8, 16, 32, 64)), ir.FloatType())


def vector_of(scalar: Any) -> Any:
    """Type of sixteen numbers."""
    return ir.VectorType(scalar, LANES)


def constant(scalar: Any, value: float) -> Any:
    """The same known number in all lanes."""
    return ir.Constant(vector_of(scalar), [ir.Constant(scalar, value)] * LANES)


def splat(builder: Any, scalar: Any) -> Any:
    """The same number in all lanes."""
    nothing = ir.Constant(vector_of(scalar.type), ir.Undefined)
    first = builder.insert_element(nothing, scalar, I32(0))
    return builder.shuffle_vector(first, nothing, constant(I32, 0))


def pointer_to(builder: Any, address: Any, scalar: Any) -> Any:
    """An address (an integer) as a pointer to numbers."""
    return builder.inttoptr(address, scalar.as_pointer())


def item_at(builder: Any, address: Any, scalar: Any, index: Any) -> Any:
    """The number at an index from an address."""
    index = I64(index) if isinstance(index, int) else index
    return builder.load(builder.gep(pointer_to(builder, address, scalar), [index]))


def load_lanes(builder: Any, pointer: Any, scalar: Any) -> Any:
    """Sixteen numbers from memory, wherever they stand."""
    return builder.load(builder.bitcast(pointer, vector_of(scalar).as_pointer()), align=1)


def store_lanes(builder: Any, value: Any, pointer: Any) -> None:
    """Sixteen numbers to memory."""
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=1)


def fetch(builder: Any, pointer: Any, *, write: bool) -> None:
    """Bring memory into the cache; the address may be anything."""
    pointer = builder.bitcast(pointer, I8.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [pointer, I32(int(write)), I32(3), I32(1)])


def bit_select(builder: Any, mask: int, these: Any, others: Any) -> Any:
    """Bits of a mask from these 32-bit integers, the rest from others."""
    here = builder.and_(these, constant(I32, mask))
    return builder.or_(here, builder.and_(others, constant(I32, ~mask & 0xFFFFFFFF)))


def load_counts(builder: Any, values: Any, offsets: Any, step: Any, signed: bool) -> Any:
    """Counts of a step as 32-bit integers; negative ones become too large to be valid.

    The next sixteen are on their way into the cache: frames are too many streams for the
    processor to foresee.
    """
    scalar = values.type.pointee
    at = builder.gep(values, [item_at(builder, offsets, I64, step)])
    fetch(builder, builder.gep(at, [I64(LANES)]), write=False)
    counts = load_lanes(builder, at, scalar)
    if scalar.width == 32:
        return counts
    return (builder.sext if signed else builder.zext)(counts, vector_of(I32))


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call one of LLVM's operations."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, arguments)


def any_lane(builder: Any, mask: Any) -> Any:
    """Whether a lane is under the mask."""
    return builder.icmp_unsigned("!=", builder.bitcast(mask, I16), I16(0))


def compress(builder: Any, value: Any, mask: Any) -> Any:
    """Lanes of 32-bit integers under the mask moved to the front."""
    nothing = ir.Constant(value.type, ir.Undefined)
    name = "llvm.experimental.vector.compress.v16i32"
    return call(builder, name, value.type, [value, mask, nothing])


def count_lanes(builder: Any, mask: Any) -> Any:
    """Number of lanes under the mask, as a 64-bit integer."""
    bits = call(builder, "llvm.ctpop.i16", I16, [builder.bitcast(mask, I16)])
    return builder.zext(bits, I64)


@intrinsic
def address(typing_context, array):  # type: ignore[no-untyped-def]
    """Address of an array's first item, int64."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, I64)

    return types.int64(array), codegen


@intrinsic
def count_at(typing_context, like, values, offsets, step, lane):  # type: ignore[no-untyped-def]
    """Counts (uint32) of one lane on a step, from where `load_counts` takes them."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        counts = signature.args[0].dtype
        pointer = pointer_to(builder, args[1], context.get_data_type(counts))
        at = builder.add(item_at(builder, args[2], I64, args[3]), args[4])
        value = builder.load(builder.gep(pointer, [at]))
        if value.type.width == 32:
            return value
        return (builder.sext if counts.signed else builder.zext)(value, I32)

    return types.uint32(like, *(types.int64,) * 4), codegen


@intrinsic
def prefetch(typing_context, at):  # type: ignore[no-untyped-def]
    """Bring the memory at an address (int64) into the cache, to be written."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        fetch(builder, pointer_to(builder, args[0], I8), write=True)
        return context.get_dummy_value()

    return types.void(types.int64), codegen
