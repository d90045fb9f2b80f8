"""Pair distributions against truth: short-range order, size effect, oblique cell, Patterson.

    python -m benchmarks.pdf_truth [--big] [DIR]

Found are values of the stage's files made from noisy S(Q) of simulated crystals; expected is what
counting pairs of atoms in direct space gives, seen through the resolution of the taper. --big:
time and peak memory of 501³ voxels in memory and with a quarter of that. DIR: scratch folder.
"""
# ruff: noqa: I001

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
from tests.truth.defaults import made_taper
import hklflow  # noqa: F401
import h5py
import numpy as np

from hklflow.geometry import lattice
from hklflow.simulation import disorder
from hklflow.geometry.grid import Grid
from hklflow.nexus.grid_writer import GridWriter
from hklflow.nexus.volume import open_volume
from hklflow.stages import pdf

CUBIC = np.array([4.0, 4.0, 4.0, 90.0, 90.0, 90.0])
OBLIQUE = np.array([4.0, 5.0, 6.0, 90.0, 110.0, 90.0])
AXES = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
DIAGONALS = [(1, 1, 0), (1, -1, 0), (0, 1, 1), (0, 1, -1), (1, 0, 1), (1, 0, -1)]
ORDER = [*((v, -0.8) for v in AXES), *((v, 0.4) for v in DIAGONALS)]
VECTORS = [(0, 0, 0), *AXES, *DIAGONALS[:2], (1, 0, 1), (1, 0, -1), (1, 1, 1), (2, 0, 0), (2, 1, 0)]
#: Counts per S = 1.
EXPOSURE = 20.0
Q_MAX = 5.5


def write(path: Path, grid: Grid, cell: np.ndarray, arrays: dict[str, Any], notes: Any) -> None:
    types = {name: a.dtype for name, a in arrays.items()}
    with GridWriter(path, grid, cell, "S(Q)", types) as writer:
        writer.write(0, **arrays)
        writer.note(notes)


def run(folder: Path, whole: bool, **params: Any) -> tuple[Grid, np.ndarray, np.ndarray, Any]:
    out = pdf.Outputs(pdf=folder / "p.nxs", picture=folder / "p.png", metrics=folder / "p.json")
    inputs = pdf.Inputs(
        filled=folder / "filled.nxs", symmetrised=folder / "symm.nxs" if whole else None
    )
    pdf.main(inputs=inputs, outputs=out, params=pdf.Params(**params), threads=2)
    with open_volume(out.pdf, "pdf") as volume:
        arrays = [volume.group[name][()] for name in ("data", "data_errors")]
        return volume.grid, arrays[0], arrays[1], json.loads(out.metrics.read_text())


def at(grid: Grid, x: Any) -> tuple[int, ...]:
    """Index z, y, x of the voxel nearest to a vector."""
    return tuple(int(i) for i in np.rint((np.array(x) - grid.first) / grid.step))[::-1]


def case(name: str, folder: Path, cell: np.ndarray, push: float, whole: bool) -> None:
    rng = np.random.default_rng(5)
    made = disorder.crystal(cell, 16, ORDER, push=push, seed=3)
    limit = Q_MAX * cell[:3] / (2 * np.pi) / np.sin(np.radians(cell[4])) + 0.1
    grid, everything, bound = disorder.intensity(made, limit, 11)
    counts = rng.poisson(np.maximum(everything, 0) * EXPOSURE)
    bragg = everything - disorder.diffuse(grid, everything)
    error = np.sqrt((everything + 0.01) / EXPOSURE).astype(np.float32)
    data = (counts / EXPOSURE).astype(np.float32)
    punched = (bragg > 0).astype(np.uint8)
    smooth = np.sqrt((everything * (punched == 0) + 0.01) / EXPOSURE).astype(np.float32)
    notes = {"q_max": Q_MAX, "operations": [np.eye(3, dtype=int).tolist()], "space_group": "P 1"}
    once = np.ones(data.shape, np.uint8)
    symm = {"data": data, "data_errors": error, "multiplicity": once}
    write(folder / "symm.nxs", grid, cell, symm, notes)
    filled = {"data": data * (punched == 0), "data_errors": smooth, "punched": punched}
    write(folder / "filled.nxs", grid, cell, filled, notes)
    direct, found, sigma, metrics = run(folder, whole)
    taper = made_taper("tukey", Q_MAX)
    # Without the Bragg peak 000 the total PDF is relative to the mean density.
    offset = made.powers.mean() ** 2 / lattice.volume(cell) if whole else 0.0
    reference = disorder.pair_distribution(made, VECTORS, taper, delta=not whole) - offset
    unit = float(taper.resolution_function(0.0)) * (1.0 if whole else made.contrast)
    print(f"\n{name}: series of amplitudes within {bound:.1e}, unit {unit:.4g} S/Å³")
    print(f"{'vector':>12} {'alpha':>8} {'expected':>9} {'found':>9} {'sigma':>8} {'ratio':>7}")
    for v, expected in zip(VECTORS, reference, strict=True):
        i = at(direct, v)
        print(
            f"{v!s:>12} {made.alpha(v):8.4f} {expected / unit:9.4f} {found[i] / unit:9.4f} "
            f"{sigma[i] / unit:8.4f} {found[i] / expected:7.4f}"
        )
    if push:
        print("across the peaks at (1, 0, 0) and (0, 0, 2), expected and found:")
        for start, along in (((1, 0, 0), 0), ((0, 0, 2), 2)):
            steps = np.arange(-3, 4) * direct.step[along]
            x = np.array([np.array(start) + s * np.eye(3)[along] for s in steps])
            x = np.array([[direct.axis(a)[at(direct, p)[2 - a]] for a in range(3)] for p in x])
            line = disorder.pair_distribution(made, x, taper, delta=not whole) - offset
            print(f"{start!s:>12} exp " + " ".join(f"{e / unit:8.4f}" for e in line))
            print(f"{'':>12} fnd " + " ".join(f"{found[at(direct, p)] / unit:8.4f}" for p in x))
    # At random voxels, all the way to where nothing is: pulls and largest deviation.
    index = rng.integers(-24, 25, (600, 3)) + np.array(direct.shape) // 2
    x = np.array([[direct.axis(a)[i[a]] for a in range(3)] for i in index])
    line = disorder.pair_distribution(made, x, taper, delta=not whole) - offset
    seen = np.array([found[i[2], i[1], i[0]] for i in index])
    errors = np.array([sigma[i[2], i[1], i[0]] for i in index])
    pulls = (seen - line) / errors
    print(
        f"600 random voxels: largest |found - expected| {np.abs(seen - line).max() / unit:.4f}, "
        f"pulls {pulls.mean():+.3f} ± {pulls.std():.3f}; Parseval {metrics['Parseval ratio']:.7f}"
    )


