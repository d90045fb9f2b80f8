r"""Planes of a volume: how they are written, where they lie, and what is on them.

A plane is three linear expressions of two free letters: ``h k 0``, ``h h l``, ``h+k -h l/2``; in
direct space ``x x z``. It is ``origin + u first + v second``, u and v the values of the letters.

Points of a plane show the voxel that holds them (nearest): values and errors are those that were
measured, what was not measured stays so, and no feature moves by more than half a voxel, nor on
average: a point between two voxels shows the one of even number.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid

Floats = NDArray[np.float64]

_TERM = r"(?P<sign>[+-]?)(?P<number>\d+\.?\d*|\.\d+)?\*?(?P<letter>[{}])?(?:/(?P<over>[1-9]\d*))?"


@dataclass(frozen=True)
class Plane:
    """A plane of hkl or of direct space.

    Attributes
    ----------
    text : str
        Its three expressions.
    letters : (str, str)
        The two that are free.
    origin, first, second : (3,) array
        Where both letters are 0, and what one unit of each adds.
    """

    text: str
    letters: tuple[str, str]
    origin: Floats
    first: Floats
    second: Floats

    def at(self, u: ArrayLike, v: ArrayLike) -> Floats:
        """Coordinates (..., 3) of points of the plane."""
        first = np.multiply.outer(np.asarray(u, dtype=np.float64), self.first)
        return self.origin + first + np.multiply.outer(np.asarray(v, dtype=np.float64), self.second)

    def cartesian(self, metric: Floats) -> Floats:
        """Matrix (2, 2) from (u, v) to lengths: x along ``first``, y in the plane upright to it.

        Parameters
        ----------
        metric : (3, 3) array
            Of the space of the plane: 1/Å² or Å².
        """
        along = np.sqrt(self.first @ metric @ self.first)
        x = self.first @ metric @ self.second / along
        return np.array([[along, x], [0.0, np.sqrt(self.second @ metric @ self.second - x * x)]])


@dataclass(frozen=True)
class Cut:
    """What is on a plane.

    Attributes
    ----------
    plane : Plane
    u, v : (n,), (m,) array
        Values of the free letters, evenly spaced.
    image : (m, n) array
        NaN where nothing was measured, and outside the volume.
    """

    plane: Plane
    u: Floats
    v: Floats
    image: NDArray[Any]

    def distance(self, metric: Floats) -> Floats:
        """Distances (m, n) of the points from the origin of space."""
        points = self.plane.at(self.u[None, :] + 0 * self.v[:, None], self.v[:, None] + 0 * self.u)
        return np.sqrt(np.einsum("...i,ij,...j->...", points, metric, points))

    def within(self, metric: Floats, reach: float) -> "Cut":
        """The part no further than ``reach`` along x and y from where both letters are 0."""
        (along, x), (_, y) = self.plane.cartesian(metric)
        inside = np.abs(along * self.u + x * self.v[:, None]) <= reach
        inside &= np.abs(y * self.v[:, None]) <= reach
        rows, columns = inside.any(axis=1), inside.any(axis=0)
        image = np.where(inside, self.image, np.nan)[np.ix_(rows, columns)]
        return Cut(self.plane, self.u[columns], self.v[rows], image)


def metric_of(cell: ArrayLike, direct: bool) -> Floats:
    """Metric tensor (3, 3) of direct space in Å², or of reciprocal space in 1/Å² (with 2π)."""
    own = lattice.metric(cell)
    if direct:
        return own
    return np.asarray((2 * np.pi) ** 2 * np.linalg.inv(own), dtype=np.float64)


# ------------------------------------------------------------------------- how they are written


def parse(text: str, names: str) -> Plane:
    """Read a plane.

    Parameters
    ----------
    text : str
        Three expressions, apart by blanks or commas: ``h k 0``, ``h, -h + k, l/2``; or one term
        each without anything between: ``hk0``, ``h0l``, ``h-hl``.
    names : str
        The letters: "hkl" or "xyz".

    Raises
    ------
    HklflowError
        If it is not three linear expressions of exactly two letters, or these span no plane.
    """
    coefficients = np.array([_expression(part, text, names) for part in _parts(text, names)])
    free = [i for i in range(3) if coefficients[:, i + 1].any()]
    if len(free) != 2:
        found = ", ".join(names[i] for i in free) or "none"
        raise _refused(text, names, f"a plane has two free letters, this has {len(free)} ({found})")
    first, second = (coefficients[:, i + 1] for i in free)
    if np.linalg.matrix_rank(np.stack([first, second])) < 2:
        raise _refused(text, names, "its two vectors are parallel and span a line only")
    shown = " ".join("".join(part.split()) for part in _parts(text, names))
    return Plane(shown, (names[free[0]], names[free[1]]), coefficients[:, 0], first, second)


def _refused(text: str, names: str, why: str) -> HklflowError:
    a, b, c = tuple(names)
    return HklflowError(
        f"plane {text!r}: {why}; write three linear expressions of two of the letters {a}, {b}, "
        f"{c}, such as `{a} {b} 0`, `{a} {a} {c}` or `{a} {b} 0.5`"
    )


def _parts(text: str, names: str) -> list[str]:
    """The three expressions."""
    plain = text.replace("\N{MINUS SIGN}", "-").lower().strip().strip("()[]").strip()
    parts = plain.split(",") if "," in plain else plain.split()
    if len(parts) == 1:
        parts = _terms(plain, names)
        if "".join(parts) != plain:
            raise _refused(text, names, "it cannot be read")
    if len(parts) != 3:
        raise _refused(text, names, f"there are {len(parts)} expressions, not three")
    return parts


def _terms(plain: str, names: str) -> list[str]:
    """Terms with nothing between: a number is a factor where that leaves three.

    ``h2hl`` is h, 2h, l; but ``h0l`` is h, 0, l, and ``h0.5l`` is h, 0.5, l.
    """
    found = [m for m in re.finditer(_TERM.format(names), plain) if m.group()]
    both = [m for m in found if m["number"] and m["letter"]]
    apart = [m for m in both if float(m["number"]) == 0]
    if len(found) == 2 and len(both) == 1:
        apart = both
    parts: list[str] = []
    for m in found:
        at = m.start("letter") - m.start()
        parts += [m.group()[:at], m.group()[at:]] if m in apart else [m.group()]
    return parts


def _expression(part: str, text: str, names: str) -> Floats:
    """Constant and factors (4,) of a linear expression."""
    found, at, part = np.zeros(4), 0, "".join(part.split())
    while at < len(part) or not part:
        term = re.compile(_TERM.format(names)).match(part, at)
        if (
            term is None
            or (term["number"] is None and term["letter"] is None)
            or (at and not term["sign"])
        ):
            raise _refused(text, names, f"{part!r} is no linear expression of {', '.join(names)}")
        value = float(term["number"] or 1) / float(term["over"] or 1)
        place = 0 if term["letter"] is None else 1 + names.index(term["letter"])
        found[place] += -value if term["sign"] == "-" else value
        at = term.end()
    return found


# ------------------------------------------------------------------------- what is on them


def cut(values: Any, grid: Grid, plane: Plane, block: tuple[int, int, int] = (16, 64, 64)) -> Cut:
    """What a volume has on a plane; an image without points where the plane misses the volume.

    Parameters
    ----------
    values : (l, k, h) array, or what is sliced like one
        Read in boxes that lie in blocks, those only that the plane meets.
    block : (int, int, int)
        Shape (l, k, h) in which ``values`` are best read.
    """
    corners = _corners(plane, grid)
    if not len(corners):
        return Cut(plane, np.empty(0), np.empty(0), np.empty((0, 0), np.float32))
    u = _mesh(plane.first, plane.origin, grid, corners[:, 0])
    v = _mesh(plane.second, plane.origin, grid, corners[:, 1])
    return Cut(plane, u, v, sample(values, grid, plane, u, v, block))


def sample(
    values: Any,
    grid: Grid,
    plane: Plane,
    u: Floats,
    v: Floats,
    block: tuple[int, int, int] = (16, 64, 64),
) -> NDArray[np.float32]:
    """What a volume has at points (m, n) of a plane; NaN outside the volume.

    Parameters
    ----------
    values, block
        As for `cut`.
    u, v : (n,), (m,) array
        Values of the free letters.
    """
    image = np.full((len(v), len(u)), np.nan, np.float32)
    points = plane.at(*np.meshgrid(u, v))
    index = _nearest((points - grid.first) / grid.step)
    row, column = np.nonzero(((index >= 0) & (index < np.array(grid.shape))).all(axis=-1))
    own = index[row, column][:, ::-1]  # l, k, h as the array is
    blocks = own // np.array(block)
    order = np.lexsort(blocks.T[::-1])
    edges = np.flatnonzero(np.any(np.diff(blocks[order], axis=0), axis=1)) + 1
    for part in np.split(order, edges) if len(order) else []:
        low = own[part].min(axis=0)
        box = values[
            tuple(slice(a, b + 1) for a, b in zip(low, own[part].max(axis=0), strict=True))
        ]
        image[row[part], column[part]] = np.asarray(box)[tuple((own[part] - low).T)]
    return image


def _nearest(place: Floats) -> NDArray[np.int64]:
    """Index of the voxel that holds a place in units of voxels.

    On the face between two it is the even one: always the upper would move what is drawn by up to
    half a voxel. Faces are where the place is one but for rounding.
    """
    half = np.rint(2 * place) / 2
    return np.rint(np.where(np.abs(place - half) < 1e-6, half, place)).astype(np.int64)


def _corners(plane: Plane, grid: Grid) -> Floats:
    """Corners (n, 2) in u, v of the part of a plane that is inside the volume."""
    low = grid.first - grid.step / 2
    high = low + grid.step * np.array(grid.shape)
    # Half-planes n · (u, v) <= c, two for each axis of the grid.
    normals = np.stack([plane.first, plane.second], axis=1)
    normals = np.concatenate([normals, -normals])
    limits = np.concatenate([high - plane.origin, plane.origin - low])
    slack = 1e-9 * np.abs(np.concatenate([grid.step, grid.step]))
    found = []
    for i in range(6):
        for j in range(i):
            pair = normals[[i, j]]
            if abs(np.linalg.det(pair)) > 1e-9 * np.prod(np.linalg.norm(pair, axis=1)):
                found.append(np.linalg.solve(pair, limits[[i, j]]))
    corners = np.array(found).reshape(-1, 2)
    return corners[np.all(corners @ normals.T <= limits + slack, axis=1)]


def _mesh(vector: Floats, origin: Floats, grid: Grid, reach: Floats) -> Floats:
    """Values of a letter, one voxel apart along the axis that it crosses fastest."""
    pace = np.abs(vector) / grid.step
    i = int(np.argmax(pace))
    step, start = 1 / pace[i], (grid.first[i] - origin[i]) / vector[i]
    ends = np.array([reach.min(), reach.max()])
    n = np.arange(np.ceil((ends[0] - start) / step - 1e-6), (ends[1] - start) / step + 1e-6)
    return np.round(start + step * n, 10) + 0.0
