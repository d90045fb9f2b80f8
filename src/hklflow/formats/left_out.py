"""Scan with some frames left out: all pixels of these frames are flagged.

Frames that are left out are not read, so they may be damaged.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hklflow.formats.raw_frames import Frames
from hklflow.images.masks import flag_value

if TYPE_CHECKING:
    from hklflow.formats.bands import PackedFrames


class PartlyLeftOut(Frames):
    """Frames in which each left-out frame is filled with the flag of its type (largest, -1 or NaN).

    Parameters
    ----------
    frames : Frames
        The frames as measured; closed with this object.
    left_out : sequence of int
        Numbers of the raw frames that are left out.
    """

    def __init__(self, frames: Frames, left_out: Sequence[int]) -> None:
        self._frames = frames
        self.shape, self.dtype, self.files = frames.shape, frames.dtype, frames.files
        self._out = np.zeros(self.shape[0], np.bool_)
        self._out[list(left_out)] = True
        largest = flag_value(self.dtype)
        self._flag = largest or (np.nan if self.dtype.kind == "f" else -1)

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, bool]]:
        """Yield runs of frames: the first frame, the end, and True if the run is left out."""
        changes = np.flatnonzero(np.diff(self._out[start:stop])) + start + 1
        edges = [start, *changes.tolist(), stop]
        for low, high in pairwise(edges):
            yield low, high, bool(self._out[low])

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        block = np.full((stop - start, *self.shape[1:]), self._flag, self.dtype)
        for low, high, out in self._runs(start, stop):
            if not out:
                block[low - start : high - start] = self._frames._read(low, high)
        return block

    def _prepare(self) -> None:
        self._frames._prepare()

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None:
        for low, high, left_out in self._runs(start, stop):
            part = out[low - start : high - start]
            if left_out:
                part[...] = self._flag
            else:
                self._frames._fill(low, high, part)

    def _pack(
        self, start: int, stop: int, memory: NDArray[np.uint8]
    ) -> "tuple[PackedFrames | None, NDArray[np.uint8]]":
        if self._out[start:stop].any():
            return None, memory
        return self._frames._pack(start, stop, memory)

    def _naming_damage(self) -> AbstractContextManager[None]:
        return self._frames._naming_damage()

    def _announce(self, start: int, stop: int) -> None:
        for low, high, out in self._runs(start, stop):
            if not out:
                self._frames._announce(low, high)

    def close(self) -> None:
        """Close the frames as measured."""
        self._frames.close()
