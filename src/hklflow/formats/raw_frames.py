"""Read the frames of one rotation in blocks or bands, whatever the format.

A format implements `Frames._read`; the other hooks make reading faster.
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

#: Largest number of pixels of a frame, above any detector. Damaged headers may claim more.
MOST_PIXELS = 200_000_000


class Frames(ABC):
    """Frames of one rotation, read in blocks; a context manager.

    Attributes
    ----------
    shape : (n, slow, fast)
    dtype : numpy dtype
        Type of the pixels as stored.
    files : list of Path
        All source files of the frames, in order (for hashes and provenance).
    dataset : (file, path in file) or None
        The HDF5 dataset that contains all frames, for links; None if there is no such dataset.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    files: list[Path]
    dataset: tuple[Path, str] | None = None

    @abstractmethod
    def _read(self, start: int, stop: int) -> NDArray[Any]:
        """Return frames start..stop, with 0 <= start < stop <= n."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Return frames ``start <= z < stop`` as an array (stop - start, slow, fast).

        Raises
        ------
        HklflowError
            If frames are outside the scan, or a file is missing, truncated or of another shape;
            the message names the file and the frame.
        """
        self._require_within(start, stop)
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return self._read(start, stop)

    def blocks(self, size: int, first: int = 0, last: int | None = None) -> Iterator[NDArray[Any]]:
        """Yield frames first..last (exclusive) in order, at most `size` at a time."""
        _require_size(size)
        stop = self.shape[0] if last is None else last
        for start in range(first, stop, size):
            yield self.read(start, min(start + size, stop))

    def stream(
        self, size: int, first: int = 0, last: int | None = None, *, threads: int = 1
    ) -> Generator[NDArray[Any], None, None]:
        """Yield the frames of `blocks` faster: a block is valid only until the next one is read.

        Parameters
        ----------
        size : int
            Frames at a time.
        first, last : int
            Frames first..last (exclusive); None: to the end.
        threads : int
            1: the calling thread decodes. More: this number of threads decodes the next block
            while the caller uses the current one. Close or delete the iterator if you stop
            before its end.

        Returns
        -------
        iterator of (at most `size`, slow, fast) arrays
            C-contiguous, of `dtype`. Their memory is reused.

        Raises
        ------
        HklflowError
            If `size` or `threads` is below 1; otherwise as `read`.
        """
        from hklflow.formats.stream import stream

        stop = self._begin(size, first, last, threads)
        return stream(self, size, first, stop, threads)

    def bands(
        self, size: int, first: int = 0, last: int | None = None, *, threads: int = 1
    ) -> "Generator[Band, None, None]":
        """Yield the frames of `stream` in bands of rows that fit into the processor's cache.

        Parameters
        ----------
        size, first, last, threads
            As for `stream`.

        Returns
        -------
        iterator of Band
            Block after block, from the first row to the last. The counts of a band are valid only
            until the next band is read.

        Raises
        ------
        HklflowError
            As `stream`.
        """
        from hklflow.formats.bands import bands

        stop = self._begin(size, first, last, threads)
        return bands(self, size, first, stop, threads)

    def _begin(self, size: int, first: int, last: int | None, threads: int) -> int:
        """Check the arguments of `stream` and `bands`, and prepare; return the end."""
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

    # Hooks for `stream`: a format may override them with faster ones.

    def _prepare(self) -> None:  # noqa: B027
        """Prepare for calls of `_fill` in several threads."""

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Store frames start..stop, as from `_read`, in `out`; called from several threads."""
        for frame in range(start, stop):
            out[frame - start] = self._read(frame, frame + 1)[0]

    def _pack(
        self, start: int, stop: int, memory: NDArray[np.uint8]
    ) -> "tuple[PackedFrames | None, NDArray[np.uint8]]":
        """Return compressed frames, in this memory or larger; None if rows cannot be decoded."""
        return None, memory

    def _naming_damage(self) -> AbstractContextManager[None]:
        """Return a context in which damage found by `_pack` raises the same error as `read`."""
        return nullcontext()

    def _announce(self, start: int, stop: int) -> None:  # noqa: B027
        """Announce to the kernel that the bytes of these frames will be read next."""

    def close(self) -> None:  # noqa: B027  (most formats keep nothing open)
        """Close all open files."""

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
    """Require that frames are not larger than any detector, before memory is allocated.

    Raises
    ------
    HklflowError
        If they are; the message begins with ``what``.
    """
    if math.prod(shape) > MOST_PIXELS:
        raise HklflowError(
            f"{what} has frames of {' x '.join(map(str, shape))} pixels, more than "
            f"{MOST_PIXELS}; the file is damaged or contains something else"
        )


def _require_size(size: int) -> None:
    if size < 1:
        raise HklflowError(f"a block of {size} frames is empty; use a size of 1 or more")
