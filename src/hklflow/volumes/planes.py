r"""Planes of a volume: read the text of a plane, and cut the volume by the plane.

A plane is written as three linear expressions of two free letters: ``h k 0``, ``h h l``,
``h+k -h l/2``; in direct space ``x x z``. Its points are ``origin + u first + v second``, where u
and v are the values of the letters.

Each point of a plane gets the value of the voxel that contains the point; nothing is interpolated.
Values and errors are therefore measured values and errors, unmeasured points stay unmeasured, and
features are shifted by at most half a voxel. A point on the face between two voxels gets the voxel
with the even index, so that features are not shifted on average.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
        The three expressions.
    letters : (str, str)
        The two free letters.
    origin : (3,) array
        Point where both letters are 0.
    first, second : (3,) array
        Vector for one unit of the first and of the second letter.
    """

    text: str
    letters: tuple[str, str]
    origin: Floats
    first: Floats
    second: Floats

    def at(self, u: ArrayLike, v: ArrayLike) -> Floats:
        """Return the coordinates (..., 3) of points of the plane."""
        first = np.multiply.outer(np.asarray(u, dtype=np.float64), self.first)
        return self.origin + first + np.multiply.outer(np.asarray(v, dtype=np.float64), self.second)

    def cartesian(self, metric: Floats) -> Floats:
        """Return the matrix (2, 2) from (u, v) to lengths (x, y).

        x is along ``first``, y in the plane and perpendicular to ``first``.

        Parameters
        ----------
        metric : (3, 3) array
            Metric tensor of the space of the plane: 1/Å² or Å².
        """
        along = np.sqrt(self.first @ metric @ self.first)
        x = self.first @ metric @ self.second / along
        return np.array([[along, x], [0.0, np.sqrt(self.second @ metric @ self.second - x * x)]])


@dataclass(frozen=True)
class Cut:
    """Cut of a volume by a plane.

    Attributes
    ----------
    plane : Plane
    u, v : (n,), (m,) array
        Values of the free letters, evenly spaced.
    image : (m, n) array
        Values of the volume; NaN where not measured and outside the volume.
    """

    plane: Plane
    u: Floats
    v: Floats
    image: NDArray[Any]

    def distance(self, metric: Floats) -> Floats:
        """Return the distances (m, n) of the points from the origin of space."""
        points = self.plane.at(self.u[None, :] + 0 * self.v[:, None], self.v[:, None] + 0 * self.u)
        return np.sqrt(np.einsum("...i,ij,...j->...", points, metric, points))

    def within(self, metric: Floats, reach: float) -> "Cut":
        """Return the part within ``reach`` along x and y from the point u = v = 0."""
        (along, x), (_, y) = self.plane.cartesian(metric)
        inside = np.abs(along * self.u + x * self.v[:, None]) <= reach
        inside &= np.abs(y * self.v[:, None]) <= reach
        rows, columns = inside.any(axis=1), inside.any(axis=0)
        image = np.where(inside, self.image, np.nan)[np.ix_(rows, columns)]
        return Cut(self.plane, self.u[columns], self.v[rows], image)


def metric_of(cell: ArrayLike, direct: bool) -> Floats:
    """Return the metric tensor (3, 3): direct space in Å², reciprocal space in 1/Å² (with 2π)."""
    of_cell = lattice.metric(cell)
    if direct:
        return of_cell
    return np.asarray((2 * np.pi) ** 2 * np.linalg.inv(of_cell), dtype=np.float64)


# ------------------------------------------------------------------------- text of a plane


def parse(text: str, names: str) -> Plane:
    """Read the text of a plane.

    Parameters
    ----------
    text : str
        Three expressions separated by blanks or commas: ``h k 0``, ``h, -h + k, l/2``; or three
        single terms without separator: ``hk0``, ``h0l``, ``h-hl``.
    names : str
        The letters: "hkl" or "xyz".

    Raises
    ------
    HklflowError
        If the text is not three linear expressions of exactly two letters, or the expressions do
        not span a plane.
    """
    coefficients = np.array([_expression(part, text, names) for part in _parts(text, names)])
    free = [i for i in range(3) if coefficients[:, i + 1].any()]
    if len(free) != 2:
        letters = ", ".join(names[i] for i in free) or "none"
        raise _refused(
            text, names, f"it has {len(free)} free letters ({letters}), a plane needs two"
        )
    first, second = (coefficients[:, i + 1] for i in free)
    if np.linalg.matrix_rank(np.stack([first, second])) < 2:
        raise _refused(text, names, "its two vectors are parallel: they span a line, not a plane")
    shown = " ".join("".join(part.split()) for part in _parts(text, names))
    return Plane(shown, (names[free[0]], names[free[1]]), coefficients[:, 0], first, second)


def _refused(text: str, names: str, why: str) -> HklflowError:
    a, b, c = tuple(names)
    return HklflowError(
        f"plane {text!r}: {why}; write three linear expressions of two of the letters {a}, {b}, "
        f"{c}, such as `{a} {b} 0`, `{a} {a} {c}` or `{a} {b} 0.5`"
    )


