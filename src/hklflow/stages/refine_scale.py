"""Refine the scale of the frames against the repeated measurements of S(Q).

S(Q) of a scan is measured many times: at equivalent Q, on both crossings of the Ewald sphere, and
in several rotations. What differs between these measurements is the scale: the transmission of the
crystal, which depends on the frame and on the direction, and the beam. `frame_scale` is the start;
this stage finds a factor for each frame, and a smooth factor for frame and direction, from all
rotations together. The transform uses both.

A factor that is a function of Q with the Laue symmetry can't be found in this way. It keeps the
value 1.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from hklflow import stage
from hklflow.stage import norms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry import Rotation
    from hklflow.images.scan import RotationScan
    from hklflow.orientation.product import Orientation
    from hklflow.transform.direction import Direction, Refined
    from hklflow.transform.redundancy import Scale, Splines
    from hklflow.transform.repeat_grid import RepeatGrid
    from hklflow.transform.repeats import Orbits, Records, Repeats

VERSION = 8

_NODES = 33  # along each side of the detector
_SURE = 4.0  # errors from 0 of a share of the counts that does not follow the scale
_SMALL = 0.02  # share that is not reported
_LARGE = 0.3  # share whose size is not known, because the estimate is linear
_EXCESS = 1.5  # scatter of groups of S(Q) over that of orbits above which it is reported
_UNKNOWN, _UNKNOWN_REST = 0.2, 0.02  # see `Settings.unknown_background`
_KEPT = "the transmission by frame_scale is used"


class Inputs(stage.Inputs):
    scans: list[Path]
    """Scan files of the rotations."""
    masks: list[Path]
    """Pixel masks of the rotations."""
    scales: list[Path]
    """Scales of the frames by `frame_scale`, the start."""
    absorption: Path | None = None
    """Transmission by the crystal's shape, which is part of the start; None: the shape is not
    given."""
    frame_masks: list[Path]
    """3-D masks of the rotations."""
    accepted: Path | None = None
    """Verdict of the quality gates on the scan; None if the scan was not judged."""
    orientation: Path
    """Refined orientation of the scan."""
    flat_fields: list[Path] = Field(default_factory=list)
    """Response of the pixels of each rotation, from constants or normalisations."""

    backgrounds: list[Path] = Field(default_factory=list)
    """Backgrounds of the rotations that have one."""


class Outputs(stage.Outputs):
    refined: Path
    """Factors of the frames and of the direction, for each rotation."""
    picture: Path
    """Picture: factor of the frames, and range of the direction's factor."""
    metrics: Path
    """Reduced χ² of repeated measurements before and after, errors, warnings."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    use: bool = False
    """Refine the scale of the frames against repeated measurements of S(Q), and use it in the
    transform.
    """
    friedel: bool = True
    """Take S(Q) and S(-Q) as equal. Set False if anomalous scattering makes the diffuse scattering
    of a non-centrosymmetric crystal differ.
    """
    punch: float = Field(0.2, ge=0, lt=0.5)
    """Voxels whose middle differs from a reflection by less than this in h, k and l are not
    compared, because reflections are sharper than voxels."""
    frame_step: float = Field(5.0, ge=0.1)
    """Degrees between the splines of the factor of the frames."""
    direction_step: float = Field(15.0, ge=0.1)
    """Degrees between the splines of the factor of the direction."""
    direction_intervals: int = Field(4, ge=1, le=12)
    """Intervals between the splines of the factor of the direction, along each side of the
    detector."""
    outgoing_step: Annotated[float, Field(ge=4, le=30)] | None = None
    """Degrees between the nodes of a factor of the scattered beam's direction in the frame of the
    crystal, which is the same for all rotations. It follows the edges of a plate; the other
    factor of the direction can then be coarser. None: without it."""
    unknown_background: float | None = Field(None, ge=0, lt=1)
    """Standard deviation of the share of the counts between reflections that is a background which
    nobody measured. Errors of the factors contain what it does. None: 0.02 if every rotation has a
    run of its background, else 0.2.
    """
    told_error: float = Field(0.01, gt=0)
    """Error of the frames' factor (rms, without the common scale of a rotation) above which it is
    reported, and above which the factor is only used if the transmission by `frame_scale` has at
    least twice this error.
    """
    told_chi2: float = Field(1.2, gt=1)
    """Reduced χ² of repeated measurements after the refinement above which it is reported."""
    max_chi2: float = Field(4.0, gt=1)
    """Limit for the same χ²; above it, the factor is not used. At 4, repeated measurements differ
    by twice their errors, so that something else than the scale differs.
    """

    @model_validator(mode="after")
    def _in_order(self) -> "Settings":
        if self.max_chi2 < self.told_chi2:
            raise ValueError(
                f"max_chi2 {self.max_chi2:g} is below told_chi2 {self.told_chi2:g}, so that "
                "results would be left out without a word; give max_chi2 the larger value"
            )
        return self


class Params(Settings):
    """Settings of the stage, with corrections of the transform's norm."""

    corrections: norms.Corrections = norms.Corrections()
    """Corrections of the norm, the same as in the transform."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Sum the frames on a grid, fit the scale, and write it."""
    from hklflow import nexus, plots

    stage.read_accepted(inputs.accepted)
    orientation = stage.read_orientation(inputs.orientation)
    scans = [nexus.read_scan(path) for path in inputs.scans]
    names = [path.absolute().parent.name for path in inputs.scans]
    rotations = [orientation.rotation(name) for name in names]
    task = _Task(orientation, scans, names, rotations)
    found, warnings = None, []
    if len({r.detector.shape for r in rotations}) > 1:
        warnings.append(
            "the scale can't be refined, because the detectors of the rotations have different "
            f"numbers of pixels; {_KEPT}"
        )
    elif (plan := _plan(task)) is None:
        warnings.append(
            "the scale can't be refined: a frame spans more than the space between reflections, "
            "the cell is too large, or there are too many frames for pixels that are too coarse "
            f"to be summed in blocks; {_KEPT}"
        )
    else:
        known = _is_measured(inputs.backgrounds, task.names)
        found, warnings = _fit(_records(task, plan, inputs, params), task, params, known)
    corrections = {} if found is None else _corrections(found, task)
    nexus.write_refined(outputs.refined, corrections)
    metrics = _metrics(found, corrections) | {"warnings": warnings}
    stage.write_json(outputs.metrics, metrics)
    plots.save(plots.refined_scale(corrections, _angles(task)), outputs.picture)
    for warning in warnings:
        print(f"warning: {warning}")
    if found is not None:
        print(
            f"reduced χ² of {found.repeats} repeated measurements {found.chi2:.3f} before, "
            f"{found.chi2_after:.3f} after; {found.determined:.0f} of {len(found.parameters)} "
            "parameters determined"
        )


