"""Staphylococcal nuclease: the project's stages on ten measured frames, against DIALS.

    python -m benchmarks.real_snase DATA FOLDER

DATA holds the frames and `reference.json` of the `rotation_snase` measurement; products,
pictures and figures go to FOLDER. The reduction is that of `tests/truth/snase.py`.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import logging
from pathlib import Path

import numpy as np
from tests.truth.snase import by_fraction, compare, frames, lattice_and_orientation, peaks, volume

from hklflow import nexus, stage


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
    stage.write_json(given.folder / "figures.json", figures)
    print((given.folder / "figures.json").read_text())


if __name__ == "__main__":
    main()
