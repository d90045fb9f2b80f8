"""Vector code for rows of pixels: narrowing frames, box sums, comparison with thresholds.

Counts are kept in a narrow type and summed in a type of twice the width: 8 bits in 16 bits, 16 bits
in 32 bits. Floats are kept and summed in 32 bits. Numba would widen every integer to 64 bits. The
arguments of all functions are addresses, and numbers of pixels that are multiples of `PER_WORD`.
"""

from functools import reduce
from operator import add
from typing import Any

from hklflow.simd.control import Variable, span
from hklflow.simd.define import LIKE, Array, word
from hklflow.simd.kinds import BOOL, F32, F64, I64, U8, U16, U32, U64, Kind
from hklflow.simd.lanes import bits_of, count_bits, lane, splat, take
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, constant, convert, maximum, minimum, select

#: Number of pixels that `pack_row` processes together; their bits fill one word. Sums process the
#: number of pixels that fits 64 bytes.
PER_WORD = 64
#: Maps the kind of narrow counts to the kind of their sums.
_SUMS = {U8: U16, U16: U32, F32: F32}


def _lanes(kind: Kind) -> int:
    return 512 // kind.bits


def _sum(*values: Value) -> Value:
    return reduce(add, values)


@word(LIKE, LIKE, I64, I64, I64, I64)
def pack_row(raw: Array, out: Array, top: Value, keep: Value, bits: Value, n: Value) -> None:
    """Convert a row of integers to narrow counts, at most `top`, and 0 for masked pixels.

    ``raw`` and ``out`` are arrays; their types and the addresses of their first items are used.
    ``keep`` is the address of narrow numbers with all bits set, or 0 for masked pixels. ``bits`` is
    the address of one bit for each pixel; the bit is set if the pixel reached ``top``.
    """
    narrow, unsigned = out.kind, Kind("u", raw.kind.bits)
    wide = unsigned if unsigned.bits >= narrow.bits else narrow
    with span(n, step=PER_WORD) as j:
        value = convert(load(unsigned, raw.address, j, PER_WORD), wide)
        value = minimum(value, splat(convert(top, wide), PER_WORD))
        value = convert(value, narrow) & load(narrow, keep, j, PER_WORD)
        store(value, out.address, j)
        full = splat(convert(top, narrow), PER_WORD)
        store(bits_of(value == full), bits + (j >> 3))


@word(LIKE, *[I64] * 6)
def add_counts(
    like: Value, counts: Value, keep: Value, top: Value, sums: Value, most: Value, n: Value
) -> None:
    """Add a row of narrow integers to the sums of its pixels, and keep the largest values.

    Masked pixels, and pixels that reached `top`, are not added to the sums.
    """
    narrow, wide = like.kind, _SUMS[like.kind]
    lanes = _lanes(wide)
    with span(n, step=lanes) as j:
        value = load(narrow, counts, j, lanes) & load(narrow, keep, j, lanes)
        full = splat(convert(top, narrow), lanes)
        value = select(value == full, value.like(0), value)
        store(load(wide, sums, j, lanes) + convert(value, wide), sums, j)
        store(maximum(value, load(narrow, most, j, lanes)), most, j)


@word(LIKE, *[I64] * 8)
def add_frames(
    like: Value, a: Value, b: Value, c: Value, d: Value, e: Value,
    three: Value, five: Value, n: Value,
) -> None:  # fmt: skip
    """Sum a row over the three middle frames (b, c, d), and over all five frames.

    `like` is a number of the type of the counts.
    """
    wide = _SUMS[like.kind]
    lanes = _lanes(wide)
    with span(n, step=lanes) as j:
        rows = [convert(load(like.kind, row, j, lanes), wide) for row in (a, b, c, d, e)]
        middle = _sum(*rows[1:4])
        store(middle, three, j)
        store(_sum(middle, rows[0], rows[4]), five, j)


@word(LIKE, *[I64] * 11)
def add_rows(
    like: Value, a3: Value, b3: Value, c3: Value,
    a5: Value, b5: Value, c5: Value, d5: Value, e5: Value,
    three: Value, five: Value, n: Value,
) -> None:  # fmt: skip
    """Add three rows of sums over three frames, and five rows of sums over five frames."""
    wide = _SUMS[like.kind]
    lanes = _lanes(wide)
    with span(n, step=lanes) as j:
        rows = [load(wide, row, j, lanes) for row in (a3, b3, c3, a5, b5, c5, d5, e5)]
        store(_sum(*rows[:3]), three, j)
        store(_sum(*rows[3:]), five, j)


