"""Description of raw frames without their pixels, and selection of usable frames.

A train is a pulse train of the European XFEL, or one trigger of another detector; it has a number,
and one frame of each memory cell. Modules lose trains independently, so frames are matched by their
train numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Trains = NDArray[np.uint64]
Ranges = list[list[int]]

#: Train number of frames that belong to no train, in the parts that `layouts.read_parts` returns.
NO_TRAIN = np.uint64(2**63 - 1)

#: Train numbers further apart than this belong to different groups.
JUMP = 1000


@dataclass(frozen=True)
class Part:
    """Description of the frames of one module in one file.

    Attributes
    ----------
    path : Path
    module : int
    number : int
        Index among the module's files, from 0; -1 if the file does not store it.
    trains : (t,) uint64 array
        Number of each listed train; `NO_TRAIN` for a train without a number. Layouts describe a
        missing number as 0, which `mark_missing` replaces.
    first, count : (t,) int64 arrays
        First frame and number of frames of each train.
    train : (n,) uint64 array
        Train number stored with each frame.
    cell : (n,) int64 array
        Memory cell of each frame; negative if the detector marks the frame as empty.
    pulses : (t,) int64 array, optional
        Number of frames of each train in the detector's header. None: unknown.
    suspect : (t,) bool array, optional
        True for trains whose number did not come from the machine; None: unknown.
    lengths : dict
        "frames" and "trains": length of each array; all should be equally long.
    cut : bool
        True if files of this layout may end within a train, which the next file continues.
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
    cut: bool = False

    @property
    def stored(self) -> int:
        """Number of completely stored frames."""
        return min([len(self.train), len(self.cell), *self.lengths.get("frames", {}).values()])

    def record(self) -> Ints:
        """Return the index in ``trains`` of the train of each stored frame; -1: not listed."""
        rows, owner = listed(self.first, self.count)
        known = (rows >= 0) & (rows < self.stored)
        records = np.full(self.stored, -1)
        records[rows[known]] = owner[known]
        return records


def listed(first: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Return the frames that an index lists, and the index record of each frame."""
    owner = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return first[owner] + within, owner


def one_frame_each(train: Trains) -> tuple[Trains, Ints, Ints]:
    """Return trains, first, count of a file without index.

    Consecutive frames with the same train number are one train.
    """
    first = np.flatnonzero(np.diff(train.astype(np.int64), prepend=-1))
    return train[first], first, np.diff(first, append=len(train))


def mark_missing(parts: Sequence[Part], from_zero: bool) -> list[Part]:
    """Replace number 0 of missing trains by `NO_TRAIN`.

    Parameters
    ----------
    parts : sequence of Part
        Parts of one module in the order of the run.
    from_zero : bool
        True if 0 is also the number of the first train. Then only a 0 after other numbers is
        missing: it marks a frame that was never written.
    """
    marked = []
    begun = not from_zero
    for part in parts:
        both = []
        for number in (part.trains, part.train):
            missing = (number == 0) & (begun | (np.maximum.accumulate(number) > 0))
            both.append(np.where(missing, NO_TRAIN, number))
        marked.append(replace(part, trains=both[0], train=both[1]))
        begun = begun or bool(part.trains.any())
    return marked


@dataclass(frozen=True)
class Frames:
    """Usable frames of a module, sorted by train and memory cell.

    Attributes
    ----------
    part, row : (n,) int64 arrays
        Index of the part that contains each frame, and its row in the part.
    train : (n,) uint64 array
    cell : (n,) int64 array
    """

    part: Ints
    row: Ints
    train: Trains
    cell: Ints


def valid_frames(parts: Sequence[Part], outliers: Trains) -> Frames:
    """Find the consistent frames of a module; all other frames are treated as lost.

    A frame is used if its train is listed, is not an outlier or suspect, and has as many frames as
    the detector's header states, and if the train number stored with the frame is the same. If
    several frames have the same train and cell, the first one is used.
    """
    columns: list[tuple[Ints, ...]] = [(np.zeros(0, np.int64),) * 4]
    for number, part in enumerate(parts):
        good = (part.trains != NO_TRAIN) & ~np.isin(part.trains, outliers)
        if part.suspect is not None:
            good &= ~part.suspect
        if part.pulses is not None:
            good &= part.pulses == part.count
        record = part.record()
        train, cell = part.train[: part.stored], part.cell[: part.stored]
        rows = np.flatnonzero((record >= 0) & (cell >= 0))
        rows = rows[good[record[rows]] & (part.trains[record[rows]] == train[rows])]
        columns.append((np.full(len(rows), number), rows, train[rows].astype(np.int64), cell[rows]))
    part_of, row, of_train, of_cell = (
        np.concatenate(items) for items in zip(*columns, strict=True)
    )
    order = np.lexsort((row, part_of, of_cell, of_train))
    again = (np.diff(of_train[order]) == 0) & (np.diff(of_cell[order]) == 0)
    order = order[np.concatenate([[True], ~again])[: len(order)]]
    return Frames(part_of[order], row[order], of_train[order].astype(np.uint64), of_cell[order])


def outlier_trains(trains: Trains) -> Trains:
    """Find train numbers that do not belong to the run.

    Numbers more than `JUMP` apart belong to different groups. A single number, and a group of less
    than a tenth of the largest group, are outliers.

    Parameters
    ----------
    trains : (t,) uint64 array
        All train numbers of a run except `NO_TRAIN`, sorted and unique.
    """
    if len(trains) == 0:
        return trains
    groups = np.split(trains, np.flatnonzero(np.diff(trains) > JUMP) + 1)
    largest = max(len(group) for group in groups)
    out = [g for g in groups if len(g) < largest and (len(g) == 1 or len(g) * 10 < largest)]
    return np.concatenate([*out, np.zeros(0, np.uint64)])


def to_ranges(numbers: NDArray[np.integer]) -> Ranges:
    """Write sorted unique numbers as ranges [first, last] of consecutive numbers."""
    if len(numbers) == 0:
        return []
    values = numbers.astype(np.int64)
    cuts = np.flatnonzero(np.diff(values) != 1)
    firsts = values[np.concatenate([[0], cuts + 1])]
    lasts = values[np.concatenate([cuts, [len(values) - 1]])]
    return [[int(first), int(last)] for first, last in zip(firsts, lasts, strict=True)]


def from_ranges(ranges: Ranges) -> Ints:
    """Return the numbers in ranges that `to_ranges` wrote."""
    stretches = [np.arange(first, last + 1) for first, last in ranges]
    return np.concatenate([*stretches, np.zeros(0, np.int64)]).astype(np.int64)
