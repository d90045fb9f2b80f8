"""Pulls of boxes, lines, shells and planes against known S, in all Laue groups.

    python -m benchmarks.cuts_truth FOLDER N

Makes N volumes for each Laue group by the stages (without their pictures): Poisson counts of a
known S, merged, symmetrised, and symmetrised and filled. Writes mean and width of
(value - truth) / σ, each with its standard error, to FOLDER/cuts_truth.json. Bins of one volume
share voxels, so that 1/√n would be too small an error: the errors are of a jackknife over volumes.
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


def jackknife(by_volume: list[np.ndarray]) -> dict[str, float]:
    """Return mean and width of pulls, and their errors from leaving out one volume at a time."""
    sizes = np.array([pulls.size for pulls in by_volume], float)
    sums = np.array([[pulls.sum(), (pulls**2).sum()] for pulls in by_volume])

    def both(n: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        mean = first / n
        return np.stack([mean, np.sqrt(second / n - mean**2)])

    mean, width = both(sizes.sum(), *sums.sum(axis=0))
    without = both(sizes.sum() - sizes, *(sums.sum(axis=0) - sums).T)
    error = np.sqrt((len(sizes) - 1) * without.var(axis=1))
    return {
        "n": int(sizes.sum()),
        "mean": float(mean),
        "error of the mean": float(error[0]),
        "width": float(width),
        "error of the width": float(error[1]),
    }


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
    drawn: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    for number, (group, symbol) in enumerate(GROUPS.items()):
        for seed in range(n):
            folder = base / "draw"
            pulls: dict[str, Pulls] = defaultdict(lambda: defaultdict(list))
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
            for kind, by_region in pulls.items():
                for region, own in by_region.items():
                    drawn[kind, region].append(np.array(own)[np.isfinite(own)])
        print(group, flush=True)
    table = {}
    for (kind, region), by_volume in drawn.items():
        row = table[f"{kind}, {region}"] = jackknife(by_volume)
        mean = f"{row['mean']:+.3f} ± {row['error of the mean']:.3f}"
        width = f"{row['width']:.3f} ± {row['error of the width']:.3f}"
        print(f"{kind:20} {region:6} {row['n']:6} {mean} {width}")
    (base / "cuts_truth.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
