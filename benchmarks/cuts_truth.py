"""Pulls of boxes, lines, shells and planes against known S, in all Laue groups.

    python -m benchmarks.cuts_truth FOLDER N

Makes N volumes for each Laue group by the stages (without their pictures): Poisson counts of a
known S, merged, symmetrised, and symmetrised and filled. Writes mean and width of
(value - truth) / σ to FOLDER/cuts_truth.json. Bins of one volume share voxels: the error of a mean
is larger than 1/√n.
"""

import contextlib
import io
import json
import shutil
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth.cuts import GROUPS, Case, Pulls, boxes, collect, lines, made, planes, shells

import hklflow
from hklflow import plots
from hklflow.plots import fill as fill_pictures
from hklflow.plots import symmetrise as symmetrise_pictures
from hklflow.stages import fill


def nothing(*_: Any, **__: Any) -> None:
    return None


def filled(case: Case, folder: Path) -> Case:
    """Punch and fill a symmetrised volume; the norm of filled voxels is 0."""
    outputs = {"filled": "filled.nxs", "picture": "f.png", "metrics": "f.json"}
    fill.main(
        inputs=fill.Inputs(symmetrised=case.path, orientation=folder / "orientation.json"),
        outputs=fill.Outputs(**{name: folder / file for name, file in outputs.items()}),
        params=fill.Params(radius=0.15, coverage=0.5),
    )
    with hklflow.open(folder / "filled.nxs")._source.open() as arrays:
        whole = tuple(slice(0, n) for n in case.truth.shape)
        code = arrays.read(whole, "punched")["punched"]
    return replace(case, path=folder / "filled.nxs", norm=np.where(code == 0, case.norm, 0))


def main() -> None:
    base, n = Path(sys.argv[1]), int(sys.argv[2])
    for module, name in (
        (plots, "save"),
        (plots, "slices"),
        (plots, "coverage"),
        (symmetrise_pictures, "symmetrised"),
        (fill_pictures, "fill"),
    ):
        setattr(module, name, nothing)
    pulls: dict[str, Pulls] = defaultdict(lambda: defaultdict(list))
    for number, (group, symbol) in enumerate(GROUPS.items()):
        for seed in range(n):
            folder = base / "draw"
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                symmetrised = made(folder, symbol, 1000 * number + seed, "symmetrised")
                punched = filled(symmetrised, folder)
                merged = made(folder, symbol, 1000 * number + seed, "merged")
            for estimand in ("ratio", "mean"):
                collect(symmetrised, estimand, pulls[f"symmetrised {estimand}"])
                collect(merged, estimand, pulls[f"merged {estimand}"])
            one, found = hklflow.open(punched.path), pulls["filled mean"]
            boxes(punched, one, "mean", found, (0.23, 0.33))
            for cut in (lines, shells, planes):
                cut(punched, one, "mean", found)
            shutil.rmtree(folder)
        print(group, flush=True)
    table = {}
    for kind, by_region in pulls.items():
        for region, drawn in by_region.items():
            known = np.array(drawn)[np.isfinite(drawn)]
            row = {"n": known.size, "mean": known.mean(), "width": known.std()}
            table[f"{kind}, {region}"] = row
            print(f"{kind:20} {region:6} {known.size:6} {known.mean():+.3f} {known.std():.3f}")
    (base / "cuts_truth.json").write_text(json.dumps(table, indent=1, default=float))


if __name__ == "__main__":
    main()
