"""Every stage that states something, in simulated worlds of raw frames, against the truth.

``python -m benchmarks.frame_worlds [N] [FIRST]`` makes N worlds (default 60) with seeds from FIRST
on (default 0), reduces each from raw frames to S(Q), and counts for each stage and kind: right,
reported, refused, silently wrong. ``python -m benchmarks.frame_worlds cells N FIRST`` makes N
crystals with spots and maxima of all widths, and prints the pulls of cell and orientation,
refined and converged. ``refined N FIRST`` does the same without converging, which takes a tenth of
the time, and ``motions N FIRST`` for crystals and beams that move. ``stages N FIRST`` is the table
without converging.
"""

import contextlib
import io
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tests.truth import frames
from tests.truth.frame_scans import JUDGED, Reduced, reduced
from tests.truth.frames_world import FrameWorld
from tests.truth.worlds_draft import SYSTEMS

_MOTIONS = ("slip", "drift", "wobble", "off_centre", "beam_moves", "cell_changes")


def _reduced(world: FrameWorld, last: str, *, convergence: bool = True) -> Reduced:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        return reduced(world, Path(folder), last=last, convergence=convergence)


def table(number: int = 60, first: int = 0, *, convergence: bool = True) -> None:
    """Print what each stage made of each kind of world, and the table."""
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for kind, system, seed in frames.frame_catalogue(number, first):
        if "transition" in kind:
            continue
        world = frames.frame_world(kind, system, seed)
        found = _reduced(world, "symmetrise", convergence=convergence)
        verdicts = {name: found.verdict(name) for name in found.wrong}
        verdicts |= dict.fromkeys(found.refused, "refused")
        figures = ", ".join(f"{name} {found.wrong[name]:.2g}" for name in found.wrong)
        print(f"{kind} {system} {seed}: {figures}", flush=True)
        for name, sentence in found.refused.items():
            print(f"    refused by {name}: {sentence}", flush=True)
        for name, sentences in found.said.items():
            for sentence in sentences:
                print(f"    {name}: {sentence}", flush=True)
        for name, verdict in verdicts.items():
            rows[name, "pairs" if "+" in kind else kind.partition(":")[0]][verdict] += 1
            if verdict == "silently wrong":
                print(f"    SILENTLY WRONG: {name} {found.figures}", flush=True)
    columns = ("right", "reported", "refused", "silently wrong")
    print(f"{'stage':14s}{'kind':24s}" + "".join(f"{name:>16s}" for name in columns))
    for (name, kind), counts in sorted(rows.items()):
        print(f"{name:14s}{kind:24s}" + "".join(f"{counts[c]:16d}" for c in columns))
    total = sum((c for (name, _), c in rows.items() if name in JUDGED), Counter())
    print(f"{'all':38s}" + "".join(f"{total[c]:16d}" for c in columns))


def cells(number: int = 50, first: int = 0, *, convergence: bool = True) -> None:
    """Print the pulls of cell and orientation of crystals of all systems, from frames."""
    worlds = []
    for seed in range(first, first + number):
        rng = np.random.default_rng(seed)
        mosaic = float(np.exp(rng.uniform(*np.log([0.05, 1.5]))))
        strong = float(np.exp(rng.uniform(*np.log([3e3, 1e5]))))
        worlds += [(seed, ("plain", "broad")[seed % 2], {"mosaic": mosaic, "strong": strong})]
    _pulls(worlds, convergence)


def motions(number: int = 40, first: int = 0) -> None:
    """Print what is said of crystals and beams that move, and the pulls."""
    seeds = range(first, first + number)
    _pulls([(seed, _MOTIONS[i % len(_MOTIONS)], {}) for i, seed in enumerate(seeds)], False)


def _pulls(worlds: Sequence[tuple[int, str, dict[str, float]]], convergence: bool) -> None:
    """Reduce worlds (seed, kind, options) to an orientation; print each, and pulls by verdict."""
    pulls: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for i, (seed, kind, options) in enumerate(worlds):
        system = SYSTEMS[i % len(SYSTEMS)]
        world = frames.frame_world(kind, system, seed, **options)
        found = _reduced(world, "converge", convergence=convergence)
        text = f"{kind} {system} {seed} {options}: "
        for name, which in (("refine", ""), ("converge", " converged")):
            if name in found.wrong:
                own = found.figures[f"pulls of cell and orientation{which}"]
                said = any(
                    found.said.get(n) for n in ("refine", "accept", "converge", "find_peaks")
                )
                pulls[name, "reported" if said else "not reported"] += [own[own != 0]]
                text += f"{name} worst {np.abs(own).max():.2f}, {found.verdict(name)}; "
        print(text + f" {found.refused or found.said.get('accept', '')}", flush=True)
    for (name, said), own in pulls.items():
        every = np.concatenate([np.zeros(0), *own])
        print(
            f"{name}, {said}: {len(own)} of {len(worlds)}: pulls {every.mean():.2f} ± "
            f"{every.std():.2f}, largest {np.abs(every).max(initial=0):.2f}"
        )


if __name__ == "__main__":
    commands = {
        "cells": cells,
        "refined": partial(cells, convergence=False),
        "motions": motions,
        "stages": partial(table, convergence=False),
    }
    if sys.argv[1:2] and sys.argv[1] in commands:
        commands[sys.argv[1]](*map(int, sys.argv[2:]))
    else:
        table(*map(int, sys.argv[1:]))