def _parts(text: str, names: str) -> list[str]:
    """Split the text into its three expressions."""
    plain = text.replace("\N{MINUS SIGN}", "-").lower().strip().strip("()[]").strip()
    parts = plain.split(",") if "," in plain else plain.split()
    if len(parts) == 1:
        parts = _terms(plain, names)
        if "".join(parts) != plain:
            raise _refused(text, names, "it cannot be read")
    if len(parts) != 3:
        raise _refused(text, names, f"it has {len(parts)} expressions, a plane needs three")
    return parts


def _terms(plain: str, names: str) -> list[str]:
    """Split a text without separators into terms.

    A number multiplies the letter that follows it if the text then has three terms: ``h2hl`` is
    h, 2h, l. Otherwise a number is a term: ``h0l`` is h, 0, l, and ``h0.5l`` is h, 0.5, l.
    """
    matches = [m for m in re.finditer(_TERM.format(names), plain) if m.group()]
    both = [m for m in matches if m["number"] and m["letter"]]
    apart = [m for m in both if float(m["number"]) == 0]
    if len(matches) == 2 and len(both) == 1:
        apart = both
    parts: list[str] = []
    for m in matches:
        length = m.start("letter") - m.start()
        parts += [m.group()[:length], m.group()[length:]] if m in apart else [m.group()]
    return parts


def _expression(part: str, text: str, names: str) -> Floats:
    """Return the constant and the factors (4,) of a linear expression."""
    coefficients, position, part = np.zeros(4), 0, "".join(part.split())
    while position < len(part) or not part:
        term = re.compile(_TERM.format(names)).match(part, position)
        if (
            term is None
            or (term["number"] is None and term["letter"] is None)
            or (position and not term["sign"])
        ):
            raise _refused(
                text, names, f"{part!r} is not a linear expression of {', '.join(names)}"
            )
        value = float(term["number"] or 1) / float(term["over"] or 1)
        place = 0 if term["letter"] is None else 1 + names.index(term["letter"])
        coefficients[place] += -value if term["sign"] == "-" else value
        position = term.end()
    return coefficients


# ------------------------------------------------------------------------- cuts of a volume


def cut(values: Any, grid: Grid, plane: Plane, block: tuple[int, int, int] = (16, 64, 64)) -> Cut:
    """Cut a volume by a plane; the image has no points if the plane is outside the volume.

    Parameters
    ----------
    values : (l, k, h) array, or an object that is sliced like an array
        Values of the volume. Only boxes that the plane crosses are read, each within one block.
    block : (int, int, int)
        Shape (l, k, h) of the blocks in which ``values`` are stored.
    """
    u, v = mesh(grid, plane)
    return Cut(plane, u, v, sample(values, grid, plane, u, v, block))


def plane_of_grid(grid: Grid, axis: int, at: int, image: NDArray[Any], names: str = "hkl") -> Cut:
    """Return a plane of voxels as a cut.

    Parameters
    ----------
    axis, at : int
        Constant axis (2: l) and its index.
    image : (m, n) array
        Values; the second array axis is the first varying letter.
    names : str
        The letters: "hkl" or "xyz".
    """
    i, j = (n for n in range(3) if n != axis)
    unit, value = np.eye(3), float(grid.axis(axis)[at])
    text = " ".join(f"{value:g}" if n == axis else names[n] for n in range(3))
    plane = Plane(text, (names[i], names[j]), value * unit[axis], unit[i], unit[j])
    return Cut(plane, grid.axis(i), grid.axis(j), image)


def slab_normal(plane: Plane, grid: Grid, width: float) -> Floats:
    """Return the normal (3,) of a plane in index space, along which a slab of a width is thick.

    Its largest component is 1: a slab of thickness w around ``h k 0`` is ``h k t``, and around
    ``h h l`` it is ``h+t h-t l``, with t from -w/2 to w/2.

    Raises
    ------
    HklflowError
        If the width is negative, not finite, or larger than the volume.
    """
    if not (np.isfinite(width) and width >= 0):
        raise HklflowError(f"the width of the slab is {width:g}; give 0 or a positive number")
    normal = np.cross(plane.first, plane.second)
    normal = normal / normal[np.argmax(np.abs(normal))]
    # Path of the plane from one corner of the volume to the opposite corner.
    extent = np.asarray(grid.shape) * grid.step
    reach = float(np.abs(normal) @ extent / (normal @ normal))
    if width > 2 * reach:
        raise HklflowError(
            f"the slab of width {width:g} is thicker than the volume; give {2 * reach:g} or less"
        )
    return np.asarray(normal)


def mesh(grid: Grid, plane: Plane) -> tuple[Floats, Floats]:
    """Return the values (n,), (m,) of both letters in the volume; empty outside the volume.

    The step is one voxel along the axis that changes fastest.
    """
    corners = _corners(plane, grid)
    if not len(corners):
        return np.empty(0), np.empty(0)
    u = _mesh(plane.first, plane.origin, grid, corners[:, 0])
    v = _mesh(plane.second, plane.origin, grid, corners[:, 1])
    return u, v


