"""Suggested space groups: hklflow and dials.symmetry on the same reflections.

    python -m benchmarks.symmetry_dials [develop | final]

The crystals are those of `benchmarks.symmetry_truth`. DIALS gets the reflections as integrated ones
in P 1. Needs DIALS on PATH.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth.reflections import rotation, turned
from tests.truth.symmetries import CASES, Truth, make

from benchmarks.symmetry_truth import SEEDS
from hklflow.base.errors import HklflowError
from hklflow.bragg.suggest import suggest
from hklflow.dials.programs import Dials, find
from hklflow.formats.dials_expt import write_expt
from hklflow.formats.dials_refl import Refl, write_refl
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.model import Model


def write(truth: Truth, folder: Path) -> None:
    """Write the observations as dials.integrate would have written them."""
    measured = truth.measured
    cell = tuple(measured.cell.tolist())
    model = Model(rotation(), turned(cell), "P 1", raw=str(folder / "none_####.cbf"), name="r0")
    names = write_expt(folder / "integrated.expt", [model])
    n = len(measured.hkl)
    at = np.zeros((n, 3)) + 10.0
    columns: dict[str, Any] = {
        "id": np.zeros(n, np.int64),
        "imageset_id": np.zeros(n, np.int64),
        "panel": np.zeros(n, np.int64),
        "flags": np.full(n, 1 | 256),  # predicted, integrated by summation
        "miller_index": measured.hkl.astype(np.int32),
        "xyzcal.px": at,
        "xyzobs.px.value": at,
        "xyzobs.px.variance": np.full((n, 3), 0.01),
        "xyzcal.mm": at,
        "xyzobs.mm.value": at,
        "s1": at,
        "d": lattice.d_spacing(measured.cell, measured.hkl),
        "lp": np.ones(n),
        "qe": np.ones(n),
        "partiality": np.ones(n),
        "bbox": np.zeros((n, 6), np.int32),
        "intensity.sum.value": measured.intensity,
        "intensity.sum.variance": measured.sigma_intensity**2,
    }
    write_refl(folder / "integrated.refl", Refl(columns, {0: names[0]}, n))


def theirs(dials: Dials, truth: Truth, folder: Path) -> symmetry.SpaceGroup | None:
    """Return the space group that dials.symmetry recommends, None if it fails."""
    write(truth, folder)
    options = ["integrated.expt", "integrated.refl", "partiality_threshold=0.0"]
    try:
        dials.run("dials.symmetry", options, folder, "symmetrized.expt", "symmetrized.refl")
    except HklflowError as error:
        print(error)
        return None
    crystal = json.loads((folder / "symmetrized.expt").read_text())["crystal"][0]
    return symmetry.space_group(f"Hall: {crystal['space_group_hall_symbol'].strip()}")


def main() -> None:
    """Print one line for each crystal, and how often both programs find the Laue group."""
    part = sys.argv[1] if len(sys.argv) > 1 else "final"
    dials = find()
    base = Path(tempfile.mkdtemp())
    right = {"hklflow": 0, "dials": 0, "failed": 0, "all": 0}
    for number, case in enumerate(CASES):
        truth = make(case, SEEDS[part][0])
        folder = base / str(number)
        folder.mkdir()
        ours, other = suggest(truth.measured), theirs(dials, truth, folder)
        laue = truth.group.laue
        right["hklflow"] += ours.laue[0].laue == laue
        right["dials"] += other is not None and other.laue == laue
        right["failed"] += other is None
        right["all"] += 1
        text = "failed" if other is None else f"{other.symbol} ({other.laue})"
        answer = f"{ours.space_group.symbol} ({ours.laue[0].laue})"
        print(f"{case.name:60s} {laue:6s} hklflow {answer:26s} {dials.label} {text}", flush=True)
    print(right)


if __name__ == "__main__":
    main()
