"""The 3D-ΔPDF of a whole reduction, from raw frames, against the truth.

    python -m benchmarks.holes_frames FOLDER [--kinds ...] [--cells cubic triclinic]
        [--rotations 2] [--counts 0.05] [--seed 0]

Writes the raw files of crystals with known disorder (tests/truth/hole_frames.py) to FOLDER, runs
the workflow with its defaults, and judges the ΔPDF at 82 lattice vectors and at 82 others, as
`benchmarks.holes_matrix` does. The true S is averaged over the voxel; one factor, between measured
and true S, is fitted. --rotations 1 leaves a cone unmeasured.
"""
# ruff: noqa: I001

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow
import h5py
import numpy as np

from benchmarks.holes_matrix import VECTORS, figures, line
from tests.truth import hole_frames, hole_judge, hole_worlds

_ROOT = Path(__file__).parents[1]


@dataclass
class _World(hole_worlds.World):
    """A world with the end of the taper that the stage `pdf` chose, 1/Å."""

    end: float = np.inf

    @property
    def q_max(self) -> float:
        return self.end


def reduced(folder: Path) -> Path:
    """Run the workflow; return the folder of the scan's products."""
    product = Path("results/world/300K/delta_pdf_masked_transform.nxs")
    command = [sys.executable, "-m", "snakemake", "--snakefile", _ROOT / "Snakefile"]
    command += ["--directory", folder, "--cores", "1", "--quiet", "all", "--", product]
    subprocess.run(list(map(str, command)), check=True)
    return folder / product.parent


def judge(title: str, products: Path, table: hole_frames.Table) -> None:
    """Print the figures of a finished reduction."""
    with h5py.File(products / "filled_masked_transform.nxs") as file:
        group = file["entry/transform"]
        code, s, errors = (group[name][()] for name in ("punched", "data", "data_errors"))
    path = products / "delta_pdf_masked_transform.nxs"
    with h5py.File(path) as file:
        values, sigma = (file["entry/pdf"][name][()] for name in ("data", "data_errors"))
    pdf = hklflow.open(path)
    grid = hklflow.open(products / "filled_masked_transform.nxs").grid
    truth = table.voxels(grid)
    world = _World(table.lattice, grid, truth, code, np.zeros_like(truth), pdf.notes["q_max"])
    q = np.linalg.norm(hole_worlds.hkl_of(grid) @ table.lattice.reciprocal.T, axis=-1)
    used = (code == hole_worlds.MEASURED) & (q < world.q_max)
    scale = s[used].sum() / truth[used].sum()
    at_lattice = hole_judge.lattice_vectors(world, VECTORS)
    reach = np.linalg.norm(at_lattice @ table.lattice.direct.T, axis=1).max()
    elsewhere = hole_judge.other_vectors(world, reach, VECTORS)
    elsewhere = (
        pdf.grid.first + np.rint((elsewhere - pdf.grid.first) / pdf.grid.step) * pdf.grid.step
    )
    print(
        f"{title}: scale {scale:.4f}, {np.mean((s / errors)[used] ** 2):.0f} counts of equivalents"
    )
    for place, vectors in (("lattice", at_lattice), ("others", elsewhere)):
        own = hole_judge.Judge(world, vectors)
        at = tuple(np.rint((vectors - pdf.grid.first) / pdf.grid.step).astype(int).T[::-1])
        if place == "lattice":
            stated = pdf.covariance(vectors)
        else:
            stated = own.covariance(np.nan_to_num(errors))
            ratio = sigma[at] / np.sqrt(np.diag(stated))
            stated = stated * ratio * ratio[:, None]
        line(f"{place}: {title}", [figures(values[at] - scale * own.truth, stated)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="+", default=list(hole_worlds.KINDS))
    parser.add_argument("--cells", nargs="+", default=["cubic", "triclinic"])
    parser.add_argument("--rotations", type=int, default=2)
    parser.add_argument("--counts", type=float, default=0.05, help="for S = 1, pixel and frame")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for kind in args.kinds:
        for cell in args.cells:
            title = f"{kind}, {cell}"
            folder = args.folder / title.replace(", ", "_").replace(" ", "_")
            table = hole_frames.tabulated(kind, cell)
            if not folder.exists():
                hole_frames.write(folder, table, cell, args.counts, args.seed, args.rotations)
            judge(title, reduced(folder), table)


if __name__ == "__main__":
    main()
