"""Integrated intensities against truth: pulls by decade of intensity, both estimates.

    python -m benchmarks.bragg_truth [DIR]

Pulls are (I - truth) / σ of reflections that scaling would use; their width should be 0.9 to 1.1
and their mean 0. `ratio` is the sum of all intensities over that of the truth. With DIALS on PATH
its intensities of the same frames follow: correlation and scale by shells of resolution, ours
against DIALS and each against the truth. DIR: where the frames are written for it.
"""
# ruff: noqa: I001

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
import numpy as np
from scipy.spatial import cKDTree
from tests.truth import bragg_scans as simulated

from hklflow.bragg.integrate import Integrated, integrate
from hklflow.bragg.reflections import UNFIT, Reflections
from hklflow.simulation.frames import Cosine, Diffuse, Ridge, Simulation, TruePeaks
from hklflow.stage.integration_settings import IntegrationSettings

DECADES = ((0.0, 10.0), (10.0, 100.0), (100.0, 1000.0), (1000.0, 1e5))

GAPS = {"gaps": ((95, 103, 0, 200), (0, 200, 60, 64)), "n_dead": 400, "seed": 3}
LATTICE = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
#: Short-range order, with maxima and minima below the reflections.
DIFFUSE = Diffuse(0.5, (Cosine(0.15, (0.5, 0.0, 0.25)), Cosine(0.1, (0.0, 0.5, 0.0))))
#: Thermal diffuse scattering that peaks below the reflections within the width of a box: no smooth
#: surface through what is around them has its height.
THERMAL = Diffuse(0.5, ridges=(Ridge(0.2, LATTICE, 0.35),))


def narrow(mosaic: float) -> dict[str, Any]:
    """Crystal with a mosaic spread in degrees; a frame has 0.5°."""
    return {"mosaic": np.radians(mosaic)}


@dataclass(frozen=True)
class Case:
    name: str
    crystal: str
    setting: int = 0
    scan: dict[str, Any] | None = None
    read_noise: float = 0.0


CASES = (
    *(Case(f"{c}, setting {s}", c, s) for c in simulated.CRYSTALS for s in (0, 1)),
    *(Case(f"{c}, gaps, dead pixels", c, 0, {"detector": GAPS}) for c in simulated.CRYSTALS),
    Case("hexagonal, background 0.015 / voxel", "hexagonal", 0, {"diffuse": Diffuse(flat=0.005)}),
    Case("hexagonal, diffuse below", "hexagonal", 0, {"diffuse": DIFFUSE}),
    Case("triclinic, diffuse below", "triclinic", 1, {"diffuse": DIFFUSE}),
    Case("hexagonal, thermal diffuse below", "hexagonal", 0, {"diffuse": THERMAL}),
    Case("triclinic, read noise 0.5", "triclinic", 0, None, 0.5),
    *(
        Case(f"triclinic, spots of {s / 0.5:.2f} frames", "triclinic", 0, {"sample": narrow(s)})
        for s in (0.05, 0.02)
    ),
)


def same(simulation: Simulation, table: Reflections) -> tuple[TruePeaks, np.ndarray, np.ndarray]:
    """True reflections, and which of them is which row; rows without one are left out."""
    truth = simulation.true_peaks()
    at = np.stack([table.frame, table.slow, table.fast], axis=1)
    tree = cKDTree(np.stack([truth.frame, truth.slow, truth.fast], axis=1))
    distance, which = tree.query(at)
    rows = np.flatnonzero(distance < 1e-3)
    return truth, rows, which[rows]


def pulls(table: Reflections, truth: np.ndarray, estimate: str) -> np.ndarray:
    intensity, sigma = table.intensity(estimate)
    return (intensity - truth) / sigma


def used(table: Reflections) -> np.ndarray:
    return np.isfinite(table.intensity_profile) & ~table.has(UNFIT)


