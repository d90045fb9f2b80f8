"""Regions of a volume, divided into bins: boxes, planes with a thickness, cylinders, shells.

A voxel belongs to the bin that contains its centre. A centre on the face between two bins belongs
to the bin with the even index, so that bins are not shifted on average.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_TIE = 1e-6  # in bins: closer positions are on a face


class Region(Protocol):
    """Bins of a region.

    Attributes
    ----------
    shape : tuple of int
        Number of bins along each dimension of the result.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def bins(self, points: Floats) -> Integers:
        """Return the flat index of the bin of points (..., 3) in hkl or xyz; -1 outside."""

    def near(self, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for boxes that do not reach into the region.

        Parameters
        ----------
        centres, half : (n, 3) arrays
            Centres of the boxes, and half of their edges.
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
        """Return the flat index of the bin of points (..., 3); -1 outside."""
        flat = np.zeros(points.shape[:-1], np.int64)
        inside = np.ones(points.shape[:-1], np.bool_)
        offset = self.matrix @ self.origin + self.first
        for row, start, step, n in zip(self.matrix, offset, self.step, self.sizes, strict=True):
            place = (points @ row - start) / step
            slot = _slot(place) if n > 1 else np.where(np.abs(place) <= 0.5 + _TIE, 0, -1)
            inside &= (slot >= 0) & (slot < n)
            flat = flat * n + slot
        return np.where(inside, flat, -1)

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

    def _place(self, points: Floats) -> tuple[Floats, Floats]:
        """Return position along the line in bins, and square of the distance from the line."""
        away = points - self.start
        along = (away @ self.metric @ (self.end - self.start)) / self.length
        square = np.einsum("...i,ij,...j->...", away, self.metric, away) - along**2
        return along * (self.n - 1) / self.length, square

    def bins(self, points: Floats) -> Integers:
        """Return the index of the bin of points (..., 3); -1 outside."""
        place, square = self._place(points)
        slot = _slot(place)
        inside = (square <= self.radius**2 * (1 + _TIE)) & (slot >= 0) & (slot < self.n)
        return np.where(inside, slot, -1)

    def near(self, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for boxes that do not reach into the region; see `Region.near`."""
        place, square = self._place(centres)
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
        """Return the index of the shell of points (..., 3); -1 outside."""
        length = np.sqrt(np.einsum("...i,ij,...j->...", points, self.metric, points))
        # Equivalent points on a face must be in one shell, whatever their rounding errors.
        shell = np.floor(length / self.step + _TIE).astype(np.int64)
        return np.where(shell < self.n, shell, -1)

    def near(self, centres: Floats, half: Floats) -> NDArray[np.bool_]:
        """Return False for boxes that do not reach into the region; see `Region.near`."""
        length = np.sqrt(np.einsum("...i,ij,...j->...", centres, self.metric, centres))
        return np.asarray(length - _reach(self.metric, half) <= self.step * self.n)


def _slot(place: Floats) -> Integers:
    """Return the index of the bin that contains a position in units of bins."""
    half = np.rint(2 * place) / 2
    return np.rint(np.where(np.abs(place - half) < _TIE, half, place)).astype(np.int64)


def _reach(metric: Floats, half: Floats) -> Floats:
    """Return the largest distance of a corner of boxes from the middle."""
    signs = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]], dtype=np.float64)
    corners = half[..., None, :] * signs
    squares = np.einsum("...ci,ij,...cj->...c", corners, metric, corners)
    return np.asarray(np.sqrt(squares.max(axis=-1)))


def images_in_bins(
    points: Floats, own: Integers, region: Region, operations: Floats, inside: Any
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return how many images of each point are in its bin, and if one is in another bin.

    In a symmetrised volume, the images of a voxel repeat one measurement.

    Parameters
    ----------
    points : (n, 3) array
    own : (n,) array
        Bins of the points.
    operations : (m, 3, 3) array
        Operations on the points, with the identity.
    inside : callable
        Function that returns True for points (n, 3) in the volume.

    Returns
    -------
    number : (n,) array
        Number of distinct images in the bin, with the point itself: 1 or more.
    elsewhere : (n,) bool array
        True if an image is in another bin.
    """
    same, fixed = np.zeros((2, len(points)))
    elsewhere = np.zeros(len(points), np.bool_)
    for operation in operations:
        image = points @ operation.T
        bins = np.where(inside(image), region.bins(image), -1)
        same += bins == own
        elsewhere |= (bins >= 0) & (bins != own)
        fixed += np.all(np.abs(image - points) < 1e-6, axis=1)
    return np.maximum(same / fixed, 1.0), elsewhere
