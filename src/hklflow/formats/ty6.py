"""Unpack rows of the compression TY6 of CrysAlisPro.

A row begins with its first pixel; then come differences of neighbours in blocks of 16. A block has
one byte with the numbers of bits of its two halves, the 8 differences of each half in that number
of bits, and the differences that are too large for a byte in 2 or 4 bytes. The differences behind
the last whole block have a byte each, or more with an escape byte.
"""

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel

_ZERO = 127  # byte of the difference 0
_SHORT = 254  # escape byte: the number follows in 2 bytes, behind 255 in 4
_BLOCK = 16  # differences of a block


@kernel
def _number(data: NDArray[np.uint8], at: int, size: int) -> int:
    """Return a signed little-endian integer of 2 or 4 bytes."""
    value = 0
    for i in range(size):
        value |= int(data[at + i]) << (8 * i)
    return value - (1 << (8 * size)) if value >> (8 * size - 1) else value


@kernel
def ty6_rows(data: NDArray[np.uint8], starts: NDArray[np.int64], out: NDArray[np.int32]) -> int:
    """Unpack all rows; return the number of the first damaged row, or -1."""
    for row in range(out.shape[0]):
        end = starts[row + 1] if row + 1 < len(starts) else data.size
        if not 0 <= starts[row] < end <= data.size or _row(data, starts[row], end, out[row]) != end:
            return row
    return -1


@kernel
def _row(data: NDArray[np.uint8], at: int, end: int, out: NDArray[np.int32]) -> int:
    """Unpack the row in the bytes at..end; return the end, or -1 if it has another length."""
    done, last = 0, 0
    fields = np.empty(_BLOCK, np.int64)
    while done < out.size:
        # The first pixel and those behind the last whole block have bytes of their own.
        if done == 0 or out.size - done < _BLOCK:
            if at >= end:
                return -1
            value = int(data[at])
            at += 1
            if value >= _SHORT:
                size = 2 if value == _SHORT else 4
                if at + size > end:
                    return -1
                value = _number(data, at, size) + _ZERO
                at += size
            last += value - _ZERO
            out[done] = last
            done += 1
            continue
        at = _fields(data, at, end, fields)
        if at < 0:
            return -1
        for i in range(_BLOCK):
            difference = int(fields[i])
            if difference >= _SHORT - _ZERO:
                size = 2 if difference == _SHORT - _ZERO else 4
                if at + size > end:
                    return -1
                difference = _number(data, at, size)
                at += size
            last += difference
            out[done] = last
            done += 1
    return at


@kernel
def _fields(data: NDArray[np.uint8], at: int, end: int, out: NDArray[np.int64]) -> int:
    """Store the 16 differences of a block without its escapes; return the address behind, or -1."""
    if at >= end:
        return -1
    both = int(data[at])
    at += 1
    for half in range(2):
        bits = (both >> (4 * half)) & 15
        if bits > 8 or at + bits > end:
            return -1
        word = np.uint64(0)
        for i in range(bits):
            word |= np.uint64(data[at + i]) << np.uint64(8 * i)
        at += bits
        zero = (1 << (bits - 1)) - 1 if bits > 1 else 0
        mask = np.uint64((1 << bits) - 1)
        for i in range(8):
            out[8 * half + i] = np.int64((word >> np.uint64(bits * i)) & mask) - zero
    return at