def report(case: Case, n_frames: int = 720) -> tuple[Simulation, Integrated]:
    simulation = simulated.scan(
        case.crystal, setting=case.setting, n_frames=n_frames, **(case.scan or {})
    )
    measurement = simulated.measurement(simulation, case.read_noise)
    start = time.perf_counter()
    found = integrate(
        measurement,
        simulation.ub,
        simulated.group(case.crystal),
        None,
        IntegrationSettings().chosen(),
    )
    took = time.perf_counter() - start
    truth, rows, which = same(simulation, found.reflections)
    table = found.reflections.select(rows)
    use = used(table)
    table, which = table.select(use), which[use]
    true = truth.intensity[which]
    print(f"\n{case.name}: {len(table)} reflections, {took:.1f} s; {found.counters}")
    print("  true counts     number   sum: mean  width  ratio    fit: mean  width  ratio")
    for low, high in DECADES:
        rows = (truth.counts[which] >= low) & (truth.counts[which] < high)
        if rows.sum() < 20:
            continue
        told = f"  {low:6.0f} - {high:<6.0f} {int(rows.sum()):7d}"
        for estimate in ("sum", "profile"):
            pull = pulls(table, true, estimate)[rows]
            ratio = table.intensity(estimate)[0][rows].sum() / true[rows].sum()
            told += f"   {pull.mean():9.2f} {pull.std():6.2f} {ratio:6.4f}"
        print(told)
    norm = table.norm
    background = (table.background - truth.background[which] / norm) / table.background_sigma
    total = [table.intensity(e)[0].sum() / true.sum() for e in ("sum", "profile")]
    print(
        f"  background pulls {background.mean():.2f} ± {background.std():.2f}; totals "
        f"{total[0]:.4f} {total[1]:.4f}; background chi2 {np.nanmedian(found.background_chi2):.3f}"
    )
    return simulation, found


def by_dials(simulation: Simulation, crystal: str, folder: Path) -> Reflections:
    """DIALS's intensities of the same frames."""
    from hklflow import nexus, stage
    from hklflow.dials.integrate import integrate as integrate_by_dials
    from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
    from hklflow.stages import import_scan, integrate

    raw = folder / f"{crystal}.nxs"
    with NXmxWriter(raw, NXmxHeader(**simulation.raw_header())) as writer:
        for frames in simulation.frames(16):
            writer.append(frames)
    scan = folder / f"{crystal}_scan.nxs"
    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[raw]),
        outputs=import_scan.Outputs(scan=scan),
        params=import_scan.Params(),
        threads=1,
    )
    measurement = simulated.measurement(simulation)
    group = simulated.group(crystal)
    params = integrate.Settings()
    return integrate_by_dials(
        measurement,
        nexus.read_scan(scan),
        simulation.ub,
        group,
        min_zeta=params.min_zeta,
        min_recorded=params.min_recorded,
    )


def compared(crystal: str, folder: Path, n_frames: int = 240) -> None:
    """Ours against DIALS, and each against the truth, by shells of resolution."""
    simulation = simulated.scan(crystal, n_frames=n_frames)
    measurement = simulated.measurement(simulation)
    group = simulated.group(crystal)
    ours = integrate(
        measurement, simulation.ub, group, None, IntegrationSettings().chosen()
    ).reflections
    theirs = by_dials(simulation, crystal, folder)
    rows, values = {}, {}
    for name, table in (("ours", ours), ("dials", theirs)):
        truth, at, which = same(simulation, table)
        keep = used(table)[at]
        rows[name] = dict(zip(which[keep].tolist(), at[keep].tolist(), strict=True))
    common = np.array(sorted(rows["ours"].keys() & rows["dials"].keys()))
    true = truth.intensity[common]
    for name, table in (("ours", ours), ("dials", theirs)):
        part = table.select(np.array([rows[name][i] for i in common]))
        values[name] = part.intensity_profile
        pull = (part.intensity_profile - true) / part.sigma_profile
        print(
            f"\n{crystal}, {name}: {len(rows[name])} used; pulls of fits {pull.mean():.2f} ± "
            f"{pull.std():.2f}, of sums {pulls(part, true, 'sum').mean():.2f} ± "
            f"{pulls(part, true, 'sum').std():.2f}"
        )
        d = part.d
    print("  d from    to  number   ours/DIALS: scale  correlation   ours/truth   DIALS/truth")
    order = np.argsort(-d)
    for shell in np.array_split(order, 6):
        a, b, t = values["ours"][shell], values["dials"][shell], true[shell]
        print(
            f"  {d[shell].max():6.2f} {d[shell].min():6.2f} {len(shell):6d} "
            f"{a.sum() / b.sum():17.4f} {np.corrcoef(a, b)[0, 1]:12.5f} {a.sum() / t.sum():8.4f} "
            f"{np.corrcoef(a, t)[0, 1]:.5f} {b.sum() / t.sum():8.4f} {np.corrcoef(b, t)[0, 1]:.5f}"
        )


def main(folder: Path | None = None) -> None:
    for case in CASES:
        report(case)
    if shutil.which("dials.integrate") is None:
        print("\nDIALS is not on PATH: not compared")
        return
    with tempfile.TemporaryDirectory(dir=folder) as made:
        for crystal in simulated.CRYSTALS:
            compared(crystal, Path(made))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
