"""Pixel masks of one detector image: drawn shapes, gaps, flagged and defective pixels.

A mask is a bool array (slow, fast), True = bad. The reasons are kept in a bit-valued
array with the bits of NXmx ``pixel_mask`` (see :class:`MaskBit`); ``bad = bits != 0``.

Coordinates of shapes are detector pixel coordinates as in :mod:`hklflow.core.frames`: pixel
``i`` spans ``[i, i + 1)`` with its centre at ``i + 0.5``. A pixel belongs to a shape
when its centre does.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Literal, Protocol

import numba
import numpy as np
from numpy.typing import NDArray

from hklflow.errors import HklflowError

BoolImage = NDArray[np.bool_]
Bits = NDArray[np.uint32]
Op = Literal["add", "subtract"]


class MaskBit(IntFlag):
    """Bits of NXmx ``NXdetector/pixel_mask``."""

    GAP = 1
    DEAD = 2
    UNDER_RESPONDING = 4
    OVER_RESPONDING = 8
    NOISY = 16
    CLUSTER = 64
    USER = 256
    VIRTUAL = 1 << 31


class Shape(Protocol):
    """What can be drawn: an operation and the pixels inside."""

    @property
    def op(self) -> Op:
        """``add`` marks the pixels bad, ``subtract`` marks them good again."""

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Tell which points lie inside; slow (n, 1) and fast (1, m) broadcast to (n, m)."""


def _check_op(name: str, op: str, lengths: dict[str, float]) -> None:
    """Refuse an unknown operation and lengths that are not finite and positive."""
    if op not in ("add", "subtract"):
        raise HklflowError(f"op {op!r} of mask shape {name}: say 'add' or 'subtract'")
    for key, value in lengths.items():
        if not (math.isfinite(value) and value > 0):
            raise HklflowError(f"{key}={value} of mask shape {name}: give a positive length in px")


@dataclass(frozen=True)
class Rectangle:
    """Rectangle ``slow_min <= slow < slow_max``, ``fast_min <= fast < fast_max`` (pixels)."""

    slow_min: float
    slow_max: float
    fast_min: float
    fast_max: float
    op: Op = "add"

    def __post_init__(self) -> None:
        """Check the operation and the order of the limits."""
        sides = {"height": self.slow_max - self.slow_min, "width": self.fast_max - self.fast_min}
        _check_op("rectangle", self.op, sides)

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Tell which points lie inside."""
        rows = (slow >= self.slow_min) & (slow < self.slow_max)
        return rows & (fast >= self.fast_min) & (fast < self.fast_max)


@dataclass(frozen=True)
class Circle:
    """Disc around (slow, fast), all in pixels."""

    slow: float
    fast: float
    radius: float
    op: Op = "add"

    def __post_init__(self) -> None:
        """Check the operation and the radius."""
        _check_op("circle", self.op, {"radius": self.radius})

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Tell which points lie inside."""
        return (slow - self.slow) ** 2 + (fast - self.fast) ** 2 <= self.radius**2


@dataclass(frozen=True)
class Annulus:
    """Ring ``inner <= r <= outer`` around (slow, fast), all in pixels."""

    slow: float
    fast: float
    inner: float
    outer: float
    op: Op = "add"

    def __post_init__(self) -> None:
        """Check the operation and the radii."""
        _check_op("annulus", self.op, {"width": self.outer - self.inner, "inner": self.inner})

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Tell which points lie inside."""
        r2 = (slow - self.slow) ** 2 + (fast - self.fast) ** 2
        return (r2 >= self.inner**2) & (r2 <= self.outer**2)


@dataclass(frozen=True)
class Polygon:
    """Simple or self-crossing polygon (even-odd rule), corners as (slow, fast) in pixels."""

    corners: tuple[tuple[float, float], ...]
    op: Op = "add"

    def __post_init__(self) -> None:
        """Check the operation and the corners."""
        _check_op("polygon", self.op, {})
        if len(self.corners) < 3 or not np.isfinite(np.array(self.corners)).all():
            raise HklflowError(
                f"mask polygon with corners {self.corners}: give three or more finite corners"
            )

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Tell which points lie inside."""
        result = np.zeros(np.broadcast_shapes(slow.shape, fast.shape), bool)
        for (s0, f0), (s1, f1) in zip(
            self.corners, (*self.corners[1:], self.corners[0]), strict=True
        ):
            if s0 == s1:
                continue
            crosses = (slow >= min(s0, s1)) & (slow < max(s0, s1))
            result ^= crosses & (fast < f0 + (slow - s0) * (f1 - f0) / (s1 - s0))
        return result


