"""Runs without the crystal that their frames with the crystal contradict, on simulated images."""

from typing import Any

import numpy as np
import pytest

from hklflow.images import run_check
from hklflow.images.surroundings import Part, Rings
from hklflow.stage import background_checks

SHAPE = (80, 90)
ROW, COLUMN = np.indices(SHAPE)
AWAY = np.hypot(ROW - 40, COLUMN - 45)
AIR = 400 * np.exp(-AWAY / 40)


def sums(
    run: Any, background: Any, crystal: Any = 300.0, seed: int = 201, frames: float = 10.0
) -> tuple[run_check.Counted, list[Part]]:
    """Return the sums for a run, for a background in the frames, and for the crystal."""
    rng = np.random.default_rng(seed)
    level = rng.poisson(np.broadcast_to(run, SHAPE)).astype(float)
    counts = rng.poisson(frames * (np.broadcast_to(background, SHAPE) + crystal)).astype(float)
    level[0] = np.nan
    part = Part("air", level, np.maximum(level, 1.0), np.ones(1), 0.0)
    return run_check.expected(counts, np.full((1, *SHAPE), frames), [part]), [part]


@pytest.mark.parametrize("level", [0.002, 0.1, 1.0, 50.0])
def test_a_good_run_has_neither_spots_nor_shadows(level: float) -> None:
    """Noise of the run and Bragg peaks of the crystal are no reason to leave out pixels."""
    bragg = np.random.default_rng(202).random(SHAPE) ** -1.0
    made, parts = sums(level * AIR, level * AIR, 100 * level * bragg)
    assert background_checks.contradicted(made, parts) == ([], True)


def test_spots_that_scatter_with_and_without_the_crystal_are_subtracted() -> None:
    """Powder rings, and spots of a window that does not rotate, are in both."""
    own = AIR + 3000 * np.exp(-((AWAY - 25) ** 2) / 2)
    own[30:32, 60:62] += 5000
    made, parts = sums(own, own)
    assert background_checks.contradicted(made, parts) == ([], True)


def test_spots_of_the_run_alone_are_left_out() -> None:
    """S would be too small there, also if a spot is weaker than the crystal's scattering."""
    spots = np.zeros(SHAPE)
    for i, size in ((10, 250.0), (30, 1000.0), (60, 30_000.0)):
        spots[i : i + 2, 70:72] = size
    made, parts = sums(AIR + spots, AIR)
    warnings, usable = background_checks.contradicted(made, parts)
    assert usable
    assert "sharp spots of the run" in warnings[0]
    lost = np.isnan(parts[0].level[1:])
    assert lost[spots[1:] > 0].all()
    assert 3 * 4 < lost.sum() <= 3 * 18


def test_a_run_with_the_crystal_is_reported() -> None:
    rng = np.random.default_rng(203)
    bragg = np.where(rng.random(SHAPE) < 0.04, 3000.0, 0.0)
    warnings, usable = background_checks.contradicted(*sums(AIR + 300 + bragg, AIR))
    assert not usable
    assert "was the crystal in the beam" in warnings[0]


def test_a_beam_stop_that_was_elsewhere_is_left_out() -> None:
    shadow = np.hypot(ROW - 46, COLUMN - 52) < 7
    made, parts = sums(np.where(shadow, 0, AIR), AIR)
    warnings, _ = background_checks.contradicted(made, parts)
    assert "in a shadow in the run" in warnings[0]
    assert np.isnan(parts[0].level[shadow]).all()
    assert np.count_nonzero(np.isnan(parts[0].level[1:])) < 1.5 * shadow.sum()
    both, parts = sums(np.where(shadow, 0, AIR), np.where(shadow, 0, AIR), ~shadow * 300.0)
    assert background_checks.contradicted(both, parts) == ([], True)


def curves(strength: float, seed: int = 204) -> Rings:
    """Return curves against |Q| of a rotation in which the rings of the run have a strength."""
    rng, q = np.random.default_rng(seed), np.linspace(0.5, 6, background_checks.SHELLS)
    run = 100 * np.exp(-q) + sum(80 * np.exp(-(((q - x) / 0.03) ** 2)) for x in (2.7, 3.1, 4.4))
    rest = 300 * np.exp(-q / 3)
    errors = 0 * q + 0.5
    measured = rest + strength * run + errors * rng.normal(size=len(q))
    return Rings(q, 0 * q + 100, measured, errors, run, 0 * q, 0 * q)


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ((1.0, 1.0, 1.0, 1.0), None),
        ((1.5, 1.5, 1.5, 1.5), "scale: fit"),
        ((0.0, 0.0, 1.0, 1.0), "they change during the rotation"),
        ((1.2, 1.0, 0.8, 1.0), "they change during the rotation"),
    ],
)
def test_rings_that_are_not_as_strong_as_in_the_run(
    strengths: tuple[float, ...], message: str | None
) -> None:
    levels = background_checks.ring_levels([curves(x, i) for i, x in enumerate(strengths)])
    np.testing.assert_allclose([level for level, _ in levels], strengths, atol=0.05)
    doubt = background_checks.level_doubt(levels, "furnace")
    assert (doubt is None) if message is None else (doubt is not None and message in doubt)


def test_only_rings_make_a_run_sharp() -> None:
    """Air has no structure that determines its level."""
    q, ring = AWAY / 10, 200 * np.exp(-((AWAY - 25) ** 2) / 4)
    for run, expected in ((AIR, False), (AIR + ring, True), (0.001 * AIR, False)):
        assert background_checks.sharp(sums(run, run)[1], q) == expected
