"""Decoder of bitshuffle-LZ4, the usual compression of detector frames in HDF5.

A chunk has a header of 12 bytes (big-endian: frame size in 8 bytes, block size in 4 bytes), then
the blocks, then at most 7 uncompressed elements. A block has its compressed length (4 bytes,
big-endian), then the LZ4 data of its bit planes: bit 0 of all its elements, bit 1 ... The last
block may be shorter by multiples of 8 elements.

Counts are small and masked pixels are all ones, so most planes of a block are zero or equal to
the plane before. Equal planes are added in one step, zero planes are skipped.

The kernels work with addresses: only the checks in this module protect against damaged data.
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
SLACK = 64  # bytes behind the planes of a block that copies may overwrite

FAULTS = (
    "",
    "its compressed data are truncated",
    "its compressed data have the wrong size",
    "its compressed data have an invalid block size",
    "a block of its compressed data is not LZ4 or has the wrong size",
)
EARLY, SIZE, BLOCK, LZ4 = 1, 2, 3, 4


@kernel
def _long(at: int, end: int) -> tuple[int, int]:
    """Return a length that does not fit into 4 bits, and the address behind it or -1."""
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
    """Fill to..after with the bytes `offset` before; up to 31 bytes behind are overwritten."""
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
    """Decode the LZ4 data at..end to exactly `size` bytes; return False if they are damaged.

    Reads bytes only up to `limit`; may overwrite SLACK bytes behind the target.
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
            # The last literals are not followed by a match.
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
    """Return True if `n` bytes are equal."""
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
    planes: int, length: int, n: int, addresses: NDArray[np.int64], bits: NDArray[np.int64]
) -> int:
    """Group equal planes that are not zero: store the address of the first plane and the bits.

    There are `n` planes of `length` bytes, with a plane of zeros before them. Returns the number
    of groups.
    """
    groups = 0
    zeros = planes - length
    empty = True
    for plane in range(n):
        address = planes + plane * length
        if _alike(address, address - length, length):
            if not empty:
                bits[groups - 1] |= 1 << plane
            continue
        empty = _alike(address, zeros, length)
        if not empty:
            addresses[groups] = address
            bits[groups] = 1 << plane
            groups += 1
    return groups


@kernel
def _number(address: int, n_bytes: int) -> int:
    """Return a big-endian number."""
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
    """Decode the blocks at..end of a chunk; return the fault, an index of FAULTS.

    The caller owns the arrays: numba frees an array of which only the address is used.
    """
    # numba takes addresses as unsigned; unsigned with signed integers would become float64.
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
    """Decode a chunk to `n` elements of `width` bytes; return the fault, an index of FAULTS."""
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
    """Decode one chunk; releases the GIL.

    Parameters
    ----------
    chunk : (n,) uint8 array
        Bytes as stored in the file.
    out : array
        C-contiguous, elements of 1, 2 or 4 bytes. Undefined after an error.

    Raises
    ------
    ValueError
        If the chunk is damaged or has the wrong size, or an array has the wrong layout.
    """
    if not (chunk.flags.c_contiguous and chunk.itemsize == 1):
        raise ValueError("the chunk is not a contiguous array of bytes")
    if not (out.flags.c_contiguous and out.flags.writeable and out.itemsize in (1, 2, 4)):
        raise ValueError(f"cannot decode to {out.dtype}: give a C array of 1, 2 or 4 bytes")
    fault = _decode(chunk.ctypes.data, chunk.size, out.ctypes.data, out.size, out.itemsize)
    if fault:
        raise ValueError(FAULTS[fault])


@kernel
def _block_size(source: int, n_bytes: int, n: int, width: int) -> int:
    """Return the elements of a block of a chunk, or minus the fault."""
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
    """Return the elements of each block of a chunk except the last.

    Parameters
    ----------
    chunk : (n_bytes,) uint8 array
        Bytes as stored in the file.
    n, width : int
        Elements of the frame, and bytes of an element.

    Raises
    ------
    ValueError
        If the chunk is damaged or has the wrong size.
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
    """Decode the same blocks of several chunks; releases the GIL.

    Parameters
    ----------
    sources, sizes : (chunks,) int64 arrays
        Addresses and sizes (bytes) of whole chunks.
    places : (chunks,) int64 array
        Offset of the first of these blocks in each chunk, bytes; `HEADER` for the first block
        of the chunk. The call increases it by ``skip`` blocks.
    block : int
        Elements of a block.
    n, width : int
        Elements to decode from each chunk, and bytes of an element: whole blocks, or all up to
        the end of the frame.
    skip : int
        Number of blocks, at most the number decoded.
    targets : (chunks,) int64 array
        Addresses of the output.

    Returns
    -------
    damaged, fault : int
        Number of the first damaged chunk and an index of `FAULTS`; the fault is 0 if all chunks
        are good.
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
        # The lengths of these blocks have been checked by the decoder.
        for _ in range(skip):
            at += 4 + _number(at, 4)
        places[i] = at - sources[i]
    return 0, 0
