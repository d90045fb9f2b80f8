"""Errors of the transmission by shape against worlds whose transmissions are traced by other rays.

    python -m benchmarks.absorption_truth                 # all worlds of the catalogue
    python -m benchmarks.absorption_truth --volume plate  # S(Q) of a world without and with it
    python -m benchmarks.absorption_truth --bragg         # Bragg intensities of the plate

Errors are rms of ln(T found / T true) over frames and directions. "before" is a T of 1, without the
mean; "5 %" is the change by a size that is 5 % larger, as a function of |Q| and in all.

`--bragg` integrates strong reflections with both engines (DIALS if it is installed), with the shape
and with a crystal that does not absorb, and with diffuse scattering that has maxima below the
reflections or is flat.
"""

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from tests.truth.quantitative_background import Surroundings
from tests.truth.quantitative_catalogue import PLANS, SEEN, world
from tests.truth.quantitative_scans import (
    Made,
    crystal_of,
    integrated,
    made,
    rotation_of,
    searched,
    shape_by_faces,
    strong_against_truth,
    traced,
    transformed,
    use,
)
from tests.truth.quantitative_structure import Shares

from hklflow import nexus
from hklflow.transform import absorption


def table(names: list[str], seeds: list[int]) -> None:
    print("world             seed  before   error  largest  5 %, |Q|  5 %, all  seconds")
    for name in names:
        for seed in seeds:
            w = world(name, seed)
            tracer = replace(w.absorber, tube=None, n_points=20_000)
            rotation, crystal = rotation_of(w, 0), crystal_of(w)
            begin = time.perf_counter()
            found = absorption.of_rotation(crystal, rotation, (0.3, 0.95), 33, 2)
            seconds = time.perf_counter() - begin
            at = np.linspace(0, len(found.curve) - 1, 9).astype(int)
            nodes = [np.linspace(0, n, 8) for n in w.shape]
            true = np.log([tracer.sample(w.scans[0].R(z + 0.5), w.node_rays) for z in at])
            mine = np.array([found.direction.at(int(z), *nodes) for z in at])
            off = mine + np.log(found.curve[at])[:, None, None] - true
            change = np.log(1.05) * found.by_size
            of_q, _ = absorption.shell_means([(rotation, found.direction, change)])
            print(
                f"{name:17s} {seed:4d} {true.std():7.2%} {np.sqrt(np.mean(off**2)):7.2%} "
                f"{np.abs(off).max():8.2%} {np.std(of_q):9.2%} {change.std():9.2%} {seconds:8.1f}",
                flush=True,
            )


def volume(name: str, seed: int, nodes: int) -> None:
    """Compare S(Q) of the first rotation with the truth; orientation is true, no background."""
    w = world(name, seed, surroundings=Surroundings())
    with tempfile.TemporaryDirectory() as folder:
        found = made(w, Path(folder))
        _report("without", transformed(found, None), found)
        if w.absorber.body.name == "sphere":
            shape = {"kind": "sphere", "radii": [w.absorber.body.size[0]]}
        else:
            shape = shape_by_faces(found)
        traced(found, shape=shape, mu=w.absorber.mu, nodes=nodes)
        use(found)
        _report("with", transformed(found, found.folder / "absorption.nxs"), found)


def bragg(seed: int) -> None:
    """Compare Bragg intensities of a plate with the truth."""
    engines: list[Literal["builtin", "dials"]] = ["builtin", "dials"]
    if not shutil.which("dials.integrate"):
        engines.remove("dials")
    plan = {"span": 70.0, "settings": (0,), "start": (0,), "surroundings": Surroundings()}
    flat = Shares(flat=1.0, peaks=0.0, sheets=0.0, wave=0.0)
    print("diffuse   μ (1/mm)  engine   reflections  scatter  above 10 %  voxels in the foreground")
    for diffuse in ("maxima", "flat"):
        for absorbs in (True, False):
            w = world("plate", seed, (120, 128), **plan)
            if diffuse == "flat":
                w = replace(w, crystal=replace(w.crystal, shares=flat))
            mu = w.absorber.mu if absorbs else 1e-4
            w = replace(w, absorber=replace(w.absorber, mu=mu))
            with tempfile.TemporaryDirectory() as folder:
                found = made(w, Path(folder))
                searched(found)
                traced(found, shape=shape_by_faces(found), mu=mu)
                use(found)
                for engine in engines:
                    every = integrated(found, found.folder / "absorption.nxs", engine)
                    table, log = strong_against_truth(w, every)
                    log = log - np.median(log)
                    voxels = np.percentile(table.n_foreground, [5, 50, 95])
                    print(
                        f"{diffuse:8s} {mu:9.4g}  {engine:8s} {len(table):11d} "
                        f"{1.4826 * np.median(np.abs(log)):8.2%} {np.sum(log > 0.1):11d}  "
                        f"{' / '.join(f'{v:.0f}' for v in voxels)}",
                        flush=True,
                    )


def _report(title: str, volume: nexus.Volume, found: Made) -> None:
    w, grid = found.world, volume.grid
    axes = [grid.first[i] + grid.step[i] * np.arange(grid.shape[i]) for i in (2, 1, 0)]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]
    used = (volume.norm > 0) & (np.abs(hkl - np.rint(hkl)).max(axis=-1) > 0.2)
    q = np.linalg.norm(hkl[used] @ w.crystal.B.T, axis=-1)
    counts = volume.counts[used].astype(float)
    expected = volume.norm[used] * (w.S(hkl[used]) + w.crystal.compton(q))
    expected *= counts.sum() / expected.sum()
    shell = np.digitize(q, np.linspace(q.min(), q.max(), 9)[1:-1])
    ratio = np.bincount(shell, counts) / np.bincount(shell, expected)
    number = [n // 5 + 1 for n in used.shape]
    block = np.ravel_multi_index(tuple(i[used] // 5 for i in np.indices(used.shape)), number)
    c, e = np.bincount(block, counts), np.bincount(block, expected)
    c, e = c[e > 50], e[e > 50]
    systematic = np.sqrt(max(np.sum((c - e) ** 2 - c) / np.sum(e**2), 0))
    print(
        f"{title:8s} blocks of 5³: width {np.std((c - e) / np.sqrt(e)):.2f}, systematic error of S "
        f"{systematic:.2%}; shells of |Q| {ratio.round(4).tolist()}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volume", choices=["sphere", "plate", "organic", "undetermined"])
    parser.add_argument("--bragg", action="store_true")
    parser.add_argument("--world", choices=list(PLANS))
    parser.add_argument("--seed", type=int, choices=SEEN)
    parser.add_argument("--nodes", type=int, default=33)
    given = parser.parse_args()
    if given.bragg:
        bragg(given.seed or SEEN[0])
    elif given.volume:
        volume(given.volume, given.seed or SEEN[0], given.nodes)
    else:
        table(
            [given.world] if given.world else list(PLANS), [given.seed] if given.seed else [*SEEN]
        )
