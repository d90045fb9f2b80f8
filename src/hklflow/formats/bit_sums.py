"""Sum the numbers whose bits are set: this converts bit planes to counts."""

from typing import Any

from hklflow.simd.control import Variable, span
from hklflow.simd.define import word
from hklflow.simd.kinds import I64, U8, U64, Kind
from hklflow.simd.lanes import mask_of, splat
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, constant, convert, select


def _add_marked(
    total: Value, tables: tuple[Value, Value], start: Value | int, stop: Value, at: Value
) -> Value:
    """Add the values start..stop to those of 64 elements whose mask bit is set."""
    masks, values = tables
    sums = Variable(total)
    with span(stop, start=start) as j:
        mask = mask_of(load(U64, load(I64, masks + j * 8) + at))
        value = splat(convert(load(I64, values + j * 8), total.kind), 64)
        sums.value = select(mask, sums.value + value, sums.value)
    return sums.value


def _summer(bits: int) -> Any:
    @word(*[I64] * 6)
    def sum64(out: Value, masks: Value, values: Value, n_low: Value, n: Value, at: Value) -> None:
        """Store 64 sums: sum i adds the values[j], for all j < n, whose mask has bit i set.

        `masks` and `values` are addresses of int64 arrays: addresses of the masks, and the values.
        The 64 bits of mask j begin at masks[j] + at. The first `n_low` values add up to less
        than 256.
        """
        tables = (masks, values)
        # The first sums fit into bytes: one instruction then adds more elements.
        total = _add_marked(constant(U8, 0, 64), tables, 0, n_low, at)
        if bits > 8:
            total = _add_marked(convert(total, Kind("u", bits)), tables, n_low, n, at)
        store(total, out)

    return sum64


sum64_8, sum64_16, sum64_32 = _summer(8), _summer(16), _summer(32)
