"""Detector, modules and chips in turn from powder images whose pixels were placed independently."""

from collections.abc import Sequence

import numpy as np
import pytest
from tests.truth import level_worlds as worlds
from tests.truth.level_images import DISTANCE, MODULES, SHAPE, WORLD, Made, world

from hklflow.calibration.level_rounds import LevelFit, refine_levels
from hklflow.calibration.levels import LevelSettings, hierarchy
from hklflow.geometry.modules import Modules


@pytest.fixture(scope="module")
def made() -> Made:
    return world(1)


def refined(made: Made, levels: Sequence[str], **more: object) -> tuple[LevelFit, list[str]]:
    settings = LevelSettings.model_validate(
        {"levels": levels, **({"chips": (1, 2)} if "chip" in levels else {}), **more}
    )
    told: list[str] = []
    parts = hierarchy(settings, SHAPE, Modules.ideal(MODULES))
    return refine_levels(parts, made.images, [], settings, told.append), told


def test_levels_in_turn_come_to_rest_at_the_truth(made: Made) -> None:
    found, told = refined(made, ("detector", "module", "chip"))
    modules = found.fit.modules
    assert worlds.apart(WORLD.chips, np.zeros_like(made.shift), 0 * made.turn, made[:2]) > 1
    assert worlds.apart(modules.rectangles, modules.shift, modules.rotation, made[:2]) < 0.1
    pulls = (modules.shift - made.shift) / found.fit.shift_sigma
    assert 0.6 < np.sqrt(np.mean(pulls**2)) < 1.5  # over seeds: benchmarks/levels_truth.py
    assert found.settled
    assert 2 <= len(found.rounds) == len(told) < 10
    assert list(found.rounds[0].moved_px) == ["detector", "module", "chip"]
    assert found.rounds[0].change_px > 0.5
    assert found.rounds[-1].change_px <= 0.02
    assert told[0].startswith("round 1: detector ")
    for image, detector in zip(made.images, found.fit.detectors, strict=True):
        assert detector.distance == pytest.approx(DISTANCE, abs=5e-5)
        assert image.detector.distance == pytest.approx(DISTANCE + 2e-4)


def test_without_the_level_chip_the_chips_are_not_where_they_are(made: Made) -> None:
    found, _ = refined(made, ("detector", "module"))
    assert found.settled
    modules = found.fit.modules
    shift, turn = (np.repeat(a, 2, axis=0) for a in (modules.shift, modules.rotation))
    middle = worlds.centres(WORLD.chips) - np.repeat(worlds.centres(MODULES), 2)
    swing = (np.exp(1j * turn) - 1) * middle
    shift = shift + np.stack([swing.real, swing.imag], axis=1)
    assert worlds.apart(WORLD.chips, shift, turn, made[:2]) > 0.2


def test_rounds_end_at_their_number(made: Made) -> None:
    found, told = refined(made, ("module", "chip"), rounds=2, tolerance=1e-6)
    assert not found.settled
    assert len(found.rounds) == len(told) == 2
