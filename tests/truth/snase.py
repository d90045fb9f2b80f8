"""Staphylococcal nuclease: ten measured frames through the stages, and DIALS's answers to them.

The data's folder holds the frames and `reference.json` of the `rotation_snase` measurement.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from hklflow import nexus, stage
from hklflow.formats.raw import open_frames
from hklflow.geometry import Detector, from_dict, lattice, rotation_matrix, symmetry
from hklflow.stages import (
    find_peaks,
    frame_scale,
    import_scan,
    mask_3d,
    merge,
    pixel_mask,
    refine,
    refine_parent,
    scan_file,
    transform,
)
from tests.truth import snase_numpy

Floats = NDArray[np.float64]

# DIALS's x, y, z in the lab of `geometry.frames`: its beam runs along -z.
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
        # Ten frames full of spots do not show the gain within 5 %, and it is not needed here.
        gain=1,
    )
    np.save(out / "blank.npy", blank(data))
    run(
        pixel_mask,
        {"scan": out / "scan.nxs"},
        {
            "mask": out / "mask.nxs",
            "picture": out / "mask.png",
            "metrics": out / "mask.json",
        },
        shapes=({"shape": "circle", **BEAMSTOP},),
        image=out / "blank.npy",
        # Spots of one or two pixels on ten frames look like hot pixels.
        find_defects=False,
    )


def peaks(out: Path, **params: Any) -> None:
    """Search the peaks, and scale the frames."""
    # The CCD's distortion is corrected to about half a pixel only. Without a floor the strongest
    # spots would outweigh all others by 1000 and the refinement would not settle.
    # A CCD's counts are not photons. At fewer standard deviations the spots of the bright ring
    # run together to blobs that are refused as too large, at more the weak ones are lost: 5.5
    # finds most (2611, 2806, 2848, 2790, 2675 and 2541 peaks at 4, 4.5, 5.5, 6, 7 and 8).
    params = {"sigma_floor": (0.3, 0.3), "gain": "measure", "n_sigma": 5.5, **params}
    run(
        find_peaks,
        {
            "scan": out / "scan.nxs",
            "mask": out / "mask.nxs",
        },
        {
            "peaks": out / "peaks.nxs",
            "picture": out / "peaks.png",
            "metrics": out / "peaks.json",
            "statistics": out / "statistics.nxs",
            "statistics_picture": out / "statistics.png",
            "statistics_metrics": out / "statistics.json",
        },
        **params,
    )
    run(
        frame_scale,
        {
            "scan": out / "scan.nxs",
            "statistics": out / "statistics.nxs",
            "reference_scan": out / "scan.nxs",
            "reference": out / "statistics.nxs",
        },
        {
            "scale": out / "scale.nxs",
            "picture": out / "scale.png",
            "metrics": out / "scale.json",
        },
        # No monitor was read, and the level steps by 7 % between two frames: a curve that is smooth
        # over ten frames is wrong by up to 3 %, a scale of 1 by up to 10 % (docs/estimator.md).
        smooth=False,
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


def volume(out: Path, samples: tuple[int, int, int] | None = None) -> None:
    """3-D mask, transform, merge and master file."""
    scan = {"scan": out / "scan.nxs", "mask": out / "mask.nxs"}
    run(
        mask_3d,
        scan,
        {"frame_mask": out / "frame_mask.nxs", "picture": out / "frame_mask.png"},
    )
    kinds = ("transform", "masked_transform")
    run(
        transform,
        {
            **scan,
            "scale": out / "scale.nxs",
            "frame_mask": out / "frame_mask.nxs",
            "orientation": out / "orientation.json",
        },
        {kind: out / f"{NAME}_{kind}.nxs" for kind in kinds},
        rotation=NAME,
        samples=samples,
    )
    for kind in kinds:
        run(
            merge,
            {"volumes": [out / f"{NAME}_{kind}.nxs"]},
            {
                "volume": out / f"{kind}.nxs",
                "slices": out / f"{kind}.png",
                "coverage": out / f"{kind}_coverage.png",
                "metrics": out / f"{kind}.json",
            },
            title=f"SNase, {kind}",
        )
    run(
        scan_file,
        {
            "orientation": out / "orientation.json",
            "transform": out / "transform.nxs",
            "masked_transform": out / "masked_transform.nxs",
            "scans": [out / "scan.nxs"],
            "statistics": [out / "statistics.nxs"],
            "scales": [out / "scale.nxs"],
            "peaks": [out / "peaks.nxs"],
            "frame_masks": [out / "frame_mask.nxs"],
            "rotation_transforms": [out / f"{NAME}_transform.nxs"],
            "rotation_masked_transforms": [out / f"{NAME}_masked_transform.nxs"],
        },
        {"master": out / "snase_room.nxs"},
        title="SNase",
    )


def dials_model(data: Path) -> tuple[Detector, Floats]:
    """Detector and UB of the reference in the lab of `geometry.frames`.

    DIALS refines the beam's direction in the plane of beam and axis, and the reference does not
    give it. It follows from where the beam meets the detector, which the authors of the data give.
    """
    reference = json.loads((data / "reference.json").read_text())
    model = reference["model"]["detector"]
    n_fast, n_slow = model["size"]
    pixel = (model["pixel_mm"][1] * 1e-3, model["pixel_mm"][0] * 1e-3)
    axes = [FROM_DIALS @ np.array(model[name]) for name in ("slow", "fast")]
    origin = FROM_DIALS @ np.array(model["origin_mm"]) * 1e-3
    detector = Detector((n_slow, n_fast), pixel, origin, *axes)
    beam_fast, beam_slow = reference["authors_model"]["beam_px"]
    beam = detector.lab(beam_slow, beam_fast)
    # In the plane of beam and axis only.
    turn = rotation_matrix([0.0, 1.0, 0.0], -np.arctan2(beam[0], beam[2]))
    ub = FROM_DIALS @ np.array(reference["model"]["A_UB_invA"]) * 2 * np.pi
    turned = Detector(
        detector.shape,
        pixel,
        turn @ detector.origin,
        turn @ detector.slow,
        turn @ detector.fast,
    )
    return turned, turn @ ub


def misorientation(ub: Floats, reference: Floats) -> tuple[Floats, str]:
    """Rotation (3,) in degrees about lab axes between two orientations of a tetragonal lattice.

    The rotations of the point group 4 are symmetry. Those of 422 that are not in 4 index the
    lattice as well: only intensities tell them apart.

    Returns
    -------
    rotation : (3,) array
        The smallest one.
    relation : str
        ``symmetry``, or ``reindexed`` if the smallest is of the second kind.
    """
    u = lattice.decompose_ub(ub)[0]
    target, cell = lattice.decompose_ub(reference)
    b = lattice.b_matrix(cell)
    own = symmetry.space_group("P 4").proper_laue_operations
    found = []
    for operation in symmetry.space_group("P 4 2 2").proper_laue_operations:
        mate = lattice.nearest_rotation(target @ b @ operation @ np.linalg.inv(b))
        turn = Rotation.from_matrix(u @ mate.T).as_rotvec(degrees=True)
        kind = "symmetry" if any(np.array_equal(operation, w) for w in own) else "reindexed"
        found.append((turn, kind))
    return min(found, key=lambda pair: float(np.linalg.norm(pair[0])))


def turn_between(detector: Detector, reference: Detector) -> Floats:
    """Rotation vector (3,) in degrees about lab axes from one detector's axes to another's."""
    axes = [np.stack([d.slow, d.fast, np.cross(d.slow, d.fast)], 1) for d in (detector, reference)]
    vector: Floats = Rotation.from_matrix(axes[0] @ axes[1].T).as_rotvec(degrees=True)
    return vector


def compare(data: Path, out: Path) -> dict[str, Any]:
    """Set the stages' products against DIALS."""
    reference = json.loads((data / "reference.json").read_text())
    orientation = stage.read_json(out / "orientation.json")
    rotation = from_dict(orientation["rotations"][NAME])
    detector, reference_ub = dials_model(data)
    table = nexus.read_peaks(out / "peaks.nxs")
    hkl = rotation.hkl(orientation["UB"], table.frame, table.slow, table.fast)
    metrics = orientation["metrics"]
    turn, relation = misorientation(np.array(orientation["UB"]), reference_ub)
    tilt = rotation.detector.normal @ detector.normal
    beam = np.array([0.0, 0.0, 1.0])
    transformed = nexus.read_volume(out / f"{NAME}_transform.nxs")
    return {
        "peaks found": len(table.frame),
        "peaks found by DIALS": reference["n_spots"],
        "peaks fit for refinement": metrics["peaks"],
        "fraction of them indexed": metrics["fraction indexed"],
        "fraction of all peaks within 0.25 of integers": float(
            (np.abs(hkl - np.rint(hkl)).max(axis=1) < 0.25).mean()
        ),
        "fraction indexed by DIALS": reference["frac_indexed"],
        "cell": orientation["cell"],
        "cell sigma": orientation["cell_sigma"],
        "cell of DIALS": reference["model"]["cell_abc"],
        "cell, relative difference": np.array(orientation["cell"][:3])
        / reference["model"]["cell_abc"]
        - 1,
        "misorientation about lab x, y, z (degrees)": turn,
        "misorientation (degrees)": float(np.linalg.norm(turn)),
        "turn of the detector against DIALS's about lab x, y, z (degrees)": turn_between(
            rotation.detector, detector
        ),
        "sigma of the orientation (degrees)": orientation["orientation_sigma_deg"],
        "sigma at the parent (degrees)": stage.read_json(out / "parent.json")[
            "orientation_sigma_deg"
        ],
        "related by": relation,
        "distance (mm)": 1e3 * rotation.detector.distance,
        "distance of DIALS (mm)": 1e3 * detector.distance,
        "angle between the detectors' normals (degrees)": float(np.degrees(np.arccos(tilt))),
        "tilt of DIALS's detector (degrees)": float(np.degrees(np.arccos(detector.normal[2]))),
        "beam on the detector (slow, fast)": rotation.detector.intersect(beam),
        "beam of the authors (slow, fast)": reference["authors_model"]["beam_px"][::-1],
        "rmsd (pixels, frames)": [metrics["rmsd in pixels"], metrics["rmsd in frames"]],
        "median residual (slow, fast, frame)": metrics["median residual (slow, fast, frame)"],
        "reduced chi2": metrics["reduced chi2"],
        "transform": transformed.notes,
        "counts": float(transformed.counts.sum()),
        "merge": {
            k: v for k, v in stage.read_json(out / "transform.json").items() if k != "provenance"
        },
    }


def by_fraction(folded: nexus.Volume) -> Floats:
    """Mean S (3, 3, 3) of voxels a third of a period apart: [0, 0, 0] holds the Bragg positions."""
    part = [np.rint(folded.grid.axis(i) * 3).astype(int) % 3 for i in range(3)]
    l_part, k_part, h_part = np.meshgrid(part[2], part[1], part[0], indexing="ij")
    seen = folded.norm > 0
    where = ((l_part * 3 + k_part) * 3 + h_part)[seen]
    sums = np.bincount(where, (folded.counts / np.where(seen, folded.norm, 1.0))[seen], 27)
    return (sums / np.bincount(where, minlength=27)).reshape(3, 3, 3)


def around_integers(folded: nexus.Volume) -> Floats:
    """Return S (l, k, h) in voxels of 1 r.l.u. around integer hkl, from a grid of a third of it.

    NaN where nothing is measured, and at the edge of the grid.
    """
    axes = [folded.grid.axis(i) for i in range(3)]
    arrays = (folded.counts, folded.norm, np.ones(folded.norm.shape))
    counts, norm, parts = (snase_numpy.fold(values, axes) for values in arrays)
    with np.errstate(invalid="ignore"):
        return np.where(parts == 27, counts / norm, np.nan)
