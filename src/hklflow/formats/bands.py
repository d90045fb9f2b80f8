"""Read frames in bands of rows that fit into the processor's cache.

A block of frames is larger than any cache. Writing its decoded counts to memory and reading them
back takes as long as decoding. So a block is read in compressed form and decoded band by band:
each bitshuffle block of two thousand pixels can be decoded separately.
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

#: Bytes of a decoded band: a part of a processor's last-level cache.
BAND_BYTES = 6_000_000
#: The number of rows of a band is a multiple of this.
ROWS = 8


Bands = Generator["Band", None, None]


@dataclass(frozen=True)
class Band:
    """Band of rows of a block of frames.

    Attributes
    ----------
    first : int
        Number of the first frame.
    row : int
        Number of the first row.
    counts : (n, rows, fast) array
        Counts: rows are contiguous, frames need not be.
    last : bool
        True for the last band of its block.
    """

    first: int
    row: int
    counts: NDArray[Any]
    last: bool


class PackedFrames:
    """Compressed frames, to be decoded band by band from the first row to the last.

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
        Elements of a bitshuffle block; 0 if the frames differ in it.

    Raises
    ------
    DamagedFrameError
        If a chunk is damaged.
    """

    def __init__(
        self, start: int, chunks: list[NDArray[np.uint8]], shape: tuple[int, int], dtype: Any
    ) -> None:
        from hklflow.formats.bitshuffle import HEADER, block_size

        # The chunks are kept alive, because the decoder uses their addresses.
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
        """Return the elements that a buffer needs for this number of rows of one frame."""
        return rows * self._shape[1] + 2 * self.block + 8

    def decode(self, row: int, rows: int, first: int, last: int, buffer: NDArray[Any]) -> None:
        """Decode rows of the frames first..last of this block into a buffer (n, elements).

        Call with increasing rows: each call continues where the last one ended in the chunks. `cut`
        returns the rows from the buffer. Holds no lock.
        """
        from hklflow.formats.bitshuffle import FAULTS, decode_blocks

        n_slow, n_fast = self._shape
        begin, following = self._block_of(row), self._block_of(row + rows)
        end = -(-(row + rows) * n_fast // self.block)
        # The last block comes with the few elements behind it, which belong to no block.
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
        """Return the block in which a row begins; the last block, if the row begins behind it."""
        n_slow, n_fast = self._shape
        last = -(-(n_slow * n_fast // 8 * 8) // self.block) - 1
        return min(row * n_fast // self.block, last)

    def cut(self, row: int, rows: int, buffer: NDArray[Any]) -> NDArray[Any]:
        """Return the rows (n, rows, fast) of a buffer that `decode` has filled."""
        skip = row * self._shape[1] - self._block_of(row) * self.block
        n_fast = self._shape[1]
        view = buffer[: self.n, skip : skip + rows * n_fast]
        return view.reshape(self.n, rows, n_fast)


class Packed(Decoded, Protocol):
    """Part of `raw_frames.Frames` that `bands` uses."""

    def _pack(
        self, start: int, stop: int, memory: NDArray[np.uint8]
    ) -> tuple[PackedFrames | None, NDArray[np.uint8]]: ...

    def _naming_damage(self) -> AbstractContextManager[None]: ...


def bands(frames: Packed, size: int, first: int, last: int, threads: int) -> Bands:
    """Yield the bands of `Frames.bands`; the caller has checked the arguments."""
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
    """Replacement of a pool of threads: a job runs when its result is requested."""

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
    # Two buffers in alternation: threads fill one while the consumer uses the other.
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
            with frames._naming_damage():
                for part in pending:
                    part.result()
            if i + 1 < len(tops):
                pending = begin(i + 1)
            yield Band(start, row, block.cut(row, rows[i], buffers[i % 2]), row == tops[-1])
