"""Check that the compressed chunks of an HDF5 dataset unpack to the size of a chunk.

HDF5 does not check its filters. If a filter returns too few bytes, the frame contains arbitrary
memory; if it returns too many, it overwrites memory; some filters read or write anywhere when a
chunk is damaged. So each chunk is checked before HDF5 unpacks it.
"""

import bz2
import ctypes
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.formats.chunks import BITSHUFFLE, OVERHEAD, DamagedFrameError

DEFLATE, SHUFFLE, FLETCHER32, SZIP, BZIP2 = 1, 2, 3, 4, 307
LZF, BLOSC, LZ4, ZSTD = 32000, 32001, 32004, 32015

# Chunks of bitshuffle and LZ4: bytes of the header, and of a block if the header says 0.
_HEADER, _BLOCK = 12, 8192

# Reserved by the HDF Group for tests; registered in this process only.
_PROBE = 511


Bytes = NDArray[np.uint8]


class Filter(NamedTuple):
    """Filter of a dataset: its number and its parameters."""

    number: int
    values: tuple[int, ...]


def filters_of(data: Any) -> list[Filter]:
    """Return the filters of a dataset, in the order in which they pack."""
    pipeline = data.id.get_create_plist()
    filters = [pipeline.get_filter(i) for i in range(pipeline.get_nfilters())]
    return [Filter(number, tuple(values)) for number, _, values, _ in filters]


def compressions(filters: list[Filter]) -> list[Filter]:
    """Return the filters that change the size by an amount that is not known beforehand."""
    return [f for f in filters if f.number not in (SHUFFLE, FLETCHER32)]


def require_sizes(data: Any, start: int, stop: int, out: NDArray[Any] | None = None) -> bool:
    """Require that the chunks of frames start..stop unpack to the size of a chunk.

    Parameters
    ----------
    data : h5py.Dataset
        Dataset (n, ...); not virtual.
    out : array or None
        Buffer for these frames. If each chunk is a frame and the check unpacks it, the frame is
        stored here, so that it is not unpacked a second time.

    Returns
    -------
    bool
        True if all frames were stored in ``out``.

    Raises
    ------
    DamagedFrameError
        If a chunk fails; with the number of the frame in the dataset.
    """
    filters = filters_of(data)
    if not filters or data.chunks is None:
        return False
    complete = out is not None and data.chunks == (1, *data.shape[1:])
    size = int(np.prod(data.chunks)) * data.dtype.itemsize
    for corner in _chunks(data, start, stop):
        frame = max(start, corner[0])
        try:
            packed = data.id.get_chunk_info_by_coord(corner).size
            if packed > size + size // 8 + OVERHEAD:
                raise ValueError(f"its {packed} bytes are more than the {size} bytes of a chunk")
            mask, chunk = data.id.read_direct_chunk(corner)
            applied = [f for i, f in enumerate(filters) if not mask >> i & 1]
            plain = _require_size(np.frombuffer(chunk, np.uint8), applied, size)
        except (OSError, ValueError) as error:
            raise DamagedFrameError(frame, f"{data.name}: {error}") from error
        complete = complete and plain is not None
        if complete and out is not None and plain is not None:
            out[frame - start] = plain.view(data.dtype).reshape(data.shape[1:])
    return complete


