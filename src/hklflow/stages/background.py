"""Make the expected background of one rotation from runs without the crystal.

Each run (empty beam, air, capillary, mount, furnace) gives the counts of each pixel for an incident
intensity of 1, and a factor for each frame of the rotation. The transform subtracts their sum.
Bragg reflections are integrated with their local background and do not use this one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hklflow import stage
from hklflow.stage.background_settings import Named, Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from hklflow.formats.header import Header
    from hklflow.images.frame_scale import FrameScale
    from hklflow.images.scan import RotationScan
    from hklflow.images.surroundings import Part, Rings
    from hklflow.stage.rehearsal import FrameFacts, Known

VERSION = 3
FRAMES_OF = "scan"

# Standard deviations of the rest of a shell below 0 that are reported.
_NEGATIVE = 4.0
# Relative error of a fitted factor above which it is not known.
_LEAST_KNOWN = 0.3


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""
    scale: Path
    """Scale of every frame."""


class Outputs(stage.Outputs):
    background: Path
    """Images of the backgrounds, their factors, and the comparison with the frames."""
    picture: Path
    """Picture: measured, background and rest against |Q|."""
    metrics: Path
    """Share of the background by shell, errors of the levels; warnings."""


class Limits(stage.Params):
    """Settings that all runs share."""

    sample_frames: int = Field(40, ge=1)
    """Number of frames of the rotation, spread over it, with which the background is compared."""
    told_error: float = Field(0.01, gt=0)
    """Relative error of S, averaged over a shell, by the noise of the runs or by their levels,
    above which it is reported.
    """


class Settings(Limits):
    """Settings of this stage in the configuration file."""

    runs: dict[str, Run | None] = Field(default_factory=dict)
    """Runs without the crystal by a name, such as `{air: {raw: raw/empty.nxs, seen_through: not}}`.
    Their backgrounds are added. `null` removes the run of a lower layer. Empty: nothing is
    subtracted.
    """
    unmeasured: Literal["report", "subtract"] | None = None
    """Without `runs`: find powder rings of the surroundings and the part of the background that
    does not rotate with the crystal, and bound the isotropic part. `report`: only report;
    `subtract`: remove rings and the anisotropic part, too. None: do not.
    """
    rings: Literal["mask", "subtract"] = "mask"
    """What `unmeasured: subtract` does with powder rings: mask their pixels, or subtract them with
    an error of up to half of a ring in single pixels.
    """

    @model_validator(mode="after")
    def _one_of_two(self) -> "Settings":
        if self.unmeasured is not None and any(run is not None for run in self.runs.values()):
            raise ValueError(
                "`unmeasured` is for scans without `runs` (runs without the crystal are measured "
                "backgrounds); remove one of the two"
            )
        return self

    def of_rotation(self, rotation: str) -> dict[str, Run]:
        """Return the runs of a rotation."""
        return {
            name: run
            for name, run in self.runs.items()
            if run is not None and (not run.rotations or rotation in run.rotations)
        }


class Params(Limits):
    """Settings of the stage, and the runs of the rotation."""

    runs: dict[str, Run] = Field(min_length=1)
    """Runs without the crystal, by name."""

    @property
    def named(self) -> list[Named]:
        """Runs with their names."""
        return [Named(name=name, **run.model_dump()) for name, run in self.runs.items()]

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """Return the files among the parameters: raw files of the runs, and transmissions."""
        from hklflow.formats.series import find_files, number_pattern

        files: list[Path] = []
        for run in self.runs.values():
            if number_pattern(Path(run.raw).name) is None:
                files.append(Path(run.raw))
            else:
                files += [Path(run.raw).parent / p.name for p in find_files(str(base / run.raw))]
            files += [run.transmission] if isinstance(run.transmission, Path) else []
        return {"runs": files}


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Average the runs, compare them with the rotation, and draw both."""
    from hklflow import nexus, plots
    from hklflow.formats import raw
    from hklflow.plots.background import background as picture

    _require_consistent(params.named)
    scan, scale = nexus.read_scan(inputs.scan), nexus.read_scale(inputs.scale)
    bad = nexus.read_mask(inputs.mask) != 0
    of_scan = raw.read_header(scan.raw)
    measured = [_measured(run, scan, of_scan, scale, bad) for run in params.named]
    parts, warnings = [part for part, _ in measured], [w for _, some in measured for w in some]
    for i, run in enumerate(params.named):
        if run.scale == "fit":
            parts[i] = _fitted(i, parts, scan, params)
    parts = _apart(params.named, parts)
    rings = _rings(scan, parts, params)
    warnings += _doubts(rings, params)
    nexus.write_background(outputs.background, parts, rings)
    plots.save(picture(rings, parts, f"background of {scan.raw}"), outputs.picture)
    stage.write_json(outputs.metrics, _metrics(parts, rings, params) | {"warnings": warnings})
    for warning in warnings:
        print(f"warning: {warning}")
    share = _share(rings)
    print(
        f"{len(parts)} background{'s' * (len(parts) > 1)}: {share:.1%} of the counts of the frames"
    )


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Compare the headers of the runs with the header of the rotation."""
    if (facts := known.scan(inputs.scan)) is None:
        return
    _require_consistent(params.named)
    for run in params.named:
        _, _, doubt = _like_scan(run, _facts(run), facts.scan, facts.frames.header)
        known.notes += [doubt] if doubt else []
        _text_transmission(run, facts.scan.rotation.scan.n_frames)


def _facts(run: Named) -> "FrameFacts":
    from hklflow.base.system import require_file
    from hklflow.formats.series import number_pattern
    from hklflow.stage.rehearsal import read_facts

    if number_pattern(Path(run.raw).name) is None:
        require_file(Path(run.raw), "raw file", f"correct `{_where(run)}: raw`")
    return read_facts(run.raw)


def _where(run: Named) -> str:
    return f"background: runs: {run.name}"


def _like_scan(
    run: Named, facts: "FrameFacts", scan: "RotationScan", of_scan: "Header"
) -> "tuple[RotationScan, NDArray[np.float64], str | None]":
    """Return the run as a scan, its incident intensities, and a warning about them.

    Raises
    ------
    HklflowError
        If the run is one of something else.
    """
    from dataclasses import replace

    import numpy as np

    from hklflow.formats import assemble, background_run

    header = facts.header
    if run.monitor is not None:
        header = replace(header, monitor=np.full(facts.shape[0], run.monitor))
    monitor = "none" if scan.monitor_source == "none" else "file"
    said = assemble.Said(monitor=monitor, exposure=run.exposure, attenuation=run.attenuation)
    if header.exposure_time is None and monitor == "file":
        said = replace(said, exposure=1.0)  # the monitor counts during the exposure
    where = _where(run)
    like = background_run.like_scan(run.raw, facts.shape, header, said, scan, of_scan, where)
    return *like, background_run.beam_doubt(run.raw, header, run.exposure, scan, where)


def _measured(
    run: Named,
    scan: "RotationScan",
    of_scan: "Header",
    scale: "FrameScale",
    bad: "NDArray[np.bool_]",
) -> "tuple[Part, list[str]]":
    """Return the background of a run, and warnings."""
    import numpy as np

    from hklflow.formats import background_run, raw
    from hklflow.images import surroundings

    like, incident, doubt = _like_scan(run, _facts(run), scan, of_scan)
    with raw.open_scan(like) as frames:
        level, variance = surroundings.mean_image(
            background_run.blocks(frames, scan, like),
            incident,
            bad,
            background_run.valid(frames, scan, like),
            raw.read_variance(like),
        )
    _require_counts(run, level)
    warnings = [doubt] if doubt else []
    strong = surroundings.too_strong(level)
    level[strong] = variance[strong] = np.nan
    if lost := int(np.count_nonzero(~bad & ~np.isfinite(level))):
        warnings.append(
            f"{run.name}: S is not measured in {lost} good pixels, which are saturated or flagged "
            f"in {run.raw}, or more than {surroundings.MOST_RATIO:g} times as strong as its median"
        )
    transmission, error, unknown = _transmission(run, scale)
    factor = surroundings.frame_factor(run.seen_through, transmission, run.share or 0.0)
    through = 1 - surroundings.frame_factor(run.seen_through, 0 * transmission, run.share or 0.0)
    of_factor = float(np.mean(through * transmission * error / factor))
    if unknown:
        warnings.append(_interval(run, transmission, through))
    if run.scale != "fit":
        factor = factor * run.scale
    total = float(np.hypot(of_factor, run.scale_error))
    return surroundings.Part(run.name, level, variance, factor, total), warnings


def _require_counts(run: Named, level: "NDArray[np.float64]") -> None:
    """Refuse a run that measured nothing."""
    import numpy as np

    from hklflow.base.errors import HklflowError

    if not np.isfinite(level).any():
        raise HklflowError(
            f"{run.raw}: every pixel is masked, flagged or saturated, so no background is known; "
            f"give another run, or remove `{_where(run)}`"
        )
    if not (level > 0).any():
        raise HklflowError(
            f"{run.raw}: the counts of all pixels are 0 (was the shutter closed?); give another "
            f"run, or remove `{_where(run)}`"
        )


def _require_consistent(runs: list[Named]) -> None:
    """Refuse runs that contain unknown runs or themselves, and two runs with the same frames.

    Raises
    ------
    HklflowError
    """
    from hklflow.base.errors import HklflowError

    for run in runs:
        others = [other.name for other in runs if other.name != run.name]
        for name in run.contains:
            if name not in others:
                raise HklflowError(
                    f"`{_where(run)}: contains`: {name!r} is no other run of this rotation (the "
                    f"others are {', '.join(others) or 'none'}); name one of them"
                )
    contained = _contained(runs)
    for i, run in enumerate(runs):
        if contained[i, i]:
            raise HklflowError(
                f"`{_where(run)}: contains`: {run.name} contains a run that contains {run.name}; "
                "two runs cannot contain each other"
            )
        for other in runs[:i]:
            if Path(other.raw).resolve() == Path(run.raw).resolve():
                raise HklflowError(
                    f"`{_where(run)}: raw`: {other.name} has the same frames ({run.raw}), which "
                    "would be subtracted twice; give one run (for air before and behind the "
                    "crystal `seen_through: part`)"
                )


def _contained(runs: list[Named]) -> "NDArray[np.bool_]":
    """Return [i, j] True if run i contains run j, directly or in a run that it contains."""
    import numpy as np

    found = np.array([[other.name in run.contains for other in runs] for run in runs])
    for k in range(len(runs)):
        found |= found[:, k, None] & found[k]
    return found


def _apart(runs: list[Named], parts: "list[Part]") -> "list[Part]":
    """Return the backgrounds with factors that count what a run contains of others only once.

    With the runs ``B`` and ``B + A``, the sum ``f_B B + f_A A`` is ``f_A (B + A) + (f_B - f_A) B``.
    In general the runs are (1 + C) times the sources, with C = 1 where a run contains a source, and
    the factors of the runs are those of the sources times the inverse matrix.

    Raises
    ------
    HklflowError
        If the factor of a contained run would become negative.
    """
    import numpy as np

    from hklflow.base.errors import HklflowError

    sums = np.eye(len(runs)) + _contained(runs)
    factors = np.linalg.solve(sums.T, np.array([part.factor for part in parts]))
    for run, factor in zip(runs, factors, strict=True):
        if factor.min() < -1e-9:
            raise HklflowError(
                f"the factor of {run.name} is {factor.min():.3g} after the runs that contain it "
                "are subtracted: it is weakened more than they are; correct `contains`, "
                "`seen_through`, or the transmissions"
            )
    return [part._replace(factor=f.clip(0)) for part, f in zip(parts, factors, strict=True)]


def _transmission(run: Named, scale: "FrameScale") -> "tuple[NDArray[np.float64], float, bool]":
    """Return the transmission of each frame, its relative error, and True if it is unknown."""
    import numpy as np

    from hklflow.base.errors import HklflowError

    course = scale.course
    if isinstance(run.transmission, Path):
        values = _text_transmission(run, len(course))
        assert values is not None
        return values, run.transmission_error, False
    if run.transmission is None:
        unknown = run.seen_through != "not"
        # The middle of the interval 0 to 1, and the standard deviation of its even distribution.
        return 0.5 * course / course.max(), 1 / np.sqrt(3) if unknown else 0.0, unknown
    values = run.transmission * course
    if values.max() > 1:
        raise HklflowError(
            f"`{_where(run)}: transmission` is {run.transmission:g} for the median frame, and with "
            f"the course of `frame_scale` {values.max():.4g} for the largest: a transmission is at "
            "most 1; give a file with the transmission of each frame, or `frame_scale: {source: "
            "none}`"
        )
    return values, run.transmission_error, False


def _text_transmission(run: Named, n_frames: int) -> "NDArray[np.float64] | None":
    """Read the transmission of each frame from the user's file, if there is one."""
    import warnings

    import numpy as np

    from hklflow.base.errors import HklflowError

    if not isinstance(run.transmission, Path):
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # an empty file is refused below
            values = np.loadtxt(run.transmission, dtype=np.float64, ndmin=1)
    except (ValueError, UnicodeDecodeError) as error:
        raise HklflowError(
            f"{run.transmission} is not a text file of numbers ({error}); write one transmission "
            "of the crystal in each row"
        ) from None
    if values.shape != (n_frames,) or not np.all((values > 0) & (values <= 1)):
        inside = f" from {values.min():g} to {values.max():g}" if values.size else ""
        raise HklflowError(
            f"{run.transmission} has an array of {values.shape} numbers{inside}; give one "
            f"transmission of the crystal, above 0 and at most 1, for each of the {n_frames} frames"
        )
    return values