@dataclass(frozen=True)
class Beamstop:
    """Disc of ``radius`` with an arm: a rectangle of ``arm_width`` from the centre outwards.

    ``arm_angle`` (radian) is the direction of the arm, from +fast towards +slow;
    ``arm_length`` (pixels) is measured from the centre. ``arm_width = 0`` draws no arm.
    """

    slow: float
    fast: float
    radius: float
    arm_angle: float = 0.0
    arm_width: float = 0.0
    arm_length: float = math.inf
    op: Op = "add"

    def __post_init__(self) -> None:
        """Check the operation, the radius and the arm."""
        _check_op("beamstop", self.op, {"radius": self.radius})
        if not (self.arm_width >= 0 and self.arm_length > 0 and math.isfinite(self.arm_angle)):
            raise HklflowError(
                f"arm of the beamstop, width={self.arm_width} length={self.arm_length} "
                f"angle={self.arm_angle}: give width >= 0, length > 0 and a finite angle"
            )

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Tell which points lie inside."""
        s, f = slow - self.slow, fast - self.fast
        disc = s**2 + f**2 <= self.radius**2
        if self.arm_width == 0:
            return disc
        cos, sin = math.cos(self.arm_angle), math.sin(self.arm_angle)
        along, across = f * cos + s * sin, s * cos - f * sin
        arm = (along >= 0) & (along <= self.arm_length) & (np.abs(across) <= self.arm_width / 2)
        return disc | arm


@dataclass(frozen=True)
class Edges:
    """Frame of ``width`` pixels along the four edges of an image of ``shape`` (slow, fast)."""

    shape: tuple[int, int]
    width: int
    op: Op = "add"

    def __post_init__(self) -> None:
        """Check the operation and the width."""
        _check_op("edges", self.op, {"width": self.width})

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Tell which points lie inside."""
        n_slow, n_fast = self.shape
        rows = (slow < self.width) | (slow > n_slow - self.width)
        return rows | (fast < self.width) | (fast > n_fast - self.width)


def draw(
    shape: tuple[int, int], shapes: Sequence[Shape], base: BoolImage | None = None
) -> BoolImage:
    """Apply shapes in the order given.

    Parameters
    ----------
    shape
        (slow, fast) of the image.
    shapes
        Each adds to or subtracts from what the ones before it left.
    base
        Mask (slow, fast) to start from; None is all good. It is not changed.

    Returns
    -------
    NDArray
        bool (slow, fast), True = bad.
    """
    if base is not None and base.shape != shape:
        raise HklflowError(f"base mask of shape {base.shape} for an image of shape {shape}")
    mask = np.zeros(shape, bool) if base is None else base.astype(bool)
    slow = np.arange(shape[0], dtype=np.float64)[:, None] + 0.5
    fast = np.arange(shape[1], dtype=np.float64)[None, :] + 0.5
    for item in shapes:
        inside = item.inside(slow, fast)
        mask = mask | inside if item.op == "add" else mask & ~inside
    return mask


def flag_value(dtype: np.dtype[Any]) -> int | None:
    """Return the value that marks a pixel without a measurement in unsigned raw frames.

    NXmx and DECTRIS write the largest number of the type (2^16 - 1, 2^32 - 1). Signed and
    floating types have no such value (None): there negative numbers and NaN are the flags.
    """
    return int(np.iinfo(dtype).max) if np.issubdtype(dtype, np.unsignedinteger) else None


