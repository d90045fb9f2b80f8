"""The inner loop of the transform, on sixteen pixels at a time (see `lanes`).

A rotating pixel enters another voxel every three or four frames only. `follow` takes
sixteen pixels through the frames of a block and writes out a record, (voxel, counts,
norm), when one of them does.
"""

from typing import NamedTuple

from hklflow.simd.control import Variable, either, span
from hklflow.simd.define import LIKE, Array, word
from hklflow.simd.kinds import BOOL, F32, I32, I64, U16, U32, Kind
from hklflow.simd.lanes import compress, count_lanes, splat
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, constant, convert, fma, reinterpret, select
from hklflow.transform.bricks import EDGE
from hklflow.transform.counts import LANES, load_counts

#: Voxel of a pixel that adds to nothing.
NOWHERE = 0xFFFFFFFF
#: Marks a voxel's number if the artefact mask excludes the pixel.
EXCLUDED = 0x80000000


@word(LIKE, *[I64] * 12, U32, *[I64] * 5, returns=I64)
def follow(
    like: Array, values: Value, offsets: Value, n_steps: Value, to_voxel: Value, step_norm: Value,
    qx: Value, qy: Value, qz: Value, weight: Value, excluded: Value, excluded_offsets: Value,
    window: Value, invalid_from: Value, voxel_out: Value, counts_out: Value, norm_out: Value,
    n_out: Value, inside_out: Value,
) -> Value:  # fmt: skip
    """Follow sixteen pixels through the steps of a block; write out a record per voxel entered.

    All arguments but the numbers are addresses (`int64`, of the first of sixteen lanes where
    there is one number per pixel), so nothing is checked.

    Parameters
    ----------
    like : array
        Of the type of the counts; nothing else of it is used.
    values : of counts
    offsets : of int64 (n_steps,)
        Where, in items from ``values``, the counts of each step stand.
    n_steps : int64
    to_voxel : of float32 (n_steps, 12)
        Rows of the matrix that takes q_lab to voxels, each followed by its offset.
    step_norm : of float32 (n_steps,)
        Its product with the weight of a pixel, below 2²³, is rounded to an integer, which is what
        the pixel adds to the norm.
    qx, qy, qz, weight : of float32
        q_lab in 1/Å and norm of the pixels; a norm of 0 leaves a pixel out.
    excluded : of uint8
        Two bytes, first pixel in the highest bit; 0 as the address: nothing is excluded.
    excluded_offsets : of int64 (n_steps,)
        In bytes.
    window : of int32 (9,)
        First voxel and number of voxels on h, k, l that belong to the caller; then, of
        `Bricks`, the extra steps of a brick on k and on l, and the first plane l.
    invalid_from : uint32
        Counts from here on are no measurement.
    voxel_out, counts_out, norm_out : of uint32
        Records from ``n_out`` on; room for 16 (n_steps + 1) of them and 16 more.
    n_out : int64
    inside_out : of int64 (3,)
        Raised by the number of (pixel, step) that were recorded, by the number of pixels of
        which a record has more than 2³² - 1 counts, and by that of pixels with a norm that
        are no measurement on some step.

    Returns
    -------
    int64
        The new number of records.
    """
    steps = _Steps(like.kind, values, offsets, n_steps, to_voxel, step_norm)
    q = [load(F32, at, lanes=LANES) for at in (qx, qy, qz)]
    pixels = _Pixels(q, load(F32, weight, lanes=LANES))
    records = _Records((voxel_out, counts_out, norm_out), n_out)
    edges = [splat(load(I32, window, i), LANES) for i in range(9)]
    code = _Follow(steps, pixels, records, edges, splat(invalid_from, LANES))
    # Two loops: the mask takes a tenth of one.
    with either(excluded != 0) as (masked, plain):
        with masked:
            code.loop((excluded, excluded_offsets))
        with plain:
            code.loop(None)
    records.write(records.voxel.value != NOWHERE)
    invalid = code.live & ~code.valid.value
    for i, more in enumerate(
        (code.inside.value, count_lanes(code.wrapped.value), count_lanes(invalid))
    ):
        store(load(I64, inside_out, i) + more, inside_out, i)
    return records.n.value


class _Steps(NamedTuple):
    """Addresses of what there is for each step, and the number of steps."""

    kind: Kind
    values: Value
    offsets: Value
    n: Value
    to_voxel: Value
    norm: Value


class _Pixels(NamedTuple):
    """q_lab and norm of sixteen pixels."""

    q: list[Value]
    weight: Value


class _Records:
    """Voxel, counts and norm of each pixel until it leaves the voxel; then they are written out."""

    def __init__(self, out: tuple[Value, Value, Value], n: Value) -> None:
        self.out, self.n = out, Variable(n)
        self.voxel, self.counts, self.norm = (
            Variable(constant(U32, first, LANES)) for first in (NOWHERE, 0, 0)
        )

    def write(self, mask: Value) -> None:
        """Write out the records under the mask."""
        n = self.n.value
        for item, address in zip((self.voxel, self.counts, self.norm), self.out, strict=True):
            store(compress(item.value, mask), address, n)
        self.n.value = n + count_lanes(mask)


