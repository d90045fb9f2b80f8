"""Copies of a diffuse feature in a volume: images by the Laue group, and lattice translations.

A feature is a point, a rod or a sheet. Rods and sheets are cut into copies of half a period, each
with an intensity of its own. Each voxel belongs to the nearest copy; voxels near Bragg reflections
belong to none.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry.grid import Grid
from hklflow.series.features import Lattice

Floats = NDArray[np.float64]
Shape = Literal["point", "rod", "sheet"]
Region = tuple[slice, slice, slice]

_CLOSE = 1e-4
_PIECE = 0.5  # length of the copies of a rod or sheet along flat directions, periods
_REACH = 0.6  # largest distance of an arm whose tails are fitted, r.l.u.
_NAMES = ("a*", "b*", "c*")


@dataclass(frozen=True)
class Feature:
    """A point, rod or sheet in hkl.

    Attributes
    ----------
    name : str
    shape : str
        "point", "rod" or "sheet".
    point : (3,) array
        A point of the feature, hkl.
    direction : (3,) array or None
        Direction of a rod (vector in hkl) or normal of a sheet (vector [uvw] of the direct lattice,
        on which ``u h + v k + w l`` is constant).
    along : bool
        True: a rod may also depend on the coordinate along it, with its maximum at the point.
    width : float
        Half-width of the windows, r.l.u.; along flat directions they are half a period long.
    """

    name: str
    shape: Shape
    point: Floats
    direction: Floats | None
    along: bool
    width: float


@dataclass(frozen=True)
class Axes:
    """Directions along which a feature has a width.

    Attributes
    ----------
    columns : (3, n) array
        Covectors c: S depends on ``c · Δ``.
    metric : (n, n) array
        Scalar products of the reciprocal vectors of the columns, 1/Å².
    tied : tuple of int
        For each axis the number of its κ: symmetry makes the κ of some axes equal.
    names : tuple of str
        Name of each κ.
    shifts : (3, m) array
        Directions in hkl in which symmetry lets the feature move.
    on_axes : bool
        True if the columns are axes of the lattice, for which there is the model of chains.
    """

    columns: Floats
    metric: Floats
    tied: tuple[int, ...]
    names: tuple[str, ...]
    shifts: Floats
    on_axes: bool

    @property
    def length(self) -> Floats:
        """Period of reciprocal space along each axis (n,), 1/Å."""
        return np.asarray(np.sqrt(np.diag(self.metric)))

    def first_of(self, number: int) -> int:
        """Return the first axis of a κ."""
        return self.tied.index(number)

    def form(self, kappa: Floats) -> Floats:
        """Return the quadratic form (3, 3) in hkl for κ (1/Å) of the numbers in ``tied``."""
        scaled = self.columns / kappa[list(self.tied)]
        return np.asarray(scaled @ self.metric @ scaled.T)

    def spacings(self, kappa: Floats) -> Floats:
        """Return d κ (3,) along h, k, l of the model of chains; infinite along flat axes."""
        found = np.full(3, np.inf)
        which = np.argmax(np.abs(self.columns), axis=0)
        found[which] = 2 * np.pi / self.length * kappa[list(self.tied)]
        return found


def axes_of(feature: Feature, lattice: Lattice) -> Axes:
    """Return the directions along which a feature has a width, and the constraints of symmetry."""
    columns = _columns(feature)
    on_axes = bool(np.all(np.sum(np.abs(columns) > _CLOSE, axis=0) == 1))
    inverse = np.linalg.pinv(columns.T)  # vectors v of hkl with c_i · v_j = δ_ij
    metric = np.asarray(columns.T @ lattice.metric @ columns)
    if not on_axes:
        # The reciprocal vector of each column is normal to the directions that are flat.
        metric = np.asarray(np.linalg.inv(columns.T @ np.linalg.inv(lattice.metric) @ columns))
    group = _little(feature, columns, lattice)
    n = columns.shape[1]
    tied = list(range(n))
    for operation in group:
        # c · W Δ of the axes in terms of c · Δ.
        mixed = np.abs(columns.T @ operation @ inverse) > _CLOSE
        for i, j in itertools.product(range(n), repeat=2):
            if mixed[i, j]:
                tied = [min(tied[i], tied[j]) if x in (tied[i], tied[j]) else x for x in tied]
    numbers = sorted(set(tied))
    tied = [numbers.index(x) for x in tied]
    project = np.mean(group, axis=0)
    free = np.asarray(inverse @ columns.T)  # moves along flat directions change nothing
    u, s, _ = np.linalg.svd(free @ project @ free)
    shifts = u[:, s > 0.5]
    names = tuple(
        ", ".join(_name(columns[:, i]) for i in range(n) if tied[i] == number)
        for number in range(len(numbers))
    )
    return Axes(columns, metric, tuple(tied), names, shifts, on_axes)


def _name(column: Floats) -> str:
    used = np.flatnonzero(np.abs(column) > _CLOSE)
    if len(used) == 1:
        return _NAMES[int(used[0])]
    return f"({' '.join(f'{x:g}' for x in column)})"


def _columns(feature: Feature) -> Floats:
    """Return the covectors (3, n) of the coordinates on which a feature depends."""
    if feature.shape == "point" or feature.along:
        return np.eye(3)
    direction = np.asarray(feature.direction, dtype=np.float64)
    if feature.shape == "sheet":
        return direction[:, None]
    largest = int(np.argmax(np.abs(direction)))
    columns = []
    for i in range(3):
        if i != largest:
            column = np.zeros(3)
            column[i], column[largest] = direction[largest], -direction[i]
            columns.append(column / np.abs(column[np.abs(column) > _CLOSE]).min())
    return np.array(columns).T


def _little(feature: Feature, columns: Floats, lattice: Lattice) -> list[Floats]:
    """Return the operations that leave a feature where it is, apart from lattice translations."""
    found = []
    for operation in _operations(lattice):
        image = _Arm(operation, operation @ feature.point, np.linalg.inv(operation).T @ columns)
        own = _Arm(np.eye(3), feature.point, columns)
        if image.same_as(own, lattice):
            found.append(operation)
    return found


def _operations(lattice: Lattice) -> list[Floats]:
    """Return the operations with inversion, which S always has."""
    both = np.concatenate([lattice.operations, -lattice.operations])
    unique = {tuple(np.round(x, 6).ravel() + 0.0): x for x in both}
    return list(unique.values())


@dataclass(frozen=True)
class _Arm:
    """Image of a feature: operation, point, and covectors."""

    operation: Floats
    point: Floats
    columns: Floats

    def same_as(self, other: "_Arm", lattice: Lattice) -> bool:
        """Return True if a lattice translation takes one arm to the other."""
        both = np.hstack([self.columns, other.columns])
        if np.linalg.matrix_rank(both, tol=_CLOSE) > self.columns.shape[1]:
            return False
        off = self.columns.T @ (self.point - other.point - _translations(lattice)).T
        return bool(np.any(np.all(np.abs(off) < _CLOSE, axis=0)))


def same(feature: Feature, other: Feature, lattice: Lattice, close: float) -> bool:
    """Return True if an image of a feature is at most ``close`` (r.l.u.) from another feature.

    Only features of the same shape and direction are compared.
    """
    if feature.shape != other.shape:
        return False
    # Directions are those of rods and normals, whether or not there is a width along the rod.
    mine, theirs = (_columns(replace(x, along=False)) for x in (feature, other))
    for operation in _operations(lattice):
        columns = np.linalg.inv(operation).T @ mine
        both = np.hstack([columns, theirs])
        if np.linalg.matrix_rank(both, tol=_CLOSE) > theirs.shape[1]:
            continue
        off = theirs.T @ (operation @ feature.point - other.point - _translations(lattice)).T
        if np.any(np.all(np.abs(off) < close, axis=0)):
            return True
    return False


def _translations(lattice: Lattice) -> Floats:
    nodes = np.array(list(itertools.product(range(-4, 5), repeat=3)), dtype=np.float64)
    return np.asarray(nodes[lattice.allowed(nodes)])


@dataclass(frozen=True)
class Copy:
    """One copy of a feature.

    Attributes
    ----------
    centre : (3,) array
        hkl.
    operation : (3, 3) array
        Operation that takes the feature to this copy: ``Δ = W Δ_feature``.
    others : tuple of (operation, offset)
        All arms of the star with their distances in hkl from the centre, the first is the copy.
    region : slices (l, k, h)
        Part of the grid.
    inside : (l, k, h) bool array
        Voxels of the region that belong to the copy.
    """

    centre: Floats
    operation: Floats
    others: tuple[tuple[Floats, Floats], ...]
    region: Region
    inside: NDArray[np.bool_]

    @property
    def key(self) -> tuple[float, float, float]:
        """The centre, for dictionaries."""
        h, k, l = np.round(self.centre, 6).tolist()  # noqa: E741
        return h, k, l


def reach_of(feature: Feature) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the half-width (3,) of windows along h, k, l, and where the feature is flat (3,)."""
    columns = _columns(feature)
    flat = np.zeros(3, np.bool_)
    if columns.shape[1] < 3:
        project = np.eye(3) - np.linalg.pinv(columns.T) @ columns.T
        flat = np.abs(project).max(axis=1) > _CLOSE
    return np.where(flat, _PIECE / 2, feature.width), flat


