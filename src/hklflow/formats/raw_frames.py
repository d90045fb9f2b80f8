"""The frames of one rotation, read in blocks or bands, whatever the format.

What a format implements is `Frames._read`; the other hooks make it faster.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    from hklflow.formats.bands import Band, PackedFrames

#: Pixels of a frame: more than any detector has. A damaged header may claim any number.
MOST_PIXELS = 200_000_000


class Frames(ABC):
    """The frames of one rotation, read in blocks; a context manager.

    Attributes
    ----------
    shape : (n, slow, fast)
    dtype : numpy dtype
        Of the pixels as stored.
    files : list of Path
        Every file the frames come from, in order (for hashes and provenance).
    dataset : (file, path in file) or None
        The one HDF5 dataset that holds all frames, where there is one (for links).
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    files: list[Path]
    dataset: tuple[Path, str] | None = None

    @abstractmethod
    def _read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames start..stop, with 0 <= start < stop <= n."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start <= z < stop`` as an array (stop - start, slow, fast).

        Raises
        ------
        HklflowError
            If frames outside the scan are asked for, or a file is missing,
            truncated or of another shape; it names the file and the frame.
        """
        self._require_within(start, stop)
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return self._read(start, stop)

    def blocks(self, size: int, first: int = 0, last: int | None = None) -> Iterator[NDArray[Any]]:
        """Frames first..last (exclusive) in order, at most `size` at a time."""
        _require_size(size)
        stop = self.shape[0] if last is None else last
        for start in range(first, stop, size):
            yield self.read(start, min(start + size, stop))

    def stream(
        self, size: int, first: int = 0, last: int | None = None, *, threads: int = 1
    ) -> Generator[NDArray[Any], None, None]:
        """Give the frames of `blocks`, but fast: a block lasts only until the next is asked for.

        Parameters
        ----------
        size : int
            Frames at a time.
        first, last : int
            Frames first..last (exclusive); None is the end.
        threads : int
            1: the calling thread decodes. More: so many threads decode the next block while
            the caller works on this one. Close the iterator, or let go of it, where it is
            left before its end.

        Returns
        -------
        iterator of (at most `size`, slow, fast) arrays
            C-contiguous, of `dtype`. Their memory is used again.

        Raises
        ------
        HklflowError
            If `size` or `threads` is below 1; else as `read`.
        """
        from hklflow.formats.stream import stream

        stop = self._begin(size, first, last, threads)
        return stream(self, size, first, stop, threads)

    def bands(
        self, size: int, first: int = 0, last: int | None = None, *, threads: int = 1
    ) -> "Generator[Band, None, None]":
        """Give the frames of `stream` in bands of rows that fit into the processor's cache.

        Parameters
        ----------
        size, first, last, threads
            As for `stream`.

        Returns
        -------
        iterator of Band
            Block after block, from the first row to the last. A band's counts last until the
            next one is asked for.

        Raises
        ------
        HklflowError
            As `stream`.
        """
        from hklflow.formats.bands import bands

        stop = self._begin(size, first, last, threads)
        return bands(self, size, first, stop, threads)

    def _begin(self, size: int, first: int, last: int | None, threads: int) -> int:
        """Check what `stream` and `bands` are asked for, and get ready; gives the end."""
        _require_size(size)
        if threads < 1:
            raise HklflowError(f"frames cannot be read by {threads} threads; use 1 or more")
        stop = self.shape[0] if last is None else last
        self._require_within(first, stop)
        self._prepare()
        return stop

    def _require_within(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.shape[0]:
            raise HklflowError(
                f"frames {start} to {stop} are not within the {self.shape[0]} frames of "
                f"{self.files[0]}; check the frame range"
            )

    # For `stream`; formats that can do better do.

    def _prepare(self) -> None:  # noqa: B027
        """Get ready for `_fill` in several threads."""

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Put frames start..stop, as of `_read`, into `out`; from several threads at once."""
        for frame in range(start, stop):
            out[frame - start] = self._read(frame, frame + 1)[0]

    def _pack(
        self, start: int, stop: int, memory: NDArray[np.uint8]
    ) -> "tuple[PackedFrames | None, NDArray[np.uint8]]":
        """Frames that can be decoded by rows, in this memory or more; None: they can't."""
        return None, memory

    def _told(self) -> AbstractContextManager[None]:
        """Within it, what is wrong with a frame of `_pack` is told as `read` tells it."""
        return nullcontext()

    def _announce(self, start: int, stop: int) -> None:  # noqa: B027
        """Tell the kernel that the bytes of these frames will be read next."""

    def close(self) -> None:  # noqa: B027  (most formats keep nothing open)
        """Close what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def require_frame_size(shape: Sequence[int], what: str) -> None:
    """Refuse frames that are larger than any detector, before there is memory for them.

    Raises
    ------
    HklflowError
        It begins with ``what``.
    """
    if math.prod(shape) > MOST_PIXELS:
        raise HklflowError(
            f"{what} has frames of {' x '.join(map(str, shape))} pixels, more than "
            f"{MOST_PIXELS}; the file is damaged or holds something else"
        )


def _require_size(size: int) -> None:
    if size < 1:
        raise HklflowError(f"a block of {size} frames is empty; use a size of 1 or more")
