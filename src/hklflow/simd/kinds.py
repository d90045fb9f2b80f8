"""Kinds of numbers in vector code, under numpy's names."""

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types

_NAMES = {"b": "boolean", "u": "uint", "i": "int", "f": "float"}


@dataclass(frozen=True)
class Kind:
    """A type of numbers: the letter of `numpy.dtype.kind`, and the number of bits."""

    letter: str
    bits: int

    @property
    def is_float(self) -> bool:
        """True for floating-point numbers."""
        return self.letter == "f"

    @property
    def is_signed(self) -> bool:
        """True for integers that can be negative."""
        return self.letter == "i"

    @property
    def llvm(self) -> Any:
        """Type in LLVM; signed and unsigned integers have the same type."""
        if self.is_float:
            return ir.FloatType() if self.bits == 32 else ir.DoubleType()
        return ir.IntType(self.bits)

    @property
    def numba(self) -> Any:
        """Type in Numba."""
        return getattr(types, str(self))

    def __str__(self) -> str:
        return _NAMES[self.letter] + (str(self.bits) if self.bits > 1 else "")


BOOL = Kind("b", 1)
U8, U16, U32, U64 = (Kind("u", bits) for bits in (8, 16, 32, 64))
I8, I16, I32, I64 = (Kind("i", bits) for bits in (8, 16, 32, 64))
F32, F64 = Kind("f", 32), Kind("f", 64)


def kind_of(numba_type: Any) -> Kind:
    """Return the kind of numbers for a type of Numba."""
    for kind in (BOOL, U8, U16, U32, U64, I8, I16, I32, I64, F32, F64):
        if numba_type == kind.numba:
            return kind
    raise TypeError(f"no vector code is written for {numba_type}")
