"""The tuned peak search against simulated peaks: what it finds, from good and from bad starts.

    python -m benchmarks.tune_truth

Which peaks count and which spots are right: see `tests/truth/tuning.py`.
"""

import time
from typing import Any

from tests.truth.defaults import index_peaks, peak_params
from tests.truth.tuning import STARTS, Scene, scene

from hklflow.bragg import tune
from hklflow.peaks.search import PeakParams

SCENES: dict[str, dict[str, Any]] = {
    "smooth diffuse scattering": {},
    "diffuse scattering with maxima": {"maxima": True},
    # A quarter of the reflections is not to be told from noise.
    "weak reflections, smooth diffuse scattering": {"scale": 0.002},
    "weak reflections, diffuse scattering with maxima": {"scale": 0.002, "maxima": True},
}


def main() -> None:
    """Print the tables."""
    for told, given in SCENES.items():
        print(told)
        print("seed  start             score -> tuned    trials  recall  precision  of    seconds")
        for seed in (1, 2):
            made = Scene.of(scene(seed, **given))
            for name, start in STARTS.items():
                # Where a search begins matters to the search, not to the scene.
                if (seed == 1 and not given) or not start:
                    _row(seed, name, made, peak_params(**start))


def _row(seed: int, name: str, made: Scene, start: PeakParams) -> None:
    begun = time.process_time()
    tuned = tune.tune(made.blocks(), start, lambda g: index_peaks(g).ub, unset=peak_params())
    seconds = time.process_time() - begun
    recall, precision, number = made.recall_and_precision(tuned.best.params)
    gain, sigma = tuned.gain
    print(
        f"{seed:4d}  {name:16s} {tuned.start.score:6.1f} -> {tuned.best.score:6.1f}  "
        f"{tuned.n_trials:6d}  {recall:6.4f}  {precision:9.4f}  {number:4d}  {seconds:6.1f}"
        f"  gain {gain:.1f} ± {sigma:.1f}{'' if tuned.worth_it else ' (keep)'}  "
        f"{tuned.changed}",
        flush=True,
    )


if __name__ == "__main__":
    main()
