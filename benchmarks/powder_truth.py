"""Powder calibration against simulated calibrants: errors and pulls over seeds.

python benchmarks/powder_truth.py [SEEDS]
"""

import sys

import numpy as np

from hklflow.calibration.powder import calibrate_powder
from hklflow.calibration.ring_fit import PARAMETERS
from hklflow.core.geometry import Detector
from hklflow.core.simulate import Background, DetectorModel, module_gaps
from hklflow.core.simulate_powder import powder_image
from hklflow.formats.poni import poni_from_detector


def main() -> None:
    """Print errors and pulls."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    shape, gaps = module_gaps((2, 2), (240, 230), (16, 8))
    for calibrant in ("CeO2", "LaB6"):
        errors, pulls, centres = [], [], []
        for seed in range(seeds):
            rng = np.random.default_rng(seed)
            model = DetectorModel(
                shape, 0.2 + 0.02 * rng.random(), (250 + 20 * rng.random(), 240.0),
                (200e-6, 200e-6), (0.02 * rng.normal(), 0.02 * rng.normal()), gaps=gaps, n_hot=5,
                seed=seed,
            )  # fmt: skip
            image = powder_image(
                model, 0.35, calibrant, ring_width=1.2e-3, peak_counts=3000.0,
                background=Background(air=20.0), seed=seed,
            )  # fmt: skip
            bad = (image < 0) | model.hot_mask
            found = calibrate_powder(
                image, bad, calibrant=calibrant, wavelength=0.35, pixel_size=(200e-6, 200e-6),
                orientation=2, distance=1.01 * model.distance,
                beam_centre=(model.beam_centre[0] + 4, model.beam_centre[1] - 4),
            )  # fmt: skip
            detector = Detector(shape, (200e-6, 200e-6), model.origin, model.slow, model.fast)
            # The rings do not see the turn about the beam: compare with rot3 = 0.
            true = poni_from_detector(detector, 2, 0.35)
            difference = np.array([getattr(found.poni, n) - getattr(true, n) for n in PARAMETERS])
            if seed == 0:
                print(f"{calibrant}: true rot3 {true.rot3:.2e}, {len(found.points)} points")
            errors.append(difference)
            pulls.append(difference / np.array([found.sigma[n] for n in PARAMETERS]))
            centres.append(
                [(f - t) for f, t in zip(found.beam_centre, model.beam_centre, strict=True)]
            )
        print(f"{calibrant}: {seeds} seeds, parameters {', '.join(PARAMETERS)} (m, rad)")
        print("  rms error    ", np.sqrt(np.mean(np.square(errors), axis=0)))
        print("  mean pull    ", np.mean(pulls, axis=0).round(2))
        print("  width of pull", np.std(pulls, axis=0).round(2))
        print("  beam centre, largest error (px)", np.abs(centres).max(axis=0).round(4))


if __name__ == "__main__":
    main()
