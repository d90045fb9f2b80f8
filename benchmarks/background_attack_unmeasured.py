"""Are rings that come late, or vary, found without a run of the background, or reported?

Worlds like those of benchmarks.background_attack: an organic crystal in air with powder rings in
half of the frames, rings whose strength varies, rings on a shell of the crystal's own reflections,
and a beam stop that wobbles. Printed are the largest mean of what rings add to pixels of a shell
that are not masked, over the level between the reflections, during the half with most of them.

    python -m benchmarks.background_attack_unmeasured [case ...] [--seed 201]
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from tests.truth.quantitative import World
from tests.truth.quantitative_background import Air, Surroundings, ring_profile
from tests.truth.quantitative_catalogue import world
from tests.truth.unmeasured import prepare, run

from benchmarks.background_attack import Parts, Spoilt, level, ring, wobble, wobbling

Change = Callable[[Spoilt, Parts, int, int], Parts]


def rings(material: str, size: float, course: Callable[[float], float]) -> Change:
    """Return a change: textured rings that follow a course over the rotation."""

    def change(w: Spoilt, parts: Parts, r: int, z: int) -> Parts:
        if "rings" not in w._kept:
            profile = ring_profile(material, 0.4, 0.3, w.optics.ring_width)
            image = w.optics.image(profile, np.zeros(1))
            w._kept["rings"] = size * level(w) * np.where(w.blind, 0, image) / image.max()
        return parts | {"wall": course((z + 0.5) / w.scans[r].n_frames) * w._kept["rings"]}

    return change


def on_a_shell(w: Spoilt, parts: Parts, r: int, z: int) -> Parts:
    """Add one ring at the |Q| of the strongest reflections."""
    if "rings" not in w._kept:
        hkl, strength = w.crystal.structure_factors(float(w.q.max()))
        q = np.linalg.norm(hkl @ w.crystal.B.T, axis=1)
        inside = (q > 0.3 * w.q.max()) & (q < 0.7 * w.q.max())
        w._kept["rings"] = level(w) * ring(w, float(q[inside][strength[inside].argmax()]))
    return parts | {"wall": w._kept["rings"]}


def late(t: float) -> float:
    return float(t > 0.5)


CASES: dict[str, Change] = {
    "no rings": lambda w, parts, r, z: parts,
    "ice all the time": rings("ice", 1.0, lambda t: 1.0),
    "ice in the second half": rings("ice", 1.0, late),
    "ice in the second half, weak": rings("ice", 0.3, late),
    "ice in the last third": rings("ice", 1.0, lambda t: float(t > 0.67)),
    "Al in half of the frames": rings("Al", 1.0, lambda t: float(0.2 < t < 0.7)),
    "Al varies": rings("Al", 1.0, lambda t: 1 + 0.8 * np.sin(7 * t)),
    "a ring on a shell of reflections": on_a_shell,
    "beam stop wobbles": wobble,
}


def attack(name: str, seed: int, crystal: str) -> None:
    """Print what is left in a world, and what is reported."""
    base = world(crystal, seed, shape=(120, 128), span=120.0, surroundings=Surroundings(Air(0.4)))
    values = {f.name: getattr(base, f.name) for f in fields(World) if f.name != "_kept"}
    w = Spoilt(**values, change=CASES[name], shadow=wobbling if CASES[name] is wobble else None)
    w.surroundings = replace(w.surroundings, ice=None)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        found = run(w, folder, prepare(w, folder), rings="mask")
    masked = np.zeros(w.shape, bool)
    for values_found in found.found.values():
        masked |= ~np.isfinite(values_found)
    image = w._kept.get("rings", np.zeros(w.shape))
    n = w.scans[0].n_frames
    course = [CASES[name](w, {"air": 0 * w.q}, 0, z).get("wall", 0 * w.q).sum() for z in range(n)]
    order = np.sort(course)[-n // 2 :].mean() / max(float(image.sum()), 1e-9)
    edges = np.linspace(w.q[~w.blind].min(), w.q.max(), 60)
    shell = np.digitize(w.q, edges)
    use = ~w.blind & ~masked
    left = np.bincount(shell[use], image[use], 62) / np.maximum(
        np.bincount(shell[use], None, 62), 1
    )
    per = np.bincount(shell[use], (w.norm * w._level)[use], 62)
    per = per / np.maximum(np.bincount(shell[use], None, 62), 1) * w.scale
    large = np.bincount(shell[use], None, 62) > 30
    worst = float((order * left / np.maximum(per, 1e-9))[large].max())
    m = found.metrics
    bad = worst > 0.03
    told = bool(m["warnings"])
    verdict = "reported" if told else "SILENT" if bad else "right"
    print(f"RESULT {crystal} {name}: worst shell {worst:.1%} of the level left, {verdict}")
    print("     masked", round(float(masked[~w.blind].mean()), 3), "rings", m["powder rings"])
    for text in m["warnings"]:
        print("     says:", text[:400], flush=True)


def main() -> None:
    """Attack each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="case")
    parser.add_argument("--seed", type=int, default=201)
    parser.add_argument("--crystal", default="organic")
    asked = parser.parse_args()
    for name in asked.names or CASES:
        attack(name, asked.seed, asked.crystal)


if __name__ == "__main__":
    main()
