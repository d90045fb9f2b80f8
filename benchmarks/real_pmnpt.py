"""PMN-PT around (2 1 1): the project's stages on 401 measured frames, against SPEC and a reference.

    python -m benchmarks.real_pmnpt DATA FOLDER

DATA holds the frames, the SPEC file, the geometry XML and `reference.json` of the
`diffuse_pmnpt` measurement; products, pictures and figures go to FOLDER.

The reductions and their reference are those of `tests/truth/pmnpt.py`.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth.pmnpt import compare, corrected, hkl_difference, orientation, prepare, read, reduce

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.geometry import symmetry
from hklflow.geometry.grid import Grid
from hklflow.stages import fill, pdf, symmetrise


def beyond(data: Path, out: Path) -> dict[str, Any]:
    """What follows the merge, as far as one rocked reflection carries it.

    All 24 mates of (2 1 1) on a grid of the whole reciprocal space; a ΔPDF of that is refused.
    """
    scan, written = read(data)
    grid = Grid.symmetric([2.2] * 3, [0.02] * 3)
    described = orientation(scan, written.ub, grid)
    reduce(out, "all", described, {})
    of_scan = {"orientation": out / "all_orientation.json"}

    def told(name: str) -> dict[str, Path]:
        return {"picture": out / f"{name}.png", "metrics": out / f"{name}.json"}

    stage.run(
        symmetrise.main,
        inputs=symmetrise.Inputs(volumes=[out / "all.nxs"], **of_scan),
        outputs=symmetrise.Outputs(symmetrised=out / "symm.nxs", **told("symm")),
        params=symmetrise.Params(title="PMN-PT (2 1 1), symmetrised"),
        threads=1,
    )
    with nexus.open_volume(out / "symm.nxs") as volume:
        s = volume.group["data"][()]
    mates = symmetry.space_group("P m -3 m").laue_operations @ (2, 1, 1)
    boxes = []
    for mate in mates:
        i, j, m = (round((x + 2.2) / 0.02) for x in mate[::-1])
        boxes.append(float(np.nansum(s[i - 3 : i + 4, j - 3 : j + 4, m - 3 : m + 4])))
    found = {
        "symmetrised": stage.read_json(out / "symm.json"),
        "largest relative difference of 24 mates": float(np.ptp(boxes) / np.mean(boxes)),
    }
    settings = {"radius": 0.15, "q_max": 3.8}
    stage.run(
        fill.main,
        inputs=fill.Inputs(symmetrised=out / "symm.nxs", **of_scan),
        outputs=fill.Outputs(filled=out / "filled.nxs", **told("filled")),
        params=fill.Params(**settings),
        threads=1,
    )
    found["filled"] = stage.read_json(out / "filled.json")
    try:
        stage.run(
            pdf.main,
            inputs=pdf.Inputs(filled=out / "filled.nxs"),
            outputs=pdf.Outputs(pdf=out / "pdf.nxs", **told("pdf")),
            params=pdf.Params(),
            threads=1,
        )
    except HklflowError as refused:
        found["pdf"] = str(refused)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bins", type=int, default=80)
    given = parser.parse_args()
    figures = {
        "largest difference from SPEC's h, k, l": hkl_difference(given.data),
        "frames": prepare(given.data, given.folder),
        "as the reference": compare(given.data, given.folder),
        "corrected": corrected(given.data, given.folder, given.bins),
        "beyond": beyond(given.data, given.folder),
    }
    stage.write_json(given.folder / "figures.json", figures)
    print((given.folder / "figures.json").read_text())


if __name__ == "__main__":
    main()
