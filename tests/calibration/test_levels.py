"""Quadrants, modules, sensors and chips against motions that were written independently."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.truth import displaced_modules as made
from tests.truth import level_worlds as worlds

from hklflow.base.errors import HklflowError
from hklflow.calibration.levels import Hierarchy, LevelSettings, hierarchy
from hklflow.calibration.module_parts import divided
from hklflow.calibration.modules import BraggPeaks, ModuleFit, fit_modules
from hklflow.geometry.modules import Modules
from hklflow.images import pixel_groups

WORLD = worlds.plan(4, 2, (1, 4))
SHAPE = (831, 981)
Motion = tuple[np.ndarray, np.ndarray]


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def parts_of(*levels: str, **more: object) -> Hierarchy:
    settings = LevelSettings.model_validate({"levels": levels, "chips": (1, 4), **more})
    return hierarchy(settings, SHAPE, Modules.ideal(WORLD.modules))


def fit(level: str, images: Sequence = (), bragg: Sequence = (), **more: object) -> ModuleFit:
    """The parts of a level, of leaves that are chips."""
    levels = tuple(dict.fromkeys((level, "chip")))
    parts = parts_of(*levels)
    return fit_modules(parts.leaves, images, bragg, parts=parts.parts[level], **more)


def apart(found: ModuleFit, true: Motion) -> float:
    modules = found.modules
    return worlds.apart(modules.rectangles, modules.shift, modules.rotation, true)


def settings_of(places: Sequence) -> list[made.Setting]:
    return made.settings(WORLD.chips, places)


def spots(true: Motion, n: int, seed: int, place: int = 0) -> BraggPeaks:
    return worlds.spots(WORLD, true, n, seed, place)


def test_quadrants_are_known_from_spots_that_tell_no_module() -> None:
    pulls, turns = [], []
    for seed in range(6):
        rng = np.random.default_rng([seed, 7])
        true = worlds.displaced(WORLD, rng, {"quadrant": (2.0, 2e-3)})
        data = [spots(true, 300, seed)]
        found = fit("quadrant", bragg=data)
        assert apart(found, true) < 0.1 < 1 < rms(true[0])
        assert apart(fit("module", bragg=data), true) > apart(found, true)
        pulls.append((found.modules.shift - true[0]) / found.shift_sigma)
        turns.append((found.modules.rotation - true[1]) / found.rotation_sigma)
        assert 0.85 < found.chi2 < 1.15
    assert 0.75 < rms(np.array(pulls)) < 1.25
    assert 0.75 < rms(np.array(turns)) < 1.25


def test_chips_that_moved_are_not_described_by_modules() -> None:
    """A fit that ignores the level chip does not come within 0.1 pixels."""
    pulls = []
    for seed in range(3):
        rng = np.random.default_rng([seed, 8])
        true = worlds.displaced(WORLD, rng, {"module": (0.5, 1e-3), "chip": (0.3, 0.0)})
        data = [spots(true, 2500, 10 * seed + i, i) for i in range(2)]
        found = fit("chip", bragg=data)
        assert apart(found, true) < 0.1
        assert apart(fit("module", bragg=data), true) > 0.3
        pulls.append((found.modules.shift - true[0]) / found.shift_sigma)
    assert 0.8 < rms(np.array(pulls)) < 1.2


def test_scans_and_images_are_one_fit() -> None:
    rng = np.random.default_rng(9)
    true = worlds.displaced(WORLD, rng, {"quadrant": (2.0, 1e-3), "module": (0.3, 5e-4)})
    scans = [spots(true, 700, seed, seed) for seed in range(3)]
    image = made.ring_image(settings_of(made.FOUR[:1])[0], *true, 1, 0.1, 2.0)
    one, several = fit("module", bragg=scans[:1]), fit("module", bragg=scans)
    both = fit("module", [image], scans)
    for less, more in ((one, several), (several, both)):
        assert np.all(more.shift_sigma < less.shift_sigma)
    assert np.median(one.shift_sigma / several.shift_sigma) == pytest.approx(3**0.5, rel=0.15)
    for found in (one, several, both):
        assert 0.7 < rms((found.modules.shift - true[0]) / found.shift_sigma) < 1.4
    assert apart(both, true) < 0.1
    with pytest.raises(HklflowError, match=r"determine the detector and module level .*condition"):
        fit("module", [image])


def test_chips_start_from_displaced_modules() -> None:
    """Predictions with displaced modules, from which the chips moved further."""
    rng = np.random.default_rng(11)
    true = worlds.displaced(WORLD, rng, {"module": (0.5, 1e-3), "chip": (0.2, 0.0)})
    start = fit("module", bragg=[spots(true, 2500, 1)]).modules
    modules = divided(start, WORLD.modules)
    assert modules is None  # smaller already
    peaks = spots(true, 5000, 2)
    inside = np.stack(start.displaced(peaks.slow, peaks.fast)) - [peaks.slow, peaks.fast]
    known = replace(
        peaks,
        detector=replace(peaks.detector, modules=start),
        off_slow=peaks.off_slow + inside[0],
        off_fast=peaks.off_fast + inside[1],
    )
    found = fit_modules(start, bragg=[known])
    plain = fit_modules(Modules.ideal(WORLD.chips), bragg=[peaks])
    assert apart(found, true) < 0.1
    assert found.modules.shift == pytest.approx(plain.modules.shift, abs=1e-3)


def test_parts_without_points_stay_where_they_are_among_the_others() -> None:
    """A held module keeps its place relative to modules that move, also after a common motion."""
    rng = np.random.default_rng(12)
    true = worlds.displaced(WORLD, rng, {"module": (0.5, 0.0)})
    start = Modules(WORLD.chips, true[0], true[1])
    peaks = spots(true, 4000, 3)
    keep = WORLD.module[start.module_at(peaks.slow, peaks.fast)] != 5
    columns = ("slow", "fast", "off_slow", "off_fast", "sigma_slow", "sigma_fast")
    fewer = BraggPeaks(peaks.detector, *(getattr(peaks, name)[keep] for name in columns))
    parts = parts_of("module", "chip").parts["module"]
    found = fit_modules(start, bragg=[fewer], parts=parts)
    assert not found.shift_sigma[WORLD.module == 5].any()
    assert apart(found, true) < 0.05


def test_chips_with_few_ring_points_stay_on_their_module() -> None:
    """Two images do not tell all chips; their modules are known, and the other chips move."""
    rng = np.random.default_rng(15)
    true = worlds.displaced(WORLD, rng, {"module": (0.5, 1e-3), "chip": (0.3, 0.0)})
    places = settings_of(made.FOUR[:2])
    images = [made.ring_image(at, *true, i, 0.03, 20.0) for i, at in enumerate(places)]
    with pytest.raises(HklflowError, match="refine larger parts in the same command"):
        fit("chip", images)
    parts = parts_of("module", "chip").parts
    modules = fit("module", images).modules
    more = {"parts": parts["chip"], "larger": parts["module"], "keep_common": True}
    found = fit_modules(modules, images, **more)
    held = ~found.shift_sigma.any(axis=1)
    assert 0 < held.sum() < 12
    assert np.array_equal(found.modules.shift[held], modules.shift[held])
    # Chips with few points have one rotation within a module.
    turns = [np.ptp(found.modules.rotation[~held & (WORLD.module == m)]) for m in range(8)]
    assert max(turns) < 1e-12
    assert found.rotation_sigma[~held].any()

    def scatter(at: Modules) -> float:
        """Rms error of the chips that moved, relative to each other."""
        off = (at.shift - true[0])[~held]
        place = at.centres[~held]
        design = np.column_stack([np.ones(len(off)), place])
        return rms(off - design @ np.linalg.lstsq(design, off, rcond=None)[0])

    assert scatter(found.modules) < 0.5 * scatter(modules)
    blurred = [replace(image, sigma=100 * image.sigma) for image in images]
    with pytest.raises(HklflowError, match="points or more that determine them"):
        fit_modules(modules, blurred, **more)


@pytest.mark.parametrize("aspect", [1.0, 0.7])
def test_a_part_of_a_module_has_the_places_of_the_module(aspect: float) -> None:
    rng = np.random.default_rng(13)
    n = len(WORLD.modules)
    whole = Modules(WORLD.modules, rng.normal(0, 1, (n, 2)), rng.normal(0, 0.01, n), aspect)
    chips = divided(whole, WORLD.chips)
    assert chips is not None
    at = rng.uniform(0, SHAPE, (500, 2))
    at = at[whole.module_at(*at.T) >= 0]
    assert np.stack(chips.displaced(*at.T)) == pytest.approx(
        np.stack(whole.displaced(*at.T)), abs=1e-9
    )
    some = divided(whole, WORLD.chips[:7])  # three chips of a module, and six modules, have no box
    assert some is not None
    assert len(some) == 7 + n - 2


def test_parts_of_each_level() -> None:
    found = parts_of("chip", "quadrant", "module", "detector")
    assert list(found.parts) == ["quadrant", "module", "chip"]
    assert found.leaves.rectangles.tolist() == WORLD.chips.tolist()
    for level, number in (("module", WORLD.module), ("quadrant", WORLD.quadrant)):
        same = found.parts[level].number
        assert len(np.unique(np.stack([same, number]), axis=1).T) == number.max() + 1
        assert len(found.parts[level]) == number.max() + 1
    # Two sensors are a module.
    pairs = parts_of("module", "sensor", sensors=(1, 2), chips=None)
    assert pairs.parts["module"].number.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    # Halves of the detector in place of quadrants.
    halves = pixel_groups.by_image((np.indices(SHAPE)[0] > 415).astype(int) + 1)
    settings = LevelSettings(levels=("quadrant",))
    two = hierarchy(settings, SHAPE, Modules.ideal(WORLD.modules), groups=halves)
    assert two.parts["quadrant"].number.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_levels_that_cannot_be_are_refused() -> None:
    sensors = Modules.ideal(WORLD.modules)
    for levels, more, words in (
        (("module", "sensor"), {}, "module and sensor have the same 8 parts .*--sensors"),
        (("module", "sensor"), {"sensors": (3, 1)}, "modules of 3 x 1 sensors do not divide"),
        (("chip",), {"chips": (400, 1)}, "cannot have 400 x 1 chips"),
    ):
        with pytest.raises(HklflowError, match=words):
            hierarchy(LevelSettings.model_validate({"levels": levels} | more), SHAPE, sensors)
    across = pixel_groups.by_image((np.indices(SHAPE)[0] > 300).astype(int) + 1)
    with pytest.raises(HklflowError, match="pixels of label 1 and label 2; a quadrant must"):
        hierarchy(LevelSettings(levels=("quadrant",)), SHAPE, sensors, groups=across)
    odd = pixel_groups.by_chip(SHAPE, [[0, 195, 0, 981]], (1, 3))
    with pytest.raises(HklflowError, match="is not within one sensor"):
        hierarchy(LevelSettings(levels=("module", "chip")), SHAPE, sensors, groups=odd)
    with pytest.raises(HklflowError, match="two displaced parts"):
        hierarchy(LevelSettings(levels=("chip",)), SHAPE, sensors, sensors, odd)
    for wrong in ({"levels": ("detector",)}, {"chips": (1, 2)}, {"sensors": (0, 1)}):
        with pytest.raises(ValueError, match=r"levels need|chips is for|must be 1 or more"):
            LevelSettings.model_validate(wrong)
