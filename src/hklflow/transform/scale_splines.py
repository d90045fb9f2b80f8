"""Splines of the scale of the frames and of its dependence on direction; see `redundancy`.

    ln s = c(z) + d(z, x, y)

c is a curve over the frames z of each rotation; d is smooth in z and in the place (x, y) on the
detector. Both are sums of uniform cubic B-splines (and their products).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEAR = 4  # cubic splines that are not 0 at a place


class Layout(NamedTuple):
    """Numbers of frames and splines, and first parameters: of each rotation; of the detector."""

    frames: Ints
    curve: Ints
    angle: Ints
    first_curve: Ints
    first_direction: Ints
    detector: Ints
    shape: Ints


@dataclass(frozen=True)
class Splines:
    """Splines of ln s.

    Attributes
    ----------
    frames : tuple of int
        Number of frames of each rotation.
    curve : tuple of int
        Intervals of c of each rotation.
    angle : tuple of int
        Intervals of d along the frames of each rotation.
    detector : (int, int)
        Intervals of d along (slow, fast); (0, 0): ln s does not depend on direction.
    shape : (int, int)
        Pixels of the detector.
    """

    frames: tuple[int, ...]
    curve: tuple[int, ...]
    angle: tuple[int, ...]
    detector: tuple[int, int]
    shape: tuple[int, int]

    @property
    def directed(self) -> bool:
        """True if ln s depends on direction."""
        return self.detector[0] > 0

    @property
    def places(self) -> int:
        """Number of splines of the detector."""
        return (self.detector[0] + 3) * (self.detector[1] + 3) if self.directed else 0

    @property
    def size(self) -> int:
        """Number of parameters."""
        layout = self.layout()
        if self.directed:
            return int(layout.first_direction[-1] + (self.angle[-1] + 3) * self.places)
        return int(layout.first_curve[-1] + self.curve[-1] + 3)

    def layout(self) -> Layout:
        """Return the sizes for the kernels; all curves come first."""
        curve = np.array(self.curve, np.int64)
        angle = np.array(self.angle, np.int64)
        ends = np.cumsum(curve + 3)
        more = np.cumsum((angle + 3) * self.places)
        return Layout(
            np.array(self.frames, np.int64),
            curve,
            angle,
            np.concatenate([[0], ends[:-1]]),
            ends[-1] + np.concatenate([[0], more[:-1]]),
            np.array(self.detector, np.int64),
            np.array(self.shape, np.int64),
        )

    def of_curve(self, rotation: int, frame: ArrayLike) -> Floats:
        """Return the splines of c at frame positions (n, size)."""
        layout = self.layout()
        own = basis(np.asarray(frame) / self.frames[rotation], self.curve[rotation])
        matrix = np.zeros((len(own), self.size))
        begin = layout.first_curve[rotation]
        matrix[:, begin : begin + own.shape[1]] = own
        return matrix

    def of_direction(self, rotation: int, a: Floats, frame: ArrayLike, at: "Places") -> Floats:
        """Return d (frames, slow, fast) at frame positions and places on the detector."""
        n = self.angle[rotation] + 3
        begin = self.layout().first_direction[rotation]
        own = a[begin : begin + n * self.places]
        own = own.reshape(n, self.detector[0] + 3, self.detector[1] + 3)
        along = basis(np.asarray(frame) / self.frames[rotation], self.angle[rotation])
        slow = basis(np.asarray(at.slow) / self.shape[0], self.detector[0])
        fast = basis(np.asarray(at.fast) / self.shape[1], self.detector[1])
        return np.einsum("zi,ijk,sj,fk->zsf", along, own, slow, fast, optimize=True)


class Places(NamedTuple):
    """Places on the detector in pixels, of a grid along (slow, fast)."""

    slow: Floats
    fast: Floats


def basis(x: Floats, n: int) -> Floats:
    """Return the n + 3 uniform cubic B-splines of n intervals at x from 0 to 1."""
    t = np.clip(np.asarray(x, np.float64), 0, 1) * n
    i = np.minimum(t.astype(np.int64), n - 1)
    u = t - i
    near = np.stack(
        [(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], -1
    )
    made = np.zeros((len(t), n + 3))
    np.put_along_axis(made, i[:, None] + np.arange(NEAR), near / 6, axis=1)
    return made
