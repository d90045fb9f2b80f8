"""Voxels around the reflections of a propagation vector, in the frame of one arm of its star.

An arm is R q with an operation R of the Laue group. A voxel at hkl near the reflection G + R q has
the displacement ``R⁻¹ (hkl - G) - q`` in the frame of q: if q moves, all arms move alike in this
frame. Only displacements that the operations with R q ≡ q keep are possible.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.volumes import boxes, star_boxes

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Region = tuple[slice, slice, slice]
Read = Callable[[Region], tuple[Floats, Floats, Floats]]
Allowed = Callable[[Floats], NDArray[np.bool_]]

_SPECIAL = 0.01  # largest distance of a vector from a special point that it is meant to be, r.l.u.


@dataclass(frozen=True)
class Star:
    """A propagation vector and its images.

    Attributes
    ----------
    vector : (3,) array
        The vector, on its special point if it is within 0.01 r.l.u. of one.
    operations : (n, 3, 3) array
        Operations whose images of the vector are its arms, each arm once.
    little : (m, 3, 3) array
        Operations that keep the vector, but for a reflection of the parent.
    basis : (3, f) array
        Orthonormal displacements that symmetry leaves free; f is 0 to 3.
    """

    vector: Floats
    operations: Floats
    little: Floats
    basis: Floats


def star_of(vector: ArrayLike, operations: ArrayLike, allowed: Allowed) -> Star:
    """Return the star of a vector; ``allowed`` tells reflections (n, 3) that centring allows."""
    q, every = np.asarray(vector, np.float64), np.asarray(operations, np.float64)
    off = every @ q - q
    keep = np.all(np.abs(off - np.rint(off)) < _SPECIAL, axis=1) & allowed(np.rint(off))
    little = every[keep]
    # On the special point R q - q is a reflection; the smallest change that does it.
    rows = (little - np.eye(3)).reshape(-1, 3)
    q = q - np.linalg.pinv(rows) @ (rows @ q - np.rint(off[keep]).ravel())
    values, vectors = np.linalg.eigh(_kept(little))
    basis = vectors[:, values > 0.5]
    # Components along the axes where possible: the reduced form of the rows.
    basis = np.linalg.qr(_reduced(basis.T).T)[0] if basis.size else basis
    basis = basis * np.where(basis.sum(axis=0) < 0, -1.0, 1.0)
    first: list[Floats] = []
    for one in every:
        away = [one @ q - other @ q for other in first]
        if not any(_is_reflection(x, allowed) for x in away):
            first.append(one)
    return Star(q, np.array(first), little, basis)


def _kept(little: Floats) -> Floats:
    """Return the projector on the displacements that all operations keep, in a symmetric form."""
    rows = (little - np.eye(3)).reshape(-1, 3)
    return np.asarray(np.eye(3) - np.linalg.pinv(rows) @ rows)


def _reduced(rows: Floats) -> Floats:
    """Return the reduced echelon form of independent rows."""
    rows = rows.copy()
    column = 0
    for i in range(len(rows)):
        while np.abs(rows[i:, column]).max() < 1e-9:
            column += 1
        best = i + int(np.argmax(np.abs(rows[i:, column])))
        rows[[i, best]] = rows[[best, i]]
        rows[i] /= rows[i, column]
        others = np.arange(len(rows)) != i
        rows[others] -= rows[others, column][:, None] * rows[i]
        column += 1
    return rows


def _is_reflection(x: Floats, allowed: Allowed) -> bool:
    whole = np.rint(x)
    return bool(np.abs(x - whole).max() < 1e-6 and allowed(whole[None])[0])


@dataclass(frozen=True)
class Place:
    """A reflection of the star: all arms that lie in its box.

    Attributes
    ----------
    main : (n, 3) array
        Reflection of the parent that each arm belongs to.
    arm : (n,) int array
        Rows of `Star.operations`; the first is the arm in the middle of the box.
    """

    main: Floats
    arm: Integers

    def hkl(self, star: Star, vector: Floats) -> Floats:
        """Return the middle of the box, if the vector is ``vector``."""
        return np.asarray(self.main[0] + star.operations[self.arm[0]] @ vector)


def places_of(
    star: Star, points: Sequence[star_boxes.Hkl], half_width: ArrayLike, allowed: Allowed
) -> list[tuple[int, Place]]:
    """Return the places of points near reflections of a star, with the rows of the points.

    Points without an arm that centring allows, and points in the box of an earlier one, have none.
    """
    arms = star.operations @ star.vector
    half = np.asarray(half_width, np.float64)
    found: list[tuple[int, Place]] = []
    taken: list[Floats] = []
    for row, point in enumerate(points):
        away = np.asarray(point) - arms
        main = np.rint(away)
        inside = np.all(np.abs(away - main) <= half, axis=1) & allowed(main)
        middle = np.abs(away - main).max(axis=1) < 2 * _SPECIAL
        if not np.any(inside & middle):
            continue
        if any(np.all(np.abs(other - point) < half) for other in taken):
            continue
        order = np.argsort(np.abs(away - main).max(axis=1), kind="stable")
        use = order[inside[order]]
        taken.append(np.asarray(point))
        found.append((row, Place(main[use], use)))
    return found


@dataclass(frozen=True)
class Voxels:
    """Voxels of all places in one scan.

    Each voxel is divided into eight parts: a reflection may have a width of a quarter of a voxel.

    Attributes
    ----------
    counts, norm, background, noise : (v,) arrays
        ``background`` is S of the shell around the place; ``noise`` the variance over counts.
    weight : (v,) array
        Relative intensity of the reflection, at most 1.
    place : (v,) int array
        Number of the place.
    voxel : (n,) int array
        Voxel of each part.
    offset : (n, 3) array
        Displacement of each part in the frame of the vector.
    parts : int
        Parts of each voxel.
    edge : (3, 3) array
        Variance of a place in a part, mean of all arms, r.l.u.².
    """

    counts: Floats
    norm: Floats
    background: Floats
    noise: Floats
    weight: Floats
    place: Integers
    voxel: Integers
    offset: Floats
    parts: int
    edge: Floats


def gather(
    grid: Grid,
    read: Read,
    star: Star,
    places: Sequence[Place],
    weights: Sequence[float],
    vector: Floats,
    half_width: ArrayLike,
    shell: int,
    least: float,
) -> Voxels | None:
    """Return the voxels in the boxes of the places; None if no place is measured.

    Parameters
    ----------
    read : function
        Returns counts, norm and variance of the counts (l, k, h) of a part of the volume.
    weights : sequence of float
        Relative intensity of each place.
    vector : (3,) array
        The vector on whose arms the boxes are.
    least : float
        Smallest measured fraction of a box.
    """
    inverse = np.linalg.inv(star.operations)
    # The middles of the eight halves of a voxel; each half has the variance ``edge`` in addition.
    parts = (np.array(list(np.ndindex(2, 2, 2))) - 0.5) * grid.step / 2
    edge = np.mean([i @ np.diag(grid.step**2 / 48) @ i.T for i in inverse], axis=0)
    columns: list[tuple[Floats, ...]] = []
    rows: list[Integers] = []
    offsets: list[Floats] = []
    total = 0
    for number, (place, weight) in enumerate(zip(places, weights, strict=True)):
        box = boxes.box_at(grid, place.hkl(star, vector), half_width, shell)
        if box is None:
            continue
        counts, norm, variance = read(box.region)
        measured = norm > 0
        inside, outside = measured & box.inside, measured & ~box.inside
        if inside.sum() < least * box.inside.sum() or not outside.any():
            continue
        both = inside | outside
        noise = max(float(variance[both].sum()) / max(float(counts[both].sum()), 1.0), 1.0)
        rate = (float(counts[outside].sum()) + 0.5 * noise) / float(norm[outside].sum())
        l, k, h = (np.arange(s.start, s.stop) for s in box.region)  # noqa: E741
        index = np.stack(np.meshgrid(l, k, h, indexing="ij")[::-1], axis=-1)[inside]
        hkl = grid.first + grid.step * index
        n = len(hkl)
        flat = np.ones(n)
        level = max(rate, 0.0) * flat
        columns.append(
            (counts[inside], norm[inside], level, noise * flat, weight * flat, number * flat)
        )
        for main, arm in zip(place.main, place.arm, strict=True):
            points = hkl[:, None, :] + parts - main
            offsets.append((points @ inverse[arm].T - vector).reshape(-1, 3))
            rows.append(np.repeat(np.arange(total, total + n), len(parts)))
        total += n
    if not columns:
        return None
    every, all_norm, background, noises, strength, owner = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    return Voxels(
        every,
        all_norm,
        background,
        noises,
        strength,
        owner.astype(np.int64),
        np.concatenate(rows),
        np.concatenate(offsets),
        len(parts),
        edge,
    )
