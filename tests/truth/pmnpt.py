"""PMN-PT around (2 1 1): 401 measured frames through the stages, against SPEC and a reference.

The data's folder holds the frames, the SPEC file, the geometry XML and `reference.json` of the
`diffuse_pmnpt` measurement.

The frames have no header that can be believed, so the scan is put together from SPEC and
the XML and not by `import_scan`. A rocking scan through one peak shows one reflection, so
SPEC's UB takes the place of indexing. All other stages are those of the workflow.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow import geometry, nexus, plots, stage
from hklflow.formats import spec
from hklflow.geometry.grid import Grid
from hklflow.images.scan import RotationScan
from hklflow.orientation.product import Orientation
from hklflow.stage import mask_steps
from hklflow.stages import (
    find_peaks,
    frame_scale,
    mask_3d,
    merge,
    pixel_mask,
    transform,
)

Floats = NDArray[np.float64]

SCAN = 839
# The centre channel of the XML, (slow, fast).
CENTRE = (107.5, 252.5)
# The reference's monitor is in units of a typical reading.
MONITOR_UNIT = 2e5
# A PILATUS counts to 2**20 - 1. What is above comes from its correction of the count rate: on frame
# 188, which should have been attenuated, the peak's pixels stand level at 1.37e6 to 1.43e6.
SATURATION = 2**20 - 1
# Something stands before the detector's columns from here on; the edge is 15 pixels wide.
SHADOW = 425
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


def orientation(scan: RotationScan, ub: Floats, grid: Grid) -> Orientation:
    """What refine would write, with SPEC's UB."""
    rotations, ub = {"eta": scan.rotation}, spec.psic_ub(ub)
    known = Orientation.known(str(SCAN), rotations, ub, "P m -3 m", grid)
    return replace(known, sample="PMN-PT", temperature=scan.temperature)


def find_mask(out: Path, *shapes: mask_steps.Shape) -> None:
    """Pixel mask, with shapes drawn over it."""
    stage.run(
        pixel_mask.main,
        inputs=pixel_mask.Inputs(scan=out / "scan.nxs"),
        outputs=pixel_mask.Outputs(
            mask=out / "mask.nxs", picture=out / "mask.png", metrics=out / "mask.json"
        ),
        params=pixel_mask.Params(shapes=shapes),
        threads=1,
    )


