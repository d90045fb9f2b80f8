"""Counts of sixteen pixels on the steps of a block, for `follow` and `deal`."""

from hklflow.simd.define import LIKE, Array, word
from hklflow.simd.kinds import I64, U32, Kind
from hklflow.simd.memory import load, prefetch
from hklflow.simd.value import Value, convert

#: Pixels that are treated together.
LANES = 16


def load_counts(kind: Kind, values: Value, offsets: Value, step: Value) -> Value:
    """Return the counts of a step, uint32; negative ones become too large to be valid.

    The next sixteen are on their way into the cache: frames are too many streams for the
    processor to foresee.
    """
    first = load(I64, offsets, step)
    prefetch(kind, values, first + LANES)
    return convert(load(kind, values, first, LANES), U32)


@word(LIKE, *[I64] * 4, returns=U32)
def count_at(like: Array, values: Value, offsets: Value, step: Value, lane: Value) -> Value:
    """Counts of one lane on a step, from where `load_counts` takes them."""
    return convert(load(like.kind, values, load(I64, offsets, step) + lane), U32)
