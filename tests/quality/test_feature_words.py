"""Sentences on diffuse features: nothing that the fits do not carry."""

from dataclasses import replace

import numpy as np
import pytest

from hklflow.base.axis import Axis
from hklflow.quality.feature_words import Course, length, sentences
from hklflow.quality.order_words import value_and_error
from hklflow.series.feature_fit import Fit, Interval


def interval(value: float, sigma: float, low: float | None = None) -> Interval:
    inner = (value - sigma, value + sigma)
    outer = (value - 2 * sigma, value + 2 * sigma)
    limit = (low or value - 1.645 * sigma, value + 1.645 * sigma)
    return Interval(value, sigma, inner, outer, limit)


def fit(xi: Interval, **changed) -> Fit:
    zero = np.zeros(3)
    made = Fit(
        True, 900.0, "lattice", 5.0, 1.0, 0.05, np.ones(2), (xi,), np.eye(1), ("value",),
        zero, zero, 100.0, 100.0, 1.0, np.ones(5),
    )  # fmt: skip
    return replace(made, **changed)


def course(*fits: Fit | None, intensity: tuple[float, ...] = (1.0, 1.0)) -> Course:
    return Course("rods", ("c*",), (100.0, 300.0), fits, intensity, (0.05, 0.05))


def test_a_change_is_said_only_if_it_is_significant() -> None:
    (text,) = sentences(course(fit(interval(85, 6)), fit(interval(12, 1))))
    assert text == (
        "rods sharpen on cooling: ξ along c* from 12.0 ± 1.0 Å to 85 ± 6 Å between 300 and 100 K"
    )
    (text,) = sentences(course(fit(interval(15, 2)), fit(interval(12, 1))))
    assert "does not change beyond errors between 300 and 100 K" in text
    (text,) = sentences(course(fit(interval(12, 1)), fit(interval(85, 6))))
    assert text.startswith("rods broaden on cooling")


def test_a_limit_is_no_value() -> None:
    sharp = fit(interval(500, 100, low=350), determined=("longer",))
    (text,) = sentences(course(sharp, fit(interval(12, 1))))
    assert "from 12.0 ± 1.0 Å to more than 350 Å" in text
    assert length(interval(2, 0.5), "shorter") == "less than 2.8 Å"


def test_intensity_and_position_are_said_if_they_change() -> None:
    moved = fit(interval(12, 1), shift=np.array([0.03, 0, 0]), shift_sigma=np.array([0.002, 0, 0]))
    texts = sentences(course(moved, fit(interval(12, 1)), intensity=(2.0, 1.0)))
    assert "the integrated intensity grows on cooling, from 1.00 ± 0.05 to 2.00 ± 0.05" in texts[1]
    assert "rods move by 0.030 ± 0.002 r.l.u. along h on cooling" in texts[2]


def test_a_bad_line_shape_is_said() -> None:
    bad = fit(interval(12, 1), chi2=400.0)
    assert any("the line shape does not fit" in x for x in sentences(course(bad, bad)))


@pytest.mark.parametrize("seen", [True, False])
def test_what_is_not_seen_or_measured_is_said(seen: bool) -> None:
    if seen:
        assert sentences(course(None, None))[0].startswith("rods: not measured")
    else:
        gone = replace(fit(interval(12, 1)), seen=False, xi=(), determined=())
        assert sentences(course(gone, gone, intensity=(0.0, 0.0))) == [
            "rods are not seen between 300 and 100 K: the mean intensity at 100 K is below 0.082 "
            "(95 %)"
        ]
        texts = sentences(course(fit(interval(12, 1)), gone))
        assert texts[-1] == "rods are not seen at 300 K"


def test_along_a_field_the_order_of_the_scans_is_ascending() -> None:
    """The first scan has 20 Å, the last 60 Å; the intensity grows from 1 to 2."""
    axis = Axis("field", "B", "T")
    fits = (fit(interval(20.0, 1.0)), fit(interval(60.0, 2.0)))
    found = sentences(course(*fits, intensity=(1.0, 2.0)), axis)
    assert found[0].startswith("rods sharpen with increasing field: ξ along c* from 20")
    assert found[0].endswith("between 100 and 300 T")
    assert "grows with increasing field, from 1.00 ± 0.05 to 2.00 ± 0.05" in found[1]
    assert not any("cooling" in text or " K" in text for text in found)


@pytest.mark.parametrize(
    ("value", "sigma", "text"),
    [
        (0.194, 0.0101, "0.194 ± 0.010"),
        (-1860.0, 19.4, "-1860 ± 19"),
        (1.94e-13, 1.01e-14, "(1.94 ± 0.10)e-13"),
        (-2.5e-9, 8e-9, "(-2 ± 8)e-09"),
        (1.86e12, 4.2e10, "(1.86 ± 0.04)e+12"),
        (0.0, 0.0, "0.00 ± 0.00"),
    ],
)
def test_values_of_any_unit_have_few_zeros(value: float, sigma: float, text: str) -> None:
    assert value_and_error(value, sigma) == text