def prepare(data: Path, out: Path, first: int = 0, last: int = 400) -> dict[str, Any]:
    """Scan file, pixel mask, frame statistics and 3-D mask; figures of them."""
    out.mkdir(parents=True, exist_ok=True)
    scan, _ = read(data, first, last)
    nexus.write_scan(out / "scan.nxs", scan, f"SPEC scan {SCAN}", None)
    find_mask(out)
    stage.run(
        find_peaks.main,
        inputs=find_peaks.Inputs(scan=out / "scan.nxs", mask=out / "mask.nxs"),
        outputs=find_peaks.Outputs(
            peaks=out / "peaks.nxs",
            picture=out / "peaks.png",
            metrics=out / "peaks.json",
            statistics=out / "statistics.nxs",
            statistics_picture=out / "statistics.png",
            statistics_metrics=out / "statistics.json",
        ),
        params=find_peaks.Params(),
        threads=1,
    )
    stage.run(
        frame_scale.main,
        inputs=frame_scale.Inputs(
            scan=out / "scan.nxs",
            statistics=out / "statistics.nxs",
            reference_scan=out / "scan.nxs",
            reference=out / "statistics.nxs",
        ),
        outputs=frame_scale.Outputs(
            scale=out / "scale.nxs", picture=out / "scale.png", metrics=out / "scale.json"
        ),
        # All that is seen is the peak: there is no background to take a transmission from.
        params=frame_scale.Params(source="none"),
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
        writer.append(
            np.zeros((shape[0], shape[1], (shape[2] + 7) // 8), np.uint8), np.zeros(shape[0])
        )
    return {
        "masked pixels by bit": {
            str(int(bit)): int(np.sum((bits & bit) != 0)) for bit in np.unique(bits) if bit
        },
        "maximum": stage.read_json(out / "statistics.json")["maximum"],
        "maximum at": stage.read_json(out / "statistics.json")["maximum at (frame, slow, fast)"],
        "fraction of pixel-frames in the 3-D mask": float(found.mean()),
    }


def reduce(
    out: Path, name: str, described: Orientation, settings: dict[str, Any]
) -> tuple[nexus.Volume, dict[str, Any]]:
    """Transform and merge in the folder of `prepare`; the volume and the transform's notes."""
    stage.write_json(out / f"{name}_orientation.json", described.to_dict())
    stage.run(
        transform.main,
        inputs=transform.Inputs(
            scan=out / "scan.nxs",
            mask=out / "mask.nxs",
            scale=out / "scale.nxs",
            frame_mask=out / "frame_mask.nxs",
            orientation=out / f"{name}_orientation.json",
        ),
        outputs=transform.Outputs(
            transform=out / f"{name}_eta.nxs", masked_transform=out / f"{name}_eta_masked.nxs"
        ),
        params=transform.Params(rotation="eta", **settings),
        threads=1,
    )
    stage.run(
        merge.main,
        inputs=merge.Inputs(volumes=[out / f"{name}_eta.nxs"]),
        outputs=merge.Outputs(
            volume=out / f"{name}.nxs",
            slices=out / f"{name}_slices.png",
            coverage=out / f"{name}_coverage.png",
            metrics=out / f"{name}.json",
        ),
        params=merge.Params(title=f"PMN-PT (2 1 1), {name}"),
        threads=1,
    )
    notes = nexus.read_volume(out / f"{name}_eta.nxs").notes
    return nexus.read_volume(out / f"{name}.nxs"), notes


def centre_of_mass(grid: Grid, image: Floats, fraction: float = 0.05) -> Floats:
    """Centre of mass (3,) in hkl of the voxels above a fraction of the largest."""
    weight = np.where(np.nan_to_num(image) > fraction * np.nanmax(image), image, 0.0)
    sums = (weight.sum((0, 1)), weight.sum((0, 2)), weight.sum((1, 2)))
    return np.array([grid.axis(i) @ s / s.sum() for i, s in enumerate(sums)])


def brightest(grid: Grid, image: Floats) -> Floats:
    """Return hkl (3,) of the largest voxel."""
    at = np.unravel_index(int(np.nanargmax(image)), image.shape)
    return np.array([grid.axis(i)[at[2 - i]] for i in range(3)])


def centre_of_pixels(scan: RotationScan, ub: Floats, fraction: float = 0.05) -> Floats:
    """Centre of mass (3,) in hkl of pixels with more than a fraction of the most counts.

    This is how the reference's figure was made: from counts as read, without monitor,
    attenuator or grid.
    """
    from hklflow.formats.raw import open_frames

    slow, fast = np.indices(scan.rotation.detector.shape) + 0.5
    n = scan.rotation.scan.n_frames
    with open_frames(scan.raw) as frames:
        most = max(int(b.max()) for b in frames.blocks(16, scan.first, scan.first + n))
        total, moment = 0.0, np.zeros(3)
        for z, block in enumerate(frames.blocks(1, scan.first, scan.first + n)):
            use = block[0] > fraction * most
            hkl = scan.rotation.hkl(spec.psic_ub(ub), z + 0.5, slow[use], fast[use])
            total += float(block[0][use].sum())
            moment += block[0][use] @ hkl
    return moment / total


def planes(volume: nexus.Volume, centre: tuple[float, float, float], title: str) -> Figure:
    """Draw the three planes through a point, on one logarithmic scale; grey: not measured."""
    grid, data = volume.grid, volume.data
    at = [int(np.argmin(np.abs(grid.axis(i) - centre[i]))) for i in range(3)]
    cuts = (
        (data[at[2]], 0, 1, f"l = {grid.axis(2)[at[2]]:.3f}"),
        (data[:, at[1]], 0, 2, f"k = {grid.axis(1)[at[1]]:.3f}"),
        (data[:, :, at[0]], 1, 2, f"h = {grid.axis(0)[at[0]]:.3f}"),
    )
    seen = np.concatenate([c[0][np.isfinite(c[0]) & (c[0] > 0)] for c in cuts])
    norm = LogNorm(np.percentile(seen, 1), seen.max())
    figure = Figure(figsize=(15, 5), layout="constrained")
    for axes, (image, i, j, name) in zip(figure.subplots(1, 3), cuts, strict=True):
        half = grid.step / 2
        x, y = grid.axis(i), grid.axis(j)
        extent = (x[0] - half[i], x[-1] + half[i], y[0] - half[j], y[-1] + half[j])
        mesh = axes.imshow(
            np.where(image <= 0, norm.vmin, image),
            norm=norm,
            origin="lower",
            extent=extent,
            interpolation="nearest",
        )
        axes.set_facecolor("0.85")
        axes.axvline(centre[i], color="w", lw=0.3)
        axes.axhline(centre[j], color="w", lw=0.3)
        axes.set(title=name, xlabel="hkl"[i] + " (r.l.u.)", ylabel="hkl"[j] + " (r.l.u.)")
    figure.colorbar(mesh, ax=figure.axes, label="S (counts per unit norm)", shrink=0.85)
    figure.suptitle(title)
    return figure


def compare(data: Path, out: Path, first: int = 0, last: int = 400) -> dict[str, Any]:
    """Reduce as the reference did: no saturation, no corrections, no sub-samples, its grid."""
    reference = json.loads((data / "reference.json").read_text())[f"S{SCAN}"]
    scan, written = read(data, first, last)
    scan = replace(scan, saturation=None)
    nexus.write_scan(out / "scan.nxs", scan, f"SPEC scan {SCAN}, nothing saturates", None)
    grid = reference_grid(reference)
    uncorrected = {
        "samples": (1, 1, 1),
        "solid_angle": False,
        "polarization": False,
        "efficiency": False,
    }
    described = orientation(scan, written.ub, grid)
    volume, notes = reduce(out, "as_reference", described, uncorrected)
    return {
        "counts": float(volume.counts.sum()),
        "counts of the reference": reference["grid"]["sum_counts"],
        "pixel-frames used": notes["pixel-frames used"],
        "sub-samples outside the grid": notes["sub-samples outside the grid"],
        "voxel with most counts": brightest(grid, volume.counts),
        "brightest pixel of the reference": reference["brightest"]["hkl"],
        "brightest voxel of S": brightest(grid, volume.data),
        "voxel": grid.step,
        "centre of pixels above 5 %": centre_of_pixels(scan, written.ub),
        "centre of voxels above 5 %, counts": centre_of_mass(grid, volume.counts),
        "centre of voxels above 5 %, S": centre_of_mass(grid, volume.data),
        "centre of the reference": reference["com_gt5pct"],
    }


def corrected(data: Path, out: Path, bins: int, first: int = 0, last: int = 400) -> dict[str, Any]:
    """Reduce as a user would: saturated pixels left out, corrections, sub-samples."""
    scan, written = read(data, first, last)
    nexus.write_scan(out / "scan.nxs", scan, f"SPEC scan {SCAN}", None)
    n_slow, n_fast = scan.rotation.detector.shape
    find_mask(
        out,
        mask_steps.Rectangle(
            shape="rectangle", slow_min=0, slow_max=n_slow, fast_min=SHADOW, fast_max=n_fast
        ),
    )
    grid = bragg_grid(bins)
    volume, notes = reduce(out, "corrected", orientation(scan, written.ub, grid), {})
    title = f"PMN-PT, {scan.temperature:g} K: planes through (2 1 1)"
    picture = planes(volume, (2.0, 1.0, 1.0), title)
    plots.save(picture, out / "planes.png")
    return {
        "brightest voxel of S": brightest(grid, volume.data),
        "centre of voxels above 5 %, S": centre_of_mass(grid, volume.data),
        "voxel": grid.step,
        "largest and median S": [float(np.nanmax(volume.data)), float(np.nanmedian(volume.data))],
        "measured fraction of the grid": float((volume.norm > 0).mean()),
        "samples": notes["sub-samples (frame, slow, fast)"],
        "pixel-frames used": notes["pixel-frames used"],
    }
