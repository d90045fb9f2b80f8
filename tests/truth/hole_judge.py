"""Judge of fills: the 3D-ΔPDF of filled volumes against the transform of the true S(Q).

A candidate is a function (values, sigma, punched, world) -> (filled, sigma), arrays (l, k, h) with
NaN in the holes of what it gets. The true ΔPDF is the same finite sum (box, taper) of the true S,
so that truth has no holes:

    PDF(r) = ΔV/(2π)³ Σ w(|Q|) S(Q) cos(Q·r)

Stated errors are σ of each set of equivalent voxels, independent of the others. A candidate may
return a third object: a function of the judge that returns the covariance to be added.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.truth.hole_worlds import Array, World, hkl_of

Candidate = Callable[[Array, Array, Array, World], tuple[Any, ...]]

FLAT = 0.5  # documented flat part of the Tukey taper


def taper(q: Array, end: float, flat: float = FLAT) -> Array:
    """Tukey window: 1 up to flat·end, then half a cosine to 0 at the end."""
    t = np.clip((q / end - flat) / (1 - flat), 0, 1)
    return np.where(q <= end * (1 + 1e-9), 0.5 * (1 + np.cos(np.pi * t)), 0.0)


def lattice_vectors(world: World, least: int) -> Array:
    """Return the shortest inequivalent lattice vectors (n, 3) of at least 1 cell, without 000.

    Vectors with an equivalent beyond half a period are left out: they are others, shifted by a
    period.
    """
    return _distinct(world, np.indices((2 * _limit(world) + 1,) * 3).reshape(3, -1).T, least)


def other_vectors(world: World, reach: float, number: int, seed: int = 1) -> Array:
    """Return random vectors (n, 3) up to |r| = reach (Å), at least a quarter cell from a node."""
    rng = np.random.default_rng(seed)
    made = rng.uniform(-_limit(world), _limit(world), (200 * number, 3))
    length = np.linalg.norm(made @ world.lattice.direct.T, axis=1)
    away = np.abs(made - np.rint(made)).max(axis=1)
    kept = made[(length < reach) & (length > 2.5) & (away > 0.25)][:number]
    return kept[np.argsort(np.linalg.norm(kept @ world.lattice.direct.T, axis=1))]


def _limit(world: World) -> int:
    """Cells within half a period of the transform, less one."""
    return int(0.5 / world.grid.step.max() + 1e-9) - 1


def _distinct(world: World, made: Array, least: int) -> Array:
    u = made - _limit(world)
    images = np.stack([u @ np.linalg.inv(w) for w in world.lattice.operations], axis=1)
    inside = (np.abs(images) < _limit(world) + 0.5).all(axis=(1, 2))
    u, images = u[inside], images[inside]
    rank = np.rint(images) @ np.array([10000, 100, 1])
    _, first = np.unique(rank.max(axis=1), return_index=True)
    u = u[first]
    length = np.linalg.norm(u @ world.lattice.direct.T, axis=1)
    order = np.argsort(length, kind="stable")
    return u[order][1 : least + 1]


@dataclass
class Judge:
    """Transform of a world's volumes at vectors (n, 3), in cells."""

    world: World
    vectors: Array

    def __post_init__(self) -> None:
        world = self.world
        hkl = hkl_of(world.grid).reshape(-1, 3)
        b = world.lattice.reciprocal
        w = taper(np.linalg.norm(hkl @ b.T, axis=1), world.q_max)
        inside = w > 0
        voxel = abs(np.linalg.det(b)) * np.prod(world.grid.step) / (2 * np.pi) ** 3
        self._numbers, self._first = np.unique(world.orbits.ravel()[inside], return_index=True)
        self._inside = np.flatnonzero(inside)[self._first]
        size = int(world.orbits.max()) + 1
        rows = (
            np.bincount(
                world.orbits.ravel()[inside],
                voxel * w[inside] * np.cos(2 * np.pi * (hkl[inside] @ v)),
                size,
            )
            for v in self.vectors
        )
        #: Weights (vectors, sets of equivalents).
        self.matrix = np.stack([row[self._numbers] for row in rows])
        self.truth = self.transform(world.truth)

    def transform(self, values: Array) -> Array:
        """Return the ΔPDF at the vectors."""
        return self.matrix @ values.ravel()[self._inside]

    def covariance(self, sigma: Array) -> Array:
        """Return the covariance of the ΔPDF at the vectors."""
        scaled = self.matrix * sigma.ravel()[self._inside]
        return scaled @ scaled.T

    @property
    def lengths(self) -> Array:
        """|r| in Å."""
        return np.linalg.norm(self.vectors @ self.world.lattice.direct.T, axis=1)


@dataclass(frozen=True)
class Verdict:
    """Figures of one class of vectors.

    Attributes
    ----------
    mean, width : float
        Mean and rms of (found − true)/σ over vectors and realisations.
    bias : float
        rms over the vectors of their mean pulls.
    chi2, chi2_full : float
        χ² per degree of freedom, with the diagonal of the covariance and with all of it.
    shells : float
        Width of the pulls of sums over shells of vectors, with the stated covariance.
    """

    mean: float
    width: float
    bias: float
    chi2: float
    chi2_full: float
    shells: float


def pulls(
    candidate: Candidate, judge: Judge, norm: float, realisations: int, seed: int = 0
) -> tuple[Array, list[Array]]:
    """Return found − true (realisations, vectors), and the stated covariances."""
    world, residuals, stated = judge.world, [], []
    for i in range(realisations):
        values, sigma = world.measure(norm, seed + i)
        filled, errors, *more = candidate(values, sigma, world.punched, world)
        residuals.append(judge.transform(filled) - judge.truth)
        stated.append(judge.covariance(errors) + sum(part(judge) for part in more))
    return np.array(residuals), stated


def verdict(residuals: Array, stated: list[Array], shells: int = 8) -> Verdict:
    """Summarise the residuals of one class of vectors, sorted by length."""
    diagonal = np.array([np.diag(c) for c in stated])
    pull = residuals / np.sqrt(diagonal)
    full = [r @ np.linalg.solve(c, r) / len(r) for r, c in zip(residuals, stated, strict=True)]
    sums = [
        r[part].sum() / np.sqrt(c[np.ix_(part, part)].sum())
        for r, c in zip(residuals, stated, strict=True)
        for part in np.array_split(np.arange(residuals.shape[1]), shells)
    ]
    return Verdict(
        float(pull.mean()),
        float(np.sqrt(np.mean(pull**2))),
        float(np.sqrt(np.mean(pull.mean(axis=0) ** 2))),
        float(np.mean(np.sum(pull**2, axis=1)) / pull.shape[1]),
        float(np.mean(full)),
        float(np.sqrt(np.mean(np.square(sums)))),
    )


def without_holes(norm: float, seed: int) -> Candidate:
    """Return the candidate that knows the counts in the holes: the noise alone."""

    def measured(values: Array, sigma: Array, punched: Array, world: World) -> tuple[Array, Array]:
        whole = World(
            world.lattice, world.grid, world.truth, np.zeros_like(punched), 0 * world.bragg
        )
        nonlocal seed
        seed += 1
        return whole.measure(norm, seed)

    return measured
