"""Regions of a volume, divided into bins: boxes, planes with a thickness, cylinders, shells.

A voxel belongs to the bin that contains its centre. A centre on the face between two bins belongs
to the bin with the even index, so that bins are not shifted on average.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Axes = Sequence[Floats] | Floats
"""h, k, l (or x, y, z) of points: three arrays that broadcast to one shape. For a box of voxels
they are its axes, so that what depends on one of them is calculated for this axis alone."""

_TIE = 1e-6  # in bins: closer positions are on a face


class Region(Protocol):
    """Bins of a region."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of bins along each dimension of the result."""

    def bins(self, axes: Axes) -> Integers:
        """Return the flat index of the bin of points, of the shape of the axes; -1 outside."""

    def near(self, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for boxes that do not reach into the region.

        Parameters
        ----------
        centres, half : (n, 3) arrays
            Centres of the boxes, and half of their edges.
        """

    def turned(self, operation: Floats) -> "Region":
        """Return the region in which a point has the bin that its image has in this region."""

    def apart(self, turned: Any, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return True for boxes of which no point has the same bin in a turned region.

        Parameters
        ----------
        turned : Region
        centres, half : (n, 3) arrays
            See `near`.
        """


@dataclass(frozen=True)
class Slots:
    """Bins on a grid of three linear coordinates ``y = matrix (point - origin)``.

    Attributes
    ----------
    matrix : (3, 3) array
    origin : (3,) array
    first, step : (3,) arrays
        Middle of the first bin, and distance of bins.
    sizes : (3,) tuple of int
        Number of bins along each coordinate. A coordinate with one bin includes both of its faces.
    shape : tuple of int
        Shape of the result; the product of ``sizes``.
    """

    matrix: Floats
    origin: Floats
    first: Floats
    step: Floats
    sizes: tuple[int, int, int]
    shape: tuple[int, ...]

    def bins(self, axes: Axes) -> Integers:
        """Return the flat index of the bin of points; -1 outside."""
        flat: Any = np.zeros((), np.int64)
        inside: Any = np.ones((), np.bool_)
        offset = self.matrix @ self.origin + self.first
        for row, start, step, n in zip(self.matrix, offset, self.step, self.sizes, strict=True):
            place = (_linear(row, axes) - start) / step
            slot = _slot(place) if n > 1 else np.where(np.abs(place) <= 0.5 + _TIE, 0, -1)
            flat = flat * n + slot
            inside = inside & (slot >= 0) & (slot < n)
        return np.where(inside, flat, -1)

    def turned(self, operation: Floats) -> "Slots":
        """Return the region of the images; see `Region.turned`."""
        # matrix (W p - origin) = (matrix W) p - matrix origin
        turned = self.matrix @ operation
        origin = np.asarray(np.linalg.solve(operation, self.origin), np.float64)
        return replace(self, matrix=turned, origin=origin)

    def apart(self, turned: "Slots", centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return True for boxes without a point that has the same bin in both regions."""
        moved = (turned.matrix - self.matrix) / self.step[:, None]
        least = np.abs(centres @ moved.T) - half @ np.abs(moved).T
        return np.any((least > 1 + _TIE) & (np.array(self.sizes) > 1), axis=-1)

    def near(self, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for boxes that do not reach into the region; see `Region.near`."""
        place = ((centres - self.origin) @ self.matrix.T - self.first) / self.step
        reach = half @ np.abs(self.matrix).T / self.step + 0.5 + _TIE
        return np.all((place >= -reach) & (place <= np.array(self.sizes) - 1 + reach), axis=-1)


@dataclass(frozen=True)
class Cylinder:
    """Bins along a line from ``start`` to ``end``; both ends are middles of bins.

    Attributes
    ----------
    metric : (3, 3) array
        Metric tensor, in which lengths are measured.
    start, end : (3,) arrays
    radius : float
    n : int
        Number of bins, 2 or more.
    """

    metric: Floats
    start: Floats
    end: Floats
    radius: float
    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of bins."""
        return (self.n,)

    @property
    def length(self) -> float:
        """Distance of start and end."""
        along = self.end - self.start
        return float(np.sqrt(along @ self.metric @ along))

    def _along(self, axes: Axes) -> Floats:
        """Return the position along the line in bins."""
        direction = self.metric @ (self.end - self.start)
        place = _linear(direction, axes) - self.start @ direction
        return place * ((self.n - 1) / self.length**2)

    def _square(self, axes: Axes, place: Floats) -> Floats:
        """Return the square of the distance from the line."""
        step = self.length / (self.n - 1)
        moved = [axis - start for axis, start in zip(axes, self.start, strict=True)]
        return _squares(moved, self.metric) - (place * step) ** 2

    def bins(self, axes: Axes) -> Integers:
        """Return the index of the bin of points; -1 outside."""
        place = self._along(axes)
        slot = _slot(place)
        inside = (slot >= 0) & (slot < self.n)
        inside = inside & (self._square(axes, place) <= self.radius**2 * (1 + _TIE))
        return np.where(inside, slot, -1)

    def turned(self, operation: Floats) -> "Cylinder":
        """Return the region of the images; see `Region.turned`."""
        start, end = np.linalg.solve(operation, np.stack([self.start, self.end], axis=1)).T
        metric = operation.T @ self.metric @ operation
        return replace(self, metric=metric, start=start, end=end)

    def apart(self, turned: "Cylinder", centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return True for boxes without a point that has the same bin in both regions."""
        one, other = (
            region.metric @ (region.end - region.start) * (region.n - 1) / region.length**2
            for region in (self, turned)
        )
        moved = turned._along(centres.T) - self._along(centres.T)
        return np.asarray(np.abs(moved) - half @ np.abs(other - one) > 1 + _TIE)

    def near(self, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for boxes that do not reach into the region; see `Region.near`."""
        place = self._along(centres.T)
        square = self._square(centres.T, place)
        reach = _reach(self.metric, half)
        bins = reach * (self.n - 1) / self.length + 1
        near = np.sqrt(np.maximum(square, 0)) <= self.radius + reach
        return np.asarray(near & (place >= -bins) & (place <= self.n - 1 + bins))


@dataclass(frozen=True)
class Shells:
    """Shells of the distance from the origin, ``i step <= |Q| < (i + 1) step``.

    Attributes
    ----------
    metric : (3, 3) array
    step : float
    n : int
        Number of shells.
    """

    metric: Floats
    step: float
    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of shells."""
        return (self.n,)

    def bins(self, axes: Axes) -> Integers:
        """Return the index of the shell of points; -1 outside."""
        length = np.sqrt(_squares(axes, self.metric))
        # Equivalent points on a face must be in one shell, whatever their rounding errors.
        shell = np.floor(length / self.step + _TIE).astype(np.int64)
        return np.where(shell < self.n, shell, -1)

    def near(self, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for boxes that do not reach into the region; see `Region.near`."""
        length = np.sqrt(_squares(centres.T, self.metric))
        return np.asarray(length - _reach(self.metric, half) <= self.step * self.n)

    def turned(self, operation: Floats) -> "Shells":
        """Return the region of the images; see `Region.turned`."""
        return replace(self, metric=operation.T @ self.metric @ operation)

    def apart(self, turned: "Shells", centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for all boxes: operations of a Laue group keep |Q|."""
        return np.zeros(len(centres), np.bool_)


def _slot(place: Floats) -> Integers:
    """Return the index of the bin that contains a position in units of bins."""
    half = np.rint(2 * place) / 2
    return np.rint(np.where(np.abs(place - half) < _TIE, half, place)).astype(np.int64)


def _linear(row: Floats, axes: Axes) -> Floats:
    """Return the sum of the axes with the factors of a row; axes without a factor do not count."""
    size = np.abs(row).max()
    terms = [c * axis for c, axis in zip(row, axes, strict=True) if abs(c) > 1e-13 * size]
    return np.asarray(sum(terms, start=np.zeros(())))


def _squares(axes: Axes, metric: Floats) -> Floats:
    """Return the squares of the lengths of vectors."""
    factors = np.asarray(np.linalg.cholesky(metric).T, np.float64)  # x M x = |factors x|²
    return np.asarray(sum(_linear(row, axes) ** 2 for row in factors))


def _reach(metric: Floats, half: Floats) -> Floats:
    """Return the largest distance of a corner of boxes (n, 3) from the middle."""
    signs = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]], dtype=np.float64)
    return np.asarray(np.sqrt(np.max([_squares((half * s).T, metric) for s in signs], axis=0)))


def images_in_bins(
    axes: Axes,
    own: Integers,
    turned: Sequence[Region],
    operations: Floats,
    inside: Callable[[Axes], Any],
) -> Floats:
    """Return how many distinct images of each point are in its bin, with the point itself.

    In a symmetrised volume, the images of a voxel repeat one measurement.

    Parameters
    ----------
    axes : three arrays
        Points.
    own : int array
        Bins of the points; the result is right for bins of 0 or more.
    turned : sequence of Region
        The region turned by each operation, see `Region.turned`.
    operations : (m, 3, 3) array
        Operations on the points; those by which no point gets an image in its bin may be left out.
    inside : callable
        Function that returns True for points (axes) in the volume.

    Returns
    -------
    array of the shape of ``own``
        Numbers of 1 or more.
    """
    same, fixed = np.ones((2, *own.shape), np.uint8)  # the identity
    for image_region, operation in zip(turned, operations, strict=True):
        if np.array_equal(operation, np.eye(3)):
            continue
        image = [_linear(row, axes) for row in operation]
        hit = (image_region.bins(axes) == own) & inside(image)
        same += hit
        for moved, axis in zip(image, axes, strict=True):
            hit &= np.abs(moved - axis) < 1e-6
        fixed += hit
    return same / fixed


def images_elsewhere(
    points: Floats, own: Integers, region: Region, operations: Floats, inside: Callable[[Axes], Any]
) -> NDArray[np.bool_]:
    """Return True for points (n, 3) with an image in another bin; see `images_in_bins`."""
    # All operations in one call: the points are few.
    images = np.moveaxis(points @ operations.transpose(0, 2, 1), -1, 0)
    bins = region.bins(tuple(images))
    return np.asarray(((bins >= 0) & (bins != own) & inside(tuple(images))).any(axis=0))
