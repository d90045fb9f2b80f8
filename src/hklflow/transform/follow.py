"""Inner loop of the transform, for sixteen pixels at a time (see `lanes`).

A pixel enters another voxel only every three or four frames. `follow` reads the counts of sixteen
pixels on all frames of a block. When a pixel leaves a voxel, its sum in this voxel is written as a
record (voxel, counts, norm).
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

#: Voxel number of a pixel that is not in any voxel.
NOWHERE = 0xFFFFFFFF
#: Bit of the voxel number that is set if the artefact mask excludes the pixel.
EXCLUDED = 0x80000000


@word(LIKE, *[I64] * 12, U32, *[I64] * 5, returns=I64)
def follow(
    like: Array, values: Value, offsets: Value, n_steps: Value, to_voxel: Value, step_norm: Value,
    qx: Value, qy: Value, qz: Value, weight: Value, excluded: Value, excluded_offsets: Value,
    window: Value, invalid_from: Value, voxel_out: Value, counts_out: Value, norm_out: Value,
    n_out: Value, inside_out: Value,
) -> Value:  # fmt: skip
    """Follow sixteen pixels through the steps of a block; write a record for each voxel entered.

    Arguments of type `int64` that are described as an address are memory addresses, which are not
    checked. If there is one value for each pixel, the address belongs to the first of the sixteen.

    Parameters
    ----------
    like : array
        Array with the type of the counts; only its type is used.
    values : address of the counts
    offsets : address of int64 (n_steps,)
        Position of the counts of each step, in items from ``values``.
    n_steps : int64
    to_voxel : address of float32 (n_steps, 12)
        Rows of the matrix from q_lab to voxels, each followed by its offset.
    step_norm : address of float32 (n_steps,)
        Norm of each step. Its product with the weight of a pixel must be below 2²³; rounded to an
        integer, it is the norm that the pixel adds.
    qx, qy, qz, weight : addresses of float32
        q_lab in 1/Å, and norm of the pixels; a pixel with norm 0 is left out.
    excluded : address of uint8
        Two bytes of the artefact mask; the first pixel is the highest bit. If the address is 0,
        nothing is excluded.
    excluded_offsets : address of int64 (n_steps,)
        Position of the mask of each step, in bytes from ``excluded``.
    window : address of int32 (9,)
        First voxel and number of voxels along h, k, l that belong to the caller; then the strides
        of `Bricks` along k and l, and the first plane l of the bricks.
    invalid_from : uint32
        Smallest invalid count.
    voxel_out, counts_out, norm_out : addresses of uint32
        Records are written from ``n_out`` on; there must be room for 16 (n_steps + 1) records and
        16 more.
    n_out : int64
    inside_out : address of int64 (3,)
        Three counters are increased: recorded (pixel, step) pairs; pixels with a record of more
        than 2³² - 1 counts; pixels with a norm that have an invalid count on some step.

    Returns
    -------
    int64
        New number of records.
    """
    steps = _Steps(like.kind, values, offsets, n_steps, to_voxel, step_norm)
    pixels = _Pixels([load(F32, at, lanes=LANES) for at in (qx, qy, qz)], weight)
    records = _Records((voxel_out, counts_out, norm_out), n_out)
    return _generate(steps, pixels, records, (excluded, excluded_offsets), window, invalid_from,
                     inside_out, None)  # fmt: skip


@word(LIKE, *[I64] * 12, U32, *[I64] * 11, returns=I64)
def follow_surrounded(
    like: Array, values: Value, offsets: Value, n_steps: Value, to_voxel: Value, step_norm: Value,
    qx: Value, qy: Value, qz: Value, weight: Value, excluded: Value, excluded_offsets: Value,
    window: Value, invalid_from: Value, voxel_out: Value, counts_out: Value, norm_out: Value,
    n_out: Value, inside_out: Value, n_expected: Value, weights: Value, stride: Value,
    frames: Value, expected_out: Value, variance_out: Value,
) -> Value:  # fmt: skip
    """Follow sixteen pixels like `follow`, and sum the expected background and its variance.

    Parameters
    ----------
    n_expected : int64
        Number of backgrounds with factors of their own.
    weights : address of float32
        Factors of the pixels for the first background; those of the next background, and at last
        those of the variance, are each ``stride`` bytes further.
    stride : int64
    frames : address of float32 (n_expected + 1, n_steps)
        Factors of the steps. All sums of products must be below 2²³.
    expected_out, variance_out : addresses of uint32
        Further arrays of the records.
    """
    steps = _Steps(like.kind, values, offsets, n_steps, to_voxel, step_norm)
    pixels = _Pixels([load(F32, at, lanes=LANES) for at in (qx, qy, qz)], weight)
    out = (voxel_out, counts_out, norm_out, expected_out, variance_out)
    around = _Surroundings(n_expected, weights, stride, frames, n_steps)
    return _generate(steps, pixels, _Records(out, n_out), (excluded, excluded_offsets), window,
                     invalid_from, inside_out, around)  # fmt: skip


def _generate(
    steps: "_Steps",
    pixels: "_Pixels",
    records: "_Records",
    mask: tuple[Value, Value],
    window: Value,
    invalid_from: Value,
    inside_out: Value,
    around: "_Surroundings | None",
) -> Value:
    """Generate the code of `follow`, and return the new number of records."""
    edges = [splat(load(I32, window, i), LANES) for i in range(9)]
    code = _Follow(steps, pixels, records, edges, splat(invalid_from, LANES), around)
    # There are two loops, because the mask takes a tenth of the time of a loop.
    with either(mask[0] != 0) as (masked, plain):
        with masked:
            code.loop(mask)
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
    """Addresses of the arrays with one item for each step, and the number of steps."""

    kind: Kind
    values: Value
    offsets: Value
    n: Value
    to_voxel: Value
    norm: Value


class _Pixels(NamedTuple):
    """q_lab of sixteen pixels, and address of their norms."""

    q: list[Value]
    weight: Value


class _Surroundings:
    """Expected background of a step; see `follow_surrounded`."""

    def __init__(
        self, n: Value, weights: Value, stride: Value, frames: Value, n_steps: Value
    ) -> None:
        self._n, self._weights, self._stride = n, weights, stride
        self._frames, self._n_steps = frames, n_steps
        self._total = Variable(constant(U32, 0, LANES))

    def of_step(self, step: Value) -> tuple[Value, Value]:
        """Return the background and its variance, integer numbers of units."""
        self._total.value = constant(U32, 0, LANES)
        with span(self._n) as number:
            self._total.value = self._total.value + self._product(number, step)
        return self._total.value, self._product(self._n, step)

    def _product(self, number: Value, step: Value) -> Value:
        weight = load(F32, self._weights + number * self._stride, lanes=LANES)
        return _rounded(weight, load(F32, self._frames, number * self._n_steps + step))


def _rounded(weight: Value, norm: Value) -> Value:
    """Return the product of the pixels' factors and the step's factor, rounded to integers."""
    # Between 2²³ and 2²⁴ the last bit of a float32 is 1, so that adding 2²³ rounds the product to
    # the nearest integer.
    above = weight.like(2.0**23)
    rounded = fma(weight, splat(norm, LANES), above)
    return reinterpret(rounded, U32) - reinterpret(above, U32)


class _Records:
    """Voxel and sums of each pixel; written when the pixel leaves the voxel.

    The sums are counts, norm and, if there are two more addresses, background and its variance.
    """

    def __init__(self, out: tuple[Value, ...], n: Value) -> None:
        self.out, self.n = out, Variable(n)
        self.voxel = Variable(constant(U32, NOWHERE, LANES))
        self.sums = [Variable(constant(U32, 0, LANES)) for _ in out[1:]]

    def write(self, mask: Value) -> None:
        """Write the records of the pixels for which the mask is True."""
        n = self.n.value
        for item, address in zip((self.voxel, *self.sums), self.out, strict=True):
            store(compress(item.value, mask), address, n)
        self.n.value = n + count_lanes(mask)


class _Follow:
    """Generator of the code of the loop in `follow`."""

    def __init__(
        self,
        steps: _Steps,
        pixels: _Pixels,
        records: _Records,
        window: list[Value],
        limit: Value,
        around: _Surroundings | None,
    ) -> None:
        self.steps, self.pixels, self.records = steps, pixels, records
        self.window, self.invalid_from, self.around = window, limit, around
        self.weight = load(F32, pixels.weight, lanes=LANES)
        self.live = self.weight > 0.0
        self.inside = Variable(constant(I64, 0))
        self.wrapped = Variable(constant(BOOL, 0, LANES))
        self.valid = Variable(constant(BOOL, 1, LANES))

    def loop(self, mask: tuple[Value, Value] | None) -> None:
        """Generate the loop over the steps; the artefact mask is given by two addresses."""
        steps, records = self.steps, self.records
        with span(steps.n) as step:
            counts = load_counts(steps.kind, steps.values, steps.offsets, step)
            voxel, inside = self._voxel(step, counts, mask)
            before = records.voxel.value
            changed = voxel != before
            records.write(changed & (before != NOWHERE))
            records.voxel.value = voxel
            more = [counts, _rounded(self.weight, load(F32, steps.norm, step))]
            if self.around is not None:
                more += self.around.of_step(step)
            for item, part in zip(records.sums, more, strict=True):
                item.value = select(changed, counts.like(0), item.value) + part
            self.wrapped.value = self.wrapped.value | (inside & (records.sums[0].value < counts))

    def _voxel(
        self, step: Value, counts: Value, mask: tuple[Value, Value] | None
    ) -> tuple[Value, Value]:
        """Return the voxel of each pixel, or `NOWHERE`; and True if the pixel is in a voxel."""
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
            # Conversion rounds towards zero; for positions inside the grid this rounds down.
            signs = signs | reinterpret(at, I32)
            index.append(convert(at, I32))
            # As an unsigned number, a negative number is larger than all voxel numbers.
            ahead = reinterpret(index[axis] - self.window[2 * axis], U32)
            inside = inside & (ahead < reinterpret(self.window[2 * axis + 1], U32))
        inside = inside & (signs >= 0)
        self.inside.value = self.inside.value + count_lanes(inside)
        voxel = self._brick(index)
        if mask is not None:
            voxel = voxel | _excluded(mask, step)
        return select(inside, voxel, voxel.like(NOWHERE)), inside

    def _brick(self, index: list[Value]) -> Value:
        """Return the number of a voxel in the memory of `Bricks`."""
        # The origin is subtracted after rounding, so that its choice cannot change the voxel.
        h, k, l = (*index[:2], index[2] - self.window[8])  # noqa: E741
        # The lowest nine bits are the position in the brick; the bits above are the number of the
        # brick along h.
        voxel = _bit_select(0o7, h, k << 3)
        voxel = _bit_select(0o77, voxel, l << 6)
        voxel = _bit_select(0o777, voxel, h << 6)
        for i, (far, more) in enumerate(((k, EDGE**2), (l, EDGE**3))):
            voxel = voxel + (far >> 3) * (self.window[6 + i] + more)
        return reinterpret(voxel, U32)


def _bit_select(mask: int, these: Value, others: Value) -> Value:
    """Return integers with the bits of a mask from ``these`` and all other bits from ``others``."""
    return (these & mask) | (others & ~mask)


def _excluded(mask: tuple[Value, Value], step: Value) -> Value:
    """Return the mark of the pixels that the artefact mask excludes on a step."""
    excluded, offsets = mask
    bits = splat(load(U16, excluded + load(I64, offsets, step)), LANES)
    # The bytes are read as a little-endian number: pixel 0 is bit 7, pixel 8 is bit 15.
    places = [1 << (8 * (i // 8) + 7 - i % 8) for i in range(LANES)]
    marked = (bits & constant(U16, places, LANES)) != 0
    return select(marked, constant(U32, EXCLUDED, LANES), constant(U32, 0, LANES))
