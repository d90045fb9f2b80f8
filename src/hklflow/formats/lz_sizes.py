"""Unpack or measure LZ4 and LZF data that may be damaged."""

import numpy as np
from numpy.typing import NDArray

from hklflow.formats.bitshuffle import FAULTS, LZ4, SLACK, unpack
from hklflow.simd.jit import kernel

__all__ = ["SLACK", "lzf_size", "unpack_lz4"]


def unpack_lz4(packed: NDArray[np.uint8], room: NDArray[np.uint8], size: int) -> None:
    """Unpack LZ4 data of exactly `size` bytes; may overwrite `SLACK` bytes behind them.

    Raises
    ------
    ValueError
        If the data are damaged or have the wrong size, or the buffer is too small.
    """
    if room.size < size + SLACK or not (room.flags.c_contiguous and packed.flags.c_contiguous):
        raise ValueError(f"the buffer is too small for {size} bytes")
    at = packed.ctypes.data
    if not unpack(at, at + packed.size, at + packed.size, room.ctypes.data, size):
        raise ValueError(FAULTS[LZ4])


@kernel
def lzf_size(chunk: NDArray[np.uint8], most: int) -> int:
    """Return the unpacked size of LZF data (counting stops above `most`); -1: damaged data."""
    at, size = 0, 0
    while at < chunk.size and size <= most:
        control = int(chunk[at])
        at += 1
        if control < 32:
            at += control + 1
            size += control + 1
            continue
        length = control >> 5
        if length == 7 and at < chunk.size:
            length += int(chunk[at])
            at += 1
        if at >= chunk.size or ((control & 31) << 8) + int(chunk[at]) >= size:
            return -1
        at += 1
        size += length + 2
    return size if at <= chunk.size else -1
