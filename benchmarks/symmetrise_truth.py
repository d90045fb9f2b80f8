"""Is the symmetrised S(Q) right, and what does it take?

    python -m benchmarks.symmetrise_truth [--large FOLDER]

For each Laue group: Poisson counts (0.5 and 20 per voxel and volume) of an S of |Q| on 61³ voxels
in two volumes, half of them measured, are symmetrised. Pulls of one voxel of each orbit: all, those
on symmetry elements, and those within two voxels of a plane at 0. With streaks added to one volume:
what of them was left out, and what else was.

With --large: the stage on one volume of 501³ voxels (m-3m, and 6/mmm), in memory and with a quarter
of what it needs, in processes of their own: seconds, and largest anonymous and file-backed memory.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tests.truth.orientations import write_orientation

from hklflow import nexus
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.grid import Grid
from hklflow.transform import estimator
from hklflow.volumes import symmetrise
from hklflow.volumes import symmetrise_kernels as columns

GROUPS = ("P -1", "P 1 2/m 1", "P m m m", "P 4/m", "P 4/m m m", "P -3", "P -3 m 1", "P -3 1 m",
          "P 6/m", "P 6/m m m", "P m -3", "P m -3 m")  # fmt: skip
GRID = Grid(np.full(3, -3.0), np.full(3, 0.1), (61, 61, 61))
GENERIC = np.array([7.1, 8.2, 9.3, 84.0, 97.0, 106.0])


def summed(
    symbol: str, counts: np.ndarray, norm: np.ndarray
) -> tuple[symmetrise.Records, symmetrise.Agreement]:
    """Symmetrise with the stage's defaults."""
    group = symmetry.space_group(symbol)
    maps = symmetrise.images(GRID, group.laue_operations)
    records = symmetrise.Records(GRID, len(counts), False, True, False)
    records.put((0, 0), [counts, norm])
    cell = symmetry.constrain_cell(GENERIC, group)
    agreement = symmetrise.apply(
        records, maps, cell, n_sigma=6, tolerance=0.1, bragg_radius=0, threads=2
    )
    return records, agreement


def table() -> None:
    """Print pulls and rejections for all Laue groups."""
    index = np.rint(np.stack(np.meshgrid(*[GRID.axis(0) * 10] * 3, indexing="ij"), -1))
    index = index[..., ::-1].reshape(-1, 3)
    print("Laue group   mean   all: mean width   special          near          chi2  CC1/2  "
          "rejected clean, streak voxels found, other rejected")  # fmt: skip
    rng = np.random.default_rng(1)
    for symbol in GROUPS:
        group = symmetry.space_group(symbol)
        b = lattice.b_matrix(symmetry.constrain_cell(GENERIC, group))
        q = np.linalg.norm(index @ b.T / 10, axis=1).reshape(GRID.array_shape)
        unit = group.asymmetric(index)
        _, leader, orbit = np.unique(unit, axis=0, return_index=True, return_inverse=True)
        size = np.bincount(orbit.ravel())
        special = size < size.max()
        near = (np.abs(index[leader]).min(axis=1) <= 2) & ~special
        for mean in (0.5, 20.0):
            rate = mean * (1 + 0.5 * np.cos(4 * q))
            norm = rng.uniform(0.3, 1.7, (2, *GRID.array_shape)).astype(np.float32)
            norm[rng.random(norm.shape) < 0.5] = 0
            counts = rng.poisson(rate * norm).astype(np.uint32)
            records, agreement = summed(symbol, counts, norm)
            c, m = records.planes(0, 61)
            data, errors = estimator.intensity(c, m, 2)
            pull = ((data - rate) / errors).ravel()[leader]
            shown = "".join(
                f"{np.nanmean(part):8.3f} {np.nanstd(part):6.3f}" if len(part) > 9 else 15 * " "
                for part in (pull, pull[special], pull[near])
            )
            clean = agreement.rejected.sum()
            streak = np.zeros(counts.shape, bool)
            streak[0, 40, 41, 5:50] = streak[0, 15:50, 12, 52] = True
            streak &= norm > 0
            counts[streak] += rng.poisson(10 * mean + 40, streak.sum()).astype(np.uint32)
            _, after = summed(symbol, counts, norm)
            chi2 = agreement.total(columns.CHI2) / max(agreement.total(columns.DOF), 1)
            print(
                f"{group.laue:6} {symbol:11} {mean:4g} {shown} {chi2:8.3f} "
                f"{agreement.overall_half_correlation:6.3f} {clean:6d}  {after.rejected[0]:4d}"
                f"/{streak.sum()}  {after.rejected[1]}",
                flush=True,
            )


def large(folder: Path) -> None:
    """Print time and memory of the stage on 501³ voxels."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid(np.full(3, -10.0), np.full(3, 0.04), (501, 501, 501))
    rng = np.random.default_rng(1)
    for symbol, cell in (
        ("P m -3 m", [5, 5, 5, 90, 90, 90]),
        ("P 6/m m m", [5, 5, 5, 90, 90, 120]),
    ):
        path = folder / "volume.nxs"
        with nexus.VolumeWriter(
            path, grid, np.array(cell, float), "t", np.uint32, False, fast=True
        ) as writer:
            for first in range(0, 501, 16):
                shape = (min(16, 501 - first), 501, 501)
                norm = rng.integers(1, 9, shape).astype(np.float32)
                norm[rng.random(shape, np.float32) < 0.5] = 0
                writer.write(first, counts=rng.poisson(4 * norm).astype(np.uint32), norm=norm)
            writer.note({})
        write_orientation(folder / "orientation.json", group=symbol)
        for memory in (8000, 450):
            told = _measured(folder, path, memory)
            print(f"{symbol}, memory {memory} MB: {told}", flush=True)
        path.unlink()


def _measured(folder: Path, path: Path, memory: int) -> str:
    command = [sys.executable, "-m", "hklflow.stages.symmetrise", "--volumes", str(path)]
    command += ["--orientation", str(folder / "orientation.json"), "--threads", "2"]
    command += ["--symmetrised", str(folder / "s.nxs"), "--picture", str(folder / "s.png")]
    command += ["--metrics", str(folder / "s.json"), "--memory", str(memory)]
    start, most = time.monotonic(), {"RssAnon": 0, "RssFile": 0, "VmRSS": 0}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in most:
                    most[name] = max(most[name], int(value.split()[0]))
            time.sleep(0.05)
    told = (folder / "log").read_text()
    if process.returncode:
        sys.exit(told)
    shown = ", ".join(f"{name} {kib / 1024:.0f} MiB" for name, kib in most.items())
    return f"{time.monotonic() - start:.0f} s, {shown}\n{told}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.large is not None:
        large(given.large)
    else:
        table()