def _interval(
    run: Named, transmission: "NDArray[np.float64]", through: "NDArray[np.float64]"
) -> str:
    """Return the warning for an unknown transmission."""
    import numpy as np

    low = float(np.mean(1 - through))
    high = float(np.mean(1 - through + through * 2 * transmission))
    return (
        f"the transmission of the crystal is not known: the background {run.name} is between "
        f"{low:.0%} and {high:.0%} of its run, and {(low + high) / 2:.0%} is subtracted; give "
        f"`{_where(run)}: {{transmission: ...}}`"
    )


def _rings(scan: "RotationScan", parts: "list[Part]", params: Params, shells: int = 60) -> "Rings":
    """Compare frames spread over the rotation with the backgrounds."""
    import numpy as np

    from hklflow.formats import raw
    from hklflow.images import masks, surroundings

    n = scan.rotation.scan.n_frames
    out = {frame - scan.first for frame in scan.left_out}
    used = [frame for frame in range(n) if frame not in out]
    chosen = np.unique(np.linspace(0, len(used) - 1, min(params.sample_frames, len(used))))
    centres = (np.arange(size) + 0.5 for size in scan.rotation.detector.shape)
    slow, fast = np.meshgrid(*centres, indexing="ij")
    q = np.linalg.norm(scan.rotation.q_lab(slow, fast), axis=-1)
    with raw.open_scan(scan) as frames:
        flag = float(masks.flag_value(frames.dtype) or np.inf)
        limits = surroundings.Valid(flag, float(scan.saturation or np.inf), scan.underload)

        def images() -> "Iterator[tuple[int, NDArray[Any]]]":
            for i in chosen.astype(int):
                frame = used[i]
                yield frame, frames.read(scan.first + frame, scan.first + frame + 1)[0]

        incident = scan.monitor * scan.attenuation
        return surroundings.rings(images(), incident, parts, q, limits, shells)


