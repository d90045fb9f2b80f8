"""Frames of one ASIC, sorted by memory cell: written by `gather`, read by all process stages.

Lost trains and frames are absent from the file, never filled with zeros. Every frame is stored with
its train and its step (its train number minus the first train of the run), so that the position of
a frame on a ramp is known.

Frames are not compressed: the files are temporary, and the frames of a cell are contiguous.
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
    """Description of the gathered frames.

    Attributes
    ----------
    detector : str
    measure : str
        dark_high, dark_medium, dark_low, xray, pulse_capacitor or current_source_<current>.
    module, asic : int
    digital : {"level", "stage"}
        Meaning of the digital part: an analogue level, or the number of the gain stage (0, 1, 2;
        255 if the gain bits are invalid).
    runs : tuple of str
    as_modules : tuple of int
        See `layout.Layout`.
    """

    detector: str
    measure: str
    module: int
    asic: int
    digital: str
    runs: tuple[str, ...]
    as_modules: tuple[int, ...] = ()


@dataclass(frozen=True)
class CellFrames:
    """Frames of one memory cell in the order of measurement.

    Attributes
    ----------
    analog, digital : (n, ss, fs) uint16 arrays
    train : (n,) uint64 array
    step : (n,) int64 array
        Number of trains since the first train of the run, including lost trains.
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
        Detector's numbers of the memory cells in use.
    shape : (ss, fs)
    frames : (cells,) int64 array
        Number of frames of each cell.
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
            tuple(int(number) for number in attrs["as_modules"]),
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
        """Read the frames of a memory cell (by its index in `cell_ids`), all rows or some."""
        begin = int(self._start[index])
        rows_of_file = slice(begin, begin + int(self.frames[index]))
        analog, digital = (self._file[name][rows_of_file, rows] for name in ("analog", "digital"))
        return CellFrames(
            analog, digital, self._file["train"][rows_of_file], self._file["step"][rows_of_file]
        )


@contextmanager
def open_gathered(path: Path) -> Iterator[Gathered]:
    """Open a file of gathered frames.

    Raises
    ------
    HklflowError
        If the file contains no gathered frames.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise HklflowError(f"{path} cannot be read ({error}); gather the frames again") from error
    with file:
        try:
            gathered = Gathered(file)
        except KeyError as error:
            raise HklflowError(f"{path} contains no gathered frames ({error})") from error
        yield gathered


class GatheredWriter:
    """Writer for the frames of one ASIC in the order of measurement.

    Parameters
    ----------
    path : Path
    about : About
    cell_ids : (cells,) int array
        Detector's numbers of the memory cells, increasing.
    frames : (cells,) int array
        Number of frames that will be appended for each cell.
    shape : (ss, fs)
    at_most : bool
        Accept fewer frames than announced, because empty frames are found only in the pixels.
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
        """Append frames (n, ss, fs) of the cells (n,), which are indices in ``cell_ids``.

        Raises
        ------
        HklflowError
            If a cell gets more frames than announced.
        """
        order = np.argsort(cell, kind="stable")
        cells = np.asarray(cell, np.int64)[order]
        begins = np.flatnonzero(np.diff(cells, prepend=-1))
        analog, digital = analog[order], digital[order]
        for begin, end in zip(
            begins, np.append(begins[1:], len(cells))[: len(begins)], strict=True
        ):
            number, rows = int(cells[begin]), order[begin:end]
            target = slice(int(self._next[number]), int(self._next[number]) + len(rows))
            if target.stop > self._start[number + 1]:
                raise HklflowError(f"memory cell {number} has more frames than were counted")
            _write_rows(self._analog, target, analog[begin:end])
            _write_rows(self._digital, target, digital[begin:end])
            self._train[target], self._step[target] = train[rows], step[rows]
            self._next[number] = target.stop

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with closed_on_failure(self._context):
            self._file["train"], self._file["step"] = self._train, self._step
            self._file["frames"] = self._next - self._start[:-1]
        self._context.__exit__(None, None, None)
        if kind is None and not self._at_most and np.any(self._next != self._start[1:]):
            short = int(np.argmax(self._next != self._start[1:]))
            raise HklflowError(
                f"memory cell {short} has {self._next[short] - self._start[short]} frames instead "
                f"of {self._start[short + 1] - self._start[short]}; the raw files changed "
                "during the run"
            )


def _write_rows(dataset: Any, target: slice, values: NDArray[np.uint16]) -> None:
    """Write rows of a dataset; for a few frames the high-level h5py call is ten times slower."""
    space = dataset.get_space()
    space.select_hyperslab((target.start, 0, 0), values.shape)
    dataset.write(h5py.h5s.create_simple(values.shape), space, np.ascontiguousarray(values))
