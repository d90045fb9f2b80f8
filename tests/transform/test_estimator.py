"""`transform.estimator` on Poisson volumes of known S: pulls, empty voxels, agreement of volumes.

And against the formulas written down voxel by voxel, for its kernels go by tiles and shortcuts.
"""

import numpy as np
import pytest
from scipy import ndimage

from hklflow.transform import estimator, estimator_kernels

SHAPE = (40, 42, 44)
L, K, H = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")


def field(name: str) -> np.ndarray:
    """S (l, k, h) of mean 1, or for Bragg-like spots with a level of 1 between them."""
    if name == "flat":
        return np.ones(SHAPE)
    if name == "cosine":
        return (
            1
            + 0.4 * np.cos(2 * np.pi * H / 16) * np.cos(2 * np.pi * K / 14)
            + 0.2 * np.cos(2 * np.pi * L / 12)
        )
    centre2 = ((H + 4) % 14 - 7) ** 2 + ((K + 4) % 13 - 6.5) ** 2 + ((L + 3) % 12 - 6) ** 2
    return 1 + 200 * np.exp(-centre2 / (2 * 0.8**2))


def norm_of(name: str, mean: float) -> np.ndarray:
    rng = np.random.default_rng(11)
    if name == "gaps":
        norm = 1.0 * (rng.random(SHAPE) > 0.4)
    elif name == "varying":
        # Neighbours differ by a factor of e on average, all of the volume by 10⁴.
        norm = np.exp(rng.normal(0, 1.0, SHAPE) + 1.5 * np.sin(H / 9))
    else:
        norm = np.ones(SHAPE)
    return norm * mean / norm[norm > 0].mean()


@pytest.mark.parametrize("mean", [0.3, 3.0, 300.0])
@pytest.mark.parametrize("norm_name", ["even", "gaps", "varying"])
@pytest.mark.parametrize("s_name", ["flat", "cosine", "bragg"])
def test_pulls(s_name: str, norm_name: str, mean: float) -> None:
    s, norm = field(s_name), norm_of(norm_name, mean)
    rng = np.random.default_rng([len(s_name), len(norm_name), int(10 * mean)])
    counts = rng.poisson(norm * s).astype(np.float64)
    data, errors = estimator.intensity(counts, norm)
    seen = norm > 0
    assert np.all(np.isnan(data[~seen]))
    assert np.all(np.isnan(errors[~seen]))
    assert np.all(np.isfinite(data[seen]))
    assert np.all(errors[seen] > 0)
    pull = (data[seen] - s[seen]) / errors[seen]
    # σ shares the voxel's count with S, so that the mean is -1 / (2 n √μ) where n voxels are
    # pooled: 0.02 in the worst of these cases (0.3 counts, gaps); the rest is statistics.
    assert abs(pull.mean()) < 0.022 + 4 / np.sqrt(len(pull))
    assert pull.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("mean", "bias"), [(0.3, 0.2), (3.0, 0.2), (300.0, 0.05)])
def test_pulls_on_the_spots_themselves(mean: float, bias: float) -> None:
    s, norm = field("bragg"), norm_of("even", mean)
    counts = np.random.default_rng(3).poisson(norm * s).astype(np.float64)
    data, errors = estimator.intensity(counts, norm)
    spot = s > 1.5
    pull = (data[spot] - s[spot]) / errors[spot]
    # Smoothing σ over a spot would give widths of several here.
    assert abs(pull.mean()) < bias
    assert 0.85 < pull.std() < 1.15


def test_low_norm_voxels_have_their_own_pulls() -> None:
    # A voxel with a tenth of its neighbours' norm knows less of its own count than they do.
    s, norm = field("cosine"), norm_of("varying", 300.0)
    counts = np.random.default_rng(4).poisson(norm * s).astype(np.float64)
    data, errors = estimator.intensity(counts, norm)
    pull = (data - s) / errors
    low = norm < np.median(norm)
    assert abs(pull[low].mean()) < 0.04
    assert pull[low].std() == pytest.approx(1, abs=0.05)


def test_no_counts_at_all_still_have_an_error() -> None:
    data, errors = estimator.intensity(np.zeros((5, 5, 5)), np.full((5, 5, 5), 2.0))
    assert np.all(data == 0)
    # Together the 125 voxels bound the rate at about one count in 250.
    assert np.all(errors > 0)
    assert np.all(errors < 1)


@pytest.mark.parametrize("count", [0.0, 1.0, 40.0])
def test_a_voxel_without_neighbours(count: float) -> None:
    counts, norm = np.zeros((7, 7, 7)), np.zeros((7, 7, 7))
    counts[3, 3, 3], norm[3, 3, 3] = count, 4.0
    data, errors = estimator.intensity(counts, norm)
    assert data[3, 3, 3] == count / 4
    assert errors[3, 3, 3] == pytest.approx(np.sqrt(max(count, 0.5)) / 4)
    assert np.isnan(data).sum() == np.isnan(errors).sum() == 7**3 - 1