class _Task(NamedTuple):
    """Orientation, and scan files, names and geometry of the rotations."""

    orientation: "Orientation"
    scans: "list[RotationScan]"
    names: list[str]
    rotations: "list[Rotation]"


def _plan(task: _Task) -> "RepeatGrid | None":
    """Return the grid of the comparison, which reaches as far as the detectors."""
    from hklflow.geometry.rotation import q_max
    from hklflow.transform import repeat_grid

    reach = max(q_max(rotation) for rotation in task.rotations)
    return repeat_grid.choose(task.rotations, task.orientation.ub, task.orientation.cell, reach)


def _is_measured(backgrounds: list[Path], rotations: list[str]) -> bool:
    """Return True if every rotation has a background that was measured.

    The file of a scan is a background from its rotations alone, without the isotropic part.
    """
    return {path.absolute().parent.name for path in backgrounds} >= set(rotations)


class _Sums(NamedTuple):
    """Records, frames of a range, the crystal's part of the norm of the frames, and its error."""

    records: "Records"
    every: int
    through: "list[NDArray[np.float64]]"
    error: float = 0.0


def _records(task: _Task, plan: "RepeatGrid", inputs: Inputs, params: Params) -> _Sums:
    """Sum all frames by voxel and passage."""
    from hklflow.stage import repeated
    from hklflow.transform import repeats

    orbit = repeated.orbits(task.orientation, plan, params.punch, params.friedel)
    parts, through = [], []
    for number in range(len(task.names)):
        own, factor = _of_rotation(task, plan, inputs, params, number, orbit)
        parts.append(own.records())
        through.append(factor)
    records = repeats.Records.joined(parts, orbit, gap=2.5 * plan.frames)
    return _Sums(records, plan.frames, through, _error_of_start(inputs.scales))


def _error_of_start(scales: list[Path]) -> float:
    """Return the smallest of the rotations' median errors of the transmission by frame_scale."""
    import numpy as np

    from hklflow import nexus

    parts = (nexus.read_scale(path).transmission for path in scales)
    return min(float(np.median(t.errors / t.transmission)) for t in parts)


