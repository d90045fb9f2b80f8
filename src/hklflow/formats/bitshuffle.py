"""Decoder of bitshuffle-LZ4, the usual compression of detectors' frames in HDF5.

A chunk is a header of 12 bytes (big-endian: bytes of the frame, 8; bytes of a block, 4), the
blocks, and the at most 7 last elements as they are. A block is its compressed length (4 bytes,
big-endian) and LZ4 data of its bit planes: bit 0 of all its elements, bit 1 ... A last block
may be shorter, by multiples of 8 elements.

Counts are small and masked pixels are all ones, so that most of the planes of a block are zero
or like the plane before. Like planes are put in together, zero planes are left out.

The kernels work by addresses: the checks here are all there is against damaged data.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.formats.bit_sums import sum64_8, sum64_16, sum64_32
from hklflow.simd.jit import kernel
from hklflow.simd.words import (
    copy,
    copy8,
    copy16,
    copy32,
    differ64,
    fill,
    load8,
    load16,
    load64,
    store8,
    store64,
)

HEADER = 12  # bytes
DEFAULT_BLOCK = 8192  # bytes, where the header says 0
SLACK = 64  # bytes behind a block's planes that copies may overwrite

FAULTS = (
    "",
    "its compressed data end early",
    "its compressed data are of another size",
    "its compressed data have impossible blocks",
    "a block of its compressed data is no LZ4 or of another size",
)
EARLY, SIZE, BLOCK, LZ4 = 1, 2, 3, 4


@kernel
def _long(at: int, end: int) -> tuple[int, int]:
    """Rest of a length that does not fit into its 4 bits; where it ends, or -1."""
    length = 15
    while at < end:
        more = load8(at)
        at += 1
        length += more
        if more < 255:
            return length, at
    return length, -1


@kernel
def _repeat(to: int, after: int, offset: int) -> None:
    """Fill to..after with the bytes `offset` before; up to 31 bytes behind are lost."""
    if offset >= after - to:
        copy(to, to - offset, after - to)
    elif offset == 1:
        fill(to, load8(to - 1), after - to)
    elif offset < 8:
        word = load64(to - offset) & ((1 << 8 * offset) - 1)
        period = 8 * offset
        while period < 64:
            word |= word << period
            period *= 2
        step = 8 - 8 % offset  # whole periods
        while to < after:
            store64(to, word)
            to += step
    elif offset < 32:
        while to < after:
            copy8(to, to - offset)
            to += 8
    else:
        while to < after:
            copy32(to, to - offset)
            to += 32


@kernel
def unpack(at: int, end: int, limit: int, target: int, size: int) -> bool:
    """Decode LZ4 data at..end to exactly `size` bytes; False if they are none.

    Bytes up to `limit` may be read, and SLACK bytes behind the target be overwritten.
    """
    to, stop = target, target + size
    while at < end:
        token = load8(at)
        at += 1
        length = token >> 4
        if length == 15:
            length, at = _long(at, end)
            if at < 0:
                return False
        if length > end - at or length > stop - to:
            return False
        if length <= 16 and limit - at >= 16:
            copy16(to, at)
        else:
            copy(to, at, length)
        at += length
        to += length
        if end - at < 2:
            # The last literals stand alone.
            return at == end and to == stop
        offset = load16(at)
        at += 2
        length = token & 15
        if length == 15:
            length, at = _long(at, end)
            if at < 0:
                return False
        length += 4
        if offset == 0 or offset > to - target or length > stop - to:
            return False
        if length <= 24 and offset >= 8:
            copy8(to, to - offset)
            copy8(to + 8, to + 8 - offset)
            copy8(to + 16, to + 16 - offset)
        else:
            _repeat(to, to + length, offset)
        to += length
    return False


@kernel
def _alike(a: int, b: int, n: int) -> bool:
    """Whether `n` bytes are the same."""
    at = 0
    while n - at >= 64:
        if differ64(a + at, b + at):
            return False
        at += 64
    while at < n:
        if load8(a + at) != load8(b + at):
            return False
        at += 1
    return True


@kernel
def _group(
    planes: int, length: int, n: int, where: NDArray[np.int64], value: NDArray[np.int64]
) -> int:
    """Groups of like planes that are not zero: address of the first, and their bits.

    There are `n` planes of `length` bytes, and in front of them one of zeros.
    """
    groups = 0
    zeros = planes - length
    empty = True
    for plane in range(n):
        here = planes + plane * length
        if _alike(here, here - length, length):
            if not empty:
                value[groups - 1] |= 1 << plane
            continue
        empty = _alike(here, zeros, length)
        if not empty:
            where[groups] = here
            value[groups] = 1 << plane
            groups += 1
    return groups


@kernel
def _number(address: int, n_bytes: int) -> int:
    """Big-endian number."""
    number = 0
    for i in range(n_bytes):
        number = number << 8 | load8(address + i)
    return number


@kernel
def _decode_blocks(
    at: int,
    end: int,
    target: int,
    n: int,
    width: int,
    block: int,
    memory: NDArray[np.uint8],
    where: NDArray[np.int64],
    value: NDArray[np.int64],
) -> int:
    """Decode the blocks at..end of a chunk; returns the fault.

    The caller owns the arrays: numba frees one that is known by its address only.
    """
    # numba takes addresses as unsigned, and unsigned with signed as float64.
    where_at: Any = np.int64(where.ctypes.data)
    value_at: Any = np.int64(value.ctypes.data)
    planes: Any = np.int64(memory.ctypes.data) + min(block, n) // 8
    while n >= 8:
        count = min(block, n - n % 8)
        if end - at < 4:
            return EARLY
        length = _number(at, 4)
        at += 4
        if length > end - at:
            return EARLY
        if not unpack(at, at + length, end, planes, count * width):
            return LZ4
        at += length
        plane = count // 8
        groups = _group(planes, plane, 8 * width, where, value)
        low = 0
        while low < groups and value[low] < 256:
            low += 1
        whole = plane - plane % 8
        for byte in range(0, whole, 8):
            out = target + 8 * byte * width
            if width == 4:
                sum64_32(out, where_at, value_at, low, groups, byte)
            elif width == 2:
                sum64_16(out, where_at, value_at, low, groups, byte)
            else:
                sum64_8(out, where_at, value_at, low, groups, byte)
        for element in range(8 * whole, count):
            total = 0
            for j in range(groups):
                bit = load8(where[j] + element // 8) >> element % 8 & 1
                total += bit * value[j]
            for byte in range(width):
                store8(target + element * width + byte, total >> 8 * byte)
        target += count * width
        n -= count
    if end - at < n * width:
        return EARLY
    copy(target, at, n * width)
    return 0


@kernel
def _decode(source: int, n_bytes: int, target: int, n: int, width: int) -> int:
    """Decode a chunk to `n` elements of `width` bytes; returns the fault, an index of FAULTS."""
    if n_bytes < HEADER:
        return EARLY
    if _number(source, 8) != n * width:
        return SIZE
    block = _number(source + 8, 4)
    block = (DEFAULT_BLOCK if block == 0 else block) // width
    if block == 0 or block % 8:
        return BLOCK
    first = min(block, n) // 8
    memory = np.zeros(first * (1 + 8 * width) + SLACK, np.uint8)
    where = np.empty(32, np.int64)
    value = np.empty(32, np.int64)
    end = source + n_bytes
    return _decode_blocks(source + HEADER, end, target, n, width, block, memory, where, value)


def decode(chunk: NDArray[np.uint8], out: NDArray[Any]) -> None:
    """Decode one chunk; without the GIL.

    Parameters
    ----------
    chunk : (n,) uint8 array
        Bytes as in the file.
    out : array
        C-contiguous, elements of 1, 2 or 4 bytes. After an error its content means nothing.

    Raises
    ------
    ValueError
        If the chunk is damaged or of another size, or the arrays are not as said.
    """
    if not (chunk.flags.c_contiguous and chunk.itemsize == 1):
        raise ValueError("the chunk is no contiguous array of bytes")
    if not (out.flags.c_contiguous and out.flags.writeable and out.itemsize in (1, 2, 4)):
        raise ValueError(f"frames cannot be decoded to {out.dtype}, or the array is no C array")
    fault = _decode(chunk.ctypes.data, chunk.size, out.ctypes.data, out.size, out.itemsize)
    if fault:
        raise ValueError(FAULTS[fault])


@kernel
def _block_size(source: int, n_bytes: int, n: int, width: int) -> int:
    """Elements of a block of a chunk, or minus the fault."""
    if n_bytes < HEADER:
        return -EARLY
    if _number(source, 8) != n * width:
        return -SIZE
    block = _number(source + 8, 4)
    block = (DEFAULT_BLOCK if block == 0 else block) // width
    if block == 0 or block % 8:
        return -BLOCK
    return int(block)


def block_size(chunk: NDArray[np.uint8], n: int, width: int) -> int:
    """Elements of a block of a chunk, but of the last one.

    Parameters
    ----------
    chunk : (n_bytes,) uint8 array
        Bytes as in the file.
    n, width : int
        Elements of the frame, and their bytes.

    Raises
    ------
    ValueError
        If the chunk is damaged or of another size.
    """
    block = _block_size(chunk.ctypes.data, chunk.size, n, width)
    if block < 0:
        raise ValueError(FAULTS[-block])
    return int(block)


@kernel
def decode_blocks(
    sources: NDArray[np.int64],
    sizes: NDArray[np.int64],
    places: NDArray[np.int64],
    block: int,
    n: int,
    width: int,
    skip: int,
    targets: NDArray[np.int64],
) -> tuple[int, int]:
    """Decode the same blocks of several chunks; without the GIL.

    Parameters
    ----------
    sources, sizes : (chunks,) int64 arrays
        Addresses and bytes of whole chunks.
    places : (chunks,) int64 array
        Bytes from the start of the chunk to the first of the blocks, `HEADER` for the very
        first; moved on by ``skip`` blocks.
    block : int
        Elements of a block.
    n, width : int
        Elements to decode from each chunk, and their bytes: whole blocks, or all up to the
        frame's end.
    skip : int
        Blocks, at most as many as are decoded.
    targets : (chunks,) int64 array
        Addresses of room for them.

    Returns
    -------
    which, fault : int
        The first damaged chunk and an index of `FAULTS`; the fault is 0 if there is none.
    """
    first = min(block, n) // 8
    memory = np.zeros(first * (1 + 8 * width) + SLACK, np.uint8)
    where = np.empty(32, np.int64)
    value = np.empty(32, np.int64)
    for i in range(sources.size):
        at, end = sources[i] + places[i], sources[i] + sizes[i]
        fault = _decode_blocks(at, end, targets[i], n, width, block, memory, where, value)
        if fault:
            return i, fault
        # Their lengths have been checked just now.
        for _ in range(skip):
            at += 4 + _number(at, 4)
        places[i] = at - sources[i]
    return 0, 0
