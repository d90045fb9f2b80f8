"""Order parameters along a field, of simulated counts; reflections appear on either side of B_c."""

from dataclasses import replace

import numpy as np
import pytest

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.bragg import order_along, order_counts, order_parameter
from hklflow.bragg.order_counts import Counts
from hklflow.quality.order_words import sentence
from tests.truth import order_series
from tests.truth.field_series import FieldSeries, draw

FIELD = Axis("field", "B", "T")
NAMES = [f"s{i}" for i in range(16)]


def counts(of: FieldSeries | order_series.Series, sigma: float | np.ndarray = 0.0) -> Counts:
    return order_counts.from_boxes(of.read, sigma, of.counts, of.factor, of.off, of.ratio, 0.01)


def test_the_field_of_a_transition_and_its_side_are_found() -> None:
    """Strong seeds of both sides; B_c is in its interval of 95 %, and words name the axis."""
    inside, sides = [], set()
    for kind, seed in (("power law", 0), ("power law", 7), ("quadratic", 4), ("step", 5)):
        of = draw(seed, kind, scans=16)
        order = order_along.fit(counts(of, of.sigma), FIELD)
        assert order.answer == "transition", (kind, seed)
        assert order.t_c is not None
        assert order.above == of.above
        assert abs(order.t_c.value - of.b_c) < 3 * order.t_c.sigma
        inside.append(order.t_c.outer[0] <= of.b_c <= order.t_c.outer[1])
        sides.add(order.above)
        words = sentence("(1/2, 0, 0)", order, NAMES, FIELD)
        verbs = ("appear", "grow") if of.above else ("vanish", "weaken")
        assert words.startswith("at B_c = ")
        assert any(f"{verb} with increasing field" in words for verb in verbs)
        assert "cooling" not in words
        assert "K" not in words
    assert sum(inside) >= 3
    assert sides == {True, False}


@pytest.mark.parametrize("kind", ["absent", "drift", "slip", "bad scan", "magnetostriction"])
def test_without_a_transition_none_is_claimed(kind: str) -> None:
    order = order_along.fit(counts(draw(4, kind, null=True, scans=16)), FIELD)
    assert order.answer != "transition"
    assert order.t_c is order.exponent is None
    words = sentence("q", order, NAMES, FIELD)
    assert "B_c" not in words
    assert "appears or vanishes with increasing field" in words


def test_a_mirrored_series_has_the_mirrored_answer() -> None:
    data = counts(draw(0, "power law", scans=16))
    rows = np.arange(len(data))[::-1]
    turned = replace(data.select(rows), temperature=-data.temperature[::-1])
    one, other = (order_along.fit(x, FIELD) for x in (data, turned))
    assert one.t_c is not None
    assert other.t_c is not None
    assert one.above != other.above
    assert other.t_c.value == pytest.approx(-one.t_c.value)
    assert other.t_c.outer == pytest.approx(tuple(-x for x in one.t_c.outer[::-1]))
    assert other.covariance == pytest.approx(-one.covariance)


def test_the_unit_has_no_effect() -> None:
    """Along 1000 times smaller numbers, such as strains, the answer is the same."""
    data = counts(draw(0, "power law", scans=16), 0.02)
    small = replace(
        data, temperature=1e-3 * data.temperature, temperature_sigma=1e-3 * data.temperature_sigma
    )
    one, other = (order_along.fit(x, FIELD) for x in (data, small))
    assert one.t_c is not None
    assert other.t_c is not None
    assert other.t_c.value == pytest.approx(1e-3 * one.t_c.value)
    assert other.t_c.sigma == pytest.approx(1e-3 * one.t_c.sigma)


def test_errors_of_the_values_widen_the_interval() -> None:
    of = draw(0, "power law", scans=16)
    sure, unsure = (order_along.fit(counts(of, x), FIELD) for x in (0.0, 0.3))
    assert sure.t_c is not None
    assert unsure.t_c is None or unsure.t_c.sigma > 1.3 * sure.t_c.sigma


def test_temperature_has_its_own_laws() -> None:
    data = counts(order_series.draw(8, "power law", scans=16))
    one, other = order_along.fit(data, TEMPERATURE), order_parameter.fit(data)
    assert one.t_c == other.t_c
    assert sentence("q", one, NAMES, TEMPERATURE) == sentence("q", other, NAMES)
