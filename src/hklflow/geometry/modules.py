"""Displaced modules of a flat detector: small shifts and rotations within its plane.

An image is stored as if all modules were on one grid of pixels. A module is a rectangle of pixels
with centre c. The true position of the module is shifted by s and rotated by ω about c. Pixel
coordinates x of the image are therefore at ``c + s + R(ω) (x - c)`` on the ideal plane (*effective*
coordinates).

Gaps. The edges of the modules, and the lines halfway between the edges, divide the image into
cells; cells at the rim extend to infinity. A point of the image in a gap moves with the module that
is nearest to the centre of the cell. A point of the plane that is on no displaced module uses the
module with the nearest edge, so that the tails of a spot at an edge are continuous. If modules
moved apart by more than the gap, the result may be a pixel of the neighbour, which does not measure
this point.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Modules:
    """Positions of a detector's modules relative to the ideal grid of pixels.

    Attributes
    ----------
    rectangles : (n, 4) int array
        First and last + 1 pixel along slow, then along fast; rectangles do not overlap.
    shift : (n, 2) array
        Shift in pixels (slow, fast).
    rotation : (n,) array
        Rotation about the module's centre, radians, from slow towards fast.
    aspect : float
        Side of a pixel along fast divided by the side along slow.

    Raises
    ------
    HklflowError
        If shapes differ, values are not finite, or rectangles are empty or overlap.
    """

    rectangles: Ints
    shift: Floats
    rotation: Floats
    aspect: float = 1.0

    def __post_init__(self) -> None:
        boxes = np.asarray(self.rectangles)
        shift, rotation = (np.asarray(a, dtype=np.float64) for a in (self.shift, self.rotation))
        n = len(boxes)
        if n == 0 or boxes.shape != (n, 4) or shift.shape != (n, 2) or rotation.shape != (n,):
            raise HklflowError(
                f"modules: rectangles {boxes.shape}, shifts {shift.shape} and rotations "
                f"{rotation.shape}; the shapes must be (n, 4), (n, 2) and (n,)"
            )
        if not (np.isfinite(shift).all() and np.isfinite(rotation).all() and self.aspect > 0):
            raise HklflowError(
                f"modules: shifts and rotations must be finite and the pixels' aspect "
                f"({self.aspect}) positive; correct the geometry file"
            )
        low, high = boxes[:, ::2], boxes[:, 1::2]
        if np.any(high <= low) or np.any(boxes != np.rint(boxes)):
            raise HklflowError(
                "modules: a rectangle is slow0, slow1, fast0, fast1 in whole pixels with "
                "slow0 < slow1 and fast0 < fast1; correct the geometry file"
            )
        both = np.minimum(high[:, None], high) > np.maximum(low[:, None], low)
        shared = np.argwhere(np.triu(both.all(axis=2), 1))
        if len(shared):
            i, j = shared[0]
            raise HklflowError(
                f"modules {i} {boxes[i].tolist()} and {j} {boxes[j].tolist()} share pixels; "
                "rectangles must be disjoint"
            )
        object.__setattr__(self, "rectangles", boxes.astype(np.int64))
        object.__setattr__(self, "shift", shift)
        object.__setattr__(self, "rotation", rotation)

    @classmethod
    def ideal(cls, rectangles: ArrayLike, aspect: float = 1.0) -> "Modules":
        """Create modules (n, 4) without displacement."""
        boxes = np.asarray(rectangles)
        return cls(boxes, np.zeros((len(boxes), 2)), np.zeros(len(boxes)), aspect)

    def __len__(self) -> int:
        return len(self.rectangles)

    @property
    def centres(self) -> Floats:
        """Centres (n, 2) of the rectangles in pixel coordinates of the image."""
        sums = self.rectangles[:, ::2] + self.rectangles[:, 1::2]
        return sums.astype(np.float64) / 2

    def module_at(self, slow: ArrayLike, fast: ArrayLike) -> Ints:
        """Return the numbers of the modules that contain pixel coordinates; -1 in gaps."""
        point = np.asarray(slow, dtype=np.float64), np.asarray(fast, dtype=np.float64)
        near = self.nearest(*point)
        s0, s1, f0, f1 = self.rectangles.T[:, near]
        inside = (point[0] >= s0) & (point[0] < s1) & (point[1] >= f0) & (point[1] < f1)
        return np.where(inside, near, -1)

    def nearest(self, slow: ArrayLike, fast: ArrayLike) -> Ints:
        """Return the numbers of the modules with which pixel coordinates of the image move."""
        edges_slow, edges_fast, nearest = self._cells
        i = np.searchsorted(edges_slow, slow, side="right")
        j = np.searchsorted(edges_fast, fast, side="right")
        numbers: Ints = nearest[i, j]
        return numbers

    @property
    def turns(self) -> Floats:
        """Cosine minus 1 (accurate for small angles) and sine (n, 2) of the rotations."""
        return np.stack([-2 * np.sin(0.5 * self.rotation) ** 2, np.sin(self.rotation)], axis=1)

    def displaced(self, slow: ArrayLike, fast: ArrayLike) -> tuple[Floats, Floats]:
        """Convert pixel coordinates (slow, fast) to effective coordinates on the ideal plane."""
        slow, fast = (np.asarray(a, dtype=np.float64) for a in (slow, fast))
        return self._forward(self.nearest(slow, fast), slow, fast)

    def undisplaced(self, slow: ArrayLike, fast: ArrayLike) -> tuple[Floats, Floats]:
        """Convert effective coordinates to pixel coordinates (slow, fast) of the image.

        This is the inverse of `displaced` if modules do not overlap on the plane. If two modules
        overlap, the module at this position of the image is preferred. The result is exact if the
        displacements are smaller than the side of a module.
        """
        slow, fast = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (slow, fast)))
        points = np.stack([slow.ravel(), fast.ravel()])
        near = self.nearest(*points)
        image_points = np.stack(self._backward(near, *points))
        # Points at an edge may belong to a neighbour at a distance of at most `reach`.
        lost = np.flatnonzero(self._outside(near, *image_points) > 0)
        if len(lost) and self._reach > 0:
            image_points[:, lost] = self._from_neighbours(points[:, lost])
        return image_points[0].reshape(slow.shape), image_points[1].reshape(slow.shape)

    def _from_neighbours(self, points: Floats) -> Floats:
        """Return the image coordinates (2, n) on the nearest module within `reach`."""
        best, least = np.full_like(points, np.nan), np.full(points.shape[1], np.inf)
        for step in np.ndindex(3, 3):
            by = (np.array(step) - 1) * self._reach
            near = self.nearest(points[0] + by[0], points[1] + by[1])
            there = np.stack(self._backward(near, points[0], points[1]))
            far = self._outside(near, *there)
            best = np.where(far < least, there, best)
            least = np.minimum(far, least)
        return best

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description (pixels, radians)."""
        return {
            "rectangles": self.rectangles.tolist(),
            "shift_px": self.shift.tolist(),
            "rotation_rad": self.rotation.tolist(),
            "aspect": self.aspect,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Modules":
        """Create modules from the description of `to_dict`."""
        return cls(
            np.asarray(data["rectangles"]),
            np.asarray(data["shift_px"]),
            np.asarray(data["rotation_rad"]),
            float(data["aspect"]),
        )

    @cached_property
    def _cells(self) -> tuple[Floats, Floats, Ints]:
        """Edges of the cells along slow and fast, and the nearest module of each cell."""
        edges, middles = [], []
        for axis in (0, 1):
            lines = np.unique(self.rectangles[:, 2 * axis : 2 * axis + 2]).astype(np.float64)
            lines = np.sort(np.concatenate([lines, 0.5 * (lines[1:] + lines[:-1])]))
            edges.append(lines)
            rims = np.concatenate([[lines[0] - 1], lines, [lines[-1] + 1]])
            middles.append(0.5 * (rims[1:] + rims[:-1]))
        slow, fast = middles[0][:, None], middles[1][None, :]
        nearest = np.zeros((len(slow), fast.size), dtype=np.int64)
        least = np.full(nearest.shape, np.inf)
        for m in range(len(self)):
            far = self._outside(m, slow, fast)
            nearest = np.where(far < least, m, nearest)
            least = np.minimum(far, least)
        return edges[0], edges[1], nearest

    @cached_property
    def _reach(self) -> float:
        """Largest displacement of a corner along slow or fast, in pixels."""
        s0, s1, f0, f1 = self.rectangles.T
        largest = 0.0
        for slow, fast in ((s0, f0), (s0, f1), (s1, f0), (s1, f1)):
            there = self._forward(np.arange(len(self)), slow, fast)
            largest = max(largest, *np.abs(there[0] - slow), *np.abs(there[1] - fast))
        return float(largest)

    def _outside(self, module: Ints | int, slow: Floats, fast: Floats) -> Floats:
        """Return the distance (pixels) of image coordinates from modules; < 0 inside a module."""
        s0, s1, f0, f1 = self.rectangles.T[:, module]
        far: Floats = np.maximum(np.maximum(s0 - slow, slow - s1), np.maximum(f0 - fast, fast - f1))
        return far

    def _forward(self, module: Ints, slow: Floats, fast: Floats) -> tuple[Floats, Floats]:
        # Computed as x + displacement, so that coordinates stay exactly equal without displacement.
        cos1, sin = self.turns[module, 0], self.turns[module, 1]
        ds, df = slow - self.centres[module, 0], fast - self.centres[module, 1]
        return (
            slow + (self.shift[module, 0] + cos1 * ds - sin * self.aspect * df),
            fast + (self.shift[module, 1] + cos1 * df + sin / self.aspect * ds),
        )

    def _backward(self, module: Ints, slow: Floats, fast: Floats) -> tuple[Floats, Floats]:
        cos1, sin = self.turns[module, 0], self.turns[module, 1]
        slow, fast = slow - self.shift[module, 0], fast - self.shift[module, 1]
        ds, df = slow - self.centres[module, 0], fast - self.centres[module, 1]
        return (
            slow + (cos1 * ds + sin * self.aspect * df),
            fast + (cos1 * df - sin / self.aspect * ds),
        )
