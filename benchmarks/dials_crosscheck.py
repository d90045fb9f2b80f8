"""Orientation, cell and residuals of hklflow and of DIALS, on simulated and measured rotations.

    python -m benchmarks.dials_crosscheck [DATA] [--only NAME]

Needs DIALS on PATH. DATA is the folder of the measurements; without it only simulated scans are
compared. Each scan is indexed and refined by hklflow and by DIALS, with the spots of either.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests.truth import pmnpt, snase

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.dials import orient
from hklflow.dials.frames import find_spots
from hklflow.dials.programs import find, workspace
from hklflow.formats import spec
from hklflow.formats.dials_expt import read_expt, write_expt
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry import symmetry
from hklflow.geometry.model import Model, from_orientation
from hklflow.geometry.model_compare import compare
from hklflow.geometry.prediction import predict
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stages import find_peaks, import_scan, refine_parent

Floats = NDArray[np.float64]

#: Name, cell, space group, misorientation of the second rotation (degrees).
CRYSTALS = (
    ("hexagonal", (4.9, 4.9, 8.1, 90.0, 90.0, 120.0), "P 6/m m m"),
    ("triclinic", (5.2, 7.1, 8.8, 81.0, 97.0, 108.0), "P -1"),
    ("monoclinic", (6.1, 5.9, 9.4, 90.0, 104.0, 90.0), "P 1 2/m 1"),
)
HEAD = (0.05, -0.1, 0.08)
ENGINES = (("builtin", "builtin"), ("dials", "builtin"), ("dials", "dials"), ("builtin", "dials"))
AXES = ("a", "b", "c", "alpha", "beta", "gamma")


@dataclass(frozen=True)
class Scan:
    """One scan and what is known of its crystal."""

    name: str
    inputs: dict[str, list[Path]]
    rotations: list[str]
    space_group: str
    cell: tuple[float, ...]
    truth: Model | None
    settings: dict[str, Any]


def simulations(cell: tuple[float, ...]) -> list[Simulation]:
    """Two rotations at two settings of an outer axis; the crystal of the second is turned."""
    return [
        Simulation(
            DetectorModel((180, 200), 0.03, (86.0, 104.0), (172e-6, 172e-6), (0.02, -0.015), 0.01),
            GoniometerModel(
                ((0.0, 0.6, 0.8), (-1.0, 0.02, -0.01)), (kappa, 0.0), ("kappa", "phi"), 1
            ),
            ScanModel(0.2, np.radians(1.0), 60, 0.5, seed=3 + i),
            CrystalModel(
                cell,
                orientation=(0.7, -0.4, 1.1),
                turn=HEAD if i else (0.0, 0.0, 0.0),
                mosaic=np.radians(0.25),
                scale=1.0,
                atoms=((0.0, 0.0, 0.0, 1.0), (0.31, 0.17, 0.23, 0.6)),
                b_iso=1.0,
            ),
            Diffuse(flat=2.0),
        )
        for i, kappa in enumerate((0.0, 0.5))
    ]


def run(module: Any, inputs: dict[str, Any], outputs: dict[str, Path], **params: Any) -> None:
    """Run one stage."""
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=2,
    )


def simulated(name: str, cell: tuple[float, ...], group: str, folder: Path) -> Scan:
    """Write, import and search the rotations."""
    inputs: dict[str, list[Path]] = {"scans": [], "peaks": [], "masks": []}
    made = simulations(cell)
    for i, simulation in enumerate(made):
        place = folder / f"rotation_{i}"
        place.mkdir(parents=True)
        with NXmxWriter(place / "raw.nxs", NXmxHeader(**simulation.raw_header())) as writer:
            for block in simulation.frames(16):
                writer.append(block)
        run(import_scan, {"raw": [place / "raw.nxs"]}, {"scan": place / "scan.nxs"})
        nexus.write_mask(place / "mask.nxs", np.zeros(simulation.detector.shape, np.uint32))
        search = {name: place / f"{name}.nxs" for name in ("peaks", "statistics")}
        search |= {name: place / f"{name}.json" for name in ("metrics", "statistics_metrics")}
        search |= {name: place / f"{name}.png" for name in ("picture", "statistics_picture")}
        run(find_peaks, {"scan": place / "scan.nxs", "mask": place / "mask.nxs"}, search)
        for kind, file in (("scans", "scan"), ("peaks", "peaks"), ("masks", "mask")):
            inputs[kind].append(place / f"{file}.nxs")
    rotation = nexus.read_scan(inputs["scans"][0]).rotation
    truth = Model(rotation, made[0].ub, group)
    return Scan(name, inputs, ["first", "second"], group, cell, truth, {})


def nuclease(data: Path, folder: Path) -> Scan:
    """Ten measured frames of 1 degree of a protein crystal."""
    logging.getLogger("fabio").setLevel(logging.ERROR)
    snase.frames(data, folder)
    snase.peaks(folder)
    inputs = {
        kind: [folder / f"{kind[:-1] if kind != 'peaks' else kind}.nxs"]
        for kind in ("scans", "peaks", "masks")
    }
    settings = {"refine_distance": True}
    return Scan("SNase", inputs, ["phi0"], "P 4", snase.CELL, None, settings)


def refined(scan: Scan, engine: str, spots: str, folder: Path) -> dict[str, Any]:
    """Product of refine_parent, and the seconds it took."""
    out = folder / f"{engine}_{spots}.json"
    start = time.monotonic()
    run(
        refine_parent,
        scan.inputs,
        {"orientation": out, "picture": out.with_suffix(".png")},
        sample=scan.name,
        scan="crosscheck",
        rotations=scan.rotations,
        space_group=scan.space_group,
        cell=scan.cell,
        engine=engine,
        spots=spots,
        **scan.settings,
    )
    return stage.read_json(out) | {"seconds": time.monotonic() - start}


def rows(scan: Scan, folder: Path) -> Iterator[str]:
    """Table of one scan, all engines."""
    group = symmetry.space_group(scan.space_group)
    first: dict[str, Any] | None = None
    for engine, spots in ENGINES:
        try:
            found = refined(scan, engine, spots, folder)
        except HklflowError as error:
            yield f"{scan.name}\t{engine}\t{spots}\tREFUSED: {error}"
            continue
        first = found if first is None else first
        model = from_orientation(found)[0]
        turns = [compare(from_orientation(first)[0], model, group).degrees]
        if scan.truth is not None:
            turns.append(compare(scan.truth, model, group).degrees)
        cell, sigma = np.array(found["cell"]), np.array(found["cell_sigma"])
        other = np.array(first["cell"])
        both = np.hypot(sigma, first["cell_sigma"])
        free = [i for i in range(6) if sigma[i] > 0]
        change = " ".join(f"{AXES[i]} {(cell[i] - other[i]) / both[i]:+.1f}" for i in free)
        off = (
            "-"
            if scan.truth is None
            else " ".join(f"{AXES[i]} {(cell[i] - scan.cell[i]) / sigma[i]:+.1f}" for i in free)
        )
        told = found["metrics"]
        yield "\t".join(
            [
                *(scan.name, engine, spots, str(told["peaks found"]), str(told["peaks"])),
                f"{told['fraction indexed']:.4f}",
                f"{told['rmsd in pixels']:.4f}",
                f"{told['rmsd in frames']:.4f}",
                " ".join(f"{x:.4f}" for x in told["median residual (slow, fast, frame)"]),
                f"{turns[0]:.5f}",
                f"{np.linalg.norm(found['orientation_sigma_deg']):.5f}",
                f"{turns[1]:.5f}" if len(turns) > 1 else "-",
                change,
                off,
                " ".join(f"{x:.5f}" for x in cell),
                f"{found['seconds']:.0f}",
            ]
        )


def one_reflection(data: Path, folder: Path) -> Iterator[str]:
    """PMN-PT: 401 frames of one reflection. What each says to that, and where each predicts it."""
    folder.mkdir(parents=True, exist_ok=True)
    scan, written = pmnpt.read(data)
    nexus.write_scan(folder / "scan.nxs", scan, "PMN-PT", None)
    pmnpt.find_mask(folder)
    ub = spec.psic_ub(written.ub)
    dials = find()
    with workspace("pmnpt") as work:
        try:
            spots = find_spots(dials, scan, scan.rotation, folder / "mask.nxs", work, 2)
            yield f"PMN-PT\tDIALS finds {len(spots)} spots"
        except HklflowError as error:
            yield f"PMN-PT\tDIALS finds no spots: {error}"
            return
    group = symmetry.space_group("P m -3 m")
    cell = (4.03, 4.03, 4.03, 90.0, 90.0, 90.0)
    with workspace("pmnpt") as work:
        try:
            orient.index(dials, [scan.rotation], [spots], group, cell, ["cell"], work)
            yield "PMN-PT\tDIALS indexes"
        except HklflowError as error:
            yield f"PMN-PT\tDIALS: {error}"
    try:
        from tests.truth.defaults import index_peaks

        g = scan.rotation.q_crystal(spots.frame, spots.slow, spots.fast)
        index_peaks(g, cell=cell, group=group)
        yield "PMN-PT\thklflow indexes"
    except HklflowError as error:
        yield f"PMN-PT\thklflow: {error}"
    ours = predict(scan.rotation, ub, np.array([[2, 1, 1]]), margin=50)
    with workspace("pmnpt") as work:
        write_expt(work / "model.expt", [Model(scan.rotation, ub, "P 1")])
        back = read_expt(work / "model.expt")[0]
    assert back.ub is not None
    yield f"PMN-PT\tUB through .expt changes by {np.abs(back.ub - ub).max():.1e} 1/A"
    for frame, slow, fast in zip(ours.frame, ours.slow, ours.fast, strict=True):
        yield f"PMN-PT\thklflow predicts (2 1 1) at frame {frame:.4f}, pixel {slow:.4f} {fast:.4f}"
    strong = int(np.argmax(spots.intensity))
    yield (
        f"PMN-PT\tthe strongest spot of DIALS is at frame {spots.frame[strong]:.2f}, pixel "
        f"{spots.slow[strong]:.2f} {spots.fast[strong]:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--only", help="name of one scan")
    given = parser.parse_args()
    print(find().label)
    head = "scan engine spots found used indexed rmsd_px rmsd_frames median_residual deg_to_ours"
    head += " sigma_deg deg_to_truth"
    print(
        "\t".join([*head.split(), "cell_minus_ours/sigma", "cell_minus_truth/sigma", "cell", "s"])
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, cell, group in CRYSTALS:
            if given.only in (None, name):
                scan = simulated(name, cell, group, folder / name)
                for row in rows(scan, folder / name):
                    print(row, flush=True)
        if given.data is not None and given.only in (None, "SNase"):
            scan = nuclease(given.data / "rotation_snase", folder / "SNase")
            for row in rows(scan, folder / "SNase"):
                print(row, flush=True)
        if given.data is not None and given.only in (None, "PMN-PT"):
            for row in one_reflection(given.data / "diffuse_pmnpt", folder / "PMN-PT"):
                print(row, flush=True)


if __name__ == "__main__":
    main()