class _Follow:
    """Writes the loop of `follow`."""

    def __init__(
        self, steps: _Steps, pixels: _Pixels, records: _Records, window: list[Value], limit: Value
    ) -> None:
        self.steps, self.pixels, self.records = steps, pixels, records
        self.window, self.invalid_from = window, limit
        self.live = pixels.weight > 0.0
        self.inside = Variable(constant(I64, 0))
        self.wrapped = Variable(constant(BOOL, 0, LANES))
        self.valid = Variable(constant(BOOL, 1, LANES))

    def loop(self, mask: tuple[Value, Value] | None) -> None:
        """The loop over the steps; the artefact mask is two addresses."""
        steps, records = self.steps, self.records
        with span(steps.n) as step:
            counts = load_counts(steps.kind, steps.values, steps.offsets, step)
            voxel, inside = self._voxel(step, counts, mask)
            before = records.voxel.value
            changed = voxel != before
            records.write(changed & (before != NOWHERE))
            records.voxel.value = voxel
            total = select(changed, counts.like(0), records.counts.value) + counts
            records.counts.value = total
            self.wrapped.value = self.wrapped.value | (inside & (total < counts))
            kept = select(changed, counts.like(0), records.norm.value)
            records.norm.value = kept + self._norm_of(step)

    def _norm_of(self, step: Value) -> Value:
        """Norm of each pixel on a step, in whole units."""
        norm = splat(load(F32, self.steps.norm, step), LANES)
        # Between 2²³ and 2²⁴, the last bit is 1: the product is rounded to the nearest integer.
        above = norm.like(2.0**23)
        rounded = fma(self.pixels.weight, norm, above)
        return reinterpret(rounded, U32) - reinterpret(above, U32)

    def _voxel(
        self, step: Value, counts: Value, mask: tuple[Value, Value] | None
    ) -> tuple[Value, Value]:
        """Voxel of each pixel, or `NOWHERE`, and whether it has one."""
        base = step * 12
        valid = counts < self.invalid_from
        self.valid.value = self.valid.value & valid
        inside, signs = self.live & valid, constant(I32, 0, LANES)
        index = []
        for axis in range(3):
            row = [
                splat(load(F32, self.steps.to_voxel, base + (4 * axis + i)), LANES)
                for i in range(4)
            ]
            at = row[3]
            for i in range(3):
                at = fma(row[i], self.pixels.q[i], at)
            # Rounded towards zero, which is down where it is inside.
            signs = signs | reinterpret(at, I32)
            index.append(convert(at, I32))
            # As if without a sign: below 0 is above all voxels.
            ahead = reinterpret(index[axis] - self.window[2 * axis], U32)
            inside = inside & (ahead < reinterpret(self.window[2 * axis + 1], U32))
        inside = inside & (signs >= 0)
        self.inside.value = self.inside.value + count_lanes(inside)
        voxel = self._brick(index)
        if mask is not None:
            voxel = voxel | _excluded(mask, step)
        return select(inside, voxel, voxel.like(NOWHERE)), inside

    def _brick(self, index: list[Value]) -> Value:
        """Place of a voxel in the memory of `Bricks`."""
        # Counted from an origin after rounding, so that no choice of it moves a pixel.
        h, k, l = (*index[:2], index[2] - self.window[8])  # noqa: E741
        # Nine bits within a brick; above them stands the number of the brick on h.
        voxel = _bit_select(0o7, h, k << 3)
        voxel = _bit_select(0o77, voxel, l << 6)
        voxel = _bit_select(0o777, voxel, h << 6)
        for i, (far, more) in enumerate(((k, EDGE**2), (l, EDGE**3))):
            voxel = voxel + (far >> 3) * (self.window[6 + i] + more)
        return reinterpret(voxel, U32)


def _bit_select(mask: int, these: Value, others: Value) -> Value:
    """Bits of a mask from these integers, the rest from others."""
    return (these & mask) | (others & ~mask)


def _excluded(mask: tuple[Value, Value], step: Value) -> Value:
    """Return the mark of the pixels that the artefact mask excludes on a step."""
    excluded, offsets = mask
    bits = splat(load(U16, excluded + load(I64, offsets, step)), LANES)
    # Bytes in the order of little-endian memory: pixel 0 is bit 7, pixel 8 is bit 15.
    places = [1 << (8 * (i // 8) + 7 - i % 8) for i in range(LANES)]
    marked = (bits & constant(U16, places, LANES)) != 0
    return select(marked, constant(U32, EXCLUDED, LANES), constant(U32, 0, LANES))
