"""Splines of the scale of the frames and of its dependence on direction; see `redundancy`.

    ln s = c(z) + g(u) + d(z, x, y)

c is a curve over the frames z of each rotation; d is smooth in z and in the place (x, y) on the
detector. Both are sums of uniform cubic B-splines (and their products). g is a function of the
direction in the frame of the crystal (`scale_outgoing`), the same for all rotations. If the norm
contains a transmission by frame, the start, c has one more term: the part of ln(start) that changes
too fast for the splines, times a factor. With the factor -1 this part is removed from the norm.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.transform.scale_outgoing import Outgoing

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


class Start(NamedTuple):
    """Course of ln(transmission) in the norm of a rotation: smooth + fast, with a mean of 0.

    Attributes
    ----------
    smooth : (intervals + 3,) array
        Coefficients of the curve's splines.
    fast : (frames,) array
        What the splines cannot follow.
    """

    smooth: Floats
    fast: Floats

    @classmethod
    def of_frames(cls, factor: Floats, intervals: int) -> "Start":
        """Divide the transmission of the frames (n,); 0 is replaced by that of the neighbours."""
        middle, usable = np.arange(len(factor)) + 0.5, factor > 0
        if not usable.any():
            return cls(np.zeros(intervals + 3), np.zeros(len(factor)))
        log = np.interp(middle, middle[usable], np.log(factor[usable]))
        log -= log.mean()
        splines = basis(middle / len(factor), intervals)
        smooth = np.linalg.lstsq(splines, log, rcond=None)[0]
        return cls(smooth, log - splines @ smooth)

    def at(self, frame: Floats) -> Floats:
        """Return the fast part at frame positions (n,)."""
        return np.interp(frame, np.arange(len(self.fast)) + 0.5, self.fast)


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
    start : tuple of Start
        Of each rotation; empty: the norm contains no transmission.
    outgoing : Outgoing or None
        Terms of g, only with d; None: there is no g.
    """

    frames: tuple[int, ...]
    curve: tuple[int, ...]
    angle: tuple[int, ...]
    detector: tuple[int, int]
    shape: tuple[int, int]
    start: tuple[Start, ...] = ()
    outgoing: Outgoing | None = None

    def with_start(self, factors: list[Floats]) -> "Splines":
        """Return splines with the transmissions of the frames (n,) of each rotation."""
        start = (Start.of_frames(f, m) for f, m in zip(factors, self.curve, strict=True))
        return replace(self, start=tuple(start))

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
        return int(layout.first_direction[0])

    @property
    def n_outgoing(self) -> int:
        """Number of parameters of g."""
        return 0 if self.outgoing is None else self.outgoing.size

    @property
    def n_course(self) -> int:
        """Number of parameters on which the factor of the frames depends: those of c and g."""
        return int(self.layout().first_direction[0])

    @property
    def n_curve(self) -> int:
        """Number of parameters of c, which are the first."""
        return self.n_course - self.n_outgoing

    def layout(self) -> Layout:
        """Return the sizes for the kernels; all curves come first, then g."""
        curve = np.array(self.curve, np.int64)
        angle = np.array(self.angle, np.int64)
        ends = np.cumsum(curve + 3 + (1 if self.start else 0))
        direction = ends[-1] + self.n_outgoing
        more = np.cumsum((angle + 3) * self.places)
        return Layout(
            np.array(self.frames, np.int64),
            curve,
            angle,
            np.concatenate([[0], ends[:-1]]),
            direction + np.concatenate([[0], more[:-1]]),
            np.array(self.detector, np.int64),
            np.array(self.shape, np.int64),
        )

    def of_curve(self, rotation: int, frame: ArrayLike) -> Floats:
        """Return the terms of c, and the means of g, at frame positions (n, size)."""
        own = self.terms_of_curve(rotation, np.asarray(frame))
        matrix = np.zeros((len(own), self.size))
        begin = self.layout().first_curve[rotation]
        matrix[:, begin : begin + own.shape[1]] = own
        if self.outgoing is not None:
            matrix[:, self.n_curve : self.n_course] = self.outgoing.mean(rotation, frame)
        return matrix

    def terms_of_curve(self, rotation: int, frame: Floats) -> Floats:
        """Return the own terms of c of a rotation (n, terms): splines and, if any, the start."""
        own = basis(frame / self.frames[rotation], self.curve[rotation])
        if not self.start:
            return own
        return np.concatenate([own, self.start[rotation].at(frame)[:, None]], axis=1)

    def of_direction(self, rotation: int, a: Floats, frame: ArrayLike, at: "Places") -> Floats:
        """Return d + g (frames, slow, fast) at frame positions and places on the detector.

        The mean of g over the detector is in the curve.
        """
        n = self.angle[rotation] + 3
        begin = self.layout().first_direction[rotation]
        own = a[begin : begin + n * self.places]
        own = own.reshape(n, self.detector[0] + 3, self.detector[1] + 3)
        along = basis(np.asarray(frame) / self.frames[rotation], self.angle[rotation])
        slow = basis(np.asarray(at.slow) / self.shape[0], self.detector[0])
        fast = basis(np.asarray(at.fast) / self.shape[1], self.detector[1])
        made = np.einsum("zi,ijk,sj,fk->zsf", along, own, slow, fast, optimize=True)
        if self.outgoing is not None:
            g = a[self.n_curve : self.n_course]
            near = self.outgoing.near(rotation, frame, at.slow, at.fast)
            made += np.moveaxis(np.sum(g[near.node] * near.share, axis=-1), -1, 0)
            made -= (self.outgoing.mean(rotation, frame) @ g)[:, None, None]
        return made


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
