"""Volumes with one bright voxel at a known place, for `show --plot` and `slice`."""

from pathlib import Path
from typing import Any

import numpy as np

from hklflow import nexus
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid

HEXAGONAL = np.array([4.8, 4.8, 7.2, 90.0, 90.0, 120.0])
MONOCLINIC = np.array([5.0, 7.0, 6.0, 90.0, 112.0, 90.0])
GRID = Grid.symmetric([2.0, 2.0, 1.0], [0.1, 0.1, 0.1])


def voxel(hkl: tuple[float, float, float], grid: Grid = GRID) -> tuple[int, int, int]:
    """Index (l, k, h) of a point."""
    h, k, m = ((np.array(hkl) - grid.first) / grid.step).round().astype(int)
    return int(m), int(k), int(h)


def bright(path: Path, hkl: tuple[float, float, float], cell: np.ndarray = HEXAGONAL) -> Path:
    """S(Q) of 1 with one voxel of 1000."""
    data = np.ones(GRID.array_shape)
    data[voxel(hkl)] = 1000.0
    return write(path, data, cell)


def write(
    path: Path,
    data: np.ndarray,
    cell: np.ndarray = HEXAGONAL,
    notes: dict[str, Any] | None = None,
    errors: np.ndarray | None = None,
) -> Path:
    """Any S(Q) on the grid."""
    counts = np.nan_to_num(data)
    sigma = 0.1 * np.abs(data) if errors is None else errors
    volume = nexus.Volume(GRID, cell, counts, np.ones_like(counts), data, sigma, notes or {})
    nexus.write_volume(path, volume, "S(Q) of a test")
    return path


def pair_distribution(path: Path, data: np.ndarray, grid: Grid) -> Path:
    """A 3D-ΔPDF."""
    arrays = {"data": data.astype("f4"), "data_errors": np.full(data.shape, 0.02, "f4")}
    types = dict.fromkeys(arrays, "f4")
    with nexus.GridWriter(
        path, grid, HEXAGONAL, "pairs", types, group="pdf", direct=True
    ) as writer:
        writer.write(0, **arrays)
        writer.note({"kind": "delta", "q_max": 10.0})
    return path


def place(cell: np.ndarray, hkl: Any, along: Any, towards: Any) -> np.ndarray:
    """Where (x, y) a point of a plane is drawn, by Cartesian vectors."""
    b = lattice.b_matrix(cell)
    q, first, second = (b @ np.asarray(v, dtype=float) for v in (hkl, along, towards))
    x = first / np.linalg.norm(first)
    y = second - (second @ x) * x
    return np.array([q @ x, q @ y / np.linalg.norm(y)])
