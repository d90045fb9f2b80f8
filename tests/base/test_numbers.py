"""Numbers in sentences and on pages can be read: no long rows of zeros."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hklflow.base.numbers import in_brackets, plus_minus, rounded, with_power

RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻−", "0123456789--")


def read(text: str) -> tuple[float, float]:
    """Return value and error of ``(6.1 ± 0.3) × 10⁻¹⁰`` or ``6.1 ± 0.3``."""
    found = re.fullmatch(r"\(?([−\d.]+) ± ([\d.]+)(?:\) × 10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+))?", text)
    assert found is not None, text
    scale = 10.0 ** int((found[3] or "0").translate(RAISED))
    return float(found[1].translate(RAISED)) * scale, float(found[2]) * scale


@pytest.mark.parametrize(
    ("value", "sigma", "text"),
    [
        (6.1e-10, 3.1e-11, "(6.1 ± 0.3) × 10⁻¹⁰"),
        (-6.14e-10, 1.2e-11, "(−6.14 ± 0.12) × 10⁻¹⁰"),
        (2e-12, 3.1e-11, "(0 ± 3) × 10⁻¹¹"),
        (6.1e8, 3.1e7, "(6.1 ± 0.3) × 10⁸"),
        (0.5, 0.012, "0.500 ± 0.012"),
        (0.00021, 0.0001, "0.00021 ± 0.00010"),
        (12.3456789, 0.0000003, "12.3456789 ± 0.0000003"),
        (6.1e-10, 0.02, "0.00 ± 0.02"),
        (0.0, 0.0, "0.00 ± 0.00"),
    ],
)
def test_a_value_with_its_error(value: float, sigma: float, text: str) -> None:
    assert plus_minus(value, sigma) == text


@given(st.floats(-1, 1), st.floats(0.001, 10), st.integers(-40, 12))
def test_value_and_error_can_be_read_back(value: float, sigma: float, power: int) -> None:
    value, sigma = value * 10.0**power, sigma * 10.0**power
    text = plus_minus(value, sigma)
    again, error = read(text)
    assert error == pytest.approx(sigma, rel=0.26)
    assert math.isclose(again, value, abs_tol=0.51 * sigma)
    assert "000000" not in text.partition("±")[2]


def test_brackets_and_limits_have_powers_of_ten() -> None:
    assert in_brackets(6.1e-10, 3.1e-11) == "6.1(3) × 10⁻¹⁰"
    assert in_brackets(6.1e-10, None, 3) == "6.1 × 10⁻¹⁰"
    assert rounded(6.13e-10) == "6.1 × 10⁻¹⁰"
    assert rounded(-6.13e7) == "−6.1 × 10⁷"
    assert [rounded(x) for x in (0.082, 2.84, 350.0, 1234.0)] == ["0.082", "2.8", "350", "1200"]
    assert with_power("0.25") == "0.25"
