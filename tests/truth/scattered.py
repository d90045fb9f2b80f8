"""Simulated S(Q, T) with many small features at places without symmetry; plain numpy.

Features of 5 x 5 x 5 voxels and a few more are far from each other. Several of them share a course,
all of one course are of the same size, and no voxel lies between two features.
"""

import itertools

import numpy as np
from numpy.typing import NDArray

from tests.truth import trajectories

Floats = NDArray[np.float64]

_ALIKE = 0.7  # largest cosine of two courses of a world, both without a straight line
_BENT = 0.5  # least length of a course without a straight line
_GAP = 4  # voxels between features


def _courses(t: Floats, number: int, random: np.random.Generator) -> Floats:
    """Return courses (K, T) that are not alike; largest change 1."""
    line = np.stack([np.ones_like(t), t], axis=1)
    span = t[-1] - t[0]
    chosen: list[Floats] = []
    bent: list[Floats] = []
    while len(chosen) < number:
        at = t[0] + span * random.uniform(0.3, 0.75)
        below = trajectories.order(t, at, random.uniform(0.4, 1.0))
        course = [
            below,
            -below,
            trajectories.anomaly(t, at, span * random.uniform(0.05, 0.12)),
            1 / (1 + np.exp((t - at) / (span * random.uniform(0.005, 0.03)))),
            trajectories.order(t[-1] - t + t[0], at, random.uniform(0.6, 1.5)),
        ][random.integers(5)]
        course = course / np.abs(course).max()
        rest = course - line @ np.linalg.lstsq(line, course)[0]
        length = np.linalg.norm(rest)
        rest = rest / length
        if length > _BENT and all(rest @ other < _ALIKE for other in bent):
            chosen.append(course)
            bent.append(rest)
    return np.array(chosen)


def _places(n: int, number: int, random: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Return boxes and balls, of 5 to 7 voxels along each axis."""
    taken = np.zeros((n, n, n), np.bool_)
    found: list[NDArray[np.bool_]] = []
    for _ in range(200 * number):
        size = random.integers(5, 8, 3)
        first = random.integers(1, n - 1 - size)
        room = tuple(
            slice(max(f - _GAP, 0), f + s + _GAP) for f, s in zip(first, size, strict=True)
        )
        if taken[room].any():
            continue
        mine = np.zeros_like(taken)
        inside = tuple(slice(f, f + s) for f, s in zip(first, size, strict=True))
        mine[inside] = True
        if size.min() > 5 and random.random() < 0.5:
            away = [
                (x - f - (s - 1) / 2) / (s / 2)
                for x, f, s in zip(np.indices(mine.shape), first, size, strict=True)
            ]
            mine &= sum(x**2 for x in away) <= 1.15
        taken |= mine
        found.append(mine)
        if len(found) == number:
            break
    return found


def world(
    seed: int,
    *,
    sigmas: float = 2.0,
    whole: bool = False,
    n: int = 61,
    n_t: int = 20,
    features: int = 30,
    number: int | None = None,
    changes: bool = True,
    drift: float = 0.03,
) -> trajectories.World:
    """Simulate a series.

    Parameters
    ----------
    sigmas, whole
        See `trajectories.world`.
    features : int
        Number of features.
    number : int
        Number of courses; default 2 to 5 at random.
    changes : bool
        False: features are constant.
    drift : float
        Amplitude of a slow wave of the scale, common to all voxels.
    """
    random = np.random.default_rng([20261128, seed])
    t = np.sort(np.linspace(15.0, 310.0, n_t) + random.uniform(-5, 5, n_t))
    courses = _courses(t, number or int(random.integers(2, 6)), random)
    k = len(courses)
    spots = _places(n, features, random)
    labels = np.zeros((n, n, n), np.int64)
    for i, spot in enumerate(spots):
        labels[spot] = i % k + 1
    step = 3.0 / (n - 1)
    axis = -1.5 + step * np.arange(n)
    l, k_, h = np.meshgrid(axis, axis, axis, indexing="ij")  # noqa: E741
    a, b, c = trajectories.CELL
    s2 = ((h / a) ** 2 + (k_ / b) ** 2 + (l / c) ** 2) / 4
    away = [np.abs(x - np.rint(x)) for x in (l, k_, h)]
    level = random.uniform(20, 80)
    still = level * random.uniform(0.1, 0.5) * (1 + random.uniform(0, 2) * s2)
    wavy = level * (1 + 0.4 * np.cos(2 * np.pi * (h + k_)) * np.cos(2 * np.pi * l))
    # Thermal diffuse scattering in streaks along the axes, and spots at the nodes.
    streak = sum(
        np.exp(-(away[i] ** 2 + away[j] ** 2) / 0.02)
        for i, j in itertools.combinations(range(3), 2)
    )
    heat = level * s2 * (2 + 6 * streak)
    bragg = (
        150
        * level
        * (1.2 + np.sin(1.7 * np.rint(h) + 2.9 * np.rint(k_) + np.rint(l)))
        * np.exp(-sum(x**2 for x in away) / (2 * (0.7 * step) ** 2))
    )
    debye = random.uniform(0.4, 1.6) * (0.2 + t / 300)
    scale = np.exp(random.normal(0, 0.02, n_t) + drift * np.sin(random.uniform(0, 6) + t / 90))
    line = np.stack([np.ones(n_t), t], axis=1)
    change = np.zeros((k, n_t))
    for j, course in enumerate(courses):
        sigma = np.full(n_t, np.sqrt(still.mean() + wavy.mean()))
        rest, columns = course / sigma, line / sigma[:, None]
        rest = rest - columns @ np.linalg.lstsq(columns, rest)[0]
        change[j] = (
            course * sigmas / (np.linalg.norm(rest) if whole else np.abs(course / sigma).max())
        )
    lowest = np.minimum(change.min(axis=1), 0.0)
    data = np.empty((n_t, n, n, n), np.float32)
    errors, counts = np.empty_like(data), np.empty_like(data)
    norm = random.uniform(0.8, 1.25, n_t)
    # What falls with T is there before; the noise of a feature is that of its surroundings.
    table = np.concatenate([np.zeros((1, n_t)), change - lowest[:, None]])
    if not changes:
        table[1:] = table[1:].mean(axis=1, keepdims=True)
        labels, kept = np.zeros_like(labels), labels
    else:
        kept = labels
    for i in range(n_t):
        mean = (bragg + wavy + heat * t[i] / 300) * np.exp(-2 * debye[i] * s2) + still
        mean = (mean + table[kept, i]) * scale[i] * norm[i]
        counts[i] = random.poisson(mean)
        data[i], errors[i] = counts[i] / norm[i], np.sqrt(mean) / norm[i]
    return trajectories.World(-1.5, step, t, data, errors, counts, norm, labels, courses)