def test_reach_zero_is_the_voxels_own_count() -> None:
    counts = np.array([[[0.0, 1.0, 9.0]]])
    expected = estimator.expected_counts(counts, np.array([[[1.0, 2.0, 0.0]]]), reach=0)
    assert expected.tolist() == [[[1.0, 1.0, 0.0]]]


def test_the_units_of_the_norm_do_not_matter() -> None:
    norm = norm_of("varying", 3.0)
    counts = np.random.default_rng(5).poisson(norm * field("bragg")).astype(np.float64)
    one, many = (estimator.intensity(counts, norm * unit) for unit in (1.0, 1e9))
    assert many[0] * 1e9 == pytest.approx(one[0], rel=1e-9)
    assert many[1] * 1e9 == pytest.approx(one[1], rel=1e-6)


def test_a_bragg_peak_does_not_reach_beyond_its_neighbourhood() -> None:
    norm = norm_of("even", 0.3)
    counts = np.random.default_rng(6).poisson(norm).astype(np.float64)
    with_peak = counts.copy()
    with_peak[20, 20, 20] = 1e10
    far = np.ones(SHAPE, dtype=bool)
    far[18:23, 18:23, 18:23] = False
    before, after = (estimator.intensity(c, norm)[1] for c in (counts, with_peak))
    assert np.array_equal(before[far], after[far])


