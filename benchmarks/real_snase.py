"""Staphylococcal nuclease: the project's stages on ten measured frames, against DIALS.

    python benchmarks/real_snase.py DATA FOLDER

DATA holds the frames and `reference.json` of the `rotation_snase` measurement; products,
pictures and figures go to FOLDER.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/_native.py)
# isort: on

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hklflow import nexus, stage
from hklflow.core import lattice, symmetry
from hklflow.core.geometry import rotation_matrix
from hklflow.formats.raw import open_frames
from hklflow.stages import (
    find_maximum,
    find_peaks,
    import_scan,
    mask_3d,
    merge,
    pixel_mask,
    refine,
    refine_parent,
    scan_file,
    transform,
)

Floats = NDArray[np.float64]

# DIALS's x, y, z in the lab of `core.frames`: its beam runs along -z.
FROM_DIALS = np.diag([-1.0, 1.0, -1.0])
CELL = (48.4, 48.4, 63.3, 90.0, 90.0, 90.0)
NAME = "phi0"
BEAMSTOP = {"slow": 496.0, "fast": 530.0, "radius": 24.0}


def run(module: Any, inputs: dict[str, Any], outputs: dict[str, Path], **params: Any) -> None:
    """Run one stage."""
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=1,
    )


def blank(data: Path) -> NDArray[np.bool_]:
    """Pixels outside the CCD's taper, which the correction of its distortion leaves at 0."""
    with open_frames(str(data / "snc_newhead_#####.img")) as series:
        zero = (series.read(0, 10) == 0).any(axis=0)
    return ndimage.binary_dilation(zero, iterations=3)


def frames(data: Path, out: Path) -> None:
    """Import, pixel mask, statistics and peaks."""
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(data.glob("snc_newhead_*.img"))
    run(
        import_scan,
        {"raw": [files[0], files[-1]]},
        {"scan": out / "scan.nxs"},
        pattern=str(data / "snc_newhead_#####.img"),
        # The headers' OSC_RANGE of 0 is refused: table and configuration must say.
        axes=("phi=-1,0,0",),
        start=0.0,
        step=1.0,
        polarization=0.95,
        monitor="none",
    )
    np.save(out / "blank.npy", blank(data))
    run(
        pixel_mask,
        {"scan": out / "scan.nxs"},
        {"mask": out / "mask.nxs", "picture": out / "mask.png"},
        shapes=({"shape": "circle", **BEAMSTOP},),
        image=out / "blank.npy",
        # Spots of one or two pixels on ten frames look like hot pixels.
        find_defects=False,
    )
    run(
        find_maximum,
        {"scan": out / "scan.nxs", "mask": out / "mask.nxs"},
        {
            "statistics": out / "statistics.nxs",
            "picture": out / "statistics.png",
            "metrics": out / "statistics.json",
        },
        # Ten frames are too few for a transmission curve.
        transmission=False,
    )


def peaks(out: Path, **params: Any) -> None:
    """Search the peaks."""
    run(
        find_peaks,
        {
            "scan": out / "scan.nxs",
            "mask": out / "mask.nxs",
            "statistics": out / "statistics.nxs",
        },
        {
            "peaks": out / "peaks.nxs",
            "picture": out / "peaks.png",
            "metrics": out / "peaks.json",
        },
        **params,
    )


def lattice_and_orientation(out: Path, grid_step: float, grid_limits: Any) -> None:
    """Index and refine as a parent, then as its own child."""
    tables = {"scans": [out / "scan.nxs"], "peaks": [out / "peaks.nxs"]}
    names = {"sample": "SNase", "scan": "room", "rotations": [NAME]}
    run(
        refine_parent,
        tables,
        {"orientation": out / "parent.json", "picture": out / "parent.png"},
        **names,
        space_group="P 4",
        cell=CELL,
        refine_distance=True,
        grid_step=(grid_step,) * 3,
        grid_limits=grid_limits,
    )
    run(
        refine,
        {"parent": out / "parent.json", **tables},
        {"orientation": out / "orientation.json", "picture": out / "residuals.png"},
        **names,
    )


def misorientation(ub: Floats, reference: Floats) -> tuple[float, str]:
    """Smallest angle in degrees between two orientations of a tetragonal lattice.

    The rotations of the point group 4 are symmetry. Those of 422 that are not in 4 index the
    lattice as well: only intensities tell them apart.

    Returns
    -------
    angle : float
    relation : str
        ``symmetry``, or ``reindexed`` if the nearest is of the second kind.
    """
    u = lattice.decompose_ub(ub)[0]
    target, cell = lattice.decompose_ub(reference)
    b = lattice.b_matrix(cell)
    own = symmetry.space_group("P 4").proper_laue_operations
    best = (np.inf, "")
    for operation in symmetry.space_group("P 4 2 2").proper_laue_operations:
        mate = lattice.nearest_rotation(target @ b @ operation @ np.linalg.inv(b))
        angle = float(np.degrees(lattice.rotation_angle(u, mate)))
        kind = "symmetry" if any(np.allclose(operation, w) for w in own) else "reindexed"
        best = min(best, (angle, kind))
    return best