def is_reflection(feature: Feature, lattice: Lattice) -> bool:
    """Return True if a feature has its maximum at a reflection that the centring allows."""
    node = np.rint(feature.point)
    has_maximum = feature.shape == "point" or feature.along
    at_node = bool(np.all(np.abs(feature.point - node) < _CLOSE))
    return has_maximum and at_node and bool(lattice.allowed(node))


def copies(
    feature: Feature, grid: Grid, lattice: Lattice, bragg: Callable[[Floats], Floats]
) -> list[Copy]:
    """Return the copies of a feature in a grid, from small hkl on.

    Parameters
    ----------
    bragg : function
        Returns the distance (n,) of offsets (n, 3) in hkl from a reflection, in units of the
        distance at which reflections end.
    """
    columns = _columns(feature)
    reach, flat = reach_of(feature)
    arms: list[_Arm] = []
    for operation in _operations(lattice):
        arm = _Arm(operation, operation @ feature.point, np.linalg.inv(operation).T @ columns)
        if not any(arm.same_as(other, lattice) for other in arms):
            arms.append(arm)
    ends = np.array([[grid.axis(i)[0], grid.axis(i)[-1]] for i in range(3)])
    near = _translations(lattice)
    found = []
    for arm in arms:
        spans = [np.arange(np.floor(a - 1), np.ceil(b + 1) + 1) for a, b in ends]
        nodes = np.stack(np.meshgrid(*spans, indexing="ij"), axis=-1).reshape(-1, 3)
        nodes = nodes[lattice.allowed(nodes)]
        base = arm.point - np.rint(arm.point)
        pieces = itertools.product(*(np.arange(0, 1, _PIECE) if x else [0.0] for x in flat))
        for piece in pieces:
            for centre in base + arm.operation @ np.array(piece) + nodes:
                copy = _copy(arm, centre, reach, flat, arms, grid, lattice, near, bragg)
                if copy is not None:
                    found.append(copy)
    return sorted(found, key=lambda x: (round(float(np.abs(x.centre).max()), 6), *x.centre))


