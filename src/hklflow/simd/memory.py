"""Read and write numbers and bytes in memory by address, without any check.

Addresses are int64 and need not be aligned.
"""

from typing import Any

from llvmlite import ir

from hklflow.simd.kinds import I64, U8, Kind
from hklflow.simd.value import Value, builder, constant, llvm_type

_POINTER, _I32, _BOOL = ir.PointerType(), ir.IntType(32), ir.IntType(1)


def load(kind: Kind, address: Value, index: Value | int = 0, lanes: int = 1) -> Value:
    """Return contiguous numbers; the first is at an index."""
    place = _place(kind, address, index)
    return Value(builder().load(place, align=1, typ=llvm_type(kind, lanes)), kind, lanes)


def store(value: Value, address: Value, index: Value | int = 0) -> None:
    """Write all numbers of a vector; the first is written at an index."""
    builder().store(value.llvm, _place(value.kind, address, index), align=1)


def prefetch(kind: Kind, address: Value, index: Value | int = 0, *, write: bool = False) -> None:
    """Prefetch a number into the cache; the address may be invalid."""
    arguments = [_place(kind, address, index), _I32(int(write)), _I32(3), _I32(1)]
    _call("llvm.prefetch.p0", *arguments)


def copy_bytes(target: Value, source: Value, n: Value) -> None:
    """Copy `n` bytes; source and target must not overlap."""
    to, come_from = (_place(U8, address, 0) for address in (target, source))
    _call("llvm.memcpy.p0.p0.i64", to, come_from, n.llvm, _BOOL(0))


def fill_bytes(target: Value, byte: Value, n: Value) -> None:
    """Set `n` bytes to one value, uint8."""
    _call("llvm.memset.p0.i64", _place(U8, target, 0), byte.llvm, n.llvm, _BOOL(0))


def _place(kind: Kind, address: Value, index: Value | int) -> Any:
    pointer = builder().inttoptr(address.llvm, _POINTER)
    if isinstance(index, int):
        if index == 0:
            return pointer
        index = constant(I64, index)
    return builder().gep(pointer, [index.llvm], source_etype=kind.llvm)


def _call(name: str, *arguments: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder().call(builder().module.declare_intrinsic(name, (), kind), arguments)
