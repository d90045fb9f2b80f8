"""Numbers and vectors in generated code, with the arithmetic of numpy.

`a + b` does not add: it generates the instruction that adds. Both operands must have the same kind
and number of lanes; a Python number is converted to the kind of the other operand. Integers wrap
around. Signed and unsigned integers differ in comparisons, shifts and conversions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llvmlite import ir

from hklflow.simd.kinds import BOOL, Kind

_BUILDER: ContextVar[Any] = ContextVar("builder")


@contextmanager
def writing(code: Any) -> Iterator[None]:
    """Use this llvmlite builder for all code that is generated in the context."""
    token = _BUILDER.set(code)
    try:
        yield
    finally:
        _BUILDER.reset(token)


def builder() -> Any:
    """Return the builder of the code that is generated now."""
    return _BUILDER.get()


def llvm_type(kind: Kind, lanes: int) -> Any:
    """Return the LLVM type of a number, or of a vector if there is more than one lane."""
    return kind.llvm if lanes == 1 else ir.VectorType(kind.llvm, lanes)


class Value:
    """A number (one lane) or a vector.

    Parameters
    ----------
    llvm
        The value in llvmlite.
    kind : Kind
    lanes : int
    """

    __slots__ = ("kind", "lanes", "llvm")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, llvm: Any, kind: Kind, lanes: int = 1) -> None:
        self.llvm, self.kind, self.lanes = llvm, kind, lanes

    def __bool__(self) -> bool:
        raise TypeError("what a value will be is not known while code is written: use select")

    def like(self, number: float) -> "Value":
        """Return a known number of the same kind, in all lanes."""
        return constant(self.kind, number, self.lanes)

    def _write(self, of_integers: str, of_floats: str, other: Any) -> "Value":
        name = of_floats if self.kind.is_float else of_integers
        if not name:
            raise TypeError(f"{self.kind} has no such operation")
        other = _same(self, other)
        written = getattr(builder(), name)(self.llvm, other.llvm)
        return Value(written, self.kind, self.lanes)

    def _compare(self, how: str, other: Any) -> "Value":
        other, code = _same(self, other), builder()
        if self.kind.is_float:
            # NaN is not equal to any number, also not to itself.
            write = code.fcmp_unordered if how == "!=" else code.fcmp_ordered
        else:
            write = code.icmp_signed if self.kind.is_signed else code.icmp_unsigned
        return Value(write(how, self.llvm, other.llvm), BOOL, self.lanes)

    def __add__(self, other: Any) -> "Value":
        return self._write("add", "fadd", other)

    def __sub__(self, other: Any) -> "Value":
        return self._write("sub", "fsub", other)

    def __mul__(self, other: Any) -> "Value":
        return self._write("mul", "fmul", other)

    def __radd__(self, other: float) -> "Value":
        return self.like(other) + self

    def __rsub__(self, other: float) -> "Value":
        return self.like(other) - self

    def __rmul__(self, other: float) -> "Value":
        return self.like(other) * self

    def __truediv__(self, other: Any) -> "Value":
        return self._write("", "fdiv", other)

    def __rtruediv__(self, other: float) -> "Value":
        return self.like(other) / self

    def __and__(self, other: Any) -> "Value":
        return self._write("and_", "", other)

    def __or__(self, other: Any) -> "Value":
        return self._write("or_", "", other)

    def __xor__(self, other: Any) -> "Value":
        return self._write("xor", "", other)

    def __invert__(self) -> "Value":
        return self ^ self.like(-1)

    def __lshift__(self, bits: Any) -> "Value":
        return self._write("shl", "", bits)

    def __rshift__(self, bits: Any) -> "Value":
        return self._write("ashr" if self.kind.is_signed else "lshr", "", bits)

    def __lt__(self, other: Any) -> "Value":
        return self._compare("<", other)

    def __le__(self, other: Any) -> "Value":
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> "Value":
        return self._compare(">", other)

    def __ge__(self, other: Any) -> "Value":
        return self._compare(">=", other)

    def __eq__(self, other: Any) -> "Value":  # type: ignore[override]
        return self._compare("==", other)

    def __ne__(self, other: Any) -> "Value":  # type: ignore[override]
        return self._compare("!=", other)


def constant(kind: Kind, number: float | Sequence[float], lanes: int = 1) -> Value:
    """Return a known number in all lanes, or a known number for each lane."""
    numbers = number if isinstance(number, Sequence) else [number] * lanes
    if len(numbers) != lanes:
        raise ValueError(f"{len(numbers)} numbers for {lanes} lanes")
    known = [ir.Constant(kind.llvm, _fitting(kind, item)) for item in numbers]
    return Value(
        known[0] if lanes == 1 else ir.Constant(llvm_type(kind, lanes), known), kind, lanes
    )


def select(condition: Value, a: Value, b: Any) -> Value:
    """Return `a` in lanes where the condition is true, `b` in the other lanes."""
    written = builder().select(condition.llvm, a.llvm, _same(a, b).llvm)
    return Value(written, a.kind, a.lanes)


def minimum(a: Value, b: Any) -> Value:
    """Return the smaller number; `b` if one number is NaN."""
    return select(a < b, a, b)


def maximum(a: Value, b: Any) -> Value:
    """Return the larger number; `b` if one number is NaN."""
    return select(a > b, a, b)


def fma(a: Value, b: Value, c: Any) -> Value:
    """Return ``a b + c`` with a single rounding, on every processor."""
    return call("llvm.fma", a, _same(a, b), _same(a, c))


def multiply_add(a: Value, b: Value, c: Any) -> Value:
    """Return ``a b + c``, with a single rounding if the processor has such an instruction."""
    code, both = builder(), ("contract",)
    product = code.fmul(a.llvm, _same(a, b).llvm, flags=both)
    return Value(code.fadd(product, _same(a, c).llvm, flags=both), a.kind, a.lanes)


def convert(value: Value, kind: Kind) -> Value:
    """Convert numbers to another kind.

    Integers that do not fit lose their highest bits. A float that does not fit, or is NaN, gives an
    undefined integer.
    """
    before, code = value.kind, builder()
    if kind.llvm == before.llvm:
        return Value(value.llvm, kind, value.lanes)
    write: Any
    if before.is_float and kind.is_float:
        write = code.fpext if kind.bits > before.bits else code.fptrunc
    elif before.is_float:
        write = code.fptosi if kind.is_signed else code.fptoui
    elif kind.is_float:
        write = code.sitofp if before.is_signed else code.uitofp
    elif kind.bits > before.bits:
        write = code.sext if before.is_signed else code.zext
    else:
        write = code.trunc
    return Value(write(value.llvm, llvm_type(kind, value.lanes)), kind, value.lanes)


def reinterpret(value: Value, kind: Kind) -> Value:
    """Return the same bits as another kind with the same number of bits."""
    if kind.llvm == value.kind.llvm:
        return Value(value.llvm, kind, value.lanes)
    written = builder().bitcast(value.llvm, llvm_type(kind, value.lanes))
    return Value(written, kind, value.lanes)


def call(name: str, first: Value, *others: Value) -> Value:
    """Call an operation of LLVM whose result has the type of the first argument."""
    letter = "f" if first.kind.is_float else "i"
    lanes = f"v{first.lanes}" if first.lanes > 1 else ""
    arguments = [value.llvm for value in (first, *others)]
    kind = ir.FunctionType(first.llvm.type, [argument.type for argument in arguments])
    full = f"{name}.{lanes}{letter}{first.kind.bits}"
    function = builder().module.declare_intrinsic(full, (), kind)
    return Value(builder().call(function, arguments), first.kind, first.lanes)


def _fitting(kind: Kind, number: Any) -> Any:
    return float(number) if kind.is_float else int(number) & ((1 << kind.bits) - 1)


def _same(value: Value, other: Any) -> Value:
    """Return the second operand of an operation; a number becomes a value like the first."""
    if not isinstance(other, Value):
        return value.like(other)
    if (other.kind, other.lanes) != (value.kind, value.lanes):
        what = [f"{side.lanes} × {side.kind}" for side in (value, other)]
        raise TypeError(f"{what[0]} and {what[1]} in one operation: convert or splat one of them")
    return other
