"""Factor of the norm that depends on the frame and on the direction of the scattered beam.

The transmission of a crystal depends on both. The factor changes slowly; it is constant over ranges
of frames that begin at frame 0 of the rotation (so that blocks of frames give the same volumes),
and linear between nodes on the detector.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Direction:
    """Natural logarithm of a factor on nodes.

    Attributes
    ----------
    every : int
        Frames of a range.
    slow, fast : (m,), (n,) arrays
        Places of the nodes in pixels, ascending, from 0 to the size of the detector.
    log : (ranges, m, n) array
    """

    every: int
    slow: Floats
    fast: Floats
    log: Floats

    def require(self, n_frames: int, shape: tuple[int, int]) -> None:
        """Refuse a factor of another rotation or detector.

        Raises
        ------
        HklflowError
        """
        own = (len(self.log) * self.every, self.slow[-1], self.fast[-1])
        if not n_frames <= own[0] < n_frames + self.every or own[1:] != shape:
            raise HklflowError(
                f"the factor of the direction is for about {own[0]} frames of {own[1]:g} × "
                f"{own[2]:g} pixels, the rotation has {n_frames} of {shape[0]} × {shape[1]}; run "
                "refine_scale again"
            )

    @property
    def largest(self) -> float:
        """Largest factor."""
        return float(np.exp(self.log.max()))

    def ranges(self, first: int, n: int) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of the parts of n frames from ``first`` on that are in one range."""
        begin = first
        while begin < first + n:
            end = min(first + n, (begin // self.every + 1) * self.every)
            yield begin, end
            begin = end

    def times(self, norm: Floats, frame: int, rows: slice) -> Floats:
        """Return the pixel norm (slow, fast) times the factor of a frame; only rows are right."""
        made = np.zeros_like(norm)
        begin, end, _ = rows.indices(len(norm))
        nodes = self.log[frame // self.every]
        _multiply(norm, begin, end, self.slow, self.fast, nodes, made)
        return made


class Refined(NamedTuple):
    """Correction of the scale of the frames of a rotation.

    Attributes
    ----------
    curve : (n_frames,) array
        Factor of each frame.
    errors : (n_frames,) array
        Standard errors of ``curve``, relative to the mean of the scan's first rotation.
    direction : Direction
        Further factor; its mean over the detector is about 1.
    """

    curve: Floats
    errors: Floats
    direction: Direction


@kernel
def _multiply(norm, begin, end, slow, fast, nodes, made):  # type: ignore[no-untyped-def]
    line = np.empty(len(fast))
    i = 0
    for row in range(begin, end):
        x = row + 0.5
        while i < len(slow) - 2 and slow[i + 1] <= x:
            i += 1
        u = (x - slow[i]) / (slow[i + 1] - slow[i])
        for k in range(len(fast)):
            line[k] = (1 - u) * nodes[i, k] + u * nodes[i + 1, k]
        j = 0
        for column in range(norm.shape[1]):
            y = column + 0.5
            while j < len(fast) - 2 and fast[j + 1] <= y:
                j += 1
            v = (y - fast[j]) / (fast[j + 1] - fast[j])
            if norm[row, column] > 0:
                made[row, column] = norm[row, column] * np.exp((1 - v) * line[j] + v * line[j + 1])
