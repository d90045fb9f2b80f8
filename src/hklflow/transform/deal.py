"""Photons of sixteen pixels dealt at random to sub-samples, as LLVM vectors (see `lanes`).

Two sub-samples take one random bit for each photon, four take two, and so on. A 32-bit
random number serves many photons at once: the photons of a sub-sample are those whose
bits are its number, and they are counted by counting bits.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from hklflow.simd.words import (
    I32,
    I64,
    LANES,
    any_lane,
    call,
    constant,
    item_at,
    load_counts,
    pointer_to,
    splat,
    store_lanes,
    vector_of,
)
from hklflow.transform.follow import NOWHERE

#: A pixel with more photons than this is left to the caller of `deal`.
MOST_DEALT = 1024
_GOLDEN = 0x9E3779B9


def _mix(builder: Any, x: Any) -> Any:
    """A 32-bit integer to a random-looking one (C. Wellons' hash prospector, lowbias32)."""
    b = builder
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = b.xor(x, b.lshr(x, constant(I32, shift)))
        x = b.mul(x, constant(I32, factor))
    return b.xor(x, b.lshr(x, constant(I32, 15)))


def _dealer(bits: int) -> Any:
    """`deal` for 2 ** bits sub-samples."""

    @intrinsic
    def deal(  # type: ignore[no-untyped-def]
        typing_context,
        like,
        values,
        offsets,
        n_phi,
        n_frames,
        keys,
        first_pixel,
        invalid_from,
        places,
        stride,
    ):
        """Deal the photons of sixteen pixels at random to the sub-samples of each frame.

        Parameters
        ----------
        like, values, offsets : as for `follow`
        n_phi : int64
            Steps of a frame, of which the first gives the offset.
        n_frames : int64
        keys : of uint32 (n_frames, 2)
            What the random numbers of a frame begin with.
        first_pixel : int64
            Number of the first pixel on the detector.
        invalid_from : uint32
        places : of int64 (sub-samples,)
            Address of the shares uint32 (16,) of each sub-sample on the first frame. Pixels
            without a measurement get `NOWHERE`.
        stride : int64
            Bytes from there to the next frame.

        Returns
        -------
        int64
            Whether a pixel has more than `MOST_DEALT` photons: its shares are 0.
        """
        signature = types.int64(like, *(types.int64,) * 6, types.uint32, *(types.int64,) * 2)

        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            counts = signature.args[0].dtype
            values = pointer_to(builder, args[1], context.get_data_type(counts))
            return _Deal(builder, bits, values, counts.signed, args[2:]).emit()

        return signature, codegen

    return deal


class _Deal:
    """Writes the code of `deal`."""

    def __init__(self, builder: Any, bits: int, values: Any, signed: bool, args: Any) -> None:
        self.builder, self.bits, self.values, self.signed = builder, bits, values, signed
        (
            self.offsets,
            self.n_phi,
            self.n_frames,
            self.keys,
            first,
            invalid_from,
            self.places,
            self.stride,
        ) = args
        b = builder
        self.invalid_from = splat(b, invalid_from)
        lane = ir.Constant(vector_of(I32), [I32(i) for i in range(LANES)])
        self.pixel = b.add(splat(b, b.trunc(first, I32)), lane)
        #: Photons that one random number serves, and the lowest bit of each.
        self.photons = 32 // bits
        self.base = sum(1 << (bits * i) for i in range(self.photons))
        zero = constant(I32, 0)
        self.left = cgutils.alloca_once_value(b, zero)
        self.state = cgutils.alloca_once_value(b, zero)
        self.shares = [cgutils.alloca_once_value(b, zero) for _ in range(1 << bits)]
        self.above = cgutils.alloca_once_value(b, I64(0))

    def emit(self) -> Any:
        """The loop over the frames."""
        b = self.builder
        zero = constant(I32, 0)
        with cgutils.for_range(b, self.n_frames, intp=I64) as loop:
            frame = loop.index
            step = b.mul(frame, self.n_phi)
            counts = load_counts(b, self.values, self.offsets, step, self.signed)
            valid = b.icmp_unsigned("<", counts, self.invalid_from)
            many = b.and_(valid, b.icmp_unsigned(">", counts, constant(I32, MOST_DEALT)))
            some = b.zext(any_lane(b, many), I64)
            b.store(b.or_(b.load(self.above), some), self.above)
            dealt = b.and_(valid, b.not_(many))
            b.store(b.select(dealt, counts, zero), self.left)
            self._seed(frame)
            for share in self.shares:
                b.store(zero, share)
            self._rounds()
            for s, share in enumerate(self.shares):
                place = b.add(item_at(b, self.places, I64, s), b.mul(frame, self.stride))
                out = b.select(valid, b.load(share), constant(I32, NOWHERE))
                store_lanes(b, out, pointer_to(b, place, I32))
        return b.load(self.above)

    def _seed(self, frame: Any) -> None:
        b = self.builder
        twice = b.shl(frame, I64(1))
        first = splat(b, item_at(b, self.keys, I32, twice))
        second = splat(b, item_at(b, self.keys, I32, b.add(twice, I64(1))))
        # The second key parts pixels of two frames that the first one happens to send the same way.
        b.store(b.xor(_mix(b, b.add(self.pixel, first)), second), self.state)

    def _rounds(self) -> None:
        b = self.builder
        test, body, end = (b.append_basic_block(name) for name in ("test", "round", "dealt"))
        b.branch(test)
        b.position_at_end(test)
        left = b.load(self.left)
        some = any_lane(b, b.icmp_unsigned("!=", left, constant(I32, 0)))
        b.cbranch(some, body, end)
        b.position_at_end(body)
        all_used = constant(I32, self.photons)
        more = b.icmp_unsigned(">", left, all_used)
        take = b.select(more, all_used, left)
        b.store(b.sub(left, take), self.left)
        base = constant(I32, self.base)
        width = b.mul(take, constant(I32, self.bits))
        # A shift by 32 has no meaning.
        full = b.icmp_unsigned("==", take, all_used)
        width = b.select(full, constant(I32, 0), width)
        below = b.sub(b.shl(constant(I32, 1), width), constant(I32, 1))
        active = b.select(full, base, b.and_(base, below))
        state = _mix(b, b.add(b.load(self.state), constant(I32, _GOLDEN)))
        b.store(state, self.state)
        planes = [b.lshr(state, constant(I32, i)) for i in range(self.bits)]
        for s, share in enumerate(self.shares):
            mine = active
            for i, plane in enumerate(planes):
                mine = b.and_(mine, plane if s >> i & 1 else b.not_(plane))
            number = call(b, "llvm.ctpop.v16i32", vector_of(I32), [mine])
            b.store(b.add(b.load(share), number), share)
        b.branch(test)
        b.position_at_end(end)


deal_2, deal_4, deal_8, deal_16, deal_32 = (_dealer(bits) for bits in range(1, 6))
