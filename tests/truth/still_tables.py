"""Indexed still frames from rays, as DIALS would give them: no pixels are painted or integrated."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.stills import StillFrames, Stills, StillSpots
from hklflow.geometry import Beam, Detector
from hklflow.geometry.modules import Modules
from hklflow.nexus.structure_factors import read_factors
from tests.truth.still_rays import Rays, tables

Floats = NDArray[np.float64]
#: Another indexing of a hexagonal lattice: h and k change places, l its sign.
OTHER = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])


def detector_of(world: Rays, modules: Modules | None = None, *, stated: bool = False) -> Detector:
    """Return the detector, metres; `stated`: as in the header."""
    origin, slow, fast = world.plane(stated)
    size = world.pixel * 1e-3
    return Detector(world.shape, (size, size), origin * 1e-3, slow, fast, modules=modules)


def cell_of(world: Rays) -> tuple[float, ...]:
    a, c = world.cell
    return a, a, c, 90.0, 90.0, 120.0


def indexed(
    world: Rays,
    n: int,
    error: float,
    *,
    pollution: Sequence[int] = (),
    flips: bool = False,
    blur: float = 0.0,
) -> Stills:
    """Return n frames.

    Parameters
    ----------
    error : float
        Standard deviation of each component of the orientations, degrees.
    pollution : sequence of int
        Frames of another structure.
    flips : bool
        Give half of the frames the other indexing.
    blur : float
        Standard deviation of the positions of spots, pixels.
    """
    crystals, frame, number, at, counts, variance = tables(
        world, n, float(np.radians(error)), pollution
    )
    rng = np.random.default_rng(3)
    hkl = world.structure()[0][number]
    ub = np.array([crystal @ world.reciprocal() for crystal in crystals]) * 2 * np.pi
    if flips:
        flip = rng.random(n) < 0.5
        ub[flip] = ub[flip] @ np.linalg.inv(OTHER)
        hkl[flip[frame]] = hkl[flip[frame]] @ OTHER.T
    at = at + blur * rng.normal(size=at.shape)
    reflections = StillSpots(frame, hkl, at[:, 0], at[:, 1], counts, variance)
    strong = reflections.select(counts > 6 * np.sqrt(variance))
    spots = np.bincount(strong.frame, minlength=n)
    frames = StillFrames(np.arange(n), ub, spots, spots, np.full(n, 0.2))
    return Stills(
        frames,
        strong,
        reflections,
        detector_of(world),
        Beam(world.wavelength, world.polarization),
        cell_of(world),
        "P 6/m m m" if world.mirrors else "P 6/m",
        world.gaps(),
    )


def with_double_axis(stills: Stills) -> Stills:
    """Return the frames in a cell with a doubled c axis: nodes of odd l have no intensity."""
    a, b, c, *angles = stills.cell
    ub = stills.frames.ub @ np.diag([1, 1, 0.5])
    n = 25
    grid = np.mgrid[-n : n + 1, -n : n + 1, -n : n + 1].reshape(3, -1).T * [1, 1, 2] + [0, 0, 1]
    grid = grid[np.linalg.norm(grid @ ub[0].T, axis=1) < 2 * np.pi / 1.9]
    frame, hkl = np.repeat(np.arange(len(ub)), len(grid)), np.tile(grid, (len(ub), 1))
    k = stills.beam.k
    q = np.einsum("nij,nj->ni", ub[frame], hkl)
    s = q + np.array([0, 0, k])
    near = np.abs(np.linalg.norm(s, axis=1) - k) < 2e-3 * np.linalg.norm(q, axis=1)
    frame, hkl, s = frame[near], hkl[near], s[near]
    slow, fast = stills.detector.intersect(s)
    inside = np.all(np.abs(np.stack([slow, fast], 1) / stills.detector.shape - 0.5) < 0.49, axis=1)
    noise = np.full(int(inside.sum()), 150.0)
    counts = np.sqrt(noise) * np.random.default_rng(4).normal(size=len(noise))
    empty = StillSpots(frame[inside], hkl[inside], slow[inside], fast[inside], counts, noise)
    double = [replace(t, hkl=t.hkl * [1, 1, 2]) for t in (stills.spots, stills.reflections)]
    joint = {
        column.name: np.concatenate([getattr(t, column.name) for t in (double[1], empty)])
        for column in fields(StillSpots)
    }
    return replace(
        stills,
        cell=(a, b, 2 * c, *angles),
        frames=replace(stills.frames, ub=ub),
        spots=double[0],
        reflections=StillSpots(**joint),
    )


def moved(stills: Stills, detector: Detector) -> Stills:
    """Return the frames with spots as a detector with moved modules records them."""
    assert detector.modules is not None
    spots = stills.spots
    module = detector.modules.module_at(spots.slow, spots.fast)
    # A module that moves by +shift records a spot at a smaller index.
    shift = detector.modules.shift[module]
    spots = replace(spots, slow=spots.slow - shift[:, 0], fast=spots.fast - shift[:, 1])
    return replace(stills, spots=spots.select(module >= 0))


def compared(world: Rays, factors: Path, other: bool = False) -> tuple[float, Floats]:
    """Return the correlation of merged intensities with the truth, and their pulls.

    ``other``: the truth in the other indexing, because the choice for all frames is free.
    """
    found = read_factors(factors).factors
    hkl, intensity, _ = world.structure()
    truth = dict(zip(map(tuple, hkl.tolist()), intensity, strict=True))
    at = found.hkl @ OTHER.T if other else found.hkl
    # The crystal has no reflections beyond its resolution.
    true = np.array([truth.get(tuple(row), 0.0) for row in at.tolist()])
    value, sigma = found.mean.intensity, found.mean.sigma
    scale = scale_to(true, value, sigma)
    return float(np.corrcoef(value, true)[0, 1]), (value - scale * true) / sigma


def scale_to(true: Floats, value: Floats, sigma: Floats) -> float:
    """Return the scale from true to merged intensities, by robust weights."""
    strong = true > np.median(true)
    scale = float(np.median(value[strong] / true[strong]))
    for _ in range(10):
        weight = 1 / sigma**2 / (1 + ((value - scale * true) / (3 * sigma)) ** 2)
        scale = float(np.sum(weight * value * true) / np.sum(weight * true**2))
    return scale
