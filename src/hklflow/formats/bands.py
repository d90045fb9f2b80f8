"""Frames in bands of rows: small enough to stay in the processor's cache until they are used.

A block of frames is larger than any cache. Its decoded counts would go out to memory and come
back; that takes as long as decoding. So a block is read as it is in the file, and decoded band
by band: bitshuffle's blocks of two thousand pixels can be decoded by themselves.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hklflow.formats.chunks import DamagedFrameError
from hklflow.formats.stream import Decoded

#: Bytes of a band, decoded: a part of a processor's last cache.
BAND_BYTES = 6_000_000
#: Rows that a band has a multiple of.
ROWS = 8


Bands = Generator["Band", None, None]


@dataclass(frozen=True)
class Band:
    """Some rows of a block of frames.

    Attributes
    ----------
    first : int
        First frame.
    row : int
        First row.
    counts : (n, rows, fast) array
        Rows are contiguous, frames need not be.
    last : bool
        Whether it is the last band of its block.
    """

    first: int
    row: int
    counts: NDArray[Any]
    last: bool


class PackedFrames:
    """Frames as they are in the file, to be decoded by rows, from the first to the last.

    Parameters
    ----------
    start : int
        Number of the first frame.
    chunks : list of (n_bytes,) uint8 arrays
    shape : (slow, fast)
    dtype : numpy dtype

    Attributes
    ----------
    block : int
        Elements of bitshuffle's blocks; 0 if it is not the same in all frames.

    Raises
    ------
    DamagedFrameError
        If a chunk is damaged.
    """

    def __init__(
        self, start: int, chunks: list[NDArray[np.uint8]], shape: tuple[int, int], dtype: Any
    ) -> None:
        from hklflow.formats.bitshuffle import HEADER, block_size

        # The chunks themselves are kept because only their addresses are used.
        self.start, self.n, self._chunks, self._shape = start, len(chunks), chunks, shape
        blocks = set()
        for number, chunk in enumerate(chunks):
            try:
                blocks.add(block_size(chunk, shape[0] * shape[1], np.dtype(dtype).itemsize))
            except ValueError as error:
                raise DamagedFrameError(start + number, error) from error
        self.block = blocks.pop() if len(blocks) == 1 else 0
        self._sources = np.array([chunk.ctypes.data for chunk in chunks])
        self._sizes = np.array([chunk.size for chunk in chunks])
        self._places = np.full(len(chunks), HEADER)

    def room(self, rows: int) -> int:
        """Elements of a buffer for so many rows of one frame."""
        return rows * self._shape[1] + 2 * self.block + 8

    def decode(self, row: int, rows: int, first: int, last: int, buffer: NDArray[Any]) -> None:
        """Decode rows of the frames first..last of these into a buffer (n, elements).

        For each frame ``row`` is where its last rows ended. They stand where `cut` finds them.
        Holds no lock.
        """
        from hklflow.formats.bitshuffle import FAULTS, decode_blocks

        n_slow, n_fast = self._shape
        begin, following = self._block_of(row), self._block_of(row + rows)
        end = -(-(row + rows) * n_fast // self.block)
        # With the last block go the few elements that are in none.
        last_block = self._block_of(n_slow)
        size = (n_slow * n_fast if end > last_block else end * self.block) - begin * self.block
        number, fault = decode_blocks(
            self._sources[first:last],
            self._sizes[first:last],
            self._places[first:last],
            self.block,
            size,
            buffer.itemsize,
            following - begin,
            buffer.ctypes.data + np.arange(first, last) * buffer.strides[0],
        )
        if fault:
            raise DamagedFrameError(self.start + first + number, FAULTS[fault])

    def _block_of(self, row: int) -> int:
        """Block in which a row begins; the last one, if it is in none."""
        n_slow, n_fast = self._shape
        last = -(-(n_slow * n_fast // 8 * 8) // self.block) - 1
        return min(row * n_fast // self.block, last)

    def cut(self, row: int, rows: int, buffer: NDArray[Any]) -> NDArray[Any]:
        """The rows (n, rows, fast) in a buffer that `decode` has filled."""
        skip = row * self._shape[1] - self._block_of(row) * self.block
        n_fast = self._shape[1]
        view = buffer[: self.n, skip : skip + rows * n_fast]
        return view.reshape(self.n, rows, n_fast)


class Packed(Decoded, Protocol):
    """What `bands` needs of `raw_frames.Frames`."""

    def _pack(
        self, start: int, stop: int, memory: NDArray[np.uint8]
    ) -> tuple[PackedFrames | None, NDArray[np.uint8]]: ...

    def _told(self) -> AbstractContextManager[None]: ...


def bands(frames: Packed, size: int, first: int, last: int, threads: int) -> Bands:
    """Bands of `Frames.bands`, whose arguments were checked."""
    n_slow, n_fast = frames.shape[1:]
    rows = BAND_BYTES // (size * n_fast * frames.dtype.itemsize) // ROWS * ROWS
    tops = range(0, n_slow, max(rows, ROWS))
    spans = [(start, min(start + size, last)) for start in range(first, last, size)]
    pool = ThreadPoolExecutor(threads, "hklflow-frames") if threads > 1 else _Now()
    try:
        yield from _bands(frames, spans, tops, pool, threads)
    finally:
        pool.shutdown(cancel_futures=True)


class _Now:
    """Stands for a pool of threads: everything is done when its result is asked for."""

    class _Job:
        def __init__(self, job: Any, arguments: tuple[Any, ...]) -> None:
            self._job, self._arguments = job, arguments

        def result(self) -> Any:
            return self._job(*self._arguments)

    def submit(self, job: Any, *arguments: Any) -> "_Now._Job":
        return self._Job(job, arguments)

    def shutdown(self, *, cancel_futures: bool) -> None:
        pass


def _bands(
    frames: Packed, spans: list[tuple[int, int]], tops: range, pool: Any, threads: int
) -> Bands:
    n_slow = frames.shape[1]
    rows = [min(tops.step, n_slow - row) for row in tops]
    # Both are used in turn: threads fill one while the other is in use.
    memory = [np.empty(0, np.uint8)] * 2
    buffers: list[NDArray[Any]] = []
    packed = pool.submit(frames._pack, *spans[0], memory[0]) if spans else None
    for number, (start, stop) in enumerate(spans):
        assert packed is not None
        block, memory[number % 2] = packed.result()
        if number + 1 < len(spans):
            frames._announce(*spans[number + 1])
            packed = pool.submit(frames._pack, *spans[number + 1], memory[(number + 1) % 2])
        if block is None:
            whole = np.empty((stop - start, *frames.shape[1:]), frames.dtype)
            frames._fill(start, stop, whole)
            for row, n in zip(tops, rows, strict=True):
                yield Band(start, row, whole[:, row : row + n], row == tops[-1])
            continue
        room = block.room(tops.step)
        if not buffers or buffers[0].shape[1] < room:
            buffers = [np.empty((spans[0][1] - spans[0][0], room), frames.dtype) for _ in "ab"]

        def begin(i: int, block: Any = block, buffers: Any = buffers) -> list[Any]:
            cuts = [block.n * k // threads for k in range(threads + 1)]
            return [
                pool.submit(block.decode, tops[i], rows[i], low, high, buffers[i % 2])
                for low, high in pairwise(cuts)
                if low < high
            ]

        pending = begin(0)
        for i, row in enumerate(tops):
            with frames._told():
                for part in pending:
                    part.result()
            if i + 1 < len(tops):
                pending = begin(i + 1)
            yield Band(start, row, block.cut(row, rows[i], buffers[i % 2]), row == tops[-1])