def _of_rotation(
    task: _Task,
    plan: "RepeatGrid",
    inputs: Inputs,
    params: Params,
    number: int,
    orbit: "Orbits",
) -> "tuple[Repeats, NDArray[np.float64]]":
    """Return the sums of a rotation, and the crystal's part of the norm of its frames."""
    import numpy as np

    from hklflow.stage import repeated
    from hklflow.transform import repeats, surroundings

    scan, rotation = task.scans[number], task.rotations[number]
    corrections = params.corrections
    if inputs.flat_fields:
        corrections = corrections.model_copy(update={"flat_field": inputs.flat_fields[number]})
    norm = norms.read_norm(
        inputs.masks[number],
        inputs.scales[number],
        corrections,
        task.orientation.reference_detector,
        rotation,
        scan.binning,
    )
    norm = norms.absorbed(norm, inputs.absorption, task.names[number])
    at = {path.absolute().parent.name: path for path in inputs.backgrounds}
    # A background that was not measured is that of the scan.
    of_scan = at.get(inputs.orientation.absolute().parent.name)
    background = norms.read_background(at.get(task.names[number], of_scan), norm) or []
    incident = norm.scale.monitor * norm.scale.attenuation
    name = task.names[number]
    with repeated.ranges(scan, inputs.frame_masks[number], name, plan.frames) as frames:
        own = repeats.Repeats(
            rotation,
            number,
            task.orientation.ub,
            plan.grid,
            orbit,
            norm.pixel,
            norm.frame,
            frames.readout,
            plan.block,
            surroundings.norms(background, incident),
            norm.direction,
            task.orientation.offsets.get(name),
        )
        for part in frames.each:
            own.add(*part)
    ones = np.ones(rotation.scan.n_frames)
    return own, np.divide(norm.frame, incident, out=ones, where=incident > 0)


