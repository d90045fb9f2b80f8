"""Vector code for rows of pixels: narrowing frames, box sums, comparison with thresholds.

Counts are kept in a narrow type and added in one twice as wide: 8 in 16 bits, 16 in 32 bits,
or all in 32-bit floats. Numba would widen every integer to 64 bits; this is written with the
builder that Numba hands to an intrinsic, and LLVM fits it to the processor at hand. All
functions take addresses, and numbers of pixels that are multiples of `LANES`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: Pixels that `pack_row` treats together; the sums treat as many as 64 bytes hold.
LANES = 64

_I8, _I16, _I32, _I64, _F32 = (*(ir.IntType(n) for n in (8, 16, 32, 64)), ir.FloatType())
#: Numba's narrow type to LLVM's, and the type of its sums.
_KINDS = {types.uint8: (_I8, _I16), types.uint16: (_I16, _I32), types.float32: (_F32, _F32)}
_TYPES = {types.uint8: _I8, types.uint16: _I16, types.uint32: _I32, types.float32: _F32}


def compiled_word(function: Any) -> Any:
    """Numba's `intrinsic`, whose result takes one argument less than the function."""
    return intrinsic(function)


def _lanes(scalar: Any) -> int:
    return 512 // (32 if scalar == _F32 else int(scalar.width))


def _at(builder: Any, address: Any, scalar: Any, lanes: int, index: Any) -> Any:
    pointer = builder.gep(builder.inttoptr(address, scalar.as_pointer()), [index])
    return builder.bitcast(pointer, ir.VectorType(scalar, lanes).as_pointer())


def _load(builder: Any, address: Any, scalar: Any, lanes: int, index: Any) -> Any:
    # Where a number lies is all that is known of its alignment.
    return builder.load(_at(builder, address, scalar, lanes, index), align=1)


def _store(builder: Any, value: Any, address: Any, index: Any) -> None:
    kind = value.type
    builder.store(value, _at(builder, address, kind.element, kind.count, index), align=1)


def _sum(builder: Any, *values: Any) -> Any:
    total = values[0]
    add = builder.fadd if total.type.element == _F32 else builder.add
    for value in values[1:]:
        total = add(total, value)
    return total


def _widened(builder: Any, value: Any, scalar: Any) -> Any:
    if value.type.element == scalar:
        return value
    return builder.zext(value, ir.VectorType(scalar, value.type.count))


def _above(builder: Any, a: Any, b: Any) -> Any:
    if a.type.element == _F32:
        return builder.fcmp_ordered(">", a, b)
    return builder.icmp_unsigned(">", a, b)


def _splat(builder: Any, scalar: Any, lanes: int) -> Any:
    nothing = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(nothing, scalar, _I32(0))
    zeros = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, nothing, zeros)


@compiled_word
def pack_row(typingctx: Any, raw: Any, out: Any, top: Any, keep: Any, bits: Any, n: Any) -> Any:
    """Narrow a row of integers: the counts, no more than `top`, and 0 where masked.

    ``raw`` and ``out`` are arrays, whose types and first items are taken; ``keep`` is the
    address of narrow numbers that are all ones, or 0 for a masked pixel; ``bits`` that of a bit
    for each pixel that reached ``top``.
    """
    signature = types.void(raw, out, *[types.int64] * 4)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = ir.IntType(signature.args[0].dtype.bitwidth)
        narrow, _ = _KINDS[signature.args[1].dtype]
        arrays = [
            builder.ptrtoint(context.make_array(kind)(context, builder, value).data, _I64)
            for kind, value in zip(signature.args[:2], args[:2], strict=True)
        ]
        top, keep, bits, n = args[2:]
        wide = source if source.width >= narrow.width else narrow
        limit = builder.trunc(top, wide) if wide.width < 64 else top
        with cgutils.for_range_slice(builder, _I64(0), n, _I64(LANES), _I64) as (j, _):
            value = _load(builder, arrays[0], source, LANES, j)
            value = _widened(builder, value, wide)
            lower = _splat(builder, limit, LANES)
            value = builder.select(builder.icmp_unsigned("<", value, lower), value, lower)
            if wide != narrow:
                value = builder.trunc(value, ir.VectorType(narrow, LANES))
            value = builder.and_(value, _load(builder, keep, narrow, LANES, j))
            _store(builder, value, arrays[1], j)
            full = _splat(builder, builder.trunc(top, narrow), LANES)
            reached = builder.bitcast(builder.icmp_unsigned("==", value, full), _I64)
            word = builder.gep(
                builder.inttoptr(bits, _I64.as_pointer()), [builder.udiv(j, _I64(LANES))]
            )
            builder.store(reached, word)
        return context.get_dummy_value()

    return signature, generate


