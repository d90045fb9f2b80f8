"""Clusters of trajectories against simulated series.

    python -m benchmarks.cluster_truth index --half dev      # adjusted Rand index
    python -m benchmarks.cluster_truth index --world scattered
    python -m benchmarks.cluster_truth null --half dev       # series in which nothing changes
    python -m benchmarks.cluster_truth speed --size 251      # time and memory, with files

The simulators (`tests/truth/trajectories.py`: points, rods and a sheet; `tests/truth/scattered.py`:
many small features, 2 to 5 courses) import nothing of hklflow. Even seeds were used in the
development (``dev``), and of the odd ones (``final``) 1, 3, 5 and 7 of the first. "whole": 2 σ is
the significance of the whole trajectory of one voxel beyond a straight line; "single": 2 σ is the
largest change over the σ of one voxel at one temperature.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth import scattered, trajectories

from hklflow import nexus, stage
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.series import find
from hklflow.series.change import Cuboid, Places
from hklflow.stages import cluster

NOTHING = [np.eye(3)]


def wishes() -> find.Wishes:
    """Return the defaults of the stage."""
    fields = cluster.Settings().model_dump()
    return find.Wishes(**{name: fields[name] for name in find.Wishes.__dataclass_fields__})


def run(world: trajectories.World, operations: Any = NOTHING) -> tuple[find.Trajectories, Places]:
    """Cluster a world that is in memory."""
    n = world.data.shape[1]
    grid = Grid(np.full(3, world.first), np.full(3, world.step), (n, n, n))
    b = lattice.b_matrix((*trajectories.CELL, 90, 90, 90))
    order = find.pivoted(world.temperatures)
    places = Places(grid, b.T @ b, np.array(operations, dtype=float))

    def read(part: Cuboid) -> Any:
        parts = (x[order][:, *part.region] for x in (world.data, world.errors))
        return tuple(np.ascontiguousarray(x) for x in parts)

    found = find.find(
        read,
        places,
        world.temperatures[order],
        wishes(),
        planes=16,
        threads=2,
        progress=lambda parts, n, text: parts,
    )
    return found, places


WORLDS: dict[str, Callable[..., trajectories.World]] = {
    "crossing": trajectories.world,
    "scattered": scattered.world,
}


def index(seeds: list[int], name: str) -> None:
    """Print the adjusted Rand index over the voxels that change."""
    print("σ    meaning  seed  clusters  simulated     index  missed  wrongly claimed")
    for sigmas, whole in ((2.0, True), (4.0, True), (2.0, False), (4.0, False)):
        values = []
        for seed in seeds:
            world = WORLDS[name](seed, sigmas=sigmas, whole=whole)
            found, _ = run(world)
            labels, true = np.zeros_like(world.labels), world.labels
            labels.flat[found.index] = found.label
            changed = true > 0
            value = trajectories.rand_index(true[changed], labels[changed])
            values.append(value)
            extra = np.count_nonzero(labels[~changed]) / np.count_nonzero(changed)
            print(
                f"{sigmas:g}    {'whole ' if whole else 'single'}   {seed:4d}  "
                f"{len(found.size):8d}  {len(world.courses):12d}  "
                f"{value:5.3f}  {np.mean(labels[changed] == 0):6.1%}  {extra:6.1%}",
                flush=True,
            )
        print(f"  mean {np.mean(values):.3f}, lowest {np.min(values):.3f}")


def null(seeds: list[int], name: str) -> None:
    """Print the number of series without a change in which one is claimed."""
    claims = []
    for seed in seeds:
        symmetric = name == "crossing" and seed % 5 == 0
        more = {}
        if name == "crossing":
            flat, level = (0.0, 0.4)[seed // 2 % 2], (40.0, 4.0, 400.0)[seed // 2 % 3]
            more = {"flat": flat, "level": level, "symmetric": symmetric}
        world = WORLDS[name](seed, changes=False, n=41, drift=0.06, **more)
        found, _ = run(world, trajectories.MMM if symmetric else NOTHING)
        if len(found.size):
            claims.append((seed, found.size.tolist()))
            print(f"seed {seed}: clusters of {found.size.tolist()} voxels", flush=True)
    print(f"{len(claims)} of {len(seeds)} series with a claim")


def speed(size: int, operations: Any) -> None:
    """Print time and memory of the stage with 20 volumes in files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grid = Grid(np.full(3, -2.0), np.full(3, 4.0 / (size - 1)), (size,) * 3)
        random = np.random.default_rng(0)
        axis = grid.axis(0)
        ball = np.abs(np.abs(axis) - 0.5) < 0.1
        spots = ball[:, None, None] & ball[:, None] & ball
        q2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
        paths, temperatures = [], np.linspace(20, 300, 20)
        for i, t in enumerate(temperatures):
            mean = (30 + 10 * np.cos(2 * np.pi * axis) + 10 * t / 300) * np.exp(-q2 * t / 6000)
            mean = mean + spots * 15 * max(0.0, 1 - t / 150)
            counts = random.poisson(mean).astype(np.float32)
            path = folder / f"{i}.nxs"
            notes = {"operations": [x.tolist() for x in operations]}
            cell = np.array([*trajectories.CELL, 90.0, 90.0, 90.0])
            types = {"data": np.float32, "data_errors": np.float32}
            arrays = {"counts": counts, "norm": np.ones_like(counts)}
            types |= {"counts": np.float32, "norm": np.float32}
            errors = np.sqrt(mean).astype(np.float32)
            with nexus.GridWriter(path, grid, cell, "S(Q)", types) as writer:
                writer.write(0, data=counts, data_errors=errors, **arrays)
                writer.note(notes)
            paths.append(path)
        del counts, errors, mean, arrays, q2, spots
        params = cluster.Params(
            scans=[path.stem for path in paths], temperatures=temperatures.tolist()
        )
        job = {
            "inputs": [str(path) for path in paths],
            "params": json.loads(params.model_dump_json()),
        }
        (folder / "job.json").write_text(json.dumps(job))
        # A process of its own, so that its memory is that of the stage.
        command = [sys.executable, "-m", "benchmarks.cluster_truth", "job", str(folder)]
        subprocess.run(command, check=True)


