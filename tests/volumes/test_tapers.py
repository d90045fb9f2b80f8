"""Tapers against their definitions, and resolution functions against known integrals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.truth.defaults import made_taper

from hklflow.base.errors import HklflowError

KINDS = ("tukey", "hann", "lorch", "gaussian", "none")


@pytest.mark.parametrize(
    ("kind", "t", "w"),
    [
        ("tukey", 0.5, 1.0),
        ("tukey", 0.75, 0.5),
        ("tukey", 0.9, 0.5 * (1 + np.cos(0.8 * np.pi))),
        ("hann", 0.5, 0.5),
        ("lorch", 0.5, 2 / np.pi),
        ("gaussian", 0.5, 0.01**0.25),
        ("none", 0.999, 1.0),
    ],
)
def test_weights_are_as_defined(kind: str, t: float, w: float) -> None:
    assert float(made_taper(kind, 8.0)(8.0 * t)) == pytest.approx(w, abs=1e-12)


@given(st.sampled_from(KINDS), st.floats(0.0, 1.0), st.floats(0.5, 30.0))
def test_weights_fall_from_one_to_nothing(kind: str, flat: float, q_max: float) -> None:
    w = made_taper(kind, q_max, flat=flat)(np.linspace(0, 1.2 * q_max, 400))
    assert w[0] == 1
    assert np.all(np.diff(w) <= 1e-12)
    assert np.all(w >= -1e-15)
    assert not w[np.linspace(0, 1.2, 400) > 1.001].any()


def test_a_flat_fraction_of_all_is_no_taper() -> None:
    q = np.linspace(0, 5, 101)
    np.testing.assert_array_equal(made_taper("tukey", 4.0, flat=1.0)(q), made_taper("none", 4.0)(q))


def test_resolution_function_of_a_sphere() -> None:
    r, q = np.linspace(0.05, 40, 300), 7.3
    expected = (np.sin(q * r) - q * r * np.cos(q * r)) / (2 * np.pi**2 * r**3)
    found = made_taper("none", q).resolution_function(r)
    np.testing.assert_allclose(found, expected, atol=1e-10 * q**3)
    assert float(made_taper("none", q).resolution_function(0.0)) == pytest.approx(
        q**3 / (6 * np.pi**2)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_resolution_function_is_the_sum_over_a_fine_grid(kind: str) -> None:
    taper = made_taper(kind, 3.0, flat=0.4)
    q = np.arange(-3.1, 3.1001, 0.05)
    w = taper(np.sqrt(q[:, None, None] ** 2 + q[:, None] ** 2 + q**2))
    r = np.array([0.0, 0.7, 1.5, 3.0])
    along = w.sum(axis=(0, 1))
    brute = (np.cos(np.outer(r, q)) @ along) * 0.05**3 / (2 * np.pi) ** 3
    np.testing.assert_allclose(taper.resolution_function(r), brute, atol=2e-3 * brute[0])


def test_resolution_is_the_width_of_the_resolution_function() -> None:
    # (sin x - x cos x) / x³ is half of its 1/3 at x = 2.4983.
    assert made_taper("none", 10.0).resolution == pytest.approx(2 * 2.4983 / 10, rel=1e-4)
    assert made_taper("hann", 10.0).resolution > made_taper("tukey", 10.0).resolution


@pytest.mark.parametrize("q_max", [0.0, -1.0, np.nan])
def test_a_bad_reach_is_refused(q_max: float) -> None:
    with pytest.raises(HklflowError, match="q_max is"):
        made_taper("tukey", q_max)