def flagged(frames: NDArray[Any], flag_from: float | None = None) -> BoolImage:
    """Mark values that are no measurement: negative, not finite, or ``>= flag_from``.

    Parameters
    ----------
    frames
        (..., slow, fast), any real type.
    flag_from
        Smallest value that is a flag, see :func:`flag_value`; None where there is none.
    """
    bad = ~np.isfinite(frames) | (frames < 0)
    if flag_from is not None:
        bad |= frames >= flag_from
    return np.asarray(bad)


def find_gaps(blocks: Iterable[NDArray[Any]], flag_from: float | None = None) -> BoolImage:
    """Find pixels that are flagged on every frame (gaps between modules, disabled pixels).

    Parameters
    ----------
    blocks
        Frames (n, slow, fast) in order.
    flag_from
        See :func:`flagged`.

    Returns
    -------
    NDArray
        bool (slow, fast).
    """
    gaps: BoolImage | None = None
    for block in blocks:
        always = np.asarray(flagged(block, flag_from).all(axis=0))
        gaps = always if gaps is None else gaps & always
    if gaps is None:
        raise HklflowError("no frames to find the gaps in: check the range of frames")
    return gaps


@numba.njit(cache=True, nogil=True)
def _neighbourhood(image, bad, radius, median, scatter, third_high, third_low):  # type: ignore[no-untyped-def]
    """Fill in the local statistics of the good neighbours of every good pixel.

    median and scatter (1.4826 MAD) over the square of ``radius``; third highest and third
    lowest of the 8 nearest, highest and lowest where some of these are bad. NaN where too few
    are good.
    """
    n_slow, n_fast = image.shape
    values = np.empty((2 * radius + 1) ** 2)
    near = np.empty(8)
    for i in range(n_slow):
        for j in range(n_fast):
            median[i, j] = np.nan
            if bad[i, j]:
                continue
            n = 0
            m = 0
            for a in range(max(0, i - radius), min(n_slow, i + radius + 1)):
                for b in range(max(0, j - radius), min(n_fast, j + radius + 1)):
                    if bad[a, b] or (a == i and b == j):
                        continue
                    values[n] = image[a, b]
                    n += 1
                    if abs(a - i) <= 1 and abs(b - j) <= 1:
                        near[m] = image[a, b]
                        m += 1
            if n < 8 or m < 3:
                continue
            centre = np.median(values[:n])
            median[i, j] = centre
            for k in range(n):
                values[k] = abs(values[k] - centre)
            scatter[i, j] = 1.4826 * np.median(values[:n])
            ordered = np.sort(near[:m])
            # Beside a gap a spot may show three pixels only: then no neighbour may share it.
            rank = 2 if m == 8 else 0
            third_high[i, j] = ordered[m - 1 - rank]
            third_low[i, j] = ordered[rank]


