"""Blocks of frames in order, decoded ahead, in memory that is reused.

New memory for each block would take as long as decoding: the kernel provides it page by page.
"""

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Blocks = Generator[NDArray[Any], None, None]


class Decoded(Protocol):
    """Part of `raw_frames.Frames` that `stream` uses."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None: ...

    def _announce(self, start: int, stop: int) -> None: ...


def stream(frames: Decoded, size: int, first: int, last: int, threads: int) -> Blocks:
    """Yield the blocks of `Frames.stream`; the caller has checked the arguments."""
    spans = [(start, min(start + size, last)) for start in range(first, last, size)]
    if threads > 1:
        return _ahead(frames, spans, threads)
    return _plain(frames, spans)


def _buffer(frames: Decoded, spans: list[tuple[int, int]]) -> NDArray[Any]:
    return np.empty((spans[0][1] - spans[0][0], *frames.shape[1:]), frames.dtype)


def _plain(frames: Decoded, spans: list[tuple[int, int]]) -> Blocks:
    """Decode in the calling thread; meanwhile the kernel reads the next block from the disk."""
    if not spans:
        return
    buffer = _buffer(frames, spans)
    for (start, stop), following in zip(spans, [*spans[1:], None], strict=True):
        out = buffer[: stop - start]
        frames._fill(start, stop, out)
        if following is not None:
            frames._announce(*following)
        yield out


def _ahead(frames: Decoded, spans: list[tuple[int, int]], threads: int) -> Blocks:
    """Decode the next block in threads, while the caller uses the current one."""
    if not spans:
        return
    buffers = [_buffer(frames, spans) for _ in spans[:2]]
    pool = ThreadPoolExecutor(threads, thread_name_prefix="hklflow-frames")

    def begin(block: int) -> list[Future[None]]:
        start, stop = spans[block]
        out = buffers[block % 2]
        cuts = [start + (stop - start) * i // threads for i in range(threads + 1)]
        return [
            pool.submit(frames._fill, low, high, out[low - start : high - start])
            for low, high in pairwise(cuts)
            if low < high
        ]

    try:
        pending = begin(0)
        for block, (start, stop) in enumerate(spans):
            # In their order, so that the first bad frame is reported.
            for part in pending:
                part.result()
            if block + 1 < len(spans):
                pending = begin(block + 1)
            if block + 2 < len(spans):
                frames._announce(*spans[block + 2])
            yield buffers[block % 2][: stop - start]
    finally:
        pool.shutdown(cancel_futures=True)
