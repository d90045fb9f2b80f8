"""Loops, branches and variables in generated code."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from llvmlite import ir

from hklflow.simd.kinds import I64
from hklflow.simd.value import Value, builder, constant


class Variable:
    """A number or a vector that can change; LLVM keeps it in a register if possible."""

    def __init__(self, value: Value) -> None:
        code = builder()
        with code.goto_entry_block():
            self._place = code.alloca(value.llvm.type)
        self._kind, self._lanes = value.kind, value.lanes
        self.value = value

    @property
    def value(self) -> Value:
        """Value at the present position of the generated code."""
        return Value(builder().load(self._place), self._kind, self._lanes)

    @value.setter
    def value(self, value: Value) -> None:
        builder().store(value.llvm, self._place)


@contextmanager
def span(stop: Value, *, start: Value | int = 0, step: int = 1) -> Iterator[Value]:
    """Generate a loop over int64 numbers from `start` to `stop` (exclusive)."""
    code = builder()
    first = constant(I64, start) if isinstance(start, int) else start
    before = code.basic_block
    test, body, end = (code.append_basic_block(name) for name in ("test", "body", "end"))
    code.branch(test)
    code.position_at_end(test)
    index = Value(code.phi(I64.llvm), I64)
    code.cbranch((index < stop).llvm, body, end)
    code.position_at_end(body)
    yield index
    following = code.add(index.llvm, ir.Constant(I64.llvm, step), flags=["nsw"])
    index.llvm.add_incoming(first.llvm, before)
    index.llvm.add_incoming(following, code.basic_block)
    code.branch(test)
    code.position_at_end(end)


@contextmanager
def repeat_while(condition: Callable[[], Value]) -> Iterator[None]:
    """Generate a loop that repeats while a condition is true; `condition` generates its code."""
    code = builder()
    test, body, end = (code.append_basic_block(name) for name in ("test", "body", "end"))
    code.branch(test)
    code.position_at_end(test)
    code.cbranch(condition().llvm, body, end)
    code.position_at_end(body)
    yield
    code.branch(test)
    code.position_at_end(end)


@contextmanager
def either(
    condition: Value,
) -> Iterator[tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """Generate two branches: ``with either(c) as (then, otherwise)``, then a ``with`` for each."""
    with builder().if_else(condition.llvm) as branches:
        yield branches


def assume(condition: Value) -> None:
    """Tell LLVM that a condition is always true; the code is undefined if it is not."""
    builder().assume(condition.llvm)