def big(folder: Path, memory: float) -> None:
    """One run of 501³ in a process of its own."""
    code = f"import runpy; runpy.run_path({__file__!r})['big_run']({str(folder)!r}, {memory})"
    subprocess.run([sys.executable, "-c", code], check=True)


def big_run(folder: str, memory: float) -> None:
    start = time.perf_counter()
    metrics = _big_stage(Path(folder), memory)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"501³, memory = {memory:g} MB: {time.perf_counter() - start:.1f} s, "
        f"CPU {used.ru_utime + used.ru_stime:.1f} s, peak {used.ru_maxrss / 1e3:.0f} MB, "
        f"sizes {metrics['sizes']}, Parseval {metrics['Parseval ratio']:.7f}, "
        f"sigma {metrics['sigma at a general position']:.6g}"
    )


def _big_stage(folder: Path, memory: float) -> Any:
    name = f"p{memory:g}"
    out = pdf.Outputs(
        pdf=folder / f"{name}.nxs", picture=folder / f"{name}.png", metrics=folder / f"{name}.json"
    )
    pdf.main(
        inputs=pdf.Inputs(filled=folder / "big.nxs"),
        outputs=out,
        params=pdf.Params(memory=memory),
        threads=2,
    )
    return json.loads(out.metrics.read_text())


def big_input(folder: Path) -> None:
    from hklflow.geometry.symmetry import space_group

    cell = np.array([5.0, 5.0, 5.0, 90.0, 90.0, 90.0])
    grid = Grid.symmetric(5.0, 0.02)
    h = grid.axis(0)
    wave = np.cos(2 * np.pi * h)
    rng = np.random.default_rng(0)
    notes = {
        "q_max": 2 * np.pi,
        "operations": space_group("P m -3 m").laue_operations.tolist(),
        "space_group": "P m -3 m",
    }
    types = {"data": np.float32, "data_errors": np.float32, "punched": np.uint8}
    with GridWriter(folder / "big.nxs", grid, cell, "S(Q)", types, fast=True) as writer:
        for first in range(0, 501, 16):
            own = wave[first : first + 16, None, None]
            s = 1 - 0.2 * (own + wave[:, None] + wave) + 0.1 * own * wave[:, None] * wave
            s += 0.1 * rng.standard_normal(s.shape)
            arrays = {"data": s.astype(np.float32), "data_errors": np.full(s.shape, 0.1, "f4")}
            writer.write(first, **arrays, punched=np.zeros(s.shape, np.uint8))
        writer.note(notes)


def main() -> None:
    arguments = [a for a in sys.argv[1:] if a != "--big"]
    with tempfile.TemporaryDirectory(dir=arguments[0] if arguments else None) as name:
        folder = Path(name)
        if "--big" in sys.argv:
            big_input(folder)
            for memory in (2000.0, 500.0):
                big(folder, memory)
            with h5py.File(folder / "p2000.nxs") as one, h5py.File(folder / "p500.nxs") as other:
                for part in ("data", "data_errors"):
                    a, b = (f["entry/pdf"][part] for f in (one, other))
                    worst = max(np.abs(a[i] - b[i]).max() for i in range(0, a.shape[0], 7))
                    print(f"{part}: largest difference of the two {worst:.3g}")
            return
        case("short-range order, cubic", folder, CUBIC, 0.0, False)
        case("with size effect, cubic", folder, CUBIC, 0.02, False)
        case("with size effect, oblique", folder, OBLIQUE, 0.02, False)
        case("total PDF, size effect, oblique", folder, OBLIQUE, 0.02, True)


if __name__ == "__main__":
    main()
