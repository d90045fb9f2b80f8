"""Sums of the normal equations against numpy."""

import numpy as np
import pytest

from hklflow.bragg import normal_sums as ns


@pytest.mark.parametrize("size", [4, 5, 7, 8])
def test_sums_are_those_of_a_weighted_fit(size: int) -> None:
    rng = np.random.default_rng(size)
    n = 21  # not a multiple of the lanes
    rows = np.full((ns.N_VOXEL, ns.padded(n)), np.nan)
    rows[:, :n] = rng.uniform(0.5, 2.0, (ns.N_VOXEL, n))
    rows[ns.V_Z : ns.V_X + 1, :n] = rng.uniform(-1, 1, (3, n))
    rows[ns.V_ZZ : ns.V_XX + 1, :n] = rng.uniform(0, 1, (3, n))
    rows[ns.V_USED, :n] = rng.random(n) < 0.7
    ns.pad(rows, n)
    level = np.array([0.4, 0.3, -0.2, 0.5, -0.1, 0.2, 0.3])
    level[4:] *= size in (7, 8)
    low, peak, known = 0.3, 1.7, 0.6 if size in (4, 7) else 0.0
    matrix, right = np.eye(size), np.ones(size)
    ns.normal_sums(rows, n, level, low, peak, known, matrix, right)

    counts, norm, share, read, z, y, x, zz, yy, xx, _, used, _ = rows[:, :n]
    terms = np.stack([np.ones(n), z, y, x, zz, yy, xx])
    expected = np.maximum(level @ terms, low)
    assert 0 < np.sum(expected == low) < n
    variance = norm * (expected + peak * share) + read
    fitted = norm * (terms[:size] if size in (4, 7) else np.vstack([share, terms[: size - 1]]))
    weighted = fitted * used / variance
    np.testing.assert_allclose(matrix, np.eye(size) + weighted @ fitted.T, rtol=1e-12)
    np.testing.assert_allclose(right, 1 + weighted @ (counts - norm * known * share), rtol=1e-12)
