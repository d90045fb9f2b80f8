"""Quadrants, modules and chips found against those that made the data, over seeds.

Data are those of `tests/truth/level_worlds.py` (points) and `tests/truth/level_images.py` (pixels
of powder images). Prints, for each case, the largest error of a corner relative to all others
before and after in pixels (mean and worst of the seeds), the rms pulls of shifts and rotations, and
the rounds. ``python -m benchmarks.levels_truth [seeds]``
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from tests.truth import displaced_modules as made
from tests.truth import level_images as pixels
from tests.truth import level_worlds as worlds

from hklflow.calibration.level_rounds import refine_levels
from hklflow.calibration.levels import Hierarchy, LevelSettings, hierarchy
from hklflow.calibration.modules import ModuleFit, fit_modules
from hklflow.geometry.modules import Modules

WORLD = worlds.plan(4, 2, (1, 4))


class Found(NamedTuple):
    """Result of a case: largest errors, pulls of shifts and rotations, number of rounds."""

    before: float
    after: float
    pulls: np.ndarray
    turn_pulls: np.ndarray
    rounds: int


def judged(
    plan: worlds.Plan, fit: ModuleFit, true: tuple[np.ndarray, np.ndarray], rounds: int
) -> Found:
    """Compare a fit with the truth."""
    found = fit.modules
    none = np.zeros_like(true[0]), np.zeros_like(true[1])
    free, turning = fit.shift_sigma > 0, fit.rotation_sigma > 0
    return Found(
        worlds.apart(plan.chips, *none, true),
        worlds.apart(plan.chips, found.shift, found.rotation, true),
        ((found.shift - true[0])[free] / fit.shift_sigma[free]),
        ((found.rotation - true[1])[turning] / fit.rotation_sigma[turning]),
        rounds,
    )


def parts_of(plan: worlds.Plan, settings: LevelSettings) -> Hierarchy:
    """Return the parts of the levels of a world."""
    shape = plan.modules.max(axis=0)[[1, 3]]
    return hierarchy(settings, (int(shape[0]), int(shape[1])), Modules.ideal(plan.modules))


def of_points(
    level: str, sizes: dict[str, tuple[float, float]], spots: int, scans: int, images: int
) -> Callable[[int], Found]:
    """Return the case of a level from scans and images in one fit."""

    def run(seed: int) -> Found:
        true = worlds.displaced(WORLD, np.random.default_rng([seed, 31]), sizes)
        bragg = [worlds.spots(WORLD, true, spots, 10 * seed + i, i) for i in range(scans)]
        rings = [
            made.ring_image(at, *true, 10 * seed + i, 0.1, 2.0)
            for i, at in enumerate(made.settings(WORLD.chips, made.FOUR[:images]))
        ]
        asked = {"levels": {level, "chip"}, "chips": (1, 4)}
        parts = parts_of(WORLD, LevelSettings.model_validate(asked))
        fit = fit_modules(parts.leaves, rings, bragg, parts=parts.parts[level])
        return judged(WORLD, fit, true, 1)

    return run


def of_pixels(*levels: str) -> Callable[[int], Found]:
    """Return the case of levels in turn from four powder images."""

    def run(seed: int) -> Found:
        world = pixels.world(seed)
        settings = LevelSettings.model_validate({"levels": levels, "chips": (1, 2)})
        found = refine_levels(parts_of(pixels.WORLD, settings), world.images, [], settings)
        return judged(pixels.WORLD, found.fit, (world.shift, world.turn), len(found.rounds))

    return run


QUADRANT, MODULE = {"quadrant": (2.0, 2e-3)}, {"module": (0.5, 1e-3)}
CHIP = {"module": (0.5, 1e-3), "chip": (0.3, 0.0)}
CASES = {
    "quadrant, 1 scan of 300 spots": of_points("quadrant", QUADRANT, 300, 1, 0),
    "module, 1 scan of 700 spots": of_points("module", MODULE, 700, 1, 0),
    "module, 3 scans of 700 spots": of_points("module", MODULE, 700, 3, 0),
    "module, 3 scans of 700 spots and 1 image": of_points("module", MODULE, 700, 3, 1),
    "chip, 2 scans of 2500 spots": of_points("chip", CHIP, 2500, 2, 0),
    "module, chips moved, 2 scans of 2500 spots": of_points("module", CHIP, 2500, 2, 0),
    "detector, module, chip in turn, 4 images": of_pixels("detector", "module", "chip"),
}


def main() -> None:
    """Print a table."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name, run in CASES.items():
        found = [run(seed) for seed in range(seeds)]
        pull, turn = (
            np.sqrt(np.mean(np.concatenate([getattr(f, key) for f in found]) ** 2))
            for key in ("pulls", "turn_pulls")
        )
        before, after = ([getattr(f, key) for f in found] for key in ("before", "after"))
        print(
            f"{name}: {np.mean(before):.2f} px -> {np.mean(after):.3f} px (worst "
            f"{max(after):.3f}), pulls {pull:.2f} {turn:.2f}, rounds "
            f"{min(f.rounds for f in found)} to {max(f.rounds for f in found)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
