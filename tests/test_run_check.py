"""Runs without the crystal that their frames with the crystal contradict, on simulated images."""

from typing import Any

import numpy as np
import pytest

from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.images import run_check
from hklflow.images.surroundings import Part, Rings, Valid
from hklflow.stage import background_checks, background_watch
from hklflow.stage.background_settings import Named

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


def watched(
    run: Any, background: Any, crystal: Any = 30.0
) -> tuple[background_watch.Watch, list[Part]]:
    """Return a run compared with 40 frames over half a turn, for a background in the frames."""
    rng, n = np.random.default_rng(205), 40
    # 2 mrad for each pixel, around the middle.
    origin = np.array([-45 * 1e-4, 40 * 1e-4, 0.05])
    detector = Detector(SHAPE, (1e-4, 1e-4), origin, np.array([0, -1.0, 0]), np.array([1.0, 0, 0]))
    goniometer = Goniometer(("phi",), np.array([[1.0, 0.0, 0.0]]), np.zeros(1), 0)
    rotation = Rotation(Beam(0.5, 0.99), detector, goniometer, Scan(0.0, np.pi / n, n))
    level = rng.poisson(40 * np.broadcast_to(run, SHAPE)) / 40
    part = Part("air", level, np.maximum(level, 0.1) / 40, np.ones(n), 0.0)
    watch = background_watch.Watch(rotation, [part])
    expected = np.broadcast_to(background + crystal, SHAPE)
    frames = iter([(z, rng.poisson(expected)) for z in range(n)])
    assert len(list(watch.passed(frames, np.ones(n), [part], Valid()))) == n
    return watch, [part]


NAMED = Named(name="air", raw="raw/air.nxs", seen_through="not")
RING = 10 * np.exp(-((AWAY - 25) ** 2) / 2)


def test_rings_that_the_run_does_not_have_are_reported() -> None:
    weak = AIR / 10
    for run, frames, n in ((weak, weak, 0), (weak + RING, weak + RING, 0), (weak, weak + RING, 1)):
        watch, parts = watched(run, frames)
        left = watch.rings(parts)
        rings = left.rings
        assert [ring.q for ring in rings] == n * [pytest.approx(25 * 0.0251, abs=0.03)]
        if rings:
            assert rings[0].share == pytest.approx(1 / 3, rel=0.3)
            (warning,) = background_checks.rings_left(left, "air")
            assert "powder rings are left at |Q| = 0.6" in warning
        else:
            assert background_checks.rings_left(left, "air") == []


def test_a_level_that_nothing_confirms_is_reported() -> None:
    """Next to the beam stop nearly all counts are those of air."""
    crystal = 30 * np.minimum(AWAY / 20, 1) ** 2
    for factor, confirmed in ((1.0, True), (0.3, False), (0.2, False), (1.5, True)):
        watch, parts = watched(factor * AIR, AIR, crystal)
        most, of_s = watch.most(parts)
        assert most == pytest.approx(1 / factor, rel=0.2)
        assert (background_checks.not_confirmed(most, of_s, [NAMED]) == []) == confirmed


def test_a_weak_background_needs_no_confirmation() -> None:
    """An error of the level does not matter if the crystal scatters 300 times as much."""
    watch, parts = watched(0.1, 0.1, 30.0)
    most, of_s = watch.most(parts)
    assert most > 100
    assert background_checks.not_confirmed(most, of_s / 100, [NAMED]) == []
    assert background_checks.not_confirmed(1.5, 0.3, [NAMED]) == []
    stated = NAMED.model_copy(update={"scale_error": 0.1})
    assert background_checks.not_confirmed(most, of_s, [stated]) == []
