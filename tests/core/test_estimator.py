"""`core.estimator` on Poisson volumes of known S: pulls, empty voxels, agreement of volumes."""

import numpy as np
import pytest

from hklflow.core import estimator

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
