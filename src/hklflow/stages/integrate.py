"""Integrate the predicted Bragg reflections of one rotation."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat

from hklflow import __version__, stage
from hklflow.base.errors import HklflowError
from hklflow.dials.settings import DialsPrograms
from hklflow.stage import measured, norms
from hklflow.stage.integration_settings import IntegrationSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.bragg.integrate import Integrated
    from hklflow.bragg.measurement import Measurement
    from hklflow.bragg.reflections import Reflections
    from hklflow.images.scan import RotationScan
    from hklflow.orientation.product import Orientation
    from hklflow.stage.rehearsal import Known

VERSION = 7
FRAMES_OF = "scan"

_SHELLS = 8
_STRONG = 10.0  # smallest I/σ of a reflection whose shape can be judged
_MANY_UNLIKE = 0.05
#: Settings that DIALS decides itself.
_OF_BUILTIN = ("n_sigma", "mosaic", "spot", "strong", "references", "max_frames", "overlap")


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""
    scale: Path
    """Scale of every frame."""
    absorption: Path | None = None
    """Transmission by the crystal's shape; None: the shape is not given."""
    orientation: Path
    """Refined orientation of the scan."""
    accepted: Path | None = None
    """Verdict of the quality gates on the scan; None if the scan was not judged."""
    peaks: Path
    """Peak table."""


class Outputs(stage.Outputs):
    reflections: Path
    """Integrated reflections (NXreflections)."""
    picture: Path
    """Picture: learned profiles, I/σ against resolution, background, sums against fits."""
    metrics: Path
    """Numbers of reflections, widths, mean I/σ by resolution."""


class Settings(IntegrationSettings):
    """Settings of this stage in the configuration file."""

    engine: Literal["builtin", "dials"] = "builtin"
    """Integration program: hklflow itself, or DIALS with the model fixed."""
    d_min: PositiveFloat | None = None
    """Smallest d-spacing in Å; None: reflections up to the corner of the detector are integrated.
    """
    block: int = Field(8, gt=0, le=512)
    """Number of frames that are read at a time."""


class Params(Settings, DialsPrograms, norms.Corrections):
    """Settings of the stage, the rotation, and the corrections of the norm."""

    rotation: str
    """Name of the rotation in the orientation file."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Predict and integrate the reflections, and write them with their statistics."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.bragg.reflections import ReflectionFlag
    from hklflow.plots import bragg as pictures

    if params.engine == "dials":
        _refuse_unheard(params)
    scan = nexus.read_scan(inputs.scan)
    norms.require_monitor(params, scan)
    orientation = stage.read_orientation(inputs.orientation)
    accepted = stage.read_accepted(inputs.accepted)
    rotation = orientation.rotation(params.rotation)
    norm = norms.read_norm(
        inputs.mask, inputs.scale, params, orientation.reference_detector, rotation, scan.binning
    )
    norm = norms.absorbed(norm, inputs.absorption, params.rotation)
    measurement = measured.measurement(scan, rotation, norm, block=params.block, threads=threads)
    integrated = None
    if params.engine == "dials":
        engine, reflections = _by_dials(measurement, scan, orientation, params, threads)
    else:
        engine = f"hklflow {__version__}"
        integrated = _by_hklflow(measurement, inputs.peaks, orientation, params, threads)
        reflections = integrated.reflections
    if norm.direction is not None:
        factor = norm.direction.of_places(reflections.frame, reflections.slow, reflections.fast)
        reflections = reflections.with_norm_times(factor)
    title = f"{params.rotation} of {orientation.scan}: integrated reflections"
    nexus.write_reflections(outputs.reflections, reflections, title)
    warnings = _warnings(reflections)
    metrics = {
        "engine": engine,
        "accepted": accepted,
        "corrected for": norm.corrected,
        **norm.notes,
        "rows": len(reflections),
        "flags": {flag.name: int(reflections.has(flag).sum()) for flag in ReflectionFlag},
        "shells": _shells(reflections),
        **({} if integrated is None else _figures(integrated)),
        "warnings": warnings,
    }
    stage.write_json(outputs.metrics, metrics)
    plots.save(pictures.integration(reflections, integrated, title, engine), outputs.picture)
    usable = np.isfinite(reflections.intensity_sum)
    description = "" if integrated is None else f"; {integrated.counters}"
    print(f"{int(usable.sum())} of {len(reflections)} reflections have an intensity{description}")
    for warning in warnings:
        print(f"warning: {warning}")


def _by_hklflow(
    measurement: "Measurement",
    peaks: Path,
    orientation: "Orientation",
    params: Params,
    threads: int,
) -> "Integrated":
    from hklflow import nexus
    from hklflow.bragg.integrate import integrate

    n_frames = measurement.rotation.scan.n_frames

    def shown(blocks: "Iterable[NDArray[Any]]", description: str) -> "Iterable[NDArray[Any]]":
        return stage.progress(blocks, n_frames, f"{description}, frames", len)

    return integrate(
        measurement,
        orientation.ub,
        orientation.group,
        nexus.read_peaks(peaks),
        params.chosen(threads),
        d_min=params.d_min,
        shown=shown,
    )


def _by_dials(
    measurement: "Measurement",
    scan: "RotationScan",
    orientation: "Orientation",
    params: Params,
    threads: int,
) -> "tuple[str, Reflections]":
    """Return the name of the program and the reflections."""
    from hklflow.dials.integrate import integrate
    from hklflow.dials.programs import find

    dials = find(params.prefix)
    reflections = integrate(
        measurement,
        scan,
        orientation.ub,
        orientation.group,
        dials=dials,
        d_min=params.d_min,
        min_zeta=params.min_zeta,
        min_recorded=params.min_recorded,
        threads=threads,
    )
    return dials.label, reflections


def _warnings(reflections: "Reflections") -> list[str]:
    """Return warnings for users of these intensities."""
    import numpy as np

    from hklflow.bragg.reflections import UNFIT, ReflectionFlag

    warnings = []
    with np.errstate(invalid="ignore"):
        strong = reflections.intensity_sum > _STRONG * reflections.sigma_sum
    strong &= ~reflections.has(UNFIT)
    contradicted = reflections.has(ReflectionFlag.CONTRADICTION)
    if contradicted.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = reflections.intensity_profile / reflections.intensity_sum
        apart = np.where(contradicted, np.abs(np.log(np.maximum(factor, 1e-3))), -1.0)
        worst = int(np.argmax(apart))
        warnings.append(
            f"{int(contradicted.sum())} reflections are not merged, because profile fit and sum "
            f"contradict each other (by a factor of {factor[worst]:.2f} for "
            f"{tuple(reflections.hkl[worst].tolist())}): the profile or the predicted position is "
            "wrong; check the orientation and `reflections.png`, and integrate again"
        )
    share = reflections.has(ReflectionFlag.UNLIKE)[strong].mean() if strong.any() else 0.0
    if share > _MANY_UNLIKE:
        warnings.append(
            f"{share:.0%} of {int(strong.sum())} strong reflections do not fit the learned "
            "profile, so their summed intensities are used: predicted positions are wrong, or "
            "spots vary; compare with `scale_reflections: {estimate: sum}`"
        )
    return warnings


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Compare the settings with the engine, and the flat field with the frames."""
    from hklflow.dials.frames import require_counter

    facts = known.scan(inputs.scan)
    if params.engine == "dials":
        _refuse_unheard(params)
        if facts is not None:
            require_counter(facts.scan)
    if facts is not None:
        norms.require_flat(params, facts.scan, known)


