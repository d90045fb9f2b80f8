"""Find the scale of every frame of one rotation: the sample's transmission from its background.

Monitor and attenuators are known; what the sample itself absorbs as it turns is estimated
from the background between the Bragg peaks, and so is the scale of the rotation relative
to the first one of its scan. The transform takes both from here.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.images.frame_scale import Transmission, Uneven
    from hklflow.images.scan import RotationScan

VERSION = 3


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    statistics: Path
    """Frame statistics."""
    reference_scan: Path
    """Scan file of the scan's first rotation, to whose scale the others are brought."""
    reference: Path
    """Frame statistics of that rotation."""
    earlier: list[Path] = Field(default_factory=list)
    """Frame statistics of the scan's rotations before this one: none may have the same frames."""


class Outputs(stage.Outputs):
    scale: Path
    """Scale of every frame."""
    picture: Path
    """Picture: monitor, attenuators, transmission and scale."""
    metrics: Path
    """Numbers of frames used, replaced and interpolated; range of the transmission."""


class Params(stage.Params):
    source: Literal["background", "frame_sum", "none"] = "background"
    """What tells the sample's transmission. `background`: the level between the Bragg peaks;
    `frame_sum`: all good pixels, Bragg peaks too; `none`: take it as 1 (too few frames, no
    background)."""
    smooth: bool = True
    """Draw a smooth curve through the frames' values; False: each frame keeps its own."""
    window: int = Field(31, ge=5)
    """Frames over which the curve is smooth (odd), short against the change of the transmission.
    """
    rotation_scale: bool = True
    """Bring the rotations of a scan to one scale by the medians of source over monitor; False
    where their detector settings differ, so that their backgrounds do not compare."""
    doubtful_scale: float = Field(10.0, gt=1)
    """Factor between two rotations, either way, that is told: one crystal in one beam has no such
    factor, but slits, attenuators and monitors that no header names have, and so has a background
    that is not the sample's."""
    told_error: float = Field(0.003, gt=0)
    """Relative error of the transmission, by how differently the background changes on parts of the
    detector, from which on it is told: from there on it is larger than the error bars of sums over
    some hundred voxels with as many counts."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Estimate, compare, draw."""
    from dataclasses import replace

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.base.errors import HklflowError
    from hklflow.geometry import corrections
    from hklflow.images import frame_scale

    def estimate(scan_path: Path, path: Path) -> tuple[frame_scale.Transmission, np.ndarray]:
        scan = nexus.read_scan(scan_path)
        incident = scan.monitor * scan.attenuation
        background = nexus.read_statistics(path, "background")
        if len(background) != len(incident):
            raise HklflowError(
                f"{path} has {len(background)} frames but {scan_path} {len(incident)}; make the "
                "frame statistics again"
            )
        if params.source == "none":
            return frame_scale.constant(incident), background
        signal = background
        if params.source == "frame_sum":
            pixels = nexus.read_statistics(path, "pixels")
            # A frame of which every pixel is flagged has no value.
            signal = nexus.read_statistics(path, "frame_sum") / np.where(pixels > 0, pixels, np.nan)
        window = params.window if params.smooth else None
        return frame_scale.transmission(signal, incident, window), signal

    scan, first = nexus.read_scan(inputs.scan), nexus.read_scan(inputs.reference_scan)
    _require_own_frames(scan, inputs)
    own, signal = estimate(inputs.scan, inputs.statistics)
    reference, _ = estimate(inputs.reference_scan, inputs.reference)
    uneven = None
    if params.source != "none":
        window = params.window if params.smooth else None
        uneven = frame_scale.uneven(*nexus.read_parts(inputs.statistics), window)
    if uneven is not None and uneven.significant:
        own = replace(own, errors=np.hypot(own.errors, uneven.error))
    # The calibrated geometry: refinement moves a detector by less than this ratio can tell.
    area = corrections.pixel_area(scan.rotation.detector) / corrections.pixel_area(
        first.rotation.detector
    )
    rotation, area = frame_scale.compare(own, reference, area, params.source, params.rotation_scale)
    scale = frame_scale.FrameScale(
        scan.monitor, scan.attenuation, signal, own, rotation, area, params.source
    )
    goniometer = scan.rotation.goniometer
    angle = np.degrees(scan.rotation.scan.angle(np.arange(len(signal)) + 0.5))
    nexus.write_scale(outputs.scale, scale, angle)
    picture = plots.frame_scale(
        scale, angle, goniometer.names[goniometer.scan], f"scale of the frames of {scan.raw}"
    )
    plots.save(picture, outputs.picture)
    curve = own.transmission
    warnings = [*_scale_doubts(rotation, scan, first, params), *_curve_doubts(own, uneven, params)]
    metrics = {
        "frames": len(curve),
        "counts": own.counts,
        "smallest and largest transmission": [float(curve.min()), float(curve.max())],
        "median error of the transmission": float(np.median(own.errors)),
        "scatter of the frames about the curve": own.scatter,
        "error by parts of the detector that differ": None if uneven is None else uneven.error,
        "scale of the rotation": rotation,
        "pixel area relative to the first rotation": area,
        "warnings": warnings,
    }
    stage.write_json(outputs.metrics, metrics)
    for warning in warnings:
        print(f"warning: {warning}")
    print(
        f"transmission {curve.min():.4f} to {curve.max():.4f} of its median, rotation's scale "
        f"{rotation:.4f}; frames {own.counts}"
    )


