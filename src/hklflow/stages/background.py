"""Make the expected background of one rotation from runs without the crystal.

Each run (empty beam, air, capillary, mount, furnace) gives the counts of each pixel for an incident
intensity of 1, and a factor for each frame of the rotation. The transform subtracts their sum.
Bragg reflections are integrated with their local background and do not use this one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from hklflow import stage
from hklflow.stage import (
    background_checks,
    background_factors,
    background_runs,
    background_watch,
    unmeasured_sums,
)
from hklflow.stage.background_settings import Named, Run
from hklflow.stage.frame_curve import Curve, read_signal

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from hklflow.images.scan import RotationScan
    from hklflow.images.surroundings import Part, Rings
    from hklflow.stage.background_runs import Averaged
    from hklflow.stage.rehearsal import Known

VERSION = 6
FRAMES_OF = "scan"

# Ranges of frames in which the rings of a run are compared.
_RANGES = 4
# Rounds in which fitted factors and the course of the transmission are found.
_FITS = 2
# Relative error of a fitted factor above which it is not known.
_LEAST_KNOWN = 0.3


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""
    statistics: Path
    """Frame statistics, whose level between the peaks has the course of the transmission."""
    absorption: Path | None = None
    """Transmission by the crystal's shape; None: the shape is not given."""


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
    curve: Curve = Curve()
    """Settings of the course of the transmission, those of `frame_scale`."""
    saturation: float | None = Field(None, gt=0)
    """Smallest saturated value of a pixel that `import_scan` states for the crystal's frames; None:
    that of the header of the run."""

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
    """Average the runs, find their factors, compare them with the rotation, and draw both."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.formats import raw
    from hklflow.plots.background import background as picture

    runs = params.named
    background_runs.require_consistent(runs)
    scan = nexus.read_scan(inputs.scan)
    bad = nexus.read_mask(inputs.mask) != 0
    of_scan = raw.read_header(scan.raw)
    averaged = [
        background_runs.averaged(run, scan, of_scan, bad, params.saturation) for run in runs
    ]
    warnings = [w for _, some in averaged for w in some]
    pixels = _pixels(inputs.statistics, bad, params.curve)
    factors, course = _factors([image for image, _ in averaged], scan, inputs, pixels, params)
    parts = factors.require_positive(factors.parts(course))
    warnings += [w for run in runs if (w := background_factors.interval(run, course)) is not None]
    watch = background_watch.Watch(scan.rotation, parts)
    rings = _rings(scan, parts, params, watch=watch)
    contradicted, usable = background_checks.contradicted(watch.sums(parts), parts)
    if contradicted:
        rings = _rings(scan, parts, params)
    warnings += contradicted + background_checks.no_monitor(runs, scan)
    warnings += background_checks.doubts(rings, params.told_error)
    weaker = _levels(scan, parts, params) if usable else []
    left = watch.rings(parts)
    names = ", ".join(part.name for part in parts)
    warnings += weaker or (background_checks.rings_left(left, names) if usable else [])
    most = watch.most(parts)
    warnings += background_checks.not_confirmed(*most, runs)
    around = None if pixels is None else factors.surroundings(parts, pixels, course)
    nexus.write_background(outputs.background, parts, rings, around)
    plots.save(picture(rings, parts, f"background of {scan.raw}"), outputs.picture)
    figures = _metrics(parts, rings, params)
    figures["powder rings that are left"] = [
        {"|Q| in 1/Å": ring.q, "width in 1/Å": ring.width, "height over S": ring.share}
        for ring in left.rings
    ]
    figures["smallest and largest transmission over its median"] = [
        float(np.min(course)),
        float(np.max(course)),
    ]
    figures["height over S of a powder ring that would just be found"] = (
        left.least if np.isfinite(left.least) else None
    )
    figures["largest factor of the background that the counts allow"] = most[0]
    stage.write_json(outputs.metrics, figures | {"warnings": warnings})
    for warning in warnings:
        print(f"warning: {warning}")
    middle, largest = background_checks.sensitivity(rings)
    print(
        f"{len(parts)} background{'s' * (len(parts) > 1)}: {background_checks.share(rings):.1%} of "
        f"the counts of the frames; an error of 1% of their level changes S by {middle:.2%} in the "
        f"median shell of |Q| and by at most {largest:.2%}; `scale_error` states such an error; "
        + (
            f"powder rings below {left.least:.0%} of S that the runs do not have are not noticed"
            if np.isfinite(left.least)
            else "too few pixels or frames to search powder rings that the runs do not have"
        )
    )


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Compare the headers of the runs with the header of the rotation."""
    if (facts := known.scan(inputs.scan)) is None:
        return
    background_runs.require_consistent(params.named)
    for run in params.named:
        of_run = background_runs.facts(run)
        _, _, doubt = background_runs.like_scan(
            run, of_run, facts.scan, facts.frames.header, params.saturation
        )
        known.notes += [doubt] if doubt else []
        background_factors.text_transmission(run, facts.scan.rotation.scan.n_frames)


def _pixels(
    statistics: Path, bad: "NDArray[np.bool_]", curve: Curve
) -> "background_factors.Pixels | None":
    """Return the pixels of the signal of `frame_scale`; None if it uses no signal."""
    from hklflow import nexus
    from hklflow.images.statistics_parts import OUTSIDE

    if curve.source == "none":
        return None
    parts = nexus.read_parts(statistics)
    annulus = parts.image != OUTSIDE
    signal = annulus if curve.source == "background" else ~bad
    of_parts = [parts.image == i for i in range(len(parts.shape))]
    return background_factors.Pixels(signal, annulus, of_parts)


