"""The loop that all measurements share: load frames, calculate, store the result.

Memory is bounded for any number of memory cells and frames: the frames of one memory cell are
loaded together, for as many rows as fit in the memory.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.files import Constants, Quantity
from hklflow.constants.gathered import CellFrames, Gathered

# Bytes of memory for each pixel of each frame: the raw values and several arrays of floats.
_BYTES = 40


class Process(ABC):
    """Base class of the evaluations of one kind of measurement."""

    @abstractmethod
    def initiate(self, cells: int, shape: tuple[int, int]) -> dict[str, Quantity]:
        """Return the result arrays (..., cells, ss, fs), filled with values for missing data."""

    @abstractmethod
    def calculate(
        self, frames: Sequence[CellFrames], cell: int, rows: slice
    ) -> Mapping[str, NDArray[Any]]:
        """Return the results (..., rows, fs) of one memory cell; the keys are as in `initiate`.

        Parameters
        ----------
        frames : sequence of CellFrames
            The frames of each input file; a file may have no frames of this memory cell.
        cell : int
            Index of the memory cell in ``cell_ids``.
        rows : slice
            Rows of the ASIC that the frames cover.
        """


def process(
    evaluation: Process,
    inputs: Sequence[Gathered],
    memory: float,
    shown: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, total: items,
) -> Constants:
    """Process the gathered frames of one ASIC.

    Parameters
    ----------
    evaluation : Process
    inputs : sequence of Gathered
        Files of the same ASIC and memory cells.
    memory : float
        Memory for the frames, MB.
    shown : callable
        Wraps the iteration over the parts to show progress.

    Raises
    ------
    HklflowError
        If the inputs are of different ASICs or memory cells.
    """
    first = inputs[0]
    for other in inputs[1:]:
        _require_alike(first, other)
    results = evaluation.initiate(first.cells, first.shape)
    parts = list(_parts(inputs, memory))
    for cell, rows in shown(parts, len(parts)):
        update = evaluation.calculate([file.cell(cell, rows) for file in inputs], cell, rows)
        for name, values in update.items():
            results[name].values[..., cell, rows, :] = values
    about = first.about
    return Constants(
        {
            "detector": about.detector,
            "module": about.module,
            "asic": about.asic,
            "digital": about.digital,
            "as_modules": list(about.as_modules),
            "cell_ids": first.cell_ids.tolist(),
            "measures": [file.about.measure for file in inputs],
            "runs": [list(file.about.runs) for file in inputs],
            "frames": [file.frames.tolist() for file in inputs],
        },
        results,
    )


def _parts(inputs: Sequence[Gathered], memory: float) -> Iterator[tuple[int, slice]]:
    n_rows, n_fast = inputs[0].shape
    for cell in range(inputs[0].cells):
        frames = max(sum(int(file.frames[cell]) for file in inputs), 1)
        size = int(np.clip(memory * 1e6 / (_BYTES * frames * n_fast), 1, n_rows))
        for row in range(0, n_rows, size):
            yield cell, slice(row, min(row + size, n_rows))


def _require_alike(first: Gathered, other: Gathered) -> None:
    for name in ("detector", "module", "asic", "digital"):
        mine, theirs = getattr(first.about, name), getattr(other.about, name)
        if mine != theirs:
            raise HklflowError(
                f"{other.about.measure} is of {name} {theirs} and {first.about.measure} of {mine}; "
                "give files of one ASIC"
            )
    if first.cell_ids.tolist() != other.cell_ids.tolist() or first.shape != other.shape:
        raise HklflowError(
            f"{other.about.measure} has {other.cells} memory cells of {other.shape} pixels and "
            f"{first.about.measure} {first.cells} of {first.shape}; measure both in the same mode"
        )
