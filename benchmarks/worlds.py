"""Indexing and refinement in simulated worlds that break their assumptions, against the truth.

``python -m benchmarks.worlds [N] [FIRST]`` makes N worlds (default 200) with seeds from FIRST on
(default 0), indexes and refines each as a parent from its cell alone, and counts by kind: right
(cell and orientation within 5 σ of the truth), reported (a warning says what is wrong), refused,
and silently wrong. Phase transitions need a parent and are left out.
"""

import contextlib
import io
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from tests.truth import worlds
from tests.truth.world_scans import Answer, answered

_FAR = 5.0  # σ


def verdict(answer: Answer) -> str:
    """Say how an answer compares with the truth."""
    if answer.refusal:
        return "refused"
    if answer.said:
        return "reported"
    return "right" if answer.worst < _FAR else "silently wrong"


def main(number: int = 200, first: int = 0) -> None:
    """Print the table, and each world that went wrong without a word."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for kind, system, seed in worlds.catalogue(number, first):
        if "transition" in kind:
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            answer = answered(worlds.world(kind, system, seed), Path(folder))
        told = verdict(answer)
        table["pairs" if "+" in kind else kind.partition(":")[0]][told] += 1
        if told == "silently wrong":
            print(f"silently wrong: {kind} {system} {seed}: {answer.worst:.1f} sigma", flush=True)
    columns = ("right", "reported", "refused", "silently wrong")
    print(f"{'kind':24s}" + "".join(f"{name:>16s}" for name in columns))
    for kind, counts in table.items():
        print(f"{kind:24s}" + "".join(f"{counts[name]:16d}" for name in columns))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
