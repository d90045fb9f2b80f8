"""What is said of crystals and beams that move during a scan, and cells beside broad maxima.

Peak tables of simulated worlds are indexed and refined as parents from their cell alone. What is
asked is what the data can tell: the bounds are those of `tests.truth.fisher`, from the simulator's
own geometry.

``python -m benchmarks.motions COMMAND [N] [FIRST] [MINUTES]`` makes N worlds with seeds from FIRST
on (default 40000), and ends after MINUTES with those that it has. COMMAND is

* ``motions``: slips, drifts, wobbles, crystals off the axis, beams that move, cells that change, by
  0.5 to 500 standard deviations;
* ``cells``: diffuse maxima 1.5 to 10 times as wide as the spots;
* ``plain``: nothing moves, every sentence is a false alarm.
"""

import contextlib
import io
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from tests.truth.fisher import Bound, bound, every
from tests.truth.world_scans import Answer, answered
from tests.truth.worlds import BRAGG, DIFFUSE, SYSTEMS, World, world
from tests.truth.worlds_physics import Motion, rotation

from benchmarks.leftovers import told
from hklflow import geometry
from hklflow.geometry.parameters import rotation_vector
from hklflow.stages import find_peaks

Floats = NDArray[np.float64]
T = TypeVar("T")

FAR = 5.0  # σ
FEWEST = 20  # reflections: other worlds are drawn for those that have not as many
# What is told, and the largest size that is made.
KINDS = {
    "slip": ("slip", 5.0),
    "drift": ("drift", 2.0),
    "wobble": ("wobble", 0.3),
    "off_centre": ("off centre", 3e-4),
    "beam_moves:position": ("beam position", 2e-4),
    "beam_moves:direction": ("beam direction", 0.1),
    "cell_changes": ("cell", 5e-3),
}


@dataclass(frozen=True)
class Drawn:
    """Counts of the highest voxel of strong spots (1 to 300), and mosaic spread (degrees)."""

    counts: float
    mosaic: float

    @property
    def strong(self) -> float:
        """Counts of strong spots, 0.85 pixels wide, in all voxels at 0.5° a frame."""
        frames = np.hypot(2 * self.mosaic, 12**-0.5)
        return float(self.counts * (2 * np.pi) ** 1.5 * 0.85**2 * frames)


def drawn(seed: int) -> Drawn:
    """Draw intensity and mosaic spread of a world."""
    rng = np.random.default_rng([seed, 21])
    return Drawn(
        float(np.exp(rng.uniform(0, np.log(300)))), float(np.exp(rng.uniform(*np.log([0.05, 1.5]))))
    )


def within(minutes: int, worlds: Iterable[T]) -> Iterator[T]:
    """Yield until the time is over."""
    end = monotonic() + 60 * minutes
    for made in worlds:
        if monotonic() > end:
            return
        yield made


def most(world: World, beside: Sequence[Motion] = ()) -> Bound:
    """What the peak table can tell at most, with the errors that stand in it."""
    pixels, frames = find_peaks.Params().sigma_floor
    return bound(world, (pixels, frames), beside)