@compiled_word
def add_counts(
    typingctx: Any, kind: Any, counts: Any, keep: Any, top: Any, sums: Any, most: Any, n: Any
) -> Any:
    """Add a row of narrow integers to the sums of its pixels, and keep the largest.

    Masked pixels and those that reached `top` add nothing.
    """
    signature = types.void(kind, *[types.int64] * 6)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        narrow, wide = _KINDS[signature.args[0]]
        counts, keep, top, sums, most, n = args[1:]
        lanes = _lanes(wide)
        with cgutils.for_range_slice(builder, _I64(0), n, _I64(lanes), _I64) as (j, _):
            value = _load(builder, counts, narrow, lanes, j)
            value = builder.and_(value, _load(builder, keep, narrow, lanes, j))
            full = _splat(builder, builder.trunc(top, narrow), lanes)
            nothing = ir.Constant(value.type, [ir.Constant(narrow, 0)] * lanes)
            value = builder.select(builder.icmp_unsigned("==", value, full), nothing, value)
            before = _load(builder, sums, wide, lanes, j)
            _store(builder, builder.add(before, _widened(builder, value, wide)), sums, j)
            largest = _load(builder, most, narrow, lanes, j)
            bigger = builder.icmp_unsigned(">", value, largest)
            _store(builder, builder.select(bigger, value, largest), most, j)
        return context.get_dummy_value()

    return signature, generate


