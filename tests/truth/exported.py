"""Products to export, with values that tell the axes apart, in a triclinic cell."""

from pathlib import Path

import numpy as np

from hklflow import nexus
from hklflow.bragg.structure_factors import Crystal, Means, StructureFactors
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.nexus import structure_factors
from hklflow.nexus.stack import Intensities, Member, open_members, write_stack

CELL = np.array([5.1, 6.3, 7.9, 82.0, 97.0, 105.0])
RIGHT_ANGLED = np.array([5.1, 6.3, 7.9, 90.0, 90.0, 90.0])
CENTRED = Grid.symmetric([1.5, 1.0, 2.0], [0.1, 0.1, 0.125])
"""31, 21 and 33 voxels along h, k and l, around 000."""
OFFSET = Grid(np.array([-0.5, 0.3, 1.0]), np.array([0.1, 0.1, 0.125]), (20, 70, 18))
BETWEEN = Grid(np.array([-0.53, 0.31, 1.01]), np.array([0.1, 0.1, 0.125]), (6, 7, 5))
"""No voxel is centred at a multiple of a step."""


def values(grid: Grid, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Values and errors [l, k, h] as stored, NaN where nothing was measured."""
    rng = np.random.default_rng(seed)
    h, k, l = (grid.axis(i) for i in range(3))  # noqa: E741
    data = 500 + 10 * h + 100 * k[:, None] + 1000 * l[:, None, None]
    data = (data + rng.normal(size=grid.array_shape)).astype(np.float32)
    data[rng.random(data.shape) < 0.1] = np.nan
    errors = (0.1 + rng.random(data.shape)).astype(np.float32)
    errors[np.isnan(data)] = np.nan
    return data, errors


def write_volume(
    path: Path, grid: Grid, seed: int = 0, space_group: str = "P -1", cell: np.ndarray = CELL
) -> Path:
    """A symmetrised S(Q); merged only, if ``space_group`` is empty."""
    data, errors = values(grid, seed)
    counts = np.where(np.isnan(data), 0, np.rint(np.abs(np.nan_to_num(data))))
    friedel = [np.eye(3).tolist(), (-np.eye(3)).tolist()]
    notes = {"space_group": space_group, "operations": friedel} if space_group else {}
    volume = nexus.Volume(grid, cell, counts, np.isfinite(data) * 1.0, data, errors, notes)
    nexus.write_volume(path, volume, "S(Q) of triclinic")
    return path


def write_pdf(path: Path, grid: Grid, cell: np.ndarray = CELL) -> Path:
    """A 3D-ΔPDF."""
    data, errors = values(grid, 5)
    types = {"data": "f4", "data_errors": "f4"}
    with nexus.GridWriter(path, grid, cell, "3D-ΔPDF", types, group="pdf", direct=True) as writer:
        writer.write(0, data=data, data_errors=errors)
        writer.note({"kind": "delta", "q_max": 10.0, "space_group": "P -1"})
    return path


def write_series(folder: Path, temperatures: tuple[float, ...], grid: Grid = CENTRED) -> Path:
    """A stack of volumes, one for each temperature."""
    members = []
    for seed, kelvin in enumerate(temperatures):
        cell = CELL * np.array([1 + 1e-5 * kelvin] * 3 + [1] * 3)
        path = write_volume(folder / f"t{seed}.nxs", grid, seed, cell=cell)
        members.append(Member(path, f"t{seed}", kelvin))
    reflections = Intensities(np.zeros((0, 3)), *(np.zeros((0, len(members))),) * 2)
    with open_members(members) as volumes:
        write_stack(folder / "stack.nxs", "series", members, volumes, reflections)
    return folder / "stack.nxs"


def crystal(temperature: float | None = 120.0) -> Crystal:
    """An orthorhombic crystal, whose angles have no errors."""
    return Crystal(
        sample="quartz α",
        scan="120K",
        parent="120K",
        space_group="P 21 21 21",
        cell=(7.2, 8.3, 9.1, 90.0, 90.0, 90.0),
        cell_sigma=(0.0012, 0.0007, 0.02, 0.0, 0.0, 0.0),
        wavelength=0.41,
        temperature=temperature,
    )


def write_factors(path: Path, apart: bool, temperature: float | None = 120.0) -> Path:
    """Merged reflections; ``apart``: with separate Friedel mates."""
    rng = np.random.default_rng(3)
    hkl = np.stack(np.meshgrid(*[np.arange(1, 6)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    n = len(hkl)
    intensity = rng.normal(3.0, 5.0, n)
    mean = Means(intensity, 0.1 + rng.random(n), np.full(n, 4))
    mates = [Means(intensity + shift, mean.sigma, np.full(n, 2)) for shift in (0.1, -0.1)]
    if apart:
        mates[1].n[::7] = 0
        mates[1].intensity[::7] = np.nan
    world = crystal(temperature)
    factors = StructureFactors(
        hkl=hkl,
        d=lattice.d_spacing(world.cell, hkl),
        mean=mean,
        amplitude=np.sqrt(np.maximum(intensity, 0)),
        amplitude_sigma=mean.sigma,
        agree=np.ones(n, bool),
        plus=mates[0] if apart else None,
        minus=mates[1] if apart else None,
    )
    figures = {"overall": {"observations": 4 * n, "R_merge": 0.0312, "completeness": 0.97}}
    structure_factors.write_factors(path, factors, world, figures, "structure factors")
    return path
