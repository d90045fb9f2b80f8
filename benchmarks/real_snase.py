"""Staphylococcal nuclease: the project's stages on ten measured frames, against DIALS.

    python -m benchmarks.real_snase DATA FOLDER

DATA holds the frames and `reference.json` of the `rotation_snase` measurement; products,
pictures and figures go to FOLDER. The reduction is that of `tests/truth/snase.py`, and what follows
it: 10° of a rotation are too little for a ΔPDF, which must be refused.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from tests.truth.snase import (
    by_fraction,
    compare,
    frames,
    lattice_and_orientation,
    peaks,
    run,
    volume,
)

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.stages import fill, pdf, symmetrise


def beyond(out: Path) -> dict[str, Any]:
    """Return the warnings of what follows the merge, up to the stage that refuses."""
    of_scan = {"orientation": out / "orientation.json"}
    steps: tuple[tuple[Any, str, dict[str, Any], dict[str, Any]], ...] = (
        (symmetrise, "symmetrised", {"volumes": [out / "transform.nxs"], **of_scan}, {}),
        (fill, "filled", {"symmetrised": out / "symmetrised.nxs", **of_scan}, {}),
        (
            fill,
            "filled",
            {"symmetrised": out / "symmetrised.nxs", **of_scan},
            {"q_max": 1.0, "radius": 0.025},
        ),
        (pdf, "pdf", {"filled": out / "filled.nxs"}, {}),
    )
    found: dict[str, Any] = {}
    for module, name, inputs, params in steps:
        outputs = {
            name: out / f"{name}.nxs",
            "picture": out / f"{name}.png",
            "metrics": out / f"{name}.json",
        }
        label = f"{name}{' ' + str(params) if params else ''}"
        try:
            run(module, inputs, outputs, **params)
            found[label] = stage.read_json(outputs["metrics"]).get("warnings", [])
        except HklflowError as refused:
            found[label] = str(refused)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step", type=float, default=1 / 3, help="voxel in r.l.u.")
    given = parser.parse_args()
    # fabio does not find the closing brace of these headers, and says so for each image.
    logging.getLogger("fabio").setLevel(logging.ERROR)
    frames(given.data, given.folder)
    peaks(given.folder)
    lattice_and_orientation(given.folder, given.step, None)
    volume(given.folder)
    figures = compare(given.data, given.folder)
    if np.isclose(given.step, 1 / 3):
        transformed = nexus.read_volume(given.folder / "transform.nxs")
        figures["mean S by thirds of l, k, h"] = by_fraction(transformed)
    figures["beyond"] = beyond(given.folder)
    stage.write_json(given.folder / "figures.json", figures)
    print((given.folder / "figures.json").read_text())


if __name__ == "__main__":
    main()
