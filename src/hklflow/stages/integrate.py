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
    from hklflow.bragg.reflections import Reflections

VERSION = 3
FRAMES_OF = "scan"

_SHELLS = 8
_STRONG = 10.0  # I/σ of reflections whose shape can be judged
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
    orientation: Path
    """Refined orientation of the scan."""
    accepted: Path | None = None
    """Verdict of the gates on the scan; None: it was not judged."""
    peaks: Path
    """Peak table."""


class Outputs(stage.Outputs):
    reflections: Path
    """Integrated reflections (NXreflections)."""
    picture: Path
    """Picture: learned profiles, I/σ against resolution, background, sums against fits."""
    metrics: Path
    """Counts, widths, mean I/σ by resolution."""


class Settings(IntegrationSettings):
    """Settings from the configuration file."""

    engine: Literal["builtin", "dials"] = "builtin"
    """Integration program: hklflow itself, or DIALS with the model fixed."""
    d_min: PositiveFloat | None = None
    """Smallest spacing of lattice planes, Å; None: to the corner of the detector."""
    block: int = Field(8, gt=0, le=512)
    """Frames read at a time."""


class Params(Settings, DialsPrograms, norms.Corrections):
    """Settings, the rotation, and the corrections of the norm."""

    rotation: str
    """Name of the rotation in the orientation file."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Predict and integrate the reflections, and write them with their figures."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.bragg import integrate as bragg
    from hklflow.bragg.reflections import ReflectionFlag
    from hklflow.plots import bragg as pictures

    scan = nexus.read_scan(inputs.scan)
    orientation = stage.read_orientation(inputs.orientation)
    accepted = stage.read_accepted(inputs.accepted)
    rotation = orientation.rotation(params.rotation)
    scale = nexus.read_scale(inputs.scale)
    pixel_norm, corrected = norms.pixel_norm(
        inputs.mask, params, orientation.reference_detector, rotation, scan.binning
    )
    n = rotation.scan.n_frames
    frame_norm = norms.frame_norm(scale, n, inputs.scale, solid_angle=params.solid_angle)
    ub, group = orientation.ub, orientation.group
    integrated, engine = None, f"hklflow {__version__}"
    measurement = measured.measurement(
        scan, rotation, pixel_norm, frame_norm, block=params.block, threads=threads
    )

    def shown(blocks: "Iterable[NDArray[Any]]", description: str) -> "Iterable[NDArray[Any]]":
        return stage.progress(blocks, n, f"{description}, frames", len)

    if params.engine == "dials":
        from hklflow.dials.integrate import integrate as by_dials
        from hklflow.dials.programs import find

        _refuse_unheard(params)
        dials = find(params.prefix)
        engine = dials.label
        reflections = by_dials(
            measurement,
            scan,
            ub,
            group,
            dials=dials,
            d_min=params.d_min,
            min_zeta=params.min_zeta,
            min_recorded=params.min_recorded,
            threads=threads,
        )
    else:
        chosen = params.chosen(threads)
        peaks = nexus.read_peaks(inputs.peaks)
        integrated = bragg.integrate(
            measurement, ub, group, peaks, chosen, d_min=params.d_min, shown=shown
        )
        reflections = integrated.reflections
    title = f"{params.rotation} of {orientation.scan}: integrated reflections"
    nexus.write_reflections(outputs.reflections, reflections, title)
    metrics = {
        "engine": engine,
        "accepted": accepted,
        "corrected for": corrected,
        "rows": len(reflections),
        "flags": {flag.name: int(reflections.has(flag).sum()) for flag in ReflectionFlag},
        "shells": _shells(reflections),
        **({} if integrated is None else _figures(integrated)),
    }
    metrics["warnings"] = _warnings(reflections)
    stage.write_json(outputs.metrics, metrics)
    picture = pictures.integration(reflections, integrated, title, str(metrics["engine"]))
    plots.save(picture, outputs.picture)
    usable = np.isfinite(reflections.intensity_sum)
    description = "" if integrated is None else f"; {integrated.counters}"
    print(f"{int(usable.sum())} of {len(reflections)} reflections have an intensity{description}")
    for warning in metrics["warnings"]:
        print(f"warning: {warning}")


def _warnings(reflections: "Reflections") -> list[str]:
    """Return warnings for users of these intensities."""
    import numpy as np

    from hklflow.bragg.reflections import UNFIT, ReflectionFlag

    with np.errstate(invalid="ignore"):
        strong = reflections.intensity_sum > _STRONG * reflections.sigma_sum
    strong &= ~reflections.has(UNFIT)
    share = reflections.has(ReflectionFlag.UNLIKE)[strong].mean() if strong.any() else 0.0
    if share <= _MANY_UNLIKE:
        return []
    return [
        f"{share:.0%} of {int(strong.sum())} strong reflections are unlike the learned "
        "profile, and their sums are used: predictions are off, or the spots differ; compare with "
        "`scale_reflections: {estimate: sum}`"
    ]


def _refuse_unheard(params: Params) -> None:
    """Raise an error for settings without effect, which the provenance would list."""
    fields = Settings.model_fields
    unheard = [name for name in _OF_BUILTIN if getattr(params, name) != fields[name].default]
    if unheard:
        raise HklflowError(
            f"integrate: {', '.join(unheard)} set, which engine dials does not know; leave that "
            "out, or integrate with engine builtin"
        )


def _shells(reflections: "Reflections") -> list[dict[str, float]]:
    """Return number, mean I/σ of both estimates and median background by resolution."""
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
    """Return the figures that the built-in integration learned."""
    import numpy as np

    from hklflow.bragg.reflections import ReflectionFlag

    table = integrated.reflections
    strong = table.intensity_sum > 10 * table.sigma_sum
    slow, fast = np.exp(integrated.widths.slow[0]), np.exp(integrated.widths.fast[0])
    return {
        "counts": integrated.counters,
        "mosaic in degrees": float(np.degrees(integrated.widths.mosaic)),
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