def asked(world: World) -> Answer:
    """Index and refine a world, without the picture."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        patch("hklflow.stage.orientation.picture"),
        patch("hklflow.plots.save"),
    ):
        return answered(world, Path(folder))


def told_motions(answer: Answer) -> list[dict[str, Any]]:
    """Motions of which a sentence stands in the warnings, what explains most first."""
    found, warnings = answer.data["symmetry"].get("motions", []), answer.data["warnings"]
    return [motion for motion in found if any(motion["sentence"] in text for text in warnings)]


# ---------------------------------------------------------------- motions


def moving(number: int, first: int) -> Iterator[tuple[str, World]]:
    """Worlds in which one thing moves, by 0.5 to 500 of its least standard deviations."""
    i, seed = 0, first - 1
    while i < number:
        kind, system = list(KINDS)[i % len(KINDS)], SYSTEMS[i // len(KINDS) % len(SYSTEMS)]
        seed, largest = seed + 1, KINDS[kind][1]
        options = drawn(seed)
        given: dict[str, Any] = {"mosaic": options.mosaic, "strong": options.strong}
        times = np.exp(np.random.default_rng([seed, 3]).uniform(*np.log([0.5, 500])))
        known = most(world(kind, system, seed, largest / 100, **given))
        if known.n < FEWEST:
            continue
        size = min(largest / 100 / max(known.significance, 1e-3) * times, largest)
        i += 1
        yield kind, world(kind, system, seed, size, **given)


@dataclass(frozen=True)
class Judged:
    """One world: what happened, how much of it the data tell, and what was said."""

    verdict: str
    significance: float
    pulls: Floats
    """Of the two parts after the remedy; empty for what is no slip."""
    in_interval: bool | None = None
    frames_off: float | None = None


def judged(kind: str, made: World) -> Judged:
    """Compare what is said of a world with what happened in it."""
    limit, answer, none = most(made).significance, asked(made), np.array([])
    name = KINDS[kind][0]
    if answer.refusal:
        return Judged("refused", limit, none)
    motions = told_motions(answer)
    if not motions:
        plain = "reported" if answer.said else "silent"
        right = answer.worst < FAR
        return Judged(plain if right or answer.said else "silently wrong", limit, none)
    first = motions[0]
    verdict = "named" if first["kind"] == name else f"named {first['kind']}"
    if verdict == "named" and len({m["kind"] for m in motions}) > 1:
        verdict = "named and more"
    if verdict != "named" and name in first["others"]:
        more = every(first["kind"], made, first["periods"] or 1, first["frame"] or 0.0)
        if most(made, more).significance < FAR:
            verdict = "named as well"
    if name != "slip" or motions[0]["kind"] != name:
        return Judged(verdict, limit, none)
    frame, interval = made.effects[0]["frame"], motions[0]["interval"]
    inside = bool(interval[0] <= frame <= interval[1])
    pulls = remedied(made, interval)
    return Judged(verdict, limit, pulls, inside, abs(motions[0]["frame"] - frame))


def remedied(made: World, interval: tuple[float, float]) -> Floats:
    """Pulls of cell and orientation of both parts, refined as two rotations of the scan."""
    frame = made.peaks["frame"]
    parts = [frame < np.floor(interval[0]), frame > np.ceil(interval[1])]
    peaks = {
        name: np.concatenate([values[part] for part in parts])
        for name, values in made.peaks.items()
    }
    peaks["rotation"] = np.repeat([0, 1], [part.sum() for part in parts])
    answer = asked(replace(made, scans=made.scans * 2, peaks=peaks))
    if answer.refusal:
        return np.array([])
    heads = [
        geometry.from_dict(answer.data["rotations"][name]).goniometer.rotation(0.0)
        for name in ("r0", "r1")
    ]
    slipped = rotation(made.effects[0]["axis"], made.effects[0]["size"])
    off = rotation_vector(heads[0].T @ heads[1] @ slipped.T)
    refined = answer.data["refined_parameters"]
    sigma = np.array([refined[f"misorientation_1_{axis}"]["sigma"] for axis in "xyz"])
    return np.r_[answer.cell_pulls[answer.cell_pulls != 0], answer.turn_pulls, off / sigma]


def motions(number: int = 210, first: int = 40000, minutes: int = 600) -> None:
    """Print what is said of worlds in which something moves."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    every = []
    for kind, made in within(minutes, moving(number, first)):
        one = judged(kind, made)
        every.append((kind, one))
        determined = one.significance > FAR
        name = one.verdict if one.verdict in _COLUMNS else "misnamed"
        table[kind][name if determined else f"below: {name}"] += 1
        odd = determined and name != "named"
        if odd or name in ("silently wrong", "misnamed") or one.in_interval is False:
            effect = made.effects[0]
            print(
                f"{kind} {made.system} {made.seed}: {one.significance:.1f} sigma, size "
                f"{effect['size']:.3g}, {len(made.peaks['frame'])} peaks: {one.verdict}"
                + ("" if one.in_interval is not False else ", frame outside its interval"),
                flush=True,
            )
    print(f"\nbeyond {FAR:g} sigma:\n{'':24s}" + "".join(f"{name:>16s}" for name in _COLUMNS))
    for kind, counts in table.items():
        print(f"{kind:24s}" + "".join(f"{counts[name]:16d}" for name in _COLUMNS))
    below = Counter(n for c in table.values() for n in c.elements() if n.startswith("below"))
    print("below it:", dict(below))
    slips = [one for kind, one in every if kind == "slip" and one.in_interval is not None]
    if slips:
        far = [one.frames_off for one in slips if one.significance > 20]
        print(
            f"{len(slips)} slips: {np.mean([s.in_interval for s in slips]):.1%} within their "
            f"interval; farthest beyond 20 sigma: {max(far, default=0):.1f} frames of {len(far)}; "
            f"not refined after the remedy: {sum(not len(s.pulls) for s in slips)}"
        )
        spread("after the remedy", np.concatenate([s.pulls for s in slips]))


