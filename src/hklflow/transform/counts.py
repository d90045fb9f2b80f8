"""Functions that load the counts of sixteen pixels on a step, for `follow` and `deal`."""

from hklflow.simd.define import LIKE, Array, word
from hklflow.simd.kinds import I64, U32, Kind
from hklflow.simd.memory import load, prefetch
from hklflow.simd.value import Value, convert

#: Number of pixels that are processed together.
LANES = 16


def load_counts(kind: Kind, values: Value, offsets: Value, step: Value) -> Value:
    """Return the counts of sixteen pixels on a step, uint32; negative counts become invalid.

    Negative counts become numbers that are too large. The counts of the next sixteen pixels are
    prefetched, because the processor cannot predict the access to so many frames.
    """
    first = load(I64, offsets, step)
    prefetch(kind, values, first + LANES)
    return convert(load(kind, values, first, LANES), U32)


@word(LIKE, *[I64] * 4, returns=U32)
def count_at(like: Array, values: Value, offsets: Value, step: Value, lane: Value) -> Value:
    """Return the counts of one of the sixteen pixels on a step; see `load_counts`."""
    return convert(load(like.kind, values, load(I64, offsets, step) + lane), U32)
