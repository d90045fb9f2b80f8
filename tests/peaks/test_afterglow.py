"""Afterglow of a detector, measured on courses of pixels that are made here."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.special import ndtr

from hklflow.peaks import afterglow
from hklflow.peaks.afterglow import FRAMES, Followed
from hklflow.peaks.table import PeakTable


def spots(
    share: float, width: float, *, skew: float = 0.0, second: float = 0.0, n: int = 200
) -> tuple[list[Followed], np.ndarray]:
    """Return spots of 3 pixels and the sense of their crossings.

    ``skew`` is a share of each curve that follows a width later, of crossings into the sphere, or
    comes before it, out of it; ``second`` a share of a second crystal's, which is up to three
    frames off either way.
    """
    rng = np.random.default_rng(7)
    found, sense = [], rng.choice([-1.0, 1.0], n)
    for i in range(n):
        centre, edges = FRAMES + rng.uniform(0, 1), np.arange(-2, 2 * FRAMES + 2)
        parts = [(1.0, 0.0), (skew, sense[i] * width), (second, rng.uniform(-3, 3))]
        course = sum(a * np.diff(ndtr((edges - centre - x) / width)) for a, x in parts)
        counts = np.array([3000.0, 8000.0, 2000.0])[:, None] * course + 1.0
        counts = rng.poisson(counts).astype(float)
        counts[:, 1:] += rng.poisson(share * counts[:, :-1])
        kept = counts[:, 2:].astype(np.float32)
        place = np.array([centre, 50.0, 50.0])
        found.append(Followed(place, np.array([width, 1.0, 1.0]), 100.0, 0, kept))
    return found, sense


@pytest.mark.parametrize("width", [0.25, 0.4, 0.7])
def test_the_share_that_is_kept_is_found_with_its_error(width: float) -> None:
    found = afterglow.measured(*spots(0.02, width))
    assert found is not None
    assert found.seen
    assert found.share == pytest.approx(0.02, abs=4 * found.sigma + 0.001)
    assert found.sigma < 0.003


@pytest.mark.parametrize("width", [0.25, 0.4, 0.7, 1.5])
def test_a_detector_that_keeps_nothing_is_not_blamed(width: float) -> None:
    found = afterglow.measured(*spots(0.0, width))
    assert found is not None
    assert not found.seen
    assert abs(found.share) < 4 * found.sigma + 0.001


def test_spots_early_in_a_frame_weigh_what_those_late_in_it_do() -> None:
    """Weights that knew the direction of time saw an afterglow of 3.6 σ where there is none."""
    made = [spots(0.0, width, n=150) for width in (0.15, 0.2, 0.25, 0.3, 0.4)]
    every = [spot for ours, _ in made for spot in ours]
    found = afterglow.measured(every, np.concatenate([sense for _, sense in made]))
    assert found is not None
    assert abs(found.share) < 3 * found.sigma


def test_skew_curves_and_a_second_crystal_are_no_afterglow() -> None:
    for options in ({"skew": 0.1}, {"second": 0.1}):
        found = afterglow.measured(*spots(0.0, 0.5, **options))
        assert found is not None
        assert not found.seen


def test_few_spots_tell_nothing() -> None:
    assert afterglow.measured(*spots(0.02, 0.4, n=20)) is None


def table(n: int, var_frame: float, found: afterglow.Afterglow | None) -> PeakTable:
    """Return peaks far from each other."""
    ones = {name: np.ones(n) for name in PeakTable.__dataclass_fields__}
    del ones["counts"], ones["afterglow"]
    columns = ones | {"frame": 20.0 * np.arange(n), "var_frame": np.full(n, var_frame)}
    return PeakTable(**columns, counts={}, afterglow=None if found is None else asdict(found))


def test_an_afterglow_is_told_where_it_matters_to_the_centroids() -> None:
    found = afterglow.Afterglow(0.0123, 0.0004, 0.001, 300)
    text = afterglow.sentence(table(400, 1e-4, found))
    assert text is not None
    assert "keeps 1.23 ± 0.04 % of a pixel's counts" in text
    assert "late by up to 0.012 frames" in text
    assert afterglow.sentence(table(400, 1.0, found)) is None
    assert afterglow.sentence(table(400, 1e-4, None)) is None
    for unsure in ({"sigma": 0.004}, {"scatter": 0.02}, {"share": -0.0123}, {"share": 9e-4}):
        assert afterglow.sentence(table(400, 1e-4, replace(found, **unsure))) is None


def test_spots_with_neighbours_are_left_out() -> None:
    ours, _ = spots(0.0, 0.4, n=1)
    peaks = table(1, 1e-4, None)
    at = replace(peaks, frame=ours[0].centre[:1], slow=np.full(1, 50.0), fast=np.full(1, 50.0))
    assert len(afterglow.alone(ours, at)) == 1
    beside = replace(
        table(2, 1e-4, None),
        frame=np.array([9.5, 16.0]),
        slow=np.full(2, 50.0),
        fast=np.array([50.0, 52.0]),
    )
    assert afterglow.alone(ours, beside) == []
