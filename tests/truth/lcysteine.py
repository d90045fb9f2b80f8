"""L-cysteine: four wedges of 15 measured frames through the stages, and DIALS's answer to them.

The data's folder holds the frames and `reference.json` of the `rotation_lcysteine` measurement. The
geometry is put in by hand, from the text of the frames' headers: a truth for the reader of headers.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation as Turn

from hklflow import geometry, nexus, stage
from hklflow.images.scan import RotationScan
from hklflow.orientation.product import Orientation
from hklflow.stages import accept, find_peaks, pixel_mask, refine, refine_parent
from tests.truth.snase import FROM_DIALS, run

Floats = NDArray[np.float64]

SWEEPS = ("01", "02", "03", "04")
CELL = (5.428, 8.141, 12.038, 90.0, 90.0, 90.0)
# Axes of the headers' imgCIF part, which is in DIALS's lab; degrees.
OMEGA, PHI = (1.0, 0.0, 0.0), (0.5774, -0.8165, 0.0)
ARM = {"01": 30.0, "02": 30.0, "03": 30.0, "04": 0.0}
PHI_AT = {"01": 0.0, "02": 120.0, "03": 240.0, "04": 0.0}
DISTANCE, PIXEL, BEAM_XY = 160.0, 0.172, (730.0, 865.0)


def rotation(sweep: str) -> geometry.Rotation:
    """Geometry of a sweep as its headers say."""
    arm = Turn.from_rotvec(np.radians(ARM[sweep]) * np.array(OMEGA)).as_matrix()
    corner = np.array([-PIXEL * BEAM_XY[1], -PIXEL * BEAM_XY[0], -DISTANCE]) / 1000
    # The detector stands with its slow direction along the axis of the arm.
    slow, fast = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    detector = geometry.Detector(
        (1679, 1475),
        (PIXEL / 1000, PIXEL / 1000),
        *(FROM_DIALS @ arm @ vector for vector in (corner, slow, fast)),
    )
    of_phi = sweep == "04"
    goniometer = geometry.Goniometer(
        ("omega", "phi"),
        np.array([FROM_DIALS @ OMEGA, FROM_DIALS @ PHI]),
        np.radians([0.0, PHI_AT[sweep]]),
        1 if of_phi else 0,
    )
    start = 0.0 if of_phi else -145.0
    scan = geometry.Scan(np.radians(start), np.radians(0.1), 15)
    return geometry.Rotation(geometry.Beam(0.6889, 0.99), detector, goniometer, scan)


def peaks(data: Path, out: Path, sweep: str, **params: Any) -> Path:
    """Scan file, mask and peaks of a sweep; the folder."""
    folder = out / sweep
    folder.mkdir(parents=True, exist_ok=True)
    scan = RotationScan(
        raw=str(data / f"l-cyst_{sweep}_#####.cbf.gz"),
        first=0,
        rotation=rotation(sweep),
        monitor=np.full(15, 0.0964),
        exposure=np.full(15, 0.0964),
        attenuation=np.ones(15),
        monitor_source="none",
        saturation=388705,
    )
    nexus.write_scan(folder / "scan.nxs", scan, f"L-cysteine, sweep {sweep}", None)
    run(
        pixel_mask,
        {"scan": folder / "scan.nxs"},
        {
            "mask": folder / "mask.nxs",
            "picture": folder / "mask.png",
            "metrics": folder / "mask.json",
        },
        # Spots of one or two pixels on few frames look like hot pixels.
        find_defects=False,
    )
    run(
        find_peaks,
        {"scan": folder / "scan.nxs", "mask": folder / "mask.nxs"},
        {
            "peaks": folder / "peaks.nxs",
            "picture": folder / "peaks.png",
            "metrics": folder / "peaks.json",
            "statistics": folder / "statistics.nxs",
            "statistics_picture": folder / "statistics.png",
            "statistics_metrics": folder / "statistics.json",
        },
        **params,
    )
    return folder


def orientation(out: Path, sweeps: tuple[str, ...], name: str, **params: Any) -> dict[str, Any]:
    """Index and refine sweeps as one parent, then judge; what `accept` wrote."""
    tables = {
        "scans": [out / sweep / "scan.nxs" for sweep in sweeps],
        "peaks": [out / sweep / "peaks.nxs" for sweep in sweeps],
    }
    names = {"sample": "L-cysteine", "scan": name, "rotations": list(sweeps)}
    parent, own = out / f"{name}_parent.json", out / f"{name}.json"
    run(
        refine_parent,
        tables,
        {"orientation": parent, "picture": out / f"{name}_parent.png"},
        **names,
        space_group="P 21 21 21",
        cell=CELL,
        **params,
    )
    run(
        refine,
        {"parent": parent, **tables},
        {"orientation": own, "picture": out / f"{name}.png"},
        **names,
    )
    accepted = out / f"{name}_accepted.json"
    run(
        accept,
        {"orientation": own, "parent": parent},
        {"accepted": accepted},
        on_failure="warn",
    )
    found: dict[str, Any] = stage.read_json(accepted)
    return found


def off_reference(data: Path, refined: Orientation) -> tuple[dict[str, float], float]:
    """Degrees between the crystal and DIALS's of the full data: in each sweep, and in the mean.

    DIALS's is one crystal for all sweeps. The goniometer was not set exactly: each sweep has its
    own orientation on it, by up to a degree from the others.
    """
    entry = json.loads((data / "reference.json").read_text())["sweeps"]["01"]
    real = np.array([entry[f"real_space_{axis}"] for axis in "abc"])
    theirs = FROM_DIALS @ np.linalg.inv(real) * 2 * np.pi
    heads = {
        sweep: rotation(sweep).goniometer.rotation(0.0).T @ of_sweep.goniometer.rotation(0.0)
        for sweep, of_sweep in refined.rotations.items()
    }
    mean = Turn.from_matrix(list(heads.values())).mean().as_matrix()

    def off(head: Floats) -> float:
        angles = []
        for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)):
            change = head @ refined.ub @ np.diag(signs) @ np.linalg.inv(theirs)
            u, _, vt = np.linalg.svd(change)
            angles.append(np.degrees(Turn.from_matrix(u @ vt).magnitude()))
        return float(min(angles))

    return {sweep: off(head) for sweep, head in heads.items()}, off(mean)


def arm_of_reference(data: Path, sweep: str) -> tuple[float, NDArray[np.float64], float]:
    """Detector of a full sweep as DIALS refined it: distance (mm), beam (pixels), arm (degrees)."""
    entry = json.loads((data / "reference.json").read_text())["sweeps"][sweep]
    origin, fast, slow, source = (
        np.array(entry[name])
        for name in (
            "detector_origin_mm",
            "detector_fast",
            "detector_slow",
            "beam_direction_sample_to_source",
        )
    )
    normal, beam = np.cross(fast, slow), -source
    hit = (origin @ normal) / (beam @ normal) * beam - origin
    arm = np.degrees(np.arccos(abs(normal @ beam)))
    return abs(float(origin @ normal)), np.array([hit @ slow, hit @ fast]) / PIXEL, float(arm)


def arm(rotation: geometry.Rotation) -> tuple[float, NDArray[np.float64], float]:
    """Detector of a rotation, like `arm_of_reference`."""
    detector = rotation.detector
    hit = np.array(detector.intersect(geometry.BEAM[None]))[:, 0]
    angle = np.degrees(np.arccos(abs(detector.normal @ geometry.BEAM)))
    return 1000 * detector.distance, hit, float(angle)
