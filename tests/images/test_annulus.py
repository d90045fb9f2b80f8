"""The background's annulus fits the |Q| that a detector reaches."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.images.annulus import annulus


def q_of(low: float, high: float) -> np.ndarray:
    """|Q| of pixels in a row, from a smallest to a largest value."""
    return np.linspace(low, high, 1001)[None]


ALL = np.ones((1, 1001), bool)


@pytest.mark.parametrize(
    ("reach", "ends"),
    [
        ((0.0, 10.0), (3.0, 9.5)),  # around the beam: without its surroundings, without corners
        ((2.0, 10.0), (3.0, 9.5)),
        ((6.0, 10.0), (6.0, 9.5)),  # beside the beam: all that is measured, without corners
        ((9.56, 10.0), (9.56, 10.0)),  # far out, where 0.3 to 0.95 holds no pixel
        ((3.7433, 3.9487), (3.7433, 3.9487)),  # scan 839 of PMN-PT
    ],
)
def test_the_annulus_is_chosen_from_what_is_measured(
    reach: tuple[float, float], ends: tuple[float, float]
) -> None:
    found = annulus(q_of(*reach), ALL, None)
    assert found.ends == pytest.approx(ends)
    assert found.inside.sum() > 450
    assert "chosen" in found.sentence
    assert f"{ends[0]:.4g} to {ends[1]:.4g} 1/Å" in found.sentence


def test_masked_pixels_reach_nothing() -> None:
    good = ALL & (q_of(0, 10) > 9.2)  # what stands before the detector leaves its rim
    found = annulus(q_of(0, 10), good, None)
    assert found.ends == pytest.approx((9.2, 10.0), abs=0.011)
    assert (found.inside & good).sum() == good.sum()


def test_a_given_annulus_is_used() -> None:
    found = annulus(q_of(9.56, 10), ALL, (0.97, 0.99))
    assert found.ends == pytest.approx((9.7, 9.9))
    assert "as given" in found.sentence


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ((4.2, 4.7), "has no good pixel"),  # in 1/Å
        ((0.3, 0.95), "has no good pixel"),
        ((1.0, 0.96), "is given from the larger to the smaller end"),
    ],
)
def test_an_annulus_without_pixels_is_refused(given: tuple[float, float], what: str) -> None:
    with pytest.raises(HklflowError, match=f"{what}: .*from 0.956 to 1; change `find_peaks: ann"):
        annulus(q_of(9.56, 10), ALL, given)


def test_no_good_pixel_is_no_matter_of_the_annulus() -> None:
    with pytest.raises(HklflowError, match="every pixel is masked"):
        annulus(q_of(0, 10), ~ALL, None)
