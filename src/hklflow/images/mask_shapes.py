"""Shapes of a pixel mask, and a function that draws them one after the other.

Coordinates are detector pixel coordinates as in :mod:`hklflow.geometry.frames`: pixel ``i`` spans
``[i, i + 1)`` with its centre at ``i + 0.5``. A pixel belongs to a shape if its centre is inside.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import Bits, BoolImage, MaskBit

Op = Literal["add", "subtract"]


class Shape(Protocol):
    """Interface of a shape: an operation and the pixels inside."""

    @property
    def op(self) -> Op:
        """Operation: ``add`` marks the pixels bad, ``subtract`` marks them good again."""

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Return True (n, m) for points inside the shape; slow is (n, 1) and fast (1, m)."""


def _check_op(name: str, op: str, lengths: dict[str, float]) -> None:
    """Refuse an unknown operation and lengths that are not finite and positive."""
    if op not in ("add", "subtract"):
        raise HklflowError(f"op {op!r} of mask shape {name}: give 'add' or 'subtract'")
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
        """Return True for points inside the shape."""
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
        """Return True for points inside the shape."""
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
        _check_op("annulus", self.op, {"width": self.outer - self.inner, "outer": self.outer})
        if self.inner < 0:
            raise HklflowError(f"inner={self.inner} of mask shape annulus: give 0 px or more")

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Return True for points inside the shape."""
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
        """Return True for points inside the shape."""
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
        """Return True for points inside the shape."""
        s, f = slow - self.slow, fast - self.fast
        disc = s**2 + f**2 <= self.radius**2
        if self.arm_width == 0:
            return disc
        cos, sin = math.cos(self.arm_angle), math.sin(self.arm_angle)
        along, across = f * cos + s * sin, s * cos - f * sin
        arm = (along >= 0) & (along <= self.arm_length) & (np.abs(across) <= self.arm_width / 2)
        return disc | arm


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels of an image: an imported mask, or the gaps of a known detector.

    Parameters
    ----------
    shape
        (slow, fast) of the image that is masked.
    image
        bool, of the same shape.
    op
        See `Shape.op`.
    """

    shape: tuple[int, int]
    image: BoolImage
    op: Op = "add"

    def __post_init__(self) -> None:
        """Check the operation and the shape."""
        _check_op("pixels", self.op, {})
        _check_size(self.image, self.shape)

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Return True for points whose pixel is set in ``image``."""
        return np.asarray(self.image[slow.astype(int), fast.astype(int)])


@dataclass(frozen=True, eq=False)
class Edges:
    """Pixels within ``width`` of the border of an image, or of a gap in the image.

    Parameters
    ----------
    shape
        (slow, fast) of the image.
    width
        Width in pixels, along rows and columns; a corner of a gap gets a square.
    op
        See `Shape.op`.
    gaps
        Gaps between modules (slow, fast), True = gap; None: only the border has edges. The gaps
        are not part of the edges.
    """

    shape: tuple[int, int]
    width: int
    op: Op = "add"
    gaps: BoolImage | None = None

    def __post_init__(self) -> None:
        """Check the operation and the width."""
        _check_op("edges", self.op, {"width": self.width})
        if self.gaps is not None:
            _check_size(self.gaps, self.shape)

    def inside(self, slow: NDArray[np.float64], fast: NDArray[np.float64]) -> BoolImage:
        """Return True for points inside the shape."""
        n_slow, n_fast = self.shape
        rows = (slow < self.width) | (slow > n_slow - self.width)
        border = rows | (fast < self.width) | (fast > n_fast - self.width)
        if self.gaps is None:
            return border
        near = self.gaps
        for axis in (0, 1):
            near = _widened(near, self.width, axis)
        pixel = slow.astype(int), fast.astype(int)
        return (border | near[pixel]) & ~self.gaps[pixel]


def _widened(image: BoolImage, width: int, axis: int) -> BoolImage:
    """Add the pixels within ``width`` along an axis."""
    rows = np.moveaxis(image, axis, 0)
    wide = rows.copy()
    for step in range(1, min(width, len(rows) - 1) + 1):
        wide[step:] |= rows[:-step]
        wide[:-step] |= rows[step:]
    return np.moveaxis(wide, 0, axis)


def _check_size(image: BoolImage, shape: tuple[int, int]) -> None:
    if image.shape != shape:
        sizes = [" × ".join(map(str, size)) for size in (image.shape, shape)]
        raise HklflowError(
            f"the mask has {sizes[0]} pixels (slow × fast), but the image {sizes[1]}; give the "
            "mask of this detector"
        )


@dataclass(frozen=True, eq=False)
class Drawn:
    """Mask after all steps.

    Attributes
    ----------
    bits
        uint32 (slow, fast): bits of the steps that masked a pixel.
    last
        int (slow, fast): number (from 0) of the last step that masked a pixel; -1 for pixels that
        are not masked.
    freed
        bool (slow, fast): True for pixels in a shape that subtracts, unless a later step masked
        them again. Pixels that no earlier step had masked are included.
    changes
        Number of added and freed pixels of each step.
    """

    bits: Bits
    last: NDArray[np.int32]
    freed: BoolImage
    changes: tuple[tuple[int, int], ...]


def draw(shape: tuple[int, int], steps: Iterable[tuple[MaskBit, Shape]]) -> Drawn:
    """Apply steps in the given order.

    A step that adds sets its bit. A step that subtracts clears all bits that earlier steps have
    set; flags of the measurement are not changed.

    Parameters
    ----------
    shape
        (slow, fast) of the image.
    steps
        (reason, shape) of each step; the reason of a step that subtracts does not matter.

    Raises
    ------
    HklflowError
        If an image among the steps has another shape.
    """
    bits = np.zeros(shape, np.uint32)
    last = np.full(shape, -1, np.int32)
    freed = np.zeros(shape, bool)
    changes = []
    slow = np.arange(shape[0], dtype=np.float64)[:, None] + 0.5
    fast = np.arange(shape[1], dtype=np.float64)[None, :] + 0.5
    for number, (bit, item) in enumerate(steps):
        inside = item.inside(slow, fast)
        masked = inside & (last >= 0)
        if item.op == "add":
            changes.append((int(inside.sum() - masked.sum()), 0))
            bits[inside] |= np.uint32(bit)
            last[inside] = number
            freed &= ~inside
        else:
            changes.append((0, int(masked.sum())))
            bits[inside] = 0
            last[inside] = -1
            freed |= inside
    return Drawn(bits, last, freed, tuple(changes))
