"""Is a world that breaks the assumptions of a background without a run reported?

Counts of the records of a world (tests/truth/QUANTITATIVE.md) are changed: an anisotropic
background is added that is constant, grows with time, or comes late; a holder takes a part of the
counts while it moves by 57°. Printed are the error of the anisotropic part, its significance, and
what the fit leaves over.

    python -m benchmarks.background_broken [world ...] [--seed 11]
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth.quantitative_catalogue import world
from tests.truth.unmeasured import inputs, prepare

from hklflow.images import powder_rings
from hklflow.stage import norms, unmeasured_fit, unmeasured_sums
from hklflow.stages import unmeasured_background
from hklflow.transform.repeats import Records
from hklflow.transform.unmeasured import Places

RECORDS = 400_000
CASES: dict[str, tuple[str, float]] = {
    "as it is": ("constant", 0.0),
    "constant, 10 %": ("constant", 0.1),
    "constant, 30 %": ("constant", 0.3),
    "grows, mean 15 %": ("grows", 0.15),
    "grows, mean 30 %": ("grows", 0.3),
    "comes late, mean 30 %": ("late", 0.3),
    "shadow of 10 % moves": ("shadow", 0.1),
    "shadow of 30 % moves": ("shadow", 0.3),
}


def pattern(places: Places, level: float) -> np.ndarray:
    """Return an anisotropic background of the mean 1.5 times level."""
    wave = (0.5 + 0.5 * places.q / places.q.max()) * np.cos(places.azimuth - 0.7)
    return np.asarray(level * (1.5 + wave + 0.5 * np.sin(2 * places.azimuth)))


def changed(
    records: Records, places: Places, time: np.ndarray, how: str, size: float
) -> tuple[Records, float]:
    """Return records with other counts, and the amplitude of the added background."""
    rng = np.random.default_rng(1)
    level = float(np.median(records.counts / records.background))
    course = {"constant": 1.0 + 0 * time, "grows": 2 * time, "late": 2.5 * (time > 0.6)}
    counts = records.counts.astype(np.int64)
    if how == "shadow":
        away = places.azimuth - 0.7 - time
        hit = (np.cos(away) > 0) & (abs(np.sin(away)) * places.q < 0.06 * places.q.max())
        counts, amplitude = np.where(hit, rng.binomial(counts, 1 - size), counts), 0.0
    else:
        amplitude = size * level
        added = records.background * course[how] * pattern(places, amplitude)
        counts = counts + rng.poisson(np.maximum(added, 0))
    return replace(records, counts=counts.astype(np.float32)), amplitude


def broken(name: str, seed: int, folder: Path) -> None:
    """Print the figures of a world and its changes."""
    w: Any = world(name, seed, (120, 128))
    names = prepare(w, folder)
    task = unmeasured_background._read(inputs(folder, names), norms.Corrections())
    plan, _ = unmeasured_sums.plan_of(task)
    friedel = bool((w.crystal.group == -np.eye(3)).all((1, 2)).any())
    records, cells = unmeasured_sums.summed(task, plan, unmeasured_sums.Punch(0.3, friedel))
    if plan is None or records is None:
        print(f"{name} {seed}: no repeated measurements")
        return
    rings = powder_rings.find(cells)
    every = unmeasured_sums.pixel_places(task.rotations[0])
    pixels = every.take(~w.blind)
    shell = np.digitize(pixels.q, np.linspace(pixels.q.min(), pixels.q.max(), 16))
    frames = np.array([r.scan.n_frames for r in task.rotations])
    time = (records.frame / frames[records.rotation] + records.rotation) / len(frames)
    places = unmeasured_fit.places_of_records(records, task)
    for case, (how, size) in CASES.items():
        made, amplitude = changed(records, places, time, how, size)
        found = unmeasured_fit.bounded(made, rings, task, plan, pixels, RECORDS, 16)
        assert found is not None
        off = found.fit.image(pixels)[0] - pattern(pixels, amplitude)
        mean = np.bincount(shell, off) / np.maximum(np.bincount(shell), 1)
        level = float(made.counts.sum() / made.background.sum())
        error, rest = np.std(off - mean[shell]) / level, found.rest
        print(
            f"{name} {seed}, {case:22} error {error:6.1%} of the level, "
            f"significance {found.significance:6.1f}, left over {rest.size:.2%}, "
            f"{rest.excess:4.0f} standard deviations{', reported' if rest.contradicts else ''}",
            flush=True,
        )


def main() -> None:
    """Print the figures of the worlds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="world")
    parser.add_argument("--seed", type=int, default=11)
    asked = parser.parse_args()
    for name in asked.names or ["organic", "diamond cell"]:
        with tempfile.TemporaryDirectory() as made:
            broken(name, asked.seed, Path(made))


if __name__ == "__main__":
    main()
