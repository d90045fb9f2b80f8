"""Is the background right that runs without the crystal measure?

Worlds of tests/truth/QUANTITATIVE.md: frames of a crystal with air and a capillary, and runs
without it. The stages `background`, `transform` and `merge` make S; the counts that they leave are
compared with the expected counts of the crystal alone: voxels, blocks of 5 x 5 x 5 voxels, and
shells of |Q|. The transmissions are the true ones (a file of one number for each frame).

    python -m benchmarks.background_truth [world ...] [--seed 11] [--small]

One scan does not tell whether the means of pulls are 0; many small ones do:

    python -m benchmarks.background_truth --shape 60 64 --span 30 --seed 101 --number 30

Without a run (`background: unmeasured`), for the worlds organic, undetermined, diamond cell and
furnace: powder rings, the anisotropic part, and the interval of the isotropic part by shell, next
to the tightest interval from positivity (tests/truth/QUANTITATIVE.md).

    python -m benchmarks.background_truth --unmeasured [world ...] [--seed 11]
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth.backgrounds import RUNS, figures, reduced, texts
from tests.truth.quantitative_bounds import _extremes
from tests.truth.quantitative_catalogue import world
from tests.truth.quantitative_write import write
from tests.truth.unmeasured import anisotropic_error, prepare, ring_error, rings_left, run, shells

MEANS = (
    "bias of the crystal's counts",
    "blocks: pull mean",
    "blocks: pull width",
    "shells: pull mean",
    "shells: pull rms",
)


def measured(name: str, seed: int, number: int, changes: dict[str, Any]) -> None:
    """Print the figures of a world with runs, and means of its pulls over seeds."""
    means: dict[str, list[list[float]]] = {}
    for own in range(seed, seed + number):
        w = world(name, own, **changes)
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write(w, folder)
            texts(w, folder)
            for case, runs in RUNS[name](w, folder).items():
                print(f"{name} {own}, {case}", flush=True)
                found = figures(reduced(w, folder, runs), len(w.scans))
                for what, value in found.items():
                    print(f"    {what:45} {value:.4g}")
                means.setdefault(case, []).append([found[key] for key in MEANS])
    for case, values in means.items() if number > 1 else ():
        print(f"{name}, {case}: {number} seeds")
        for key, mean, error in zip(
            MEANS,
            np.mean(values, axis=0),
            np.std(values, axis=0, ddof=1) / np.sqrt(number),
            strict=True,
        ):
            print(f"    mean of {key:37} {mean:.4f} +- {error:.4f}")


def unmeasured(name: str, seed: int, changes: dict[str, Any], rings: str) -> None:
    """Print the figures of a world without a run of its surroundings."""
    w = world(name, seed, **changes)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        start = time.perf_counter()
        names = prepare(w, folder)
        print(f"{name} {seed}: written in {time.perf_counter() - start:.0f} s")
        start = time.perf_counter()
        found = run(w, folder, names, rings=rings)
        print(f"reduced in {time.perf_counter() - start:.0f} s")
        for warning in found.metrics["warnings"]:
            print(f"warning: {warning}")
        print(f"subtracted: {found.metrics['subtracted']}")
        print("anisotropic part with rings:", anisotropic_error(found))
        if np.nanmax(found.rings) > 0:
            print("powder rings:", (ring_error if rings == "subtract" else rings_left)(found))
        if not found.metrics["determined"]:
            return
        s = shells(found)
        least, (mean, lowest) = _extremes(w, s["edges"], 0.3, 4, 2.0, compton=False)
        print("  |Q|     level      true  interval            over the tightest")
        for i, true in enumerate(s["true"]):
            # Both in electron units; the worlds' norms are those of hklflow up to a constant.
            own = (w.q >= s["edges"][i]) & (w.q < s["edges"][i + 1])
            unit = np.nanmean(found.true[own]) / mean[i] if mean[i] > 0 else np.nan
            width = (least[i] + min(lowest[i], mean[i])) * unit
            low, high = s["low"][i], s["high"][i]
            outside = "" if np.isfinite(true) else "  masked"
            outside = "  OUTSIDE" if true < low or true > high else outside
            print(
                f"{s['edges'][i]:6.2f} {s['level'][i]:9.4g} {true:9.4g}  "
                f"{low:8.4g} to {high:8.4g}  {(high - low) / width:.2f}{outside}"
            )


def main() -> None:
    """Print the figures of the worlds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="world")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--number", type=int, default=1, help="of seeds, from --seed on")
    parser.add_argument("--small", action="store_true", help="120 x 128 pixels, 60 degrees")
    parser.add_argument("--shape", type=int, nargs=2, help="pixels of the detector")
    parser.add_argument("--span", type=float, help="degrees of each rotation")
    parser.add_argument("--unmeasured", action="store_true", help="without a run")
    parser.add_argument("--rings", choices=("mask", "subtract"), default="mask")
    asked = parser.parse_args()
    changes: dict[str, Any] = {"shape": (120, 128), "span": 60.0} if asked.small else {}
    changes |= {"shape": tuple(asked.shape)} if asked.shape else {}
    changes |= {"span": asked.span} if asked.span else {}
    unknown = ["organic", "undetermined", "diamond cell", "furnace"]
    for name in asked.names or (unknown if asked.unmeasured else ["plate", "capillary"]):
        if asked.unmeasured:
            for seed in range(asked.seed, asked.seed + asked.number):
                unmeasured(name, seed, changes, asked.rings)
        else:
            measured(name, asked.seed, asked.number, changes)


if __name__ == "__main__":
    main()
