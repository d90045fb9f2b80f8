"""Even and odd combinations of points that an inversion maps onto each other.

A matrix M over points that depends on their distances only has M(-x, -y) = M(x, y). In the
orthonormal basis of (e_x + e_-x)/√2 (even) and (e_x - e_-x)/√2 (odd) it splits exactly into two
blocks of half the size, whose decompositions take a quarter of the time.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

_ALIKE = 1e-6  # distance of an image from a point, in the units of the points


@dataclass(frozen=True)
class Part:
    """Combinations ``weights · e[own] + images · e[image]`` of points, each of norm 1.

    Attributes
    ----------
    own, image : (n,) int arrays
        A point of each pair, and the other one; the same for a point that is its own image.
    weights, images : (n,) arrays
        Coefficients of both.
    """

    own: Indices
    image: Indices
    weights: Floats
    images: Floats

    def combined(self, values: Floats) -> Floats:
        """Return the combinations (n, k) of values (points, k)."""
        both = values[self.own].T * self.weights + values[self.image].T * self.images
        return np.ascontiguousarray(both.T)

    def expanded(self, values: Floats, number: int) -> Floats:
        """Return values (k, points) from combinations (k, n): the adjoint of `combined`.

        Parameters
        ----------
        number : int
            Number of all points.
        """
        points = np.zeros((len(values), number))
        points[:, self.image] = values * self.images
        points[:, self.own] += values * self.weights
        return points


def parts(*sets: Floats) -> list[tuple[Part, ...]]:
    """Return the even and the odd parts of sets of points; one part with all if one has no images.

    Parameters
    ----------
    sets : (n, 3) arrays
        Points; the inversion is about 0.
    """
    images = [_images(points) for points in sets]
    if any(image is None for image in images):
        return [tuple(_whole(len(points)) for points in sets)]
    return [
        tuple(_half(image, sign) for image in images if image is not None) for sign in (1.0, -1.0)
    ]


def distances(at: Floats, rows: Part, to: Floats, columns: Part) -> list[Floats]:
    """Return the distances (rows, columns) from points ``rows.own`` to columns and their images.

    Parameters
    ----------
    at, to : (n, 3), (m, 3) arrays
        Points that rows and columns combine.
    """
    from scipy.spatial.distance import cdist

    found = [cdist(at[rows.own], to[columns.own])]
    if columns.images.any():
        found.append(cdist(at[rows.own], to[columns.image]))
    return found


def block(rows: Part, columns: Part, near: Floats, far: Floats | None = None) -> Floats:
    """Return the block (rows, columns) of a matrix M with M(-x, -y) = M(x, y).

    Parameters
    ----------
    near, far : (rows, columns) arrays
        M between ``rows.own`` and ``columns.own``, and between ``rows.own`` and ``columns.image``;
        None: no point has an image.
    """
    both: Floats = near * columns.weights
    if far is not None:
        both += far * columns.images
    both /= rows.weights[:, None]
    return both


def _images(points: Floats) -> Indices | None:
    """Return the place of the image of each point; None if a point has none."""
    from scipy.spatial import cKDTree

    distance, image = cKDTree(points).query(-points)
    return np.asarray(image, dtype=np.int64) if np.max(distance) < _ALIKE else None


def _whole(number: int) -> Part:
    every = np.arange(number)
    return Part(every, every, np.ones(number), np.zeros(number))


def _half(image: Indices, sign: float) -> Part:
    # A point that is its own image has no odd part.
    every = np.arange(len(image))
    own = np.flatnonzero((every < image) | ((every == image) & (sign > 0)))
    alone = image[own] == own
    weights = np.where(alone, 1.0, np.sqrt(0.5))
    return Part(own, image[own], weights, np.where(alone, 0.0, sign * weights))