def find_defects(
    summed: NDArray[Any],
    bad: BoolImage,
    *,
    n_sigma: float = 8.0,
    contrast: float = 5.0,
    dead_expected: float = 30.0,
    low_fraction: float = 0.3,
    radius: int = 3,
) -> Bits:
    """Find dead, under-responding and hot pixels in a long summed image.

    A pixel is compared with the median m of its good neighbours in a square of
    ``2 radius + 1`` pixels. Its σ is the larger of the Poisson sqrt(m + 1) and the scatter
    (1.4826 MAD) of those neighbours, which covers steep background.

    * hot: ``x - m > n_sigma σ`` and ``x - m > contrast (x3 - m)``, x3 the third highest of its
      eight nearest neighbours. A Bragg spot spreads over its neighbours, so it fails the
      second test; up to three hot pixels side by side pass it. Beside bad pixels x3 is the
      highest neighbour, because a gap may hide most of a spot: a lone hot pixel is found there,
      a pair is not.
    * dead: x = 0 where ``m >= dead_expected`` (chance exp(-m), 1e-13 for 30 counts).
    * under-responding: x below ``low_fraction`` of m and of x3', the third lowest of its eight
      nearest neighbours, and ``x3' - x > n_sigma sqrt(x3' + 1)``.

    Draw the beamstop first: the shadow of a thin arm looks dead.

    Parameters
    ----------
    summed
        Counts (slow, fast) summed over many frames, at least some tens per pixel.
    bad
        Known bad pixels (slow, fast): not judged, not used as neighbours.

    Returns
    -------
    NDArray
        uint32 (slow, fast) with the bits DEAD, UNDER_RESPONDING and OVER_RESPONDING.
    """
    if summed.ndim != 2 or summed.shape != bad.shape:
        raise HklflowError(f"summed image {summed.shape} and mask {bad.shape} differ in shape")
    if radius < 2:
        raise HklflowError(f"radius={radius} of the defect search: give 2 pixels or more")
    image = np.ascontiguousarray(summed, np.float64)
    out = [np.zeros(image.shape) for _ in range(4)]
    _neighbourhood(image, np.ascontiguousarray(bad, np.bool_), radius, *out)
    median, scatter, third_high, third_low = out
    judged = np.isfinite(median)
    m = np.where(judged, median, 0.0)
    sigma = np.maximum(np.sqrt(np.maximum(m, 0) + 1), scatter)
    excess = image - m
    hot = judged & (excess > n_sigma * sigma) & (excess > contrast * (third_high - m))
    dead = judged & (image == 0) & (m >= dead_expected)
    floor = np.maximum(third_low, 0)
    low = judged & ~dead & (floor - image > n_sigma * np.sqrt(floor + 1))
    low &= image < low_fraction * np.minimum(m, floor)
    bits = np.zeros(image.shape, np.uint32)
    bits[hot] |= np.uint32(MaskBit.OVER_RESPONDING)
    bits[dead] |= np.uint32(MaskBit.DEAD)
    bits[low] |= np.uint32(MaskBit.UNDER_RESPONDING)
    return bits


def find_constant(
    summed: NDArray[Any],
    maximum: NDArray[Any],
    valid_frames: NDArray[np.integer[Any]],
    *,
    minimum: float = 10.0,
    min_frames: int = 10,
) -> BoolImage:
    """Find pixels that count the same on every frame, so do not count photons.

    Parameters
    ----------
    summed, maximum, valid_frames
        Sum, maximum and number of valid frames of each pixel, (slow, fast), as
        :class:`hklflow.core.statistics.FrameStatistics` gives them.
    minimum
        Smallest constant value that is suspicious: few counts may agree by chance. Ten counts
        on ten frames agree with probability below 1e-8.
    min_frames
        Fewer valid frames than this are not judged.
    """
    if min_frames < 2:
        raise HklflowError(f"min_frames={min_frames} of the constant pixels: give 2 or more")
    constant = np.asarray(maximum, np.float64) * valid_frames == summed
    return np.asarray(constant & (maximum >= minimum) & (valid_frames >= min_frames))


def combine(
    shape: tuple[int, int], parts: Iterable[tuple[MaskBit, BoolImage]], base: Bits | None = None
) -> Bits:
    """Set one bit per reason.

    Parameters
    ----------
    shape
        (slow, fast).
    parts
        (bit, bool image) in any order.
    base
        Bits (slow, fast) to start from, such as the ``pixel_mask`` of the raw file.

    Returns
    -------
    NDArray
        uint32 (slow, fast).
    """
    bits = np.zeros(shape, np.uint32) if base is None else np.array(base, np.uint32)
    for bit, image in parts:
        if image.shape != shape or bits.shape != shape:
            raise HklflowError(f"mask {bit.name} has shape {image.shape}, the image has {shape}")
        bits[image] |= np.uint32(bit)
    return bits


def bad_pixels(bits: Bits) -> BoolImage:
    """Mark every pixel with any bit set, (slow, fast) bool."""
    return np.asarray(bits != 0)