_COLUMNS = (
    *("named", "named as well", "named and more", "misnamed"),
    *("reported", "refused", "silent", "silently wrong"),
)


def spread(what: str, pulls: Floats) -> None:
    """Print mean, width and the largest of pulls."""
    print(
        f"{what}: {len(pulls)} pulls: mean {pulls.mean():+.3f}, width {pulls.std():.3f}, farthest "
        f"{np.abs(pulls).max():.1f}"
    )


# ---------------------------------------------------------------- cells


def broad(number: int, first: int) -> Iterator[World]:
    """Worlds with maxima 1.5 to 10 times as wide as the spots."""
    have, seed = 0, first
    while have < number:
        options = drawn(seed)
        made = world(
            "broad",
            SYSTEMS[have % len(SYSTEMS)],
            seed,
            mosaic=options.mosaic,
            strong=options.strong,
        )
        seed += 1
        enough = np.sum(made.peaks["origin"] == BRAGG) >= FEWEST
        if enough and 1.5 <= np.hypot(1, made.effects[0]["width_factor"]) <= 10:
            have += 1
            yield made


_KNOWN = 1e-3  # relative, and of angles in radians: a cell that the data determine


def cells(number: int = 200, first: int = 40000, minutes: int = 600) -> None:
    """Print the pulls of cells and orientations beside broad maxima."""
    pulls: dict[str, list[Floats]] = defaultdict(list)
    table: Counter[str] = Counter()
    for made in within(minutes, broad(number, first)):
        limit, answer = most(made), asked(made)
        known = limit.cell < _KNOWN
        what = f"{made.system} {made.seed}: width {made.effects[0]['width_factor']:.2f}, " + (
            f"{np.sum(made.peaks['origin'] == DIFFUSE)} of {len(made.peaks['frame'])} peaks"
            f" diffuse, sigma(cell) {limit.cell:.1e}"
        )
        if answer.refusal:
            table["refused" if known else "refused, not determined"] += 1
            if known:
                print(f"{what}: {answer.refusal}", flush=True)
            continue
        far = "" if answer.worst < FAR else "wrong, "
        said = "reported" if answer.said else "no sentence"
        table[far + said] += 1
        pulls[f"cell, {said}"].append(answer.cell_pulls[answer.cell_pulls != 0])
        pulls[f"orientation, {said}"].append(answer.turn_pulls)
        if answer.worst > 4 or answer.said:
            print(f"{what}: {answer.worst:.1f} sigma; {answer.said}", flush=True)
    print(dict(table))
    for name, values in pulls.items():
        spread(name, np.concatenate(values))


# ---------------------------------------------------------------- nothing


def plain(number: int = 1000, first: int = 40000, minutes: int = 600) -> None:
    """Print the sentences on worlds in which nothing is wrong, and the pulls."""
    table: Counter[str] = Counter()
    pulls: dict[str, list[Floats]] = {"cell": [], "orientation": []}
    for i in within(minutes, range(number)):
        seed = first + i
        options = drawn(seed)
        made = world(
            "plain",
            SYSTEMS[i % len(SYSTEMS)],
            seed,
            mosaic=options.mosaic,
            strong=options.strong,
        )
        answer = asked(made)
        if answer.refusal:
            table["refused"] += 1
            continue
        said = told(answer)
        table["false alarm" if said else "quiet"] += 1
        table["beyond 5 sigma"] += answer.worst > FAR
        pulls["cell"].append(answer.cell_pulls[answer.cell_pulls != 0])
        pulls["orientation"].append(answer.turn_pulls)
        if said or answer.worst > FAR:
            print(f"{made.system} {seed}: {answer.worst:.1f} sigma; {said}", flush=True)
    print(dict(table))
    for name, values in pulls.items():
        spread(name, np.concatenate(values))


if __name__ == "__main__":
    commands = {"motions": motions, "cells": cells, "plain": plain}
    commands[sys.argv[1]](*map(int, sys.argv[2:]))
