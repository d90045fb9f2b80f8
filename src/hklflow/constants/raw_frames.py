"""What raw files say of their frames without the pixels, and which of the frames can be used.

A train is a pulse train of the European XFEL, or one trigger of the detector elsewhere; it has a
number, and one frame of each memory cell. Modules lose trains independently, so frames are matched
by the train's number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Trains = NDArray[np.uint64]
Ranges = list[list[int]]

#: A train further than this from the next one is no part of the run.
JUMP = 1000


@dataclass(frozen=True)
class Part:
    """What one file says of the frames of one module.

    Attributes
    ----------
    path : Path
    module : int
    number : int
        Place among the module's files, from 0; -1 where the file does not say it.
    trains : (t,) uint64 array
        Number of each train that is listed; 0 where it has none.
    first, count : (t,) int64 arrays
        First frame of each train, and how many it has.
    train : (n,) uint64 array
        Train that is written beside each frame.
    cell : (n,) int64 array
        Memory cell of each frame; negative where the detector says that the frame is none.
    pulses : (t,) int64 array, optional
        Frames of each train as the detector's header says; None: it says nothing.
    suspect : (t,) bool array, optional
        Trains whose number did not come from the machine; None: not known.
    lengths : dict
        "frames" and "trains": name -> length of the arrays that should be equally long.
    """

    path: Path
    module: int
    number: int
    trains: Trains
    first: Ints
    count: Ints
    train: Trains
    cell: Ints
    pulses: Ints | None = None
    suspect: NDArray[np.bool_] | None = None
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def stored(self) -> int:
        """Frames of which there is everything."""
        return min([len(self.train), len(self.cell), *self.lengths.get("frames", {}).values()])

    def record(self) -> Ints:
        """Place in ``trains`` of the train that each stored frame belongs to; -1: of none."""
        rows, owner = listed(self.first, self.count)
        known = (rows >= 0) & (rows < self.stored)
        found = np.full(self.stored, -1)
        found[rows[known]] = owner[known]
        return found


def listed(first: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Frames that an index lists, and which of its records lists each."""
    owner = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return first[owner] + within, owner


def one_frame_each(train: Trains) -> tuple[Trains, Ints, Ints]:
    """List the trains of a file without index: runs of equal numbers -> trains, first, count."""
    first = np.flatnonzero(np.diff(train.astype(np.int64), prepend=-1))
    return train[first], first, np.diff(first, append=len(train))


def one_more(part: Part) -> Part:
    """Count the trains of a part whose first one may have the number 0 from 1, for 0 is none.

    A 0 behind other numbers of the file stays: it is of a frame that was never written.
    """

    def counted(number: Trains) -> Trains:
        unwritten = (number == 0) & (np.maximum.accumulate(number) > 0)
        return np.where(unwritten, np.uint64(0), number + np.uint64(1))

    return replace(part, trains=counted(part.trains), train=counted(part.train))


@dataclass(frozen=True)
class Frames:
    """Frames of a module that can be used, sorted by train and memory cell.

    Attributes
    ----------
    part, row : (n,) int64 arrays
        Which of the parts holds each, and where.
    train : (n,) uint64 array
    cell : (n,) int64 array
    """

    part: Ints
    row: Ints
    train: Trains
    cell: Ints


def valid_frames(parts: Sequence[Part], outliers: Trains) -> Frames:
    """Find the frames of a module that are what they say; the rest is lost.

    A frame is used if its train is listed, is no outlier and not suspect, is the one that is
    written beside the frame, and has as many frames as the detector's header says. Of frames with
    the same train and cell the first one is used.
    """
    found: list[tuple[Ints, ...]] = [(np.zeros(0, np.int64),) * 4]
    for number, part in enumerate(parts):
        good = (part.trains != 0) & ~np.isin(part.trains, outliers)
        if part.suspect is not None:
            good &= ~part.suspect
        if part.pulses is not None:
            good &= part.pulses == part.count
        record = part.record()
        train, cell = part.train[: part.stored], part.cell[: part.stored]
        rows = np.flatnonzero((record >= 0) & (cell >= 0))
        rows = rows[good[record[rows]] & (part.trains[record[rows]] == train[rows])]
        found.append((np.full(len(rows), number), rows, train[rows].astype(np.int64), cell[rows]))
    part_of, row, of_train, of_cell = (np.concatenate(items) for items in zip(*found, strict=True))
    order = np.lexsort((row, part_of, of_cell, of_train))
    again = (np.diff(of_train[order]) == 0) & (np.diff(of_cell[order]) == 0)
    order = order[np.concatenate([[True], ~again])[: len(order)]]
    return Frames(part_of[order], row[order], of_train[order].astype(np.uint64), of_cell[order])


def outlier_trains(trains: Trains) -> Trains:
    """Find the numbers that are no part of the run.

    Numbers that are more than `JUMP` apart are of different groups; a lone number and a group of
    less than a tenth of the largest one are outliers.

    Parameters
    ----------
    trains : (t,) uint64 array
        All numbers of a run but 0, sorted, each once.
    """
    if len(trains) == 0:
        return trains
    groups = np.split(trains, np.flatnonzero(np.diff(trains) > JUMP) + 1)
    largest = max(len(group) for group in groups)
    out = [g for g in groups if len(g) < largest and (len(g) == 1 or len(g) * 10 < largest)]
    return np.concatenate([*out, np.zeros(0, np.uint64)])


def to_ranges(numbers: NDArray[np.integer]) -> Ranges:
    """Write sorted numbers, each once, as [first, last] of their unbroken stretches."""
    if len(numbers) == 0:
        return []
    values = numbers.astype(np.int64)
    cuts = np.flatnonzero(np.diff(values) != 1)
    firsts = values[np.concatenate([[0], cuts + 1])]
    lasts = values[np.concatenate([cuts, [len(values) - 1]])]
    return [[int(first), int(last)] for first, last in zip(firsts, lasts, strict=True)]


def from_ranges(ranges: Ranges) -> Ints:
    """Numbers of which `to_ranges` wrote the stretches."""
    stretches = [np.arange(first, last + 1) for first, last in ranges]
    return np.concatenate([*stretches, np.zeros(0, np.int64)]).astype(np.int64)