def _fitted(number: int, parts: "list[Part]", scan: "RotationScan", params: Params) -> "Part":
    """Return a background with the factor that fits the frames.

    Raises
    ------
    HklflowError
        If the frames do not determine the factor.
    """
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.images import surroundings

    part, run = parts[number], params.named[number]
    own = _rings(scan, [part], params, shells=300)
    measured = own.measured
    if others := [p for i, p in enumerate(parts) if i != number]:
        measured = measured - _rings(scan, others, params, shells=300).background
    use = (own.pixels > 0) & (own.measured_error > 0)
    errors = np.hypot(own.measured_error, own.noise)[use]
    curves = own.q[use], measured[use], errors, own.background[use]
    factor, error = surroundings.fitted_scale(*curves)
    if not error < _LEAST_KNOWN * factor:
        raise HklflowError(
            f"`{_where(run)}: {{scale: fit}}`: the factor of {run.name} is {factor:.3g} ± "
            f"{error:.2g}, so the frames do not determine it: the background has no sharp "
            "structure against |Q|; give a number"
        )
    total = float(np.hypot(part.error, error / factor))
    print(f"{run.name}: the fitted factor is {factor:.4f} ± {error:.4f}")
    return part._replace(factor=part.factor * factor, error=total)


def _share(rings: "Rings") -> float:
    """Return the share of the background of all counts."""
    total = float((rings.pixels * rings.measured).sum())
    return float((rings.pixels * rings.background).sum()) / total if total > 0 else 0.0


