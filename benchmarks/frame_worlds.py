"""Every stage that states something, in simulated worlds of raw frames, against the truth.

``python -m benchmarks.frame_worlds [N] [FIRST]`` makes N worlds (default 60) with seeds from FIRST
on (default 0), reduces each from raw frames to S(Q), and counts for each stage and kind: right,
reported, refused, silently wrong. ``python -m benchmarks.frame_worlds cells N FIRST`` makes N
crystals with spots and maxima of all widths, and prints the pulls of cell and orientation,
refined and converged.
"""

import contextlib
import io
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from tests.truth import frames
from tests.truth.frame_scans import JUDGED, Reduced, reduced
from tests.truth.frames_world import FrameWorld
from tests.truth.worlds_draft import SYSTEMS


def _reduced(world: FrameWorld, *, volume: bool) -> Reduced:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        return reduced(world, Path(folder), volume=volume)


def table(number: int = 60, first: int = 0) -> None:
    """Print what each stage made of each kind of world, and the table."""
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for kind, system, seed in frames.frame_catalogue(number, first):
        if "transition" in kind:
            continue
        found = _reduced(frames.frame_world(kind, system, seed), volume=True)
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


def cells(number: int = 50, first: int = 0) -> None:
    """Print the pulls of cell and orientation of crystals of all systems, from frames."""
    pulls: dict[str, list[np.ndarray]] = {"refine": [], "converge": []}
    for seed in range(first, first + number):
        rng = np.random.default_rng(seed)
        kind = ("plain", "broad")[seed % 2]
        system = SYSTEMS[seed % len(SYSTEMS)]
        mosaic = float(np.exp(rng.uniform(*np.log([0.05, 1.5]))))
        strong = float(np.exp(rng.uniform(*np.log([3e3, 1e5]))))
        world = frames.frame_world(kind, system, seed, mosaic=mosaic, strong=strong)
        found = _reduced(world, volume=False)
        text = f"{kind} {system} {seed} mosaic {mosaic:.2f} strong {strong:.2g}: "
        for name, which in (("refine", ""), ("converge", " converged")):
            if name in found.wrong:
                own = found.figures[f"pulls of cell and orientation{which}"]
                pulls[name] += [own[own != 0]]
                text += f"{name} worst {np.abs(own).max():.2f}, {found.verdict(name)}; "
        print(text + f" {found.refused or found.said.get('accept', '')}", flush=True)
    for name, own in pulls.items():
        every = np.concatenate([np.zeros(0), *own])
        print(
            f"{name}: {len(own)} of {number}: pulls {every.mean():.2f} ± {every.std():.2f}, "
            f"largest {np.abs(every).max(initial=0):.2f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["cells"]:
        cells(*map(int, sys.argv[2:]))
    else:
        table(*map(int, sys.argv[1:]))