def _curve_doubts(own: "Transmission", uneven: "Uneven | None", params: Params) -> list[str]:
    """Say that the background changes differently on parts of the detector, or may do so unseen."""
    if uneven is None:
        return _unjudged(own, params)
    if not uneven.significant or uneven.error <= params.told_error:
        return []
    return [
        f"the background changes by {uneven.spread:.2%} (rms) differently on parts of the "
        "detector: it is diffuse scattering that turns with the crystal, or absorption that "
        "depends on direction, so that the transmission, and S(Q) with it, is known to "
        f"{uneven.error:.1%} only (limit {params.told_error:.1%}), in common for neighbouring "
        "frames; if the beam is larger than the crystal, and the crystal absorbs little, set "
        "`frame_scale: {source: none}`"
    ]


def _unjudged(own: "Transmission", params: Params) -> list[str]:
    """Say that parts of the detector were not compared, where the curve could be wrong by it.

    A curve that is flat changes nothing, whatever the background is of.
    """
    from hklflow.images import frame_scale

    change = frame_scale.change(own, params.window if params.smooth else None)
    if params.source == "none" or change <= params.told_error:
        return []
    return [
        f"the transmission changes by {change:.1%} (rms), and whether the background that shows it "
        "changes alike on all parts of the detector could not be judged: fewer than "
        f"{frame_scale.FEWEST_PARTS} parts have a background; it may be diffuse scattering that "
        "turns with the crystal, and then S(Q) is wrong by as much: widen `find_peaks: annulus`, "
        "or, if the beam is larger than the crystal, and the crystal absorbs little, set "
        "`frame_scale: {source: none}`"
    ]


def _scale_doubts(
    rotation: float, scan: "RotationScan", first: "RotationScan", params: Params
) -> list[str]:
    """Say that two rotations differ by more than one crystal in one beam can, if so."""
    import numpy as np

    if 1 / params.doubtful_scale <= rotation <= params.doubtful_scale:
        return []
    monitors = [float(np.median(one.monitor * one.attenuation)) for one in (scan, first)]
    return [
        f"background per monitor is {rotation:.4g} times that of the first rotation, to which it "
        f"is scaled (monitor times attenuation {monitors[0]:.4g}, of the first "
        f"{monitors[1]:.4g}); check monitor, attenuators and exposure of both, and whether the "
        "background is the sample's; if they are right, raise `frame_scale: doubtful_scale`"
    ]


def _require_own_frames(scan: "RotationScan", inputs: Inputs) -> None:
    """Refuse a measurement that an earlier rotation of the scan has already, whatever its file.

    Raises
    ------
    HklflowError
    """
    from hklflow import nexus
    from hklflow.base.errors import HklflowError
    from hklflow.geometry import left_out
    from hklflow.images import frame_defects

    for path in inputs.earlier:
        pairs = frame_defects.shared(
            *((nexus.read_statistics(p, "frame_sum"), nexus.read_rings(p))
              for p in (inputs.statistics, path))
        )  # fmt: skip
        if not pairs:
            continue
        sample, name, rotation = inputs.statistics.absolute().parts[-4:-1]
        frames = sorted({scan.first + frame for frame, _ in pairs})
        cure = f"take the row of {rotation} out of the table of scans"
        if len(frames) < scan.rotation.scan.n_frames:
            items = ", ".join(f"{rotation}:{item}" for item in left_out.written(frames))
            cure += (
                ", or leave these frames out: "
                f"`per_scan: {{{sample}/{name}: {{import_scan: {{leave_out: [{items}]}}}}}}`"
            )
        raise HklflowError(
            f"{len(frames)} frames of {scan.raw}, the first is frame {frames[0]}, have the same "
            f"counts as frames of {path.absolute().parts[-2]} ({path}): they are one measurement, "
            f"which would count twice; {cure}"
        )


if __name__ == "__main__":
    stage.command(main)
