"""Time and memory of cuts of a symmetrised volume of 1001 x 1001 x 1001 voxels by `hklflow.open`.

    python -m benchmarks.cuts FOLDER

Writes the volume (cubic, 48 operations) to FOLDER, with all blocks that the cuts touch, then makes
each cut in a process of its own. Columns: seconds of the method after imports, its CPU seconds
(which do not depend on other programs), CPU seconds of the process with the imports, the largest
memory in MB, and the CPU seconds of h5py that only reads the same numbers. Run it twice: the first
run may read from disk.
"""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

from hklflow import nexus
from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import space_group
from hklflow.nexus.chunks import pack

POINT, RATIO = ("data", "data_errors"), ("counts", "norm", "data_errors")
# Each cut, and what h5py reads for it: arrays and their part (l, k, h).
CUTS = {
    "plane hk0": ("plane('hk0')", POINT, np.s_[500]),
    "plane h0l": ("plane('h0l')", POINT, np.s_[:, 500]),
    "plane 0kl": ("plane('0kl')", POINT, np.s_[:, :, 500]),
    "plane hk0, 0.1 r.l.u. thick": ("plane('hk0', 0.1)", RATIO, np.s_[499:502]),
    "plane h0l, 0.1 r.l.u. thick": ("plane('h0l', 0.1)", RATIO, np.s_[:, 499:502]),
    "plane 0kl, 0.1 r.l.u. thick": ("plane('0kl', 0.1)", RATIO, np.s_[:, :, 499:502]),
    "line along h": ("line((-25, 0, 0), (25, 0, 0), 0.3)", RATIO, np.s_[498:503, 498:503]),
    "line along k": ("line((0, -25, 0), (0, 25, 0), 0.3)", RATIO, np.s_[498:503, :, 498:503]),
    "line along l": ("line((0, 0, -25), (0, 0, 25), 0.3)", RATIO, np.s_[:, 498:503, 498:503]),
    "box of 41 x 41 x 41 voxels": (
        "box(h=(4, 6), k=(-1, 1), l=(-1, 1))",
        RATIO,
        np.s_[480:521, 480:521, 580:621],
    ),
}
RUN = """
import resource, sys, time
import hklflow
volume = hklflow.open(sys.argv[1])
import hklflow.results.dataset
start, cpu = time.perf_counter(), time.process_time()
volume.{}
end, whole = time.perf_counter(), time.process_time()
print(end - start, whole - cpu, whole, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def write(path: Path, half: float = 25.0) -> None:
    """Write a volume from -half to half along each axis, with the blocks around its middle."""
    grid = Grid.symmetric(half, 0.05)
    cell = np.array([4.0, 4.0, 4.0, 90.0, 90.0, 90.0])
    rng = np.random.default_rng(0)
    norm = rng.uniform(10, 40, (16, 32, 32)).astype(np.float32)
    counts = rng.poisson(3 * norm).astype(np.uint32)
    arrays = {
        "data": (counts / norm).astype(np.float32),
        "data_errors": (np.sqrt(3 * norm) / norm).astype(np.float32),
        "counts": counts,
        "norm": norm,
    }
    with nexus.VolumeWriter(path, grid, cell, "S(Q)", np.uint32, True) as writer:
        for name, dataset in writer.datasets.items():
            packed = pack(arrays[name])
            steps = zip(grid.array_shape, dataset.chunks, strict=True)
            blocks = [np.arange(0, n, step) for n, step in steps]
            near = [np.abs(at - grid.shape[0] // 2) < 2.4 * at[1] for at in blocks]
            l, k, h = (zip(at, close, strict=True) for at, close in zip(blocks, near, strict=True))  # noqa: E741
            for (a, one), (b, two), (c, three) in itertools.product(l, k, h):
                if one or two or three:
                    dataset.id.write_direct_chunk((a, b, c), packed)
        operations = space_group("P m -3 m").laue_operations.tolist()
        writer.note({"operations": operations, "laue_group": "m-3m"})


def main() -> None:
    path = Path(sys.argv[1]) / "large.nxs"
    if not path.exists():
        write(path)
    with h5py.File(path) as file:
        print(f"{file['entry/transform/data'].shape}, {path.stat().st_size / 1e9:.1f} GB")
    rows = {}
    for name, (cut, arrays, part) in CUTS.items():
        command = [sys.executable, "-c", RUN.format(cut), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, cpu, whole, memory = map(float, done.stdout.split())
        plain = time.process_time()
        with h5py.File(path) as file:
            for array in arrays:
                file["entry/transform"][array][part]
        plain = time.process_time() - plain
        rows[name] = {
            "s": seconds,
            "CPU s": cpu,
            "CPU s of the process": whole,
            "MB": memory,
            "CPU s of h5py": plain,
        }
        times = f"{seconds:6.2f} s {cpu:6.2f} s {whole:6.2f} s"
        print(f"{name:30} {times} {memory:6.0f} MB {plain:6.2f} s", flush=True)
    (Path(sys.argv[1]) / "cuts.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
