"""Order parameters of simulated counts; `benchmarks/order_truth.py` has the figures of many."""

from dataclasses import replace

import numpy as np
import pytest

from hklflow.bragg import order_counts, order_parameter
from hklflow.bragg.order_counts import Counts
from hklflow.bragg.order_curves import Shape, about, below, terms
from hklflow.quality.order_words import sentence
from tests.truth.order_series import Series, draw, lattice, two_level

NAMES = [f"s{i}" for i in range(16)]


def series(kind: str, seed: int, null: bool = False) -> Series:
    return draw(seed, kind, null, scans=16)


def counts(of: Series, scale_error: float = 0.01) -> Counts:
    return order_counts.from_boxes(
        of.read, of.sigma_t, of.counts, of.factor, of.off, of.ratio, scale_error
    )


@pytest.mark.slow
def test_intervals_cover_and_orders_are_right() -> None:
    """Strong series among the developing seeds of the benchmark."""
    told = []
    for kind, seed in (("power law", 8), ("power law", 36), ("first order", 16), ("step", 26)):
        of = series(kind, seed)
        told.append((of, order_parameter.fit(counts(of))))
    for of, order in told:
        assert order.answer == "transition"
        assert order.t_c is not None
        assert abs(order.t_c.value - of.t_c) < 3 * order.t_c.sigma
        assert order.kind != ("first order" if of.exponent else "continuous")
    assert sum(x.t_c.outer[0] <= of.t_c <= x.t_c.outer[1] for of, x in told) >= 3
    jumps = [x.kind for of, x in told if of.exponent is None]
    assert "first order" in jumps
    assert all(x.exponent is None for _, x in told if x.kind == "first order")


@pytest.mark.parametrize("kind", ["absent", "static", "drift", "slip", "bad scan", "all"])
def test_without_a_transition_none_is_claimed(kind: str) -> None:
    order = order_parameter.fit(counts(series(kind, 4, null=True)))
    assert order.answer != "transition"
    assert order.t_c is order.exponent is None
    assert "T_c" not in sentence("(1/2, 0, 0)", order, NAMES)


@pytest.mark.parametrize(("kind", "seed"), [("power law", 11), ("first order", 3)])
def test_the_unit_of_the_intensity_does_not_matter(kind: str, seed: int) -> None:
    """Before, limits of amplitudes and weights were absolute numbers, and T_c changed by them."""
    data = counts(series(kind, seed))
    plain = order_parameter.fit(data)
    assert plain.t_c is not None
    for unit in (2.0**-40, 2.0**40):
        scaled = order_parameter.fit(replace(data, factor=data.factor / unit))
        assert scaled.t_c is not None
        assert scaled.t_c.value == pytest.approx(plain.t_c.value, rel=1e-6)
        assert scaled.t_c.sigma == pytest.approx(plain.t_c.sigma, rel=1e-4)
        assert scaled.ratio == pytest.approx(plain.ratio, rel=1e-6)


def test_a_limit_is_given_where_nothing_appears() -> None:
    of = series("absent", 6, null=True)
    order = order_parameter.fit(counts(of))
    assert 0 < order.limit < 3 * np.sqrt(of.mean.mean())
    assert f"less than {order.limit:.2g}" in sentence("q", order, NAMES)


def test_no_counts_at_all_are_no_transition() -> None:
    t, none = np.linspace(10, 300, 8), np.zeros(8)
    for temperatures in (t, np.full(8, 100.0)):
        order = order_parameter.fit(
            order_counts.from_boxes(temperatures, 0.0, none, 1.0, none, 5.0, 0.01)
        )
        assert order.answer != "transition"
        assert np.isfinite(order.limit)


def test_a_transition_above_all_temperatures_has_no_temperature() -> None:
    t = np.linspace(10, 200, 15)
    n = np.rint(400 * np.sqrt(1 - t / 260))
    order = order_parameter.fit(order_counts.from_boxes(t, 0.0, n, 1.0, 25.0, 5.0, 0.01))
    assert order.t_c is None
    assert order.kind == "not determined"


def test_one_constant_curve_has_the_mean_of_poisson() -> None:
    n, k = np.array([3.0, 0, 5, 1, 2, 4]), np.array([1.0, 2, 1, 1, 1, 2])
    none = np.zeros(6)
    data = Counts(np.arange(6.0), none, n, k, none + 1e-9, none, none)
    amplitude, _, good = order_counts.best(data, np.ones((1, 6, 1)), np.zeros((1, 6)))
    assert abs(amplitude[0, 0] - n.sum() / k.sum()) < 0.1
    assert good.min() > 0.5


def test_the_distribution_of_counts_has_its_mean_and_variance() -> None:
    n = np.arange(2000.0)
    for mean, extra in ((0.7, 0.0), (12.0, 30.0), (400.0, 100.0)):
        p = np.exp(order_counts._negative_binomial(n, np.array(mean), np.array(extra)))
        assert abs(p.sum() - 1) < 1e-6
        assert abs(p @ n - mean) < 1e-4 * mean
        assert abs(p @ (n - mean) ** 2 - mean - extra) < 1e-3 * (mean + extra)


