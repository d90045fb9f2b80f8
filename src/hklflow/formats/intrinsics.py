"""Memory and vectors for numba kernels, by address and without any check.

The caller must own every byte that is touched. LLVM makes of the vectors what the machine has.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I8, _I64 = ir.IntType(8), ir.IntType(64)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _loader(bits: int) -> Any:
    @intrinsic
    def load(typing: Any, address: Any) -> Any:
        """Little-endian unsigned number; of 64 bits the sign is as it falls."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            value = builder.load(_at(builder, args[0], ir.IntType(bits)), align=1)
            return builder.zext(value, _I64) if bits < 64 else value

        return types.int64(types.int64), generate

    return load


load8, load16, load64 = _loader(8), _loader(16), _loader(64)


def _storer(bits: int) -> Any:
    @intrinsic
    def store(typing: Any, target: Any, value: Any) -> Any:
        """Lowest bits of a number, little-endian."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.IntType(bits)
            value = builder.trunc(args[1], kind) if bits < 64 else args[1]
            builder.store(value, _at(builder, args[0], kind), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return store


store8, store64 = _storer(8), _storer(64)


def _copier(n_bytes: int) -> Any:
    @intrinsic
    def copy(typing: Any, target: Any, source: Any) -> Any:
        """So many bytes, all read before one is written."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kind = ir.VectorType(_I8, n_bytes)
            value = builder.load(_at(builder, args[1], kind), align=1)
            builder.store(value, _at(builder, args[0], kind), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return copy


copy8, copy16, copy32 = _copier(8), _copier(16), _copier(32)


def _copy(typing: Any, target: Any, source: Any, n: Any) -> Any:
    """Copy `n` bytes that do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, source = (_at(builder, address, _I8) for address in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


copy: Any = intrinsic(_copy)


def _fill(typing: Any, target: Any, value: Any, n: Any) -> Any:
    """Set `n` bytes to one value."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, value = _at(builder, args[0], _I8), builder.trunc(args[1], _I8)
        cgutils.memset(builder, target, args[2], value)  # type: ignore[no-untyped-call]
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


fill: Any = intrinsic(_fill)


def _differ64(typing: Any, a: Any, b: Any) -> Any:
    """Whether 64 bytes differ."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.VectorType(_I8, 64)
        a, b = (builder.load(_at(builder, address, kind), align=1) for address in args)
        bits = builder.bitcast(builder.icmp_unsigned("!=", a, b), _I64)
        return builder.icmp_unsigned("!=", bits, _I64(0))

    return types.boolean(types.int64, types.int64), generate


differ64: Any = intrinsic(_differ64)


def _add_masked(
    builder: Any, total: Any, bits: int, tables: tuple[Any, Any], span: tuple[Any, Any], at: Any
) -> Any:
    """Loop of `sum64` over the masks of a span, in elements of so many bits."""
    element = ir.IntType(bits)
    vector = ir.VectorType(element, 64)
    undefined = ir.Constant(vector, ir.Undefined)
    to_all = ir.Constant(ir.VectorType(ir.IntType(32), 64), None)
    first, last = span
    start = builder.basic_block
    loop = builder.append_basic_block("loop")
    done = builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed("<", first, last), loop, done)

    builder.position_at_end(loop)
    index, before = builder.phi(_I64), builder.phi(vector)
    step = builder.mul(index, _I64(8))
    mask_at, value = (
        builder.load(_at(builder, builder.add(table, step), _I64)) for table in tables
    )
    mask = builder.load(_at(builder, builder.add(mask_at, at), _I64), align=1)
    mask = builder.bitcast(mask, ir.VectorType(ir.IntType(1), 64))
    one = builder.insert_element(undefined, builder.trunc(value, element), _I64(0))
    many = builder.shuffle_vector(one, undefined, to_all)
    after = builder.select(mask, builder.add(before, many), before)
    following = builder.add(index, _I64(1))
    for phi, entering, again in ((index, first, following), (before, total, after)):
        phi.add_incoming(entering, start)
        phi.add_incoming(again, loop)
    builder.cbranch(builder.icmp_signed("<", following, last), loop, done)

    builder.position_at_end(done)
    result = builder.phi(vector)
    result.add_incoming(total, start)
    result.add_incoming(after, loop)
    return result


def _summer(bits: int) -> Any:
    @intrinsic
    def sum64(typing: Any, out: Any, masks: Any, values: Any, n_low: Any, n: Any, at: Any) -> Any:
        """Put 64 sums: element i of values[j] for all j < n whose mask has bit i.

        `masks` and `values` are addresses of int64 arrays, of addresses and of values; the 64
        bits of mask j begin at masks[j] + at. The sum of the first `n_low` values is below 256.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            out, masks, values, n_low, n, at = args
            low, vector = (ir.VectorType(ir.IntType(b), 64) for b in (8, bits))
            total = ir.Constant(low, None)
            tables = (masks, values)
            # In bytes one instruction adds to many elements.
            total = _add_masked(builder, total, 8, tables, (_I64(0), n_low), at)
            if bits > 8:
                total = builder.zext(total, vector)
                total = _add_masked(builder, total, bits, tables, (n_low, n), at)
            builder.store(total, _at(builder, out, vector), align=1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return sum64


sum64_8, sum64_16, sum64_32 = _summer(8), _summer(16), _summer(32)