def three_volumes(scale: float = 1.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Norms from few counts to many, and none in a part of the third."""
    rng = np.random.default_rng(8)
    norms = [np.full(SHAPE, 300.0), rng.uniform(1, 900, SHAPE), rng.uniform(0, 60, SHAPE)]
    norms[2][:10] = 0
    s = field("cosine")
    counts = [rng.poisson(m * s * f) for m, f in zip(norms, (1, scale, 1), strict=True)]
    return [(c.astype(np.float64), m) for c, m in zip(counts, norms, strict=True)]


def test_consistent_volumes_agree() -> None:
    chi2, dof = estimator.disagreement(three_volumes())
    # Standard deviation of the reduced χ²: √(2 / dof).
    assert dof > 70000
    assert chi2 == pytest.approx(1, abs=5 * np.sqrt(2 / dof))


def test_volumes_of_very_different_norm_agree() -> None:
    # Most voxels of the second hold fewer than 25 counts and must not count half.
    rng = np.random.default_rng(9)
    norms = [np.full(SHAPE, 100.0), rng.uniform(0, 40, SHAPE)]
    chi2, dof = estimator.disagreement([(rng.poisson(m).astype(float), m) for m in norms])
    assert dof == pytest.approx(np.count_nonzero(norms[1] > 25), rel=0.05)
    assert chi2 == pytest.approx(1, abs=5 * np.sqrt(2 / dof))


def test_a_volume_scaled_by_a_tenth_disagrees() -> None:
    chi2, _ = estimator.disagreement(three_volumes(1.1))
    assert chi2 > 1.5


def test_nothing_in_common_is_nan() -> None:
    norm = np.zeros(SHAPE)
    norm[:20] = 100
    counts = norm.copy()
    chi2, dof = estimator.disagreement([(counts, norm), (counts[::-1], norm[::-1])])
    assert dof == 0
    assert np.isnan(chi2)


# --------------------------------------------------------------------- the kernels


def naive_expected(counts: np.ndarray, norm: np.ndarray, reach: int) -> np.ndarray:
    """The formulas of the module's docstring, each voxel on its own."""
    expected = np.zeros(counts.shape)
    for voxel in zip(*np.nonzero(norm > 0), strict=True):
        here = max(counts[voxel], 1.0)
        for width in range(1, reach + 1):
            box = tuple(slice(max(i - width, 0), i + width + 1) for i in voxel)
            c, m = counts[box], norm[box]
            rate = max(c.sum(), 0.5) / m.sum()
            poisson = rate * (m.sum() - (m**2).sum() / m.sum())
            noise = np.sqrt(rate * (2 * rate * (m**2).sum() + m.sum()))
            excess = max(((c - rate * m) ** 2).sum() - poisson - 3 * noise, 0.0)
            variance = excess / (m**2).sum()
            own = variance / (variance + rate / norm[voxel])
            here = own * here + (1 - own) * rate * norm[voxel]
        expected[voxel] = here
    return expected


def patchy(shape: tuple[int, int, int], spots: float) -> tuple[np.ndarray, np.ndarray]:
    """Counts and norm with gaps of all sizes, and a share of voxels that are spots."""
    rng = np.random.default_rng([*shape, int(1000 * spots)])
    norm = rng.uniform(1, 9, shape) * (rng.random(shape) < 0.6)
    norm[:, :, shape[2] // 3 : 2 * shape[2] // 3] = 0
    norm[1:3, shape[1] // 2 :] = 0
    s = np.where(rng.random(shape) < spots, 200.0, 1.0)
    return rng.poisson(norm * s).astype(np.float64), norm


# Fewer voxels than a tile (16 x 64), and more along k or h; few voxels that leave the pool for a
# smaller one, and most.
@pytest.mark.parametrize("spots", [0.0, 0.004, 0.3])
@pytest.mark.parametrize("shape", [(6, 5, 7), (3, 35, 9), (4, 3, 150), (1, 1, 2)])
@pytest.mark.parametrize("reach", [0, 1, 2, 3, 5])
def test_formulas_voxel_by_voxel(shape: tuple[int, int, int], reach: int, spots: float) -> None:
    counts, norm = patchy(shape, spots)
    expected = naive_expected(counts, norm, reach)
    found = estimator.expected_counts(counts, norm, reach)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    data, errors = estimator.intensity(counts, norm, reach)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(data, counts / norm)
        np.testing.assert_allclose(errors, np.sqrt(expected) / norm, rtol=1e-11)


def test_both_ways_to_a_smaller_neighbourhood_are_taken() -> None:
    """So that the cases above test both: sums of whole tiles, and those of single voxels."""
    shares = []
    for spots in (0.004, 0.3):
        counts, norm = patchy((4, 3, 150), spots)
        # The smaller neighbourhood has a weight where the result is not the pool's.
        pooled, exposure = (
            ndimage.correlate(array, np.ones((5, 5, 5)), mode="constant")
            for array in (counts, norm)
        )
        flat = pooled / np.maximum(exposure, 1e-9) * norm
        away = np.abs(naive_expected(counts, norm, 2) - flat) > 1e-9 * flat
        shares.append(away[:, :, :64].mean(axis=(1, 2)))
    limit = 1 / estimator_kernels._FEW
    assert 0 < shares[0].max() < limit
    assert shares[1].min() > limit


@pytest.mark.slow
@pytest.mark.parametrize("reach", [0, 2, 5])
@pytest.mark.parametrize("kinds", [(np.float64, np.float64), (np.uint32, np.float32)])
def test_parts_of_a_volume_are_as_the_whole(reach: int, kinds: tuple[type, type]) -> None:
    counts, norm = patchy((30, 40, 70), 0.004)
    counts, norm = counts.astype(kinds[0]), norm.astype(kinds[1])
    whole = estimator.intensity(counts, norm, reach)
    data, errors = np.full((2, *counts.shape), -1.0, np.float32)
    for first in range(0, 30, 8):
        last = min(first + 8, 30)
        low, high = max(first - reach, 0), min(last + reach, 30)
        own = slice(first - low, last - low)
        for rows in (slice(0, 24), slice(24, 40)):
            here = (data[first:last], errors[first:last])
            estimator.derive(counts[low:high], norm[low:high], own, rows, reach, *here)
    np.testing.assert_array_equal(data, whole[0].astype(np.float32))
    np.testing.assert_array_equal(errors, whole[1].astype(np.float32))


def test_too_large_a_neighbourhood_is_refused() -> None:
    with pytest.raises(ValueError, match="reach 9"):
        estimator.intensity(np.ones((3, 3, 3)), np.ones((3, 3, 3)), 9)


@pytest.mark.parametrize("kinds", [(np.float64, np.float64), (np.uint32, np.float32)])
def test_sums_and_agreement_voxel_by_voxel(kinds: tuple[type, type]) -> None:
    volumes = [(c[5:14, :5, :9], m[5:14, :5, :9]) for c, m in three_volumes(1.1)]
    counts = np.stack([c for c, _ in volumes]).astype(kinds[0])
    norm = np.stack([m for _, m in volumes]).astype(kinds[1])
    chi2, dof = 0.0, 0
    for voxel in np.ndindex(counts.shape[1:]):
        c, m = (a[:, *voxel].astype(np.float64) for a in (counts, norm))
        enough = m * c.sum() / m.sum() >= 25
        if enough.sum() > 1:
            mu = m[enough] * c[enough].sum() / m[enough].sum()
            chi2, dof = chi2 + ((c[enough] - mu) ** 2 / mu).sum(), dof + enough.sum() - 1
    totals = np.full((2, 12, 8, 9), -1.0)
    sums = estimator.add(counts, norm, *totals, (2, 3))
    assert dof > 500
    assert sums.dof == dof
    assert sums.chi2 == pytest.approx(chi2, rel=1e-12)
    own = np.s_[2:11, 3:8]
    np.testing.assert_array_equal(totals[0][own], counts.astype(float).sum(axis=0))
    np.testing.assert_array_equal(totals[1][own], norm.astype(float).sum(axis=0))
    assert (totals < 0).sum() == 2 * (12 * 8 - 9 * 5) * 9  # the rest is as it was
    assert sums.counts == counts.sum()
    assert sums.measured == np.count_nonzero(norm.any(axis=0))
