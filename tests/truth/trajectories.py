"""Simulated S(Q, T) with known clusters of trajectories, on an hkl grid; plain numpy.

A world has Bragg peaks with a Debye-Waller factor, scattering without one, thermal diffuse
scattering that is linear in T, a scale that drifts, and Poisson noise. Features of 5 x 5 x 5 voxels
and more change in courses that are known; one kind of features is constant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CELL = (4.0, 4.0, 5.0)
MMM = [np.diag(s).astype(float) for s in np.ndindex(2, 2, 2) for s in [1 - 2 * np.array(s)]]


@dataclass(frozen=True)
class World:
    """S(Q, T) with its errors, and the truth.

    Attributes
    ----------
    first, step : float
        Axes h, k, l are alike: first + step * i.
    temperatures : (T,) array
    data, errors, counts : (T, l, k, h) arrays
    norm : (T,) array
    labels : (l, k, h) array
        0: no change, 1 to K: cluster.
    courses : (K, T) array
        Change of the clusters, largest value 1.
    """

    first: float
    step: float
    temperatures: Floats
    data: NDArray[np.float32]
    errors: NDArray[np.float32]
    counts: NDArray[np.float32]
    norm: Floats
    labels: NDArray[np.int64]
    courses: Floats


def order(t: Floats, t_c: float, power: float) -> Floats:
    """Return the intensity of a superlattice reflection, (1 - T/Tc)^power below Tc."""
    return np.clip(1 - t / t_c, 0, None) ** power


def anomaly(t: Floats, t_c: float, width: float) -> Floats:
    """Return critical scattering around Tc."""
    return 1 / (1 + ((t - t_c) / width) ** 2)


def _spots(first: float, step: float, n: int) -> dict[str, NDArray[np.bool_]]:
    """Return the voxels of features: boxes and balls, a rod along l and a sheet normal to k."""
    axis = first + step * np.arange(n)
    half = 2.5 * step

    def near(value: float) -> NDArray[np.bool_]:
        return np.abs(axis - value - np.rint(axis - value)) < half

    zero, middle = near(0.0), near(0.5)

    def box(l: Any, k: Any, h: Any) -> NDArray[np.bool_]:  # noqa: E741
        return np.asarray(l[:, None, None] & k[:, None] & h)

    def ball(l: float, k: float, h: float) -> NDArray[np.bool_]:  # noqa: E741
        away = [(axis - x - np.rint(axis - x)) ** 2 for x in (l, k, h)]
        square = away[0][:, None, None] + away[1][:, None] + away[2]
        return np.asarray(square < (3.1 * step) ** 2)  # 125 voxels

    every = np.ones(n, np.bool_)
    return {
        "M": ball(0.0, 0.5, 0.5),
        "X": box(zero, zero, middle),
        "R": ball(0.5, 0.5, 0.5),
        "A": box(middle, zero, zero),
        "rod": box(every, np.abs(axis - 1.25) < half, np.abs(axis - 1.25) < half),
        "sheet": box(every, np.abs(axis + 1.75) < half, every),
    }


def world(
    seed: int,
    *,
    sigmas: float = 2.0,
    whole: bool = True,
    changes: bool = True,
    n: int = 65,
    n_t: int = 20,
    level: float = 40.0,
    symmetric: bool = False,
    flat: float = 0.4,
    drift: float = 0.03,
    errors: Callable[[Floats, Floats], Floats] | None = None,
) -> World:
    """Simulate a series.

    Parameters
    ----------
    sigmas : float
        Significance of the change of one voxel.
    whole : bool
        True: significance of its whole trajectory, beyond a straight line. False: largest change
        over the σ of one temperature.
    changes : bool
        False: features are constant.
    level : float
        Counts of a voxel between features.
    symmetric : bool
        True: eight mirror images of one octant.
    flat : float
        Share of the scattering without Debye-Waller factor.
    errors : function
        Returns σ of the counts from counts and true mean, (l, k, h); default √mean.
    """
    random = np.random.default_rng([20261127, seed])
    t = np.sort(np.linspace(20.0, 300.0, n_t) + random.uniform(-4, 4, n_t))
    step = 4.0 / (n - 1)
    axis = -2.0 + step * np.arange(n)
    l, k, h = np.meshgrid(axis, axis, axis, indexing="ij")  # noqa: E741
    q2 = (2 * np.pi) ** 2 * ((h / CELL[0]) ** 2 + (k / CELL[1]) ** 2 + (l / CELL[2]) ** 2)
    s2 = q2 / (4 * np.pi) ** 2
    nearest = [x - np.rint(x) for x in (h, k, l)]
    q = nearest[0] ** 2 + nearest[1] ** 2 + nearest[2] ** 2
    strength = 1 + np.cos(2.3 * np.rint(h) + 1.1 * np.rint(k) + 0.7 * np.rint(l)) ** 2
    b = random.uniform(0.5, 1.5) * t / 300
    scale = np.exp(np.cumsum(random.normal(0, drift / 2, n_t)) + random.normal(0, drift / 3, n_t))
    heat = level * strength * s2 * 0.02 / (q + 0.01)  # per 300 K
    bragg = 300 * level * strength * np.exp(-q / (2 * (0.6 * step) ** 2))
    wavy = level * (1 - flat) * (1 + 0.5 * np.cos(2 * np.pi * h) * np.cos(np.pi * k))
    centre, ups = random.uniform(140, 220), random.uniform(90, 130)
    courses = np.array(
        [
            order(t, centre, random.uniform(0.5, 0.9)),
            anomaly(t, centre, random.uniform(15, 30)),
            order(t, ups, random.uniform(0.5, 0.9)) * -1.0,
        ]
    )
    courses /= np.abs(courses).max(axis=1, keepdims=True)
    spots = _spots(-2.0, step, n)
    which = {"M": 1, "rod": 2, "X": 2, "sheet": 3, "R": 3, "A": 0}
    labels = np.zeros(q.shape, np.int64)
    if symmetric:
        spots["sheet"] = spots["sheet"] | spots["sheet"][:, ::-1]
        spots["rod"] = spots["rod"] | spots["rod"][:, ::-1]
        spots["rod"] = spots["rod"] | spots["rod"][..., ::-1]
    for name in ("sheet", "rod", "M", "X", "R"):
        labels[spots[name]] = which[name]
    line = np.stack([np.ones(n_t), t / 300], axis=1)
    size = np.zeros(len(courses))
    for j, course in enumerate(courses):
        # σ at the feature contains the photons of the feature itself.
        for _ in range(20):
            own = level + max(0.0, -course.min()) * size[j]
            sigma = np.sqrt(np.maximum(own + size[j] * course, 1.0))
            rest = course / sigma
            fitted = line / sigma[:, None]
            rest = rest - fitted @ np.linalg.lstsq(fitted, rest)[0]
            unit = np.linalg.norm(rest) if whole else 1 / np.sqrt(level)
            size[j] = sigmas / unit
    static = sum(
        size[j] * max(0.0, -courses[j].min()) * (labels == j + 1) for j in range(len(courses))
    )
    static = static + 3 * np.sqrt(level) * spots["A"]
    kept = labels.copy()
    if not changes:
        labels = np.zeros_like(labels)
    data = np.empty((n_t, n, n, n), np.float32)
    sigmas_of, counts = np.empty_like(data), np.empty_like(data)
    norm = random.uniform(0.9, 1.1, n_t)
    for i in range(n_t):
        waller = np.exp(-2 * b[i] * s2)
        mean = (bragg + heat * t[i] / 300 + wavy) * waller + flat * level
        for j in range(len(courses)):
            change = courses[j, i] if changes else 0.0
            mean = mean + size[j] * change * (kept == j + 1)
        mean = np.maximum(mean + static, 0.05) * scale[i] * norm[i]
        drawn = random.poisson(mean).astype(np.float64)
        if symmetric:
            half = (n - 1) // 2
            for ax in range(3):
                index = np.abs(np.arange(n) - half) + half
                drawn = np.take(drawn, index, axis=ax)
        width = np.sqrt(mean) if errors is None else errors(drawn, mean)
        data[i], sigmas_of[i], counts[i] = drawn / norm[i], width / norm[i], drawn
    return World(-2.0, step, t, data, sigmas_of, counts, norm, labels, courses)


def rand_index(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Return the adjusted Rand index of two labellings (Hubert and Arabie 1985)."""
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a.ravel(), b.ravel()), 1)
    both, rows, columns = (
        (x * (x - 1) / 2).sum() for x in (table, table.sum(axis=1), table.sum(axis=0))
    )
    chance = rows * columns / (a.size * (a.size - 1) / 2)
    top, bottom = both - chance, (rows + columns) / 2 - chance
    return 1.0 if bottom == 0 else float(top / bottom)
