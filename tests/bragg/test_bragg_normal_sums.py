"""Sums of the normal equations against numpy."""

import numpy as np
import pytest

from hklflow.bragg import normal_sums as ns
from hklflow.bragg.kernels import KIND_MINE, KIND_OUTSIDE, Norms, gather_back


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


def test_sums_over_pixels_expect_what_their_voxels_expect() -> None:
    rng = np.random.default_rng(2)
    shape, origin, centre = (4, 9, 7), np.array([-1, 5, -2]), np.array([1.2, 9.1, 1.7])
    box = rng.poisson(3.0, shape).astype(np.float32)
    box[rng.random(shape) < 0.1] = np.nan
    box[1, 2, 3] = 1e6  # saturated
    kind = np.where(rng.random(shape) < 0.8, KIND_OUTSIDE, KIND_MINE).astype(np.uint8)
    share, pixel_norm = rng.random(shape), rng.uniform(0.5, 2.0, (13, 40))
    pixel_norm[6] = 0.0  # masked
    frame_norm, read = rng.uniform(0.5, 2.0, 9), rng.random((13, 40)).astype(np.float32)
    back = np.full((ns.N_VOXEL, 300), np.nan)
    norms = Norms(pixel_norm, frame_norm, read)
    n = gather_back(box, kind, share, origin, centre, norms, 1e5, back)

    z, y, x = (o + np.arange(m) for o, m in zip(origin, shape, strict=True))
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    use = (z >= 0) & (y < 13) & (x >= 0) & (kind == KIND_OUTSIDE) & (box < 1e5)
    use[use] &= pixel_norm[y[use], x[use]] > 0
    norm = pixel_norm[y[use], x[use]] * frame_norm[z[use]]
    u = [(v[use] + 0.5 - c) / (0.5 * m) for v, c, m in zip((z, y, x), centre, shape, strict=True)]
    terms = np.stack([np.ones(use.sum()), *u, *np.square(u), share[use]])
    rows = back[:, :n]
    found = np.vstack([np.ones(n), rows[ns.V_Z : ns.V_XX + 1], rows[ns.V_SHARE]])
    assert use.sum() / 4 < n < use.sum() / 2
    assert rows[ns.V_NUMBER].sum() == use.sum()
    np.testing.assert_allclose(found @ rows[ns.V_NORM], terms @ norm, rtol=1e-12)
    assert rows[ns.V_COUNTS].sum() == box[use].sum()
    assert rows[ns.V_READ].sum() == pytest.approx(read[y[use], x[use]].sum(), rel=1e-6)
    # Cells of 3 frames x 4 x 4 pixels, in which outliers are searched.
    at = [(v - o)[use] for v, o in zip((z, y, x), origin, strict=True)]
    cell = (at[0] // 3 * 3 + at[1] // 4) * 2 + at[2] // 4
    counts = np.bincount(rows[ns.V_CELL].astype(int), rows[ns.V_COUNTS], minlength=12)
    np.testing.assert_array_equal(counts, np.bincount(cell, box[use], minlength=12))
