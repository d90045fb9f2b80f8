"""Powder rings on all frames or on a part of them, in cells that are written down here."""

import numpy as np
import pytest
from tests.truth.worlds_physics import aluminium_rings, ice_rings

from hklflow.images import ice
from hklflow.images.ring_search import GROUPS, SECTORS, Cells, Ice, Search, bins, search
from hklflow.stage import background_checks

PIXEL, CENTRE = 0.02, 1.5


def cells(course: np.ndarray, *, turn: float = 360.0, spread: float = 0.0, seed: int = 1) -> Cells:
    """Return cells with a ring of 8 above a level of 20 to 30, times a course over the frames.

    ``spread``: standard deviation of the ring from cell to cell, as of the crystal's own shells.
    """
    rng = np.random.default_rng(seed)
    edges = bins(np.array([0.9, 2.7]), PIXEL)
    q = (edges[:-1] + edges[1:]) / 2
    azimuth = (np.arange(SECTORS)[:, None] + 0.5) / SECTORS * 2 * np.pi
    height = course[:, None, None] * (1 + 0.3 * np.cos(2 * azimuth))
    height = height + spread * rng.normal(size=(GROUPS, SECTORS, 1))
    level = 20 + 5 * q + 8 * height * np.exp(-(((q - CENTRE) / (1.5 * PIXEL)) ** 2) / 2)
    unit = np.full((GROUPS, SECTORS, len(q)), 10.0)
    counts = rng.poisson(np.maximum(level, 0) * unit).astype(float)
    return Cells(edges, counts, unit, turn)


@pytest.mark.parametrize("seed", range(3))
def test_a_constant_ring_does_not_change(seed: int) -> None:
    found = search(cells(np.ones(GROUPS), seed=seed))
    assert [ring.q for ring in found.rings] == [pytest.approx(CENTRE, abs=PIXEL)]
    assert found.rings[0].share == pytest.approx(8 / 27.5, rel=0.15)
    assert found.changing == []


@pytest.mark.parametrize(
    "course",
    [
        np.arange(GROUPS) >= 5,
        np.arange(GROUPS) >= 7,
        (np.arange(GROUPS) >= 2) & (np.arange(GROUPS) < 7),
        np.linspace(0, 2, GROUPS),
    ],
    ids=["second half", "last third", "in between", "grows"],
)
def test_a_ring_in_a_part_of_the_rotation_is_found_and_reported(course: np.ndarray) -> None:
    """The median over all frames does not see a ring that is on a third of them."""
    found = search(cells(course.astype(float)))
    assert [ring.q for ring in found.changing] == [pytest.approx(CENTRE, abs=PIXEL)]
    assert any(low < CENTRE < high for low, high in found.ranges)


def test_no_ring_is_found_in_any_part_of_a_smooth_level() -> None:
    for seed in range(3):
        assert search(cells(np.zeros(GROUPS), seed=seed)).rings == []


def test_a_short_rotation_needs_more_for_a_ring() -> None:
    """Its ranges of frames see the same scattering of the crystal, so that cells are fewer."""
    course = np.full(GROUPS, 0.5)
    assert search(cells(course, spread=0.5)).rings != []
    assert search(cells(course, spread=0.5, turn=20.0)).rings == []
    long, short = (search(cells(0 * course, turn=turn)).least for turn in (360.0, 20.0))
    assert short > 2 * long > 0


def test_noise_that_all_frames_share_is_no_ring() -> None:
    """The noise of a run that was subtracted is the same in all frames."""
    made = cells(np.full(GROUPS, 0.33))
    assert search(made).rings != []
    assert search(made, np.full(len(made.middles), 4.0)).rings == []


def frozen(places: np.ndarray, strength: np.ndarray, course: np.ndarray, seed: int = 4) -> Cells:
    """Return cells of coarse pixels, with rings of up to 1 over a level of 10 that scatters."""
    rng, pixel = np.random.default_rng(seed), 0.06
    edges = bins(np.array([0.6, 5.5]), pixel)
    q = (edges[:-1] + edges[1:]) / 2
    rings = np.exp(-(((q[:, None] - places) / 0.05) ** 2) / 2) @ (strength / strength.max())
    level = 10 + course[:, None, None] * rings
    level = level * (1 + 0.1 * rng.normal(size=(GROUPS, SECTORS, len(q))))
    unit = np.full(level.shape, 20.0)
    return Cells(edges, rng.poisson(level * unit).astype(float), unit)


@pytest.mark.parametrize("late", [False, True])
def test_weak_ice_is_found_by_all_its_rings_together(late: bool) -> None:
    course = np.where(np.arange(GROUPS) < 5, 0.0, 1.0) if late else np.ones(GROUPS)
    found = search(frozen(*ice_rings(), course)).frozen
    assert found is not None
    heights = [0.0, 0.025, 0.075, 0.1] if late else 4 * [0.1]
    np.testing.assert_allclose(found.heights, heights, atol=0.03)
    assert all(any(low < q < high for low, high in found.ranges) for q in ice_rings()[0])


@pytest.mark.parametrize("seed", range(3))
def test_other_rings_and_noise_are_no_ice(seed: int) -> None:
    assert search(frozen(*aluminium_rings(), np.ones(GROUPS), seed)).frozen is None
    assert search(frozen(*ice_rings(), np.zeros(GROUPS), seed)).frozen is None


def test_places_of_ice_are_those_of_its_cell() -> None:
    np.testing.assert_allclose(ice.Q, np.sort(ice_rings()[0]), atol=0.01)


def test_ice_without_a_ring_that_stands_out_alone_is_a_sentence() -> None:
    left = Search([], [], [], Ice([0.02, 0.0, 0.03], [(1.6, 1.7)]))
    (words,) = background_checks.rings_left(left, "air")
    assert words.startswith("air: powder rings are left of ice, 2%, 0%, 3% of S in consecutive")
