"""Find the scale of every frame of one rotation.

Monitor and attenuators are known. The transmission of the rotating sample is estimated from the
background between the Bragg peaks, and so is the scale of the rotation relative to the first
rotation of its scan. The transform uses both.
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
    """Scan file of the first rotation of the scan, to which the other rotations are scaled."""
    reference: Path
    """Frame statistics of the first rotation of the scan."""
    earlier: list[Path] = Field(default_factory=list)
    """Frame statistics of the earlier rotations of the scan, which must not have the same frames.
    """


class Outputs(stage.Outputs):
    scale: Path
    """Scale of every frame."""
    picture: Path
    """Picture: monitor, attenuators, transmission and scale."""
    metrics: Path
    """Number of frames that were used, replaced and interpolated; range of the transmission."""


class Params(stage.Params):
    source: Literal["background", "frame_sum", "none"] = "background"
    """Signal from which the transmission of the sample is estimated. `background`: the level
    between the Bragg peaks. `frame_sum`: all good pixels, with Bragg peaks. `none`: the
    transmission is 1 (for few frames, or no background).
    """
    smooth: bool = True
    """Fit a smooth curve to the values of the frames; False: each frame keeps its own value."""
    window: int = Field(31, ge=5)
    """Odd number of frames in the window of the smooth curve. The transmission should change little
    within half a window.
    """
    rotation_scale: bool = True
    """Scale the rotations of a scan to each other by the medians of signal over monitor. Set False
    if their detector settings differ, so that their backgrounds cannot be compared."""
    doubtful_scale: float = Field(10.0, gt=1)
    """Ratio of the scales of two rotations, or its inverse, above which the ratio is reported. One
    crystal in one beam cannot cause such a ratio. Slits, attenuators and monitors that are missing
    in the headers can, and so can a background that does not come from the sample.
    """
    told_error: float = Field(0.003, gt=0)
    """Relative error of the transmission above which it is reported. It is estimated from the
    differences between parts of the detector. A larger error exceeds the error bars of sums over
    some hundred voxels with as many counts each.
    """


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Estimate the transmission, compare it with the first rotation, and draw it."""
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
                f"{path} has {len(background)} frames, but {scan_path} has {len(incident)}; make "
                "the frame statistics again"
            )
        if params.source == "none":
            return frame_scale.constant(incident), background
        signal = background
        if params.source == "frame_sum":
            pixels = nexus.read_statistics(path, "pixels")
            # A frame with only flagged pixels has no value.
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
    # The calibrated geometry is used: refinement changes this ratio very little.
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
        f"transmission {curve.min():.4f} to {curve.max():.4f} of its median, scale of the rotation "
        f"{rotation:.4f}; frames {own.counts}"
    )


def _curve_doubts(own: "Transmission", uneven: "Uneven | None", params: Params) -> list[str]:
    """Return a warning if the background changes differently on parts of the detector.

    Also return a warning if this could not be judged.
    """
    if uneven is None:
        return _unjudged(own, params)
    if not uneven.significant or uneven.error <= params.told_error:
        return []
    return [
        f"the change of the background differs between parts of the detector by "
        f"{uneven.spread:.2%} (rms), because of diffuse scattering that rotates with the crystal, "
        "or of absorption that depends on direction. The transmission, and therefore S(Q), has an "
        f"error of {uneven.error:.1%} (limit {params.told_error:.1%}), the same for neighbouring "
        "frames; if the beam is larger than the crystal, and the crystal absorbs little, set "
        "`frame_scale: {source: none}`"
    ]


def _unjudged(own: "Transmission", params: Params) -> list[str]:
    """Return a warning if the curve may be wrong but parts of the detector were not compared.

    A flat curve needs no warning: it changes nothing.
    """
    from hklflow.images import frame_scale

    change = frame_scale.change(own, params.window if params.smooth else None)
    if params.source == "none" or change <= params.told_error:
        return []
    return [
        f"the transmission changes by {change:.1%} (rms), but this change could not be checked: "
        f"fewer than {frame_scale.FEWEST_PARTS} parts of the detector have a background. If the "
        "background is diffuse scattering that rotates with the crystal, S(Q) is wrong by the same "
        "factor: widen `find_peaks: annulus`, or, if the beam is larger than the crystal, and the "
        "crystal absorbs little, set `frame_scale: {source: none}`"
    ]


def _scale_doubts(
    rotation: float, scan: "RotationScan", first: "RotationScan", params: Params
) -> list[str]:
    """Return a warning if one crystal in one beam cannot explain the ratio of two rotations."""
    import numpy as np

    if 1 / params.doubtful_scale <= rotation <= params.doubtful_scale:
        return []
    monitors = [float(np.median(one.monitor * one.attenuation)) for one in (scan, first)]
    return [
        f"the background per monitor count of this rotation is {rotation:.4g} times the first "
        f"rotation's, to which it is scaled (monitor times attenuation: {monitors[0]:.4g}, first "
        f"rotation: {monitors[1]:.4g}); check monitor, attenuators and exposure of both rotations, "
        "and that the background comes from the sample; if they are right, raise `frame_scale: "
        "doubtful_scale`"
    ]


def _require_own_frames(scan: "RotationScan", inputs: Inputs) -> None:
    """Refuse frames that an earlier rotation of the scan already has, even in another file.

    Raises
    ------
    HklflowError
        If there are such frames.
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
        cure = f"remove the row of {rotation} from the table of scans"
        if len(frames) < scan.rotation.scan.n_frames:
            items = ", ".join(f"{rotation}:{item}" for item in left_out.written(frames))
            cure += (
                ", or leave these frames out: "
                f"`per_scan: {{{sample}/{name}: {{import_scan: {{leave_out: [{items}]}}}}}}`"
            )
        raise HklflowError(
            f"{len(frames)} frames of {scan.raw} (the first is frame {frames[0]}) have the same "
            f"counts as frames of {path.absolute().parts[-2]} ({path}): they are the same "
            f"measurement, which would count twice; {cure}"
        )


if __name__ == "__main__":
    stage.command(main)
