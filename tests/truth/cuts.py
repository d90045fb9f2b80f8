"""Volumes of known S with Poisson counts, and what the cuts of regions must be, in plain numpy."""

from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np

import hklflow
from hklflow import nexus
from hklflow.geometry import symmetry
from hklflow.geometry.grid import Grid
from hklflow.results import Volume
from hklflow.stages import merge, symmetrise
from tests.truth.orientations import write_orientation

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
GENERIC = np.array([7.1, 8.2, 9.3, 84.0, 97.0, 106.0])
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


def laue(symbol: str) -> np.ndarray:
    """Operations (n, 3, 3) of the Laue group on rows of hkl, by gemmi."""
    group = gemmi.SpaceGroup(symbol).operations()
    rotations = np.array([op.rot for op in group.sym_ops]) // gemmi.Op.DEN
    return np.unique(np.concatenate([rotations, -rotations]), axis=0)


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


Pulls = dict[str, list[float]]


def boxes(
    case: Case,
    volume: Volume,
    estimand: str,
    pulls: Pulls,
    halves: tuple[float, ...] = (0.12, 0.23),
) -> None:
    hkl = case.hkl
    rng = np.random.default_rng(1)
    for centre in [*rng.uniform(-0.6, 0.6, (8, 3)), np.zeros(3)]:
        for half in halves:
            low, high = centre - half, centre + half
            h, k, l = zip(low, high, strict=True)  # noqa: E741
            cut = volume.box(h=h, k=k, l=l, estimand=estimand)
            inside = np.all((hkl >= low) & (hkl <= high), axis=-1)
            assert cut.voxels == inside.sum()
            pulls["box"].append(pull(cut, (), expected(case, inside, estimand)))


def lines(case: Case, volume: Volume, estimand: str, pulls: Pulls) -> None:
    hkl, width = case.hkl, 0.5
    ends = ((-0.9, 0, 0), (0.9, 0, 0)), ((-0.8, -0.8, 0.2), (0.8, 0.8, 0.2))
    for a, b in (*ends, ((0.1, 0.5, -0.9), (0.1, 0.5, 0.9))):
        cut = volume.line(a, b, width, estimand=estimand)
        # The projection by the law of cosines.
        whole = length(case.cell, np.subtract(b, a))
        from_a, from_b = (length(case.cell, hkl - end) for end in (a, b))
        along = (from_a**2 + whole**2 - from_b**2) / (2 * whole)
        near = from_a**2 - along**2 <= (width / 2) ** 2 * (1 + 1e-6)
        for i in range(cut.sizes["distance"]):
            away = np.abs(along / whole * (cut.sizes["distance"] - 1) - i)
            inside = near & ((away < 0.5 - 1e-5) | ((np.abs(away - 0.5) < 1e-5) & (i % 2 == 0)))
            assert cut.voxels[i] == inside.sum()
            pulls["line"].append(pull(cut, i, expected(case, inside, estimand)))


def shells(case: Case, volume: Volume, estimand: str, pulls: Pulls) -> None:
    cut = volume.radial(estimand=estimand)
    shell = np.floor(length(case.cell, case.hkl) / cut.attrs["step"] + 1e-6)
    for i in range(cut.sizes["Q"]):
        assert cut.voxels[i] == (shell == i).sum()
        pulls["shell"].append(pull(cut, i, expected(case, shell == i, estimand)))


def planes(case: Case, volume: Volume, estimand: str, pulls: Pulls) -> None:
    cut = volume.plane("hk0", 0.5, estimand=estimand)
    index = np.rint(case.hkl * 10).astype(int) + 9
    layer = np.abs(case.hkl[..., 2]) <= 0.25
    for i in range(0, 19, 2):
        for j in range(0, 19, 2):
            inside = layer & (index[..., 1] == i) & (index[..., 0] == j)
            pulls["plane"].append(pull(cut, (i, j), expected(case, inside, estimand)))


def pull(cut: object, at: object, truth: float) -> float:
    """(value - truth) / σ; NaN where nothing was measured."""
    value, sigma = (float(getattr(cut, name).values[at]) for name in ("S", "sigma"))
    assert np.isfinite(value) == np.isfinite(truth)
    return (value - truth) / sigma


def collect(case: Case, estimand: str, pulls: Pulls) -> None:
    volume = hklflow.open(case.path)
    for cut in (boxes, lines, shells, planes):
        cut(case, volume, estimand, pulls)
