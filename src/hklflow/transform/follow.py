"""The inner loop of the transform, on sixteen pixels at a time (see `lanes`).

A rotating pixel enters another voxel every three or four frames only. `follow` takes
sixteen pixels through the frames of a block and writes out a record, (voxel, counts,
norm), when one of them does.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from hklflow.simd.words import (
    F32,
    I1,
    I16,
    I32,
    I64,
    LANES,
    bit_select,
    call,
    compress,
    constant,
    count_lanes,
    item_at,
    load_counts,
    load_lanes,
    pointer_to,
    splat,
    store_lanes,
    vector_of,
)
from hklflow.transform.bricks import EDGE

#: Voxel of a pixel that adds to nothing.
NOWHERE = 0xFFFFFFFF
#: Marks a voxel's number if the artefact mask excludes the pixel.
EXCLUDED = 0x80000000


@intrinsic
def follow(  # type: ignore[no-untyped-def]
    typing_context,
    like,
    values,
    offsets,
    n_steps,
    to_voxel,
    step_norm,
    qx,
    qy,
    qz,
    weight,
    excluded,
    excluded_offsets,
    window,
    invalid_from,
    voxel_out,
    counts_out,
    norm_out,
    n_out,
    inside_out,
):
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
    signature = types.int64(
        like,
        *(types.int64,) * 12,
        types.uint32,
        *(types.int64,) * 5,
    )

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        counts = signature.args[0].dtype
        values = pointer_to(builder, args[1], context.get_data_type(counts))
        return _Follow(builder, values, counts.signed, args[2:]).emit()

    return signature, codegen


class _Follow:
    """Writes the code of `follow`."""

    def __init__(self, builder: Any, values: Any, signed: bool, args: Any) -> None:
        self.builder, self.values, self.signed = builder, values, signed
        (
            self.offsets,
            self.n_steps,
            self.to_voxel,
            self.step_norm,
            *pixel,
            self.excluded,
            self.excluded_offsets,
            window,
            invalid_from,
            voxel_out,
            counts_out,
            norm_out,
            n_out,
            self.inside_out,
        ) = args
        b = builder
        self.q = [load_lanes(b, pointer_to(b, at, F32), F32) for at in pixel[:3]]
        self.weight = load_lanes(b, pointer_to(b, pixel[3], F32), F32)
        self.live = b.fcmp_ordered(">", self.weight, constant(F32, 0.0))
        self.window = [splat(b, item_at(b, window, I32, i)) for i in range(9)]
        self.invalid_from = splat(b, invalid_from)
        self.out = [
            pointer_to(b, voxel_out, I32),
            pointer_to(b, counts_out, I32),
            pointer_to(b, norm_out, I32),
        ]
        self.n_out = cgutils.alloca_once_value(b, n_out)
        self.voxel = cgutils.alloca_once_value(b, constant(I32, NOWHERE))
        self.counts = cgutils.alloca_once_value(b, constant(I32, 0))
        self.norm = cgutils.alloca_once_value(b, constant(I32, 0))
        self.inside = cgutils.alloca_once_value(b, I64(0))
        self.wrapped = cgutils.alloca_once_value(b, constant(I1, 0))
        self.valid = cgutils.alloca_once_value(b, constant(I1, 1))

    def emit(self) -> Any:
        """The loop over the steps, and the last records."""
        b = self.builder
        # Two loops: the mask takes a tenth of one.
        with b.if_else(b.icmp_unsigned("!=", self.excluded, I64(0))) as (masked, plain):
            with masked:
                self._loop(masked=True)
            with plain:
                self._loop(masked=False)
        self._write(b.icmp_unsigned("!=", b.load(self.voxel), constant(I32, NOWHERE)))
        invalid = b.and_(self.live, b.not_(b.load(self.valid)))
        found = (
            b.load(self.inside),
            count_lanes(b, b.load(self.wrapped)),
            count_lanes(b, invalid),
        )
        for i, more in enumerate(found):
            place = b.gep(pointer_to(b, self.inside_out, I64), [I64(i)])
            b.store(b.add(b.load(place), more), place)
        return b.load(self.n_out)

    def _loop(self, *, masked: bool) -> None:
        b = self.builder
        with cgutils.for_range(b, self.n_steps, intp=I64) as loop:
            step = loop.index
            counts = load_counts(b, self.values, self.offsets, step, self.signed)
            voxel, inside = self._voxel(step, counts, masked=masked)
            before = b.load(self.voxel)
            changed = b.icmp_unsigned("!=", voxel, before)
            self._write(b.and_(changed, b.icmp_unsigned("!=", before, constant(I32, NOWHERE))))
            b.store(voxel, self.voxel)
            kept = b.select(changed, constant(I32, 0), b.load(self.counts))
            total = b.add(kept, counts)
            b.store(total, self.counts)
            wrapped = b.and_(inside, b.icmp_unsigned("<", total, counts))
            b.store(b.or_(b.load(self.wrapped), wrapped), self.wrapped)
            kept = b.select(changed, constant(I32, 0), b.load(self.norm))
            b.store(b.add(kept, self._norm_of(step)), self.norm)

    def _norm_of(self, step: Any) -> Any:
        """Norm of each pixel on a step, in whole units."""
        b = self.builder
        norm = splat(b, item_at(b, self.step_norm, F32, step))
        # Between 2²³ and 2²⁴, the last bit is 1: the product is rounded to the nearest integer.
        above = constant(F32, 2.0**23)
        rounded = call(b, "llvm.fma.v16f32", norm.type, [self.weight, norm, above])
        return b.sub(b.bitcast(rounded, vector_of(I32)), b.bitcast(above, vector_of(I32)))

    def _voxel(self, step: Any, counts: Any, *, masked: bool) -> tuple[Any, Any]:
        """Voxel of each pixel, or `NOWHERE`, and whether it has one."""
        b = self.builder
        base = b.mul(step, I64(12))
        valid = b.icmp_unsigned("<", counts, self.invalid_from)
        b.store(b.and_(b.load(self.valid), valid), self.valid)
        inside, signs = b.and_(self.live, valid), constant(I32, 0)
        index = []
        for axis in range(3):
            row = [
                splat(b, item_at(b, self.to_voxel, F32, b.add(base, I64(4 * axis + i))))
                for i in range(4)
            ]
            at = row[3]
            for i in range(3):
                at = call(b, "llvm.fma.v16f32", at.type, [row[i], self.q[i], at])
            # Rounded towards zero, which is down where it is inside.
            signs = b.or_(signs, b.bitcast(at, vector_of(I32)))
            index.append(b.fptosi(at, vector_of(I32)))
            ahead = b.sub(index[axis], self.window[2 * axis])
            inside = b.and_(inside, b.icmp_unsigned("<", ahead, self.window[2 * axis + 1]))
        inside = b.and_(inside, b.icmp_signed(">=", signs, constant(I32, 0)))
        b.store(b.add(b.load(self.inside), count_lanes(b, inside)), self.inside)
        voxel = self._brick(index)
        if masked:
            voxel = b.or_(voxel, self._excluded(step))
        return b.select(inside, voxel, constant(I32, NOWHERE)), inside

    def _brick(self, index: list[Any]) -> Any:
        """Place of a voxel in the memory of `Bricks`."""
        b = self.builder
        three, six = constant(I32, 3), constant(I32, 6)
        # Counted from an origin after rounding, so that no choice of it moves a pixel.
        h, k, l = (*index[:2], b.sub(index[2], self.window[8]))  # noqa: E741
        # Nine bits within a brick; above them stands the number of the brick on h.
        voxel = bit_select(b, 0o7, h, b.shl(k, three))
        voxel = bit_select(b, 0o77, voxel, b.shl(l, six))
        voxel = bit_select(b, 0o777, voxel, b.shl(h, six))
        for i, (far, more) in enumerate(((k, EDGE**2), (l, EDGE**3))):
            step = b.add(self.window[6 + i], constant(I32, more))
            voxel = b.add(voxel, b.mul(b.ashr(far, three), step))
        return voxel

    def _excluded(self, step: Any) -> Any:
        b = self.builder
        at = b.add(self.excluded, item_at(b, self.excluded_offsets, I64, step))
        bits = b.load(pointer_to(b, at, I16), align=1)
        # Bytes in the order of little-endian memory: pixel 0 is bit 7, pixel 8 is bit 15.
        places = [I16(1 << (8 * (i // 8) + 7 - i % 8)) for i in range(LANES)]
        lanes = ir.Constant(vector_of(I16), places)
        here = b.and_(splat(b, bits), lanes)
        marked = b.icmp_unsigned("!=", here, constant(I16, 0))
        return b.select(marked, constant(I32, EXCLUDED), constant(I32, 0))

    def _write(self, mask: Any) -> None:
        b = self.builder
        n = b.load(self.n_out)
        for value, pointer in zip((self.voxel, self.counts, self.norm), self.out, strict=True):
            store_lanes(b, compress(b, b.load(value), mask), b.gep(pointer, [n]))
        b.store(b.add(n, count_lanes(b, mask)), self.n_out)
