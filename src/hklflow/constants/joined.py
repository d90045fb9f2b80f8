"""Several runs of one dark or fluorescence measurement: which runs can be joined to one.

Frames of all runs follow each other, so a joined measurement has the frames of its runs and no
others. Runs of other settings (gain stage, integration time, temperature) would widen the noise:
the means of each pixel and memory cell must agree.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating
from hklflow.constants.layout import Images
from hklflow.constants.layouts import find
from hklflow.constants.preprocess import Run
from hklflow.constants.raw_frames import Frames

#: Largest difference of two runs' means, in units of a pixel's noise. Half a unit between two
#: runs of equal length widens the noise by 3 %.
MAX_SHIFT = 0.5

# Pixels along the shorter side of a module that are compared.
_SAMPLED = 16

# Median of |z| of a normal distribution.
_MEDIAN = 0.6745


def is_joined(measure: str) -> bool:
    """Return True for measurements of which all runs measure the same: darks, fluorescence."""
    return measure == "xray" or measure.startswith("dark_")


def require_joinable(runs: Sequence[Run], measure: str) -> None:
    """Refuse runs of other memory cells or layout, and files that are listed twice.

    Raises
    ------
    HklflowError
    """
    first = runs[0]
    owner: dict[Path, str] = {}
    for run in runs:
        if run.layout != first.layout or run.cells != first.cells:
            raise HklflowError(
                f"{measure}: run {run.name} has {len(run.cells)} memory cells in layout "
                f"{run.layout}, and run {first.name} has {len(first.cells)} in {first.layout}; "
                "join runs of the same settings"
            )
        for path in {file for files in run.files.values() for file in files}:
            if path in owner:
                raise HklflowError(
                    f"{measure}: {path} belongs to the runs {owner[path]} and {run.name}; its "
                    "frames would count twice: list each run once"
                )
            owner[path] = run.name


def require_other_frames(
    runs: Sequence[Run], frames: Sequence[Frames], measure: str, module: int
) -> None:
    """Refuse runs with the same trains, where the facility numbers all its trains.

    Other layouts count the trains of each run anew; repeated numbers are then other frames.

    Raises
    ------
    HklflowError
    """
    if not find(runs[0].layout).unique_trains:
        return
    for number, (run, its) in enumerate(zip(runs, frames, strict=True)):
        for other, others in zip(runs[:number], frames[:number], strict=True):
            both = np.intersect1d(its.train, others.train)
            if len(both):
                raise HklflowError(
                    f"{measure}: the runs {other.name} and {run.name} share {len(both)} trains "
                    f"of module {module} (the first is {both[0]}), so their frames would count "
                    "twice; list each run once"
                )


class Means:
    """Mean and spread of some pixels of a run, by memory cell.

    Parameters
    ----------
    cells : int
        Number of memory cells.
    detector : Integrating
    """

    def __init__(self, cells: int, detector: Integrating) -> None:
        self._every = max(min(detector.module) // _SAMPLED, 1)
        shape = [-(-side // self._every) for side in detector.module]
        self._n = np.zeros(cells)
        self._sums = np.zeros((2, 2, cells, *shape))

    def add(self, cell: NDArray[np.integer], *parts: Images) -> None:
        """Add the analogue and digital part (n, ss, fs) of frames of memory cells (n,)."""
        np.add.at(self._n, cell, 1)
        for kind, images in enumerate(parts):
            values = images[:, :: self._every, :: self._every].astype(np.float64)
            np.add.at(self._sums[kind, 0], cell, values)
            np.add.at(self._sums[kind, 1], cell, values**2)

    def shift(self, other: "Means") -> tuple[float, float]:
        """Return the difference of two runs and its expected value for equal runs.

        The difference is the median over pixels and memory cells, in units of the noise of a
        frame; of analogue and digital part the larger one.
        """
        both = (self._n > 1) & (other._n > 1)
        if not both.any():
            return 0.0, 0.0
        means, variances = zip(*(run._moments(both) for run in (self, other)), strict=True)
        noise = np.sqrt((variances[0] + variances[1]) / 2 + 1 / 12)
        shifts = np.median(np.abs(means[0] - means[1]) / noise, axis=(1, 2, 3))
        expected = _MEDIAN * np.sqrt(1 / self._n[both] + 1 / other._n[both])
        return float(shifts.max()), float(np.median(expected))

    def _moments(self, cells: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
        n = self._n[cells][:, None, None]
        mean = self._sums[:, 0, cells] / n
        return mean, (self._sums[:, 1, cells] / n - mean**2) * n / (n - 1)


def require_same_means(runs: Sequence[Run], means: Sequence[Means], measure: str) -> None:
    """Refuse runs in which the pixels have other means than in the first run.

    Raises
    ------
    HklflowError
    """
    for run, its in zip(runs[1:], means[1:], strict=True):
        shift, expected = its.shift(means[0])
        if shift > MAX_SHIFT + expected:
            raise HklflowError(
                f"{measure}: pixels differ by {shift:.2g} times their noise between the runs "
                f"{runs[0].name} and {run.name} (at most {MAX_SHIFT}), which were measured with "
                "other settings or at another temperature; give one of them"
            )