@compiled_word
def add_frames(
    typingctx: Any, kind: Any, a: Any, b: Any, c: Any, d: Any, e: Any, three: Any, five: Any, n: Any
) -> Any:
    """Add a row over the three middle frames (b, c, d) and over all five; `kind` is a count."""
    signature = types.void(kind, *[types.int64] * 8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        narrow, wide = _KINDS[signature.args[0]]
        lanes = _lanes(wide)
        with cgutils.for_range_slice(builder, _I64(0), args[8], _I64(lanes), _I64) as (j, _):
            rows = [
                _widened(builder, _load(builder, row, narrow, lanes, j), wide) for row in args[1:6]
            ]
            middle = _sum(builder, *rows[1:4])
            _store(builder, middle, args[6], j)
            _store(builder, _sum(builder, middle, rows[0], rows[4]), args[7], j)
        return context.get_dummy_value()

    return signature, generate


@compiled_word
def add_rows(
    typingctx: Any,
    kind: Any,
    a3: Any,
    b3: Any,
    c3: Any,
    a5: Any,
    b5: Any,
    c5: Any,
    d5: Any,
    e5: Any,
    three: Any,
    five: Any,
    n: Any,
) -> Any:
    """Add three rows of sums over three frames, and five rows of sums over five."""
    signature = types.void(kind, *[types.int64] * 11)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, wide = _KINDS[signature.args[0]]
        lanes = _lanes(wide)
        with cgutils.for_range_slice(builder, _I64(0), args[11], _I64(lanes), _I64) as (j, _):
            rows = [_load(builder, row, wide, lanes, j) for row in args[1:9]]
            _store(builder, _sum(builder, *rows[:3]), args[9], j)
            _store(builder, _sum(builder, *rows[3:]), args[10], j)
        return context.get_dummy_value()

    return signature, generate


@compiled_word
def exceed(
    typingctx: Any,
    kind: Any,
    counts: Any,
    three: Any,
    five: Any,
    limit: Any,
    limit3: Any,
    limit5: Any,
    bits: Any,
    n: Any,
) -> Any:
    """Set a bit where the counts, or three columns, or five, are above their limits.

    The addresses are those of the first pixel; two columns before it and after the last are
    read as well. Returns whether there is any.
    """
    signature = types.int64(kind, *[types.int64] * 8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        narrow, wide = _KINDS[signature.args[0]]
        lanes = _lanes(wide)
        counts, three, five, limit, limit3, limit5, bits, n = args[1:]
        found = cgutils.alloca_once_value(builder, _I64(0))  # type: ignore[no-untyped-call]
        word = ir.IntType(lanes)
        with cgutils.for_range_slice(builder, _I64(0), n, _I64(lanes), _I64) as (j, _):

            def columns(row: Any, reach: int, j: Any = j) -> Any:
                at = [builder.add(j, _I64(k)) for k in range(-reach, reach + 1)]
                return _sum(builder, *(_load(builder, row, wide, lanes, k) for k in at))

            hit = _above(builder, columns(three, 1), _load(builder, limit3, wide, lanes, j))
            five_hit = _above(builder, columns(five, 2), _load(builder, limit5, wide, lanes, j))
            hit = builder.or_(hit, five_hit)
            one = _load(builder, counts, narrow, lanes, j)
            hit = builder.or_(hit, _above(builder, one, _load(builder, limit, narrow, lanes, j)))
            mask = builder.bitcast(hit, word)
            pointer = builder.inttoptr(bits, word.as_pointer())
            builder.store(mask, builder.gep(pointer, [builder.udiv(j, _I64(lanes))]), align=1)
            builder.store(builder.or_(builder.load(found), builder.zext(mask, _I64)), found)
        return builder.load(found)

    return signature, generate


@compiled_word
def spread(typingctx: Any, kind: Any, cells: Any, limit: Any, pixels: Any, n: Any) -> Any:
    """Write the thresholds of cells (32-bit floats) to their four columns of pixels.

    `kind` is a number of the type to write, `limit` the largest; ``n`` cells, a multiple of 16.
    """
    signature = types.void(kind, *[types.int64] * 4)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cells, limit, pixels, n = args[1:]
        scalar = _TYPES[signature.args[0]]
        four = ir.Constant(ir.VectorType(_I32, 64), [k // 4 for k in range(64)])
        with cgutils.for_range_slice(builder, _I64(0), n, _I64(16), _I64) as (j, _):
            value = _load(builder, cells, _F32, 16, j)
            highest = _splat(builder, builder.uitofp(limit, _F32), 16)
            lower = builder.fcmp_ordered("<", value, highest)
            value = builder.select(lower, value, highest)
            if scalar != _F32:
                value = builder.fptoui(value, ir.VectorType(_I32, 16))
                if scalar.width < 32:
                    value = builder.trunc(value, ir.VectorType(scalar, 16))
            _store(
                builder, builder.shuffle_vector(value, value, four), pixels, builder.mul(j, _I64(4))
            )
        return context.get_dummy_value()

    return signature, generate


@compiled_word
def lowest_bit(typingctx: Any, word: Any) -> Any:
    """Number of the lowest bit that is set in a word that is not 0."""
    signature = types.int64(types.uint64)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return signature, generate


@compiled_word
def box_sums(
    typingctx: Any, kind: Any, image: Any, slots: Any, frame: Any, line: Any, keep: Any, out: Any
) -> Any:
    """Add up the boxes of 1, 3 and 5 voxels on an edge around a pixel, without masked pixels.

    `kind` is a count; ``image`` and ``keep`` are addresses of the first pixel of the largest box
    (two rows up, two columns to the left) in the first slot and in the mask, ``slots`` that of
    five numbers of slots (int64), ``frame`` and ``line`` the bytes from one slot, and one row, to
    the next; three pixels beyond the box are read. ``out`` is the address of six 64-bit floats:
    the three sums, the valid pixels of 3 x 3 and of 5 x 5, and the largest of all counts.
    """
    signature = types.void(kind, *[types.int64] * 6)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        narrow, wide = _KINDS[signature.args[0]]
        image, slots, frame, line, keep, out = args[1:]
        real = narrow == _F32
        # Sums of many floats need more digits than one has.
        wide = ir.DoubleType() if real else wide

        def widened(value: Any) -> Any:
            return (builder.fpext if real else builder.zext)(value, ir.VectorType(wide, 8))

        def only(value: Any, columns: tuple[int, ...]) -> Any:
            nothing = ir.Constant(value.type, [ir.Constant(value.type.element, 0)] * 8)
            chosen = [ir.Constant(ir.IntType(1), k in columns) for k in range(8)]
            return builder.select(
                ir.Constant(ir.VectorType(ir.IntType(1), 8), chosen), value, nothing
            )

        add = builder.fadd if real else builder.add
        kept, bits = [], _I64(0)
        for a in range(5):
            at = builder.add(keep, builder.mul(line, _I64(a)))
            row = only(_load(builder, at, narrow, 8, _I64(0)), (0, 1, 2, 3, 4))
            kept.append(row)
            nothing = ir.Constant(row.type, [ir.Constant(narrow, 0)] * 8)
            compare = builder.fcmp_ordered if real else builder.icmp_unsigned
            mask = builder.zext(builder.bitcast(compare("!=", row, nothing), _I8), _I64)
            bits = builder.or_(bits, builder.shl(mask, _I64(8 * a)))
        rows3, rows5, largest, one = [], [], None, None
        for z in range(5):
            pointer = builder.gep(builder.inttoptr(slots, _I64.as_pointer()), [_I64(z)])
            start = builder.add(image, builder.mul(builder.load(pointer), frame))
            for a in range(5):
                at = builder.add(start, builder.mul(line, _I64(a)))
                row = _load(builder, at, narrow, 8, _I64(0))
                row = (builder.fmul if real else builder.and_)(row, kept[a])
                bigger = row if largest is None else _above(builder, row, largest)
                largest = row if largest is None else builder.select(bigger, row, largest)
                value = widened(row)
                rows5.append(value)
                if 1 <= a <= 3 and 1 <= z <= 3:
                    rows3.append(value)
                if a == z == 2:
                    one = builder.extract_element(value, _I32(2))
        total = []
        for rows, columns in ((rows3, (1, 2, 3)), (rows5, (0, 1, 2, 3, 4))):
            value = rows[0]
            for row in rows[1:]:
                value = add(value, row)
            parts = [builder.extract_element(value, _I32(k)) for k in columns]
            while len(parts) > 1:
                parts = [add(parts[0], parts[1]), *parts[2:]]
            total.append(parts[0])
        most = builder.extract_element(largest, _I32(0))
        for k in range(1, 5):
            other = builder.extract_element(largest, _I32(k))
            compare = builder.fcmp_ordered if real else builder.icmp_unsigned
            most = builder.select(compare(">", other, most), other, most)
        number = [
            builder.ctpop(builder.and_(bits, _I64(mask))) for mask in (0x0E0E0E00, 0x1F1F1F1F1F)
        ]
        double = ir.DoubleType()
        for k, value in enumerate((one, *total, *number, most)):
            if value.type == _F32:
                value = builder.fpext(value, double)
            elif value.type != double:
                value = builder.uitofp(value, double)
            pointer = builder.inttoptr(out, double.as_pointer())
            builder.store(value, builder.gep(pointer, [_I64(k)]))
        return context.get_dummy_value()

    return signature, generate