def job(folder: Path) -> None:
    """Run the stage on the files of a folder."""
    given = json.loads((folder / "job.json").read_text())
    start, cpu = time.monotonic(), time.process_time()
    stage.run(
        cluster.main,
        inputs=cluster.Inputs(volumes=[Path(path) for path in given["inputs"]]),
        outputs=cluster.Outputs(
            clusters=folder / "c.nxs", picture=folder / "c.png", metrics=folder / "c.json"
        ),
        params=cluster.Params(**given["params"]),
        threads=2,
    )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{time.monotonic() - start:.0f} s, {time.process_time() - cpu:.0f} s of both cores, "
        f"{memory:.2f} GB"
    )


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["index", "null", "speed", "job"])
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--world", choices=list(WORLDS), default="crossing")
    parser.add_argument("--half", choices=["dev", "final"], default="dev")
    parser.add_argument("--number", type=int, default=0)
    parser.add_argument("--size", type=int, default=251)
    parser.add_argument("--mmm", action="store_true", help="symmetrised volumes")
    given = parser.parse_args()
    first = 0 if given.half == "dev" else 1
    number = given.number or {"index": 5, "null": 100}.get(given.part, 0)
    seeds = list(range(first, first + 2 * number, 2))
    if given.part == "index":
        index(seeds, given.world)
    elif given.part == "null":
        null(seeds, given.world)
    elif given.part == "speed":
        speed(given.size, trajectories.MMM if given.mmm else NOTHING)
    else:
        job(Path(given.folder))


if __name__ == "__main__":
    main()