def _splines(task: _Task, params: Params) -> "Splines":
    """Return the splines, with distances by the settings."""
    import numpy as np

    from hklflow.transform.redundancy import Splines
    from hklflow.transform.scale_outgoing import Outgoing

    frames = tuple(r.scan.n_frames for r in task.rotations)
    span = [abs(np.degrees(r.scan.step)) * r.scan.n_frames for r in task.rotations]

    def intervals(distance: float) -> tuple[int, ...]:
        return tuple(
            int(np.clip(round(s / distance), 2, max(2, n // 2)))
            for s, n in zip(span, frames, strict=True)
        )

    shape = task.rotations[0].detector.shape
    return Splines(
        frames,
        intervals(params.frame_step),
        intervals(params.direction_step),
        (params.direction_intervals,) * 2,
        shape,
        outgoing=(
            Outgoing.of_rotations(task.rotations, params.outgoing_step)
            if params.outgoing_step is not None
            else None
        ),
    )


def _fit(sums: _Sums, task: _Task, params: Params, known: bool) -> "tuple[Scale | None, list[str]]":
    """Return the scale, or None where it is not determined, and sentences about it."""
    from hklflow.transform import redundancy

    if len(sums.records) == 0:
        return None, [
            "the scale can't be refined: no part of S(Q) was measured twice (one rotation, low "
            f"symmetry, or few frames); {_KEPT}"
        ]
    unknown = params.unknown_background
    if unknown is None:
        unknown = _UNKNOWN_REST if known else _UNKNOWN
    found = redundancy.refine(
        sums.records,
        _splines(task, params),
        unknown=unknown,
        every=sums.every,
        through=sums.through,
    )
    if not found.at_rest:
        return None, [f"the refinement of the scale did not converge; {_KEPT}"]
    course, level = _errors(found, len(task.names))
    error = (
        f"{course:.1%} (limit `refine_scale: told_error` {params.told_error:.1%}, error of "
        f"frame_scale {sums.error:.1%})"
    )
    if course > max(params.told_error, sums.error / 2):
        return None, [
            "the scale is not determined by repeated measurements: its error would be "
            f"{error}; {_KEPT}"
        ]
    warnings = [f"the factors of the frames have an error of {error}"]
    if course <= params.told_error:
        warnings = []
    warnings += [
        f"the scale of {name} relative to {task.names[0]} is not determined by repeated "
        f"measurements (error {error:.1%}, limit `refine_scale: told_error` "
        f"{params.told_error:.1%}): it is that of frame_scale, which compares backgrounds"
        for name, error in zip(task.names, level, strict=True)
        if error > params.told_error
    ]
    warnings += _steady(found) + _overlooked(found, len(task.names), params.told_error)
    if found.chi2_after > params.told_chi2:
        usable = found.chi2_after <= params.max_chi2
        limit = params.told_chi2 if usable else params.max_chi2
        warnings.append(
            f"repeated measurements of S(Q) differ after the refinement of the scale: reduced χ² "
            f"{found.chi2_after:.2f} (limit {limit:.2f}), {found.chi2:.2f} before; "
            "reflections that are wider than `refine_scale: punch`, a background that does not "
            "rotate with the crystal, or a wrong space group may be the cause"
            + ("" if usable else f"; {_KEPT}")
        )
        return found if usable else None, warnings
    return found, warnings


def _steady(found: "Scale") -> list[str]:
    """Return a sentence if part of the counts does not follow the scale."""
    share, error = found.steady
    if not abs(share) > max(_SMALL, _SURE * error):  # nan: not known
        return []
    less = "less" if share > 0 else "more"
    size = f"roughly {share:.0%} ± {error:.0%}" if share < _LARGE else f"above {_LARGE:.0%}"
    effect = (
        "the factors allow for it, but S(Q) contains it"
        if found.allowed
        else "the change of the factors is too small by this part"
    )
    causes = {
        "less": f"part of them does not pass through the crystal (air, windows), and {effect}; "
        "measure it without the crystal and name the run in `background: runs`",
        "more": "the background in `background: runs` is too strong, a background that nobody "
        "measured changes with |Q|, or the factor changes with the direction faster than "
        "`refine_scale: direction_intervals` allows",
    }
    return [
        f"counts where S(Q) is small change {less} with frame and direction than counts where it "
        f"is large (share that does not follow the scale: {size}): "
        f"{causes[less]}"
    ]


def _overlooked(found: "Scale", n_rotations: int, limit: float) -> list[str]:
    """Return sentences if a background that nobody knows may change the course of the factors."""
    reports = []
    if found.excess > _EXCESS:
        reports.append(
            "the factors of the frames from weak and from strong S(Q) differ by "
            f"{found.excess:.1f} times their errors, which were raised by this; a background "
            "that nobody measured, or reflections wider than `refine_scale: punch` may be the cause"
        )
    error = max(float(found.off_by(number).std()) for number in range(n_rotations))
    if error <= limit:
        return reports
    return [
        *reports,
        f"the factors of the frames have an error of {error:.1%} (rms, limit `refine_scale: "
        f"told_error` {limit:.1%}) for each {found.unknown:.0%} of the counts between reflections "
        "that are a background which nobody measured (`refine_scale: unknown_background`); measure "
        "it without the crystal and name the run in `background: runs`",
    ]


def _errors(found: "Scale", n_rotations: int) -> tuple[float, list[float]]:
    """Return the largest rms error of a rotation's course, and the errors of their mean levels."""
    import numpy as np

    course, level = [], []
    for number in range(n_rotations):
        covariance = found.of_frames(number)[1]
        n = len(covariance)
        centre = np.eye(n) - 1 / n
        course.append(float(np.sqrt(np.mean(np.diag(centre @ covariance @ centre)))))
        level.append(float(np.sqrt(max(covariance.mean(), 0.0))))
    return max(course), level


def _corrections(found: "Scale", task: _Task) -> "dict[str, Refined]":
    """Return the factors of the rotations."""
    import numpy as np

    from hklflow.transform.direction import Refined

    corrections = {}
    for number, name in enumerate(task.names):
        curve, covariance = found.of_frames(number)
        # Another background changes other frames, by about as much.
        overlooked = np.mean(found.off_by(number) ** 2)
        errors = np.sqrt(np.diag(covariance) + overlooked)
        direction = _direction(found, task.rotations[number], number)
        corrections[name] = Refined(curve, curve * errors, direction)
    return corrections


def _direction(found: "Scale", rotation: "Rotation", number: int) -> "Direction":
    """Return the direction's factor on nodes, for ranges of about a degree."""
    from dataclasses import replace

    import numpy as np

    from hklflow.transform.direction import Direction
    from hklflow.transform.redundancy import Places

    layout = Direction.layout(rotation, _NODES)
    middles = np.minimum(layout.middles, rotation.scan.n_frames)
    places = Places(layout.slow, layout.fast)
    log = found.splines.of_direction(number, found.parameters, middles, places)
    return replace(layout, log=log)


def _metrics(found: "Scale | None", corrections: "dict[str, Refined]") -> dict[str, Any]:
    """Return the figures."""
    import numpy as np

    if found is None:
        return {"determined": False}
    return {
        "determined": True,
        "repeated measurements": found.repeats,
        "reduced chi2 before": found.chi2,
        "reduced chi2 after": found.chi2_after,
        "parameters": len(found.parameters),
        "parameters determined": found.determined,
        "difference of S(Q) within a voxel": found.tau,
        "noise of single frames": found.noise,
        "scatter of weak and strong S(Q) over that expected": found.excess,
        "share of the counts that does not follow the scale": found.steady[0],
        "error of the share": found.steady[1],
        "factor of the frames": {
            name: {
                "mean": float(c.curve.mean()),
                "smallest and largest": [float(c.curve.min()), float(c.curve.max())],
                "median error": float(np.median(c.errors)),
                "rms of the direction's factor": float(np.sqrt(np.mean(c.direction.log**2))),
            }
            for name, c in corrections.items()
        },
    }


def _angles(task: _Task) -> "dict[str, NDArray[np.float64]]":
    """Return the scan angles at mid-frame in degrees, of each rotation."""
    import numpy as np

    return {
        name: np.degrees(r.scan.angle(np.arange(r.scan.n_frames) + 0.5))
        for name, r in zip(task.names, task.rotations, strict=True)
    }


if __name__ == "__main__":
    stage.command(main)