@word(LIKE, *[I64] * 8, returns=I64)
def exceed(
    like: Value, counts: Value, three: Value, five: Value,
    limit: Value, limit3: Value, limit5: Value, bits: Value, n: Value,
) -> Value:  # fmt: skip
    """Set the bit of each pixel whose counts or sums over columns exceed a limit.

    ``counts`` are compared with ``limit``, sums of ``three`` over three columns with ``limit3``,
    and sums of ``five`` over five columns with ``limit5``. Addresses are addresses of the first
    pixel; two columns before the first and after the last pixel are also read. The result is 0 if
    no bit was set.
    """
    narrow, wide = like.kind, _SUMS[like.kind]
    lanes = _lanes(wide)
    hits = Variable(constant(I64, 0))
    with span(n, step=lanes) as j:

        def columns(row: Value, reach: int, j: Value = j) -> Value:
            return _sum(*(load(wide, row, j + k, lanes) for k in range(-reach, reach + 1)))

        hit = columns(three, 1) > load(wide, limit3, j, lanes)
        hit = hit | (columns(five, 2) > load(wide, limit5, j, lanes))
        hit = hit | (load(narrow, counts, j, lanes) > load(narrow, limit, j, lanes))
        store(bits_of(hit), bits + (j >> 3))
        hits.value = hits.value | convert(bits_of(hit), I64)
    return hits.value


@word(LIKE, *[I64] * 4)
def spread(like: Value, cells: Value, limit: Value, pixels: Value, n: Value) -> None:
    """Write the thresholds of cells (32-bit floats) to the four columns of pixels in each cell.

    `like` is a number of the type that is written, `limit` the largest written number, and ``n``
    the number of cells, a multiple of 16.
    """
    with span(n, step=16) as j:
        value = minimum(load(F32, cells, j, 16), splat(convert(limit, F32), 16))
        if like.kind != F32:
            value = convert(convert(value, U32), like.kind)
        store(take(value, [k // 4 for k in range(64)]), pixels, j << 2)


@word(LIKE, *[I64] * 6)
def box_sums(
    like: Value, image: Value, slots: Value, frame: Value, line: Value, keep: Value, out: Value
) -> None:
    """Sum boxes with sides of 1, 3 and 5 voxels around a pixel, without masked pixels.

    `like` is a number of the type of the counts. ``image`` and ``keep`` are the addresses of the
    first pixel of the largest box (two rows up, two columns to the left) in the first slot and in
    the mask. ``slots`` is the address of five slot numbers (int64). ``frame`` and ``line`` are the
    bytes from one slot to the next, and from one row to the next. Three pixels beyond the box are
    read. ``out`` is the address of six 64-bit floats: the three sums, the number of valid pixels in
    3 x 3 and in 5 x 5, and the largest count.
    """
    narrow = like.kind
    # Sums of many 32-bit floats need more digits than a 32-bit float has.
    wide = F64 if narrow.is_float else _SUMS[narrow]
    kept, bits = _kept_rows(narrow, keep, line)
    rows3, rows5 = [], []
    largest: Any = None
    for z in range(5):
        start = image + load(I64, slots, z) * frame
        for a in range(5):
            row = load(narrow, start + line * a, lanes=8)
            row = row * kept[a] if narrow.is_float else row & kept[a]
            largest = row if largest is None else maximum(row, largest)
            value = convert(row, wide)
            rows5.append(value)
            if 1 <= a <= 3 and 1 <= z <= 3:
                rows3.append(value)
    sums3, sums5 = _sum(*rows3), _sum(*rows5)
    numbers = (
        lane(rows5[12], 2),
        _sum(*(lane(sums3, k) for k in (1, 2, 3))),
        _sum(*(lane(sums5, k) for k in range(5))),
        count_bits(bits & 0x0E0E0E00),
        count_bits(bits & 0x1F1F1F1F1F),
        reduce(lambda most, k: maximum(lane(largest, k), most), range(1, 5), lane(largest, 0)),
    )
    for k, number in enumerate(numbers):
        store(convert(number, F64), out, k)


def _kept_rows(kind: Kind, keep: Value, line: Value) -> tuple[list[Value], Value]:
    """Return the first five columns of five rows of a mask, and eight bits for each row."""
    five = constant(BOOL, [k < 5 for k in range(8)], 8)
    rows, bits = [], constant(U64, 0)
    for a in range(5):
        row = load(kind, keep + line * a, lanes=8)
        row = select(five, row, row.like(0))
        rows.append(row)
        bits = bits | (convert(bits_of(row != 0), U64) << 8 * a)
    return rows, bits
