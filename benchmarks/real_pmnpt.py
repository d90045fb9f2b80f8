"""PMN-PT around (2 1 1): the project's stages on 401 measured frames, against SPEC and a reference.

    python benchmarks/real_pmnpt.py DATA FOLDER

DATA holds the frames, the SPEC file, the geometry XML and `reference.json` of the
`diffuse_pmnpt` measurement; products, pictures and figures go to FOLDER.

The frames have no header that can be believed, so the scan is put together from SPEC and
the XML and not by `import_scan`. A rocking scan through one peak shows no more than
one reflection, so SPEC's UB takes the place of indexing. All other stages are those of the workflow.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/_native.py)
# isort: on

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow import nexus, plots, stage
from hklflow.core import geometry, lattice
from hklflow.core.binning import Grid
from hklflow.core.scan import RotationScan
from hklflow.formats import spec
from hklflow.stages import find_maximum, mask_3d, merge, pixel_mask, transform

Floats = NDArray[np.float64]

SCAN = 839
# The centre channel of the XML, (slow, fast).
CENTRE = (107.5, 252.5)
# The reference's monitor is in units of a typical reading.
MONITOR_UNIT = 2e5
# A PILATUS counts to 2**20 - 1; what is above comes from its correction of the count rate, and on
# frame 188 some hundred pixels stand at 1.37e6 to 1.43e6 whatever the intensity.
SATURATION = 2**20 - 1
GRID = ((1.85, 2.17), (0.82, 1.18), (0.85, 1.15))


def read(data: Path, first: int = 0, last: int = 400) -> tuple[RotationScan, spec.SpecScan]:
    """Frames first to last (inclusive) of the scan, and what SPEC wrote."""
    written = spec.read_spec_scan(data / "pmn_pt011_2_1.spec", SCAN)
    eta = np.radians(written.column("Eta"))
    step = (eta[-1] - eta[0]) / (written.n_points - 1)
    angle = {name: np.radians(written.motor(name)) for name in ("Mu", "Chi", "Phi", "Delta", "Nu")}
    rotation = geometry.Rotation(
        # The polarisation of an undulator at a horizontal monochromator axis; not in the files.
        geometry.Beam(written.wavelength, 1.0),
        spec.psic_arm(
            spec.read_detector_xml(data / "6IDB_DetectorGeometry.xml"), angle["Delta"], angle["Nu"]
        ),
        spec.psic_goniometer(angle["Mu"], 0.0, angle["Chi"], angle["Phi"]),
        # A step scan: SPEC's eta is that of mid-frame, half a step after a frame's start.
        geometry.Scan(float(eta[0] + (first - 0.5) * step), float(step), last - first + 1),
    )
    used = slice(first, last + 1)
    scan = RotationScan(
        raw=str(data / "images" / f"pmn_pt011_2_1_S{SCAN}_#####.tif"),
        first=first,
        rotation=rotation,
        monitor=written.column("Ion_Ch_2")[used] / MONITOR_UNIT,
        exposure=written.column("Seconds")[used],
        attenuation=written.column("transm")[used],
        monitor_source="Ion_Ch_2",
        temperature=written.temperature,
        saturation=SATURATION,
    )
    return scan, written


def hkl_difference(data: Path) -> float:
    """Largest difference of h, k, l at the centre pixel from SPEC's, over all points."""
    scan, written = read(data)
    n = written.n_points
    hkl = scan.rotation.hkl(
        spec.psic_ub(written.ub), np.arange(n) + 0.5, np.full(n, CENTRE[0]), np.full(n, CENTRE[1])
    )
    return float(np.abs(hkl - written.hkl).max())


def bragg_grid(bins: int) -> Grid:
    """Grid whose voxels fill the range around (2 1 1)."""
    low, high = np.array(GRID).T
    step = (high - low) / bins
    return Grid(low + step / 2, step, (bins, bins, bins))


def reference_grid(reference: dict[str, Any]) -> Grid:
    """Grid of the reference: its outermost voxels are centred at the data's limits."""
    low, high = np.array(reference["hkl_range"]).T
    bins = np.array(reference["grid"]["bins"])
    return Grid(low, (high - low) / (bins - 1), tuple(int(n) for n in bins))


def orientation(scan: RotationScan, ub: Floats, grid: Grid) -> dict[str, Any]:
    """What refine would write, with SPEC's UB."""
    u, cell = lattice.decompose_ub(spec.psic_ub(ub))
    return {
        "sample": "PMN-PT",
        "scan": str(SCAN),
        "space_group": "P m -3 m",
        "parent": str(SCAN),
        "temperature": scan.temperature,
        "cell": cell,
        "cell_sigma": np.zeros(6),
        "U": u,
        "UB": spec.psic_ub(ub),
        "rotations": {"eta": geometry.to_dict(scan.rotation)},
        "grid": grid.to_dict(),
    }


def prepare(data: Path, out: Path, first: int = 0, last: int = 400) -> dict[str, Any]:
    """Scan file, pixel mask, frame statistics and 3-D mask; figures of them."""
    out.mkdir(parents=True, exist_ok=True)
    scan, _ = read(data, first, last)
    nexus.write_scan(out / "scan.nxs", scan, f"SPEC scan {SCAN}", None)
    stage.run(
        pixel_mask.main,
        inputs=pixel_mask.Inputs(scan=out / "scan.nxs"),
        outputs=pixel_mask.Outputs(mask=out / "mask.nxs", picture=out / "mask.png"),
        # Defects are judged by their neighbours: beside one strong peak each side of it looks odd.
        params=pixel_mask.Params(),
        threads=1,
    )
    stage.run(
        find_maximum.main,
        inputs=find_maximum.Inputs(scan=out / "scan.nxs", mask=out / "mask.nxs"),
        outputs=find_maximum.Outputs(
            statistics=out / "statistics.nxs",
            picture=out / "statistics.png",
            metrics=out / "statistics.json",
        ),
        # All that is seen is the peak: there is no background to take a transmission from.
        params=find_maximum.Params(transmission=False),
        threads=1,
    )
    stage.run(
        mask_3d.main,
        inputs=mask_3d.Inputs(scan=out / "scan.nxs", mask=out / "mask.nxs"),
        outputs=mask_3d.Outputs(
            frame_mask=out / "found_frame_mask.nxs", picture=out / "frame_mask.png"
        ),
        params=mask_3d.Params(),
        threads=1,
    )
    bits = nexus.read_mask(out / "mask.nxs")
    with nexus.open_frame_mask(out / "found_frame_mask.nxs") as packed:
        found = np.unpackbits(packed[()], axis=2)[:, :, : bits.shape[1]] != 0
    # The peak and its diffuse wings are what the mask takes for an artefact (see `compare`).
    shape = (scan.rotation.scan.n_frames, *bits.shape)
    with nexus.FrameMaskWriter(out / "frame_mask.nxs", shape) as writer:
        writer.append(np.zeros((shape[0], shape[1], (shape[2] + 7) // 8), np.uint8), np.zeros(shape[0]))
    return {
        "masked pixels by bit": {
            str(int(bit)): int(np.sum((bits & bit) != 0)) for bit in np.unique(bits) if bit
        },
        "maximum": stage.read_json(out / "statistics.json")["maximum"],
        "maximum at": stage.read_json(out / "statistics.json")["maximum at (frame, slow, fast)"],
        "fraction of pixel-frames in the 3-D mask": float(found.mean()),
    }
