"""Find the scale of every frame of one rotation.

Monitor and attenuators are known. The transmission of the rotating sample is estimated from the
background between the Bragg peaks, and so is the scale of the rotation relative to the first
rotation of its scan. The transform uses both. If runs without the crystal were measured, their
counts are subtracted from this background before.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage
from hklflow.stage.frame_curve import Curve, Signal, read_signal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.images.frame_scale import Jump, Transmission, Uneven
    from hklflow.images.scan import RotationScan
    from hklflow.images.surrounded import Surroundings
    from hklflow.stage.rehearsal import Known
    from hklflow.transform.direction import Direction

VERSION = 6

_PARTS = 4  # along each side of the detector


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    statistics: Path
    """Frame statistics."""
    reference_scan: Path
    """Scan file of the first rotation of the scan, to which the other rotations are scaled."""
    reference: Path
    """Frame statistics of the first rotation of the scan."""
    absorption: Path | None = None
    """Transmission by the crystal's shape, by which the signal is divided; None: the shape is not
    given."""
    earlier: list[Path] = Field(default_factory=list)
    """Frame statistics of the earlier rotations of the scan, which must not have the same frames.
    """
    background: Path | None = None
    """Background of the rotation, measured without the crystal; None: not measured."""
    reference_background: Path | None = None
    """Background of the first rotation of the scan."""


class Outputs(stage.Outputs):
    scale: Path
    """Scale of every frame."""
    picture: Path
    """Picture: monitor, attenuators, transmission and scale."""
    metrics: Path
    """Number of frames that were used, replaced and interpolated; range of the transmission."""


class Params(Curve):
    rotation_scale: bool = True
    """Scale the rotations of a scan to each other by the medians of signal over monitor. Set False
    if their detector settings differ, so that their backgrounds cannot be compared."""
    doubtful_scale: float = Field(10.0, gt=1)
    """Ratio of the scales of two rotations, or its inverse, above which the ratio is reported, and
    ratio of the largest to the smallest transmission of a rotation. One
    crystal in one beam cannot cause such a ratio. Slits, attenuators and monitors that are missing
    in the headers can, and so can a background that does not come from the sample.
    """
    told_error: float = Field(0.01, gt=0)
    """Relative error of the transmission above which it is reported. It is estimated from the
    differences between parts of the detector. At 0.01 it is as large as the error of the scale that
    is assumed wherever scans are compared (`scale_error` of `order_parameters`, `features` and
    `stack_pdf`). Diffuse scattering that rotates with the crystal alone causes 0.002 to 0.005 in
    simulated scans with a perfect beam. The same limit holds for the scatter of the frames about
    the smooth curve, if this scatter is also more than 5 times the counting error.
    """


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Estimate the transmission, compare it with the first rotation, and draw it."""
    from dataclasses import asdict, replace

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.geometry import corrections
    from hklflow.images import frame_scale

    shaped = _by_shape(inputs.absorption, inputs.scan)
    scan, first = nexus.read_scan(inputs.scan), nexus.read_scan(inputs.reference_scan)
    _require_own_frames(scan, inputs)
    signal = read_signal(inputs.scan, inputs.statistics, inputs.absorption, params)
    around = _surroundings(inputs.background, params)
    own = _estimate(signal, around, params)
    reference = _estimate(
        read_signal(inputs.reference_scan, inputs.reference, inputs.absorption, params),
        _surroundings(inputs.reference_background, params),
        params,
    )
    uneven, counting = None, None
    window = params.frames_of_window(len(signal.values))
    if params.source != "none":
        parts, errors = _parts(inputs.statistics, signal, around)
        parts = _without_absorption(parts, shaped and shaped[1])
        uneven = frame_scale.uneven(parts, errors, window)
        counting = frame_scale.counting_error(errors)
    if uneven is not None and uneven.significant:
        own = replace(own, errors=np.hypot(own.errors, uneven.error))
    # The calibrated geometry is used: refinement changes this ratio very little.
    area = corrections.pixel_area(scan.rotation.detector) / corrections.pixel_area(
        first.rotation.detector
    )
    rotation, area = frame_scale.compare(own, reference, area, params.source, params.rotation_scale)
    scale = frame_scale.FrameScale(
        scan.monitor,
        scan.attenuation,
        signal.values,
        own,
        rotation,
        area,
        params.source,
        shaped and shaped[0],
    )
    goniometer = scan.rotation.goniometer
    angle = np.degrees(scan.rotation.scan.angle(np.arange(len(signal.values)) + 0.5))
    nexus.write_scale(outputs.scale, scale, angle)
    picture = plots.frame_scale(
        scale, angle, goniometer.names[goniometer.scan], f"scale of the frames of {scan.raw}"
    )
    plots.save(picture, outputs.picture)
    curve = own.transmission
    warnings = _scale_doubts(rotation, scan, first, params)
    warnings += _curve_doubts(own, uneven, window, params)
    warnings += _scatter_doubts(own, counting, params)
    warnings += _range_doubts(own, params)
    jumps = frame_scale.jumps(
        signal.values - (0.0 if around is None else signal.incident * around.level), signal.incident
    )
    jumped = _jump_doubts(jumps, scan, inputs.statistics)
    # Without a monitor, the curve is the only measure of the beam, whose jumps it corrects.
    monitored = bool(np.ptp(scan.monitor) > 0)
    warnings = [*(jumped if monitored else ()), *warnings]
    metrics = {
        "frames": len(curve),
        "frames over which the curve is smooth": 1 if window is None else window,
        "counts": own.counts,
        "smallest and largest transmission": [float(curve.min()), float(curve.max())],
        "median error of the transmission": float(np.median(own.errors)),
        "scatter of the frames about the curve": own.scatter,
        "error by parts of the detector that differ": None if uneven is None else uneven.error,
        "scale of the rotation": rotation,
        "pixel area relative to the first rotation": area,
        **({} if around is None else _of_surroundings(signal, around)),
        "jumps between neighbouring frames": [asdict(jump) for jump in jumps],
        "warnings": warnings,
        "errors of S": dict.fromkeys(jumped, jumps[0].error) if jumped else {},
        "notes": [] if monitored else _jump_notes(jumps, scan),
    }
    stage.write_json(outputs.metrics, metrics)
    for warning in warnings:
        print(f"warning: {warning}")
    print(
        f"transmission {curve.min():.4f} to {curve.max():.4f} of its median, scale of the rotation "
        f"{rotation:.4f}; frames {own.counts}; "
        + ("no smooth curve" if window is None else f"smooth over {window} frames")
    )
    if around is not None:
        share = metrics["share of the background without the crystal in the signal"]
        print(f"{share:.1%} of the signal is background without the crystal and was subtracted")


