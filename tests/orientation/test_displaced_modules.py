"""Modules that spots tell to be displaced, against displacements that made the spots."""

from dataclasses import replace

import numpy as np
import pytest
from tests.truth import convergence as made
from tests.truth.defaults import limits

from hklflow.geometry.modules import Modules
from hklflow.orientation.displaced_modules import Displaced, displaced
from hklflow.orientation.refinement import refine

MODULES = Modules.ideal(made.BOXES)


def found(truth: made.Scan, modules: Modules = MODULES, **given: float) -> list[Displaced]:
    start = made.start(truth)
    refined = refine(
        start.rotations, truth.peaks, start.ub, truth.group, free=made.FREE, limits=limits()
    )
    asked = {"least": 0.0, "spots": 50, **given}
    return displaced(refined, truth.peaks, truth.group, made.FREE, modules, **asked)


def one(shift: tuple[float, float], module: int = 2) -> np.ndarray:
    shifts = np.zeros((4, 2))
    shifts[module] = shift
    return shifts


@pytest.mark.parametrize("shift", [(0.15, -0.1), (-1.2, 0.8), (2.0, 2.2)])
@pytest.mark.slow
def test_one_displaced_module_is_found_with_its_shift_and_no_other(
    shift: tuple[float, float],
) -> None:
    pulls = []
    for seed in range(6):
        (told,) = found(made.scan(seed=seed, shifts=one(shift)))
        assert told.module == 2
        assert told.shift == pytest.approx(shift, abs=0.05)
        pulls.append((np.array(told.shift) - shift) / told.sigma)
    assert np.sqrt(np.mean(np.square(pulls))) < 1.6


@pytest.mark.slow
def test_modules_in_place_are_not_displaced() -> None:
    told = [found(made.scan(seed=seed, second=0.2 * (seed % 2))) for seed in range(20)]
    assert told == [[]] * 20


def test_noise_of_one_module_is_no_shift() -> None:
    """Its spots know their errors; what exceeds them makes all errors larger."""
    for seed in range(6):
        truth, rng, peaks = made.scan(seed=seed), np.random.default_rng(seed), []
        for own in truth.peaks:
            mine = MODULES.module_at(own.slow, own.fast) == 1
            noise = 0.3 * mine * rng.normal(size=(2, len(mine)))
            wider = {f"var_{n}": getattr(own, f"var_{n}") + 0.09 * mine for n in ("slow", "fast")}
            peaks.append(replace(own, slow=own.slow + noise[0], fast=own.fast + noise[1], **wider))
        assert found(replace(truth, peaks=peaks)) == []


def test_a_detector_that_is_displaced_as_a_whole_has_no_displaced_modules() -> None:
    assert found(made.scan(seed=3, shifts=np.tile([0.4, -0.3], (4, 1)))) == []


def test_small_shifts_and_modules_of_few_spots_are_not_told() -> None:
    truth = made.scan(seed=1, shifts=one((0.15, -0.1)))
    (told,) = found(truth)
    assert found(truth, least=told.size + 0.01) == []
    assert found(truth, spots=told.spots + 1) == []
    # One module is the detector.
    assert found(truth, Modules.ideal([(0, 200, 0, 200)])) == []


def test_the_sentence_names_the_module_its_place_and_its_shift_with_errors() -> None:
    (told,) = found(made.scan(seed=1, shifts=one((-1.2, 0.8))))
    s0, s1, f0, f1 = made.BOXES[2]
    assert f"module 2 (slow {s0} to {s1}, fast {f0} to {f1}) is displaced by -1." in told.told()
    assert told.told().count(" ± ") == 2
    assert told.to_dict()["sentence"] == told.told()