def _factors(
    images: "list[Averaged]",
    scan: "RotationScan",
    inputs: Inputs,
    pixels: "background_factors.Pixels | None",
    params: Params,
) -> "tuple[background_factors.Factors, NDArray[np.float64]]":
    """Return the factors of the runs, some of them fitted, and the course of the transmission.

    The course depends on the fitted factors, and these on the course; therefore both are found
    repeatedly, at first without the runs whose factors are not known.
    """
    import numpy as np

    curve = params.curve
    signal = read_signal(inputs.scan, inputs.statistics, inputs.absorption, curve)
    fitted = [i for i, image in enumerate(images) if image.run.scale == "fit"]
    scales = np.array([0.0 if i.run.scale == "fit" else float(i.run.scale) for i in images])
    found = background_factors.Factors(
        images, scales, np.array([image.run.scale_error for image in images])
    )
    course = found.course(signal, curve, pixels)
    for _ in range(_FITS if fitted else 0):
        for i in fitted:
            found.scales[i], found.errors[i] = _fitted(i, found, course, scan, params)
        course = found.course(signal, curve, pixels)
    for i in fitted:
        name, scale = images[i].run.name, found.scales[i]
        print(f"{name}: the fitted factor is {scale:.4f} ± {scale * found.errors[i]:.4f}")
    return found, course


def _rings(
    scan: "RotationScan",
    parts: "list[Part]",
    params: Params,
    *,
    for_fit: bool = False,
    part: tuple[int, int] = (0, 1),
    watch: "background_watch.Watch | None" = None,
) -> "Rings":
    """Compare frames spread over the rotation, or over a part of it, with the backgrounds.

    To fit a factor, the shells are finer, and Bragg peaks, which are sharp too, are left out.
    """
    import numpy as np

    from hklflow.formats import raw
    from hklflow.images import masks, surroundings

    n = scan.rotation.scan.n_frames
    out = {frame - scan.first for frame in scan.left_out}
    used = [frame for frame in range(n) if frame not in out]
    chosen = np.unique(np.linspace(0, len(used) - 1, min(params.sample_frames, len(used))))
    chosen = np.array_split(chosen, part[1])[part[0]]
    q = unmeasured_sums.pixel_places(scan.rotation).q
    with raw.open_scan(scan) as frames:
        flag = float(masks.flag_value(frames.dtype) or np.inf)
        limits = surroundings.Valid(flag, float(scan.saturation or np.inf), scan.underload)

        def images() -> "Iterator[tuple[int, NDArray[Any]]]":
            for i in chosen.astype(int):
                frame = used[i]
                yield frame, frames.read(scan.first + frame, scan.first + frame + 1)[0]

        incident = scan.monitor * scan.attenuation
        read = images() if watch is None else watch.passed(images(), incident, parts, limits)
        n_shells = background_checks.SHELLS if for_fit else 60
        return surroundings.rings(read, incident, parts, q, limits, n_shells, between_peaks=for_fit)


def _fitted(
    number: int,
    factors: "background_factors.Factors",
    course: "NDArray[np.float64]",
    scan: "RotationScan",
    params: Params,
) -> tuple[float, float]:
    """Return the factor of a run that fits the frames, and its relative error.

    Raises
    ------
    HklflowError
        If the frames do not determine the factor.
    """
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.images import surroundings

    run = factors.runs[number]
    factors.scales[number] = 1.0
    own = _rings(scan, factors.parts(course, [number]), params, for_fit=True)
    measured = own.measured
    if others := [i for i in range(len(factors.runs)) if i != number]:
        of_others = _rings(scan, factors.parts(course, others), params, for_fit=True)
        measured = measured - of_others.background
    use = (own.pixels > 0) & (own.measured_error > 0)
    errors = np.hypot(own.measured_error, own.noise)[use]
    curves = own.q[use], measured[use], errors, own.background[use]
    factor, error = surroundings.fitted_scale(*curves)
    if not error < _LEAST_KNOWN * factor:
        raise HklflowError(
            f"`{background_runs.where(run)}: {{scale: fit}}`: the factor of {run.name} is "
            f"{factor:.3g} ± {error:.2g}, so the frames do not determine it: the background has no "
            "sharp structure against |Q|; give a number"
        )
    return factor, float(np.hypot(run.scale_error, error / factor))


def _levels(scan: "RotationScan", parts: "list[Part]", params: Params) -> list[str]:
    """Return a warning if rings of the runs are not as strong in all parts of the rotation."""
    if not background_checks.sharp(parts, unmeasured_sums.pixel_places(scan.rotation).q):
        return []
    ranges = [_rings(scan, parts, params, for_fit=True, part=(i, _RANGES)) for i in range(_RANGES)]
    levels = background_checks.ring_levels(ranges)
    doubt = background_checks.level_doubt(levels, ", ".join(part.name for part in parts))
    return [] if doubt is None else [doubt]


def _metrics(parts: "list[Part]", rings: "Rings", params: Params) -> dict[str, Any]:
    """Return the numbers for the page."""
    import numpy as np

    rest = rings.measured - rings.background
    positive = np.where(rest > 0, rest, np.nan)
    return {
        "share of the background": background_checks.share(rings),
        "change of S by 1% of the level": list(background_checks.sensitivity(rings)),
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
