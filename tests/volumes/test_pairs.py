"""Sums of the comparison of rotations, voxel by voxel in plain Python."""

from math import sqrt

import numpy as np
import pytest

from hklflow.geometry.grid import Grid
from hklflow.volumes import pairs

# Blocks of 8 × 8 voxels are cut off at both ends.
GRID = Grid(np.array([-1.0, -0.7, -0.2]), np.full(3, 0.1), (21, 13, 5))


def made(noisy: bool) -> list[np.ndarray]:
    """Counts, norm and, with read noise, variance of three rotations with gaps and spots."""
    rng = np.random.default_rng(3)
    shape = (3, *GRID.array_shape)
    norm = rng.uniform(0.5, 2, shape) * (rng.random(shape) < 0.8)
    norm[1:, :, :, 18:] = 0  # measured by a single rotation
    factor = np.array([1.2, 1.0, 0.9])[:, None, None, None]
    counts = rng.poisson(4 * factor * norm)
    counts[:, 2, 5, 6] += 60 * (norm[:, 2, 5, 6] > 0)
    if not noisy:
        return [counts.astype(np.uint32), norm.astype(np.float32)]
    read = rng.uniform(0.1, 3, shape) * (norm > 0)
    measured = counts + rng.normal(0, np.sqrt(read))
    return [measured, norm.astype(np.float32), measured + read]


def is_spot(counts: np.ndarray, norm: np.ndarray, k: int, h: int) -> bool:
    """Tell if a voxel of a plane is far brighter than its block."""
    block = slice(k // 8 * 8, k // 8 * 8 + 8), slice(h // 8 * 8, h // 8 * 8 + 8)
    rate = max(counts[block].sum() / norm[block].sum(), 0)
    expected = 3 * norm[k, h] * rate
    return bool(counts[k, h] > expected + 5 * sqrt(expected) + 5)


@pytest.mark.parametrize("noisy", [False, True])
def test_sums_voxel_by_voxel(noisy: bool) -> None:
    parts = made(noisy)
    away = np.random.default_rng(4).random(GRID.array_shape) < 0.9
    rotations = pairs.Rotations(3, GRID)
    for rows in (slice(0, 8), slice(8, 13)):
        rotations.add([part[:, :, rows] for part in parts], away[:, rows], range(5), rows.start)
    counts, norm = parts[0].astype(float), parts[1].astype(float)
    read = parts[2] - counts if noisy else np.zeros(counts.shape)
    expected, total = np.zeros((3, 4)), np.zeros((3, 2))
    blocks: dict[tuple[int, ...], list[float]] = {}
    compared, equal, spots = np.zeros((3, 3), int), np.zeros((3, 3), int), 0
    for l, k, h in np.ndindex(*GRID.array_shape):  # noqa: E741
        spot = is_spot(counts[:, l].sum(axis=0), norm[:, l].sum(axis=0), k, h)
        spots += spot
        if spot or not away[l, k, h]:
            continue
        c, m, r = counts[:, l, k, h], norm[:, l, k, h], read[:, l, k, h]
        for i in range(3):
            for j in range(i):
                if m[i] > 0 and m[j] > 0 and (c[i] or c[j]):
                    compared[i, j] += 1
                    equal[i, j] += c[i] == c[j]
            others = [i != j and m[j] > 0 for j in range(3)]
            if not m[i] or not any(others) or c.sum() + r.sum() < 1:
                continue
            p = m[i] / m.sum()
            photons = max(c.sum(), 0)
            x = c[i] - p * c.sum()
            v = p * (1 - p) * photons + (1 - p) ** 2 * r[i] + p**2 * (r.sum() - r[i])
            expected[i] += (
                1,
                x**2 / v,
                max(2 + photons * p * (1 - p) * (1 - 6 * p * (1 - p)) / v**2, 0),
                max(photons - 1, 0) * photons * (p * (1 - p)) ** 2 / v,
            )
            total[i] += x, v
            block = blocks.setdefault((i, l, k // 8, h // 8), [0.0, 0.0])
            block[0] += x
            block[1] += v
    np.testing.assert_allclose([list(one) for one in rotations.sums], expected, rtol=1e-6)
    np.testing.assert_allclose(rotations.total, total, rtol=1e-6)
    smooth = np.zeros(3)
    for (i, *_), (x, v) in blocks.items():
        smooth[i] += x * x / v - 1
    np.testing.assert_allclose(rotations.smooth, smooth, rtol=1e-6)
    np.testing.assert_array_equal(rotations.compared, compared)
    np.testing.assert_array_equal(rotations.equal, equal)
    assert spots > 0
    assert compared[1, 0] > 500
