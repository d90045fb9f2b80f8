"""Speed of two versions of hklflow, round after round in turn.

    python -m benchmarks.versions BEFORE AFTER [ROUNDS]

BEFORE and AFTER are checkouts. Each round runs the lines of `benchmarks.speed` that are hklflow's
in both, with this interpreter. Printed are the ratios of CPU time, AFTER to BEFORE, of the medians,
with the 95 % interval by resampling the rounds.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

_PARTS = "transform,options,peaks"


def _round(checkout: Path) -> dict[str, float]:
    """Return the CPU seconds of each line, by its key."""
    data = checkout / ".bench/versions"
    paths = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": f"{checkout / 'src'}"}
    command = [sys.executable, "-m", "benchmarks.speed", "--rounds", "1", "--only", _PARTS]
    command += ["--data", str(data), "--peers", "none"]
    subprocess.run(
        command, cwd=checkout, env=os.environ | paths, check=True, stdout=subprocess.DEVNULL
    )
    jobs = json.loads((data / "results.json").read_text())["jobs"]
    return {key: job["runs"][0]["cpu"] for key, job in jobs.items() if job["runs"]}


def compare(before: Path, after: Path, rounds: int = 10) -> None:
    """Print the ratio of each line."""
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for i in range(rounds):
        order = (before, after)[:: 1 if i % 2 else -1]
        made = {checkout: _round(checkout) for checkout in order}
        for key in made[before].keys() & made[after].keys():
            seconds[key] += [(made[before][key], made[after][key])]
        print(f"round {i + 1} of {rounds}", flush=True)
    rng = np.random.default_rng(0)
    print("| line | ratio of medians | 95 % |\n| --- | ---: | ---: |")
    for key, pairs in sorted(seconds.items()):
        values = np.array(pairs)
        drawn = np.median(values[rng.integers(0, len(values), (2000, len(values)))], axis=1)
        low, high = np.quantile(drawn[:, 1] / drawn[:, 0], [0.025, 0.975])
        middle = np.median(values, axis=0)
        print(f"| {key} | {middle[1] / middle[0]:.3f} | {low:.3f} to {high:.3f} |")


if __name__ == "__main__":
    folders = [Path(argument).resolve() for argument in sys.argv[1:3]]
    compare(*folders, *map(int, sys.argv[3:]))
