"""Shapes of crystals: convex bodies whose absorption is traced.

A body is bounded by planes and by at most one quadric. Lengths are in mm. The origin is the point
where the incident beam meets the rotation axis; axes are those of the crystal's holder, which are
the lab's when all goniometer angles are zero.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]

_PARALLEL = 0.05  # radians between axes, below which they are refused


@dataclass(frozen=True)
class Body:
    """Convex body: all x with n·x ≤ d for each plane, and xᵀ A x ≤ 1.

    Attributes
    ----------
    planes : (k, 4) array
        Outer unit normal and distance from the origin.
    quadric : (3, 3) array
        A in 1/mm²; 0: there is none.
    corners : (m, 3) array
        Points so that the body is their hull, widened by ``radii``.
    radii : (3, 3) array
        Rows: half-axes of an ellipsoid or ellipse; 0 for a polyhedron.
    volume : float
    """

    planes: Floats
    quadric: Floats
    corners: Floats
    radii: Floats
    volume: float

    def reach(self, direction: Floats) -> float:
        """Return the largest component along a unit vector of all points of the body."""
        own = np.max(self.corners @ direction)
        return float(own + np.linalg.norm(self.radii @ direction))

    def spread(self) -> Floats:
        """Return a matrix (3, 3) with the main axes and the squared extents of the body."""
        middle = self.corners - self.corners.mean(axis=0)
        return np.asarray(middle.T @ middle / len(middle) + self.radii.T @ self.radii)

    def turned(self, rotation: Floats) -> "Body":
        """Return the body after a rotation (3, 3)."""
        return replace(
            self,
            planes=np.c_[self.planes[:, :3] @ rotation.T, self.planes[:, 3]],
            quadric=rotation @ self.quadric @ rotation.T,
            corners=self.corners @ rotation.T,
            radii=self.radii @ rotation.T,
        )

    def scaled(self, factor: float) -> "Body":
        """Return the body with all lengths multiplied by a factor."""
        return Body(
            self.planes * [1, 1, 1, factor],
            self.quadric / factor**2,
            self.corners * factor,
            self.radii * factor,
            self.volume * factor**3,
        )

    @property
    def longest(self) -> float:
        """Largest extent along one of the main axes, mm."""
        _, axes = np.linalg.eigh(self.spread())
        return max(self.reach(axis) + self.reach(-axis) for axis in axes.T)


def axes_from(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return orthonormal axes (rows): the first, the second made normal to it, and their product.

    Raises
    ------
    HklflowError
        If the two directions are parallel.
    """
    vectors = [np.asarray(v, np.float64) for v in (first, second)]
    a, b = (v / np.linalg.norm(v) for v in vectors)
    third = np.cross(a, b)
    if np.linalg.norm(third) < _PARALLEL:
        raise HklflowError(
            f"the two directions of the shape, {np.round(a, 3).tolist()} and "
            f"{np.round(b, 3).tolist()} in the holder's frame, are parallel; give two that differ"
        )
    third /= np.linalg.norm(third)
    return np.stack([a, np.cross(third, a), third])


def ellipsoid(radii: ArrayLike, axes: Floats) -> Body:
    """Return an ellipsoid of half-axes ``radii`` (3,) along ``axes`` (rows)."""
    half = np.asarray(radii, np.float64)
    return Body(
        np.empty((0, 4)),
        axes.T @ np.diag(half**-2.0) @ axes,
        np.zeros((1, 3)),
        half[:, None] * axes,
        float(4 / 3 * np.pi * np.prod(half)),
    )


def cylinder(radii: ArrayLike, length: float, axes: Floats) -> Body:
    """Return a cylinder along the first of ``axes``, with half-axes ``radii`` (2,) of its ends."""
    half = np.asarray(radii, np.float64)
    along, across = axes[0], axes[1:]
    ends = np.stack([along, -along])
    return Body(
        np.c_[ends, np.full(2, length / 2)],
        across.T @ np.diag(half**-2.0) @ across,
        ends * length / 2,
        np.concatenate([half[:, None] * across, np.zeros((1, 3))]),
        float(np.pi * np.prod(half) * length),
    )


def box(thickness: ArrayLike, axes: Floats) -> Body:
    """Return a box with thicknesses (3,) along ``axes`` (rows)."""
    half = np.asarray(thickness, np.float64) / 2
    return polyhedron(np.concatenate([axes, -axes]), np.concatenate([half, half]))


def polyhedron(normals: ArrayLike, distances: ArrayLike) -> Body:
    """Return the polyhedron of outer normals (k, 3), of any length, and distances (k,) in mm.

    Raises
    ------
    HklflowError
        If the faces do not enclose a volume.
    """
    from scipy.optimize import linprog
    from scipy.spatial import ConvexHull, HalfspaceIntersection

    unit = np.asarray(normals, np.float64)
    unit = unit / np.linalg.norm(unit, axis=1)[:, None]
    far = np.asarray(distances, np.float64)
    # A direction u with n·u <= 0 for all normals leaves the body open: maximise each component.
    for goal in np.concatenate([np.eye(3), -np.eye(3)]):
        found: Any = linprog(-goal, A_ub=unit, b_ub=np.zeros(len(unit)), bounds=[(-1, 1)] * 3)
        if found.status == 0 and -found.fun > 1e-6:
            direction = np.round(found.x / np.linalg.norm(found.x), 2).tolist()
            raise HklflowError(
                f"the {len(unit)} faces do not enclose a volume: the crystal is open along "
                f"{direction} in the holder's frame; add the missing faces (a face -h -k -l is "
                "not implied by h k l)"
            )
    corners = HalfspaceIntersection(np.c_[unit, -far], np.zeros(3)).intersections
    corners = corners[np.all(np.isfinite(corners), axis=1)]
    hull = ConvexHull(corners)
    return Body(
        np.c_[unit, far],
        np.zeros((3, 3)),
        corners[hull.vertices],
        np.zeros((3, 3)),
        float(hull.volume),
    )


def unused_faces(body: Body) -> list[int]:
    """Return the numbers of the planes that do not touch the body."""
    gap = body.planes[:, 3] - np.max(body.corners @ body.planes[:, :3].T, axis=0)
    return np.flatnonzero(gap > 1e-6 * body.longest).tolist()