def sample(
    values: Any,
    grid: Grid,
    plane: Plane,
    u: Floats,
    v: Floats,
    block: tuple[int, int, int] = (16, 64, 64),
) -> NDArray[np.float32]:
    """Return the values of a volume at points (m, n) of a plane; see `samples`."""
    return samples([values], grid, plane, u, v, block)[0]


def samples(
    volumes: Sequence[Any],
    grid: Grid,
    plane: Plane,
    u: Floats,
    v: Floats,
    block: tuple[int, int, int] = (16, 64, 64),
    threads: int = 1,
) -> list[NDArray[np.float32]]:
    """Return the values of several volumes at points (m, n) of a plane; NaN outside the volumes.

    Parameters
    ----------
    volumes, block
        See ``values`` and ``block`` of `cut`.
    u, v : (n,), (m,) array
        Values of the free letters.
    threads : int
        Blocks that are read at the same time.
    """
    images = [np.full((len(v), len(u)), np.nan, np.float32) for _ in volumes]
    index, inside = voxels_of(grid, plane, u, v)
    row, column = np.nonzero(inside)
    voxels = index[::-1, row, column].T  # in the order l, k, h of the array
    count = -(-np.array(grid.array_shape) // block)
    blocks = (voxels // np.array(block)) @ [count[1] * count[2], count[2], 1]
    order = np.argsort(blocks, kind="stable")
    edges = np.flatnonzero(np.diff(blocks[order])) + 1
    parts = np.split(order, edges) if len(order) else []

    def read(part: NDArray[np.int64]) -> list[NDArray[Any]]:
        low, high = voxels[part].min(axis=0), voxels[part].max(axis=0) + 1
        box = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
        inside = tuple((voxels[part] - low).T)
        return [np.asarray(values[box])[inside] for values in volumes]

    with ThreadPoolExecutor(threads) as pool:
        for part, found in zip(parts, pool.map(read, parts), strict=True):
            for values, image in zip(found, images, strict=True):
                image[row[part], column[part]] = values
    return images


def voxels_of(
    grid: Grid, plane: Plane, u: Floats, v: Floats
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the voxels that contain the points (m, n) of a plane.

    Returns
    -------
    index : (3, m, n) array
        Along h, k, l.
    inside : (m, n) array
        False for points outside the volume.
    """
    index = np.empty((3, len(v), len(u)), np.int64)
    inside = np.ones(index.shape[1:], np.bool_)
    for i, n in enumerate(grid.shape):
        # Most axes follow one letter, and need one row or one column of numbers.
        across = u[None] * plane.first[i] if plane.first[i] else np.zeros((1, 1))
        along = v[:, None] * plane.second[i] if plane.second[i] else np.zeros((1, 1))
        at = _nearest((plane.origin[i] + across + along - grid.first[i]) / grid.step[i])
        index[i] = at
        inside &= (at >= 0) & (at < n)
    return index, inside


def _nearest(place: Floats) -> NDArray[np.int64]:
    """Return the index of the voxel that contains a position; positions are in units of voxels.

    A position on the face between two voxels gets the even index. If it always got the upper index,
    the picture would be shifted by up to half a voxel. Rounding errors near a face are tolerated.
    """
    half = np.rint(2 * place) / 2
    return np.rint(np.where(np.abs(place - half) < 1e-6, half, place)).astype(np.int64)


def _corners(plane: Plane, grid: Grid) -> Floats:
    """Return the corners (n, 2) in u, v of the part of a plane that is inside the volume."""
    low = grid.first - grid.step / 2
    high = low + grid.step * np.array(grid.shape)
    # Half-planes n · (u, v) <= c, two for each axis of the grid.
    normals = np.stack([plane.first, plane.second], axis=1)
    normals = np.concatenate([normals, -normals])
    limits = np.concatenate([high - plane.origin, plane.origin - low])
    slack = 1e-9 * np.abs(np.concatenate([grid.step, grid.step]))
    crossings = []
    for i in range(6):
        for j in range(i):
            pair = normals[[i, j]]
            if abs(np.linalg.det(pair)) > 1e-9 * np.prod(np.linalg.norm(pair, axis=1)):
                crossings.append(np.linalg.solve(pair, limits[[i, j]]))
    corners = np.array(crossings).reshape(-1, 2)
    return corners[np.all(corners @ normals.T <= limits + slack, axis=1)]


def _mesh(vector: Floats, origin: Floats, grid: Grid, reach: Floats) -> Floats:
    """Return values of a letter with a step of one voxel along the axis that changes fastest."""
    pace = np.abs(vector) / grid.step
    i = int(np.argmax(pace))
    step, start = 1 / pace[i], (grid.first[i] - origin[i]) / vector[i]
    ends = np.array([reach.min(), reach.max()])
    n = np.arange(np.ceil((ends[0] - start) / step - 1e-6), (ends[1] - start) / step + 1e-6)
    return np.round(start + step * n, 10) + 0.0
