"""Blocks of frames in order, decoded ahead, in memory that is used again.

Fresh memory for every block would cost as much as decoding does: the kernel hands it out
page by page.
"""

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Blocks = Generator[NDArray[Any], None, None]


class Decoded(Protocol):
    """What `stream` needs of `raw_frames.Frames`."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None: ...

    def _announce(self, start: int, stop: int) -> None: ...


def stream(frames: Decoded, size: int, first: int, last: int, threads: int) -> Blocks:
    """Blocks of `Frames.stream`, whose arguments were checked."""
    spans = [(start, min(start + size, last)) for start in range(first, last, size)]
    if threads > 1:
        return _ahead(frames, spans, threads)
    return _plain(frames, spans)


def _buffer(frames: Decoded, spans: list[tuple[int, int]]) -> NDArray[Any]:
    return np.empty((spans[0][1] - spans[0][0], *frames.shape[1:]), frames.dtype)


def _plain(frames: Decoded, spans: list[tuple[int, int]]) -> Blocks:
    """The caller decodes; the kernel is told to read the next block from the disk meanwhile."""
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
    """Threads decode the next block, cut among them, while the caller has this one."""
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
            # In their order, so that the first bad frame is told.
            for part in pending:
                part.result()
            if block + 1 < len(spans):
                pending = begin(block + 1)
            if block + 2 < len(spans):
                frames._announce(*spans[block + 2])
            yield buffers[block % 2][: stop - start]
    finally:
        pool.shutdown(cancel_futures=True)
