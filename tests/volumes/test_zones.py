"""Means over zones of the reciprocal lattice."""

import numpy as np
import pytest

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.volumes.zones import ZoneSums

CELL = np.array([4.0, 5.0, 6.0, 80.0, 95.0, 110.0])


def test_means_are_those_of_a_loop_over_voxels() -> None:
    grid = Grid.symmetric([1.4, 1.6, 1.4], [0.2, 0.25, 0.2])
    rng = np.random.default_rng(0)
    norm = rng.uniform(0.5, 2, grid.array_shape) * (rng.random(grid.array_shape) > 0.2)
    counts = rng.poisson(20 * norm).astype(float)
    curve = np.stack([np.linspace(0, 10, 500), np.linspace(0, 10, 500) ** 2])
    sums = ZoneSums(grid, CELL, curve)
    for first in range(0, grid.array_shape[0], 4):
        part = slice(first, first + 4)
        sums.add(first, counts[part], norm[part], counts[part])
    zones = sums.zones()
    h, k, m = (grid.axis(i) for i in range(3))
    for n in (0, 7, 13, len(zones.hkl) - 1):
        inside = [
            (i, j, p)
            for i, z in enumerate(m)
            for j, y in enumerate(k)
            for p, x in enumerate(h)
            if np.all(np.floor(np.array([x, y, z]) + 0.5 + 1e-6) == zones.hkl[n])
            and norm[i, j, p] > 0
        ]
        s = [counts[at] / norm[at] for at in inside]
        q2 = [np.sum((lattice.b_matrix(CELL) @ [h[p], k[j], m[i]]) ** 2) for i, j, p in inside]
        assert zones.mean[n] == pytest.approx(np.mean(s))
        noise = [counts[at] / norm[at] ** 2 for at in inside]
        assert zones.variance[n] == pytest.approx(np.sum(noise) / len(s) ** 2)
        assert zones.curve[n] == pytest.approx(np.mean(q2), rel=1e-3)
        assert zones.measured[n] == pytest.approx(len(s) / (5 * 4 * 5))
