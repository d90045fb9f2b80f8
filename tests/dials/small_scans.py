"""Two small simulated rotations of one crystal, taken through the stages to tables of peaks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hklflow import geometry, nexus, stage
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.peaks.table import PeakTable
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stages import import_scan

HEXAGONAL = (4.9, 4.9, 8.1, 90.0, 90.0, 120.0)
TRICLINIC = (5.2, 7.1, 8.8, 81.0, 97.0, 108.0)
MONOCLINIC = (6.1, 5.9, 9.4, 90.0, 104.0, 90.0)
NAMES = ("first", "second")
#: Turn of the second rotation's crystal, degrees in the goniometer's frame.
HEAD = (0.05, -0.1, 0.08)


@dataclass(frozen=True)
class Made:
    """Simulations, and the files of each rotation."""

    simulations: tuple[Simulation, ...]
    scans: list[Path]
    masks: list[Path]
    peaks: list[Path]

    @property
    def rotations(self) -> list[geometry.Rotation]:
        return [nexus.read_scan(path).rotation for path in self.scans]


def simulations(
    cell: tuple[float, ...],
    n: int = 2,
    *,
    n_frames: int = 50,
    step: float = 1.0,
    shape: tuple[int, int] = (180, 200),
    misorientation: tuple[float, float, float] = (0.0, 0.0, 0.0),
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0),
    scale: float = 1.0,
    gaps: tuple[tuple[int, int, int, int], ...] = (),
    step_sign: int = 1,
) -> tuple[Simulation, ...]:
    """Rotations about one axis at two settings of another; the second's crystal is turned.

    `turn` and `misorientation` are rotation vectors in degrees in the goniometer's frame.
    """
    found = []
    for i, kappa in enumerate((0.0, 0.5)[:n]):
        total = np.add(turn, misorientation if i else (0.0, 0.0, 0.0))
        found.append(
            Simulation(
                detector=DetectorModel(
                    shape,
                    0.03,
                    (shape[0] * 0.48, shape[1] * 0.52),
                    (172e-6, 172e-6),
                    (0.02, -0.015),
                    0.01,
                    gaps=gaps,
                ),
                goniometer=GoniometerModel(
                    ((0.0, 0.6, 0.8), (-1.0, 0.02, -0.01)), (kappa, 0.0), ("kappa", "phi"), 1
                ),
                scan=ScanModel(
                    0.2, step_sign * np.radians(step), n_frames, 0.5, seed=3 + i, polarization=0.99
                ),
                crystal=CrystalModel(
                    cell,
                    orientation=(0.7, -0.4, 1.1),
                    turn=tuple(float(x) for x in total),
                    mosaic=np.radians(0.25),
                    scale=scale,
                    # One heavy atom and one at a general place: no symmetry but the lattice's.
                    atoms=((0, 0, 0, 1.0), (0.31, 0.17, 0.23, 0.6)),
                    b_iso=1.0,
                ),
                diffuse=Diffuse(flat=2.0),
            )
        )
    return tuple(found)


def make(folder: Path, scans: tuple[Simulation, ...]) -> Made:
    """Write and import the rotations; their tables are true centres with errors of counting."""
    files: dict[str, list[Path]] = {"scans": [], "masks": [], "peaks": []}
    for i, simulation in enumerate(scans):
        place = folder / NAMES[i]
        place.mkdir(parents=True, exist_ok=True)
        with NXmxWriter(place / "raw.nxs", NXmxHeader(**simulation.raw_header())) as writer:
            for block in simulation.frames(16):
                writer.append(block)
        stage.run(
            import_scan.main,
            inputs=import_scan.Inputs(raw=[place / "raw.nxs"]),
            outputs=import_scan.Outputs(scan=place / "scan.nxs"),
            params=import_scan.Params(),
            threads=1,
        )
        nexus.write_mask(place / "mask.nxs", simulation.detector.gap_mask.astype(np.uint32))
        nexus.write_peaks(place / "peaks.nxs", observed(simulation))
        for kind, name in (("scans", "scan"), ("masks", "mask"), ("peaks", "peaks")):
            files[kind].append(place / f"{name}.nxs")
    return Made(scans, **files)


def observed(simulation: Simulation) -> PeakTable:
    """True centres of the strong and whole reflections, with errors, as a table of peaks."""
    truth = simulation.true_peaks()
    keep = truth.clean & (truth.counts > 300) & (truth.zeta > 0.1)
    n = int(keep.sum())
    counts = truth.counts[keep]
    sigma = np.hypot(truth.sigma[keep] / np.sqrt(counts)[:, None], 0.01)
    noise = np.random.default_rng(simulation.scan.seed).normal(0, sigma)
    centre = np.stack([truth.frame, truth.slow, truth.fast], axis=1)[keep] + noise
    ones = np.ones(n, np.int64)
    return PeakTable(
        *centre.T,
        *(sigma**2).T,
        *truth.sigma[keep].T,
        intensity=counts,
        var_intensity=counts,
        background=truth.background[keep],
        n_pixels=30 * ones,
        n_frames=3 * ones,
        maximum=counts / 10,
        significance=np.sqrt(counts),
        chi2=np.ones(n),
        flags=0 * ones,
        counts={"peaks": n},
    )