def _copy(
    arm: _Arm,
    centre: Floats,
    reach: Floats,
    flat: NDArray[np.bool_],
    arms: Sequence[_Arm],
    grid: Grid,
    lattice: Lattice,
    nodes: Floats,
    bragg: Callable[[Floats], Floats],
) -> Copy | None:
    axes = [grid.axis(i) for i in range(3)]
    if any(not a[0] - 1e-6 <= x <= a[-1] + 1e-6 for x, a in zip(centre, axes, strict=True)):
        return None
    inverse = np.linalg.inv(arm.operation)
    wide = np.abs(arm.operation) @ reach
    low = np.ceil((centre - wide - grid.first) / grid.step - 1e-6).astype(int)
    high = np.floor((centre + wide - grid.first) / grid.step + 1e-6).astype(int) + 1
    low, high = np.maximum(low, 0), np.minimum(high, grid.shape)
    if np.any(low >= high):
        return None
    axes = [x[a:b] for x, a, b in zip(axes, low, high, strict=True)]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).transpose(2, 1, 0, 3)
    away = hkl - centre
    own = away @ inverse.T
    inside = np.all((own > -reach - 1e-6) & (own < reach + 1e-6), axis=-1)
    # Half-open along flat directions: each voxel is in one copy.
    inside &= np.all(~(flat | (reach == 0.5)) | (own < reach - 1e-6), axis=-1)
    inside &= bragg(hkl.reshape(-1, 3)).reshape(inside.shape) > 1
    others = [(arm.operation, np.zeros(3))]
    nearest = _length(away, arm.columns, lattice)
    earlier = True
    for other in arms:
        if other is arm:
            earlier = False
            continue
        offset = other.point - np.rint(other.point) + nodes + np.rint(centre) - centre
        size = _length(offset, other.columns, lattice)
        close = offset[size <= 2 * nearest.max() + 1e-6] @ other.columns
        vectors = np.linalg.pinv(other.columns.T)
        for place in np.unique(np.round(close, 6), axis=0):
            away_from = _length(away - vectors @ place, other.columns, lattice)
            inside &= away_from > nearest + (1e-9 if earlier else -1e-9)
        near = offset[int(np.argmin(size))]
        # The tails of arms that are far away are part of the background.
        if np.abs(np.linalg.pinv(other.columns.T) @ (other.columns.T @ near)).max() < _REACH:
            others.append((other.operation, near))
    if not inside.any():
        return None
    l, k, h = (slice(int(a), int(b)) for a, b in zip(low[::-1], high[::-1], strict=True))  # noqa: E741
    return Copy(centre, arm.operation, tuple(others), (l, k, h), inside)


def _length(away: Floats, columns: Floats, lattice: Lattice) -> Floats:
    """Return the distance of offsets (..., 3) from the rod, sheet or point, 1/Å."""
    metric = np.linalg.inv(columns.T @ np.linalg.inv(lattice.metric) @ columns)
    coordinate = away @ columns
    return np.asarray(np.sqrt(np.einsum("...i,ij,...j->...", coordinate, metric, coordinate)))
