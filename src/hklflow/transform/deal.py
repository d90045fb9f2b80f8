"""Distribution of the photons of sixteen pixels to sub-samples at random, with LLVM vectors.

With two sub-samples each photon needs one random bit, with four sub-samples two bits, and so on. A
32-bit random number is therefore enough for many photons. A photon goes to the sub-sample whose
number is given by the bits of the photon; photons are counted by counting bits.
"""

from typing import Any

from hklflow.simd.control import Variable, repeat_while, span
from hklflow.simd.define import LIKE, Array, word
from hklflow.simd.kinds import I64, U32
from hklflow.simd.lanes import any_lane, count_bits, splat
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, constant, convert, minimum, select
from hklflow.transform.counts import LANES, load_counts
from hklflow.transform.follow import NOWHERE

#: Largest number of photons of a pixel; the caller of `deal` must process pixels with more photons.
MOST_DEALT = 1024
_GOLDEN = 0x9E3779B9


def _mix(x: Value) -> Value:
    """Return a random-looking 32-bit integer for each integer (C. Wellons' lowbias32)."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> 15)


def _dealer(bits: int) -> Any:
    """Return the function `deal` for 2 ** bits sub-samples."""

    @word(LIKE, *[I64] * 6, U32, *[I64] * 2, returns=I64)
    def deal(
        like: Array, values: Value, offsets: Value, n_phi: Value, n_frames: Value, keys: Value,
        first_pixel: Value, invalid_from: Value, places: Value, stride: Value,
    ) -> Value:  # fmt: skip
        """Distribute the photons of sixteen pixels at random to the sub-samples of each frame.

        Parameters
        ----------
        like, values, offsets
            Same meaning as in `follow`.
        n_phi : int64
            Number of steps of a frame; the first step of a frame gives the offset.
        n_frames : int64
        keys : address of uint32 (n_frames, 2)
            Seeds of the random numbers of each frame.
        first_pixel : int64
            Number of the first pixel on the detector.
        invalid_from : uint32
        places : address of int64 (sub-samples,)
            Addresses of the output, uint32 (16,), of each sub-sample on the first frame. Pixels
            without a measurement get `NOWHERE`.
        stride : int64
            Bytes from the output of a frame to the output of the next frame.

        Returns
        -------
        int64
            1 if a pixel has more than `MOST_DEALT` photons, else 0. The shares of such pixels are
            0.
        """
        zero, limit = constant(U32, 0, LANES), splat(invalid_from, LANES)
        pixel = splat(convert(first_pixel, U32), LANES) + constant(U32, range(LANES), LANES)
        photons = _Photons(bits)
        above = Variable(constant(I64, 0))
        with span(n_frames) as frame:
            counts = load_counts(like.kind, values, offsets, frame * n_phi)
            valid = counts < limit
            many = valid & (counts > MOST_DEALT)
            above.value = above.value | convert(any_lane(many), I64)
            photons.left.value = select(valid & ~many, counts, zero)
            first, second = (splat(load(U32, keys, (frame << 1) + k), LANES) for k in range(2))
            # By chance the first key may give two frames the same number; the second key then
            # gives different random numbers.
            photons.state.value = _mix(pixel + first) ^ second
            for share in photons.shares:
                share.value = zero
            photons.deal()
            for s, share in enumerate(photons.shares):
                place = load(I64, places, s) + frame * stride
                store(select(valid, share.value, zero.like(NOWHERE)), place)
        return above.value

    return deal


class _Photons:
    """Photons of a frame that are not yet distributed, and photons of each sub-sample."""

    def __init__(self, bits: int) -> None:
        zero = constant(U32, 0, LANES)
        self.bits = bits
        self.left, self.state = Variable(zero), Variable(zero)
        self.shares = [Variable(zero) for _ in range(1 << bits)]

    def deal(self) -> None:
        """Distribute photons until no pixel has photons left."""
        #: Number of photons for one random number; `base` has the lowest bit of each photon.
        photons = 32 // self.bits
        base = sum(1 << (self.bits * i) for i in range(photons))
        with repeat_while(lambda: any_lane(self.left.value != 0)):
            left = self.left.value
            number = minimum(left, photons)
            self.left.value = left - number
            # A shift by 32 bits is not defined.
            full = number == photons
            width = select(full, left.like(0), number * self.bits)
            some = ((left.like(1) << width) - 1) & base
            active = select(full, left.like(base), some)
            self.state.value = state = _mix(self.state.value + _GOLDEN)
            planes = [state >> i for i in range(self.bits)]
            for s, share in enumerate(self.shares):
                mine = active
                for i, plane in enumerate(planes):
                    mine = mine & (plane if s >> i & 1 else ~plane)
                share.value = share.value + count_bits(mine)


deal_2, deal_4, deal_8, deal_16, deal_32 = (_dealer(bits) for bits in range(1, 6))
