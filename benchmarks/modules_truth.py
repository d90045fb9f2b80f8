"""Module shifts found against those that made the data, over seeds.

Ring points and Bragg residuals are those of `tests/truth/displaced_modules.py`. Prints, for each
case, the rms of the start, the rms error of the fit in pixels, that of the rotations in mrad, the
rms pull of shifts and rotations, and the condition number.
``python -m benchmarks.modules_truth [seeds]``
"""

import sys

import numpy as np
from tests.truth.displaced_modules import (
    FOUR,
    FOUR_DISTANCES,
    bragg,
    pilatus,
    ring_image,
    settings,
    truth,
)

from hklflow.base.errors import HklflowError
from hklflow.calibration.modules import ModuleFit, fit_modules
from hklflow.geometry.modules import Modules


def errors(fit: ModuleFit, shift: np.ndarray, angle: np.ndarray) -> tuple[float, ...]:
    """Rms error of shifts (pixels) and rotations (mrad), rms pulls of both, condition number."""
    off, turned = fit.modules.shift - shift, fit.modules.rotation - angle
    free, free_turn = fit.shift_sigma > 0, fit.rotation_sigma > 0
    pull = np.sqrt(np.mean((off[free] / fit.shift_sigma[free]) ** 2))
    turn_pull = (
        np.sqrt(np.mean((turned[free_turn] / fit.rotation_sigma[free_turn]) ** 2))
        if free_turn.any()
        else np.nan
    )
    rms = [np.sqrt(np.mean(off**2)), 1e3 * np.sqrt(np.mean(turned**2))]
    return (*(float(x) for x in (*rms, pull, turn_pull)), fit.condition)


CASES = {
    "Pilatus 300k, one image": (pilatus(3, 1), FOUR[:1], 1e-3, 0),
    "Pilatus 300k, one image, rotations held": (pilatus(3, 1), FOUR[:1], 0.0, 0),
    "Pilatus 300k, two images": (pilatus(3, 1), FOUR[:2], 1e-3, 0),
    "Pilatus 300k, two images, rotations held": (pilatus(3, 1), FOUR[:2], 0.0, 0),
    "Pilatus 300k, four images": (pilatus(3, 1), FOUR, 1e-3, 0),
    "Pilatus 1M, one image": (pilatus(5, 2), FOUR[:1], 1e-3, 0),
    "Pilatus 1M, one image, rotations held": (pilatus(5, 2), FOUR[:1], 0.0, 0),
    "Pilatus 1M, four images at four distances": (pilatus(5, 2), FOUR_DISTANCES, 1e-3, 0),
    "Pilatus 1M, two images": (pilatus(5, 2), FOUR[:2], 1e-3, 0),
    "Pilatus 1M, four images": (pilatus(5, 2), FOUR, 1e-3, 0),
    "Pilatus 1M, four images, rotations held": (pilatus(5, 2), FOUR, 0.0, 0),
    "Pilatus 2M of 48, 714 spots": (pilatus(8, 6), (), 0.0, 714),
    "Pilatus 2M of 48, 7140 spots": (pilatus(8, 6), (), 1e-3, 7140),
    "Pilatus 2M of 48, 714 spots and four images": (pilatus(8, 6), FOUR, 1e-3, 714),
}


def run(name: str, seed: int) -> tuple[float, tuple[float, ...]]:
    """Rms of the truth and errors of one case."""
    boxes, places, turn, spots = CASES[name]
    shift, angle = truth(boxes, seed, 0.28, turn)
    images = [
        ring_image(setting, shift, angle, 100 * seed + i)
        for i, setting in enumerate(settings(boxes, places))
    ]
    at = settings(boxes, FOUR[:1])[0]
    peaks = [bragg(at, shift, angle, spots, seed)] if spots else []
    held = 10**9 if turn == 0 else 50
    fit = fit_modules(Modules.ideal(boxes), images, peaks, min_rotation_points=held)
    return float(np.sqrt(np.mean(shift**2))), errors(fit, shift, angle)


def main() -> None:
    """Print a table."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    for name in CASES:
        try:
            found = [run(name, seed) for seed in range(seeds)]
        except HklflowError as error:
            print(f"{name}: refused: {error}")
            continue
        start = np.mean([s for s, _ in found])
        e, mrad, pull, turn_pull, condition = np.mean([e for _, e in found], axis=0)
        worst = max(e[0] for _, e in found)
        print(
            f"{name}: {start:.3f} px -> {e:.4f} px (worst {worst:.4f}), {mrad:.4f} mrad, pulls "
            f"{pull:.2f} {turn_pull:.2f}, condition {condition:.2g}"
        )


if __name__ == "__main__":
    main()