def _surroundings(path: Path | None, params: Params) -> "Surroundings | None":
    """Return the counts of the surroundings in the signal; None if they are not subtracted."""
    from hklflow import nexus

    return None if path is None or params.source == "none" else nexus.read_surroundings(path)


def _estimate(signal: Signal, around: "Surroundings | None", params: Params) -> "Transmission":
    """Estimate the transmission with the error of the background."""
    from dataclasses import replace

    import numpy as np

    from hklflow.images import surrounded

    if around is None:
        return signal.transmission(params)
    own = signal.transmission(params, around.level)
    more = surrounded.course_error(own.transmission, own.level, around.direct_error)
    return replace(own, errors=np.hypot(own.errors, more))


def _parts(
    statistics: Path, signal: Signal, around: "Surroundings | None"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return relative levels of parts of the detector and their errors, without surroundings."""
    from hklflow import nexus
    from hklflow.images import surrounded

    parts = nexus.read_parts(statistics)
    if around is None:
        return parts.values, parts.errors
    incident = signal.incident
    return surrounded.parts_of_crystal(
        parts.values,
        parts.errors,
        parts.shape,
        nexus.read_statistics(statistics, "background"),
        incident * around.annulus,
        incident[:, None] * around.parts,
    )


def _of_surroundings(signal: Signal, around: "Surroundings") -> dict[str, float]:
    """Return the share of the surroundings in the signal, and the error of the direct part."""
    import numpy as np

    counts = signal.incident * around.level
    positive = np.where(signal.values > 0, signal.values, np.nan)
    level = float(np.nanmedian(positive / signal.incident))
    return {
        "share of the background without the crystal in the signal": float(
            np.nanmedian(counts / positive)
        ),
        "relative error of the signal by the background without the crystal": (
            around.direct_error / level
        ),
    }


def _by_shape(path: Path | None, scan: Path) -> "tuple[NDArray[np.float64], Direction] | None":
    """Return the transmission by shape of the rotation of a scan file: mean and direction."""
    from hklflow import nexus

    name = scan.absolute().parent.name
    return None if path is None else nexus.read_absorption(path, name)


def _without_absorption(
    parts: "NDArray[np.float64]", direction: "Direction | None"
) -> "NDArray[np.float64]":
    """Return the backgrounds of parts of the detector without the absorption by shape.

    Only if the parts cover all of the detector is their place known.
    """
    import numpy as np

    side = int(np.sqrt(parts.shape[1]))
    if direction is None:
        return parts
    if side**2 != parts.shape[1] or side < _PARTS:
        print(
            "note: parts of the detector are compared without their transmission by shape, because "
            "some have too few pixels"
        )
        return parts
    log = direction.of_parts(side)[np.arange(len(parts)) // direction.every]
    return np.asarray(parts * np.exp(log.mean(axis=0) - log))


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Compare the window with the number of frames."""
    for path in (inputs.scan, inputs.reference_scan):
        if (facts := known.scan(path)) is not None:
            params.frames_of_window(facts.scan.rotation.scan.n_frames)


def _curve_doubts(
    own: "Transmission", uneven: "Uneven | None", window: int | None, params: Params
) -> list[str]:
    """Return a warning if the background changes differently on parts of the detector, or may."""
    if uneven is None:
        return _unjudged(own, window, params)
    if not uneven.significant or uneven.error <= params.told_error:
        return []
    return [
        f"the change of the background differs between parts of the detector by "
        f"{uneven.spread:.2%} (rms), because of diffuse scattering that rotates with the crystal, "
        "or of absorption that depends on direction. The transmission, and therefore S(Q), has an "
        f"error of {uneven.error:.1%} (limit {params.told_error:.1%}), the same for neighbouring "
        "frames. `refine_scale: {use: true}` takes it from repeated measurements of S(Q) instead; "
        "if the beam is larger than the crystal, and the crystal absorbs little, set `frame_scale: "
        "{source: none}`"
    ]


def _scatter_doubts(own: "Transmission", counting: float | None, params: Params) -> list[str]:
    """Return a warning if frames differ from the smooth curve by more than counting noise."""
    from hklflow.images import frame_scale

    limit = params.told_error
    if counting is None or own.scatter <= max(frame_scale.SCATTER_LIMIT * counting, limit):
        return []
    return [
        f"the background of the frames scatters by {own.scatter:.1%} (limit {limit:.1%}) about the "
        f"smooth transmission, {own.scatter / counting:.0f} times its counting error, and S(Q) has "
        "an error of this size on single frames. If incident intensity or exposure change from "
        "frame to frame and the monitor does not measure this change, give the monitor "
        "(`import_scan: monitor`), or set `frame_scale: {smooth: false}`; if a peak fills the "
        "frames, set `frame_scale: {source: none}`"
    ]


def _jump_doubts(jumps: "list[Jump]", scan: "RotationScan", statistics: Path) -> list[str]:
    """Return a sentence on the largest jump between neighbouring frames, if there is one."""
    from math import expm1

    from hklflow.geometry import left_out

    if not jumps:
        return []
    jump, n = jumps[0], scan.rotation.scan.n_frames
    sample, name, rotation = statistics.absolute().parts[-4:-1]
    # The side with fewer frames is proposed.
    side = range(jump.after) if jump.after < n / 2 else range(jump.after, n)
    items = ", ".join(
        f"{rotation}:{item}" for item in left_out.written([scan.first + frame for frame in side])
    )
    more = "" if len(jumps) == 1 else f" ({len(jumps) - 1} more such jumps)"
    return [
        f"the background per monitor count changes by a factor of {jump.factor:.3g} from frame "
        f"{scan.first + jump.before} to frame {scan.first + jump.after}{more}, although the "
        f"transmission of a crystal is smooth in angle (limit {expm1(jump.limit):.0%}): the "
        "monitor, the exposure or the attenuation of one side is wrong, or the crystal moved in "
        "the beam, and the scale of S(Q), also relative to other rotations and scans, is wrong by "
        "up to this factor; check the monitor and exposure of these frames (`import_scan: "
        "monitor`), or leave out the frames of the wrong side, such as "
        f"`per_scan: {{{sample}/{name}: {{import_scan: {{leave_out: [{items}]}}}}}}`"
    ]


def _jump_notes(jumps: "list[Jump]", scan: "RotationScan") -> list[str]:
    """Return a note on the largest jump, if there is one, for a rotation without a monitor."""
    return [
        f"the background changes by a factor of {jump.factor:.3g} from frame "
        f"{scan.first + jump.before} to frame {scan.first + jump.after}; there is no monitor, and "
        "the transmission corrects it: check beam and exposure of these frames"
        for jump in jumps[:1]
    ]


def _range_doubts(own: "Transmission", params: Params) -> list[str]:
    """Return a warning if the transmission changes by more than a crystal can absorb."""
    curve = own.transmission
    ratio = float(curve.max() / curve.min())
    if ratio <= params.doubtful_scale:
        return []
    return [
        f"the largest transmission of this rotation is {ratio:.3g} times the smallest (limit "
        f"{params.doubtful_scale:g}); check the monitor, attenuators and exposure of its frames, "
        "and that the crystal stays in the beam; if they are right, raise `frame_scale: "
        "doubtful_scale`"
    ]


def _unjudged(own: "Transmission", window: int | None, params: Params) -> list[str]:
    """Return a warning if the curve may be wrong, and parts of the detector were not compared.

    A flat curve needs no warning: it changes nothing.
    """
    from hklflow.images import frame_scale

    change = frame_scale.change(own, window)
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
