"""Raw frames of a rotation measured with an integrating detector, module by module.

The frames come from a raw file with the usual layout of a photon counter (JUNGFRAU: uint16, gain
in the two top bits, modules stacked along slow), or from the files of a run in one of the layouts
of `hklflow.constants.layouts`. The frames of a run are all trains from the first to the last listed
train, with all memory cells in use, in this order. A frame that a module has lost is still counted,
because the index of a frame gives its rotation angle.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants import layouts
from hklflow.constants.detectors import Integrating
from hklflow.constants.preprocess import trains_of
from hklflow.constants.raw_frames import outlier_trains, valid_frames
from hklflow.formats.header import Header
from hklflow.formats.raw import open_frames, read_header
from hklflow.formats.raw_frames import Frames

_ADC, _GAIN_BIT = np.uint16(0x3FFF), np.uint16(14)


@dataclass(frozen=True)
class Part:
    """Frames of one module and one memory cell.

    Attributes
    ----------
    module : int
        Index of the module in the image, from 0.
    cell : int
        Detector's number of the memory cell.
    at : (n,) int64 array
        Indices of the frames in the block.
    analog, digital : (n, ss, fs) arrays
    """

    module: int
    cell: int
    at: NDArray[np.int64]
    analog: NDArray[np.uint16]
    digital: NDArray[np.uint16]


class RotationFrames(ABC):
    """Base class of the frames of a rotation; a context manager.

    Attributes
    ----------
    n : int
        Number of frames.
    cells : tuple of int
        Memory cells of the frames.
    header : Header
        Other metadata of the raw files.
    """

    n: int
    cells: tuple[int, ...]
    header: Header

    @abstractmethod
    def read(self, start: int, stop: int) -> Iterator[Part]:
        """Read frames from start to stop (exclusive); a frame that no part contains is lost."""

    @abstractmethod
    def close(self) -> None:
        """Close all open files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Stacked(RotationFrames):
    """Frames of a raw file with the gain in the two top bits, modules stacked along slow.

    Parameters
    ----------
    raw : str
        File, or pattern of files.
    detector : Integrating
    modules : int
        Number of modules.
    cells : sequence of int
        Memory cells of the constants.

    Raises
    ------
    HklflowError
        If the size or type of the frames is wrong, or their memory cell is ambiguous.
    """

    def __init__(self, raw: str, detector: Integrating, modules: int, cells: Sequence[int]) -> None:
        if detector.codes is None:
            raise HklflowError(
                f"{raw}: frames of {detector.name} have a separate digital part; use the run's "
                "files and set `layout`"
            )
        if len(cells) != 1:
            raise HklflowError(
                f"{raw} does not store which of the {len(cells)} memory cells a frame used; use "
                "constants of one memory cell"
            )
        self._frames: Frames = open_frames(raw)
        self.n, self.cells = self._frames.shape[0], tuple(cells)
        expected = (modules * detector.module[0], detector.module[1])
        valid = self._frames.shape[1:]
        if self._frames.dtype != np.uint16 or valid != expected:
            kind = self._frames.dtype
            self._frames.close()
            raise HklflowError(
                f"{raw} has frames of {valid} pixels and type {kind}; {modules} modules of "
                f"{detector.name} have {expected} pixels of uint16: use raw frames of this detector"
            )
        self.header = read_header(raw)
        self._detector, self._modules = detector, modules

    def read(self, start: int, stop: int) -> Iterator[Part]:
        """Read frames as `RotationFrames.read`."""
        block = self._frames.read(start, stop)
        rows, indices = self._detector.module[0], np.arange(len(block))
        for number in range(self._modules):
            raw = block[:, number * rows : (number + 1) * rows]
            yield Part(number, self.cells[0], indices, raw & _ADC, raw >> _GAIN_BIT)

    def close(self) -> None:
        """Close the raw file."""
        self._frames.close()


class Run(RotationFrames):
    """Frames of a run's files.

    Parameters
    ----------
    paths : sequence of Path
    layout : str
    detector : Integrating
    modules : sequence of int
        Numbers of the modules in the order of the image.

    Raises
    ------
    HklflowError
        If the files contain no usable frame, or cannot be read.
    """

    def __init__(
        self, paths: Sequence[Path], layout: str, detector: Integrating, modules: Sequence[int]
    ) -> None:
        self.header = Header()
        self._layout, self._detector = layout, detector
        parts = layouts.read_parts(layout, paths, detector)
        known = trains_of(parts)
        outliers = outlier_trains(known)
        self._of = {number: [part for part in parts if part.module == number] for number in modules}
        frames = {
            number: valid_frames(parts_of_module, outliers)
            for number, parts_of_module in self._of.items()
        }
        used = [valid for valid in frames.values() if len(valid.train)]
        if not used:
            raise HklflowError(
                f"{paths[0]} and the other files of the run contain no usable frame of modules "
                f"{', '.join(map(str, modules))}; check the paths"
            )
        # A listed train was measured, even if every module has lost it.
        first, last = (int(train) for train in np.setdiff1d(known, outliers)[[0, -1]])
        cells = np.unique(np.concatenate([valid.cell for valid in used]))
        self.cells = tuple(int(cell) for cell in cells)
        self.n = (last - first + 1) * len(cells)
        # For each module and frame: the part that contains it, and the row in the part; -1: lost.
        self._place = np.full((len(modules), self.n, 2), -1, np.int64)
        for number, valid in enumerate(frames.values()):
            train = valid.train.astype(np.int64) - first
            place = train * len(cells) + np.searchsorted(cells, valid.cell)
            self._place[number, place, 0], self._place[number, place, 1] = valid.part, valid.row
        self._stack = ExitStack()
        self._open: dict[tuple[int, int], Any] = {}

    def read(self, start: int, stop: int) -> Iterator[Part]:
        """Read frames as `RotationFrames.read`."""
        for number, parts in enumerate(self._of.values()):
            place = self._place[number, start:stop]
            for offset, cell in enumerate(self.cells):
                indices = np.flatnonzero(place[:, 0] >= 0)
                indices = indices[(indices + start) % len(self.cells) == offset]
                if not len(indices):
                    continue
                images = [self._image(number, parts, *place[k]) for k in indices]
                analog, digital = (np.stack(kind) for kind in zip(*images, strict=True))
                yield Part(number, cell, indices, analog, digital)

    def _image(self, number: int, parts: list[Any], part: int, row: int) -> tuple[Any, Any]:
        key = (number, int(part))
        if key not in self._open:
            opened = layouts.open_part(self._layout, parts[part], self._detector)
            self._open[key] = self._stack.enter_context(opened)
        analog, digital = self._open[key](int(row), int(row) + 1)
        return analog[0], digital[0]

    def close(self) -> None:
        """Close all open files."""
        self._stack.close()
