"""Factor of the norm that depends on the frame and on the direction of the scattered beam.

The transmission of a crystal depends on both. The factor changes slowly; it is constant over ranges
of frames that begin at frame 0 of the rotation (so that blocks of frames give the same volumes),
and linear between nodes on the detector.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation
from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]

_RANGE = 1.0  # degrees


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

    @classmethod
    def layout(cls, rotation: Rotation, nodes: int) -> "Direction":
        """Return a factor of 1 with nodes along each side, for ranges of about a degree."""
        n = rotation.scan.n_frames
        every = max(1, min(32, int(np.radians(_RANGE) / abs(rotation.scan.step))))
        slow, fast = (np.linspace(0, size, nodes) for size in rotation.detector.shape)
        return cls(every, slow, fast, np.zeros((-(-n // every), nodes, nodes)))

    @property
    def middles(self) -> Floats:
        """Frame coordinates of the middles of the ranges."""
        return np.asarray((np.arange(len(self.log)) + 0.5) * self.every, np.float64)

    def at(self, frame: int, slow: Floats, fast: Floats) -> Floats:
        """Return the logarithm (slow, fast) on a grid of places of a frame."""
        along, across = _linear(self.slow, slow), _linear(self.fast, fast)
        return np.asarray(along @ self.log[frame // self.every] @ across.T)

    def of_places(self, frame: Floats, slow: Floats, fast: Floats) -> Floats:
        """Return the factor (n,) at places (frame, slow, fast); beyond the ends, that of the end.

        The ranges of frames are interpolated.
        """
        from scipy.interpolate import RegularGridInterpolator

        # The last range once more, because an interpolation needs two.
        middles = np.append(self.middles, self.middles[-1] + self.every)
        log = np.concatenate([self.log, self.log[-1:]])
        axes = (middles, self.slow, self.fast)
        at = [np.clip(x, a[0], a[-1]) for x, a in zip((frame, slow, fast), axes, strict=True)]
        return np.asarray(np.exp(RegularGridInterpolator(axes, log)(np.stack(at, axis=-1))))

    def of_parts(self, side: int) -> Floats:
        """Return the mean logarithm (ranges, side²) in side × side equal parts of the detector."""
        middles = (np.arange(8 * side) + 0.5) / (8 * side)
        slow, fast = (
            _linear(nodes, middles * nodes[-1]).reshape(side, 8, -1).mean(axis=1)
            for nodes in (self.slow, self.fast)
        )
        return np.asarray((slow @ self.log @ fast.T).reshape(len(self.log), -1))

    def product(self, other: "Direction") -> "Direction":
        """Return the product with another factor, which is interpolated to the own nodes.

        Raises
        ------
        HklflowError
            If the factors are for other ranges of frames or another detector.
        """
        ends = [(d.every, len(d.log), d.slow[-1], d.fast[-1]) for d in (self, other)]
        if ends[0] != ends[1]:
            raise HklflowError(
                "the factors of the direction by absorption and by refine_scale are for different "
                "ranges of frames or detectors; run both again"
            )
        slow, fast = _linear(other.slow, self.slow), _linear(other.fast, self.fast)
        return replace(self, log=self.log + slow @ other.log @ fast.T)

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


def _linear(nodes: Floats, at: Floats) -> Floats:
    """Return the matrix (at, nodes) of linear interpolation."""
    return np.array([np.interp(at, nodes, row) for row in np.eye(len(nodes))]).T


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
