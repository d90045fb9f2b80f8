"""Inflation of errors and outliers, recovered from equivalents of known spread."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hklflow.bragg import error_model
from hklflow.bragg.groups import Groups
from hklflow.bragg.outliers import find_outliers


def equivalents(
    rng: np.random.Generator, n_groups: int, n: int, a: float, b: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Groups]:
    """Intensities, told variances, true means, groups of n."""
    true = np.repeat(10 ** rng.uniform(0, 4, n_groups), n)
    counting = true + 20
    value = true + rng.standard_normal(len(true)) * a * np.sqrt(counting + (b * true) ** 2)
    number = np.repeat(np.arange(n_groups), n)
    return value, counting, true, Groups.of(np.stack([number, 0 * number, 0 * number], axis=1))


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (1.4, 0.04), (0.5, 0.0), (0.5, 0.02)])
def test_a_and_b_are_recovered(n: int, a: float, b: float) -> None:
    pulls = []
    for seed in range(8):
        value, counting, _, groups = equivalents(np.random.default_rng(seed), 4000 // n, n, a, b)
        mean = groups.mean(value, 1 / counting)[0][groups.index]
        everything = np.ones(len(value), dtype=bool)
        found = error_model.fit(value, counting, mean, groups, everything)
        assert not found.why_not
        assert found.deviations == len(value) - len(groups)
        assert found.a == pytest.approx(a, rel=0.1)
        pulls.append([(found.a - a) / found.a_sigma, (found.b - b) / found.b_sigma])
    pulls = np.array(pulls)
    # b cannot be below 0.
    assert np.abs(pulls).max() < 4
    assert np.all(np.abs(pulls.mean(axis=0)) < 1.2)
    if b:
        assert np.all(pulls.std(axis=0) < 1.8)


def test_scales_take_their_share() -> None:
    value, counting, true, groups = equivalents(np.random.default_rng(1), 500, 2, 1.0, 0.0)
    everything = np.ones(len(value), dtype=bool)
    plain = error_model.fit(value, counting, true, groups, everything)
    shared = error_model.fit(value, counting, true, groups, everything, parameters=125)
    assert shared.a / plain.a == pytest.approx(np.sqrt(500 / 375))


def test_too_few_are_told() -> None:
    value, counting, true, groups = equivalents(np.random.default_rng(1), 29, 2, 3.0, 0.0)
    everything = np.ones(len(value), dtype=bool)
    found = error_model.fit(value, counting, true, groups, everything)
    assert found.a == 1
    assert "of 29 deviations" in found.why_not


def test_start_is_not_misled_by_outliers() -> None:
    rng = np.random.default_rng(2)
    value, counting, true, groups = equivalents(rng, 1500, 4, 1.5, 0.05)
    wrong = rng.random(len(value)) < 0.1
    value = value + wrong * 20 * np.sqrt(counting + (0.05 * true) ** 2)
    everything = np.ones(len(value), dtype=bool)
    start, middle = error_model.robust_start(value, counting, groups, everything)
    assert start.a == pytest.approx(1.5, rel=0.35)
    assert start.b == pytest.approx(0.05, rel=0.5)
    assert np.median(np.abs(middle / true - 1)) < 0.1


def test_normalised_spread_is_one_in_every_bin() -> None:
    value, counting, true, groups = equivalents(np.random.default_rng(3), 3000, 2, 1.3, 0.03)
    everything = np.ones(len(value), dtype=bool)
    variance = 1.3**2 * (counting + (0.03 * true) ** 2)
    found = error_model.spread(value, counting, variance, groups, everything)
    assert found.n.sum() == len(value)
    assert np.all(np.abs(found.after - 1) < 5 / np.sqrt(2 * found.n / 2))
    assert found.before[-1] > 2 * found.after[-1]


def groups_of(sizes: list[int]) -> Groups:
    number = np.repeat(np.arange(len(sizes)), sizes)
    return Groups.of(np.stack([number, 0 * number, 0 * number], axis=1))


def test_outliers_are_found_one_by_one() -> None:
    groups = groups_of([6, 3, 2, 2, 1])
    value = np.array([10, 11, 90, 9, -70, 11, 10, 10, 60, 10, 12, 10, 40, 1e6])
    variance = np.ones(14)
    use = np.ones(14, dtype=bool)
    outlier, agree = find_outliers(value, variance, groups, use, 6.0)
    np.testing.assert_array_equal(np.flatnonzero(outlier), [2, 4, 8])
    np.testing.assert_array_equal(agree, [True, True, True, False, True])


def test_three_that_do_not_agree_are_all_kept() -> None:
    outlier, agree = find_outliers(
        np.array([0.0, 100.0, 300.0]), np.ones(3), groups_of([3]), np.ones(3, dtype=bool), 6.0
    )
    assert not outlier.any()
    assert not agree.any()


def test_halves_that_disagree_are_both_kept() -> None:
    """Neither is an outlier: they are not equivalent."""
    value = np.array([10.0, 10.5, 100.0, 100.5, 7.0, 7.5, 8.0, 100.0])
    use = np.ones(8, dtype=bool)
    outlier, agree = find_outliers(value, np.ones(8), groups_of([4, 4]), use, 6.0)
    np.testing.assert_array_equal(np.flatnonzero(outlier), [7])
    np.testing.assert_array_equal(agree, [False, True])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_no_outliers_in_normal_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = groups_of(rng.integers(1, 6, 200).tolist())
    variance = 10 ** rng.uniform(-2, 2, len(groups.index))
    value = 5 + np.sqrt(variance) * rng.standard_normal(len(variance))
    outlier, agree = find_outliers(value, variance, groups, variance > 0, 7.0)
    assert not outlier.any()
    assert agree.all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_sums_over_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hkl = rng.integers(-3, 4, (150, 3))
    values, weights = rng.standard_normal(150), rng.uniform(0.1, 2, 150)
    groups = Groups.of(hkl)
    use = rng.random(150) < 0.7
    mean, total = groups.mean(values, weights)
    median = groups.median(values, use)
    assert {tuple(index) for index in groups.hkl} == {tuple(index) for index in hkl}
    for number, index in enumerate(groups.hkl):
        mine = np.all(hkl == index, axis=1)
        assert groups.n[number] == mine.sum()
        assert total[number] == pytest.approx(weights[mine].sum())
        assert mean[number] == pytest.approx(np.average(values[mine], weights=weights[mine]))
        assert groups.largest(values)[number] == values[mine].max()
        if (mine & use).any():
            assert median[number] == pytest.approx(np.median(values[mine & use]))
        else:
            assert np.isnan(median[number])
