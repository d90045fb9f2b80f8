"""Volumes of known S with Poisson counts, and what the cuts of regions must be, in plain numpy."""

from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np

from hklflow import nexus
from hklflow.geometry import symmetry
from hklflow.geometry.grid import Grid
from hklflow.stages import merge, symmetrise
from tests.truth.orientations import write_orientation
from tests.volumes.test_symmetrise_core import GENERIC, laue

# One setting of each Laue group, and a trigonal one on other axes.
GROUPS = {
    "-1": "P -1",
    "2/m": "P 1 2/m 1",
    "mmm": "P m m m",
    "4/m": "P 4/m",
    "4/mmm": "P 4/m m m",
    "-3": "P -3",
    "-3m1": "P -3 m 1",
    "-31m": "P -3 1 m",
    "6/m": "P 6/m",
    "6/mmm": "P 6/m m m",
    "m-3": "P m -3",
    "m-3m": "P m -3 m",
}
HALF = 9
GRID = Grid.symmetric(HALF * 0.1, 0.1)


@dataclass(frozen=True)
class Case:
    """A volume of known S: S, counts and norm (l, k, h), and the number of each voxel's orbit."""

    path: Path
    cell: np.ndarray
    truth: np.ndarray
    norm: np.ndarray
    orbit: np.ndarray
    hkl: np.ndarray


def hkl_of(grid: Grid) -> np.ndarray:
    """hkl (l, k, h, 3) of all voxels."""
    l, k, h = np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    return np.stack([h, k, l], axis=-1)


def symmetric(symbol: str, hkl: np.ndarray) -> np.ndarray:
    """S that is symmetric and varies by a factor of a few within some voxels."""
    q = np.array([0.23, 0.41, 0.67])
    waves = [1 + np.cos(2 * np.pi * (hkl @ op) @ q * 2) for op in laue(symbol).astype(float)]
    return 2.0 + 3.0 * np.mean(waves, axis=0)


def orbits(symbol: str, hkl: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Number of the orbit of each voxel, by gemmi's operations."""
    index = np.rint(hkl / step).astype(int).reshape(-1, 3)
    images = index @ laue(symbol) @ [10**6, 10**3, 1]
    return np.unique(images.max(axis=0), return_inverse=True)[1].reshape(hkl.shape[:-1])


def made(folder: Path, symbol: str, seed: int, kind: str, grid: Grid = GRID) -> Case:
    """Draw counts, and merge or symmetrise them by the stages."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    cell = symmetry.constrain_cell(GENERIC, symmetry.space_group(symbol))
    hkl = hkl_of(grid)
    truth = symmetric(symbol, hkl)
    norm = rng.uniform(0.5, 4, truth.shape) * (rng.random(truth.shape) < 0.6)
    norm = norm.astype(np.float32)
    counts = rng.poisson(norm * truth).astype(np.uint32)
    raw, out = folder / "r1.nxs", folder / f"{kind}.nxs"
    with nexus.VolumeWriter(raw, grid, cell, "t", np.uint32, False, fast=True) as writer:
        writer.write(0, counts=counts, norm=norm)
        writer.note({})
    orbit = np.arange(truth.size).reshape(truth.shape)
    exposure = norm.astype(float)
    if kind == "merged":
        merge.main(
            inputs=merge.Inputs(volumes=[raw]),
            outputs=merge.Outputs(
                volume=out,
                slices=folder / "s.png",
                coverage=folder / "c.png",
                metrics=folder / "m.json",
            ),
            params=merge.Params(),
        )
    else:
        orientation = write_orientation(folder / "orientation.json", group=symbol)
        symmetrise.main(
            inputs=symmetrise.Inputs(volumes=[raw], orientation=orientation),
            outputs=symmetrise.Outputs(
                symmetrised=out, picture=folder / "s.png", metrics=folder / "m.json"
            ),
            params=symmetrise.Params(),
        )
        orbit = orbits(symbol, hkl, grid.step)
        exposure = np.bincount(orbit.ravel(), exposure.ravel())[orbit]
    return Case(out, cell, truth, exposure, orbit, hkl)


def expected(case: Case, inside: np.ndarray, estimand: str) -> float:
    """What the estimand is for the true S: of distinct orbits, or the mean of the voxels."""
    used = inside & (case.norm > 0)
    if not used.any():
        return np.nan
    if estimand == "mean":
        return float(case.truth[used].mean())
    _, first = np.unique(case.orbit[used], return_index=True)
    m, s = case.norm[used][first], case.truth[used][first]
    return float(np.sum(m * s) / np.sum(m))


def length(cell: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Lengths in 1/Å of hkl, by gemmi."""
    b = 2 * np.pi * np.array(gemmi.UnitCell(*cell).frac.mat.tolist())
    return np.linalg.norm(vectors @ b, axis=-1)
