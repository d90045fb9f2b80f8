"""Several runs of one dark or fluorescence measurement: which runs can be joined to one.

Frames of all runs follow each other, so a joined measurement has the frames of its runs and no
others. Runs of other settings (gain stage, integration time, temperature) would widen the noise:
the means of each pixel and memory cell must agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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

# Compared pixels along the side of a block; a leak of light shifts some blocks only.
_BLOCK = 4

# Five standard deviations of the median of a block's z.
_OF_BLOCK = 5 * 1.25 / _BLOCK


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
        # A link, or another spelling of a folder, is the same file.
        for path in {file.resolve() for files in run.files.values() for file in files}:
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

    Other layouts count the trains of each run separately; repeated numbers are then other frames.

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

    def shift(self, other: "Means") -> "Shift":
        """Return the difference of two runs, in units of the noise of a frame.

        It is the median of the absolute difference over pixels and memory cells, or the median
        difference in the block of pixels that differs most; of analogue and digital part the
        larger one.
        """
        both = (self._n > 1) & (other._n > 1)
        if not both.any():
            return Shift(0.0, MAX_SHIFT, None)
        means, variances = zip(*(run._moments(both) for run in (self, other)), strict=True)
        noise = np.sqrt((variances[0] + variances[1]) / 2 + 1 / 12)
        z = (means[0] - means[1]) / noise
        chance = float(np.median(np.sqrt(1 / self._n[both] + 1 / other._n[both])))
        everywhere = float(np.median(np.abs(z), axis=(1, 2, 3)).max())
        if everywhere > (limit := MAX_SHIFT + _MEDIAN * chance):
            return Shift(everywhere, limit, None)
        blocks = _block_medians(z).max(axis=0)
        ss, fs = np.unravel_index(np.argmax(blocks), blocks.shape)
        centre = [int((place + 0.5) * _BLOCK * self._every) for place in (ss, fs)]
        return Shift(float(blocks[ss, fs]), MAX_SHIFT + _OF_BLOCK * chance, (centre[0], centre[1]))

    def equals(self, other: "Means") -> bool:
        """Return True if both runs have the same frames: equal sums in spite of noise."""
        same = np.array_equal(self._n, other._n) and np.array_equal(self._sums, other._sums)
        return same and bool((self._moments(self._n > 1)[1] > 0).any())

    def _moments(self, cells: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
        n = self._n[cells][:, None, None]
        mean = self._sums[:, 0, cells] / n
        return mean, (self._sums[:, 1, cells] / n - mean**2) * n / (n - 1)


@dataclass(frozen=True)
class Shift:
    """Difference of two runs in units of the noise, and its limit.

    ``centre`` is the pixel (ss, fs) in the middle of the block that differs; None: all pixels.
    """

    value: float
    limit: float
    centre: tuple[int, int] | None


def _block_medians(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the absolute median difference of blocks of z (2, cells, ss, fs)."""
    pad = [(0, 0), (0, 0), *((0, -side % _BLOCK) for side in z.shape[2:])]
    padded = np.pad(z, pad, constant_values=np.nan)
    parts = padded.reshape(*z.shape[:2], padded.shape[2] // _BLOCK, _BLOCK, -1, _BLOCK)
    return np.abs(np.nanmedian(parts, axis=(1, 3, 5)))


def require_same_means(runs: Sequence[Run], means: Sequence[Means], measure: str) -> None:
    """Refuse copies of a run, and runs in which the pixels have other means than in the first run.

    Raises
    ------
    HklflowError
    """
    for number, (run, its) in enumerate(zip(runs[1:], means[1:], strict=True), start=1):
        for other, others in zip(runs[:number], means[:number], strict=True):
            if its.equals(others):
                raise HklflowError(
                    f"{measure}: the runs {other.name} and {run.name} have the same frames, which "
                    "would count twice; list each run once"
                )
        shift = its.shift(means[0])
        if shift.value > shift.limit:
            where = "" if shift.centre is None else " around ss {}, fs {}".format(*shift.centre)
            raise HklflowError(
                f"{measure}: pixels{where} differ by {shift.value:.2g} times their noise between "
                f"the runs {runs[0].name} and {run.name} (at most {MAX_SHIFT}), which were "
                "measured with other settings, at another temperature or with a leak of light; "
                "give one of them"
            )
