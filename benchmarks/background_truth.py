"""Is the background right that runs without the crystal measure?

Worlds of tests/truth/QUANTITATIVE.md: frames of a crystal with air and a capillary, and runs
without it. The stages `background`, `transform` and `merge` make S; the counts that they leave are
compared with the expected counts of the crystal alone: voxels, blocks of 5 x 5 x 5 voxels, and
shells of |Q|. The transmissions are the true ones (a file of one number for each frame).

    python -m benchmarks.background_truth [world ...] [--seed 11] [--small]

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
from tests.truth.unmeasured import anisotropic_error, prepare, ring_error, run, shells


def unmeasured(name: str, seed: int) -> None:
    """Print the figures of a world without a run of its surroundings."""
    w = world(name, seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        start = time.perf_counter()
        names = prepare(w, folder)
        print(f"{name} {seed}: written in {time.perf_counter() - start:.0f} s")
        start = time.perf_counter()
        found = run(w, folder, names, rings="subtract")
        print(f"reduced in {time.perf_counter() - start:.0f} s")
        for warning in found.metrics["warnings"]:
            print(f"warning: {warning}")
        print(f"subtracted: {found.metrics['subtracted']}")
        print("anisotropic part with rings:", anisotropic_error(found))
        if np.nanmax(found.rings) > 0:
            print("powder rings:", ring_error(found))
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
            inside = "" if low <= true <= high else "  OUTSIDE"
            print(
                f"{s['edges'][i]:6.2f} {s['level'][i]:9.4g} {true:9.4g}  "
                f"{low:8.4g} to {high:8.4g}  {(high - low) / width:.2f}{inside}"
            )


def main() -> None:
    """Print the figures of the worlds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="world")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--small", action="store_true", help="fewer pixels and frames")
    parser.add_argument("--unmeasured", action="store_true", help="without a run")
    asked = parser.parse_args()
    if asked.unmeasured:
        for name in asked.names or ["organic", "undetermined", "diamond cell", "furnace"]:
            unmeasured(name, asked.seed)
        return
    changes: dict[str, Any] = {"shape": (120, 128), "span": 60.0} if asked.small else {}
    for name in asked.names or ["plate", "capillary"]:
        w = world(name, asked.seed, **changes)
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            write(w, folder)
            texts(w, folder)
            cases = RUNS[name](w, folder)
            for case, runs in cases.items():
                print(f"{name} {asked.seed}, {case}", flush=True)
                for what, value in figures(reduced(w, folder, runs), len(w.scans)).items():
                    print(f"    {what:45} {value:.4g}")


if __name__ == "__main__":
    main()