def test_curves_are_those_of_their_equations() -> None:
    t, t_c, n = np.array([1e-3, 50.0, 99.0, 101.0]), np.array([[100.0]]), np.array([[0.7]])
    power = np.clip(1 - t / 100, 0, None) ** 0.7
    np.testing.assert_allclose(below(t, t_c, n, Shape())[0], power, rtol=1e-3)
    np.testing.assert_allclose(
        below(t, t_c, n, Shape(jump=0.4))[0], np.where(t < 100, 0.4 + 0.6 * power, 0), rtol=1e-3
    )
    # Salje's curve is flat at low temperature, and linear just below T_c.
    flat = below(np.array([1.0, 10.0]), t_c, np.array([[1.0]]), Shape(saturation=1.0))[0]
    assert abs(flat[1] / flat[0] - 1) < 1e-6
    near = below(np.array([99.0, 99.5]), t_c, np.array([[1.0]]), Shape(saturation=1.0))[0]
    assert abs(near[0] / near[1] - 2) < 0.02


def test_other_saturations_are_those_of_their_models() -> None:
    x = np.linspace(0.1, 1.1, 40)
    t, t_c, n = 100 * x, np.array([[100.0]]), np.array([[1.0]])
    states = below(t, t_c, n, Shape(two_states=True))[0]
    np.testing.assert_allclose(states, two_level(x) ** 2, atol=2e-3)
    # The Ising model on a lattice is not in the fit; the empirical curve follows it.
    ising = below(t, t_c, np.array([[0.66]]), Shape(power=4.5))[0]
    np.testing.assert_allclose(ising, lattice(x), atol=0.03)


def test_critical_scattering_is_the_integral_in_a_sphere() -> None:
    q, w = (np.arange(2000) + 0.5) / 2000, 0.1
    for x, ratio in ((0.95, 1.96), (1.0, 1.0), (1.02, 1.0), (1.3, 1.0)):
        kappa = ratio * (abs(1 - x) / w) ** 0.63
        integral = np.mean(q**2 / (q**2 + kappa**2 + 1e-12))
        value = about(np.array([100 * x]), np.array([[100.0]]), Shape(critical=w))[0, 0]
        assert abs(value - integral) < 1e-3


@pytest.mark.parametrize("exponent", [0.5, 0.66, 1.0, 2.0])
@pytest.mark.parametrize("strongest", [300, 3000, 30_000])
@pytest.mark.slow
def test_a_narrow_maximum_is_found(exponent: float, strongest: int) -> None:
    """Expected counts, without noise: with many counts the likelihood is narrow."""
    t = np.linspace(20, 300, 25)
    expected = 5 + strongest * np.clip(1 - t / 170, 0, None) ** exponent
    order = order_parameter.fit(order_counts.from_boxes(t, 0.0, expected, 1.0, 30.0, 6.0, 0.01))
    assert order.kind != "first order"
    assert order.t_c is not None
    assert order.exponent is not None
    assert abs(order.t_c.value - 170) < 1.5 * order.t_c.sigma < 25
    assert abs(order.exponent.value - exponent) < 1.5 * order.exponent.sigma


def test_an_amplitude_that_is_small_before_the_data_has_its_most_likely_value() -> None:
    """The maximum of Poisson's likelihood with a normal prior: a + a²/σ² = n."""
    n, none = np.array([10_000.0, 400.0]), np.zeros(2)
    data = Counts(np.arange(2.0), none, n, none + 1, none + 1e-9, none, none)
    widths = np.array([np.inf, 0.006])
    (amplitudes,), _, _ = order_counts.best(data, np.eye(2)[None], np.zeros((1, 2)), widths)
    assert abs(amplitudes[0] - 10_000) < 1
    assert abs(amplitudes[1] - 60**2 / 2 * (np.sqrt(1 + 4 * 400 / 60**2) - 1)) < 1


def test_errors_of_temperatures_are_those_of_many_draws() -> None:
    t, sigma = np.array([90.0, 98.0, 105.0]), np.array([2.0, 2.0, 2.0])
    curves, variance = terms(t, sigma, np.array([100.0]), np.array([1.0]), Shape())
    drawn = t + np.random.default_rng(1).standard_normal((100_000, 3)) * sigma
    values = np.clip(1 - drawn / 100, 0, None)
    np.testing.assert_allclose(curves[0, :, 0], values.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(np.sqrt(variance[0]), values.std(axis=0), atol=1.5e-3)


def test_the_sentence_says_what_the_data_carry() -> None:
    of = series("step", 4)
    order = order_parameter.fit(counts(of))
    assert order.answer == "transition"
    words = sentence("(1/2, 0, 0)", order, NAMES)
    assert words.startswith("at T_c = ")
    assert ("n = " in words) == (order.exponent is not None)
    assert "look at" not in words


def test_a_wrong_background_is_not_blamed_on_a_scan() -> None:
    """Boxes above T_c that count less than their shells say, seen with curved backgrounds."""
    t = np.linspace(20, 300, 16)
    n = np.rint(300 * np.clip(1 - t / 170, 0, None) + 70)
    order = order_parameter.fit(order_counts.from_boxes(t, 0.0, n, 1.0, 400.0, 4.0, 0.01))
    words = sentence("q", order, NAMES)
    assert "look at" not in words
    assert "cannot be negative" in words
    assert "`order_parameters: box`" in words


def test_a_bad_scan_is_named_and_does_not_change_the_answer() -> None:
    t = np.linspace(20, 300, 16)
    n = np.rint(300 * np.clip(1 - t / 170, 0, None) + 1)
    n[4] = 20  # 177 expected
    order = order_parameter.fit(order_counts.from_boxes(t, 0.0, n, 1.0, 5.0, 5.0, 0.01))
    assert order.bad == (4,)
    assert order.t_c is not None
    assert abs(order.t_c.value - 170) < 6
    assert sentence("q", order, NAMES).endswith("; look at s4, which is not on the curve")
