"""Frames of one ASIC, sorted by memory cell: what `gather` writes and every process step reads.

Lost trains and frames are not in the file, and never zeros: every frame has its train and its step,
the number of its train since the run's first one, so that a ramp keeps its abscissa.

Frames are not packed: the files are temporary, and a cell's frames are one stretch of the disk.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.hdf5_output import closed_on_failure, hdf5_output


@dataclass(frozen=True)
class About:
    """Which frames they are.

    Attributes
    ----------
    detector : str
    measure : str
        dark_high, dark_medium, dark_low, xray, pulse_capacitor or current_source_<current>.
    module, asic : int
    digital : {"level", "stage"}
        What the digital part is: an analogue level, or the number of the stage of gain (0, 1, 2;
        255 where the gain bits mean nothing).
    runs : tuple of str
    """

    detector: str
    measure: str
    module: int
    asic: int
    digital: str
    runs: tuple[str, ...]


@dataclass(frozen=True)
class CellFrames:
    """Frames of one memory cell, in the order in which they were measured.

    Attributes
    ----------
    analog, digital : (n, ss, fs) uint16 arrays
    train : (n,) uint64 array
    step : (n,) int64 array
        Trains since the first one of the run, lost ones counted.
    """

    analog: NDArray[np.uint16]
    digital: NDArray[np.uint16]
    train: NDArray[np.uint64]
    step: NDArray[np.int64]


class Gathered:
    """An open file of gathered frames.

    Attributes
    ----------
    about : About
    cell_ids : (cells,) int array
        Numbers that the detector gives to the memory cells in use.
    shape : (ss, fs)
    frames : (cells,) int64 array
        Frames of each cell.
    """

    def __init__(self, file: h5py.File) -> None:
        attrs = file.attrs
        self.about = About(
            str(attrs["detector"]),
            str(attrs["measure"]),
            int(attrs["module"]),
            int(attrs["asic"]),
            str(attrs["digital"]),
            tuple(str(run) for run in attrs["runs"]),
        )
        self._file = file
        self._start: NDArray[np.int64] = file["start"][()]
        self.cell_ids: NDArray[np.int64] = file["cell_id"][()]
        self.frames: NDArray[np.int64] = file["frames"][()]
        self.shape: tuple[int, int] = file["analog"].shape[1:]

    @property
    def cells(self) -> int:
        """Number of memory cells in use."""
        return len(self.cell_ids)

    def cell(self, index: int, rows: slice = slice(None)) -> CellFrames:
        """Frames of a memory cell (by its place in `cell_ids`), whole or some of their rows."""
        begin = int(self._start[index])
        at = slice(begin, begin + int(self.frames[index]))
        analog, digital = (self._file[name][at, rows] for name in ("analog", "digital"))
        return CellFrames(analog, digital, self._file["train"][at], self._file["step"][at])


@contextmanager
def open_gathered(path: Path) -> Iterator[Gathered]:
    """Open a file of gathered frames.

    Raises
    ------
    HklflowError
        If it is none.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise HklflowError(f"{path} cannot be read ({error}); gather the frames again") from error
    with file:
        try:
            gathered = Gathered(file)
        except KeyError as error:
            raise HklflowError(f"{path} holds no gathered frames ({error})") from error
        yield gathered


class GatheredWriter:
    """Write the frames of one ASIC, given in the order in which they were measured.

    Parameters
    ----------
    path : Path
    about : About
    cell_ids : (cells,) int array
        Numbers that the detector gives to them, rising.
    frames : (cells,) int array
        Frames of each cell that will come.
    shape : (ss, fs)
    at_most : bool
        Fewer frames than these may come: what is lost is seen in the pixels only.
    """

    def __init__(
        self,
        path: Path,
        about: About,
        cell_ids: NDArray[np.integer[Any]],
        frames: NDArray[np.integer[Any]],
        shape: tuple[int, int],
        at_most: bool = False,
    ) -> None:
        self._at_most = at_most
        self._start = np.concatenate([[0], np.cumsum(frames)]).astype(np.int64)
        self._next = self._start[:-1].copy()
        self._context = hdf5_output(path)
        self._file = self._context.__enter__()
        attrs: Mapping[str, Any] = vars(about) | {"runs": list(about.runs)}
        n = int(self._start[-1])
        with closed_on_failure(self._context):
            for name, value in attrs.items():
                self._file.attrs[name] = value
            self._file["start"] = self._start
            self._file["cell_id"] = np.asarray(cell_ids, np.int64)
            self._analog, self._digital = (
                self._file.create_dataset(name, (n, *shape), np.uint16).id
                for name in ("analog", "digital")
            )
        self._train = np.zeros(n, np.uint64)
        self._step = np.zeros(n, np.int64)

    def __enter__(self) -> "GatheredWriter":
        return self

    def append(
        self,
        cell: NDArray[np.integer[Any]],
        train: NDArray[np.integer[Any]],
        step: NDArray[np.integer[Any]],
        analog: NDArray[np.uint16],
        digital: NDArray[np.uint16],
    ) -> None:
        """Add frames (n, ss, fs) of the cells (n,), given by their place in ``cell_ids``.

        Raises
        ------
        HklflowError
            If a cell gets more frames than it was to have.
        """
        order = np.argsort(cell, kind="stable")
        of = np.asarray(cell, np.int64)[order]
        begins = np.flatnonzero(np.diff(of, prepend=-1))
        analog, digital = analog[order], digital[order]
        for begin, end in zip(begins, np.append(begins[1:], len(of))[: len(begins)], strict=True):
            number, rows = int(of[begin]), order[begin:end]
            at = slice(int(self._next[number]), int(self._next[number]) + len(rows))
            if at.stop > self._start[number + 1]:
                raise HklflowError(f"memory cell {number} has more frames than were counted")
            _write_rows(self._analog, at, analog[begin:end])
            _write_rows(self._digital, at, digital[begin:end])
            self._train[at], self._step[at] = train[rows], step[rows]
            self._next[number] = at.stop

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with closed_on_failure(self._context):
            self._file["train"], self._file["step"] = self._train, self._step
            self._file["frames"] = self._next - self._start[:-1]
        self._context.__exit__(None, None, None)
        if kind is None and not self._at_most and np.any(self._next != self._start[1:]):
            short = int(np.argmax(self._next != self._start[1:]))
            raise HklflowError(
                f"memory cell {short} has {self._next[short] - self._start[short]} frames instead "
                f"of {self._start[short + 1] - self._start[short]}; the raw files changed meanwhile"
            )


def _write_rows(dataset: Any, at: slice, values: NDArray[np.uint16]) -> None:
    """Write rows of a dataset; h5py's own way takes ten times as long for a few frames."""
    space = dataset.get_space()
    space.select_hyperslab((at.start, 0, 0), values.shape)
    dataset.write(h5py.h5s.create_simple(values.shape), space, np.ascontiguousarray(values))