def _refuse_unheard(params: Params) -> None:
    """Refuse settings that have no effect but would be in the provenance."""
    fields = Settings.model_fields
    unheard = [name for name in _OF_BUILTIN if getattr(params, name) != fields[name].default]
    if unheard:
        raise HklflowError(
            f"integrate: {', '.join(unheard)} set, which engine dials does not know; leave that "
            "out, or integrate with engine builtin"
        )


def _shells(reflections: "Reflections") -> list[dict[str, float]]:
    """Return number, mean I/σ of both estimates and median background, by resolution."""
    import numpy as np

    from hklflow.bragg.reflections import UNFIT

    use = np.isfinite(reflections.intensity_sum) & ~reflections.has(UNFIT)
    table = reflections.select(use)
    if not len(table):
        return []
    order = np.argsort(-table.d)
    shells = []
    for rows in np.array_split(order, min(_SHELLS, len(order))):
        part = table.select(rows)
        fitted = np.isfinite(part.intensity_profile)
        shells.append(
            {
                "d from": float(part.d.max()),
                "d to": float(part.d.min()),
                "reflections": len(part),
                "mean I/sigma of sums": float(np.mean(part.intensity_sum / part.sigma_sum)),
                "mean I/sigma of fits": float(
                    np.mean((part.intensity_profile / part.sigma_profile)[fitted])
                )
                if fitted.any()
                else float("nan"),
                "median background": float(np.median(part.background)),
            }
        )
    return shells


def _figures(integrated: "Integrated") -> dict[str, Any]:
    """Return the quantities that the built-in integration learned."""
    import numpy as np

    from hklflow.bragg.reflections import ReflectionFlag

    table = integrated.reflections
    strong = table.intensity_sum > 10 * table.sigma_sum
    slow, fast = np.exp(integrated.widths.slow[0]), np.exp(integrated.widths.fast[0])
    return {
        "counts": integrated.counters,
        "mosaic in degrees": float(np.degrees(integrated.widths.mosaic)),
        "mosaic is an upper bound": integrated.widths.bound,
        "spot in pixels (slow, fast), middle of the detector": [float(slow), float(fast)],
        "regions with a profile (frame, slow, fast)": list(integrated.profile.regions),
        "references": [int(n) for n in integrated.profile.n_references],
        "relative error of the profile": integrated.profile_error,
        "strong": int(strong.sum()),
        "fraction of strong unlike the profile": float(
            table.has(ReflectionFlag.UNLIKE)[strong].mean()
        )
        if strong.any()
        else None,
        "median chi2 of the background": _median(integrated.background_chi2),
        "median chi2 of strong foregrounds": _median(integrated.chi2[strong]),
    }


def _median(values: "NDArray[np.float64]") -> float | None:
    import numpy as np

    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


if __name__ == "__main__":
    stage.command(main)
