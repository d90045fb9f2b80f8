"""Simulated frames reduced by the workflow, and what it made of them against the truth.

    python -m benchmarks.frame_workflow FOLDER plain/cubic/3 slip/hexagonal/21

Each world, `kind/system/seed`, is an experiment of its own below FOLDER, reduced as far as the
volume S(Q); `--catalogue N` takes the first N of the catalogue.
"""

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np
from tests.truth import frames_judge as judge
from tests.truth.frames import frame_catalogue, frame_world
from tests.truth.frames_write import write


def reduced(folder: Path, target: str) -> float:
    """Run the workflow with one core, and return the seconds it took."""
    start = time.perf_counter()
    subprocess.run(["hklflow", "init", "."], cwd=folder, capture_output=True, check=True)
    command = ["snakemake", "--cores", "1", target]
    subprocess.run(command, cwd=folder, capture_output=True, check=False)
    return time.perf_counter() - start


def report(kind: str, system: str, seed: int, folder: Path) -> None:
    start = time.process_time()
    world = frame_world(kind, system, seed)
    write(world, folder)
    simulated = time.process_time() - start
    scan = "child" if world.parent else "scan"
    results = folder / "results" / "world" / scan
    seconds = reduced(folder, f"results/world/{scan}/transform.nxs")
    size = world.effects[-1]["size"] if world.effects else 0.0
    print(f"{kind} {system} {seed}, size {size:.3g}: {simulated:.0f} s + {seconds:.0f} s")
    if (results / "accepted.json").exists():
        verdict, sentences = judge.sentences(results / "accepted.json")
        print("  " + "\n    ".join([verdict, *sentences]))
    else:
        done = subprocess.run(["hklflow", "status"], cwd=folder, capture_output=True, text=True)
        print("  " + "\n  ".join(x for x in done.stdout.splitlines() if x.startswith("fail")))
    if (results / "r1" / "peaks.nxs").exists():
        print("  ", judge.peaks(world, 0, results / "r1" / "peaks.nxs"))
    if not (results / "orientation.json").exists():
        return
    crystal = judge.crystal(world, results / "orientation.json")
    print("  ", crystal)
    if (results / "transform.nxs").exists() and np.isfinite(crystal.setting).all():
        print("  ", judge.diffuse(world, results / "transform.nxs", crystal.setting))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("worlds", nargs="*")
    parser.add_argument("--catalogue", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    worlds = frame_catalogue(given.catalogue, given.seed)
    for text in given.worlds:
        kind, system, seed = text.rsplit("/", 2)
        worlds.append((kind, system, int(seed)))
    for kind, system, seed in worlds:
        name = "".join(c if c.isalnum() else "-" for c in f"{kind}-{system}-{seed}")
        report(kind, system, seed, given.folder / name)


if __name__ == "__main__":
    main()
