"""Frames of the disordered crystals of `hole_worlds`, for judging whole reductions.

S(Q) of a `Disorder` is tabulated on a fine grid and interpolated at each pixel and frame. Bragg
reflections and counting noise are added, and the raw files of two rotations are written with the
tables of an experiment. One rotation leaves a cone about its axis unmeasured.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates, spline_filter

from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.grid import Grid
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from tests.truth import hole_worlds
from tests.truth.hole_worlds import Array, Lattice

GROUPS = {
    "cubic": "P m m m",
    "hexagonal": "P 6/m",
    "monoclinic": "P 1 2/m 1",
    "triclinic": "P -1",
}
LIMIT, STEP = 2.0, 0.05  # of the volume, r.l.u.
_FINE = STEP / 2  # of the table


@dataclass(frozen=True)
class Table:
    """S of a kind of disorder on a fine grid (l, k, h), somewhat beyond the volume."""

    lattice: Lattice
    grid: Grid
    values: Array

    def voxels(self, grid: Grid) -> Array:
        """Return S (l, k, h) averaged over the voxels of a grid of twice the step."""
        values = self.values
        for axis in range(3):
            # Simpson's rule over the voxel.
            ends = (np.take(values, range(k, values.shape[axis] - 2 + k), axis) for k in (0, 2))
            middle = np.take(values, range(1, values.shape[axis] - 1), axis)
            values = (sum(ends) + 4 * middle) / 6
        first = np.rint((grid.first - self.grid.first) / _FINE).astype(int) - 1
        return values[
            tuple(slice(f, f + 2 * n, 2) for f, n in zip(first, grid.shape, strict=True))[::-1]
        ]


def tabulated(kind: str, cell: str) -> Table:
    """Return the table of one of `hole_worlds.KINDS` with one of its lattices."""
    lattice = hole_worlds.LATTICES[cell]
    half = round(LIMIT / _FINE) + 6
    grid = Grid.symmetric([half * _FINE] * 3, [_FINE] * 3)
    _, first, numbers = np.unique(
        hole_worlds.orbits(grid, lattice.operations), return_index=True, return_inverse=True
    )
    hkl = hole_worlds.hkl_of(grid).reshape(-1, 3)[first]
    values = hole_worlds.KINDS[kind](lattice)(hkl)[numbers].reshape(grid.shape[::-1])
    return Table(lattice, grid, values)


@dataclass(frozen=True)
class Tabulated(Simulation):
    """A scan of a crystal whose diffuse scattering is that of a table; S at pixel centres."""

    table: Table | None = None
    spline: Array = field(default_factory=lambda: np.zeros(0))

    def _fill_diffuse(self, out: Array, start: int) -> None:
        assert self.table is not None
        q = self.scan.k * (self.detector.pixel_rays() - [0.0, 0.0, 1.0])
        settings = self.goniometer.rotation(self.scan.angle(start + np.arange(len(out)) + 0.5))
        grid = self.table.grid
        for frame, rotation in zip(out, settings @ self.ub, strict=True):
            hkl = q @ np.linalg.inv(rotation).T
            at = np.moveaxis((hkl - grid.first) / grid.step, -1, 0)[::-1]
            s = map_coordinates(self.spline, at, order=3, mode="nearest", prefilter=False)
            frame[:] = np.maximum(s, 0)


def write(folder: Path, table: Table, cell: str, counts: float, seed: int, rotations: int) -> None:
    """Write raw files, tables and configuration of an experiment with one scan.

    Parameters
    ----------
    counts : float
        Counts in a pixel of a frame for S = 1.
    rotations : int
        1 or 2.
    """
    spline = spline_filter(table.values, order=3)
    own = table.lattice.cell
    crystal = CrystalModel(own, (0.4, -0.7, 0.3), scale=1.0, mosaic=2e-3, spot_sigma=(0.8, 0.8))
    detector = DetectorModel((190, 192), 0.15, (95.3, 94.8), (344e-6, 344e-6), tilt=(0.005, -0.007))
    (folder / "raw").mkdir(parents=True)
    (folder / "config").mkdir()
    names = [f"r{r + 1}" for r in range(rotations)]
    for r, name in enumerate(names):
        simulation = Tabulated(
            detector,
            GoniometerModel(
                ((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)), (np.radians(50.0 * r), 0.0), ("chi", "phi"), 1
            ),
            ScanModel(
                0.0, np.radians(0.5), 720, 0.5, flux=10 * counts, exposure=0.1, seed=2 * seed + r
            ),
            crystal,
            table=table,
            spline=spline,
        )
        header = NXmxHeader(**simulation.raw_header())
        with NXmxWriter(folder / f"raw/{name}.nxs", header) as writer:
            for block in simulation.frames(16):
                writer.append(block)
    about = [f"{x * (1.005 if i < 3 else 1):.3f}" for i, x in enumerate(own)]
    keys = ("sample", "space_group", "a", "b", "c", "alpha", "beta", "gamma")
    _table(folder / "config/samples.tsv", [keys, ("world", GROUPS[cell], *about)])
    rows = [("sample", "scan", "temperature", "parent", "rotation", "raw")]
    rows += [("world", "300K", "300", "300K", name, f"raw/{name}.nxs") for name in names]
    _table(folder / "config/scans.tsv", rows)
    (folder / "config/config.yaml").write_text(
        "samples: config/samples.tsv\nscans: config/scans.tsv\n"
        f"refine_parent: {{grid_step: {[STEP] * 3}, grid_limits: {[LIMIT] * 3}}}\n"
        # As the stage says: no absorption was simulated, and diffuse scattering is all there is.
        "frame_scale: {source: none}\n"
    )


def _table(path: Path, rows: list[tuple[str, ...]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