def _chunks(data: Any, start: int, stop: int) -> Iterator[tuple[int, ...]]:
    """Yield the first elements of the chunks that contain frames start..stop."""
    steps = data.chunks
    grid = [-(-n // step) for n, step in zip(data.shape[1:], steps[1:], strict=True)]
    for frame in range(start // steps[0] * steps[0], stop, steps[0]):
        for corner in np.ndindex(*grid):
            yield (frame, *(int(i * step) for i, step in zip(corner, steps[1:], strict=True)))


def _require_size(chunk: Bytes, filters: list[Filter], size: int) -> Bytes | None:
    """Require that these filters unpack a chunk to `size` bytes.

    Returns the unpacked bytes if the check unpacks them and HDF5 has no filter left to undo.
    """
    inside = list(filters)
    # Checksums of 4 bytes are outside or inside the compression.
    while inside and inside[-1].number in (SHUFFLE, FLETCHER32):
        chunk = chunk[: chunk.size - 4] if inside.pop().number == FLETCHER32 else chunk
    if not inside:
        _same(chunk.size, size)
        return chunk if not filters else None
    last = inside.pop()
    size += 4 * sum(f.number == FLETCHER32 for f in inside)
    if last.number == BITSHUFFLE:
        _bitshuffle(chunk, last.values, size)
        return None
    check = _CHECKS.get(last.number)
    plain = None if check is None else check(chunk, size)
    return plain if len(filters) == 1 else None


def _same(unpacked: int, size: int, *, more: bool = False) -> None:
    if unpacked != size:
        least = "at least " if more else ""
        raise ValueError(f"it unpacks to {least}{unpacked} bytes, not the {size} of a chunk")


def _deflate(chunk: Bytes, size: int) -> Bytes:
    from isal import isal_zlib

    return _unpacked(isal_zlib.decompressobj(), isal_zlib.error, chunk, size)


def _bzip2(chunk: Bytes, size: int) -> Bytes:
    return _unpacked(bz2.BZ2Decompressor(), OSError, chunk, size)


def _unpacked(unpacker: Any, error: Any, chunk: Bytes, size: int) -> Bytes:
    """Unpack at most one byte more than expected."""
    try:
        plain = unpacker.decompress(chunk.data, size + 1)
    except (error, EOFError) as problem:
        raise ValueError(str(problem)) from problem
    _same(len(plain), size, more=len(plain) > size)
    if not unpacker.eof:
        raise ValueError("its compressed data are truncated")
    return np.frombuffer(plain, np.uint8)


def _number(chunk: Bytes, at: int, n: int, order: Any = "big") -> int:
    """Return a whole number of a chunk."""
    if at + n > chunk.size:
        raise ValueError("its compressed data are truncated")
    return int.from_bytes(chunk[at : at + n].tobytes(), order)


def _bitshuffle(chunk: Bytes, values: tuple[int, ...], size: int) -> None:
    if len(values) < 5 or values[4] == 0:  # without compression
        return _same(chunk.size, size)
    _same(_number(chunk, 0, 8), size)
    width, block = values[2], _number(chunk, 8, 4) or _BLOCK
    if width == 0 or block % (8 * width):
        raise ValueError("its compressed data have an invalid block size")
    blocks = -(-(size // width // 8 * 8) // (block // width))
    end = _walk(chunk, _HEADER, blocks)
    if chunk.size - end < size % (8 * width):
        raise ValueError("its compressed data are truncated")
    return None


def _walk(chunk: Bytes, at: int, blocks: int) -> int:
    """Return the end of this number of blocks; each block begins with its length."""
    data = chunk.data
    for _ in range(blocks):
        # Behind the end there are no bytes: the length is read as 0.
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    if at > chunk.size:
        raise ValueError("its compressed data are truncated")
    return at


def _lz4(chunk: Bytes, size: int) -> Bytes:
    from hklflow.formats.lz_sizes import SLACK, unpack_lz4

    _same(_number(chunk, 0, 8), size)
    block, at = _number(chunk, 8, 4), _HEADER
    if block == 0:
        raise ValueError("its compressed data have an invalid block size")
    room = np.empty(size + SLACK, np.uint8)
    for start in range(0, size, block):
        plain, packed = min(block, size - start), _number(chunk, at, 4)
        at += 4
        if packed > chunk.size - at:
            raise ValueError("its compressed data are truncated")
        if packed == plain:
            room[start : start + plain] = chunk[at : at + packed]
        else:
            unpack_lz4(chunk[at : at + packed], room[start:], plain)
        at += packed
    return room[:size]


def _blosc(chunk: Bytes, size: int) -> None:
    _same(_number(chunk, 4, 4, "little"), size)
    if _number(chunk, 12, 4, "little") != chunk.size:
        raise ValueError("its compressed data are truncated")


def _szip(chunk: Bytes, size: int) -> None:
    _same(_number(chunk, 0, 4, "little"), size)


def _lzf(chunk: Bytes, size: int) -> None:
    from hklflow.formats.lz_sizes import lzf_size

    unpacked = int(lzf_size(chunk, size))
    if unpacked < 0:
        raise ValueError("its compressed data are damaged")
    _same(unpacked, size, more=unpacked > size)


def _zstd(chunk: Bytes, size: int) -> Bytes:
    """Unpack with HDF5; a second filter counts the bytes, as HDF5's accepts damaged data."""
    import h5py

    if _number(chunk, 0, 4, "little") != 0xFD2FB528:
        raise ValueError("its compressed data do not begin with the Zstandard mark")
    # RFC 8878, 3.1.1.1: window, dictionary and size of the data.
    form = _number(chunk, 4, 1)
    single, n = form >> 5 & 1, (form >> 5 & 1, 2, 4, 8)[form >> 6]
    at = 5 + (1 - single) + (0, 1, 2, 4)[form & 3]
    _same(_number(chunk, at, n, "little") + 256 * (n == 2) if n else 0, size)
    _register_probe()
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((size,))
    plan.set_filter(_PROBE, 0, (size,))
    plan.set_filter(ZSTD, 0, ())
    with h5py.File("probe", "w", driver="core", backing_store=False) as file:
        space = h5py.h5s.create_simple((size,))
        data = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, space, plan)
        data.write_direct_chunk((0,), chunk.tobytes())
        plain = np.empty(size, np.uint8)
        try:
            data.read(space, space, plain)
        except OSError:
            raise ValueError("its compressed data are damaged") from None
    return plain


_CHECKS: dict[int, Callable[[Bytes, int], Bytes | None]] = {
    DEFLATE: _deflate,
    SZIP: _szip,
    BZIP2: _bzip2,
    LZF: _lzf,
    BLOSC: _blosc,
    LZ4: _lz4,
    ZSTD: _zstd,
}


@cache
def _register_probe() -> Any:
    """Register a filter that fails unless its input has as many bytes as its parameter says.

    HDF5 does not check what a filter returns; this filter checks it in the next step.
    """
    import h5py

    size_t, uint = ctypes.c_size_t, ctypes.c_uint
    values, sizes = ctypes.POINTER(uint), ctypes.POINTER(size_t)
    signature = ctypes.CFUNCTYPE(size_t, uint, size_t, values, size_t, sizes, ctypes.c_void_p)

    def count(flags: int, n: int, values: Any, n_bytes: int, room: Any, buffer: Any) -> int:
        return n_bytes if n == 1 and values[0] == n_bytes else 0

    probe = signature(count)

    class FilterClass(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_int) for name in ("version", "number")),
            *((name, uint) for name in ("encodes", "decodes")),
            ("name", ctypes.c_char_p),
            *((name, ctypes.c_void_p) for name in ("can_apply", "set_local")),
            ("filter", signature),
        )

    filter_class = FilterClass(1, _PROBE, 1, 1, b"size", None, None, probe)
    h5py.h5z.register_filter(ctypes.addressof(filter_class))
    # The cache keeps these objects alive: HDF5 has copied their addresses only.
    return filter_class, probe
