"""Regions of a volume, divided into bins: boxes, planes with a thickness, cylinders, shells.

A voxel belongs to the bin that contains its centre. A centre on the face between two bins belongs
to the bin with the even index, so that bins are not shifted on average.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_TIE = 1e-6  # in bins: closer positions are on a face


class Region(Protocol):
    """Bins of a region."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of bins along each dimension of the result."""

    def bins(self, points: Floats) -> Integers:
        """Return the flat index of the bin of points (n, 3) in hkl or xyz; -1 outside."""

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

    def bins(self, points: Floats) -> Integers:
        """Return the flat index of the bin of points (n, 3); -1 outside."""
        total = len(points)
        flat, left = np.zeros(total, np.int64), np.arange(total)
        offset = self.matrix @ self.origin + self.first
        for row, start, step, n in zip(self.matrix, offset, self.step, self.sizes, strict=True):
            place = (points @ row - start) / step
            slot = _slot(place) if n > 1 else np.where(np.abs(place) <= 0.5 + _TIE, 0, -1)
            inside = (slot >= 0) & (slot < n)
            flat = flat * n + slot
            if not inside.all():  # the other coordinates of these points are not needed
                points, flat, left = points[inside], flat[inside], left[inside]
        return _spread(flat, left, total)

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

    def _along(self, points: Floats) -> Floats:
        """Return the position along the line in bins."""
        direction = self.metric @ (self.end - self.start)
        return (points @ direction - self.start @ direction) * (self.n - 1) / self.length**2

    def _square(self, points: Floats, place: Floats) -> Floats:
        """Return the square of the distance from the line."""
        step = self.length / (self.n - 1)
        return _squares(points - self.start, self.metric) - (place * step) ** 2

    def bins(self, points: Floats) -> Integers:
        """Return the index of the bin of points (n, 3); -1 outside."""
        place = self._along(points)
        slot = _slot(place)
        left = np.flatnonzero((slot >= 0) & (slot < self.n))
        square = self._square(points[left], place[left])
        left = left[square <= self.radius**2 * (1 + _TIE)]
        return _spread(slot[left], left, len(points))

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
        moved = turned._along(centres) - self._along(centres)
        return np.asarray(np.abs(moved) - half @ np.abs(other - one) > 1 + _TIE)

    def near(self, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for boxes that do not reach into the region; see `Region.near`."""
        place = self._along(centres)
        square = self._square(centres, place)
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

    def bins(self, points: Floats) -> Integers:
        """Return the index of the shell of points (n, 3); -1 outside."""
        length = np.sqrt(_squares(points, self.metric))
        # Equivalent points on a face must be in one shell, whatever their rounding errors.
        shell = np.floor(length / self.step + _TIE).astype(np.int64)
        return np.where(shell < self.n, shell, -1)

    def near(self, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for boxes that do not reach into the region; see `Region.near`."""
        length = np.sqrt(_squares(centres, self.metric))
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


def _spread(values: Integers, at: Integers, n: int) -> Integers:
    """Return n bins: these values at some places, -1 elsewhere."""
    bins = np.full(n, -1, np.int64)
    bins[at] = values
    return bins


def _squares(vectors: Floats, metric: Floats) -> Floats:
    return np.asarray(((vectors @ metric) * vectors).sum(axis=1))


def _reach(metric: Floats, half: Floats) -> Floats:
    """Return the largest distance of a corner of boxes (n, 3) from the middle."""
    signs = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]], dtype=np.float64)
    return np.sqrt(np.max([_squares(half * sign, metric) for sign in signs], axis=0))


def images_in_bins(
    points: Floats,
    own: Integers,
    turned: Sequence[Region],
    operations: Floats,
    inside: Any,
) -> Floats:
    """Return how many distinct images of each point are in its bin, with the point itself.

    In a symmetrised volume, the images of a voxel repeat one measurement.

    Parameters
    ----------
    points : (n, 3) array
    own : (n,) array
        Bins of the points.
    turned : sequence of Region
        The region turned by each operation, see `Region.turned`.
    operations : (m, 3, 3) array
        Operations on the points, with the identity; those by which no point gets an image in its
        bin may be left out.
    inside : callable
        Function that returns True for points (n, 3) in the volume.

    Returns
    -------
    (n,) array
        Numbers of 1 or more.
    """
    same, fixed = np.zeros((2, len(points)))
    for image_region, operation in zip(turned, operations, strict=True):
        hit = np.flatnonzero(image_region.bins(points) == own)
        image = points[hit] @ operation.T
        within = inside(image)
        hit, image = hit[within], image[within]
        same[hit] += 1
        still = np.abs(image - points[hit]).max(axis=1, initial=0.0) < 1e-6
        fixed[hit[still]] += 1
    return np.maximum(same / fixed, 1.0)


def images_elsewhere(
    points: Floats, own: Integers, region: Region, operations: Floats, inside: Any
) -> NDArray[np.bool_]:
    """Return True for points (n, 3) with an image in another bin; see `images_in_bins`."""
    # All operations in one call: the points are few.
    images = (points @ operations.transpose(0, 2, 1)).reshape(-1, 3)
    bins = region.bins(images).reshape(len(operations), -1)
    candidates = (bins >= 0) & (bins != own)
    found = candidates.ravel().copy()
    found[found] = inside(images[found])
    return np.asarray(found.reshape(candidates.shape).any(axis=0))