def _doubts(rings: "Rings", params: Params) -> list[str]:
    """Return warnings on shells below 0, and on errors of S that are larger than reported ones."""
    import numpy as np

    rest = rings.measured - rings.background
    error = np.sqrt(rings.measured_error**2 + rings.noise**2 + rings.level**2)
    doubts = []
    below = (rest < -_NEGATIVE * error) & (rings.pixels > 0)
    if below.any():
        worst = int(np.argmin(np.where(below, rest / np.maximum(error, 1e-300), 0)))
        doubts.append(
            f"the background is larger than the measured counts in {np.count_nonzero(below)} of "
            f"{len(rest)} shells of |Q| ({rings.background[worst]:.4g} of "
            f"{rings.measured[worst]:.4g} counts at {rings.q[worst]:.2f} 1/Å); check monitor, "
            "attenuation and exposure of the run, and the transmission of the crystal"
        )
    positive = rest > 0
    for noise, what, cure in (
        (rings.noise, "by the noise of the runs", "measure them longer"),
        (rings.level, "by the errors of their levels", "measure the transmission of the crystal"),
    ):
        relative = np.divide(noise, rest, out=np.zeros_like(rest), where=positive)
        if positive.any() and (middle := float(np.median(relative[positive]))) > params.told_error:
            doubts.append(
                f"the mean of S over a shell of |Q| has an error of {middle:.2%} (median of the "
                f"shells; limit {params.told_error:.1%}) {what}, which is the same for all voxels "
                f"of the shell and not in their error bars; {cure}"
            )
    return doubts


def _metrics(parts: "list[Part]", rings: "Rings", params: Params) -> dict[str, Any]:
    """Return the numbers for the page."""
    import numpy as np

    rest = rings.measured - rings.background
    positive = np.where(rest > 0, rest, np.nan)
    return {
        "share of the background": _share(rings),
        "backgrounds": {
            part.name: {
                "seen through": run.seen_through,
                "smallest and largest factor": [
                    float(part.factor.min()),
                    float(part.factor.max()),
                ],
                "relative error of the level": part.error,
            }
            for run, part in zip(params.named, parts, strict=True)
        },
        "shells": {
            "|Q| in 1/Å": rings.q.round(4).tolist(),
            "share of the background": (
                rings.background / np.maximum(rings.measured, 1e-300)
            ).round(5).tolist(),
            "relative error of S by the noise of the runs": (rings.noise / positive).tolist(),
            "relative error of S by the levels of the runs": (rings.level / positive).tolist(),
        },
    }  # fmt: skip


if __name__ == "__main__":
    stage.command(main)
