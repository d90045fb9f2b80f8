"""Bound the background of a scan that was not measured without the crystal, from its rotations.

The crystal turns, and its surroundings do not. Powder rings of the surroundings are sharp in the
scattering angle. The anisotropic part of the rest is found from repeated measurements of S(Q). The
isotropic part is like isotropic scattering of the crystal: its interval is reported for
each shell of Q.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from hklflow import stage
from hklflow.stage import norms, unmeasured_fit, unmeasured_sums
from hklflow.stage.unmeasured_fit import SIGNIFICANT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.images.powder_rings import Rings
    from hklflow.images.ring_search import Cells
    from hklflow.images.surroundings import Part
    from hklflow.transform.unmeasured_bounds import Bounds

VERSION = 6

# Error of the anisotropic part, as a part of the level, above which it is reported; the same as
# `background: told_error` of runs.
_TOLD_ERROR = 0.01


class Inputs(stage.Inputs):
    scans: list[Path]
    """Scan files of the rotations."""
    masks: list[Path]
    """Pixel masks of the rotations."""
    scales: list[Path]
    """Scales of the frames."""
    absorption: Path | None = None
    """Transmission by the shape of the crystal."""
    frame_masks: list[Path]
    """3-D masks of the rotations."""
    accepted: Path | None = None
    """Verdict of the quality gates on the scan; None if the scan was not judged."""
    orientation: Path
    """Refined orientation of the scan."""
    flat_fields: list[Path] = Field(default_factory=list)
    """Response of the pixels of each rotation, from constants or normalisations."""


class Outputs(stage.Outputs):
    background: Path
    """Interval of the isotropic background, and images of what is subtracted."""
    picture: Path
    """Picture: measured, background and rest."""
    metrics: Path
    """Interval of the isotropic background by shell, powder rings; warnings."""


class Params(stage.Params):
    """Settings of the stage."""

    subtract: bool = False
    """Subtract powder rings and the anisotropic part."""
    rings: Literal["mask", "subtract"] = "mask"
    """What is done with powder rings, if `subtract` is True."""
    friedel: bool = True
    """S(Q) and S(-Q) are equal."""
    shells: int = Field(16, ge=2, le=200)
    """Number of shells of |Q| for which the interval is reported."""
    punch: float = Field(0.3, ge=0, lt=0.5)
    """Voxels whose middle differs from a reflection by less than this in h, k and l are not used.
    """
    records: int = Field(1_000_000, ge=1000)
    """Largest number of repeated measurements from which the anisotropic part is found; more do
    not make it better, but slower.
    """
    corrections: norms.Corrections = norms.Corrections()
    """Corrections of the norm, the same as in the transform."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Sum the frames, find rings and the anisotropic part, and bound the isotropic part."""
    from hklflow import nexus, plots
    from hklflow.plots.background import unmeasured as picture

    stage.read_accepted(inputs.accepted)
    task = _read(inputs, params.corrections)
    found = _found(task, params)
    orientation = task.orientation
    nexus.write_unmeasured(outputs.background, found.parts, found.bounds)
    plots.save(
        picture(found.cells, found.maps, found.bounds, f"{orientation.sample} {orientation.scan}"),
        outputs.picture,
    )
    stage.write_json(outputs.metrics, _metrics(found, params))
    for warning in found.warnings:
        print(f"warning: {warning}")
    print(_sentence(found))


class _Found(NamedTuple):
    """What the frames say about the background."""

    parts: "list[Part]"
    smooth: unmeasured_fit.Found | None
    rings: "Rings"
    covered: float
    cells: "Cells"
    maps: "NDArray[np.float64]"
    warnings: list[str]
    error: float

    @property
    def bounds(self) -> "Bounds | None":
        return self.smooth.bounds if self.smooth else None


def _read(inputs: Inputs, corrections: norms.Corrections) -> unmeasured_sums.Task:
    """Read scan files, geometry and norms of the rotations."""
    from hklflow import nexus

    orientation = stage.read_orientation(inputs.orientation)
    names = [path.absolute().parent.name for path in inputs.scans]
    task = unmeasured_sums.Task(
        orientation,
        [nexus.read_scan(path) for path in inputs.scans],
        names,
        [orientation.rotation(name) for name in names],
        [],
        inputs.frame_masks,
    )
    _require_one_detector(task)
    for number, name in enumerate(names):
        own = corrections
        if inputs.flat_fields:
            own = own.model_copy(update={"flat_field": inputs.flat_fields[number]})
        norm = norms.read_norm(
            inputs.masks[number],
            inputs.scales[number],
            own,
            orientation.reference_detector,
            task.rotations[number],
            task.scans[number].binning,
        )
        task.norms.append(norms.absorbed(norm, inputs.absorption, name))
    return task


def _require_one_detector(task: unmeasured_sums.Task) -> None:
    """Refuse rotations whose detectors see the surroundings differently.

    Raises
    ------
    HklflowError
    """
    import numpy as np

    from hklflow.base.errors import HklflowError

    first = task.rotations[0]
    n_slow, n_fast = first.detector.shape
    corners = np.array([[0, 0, n_slow, n_slow], [0, n_fast, 0, n_fast]], float)
    pixel = np.linalg.norm(first.q_lab(0.0, 1.0) - first.q_lab(0.0, 0.0))
    for name, other in zip(task.names, task.rotations, strict=True):
        same = other.detector.shape == first.detector.shape
        if not same or np.abs(other.q_lab(*corners) - first.q_lab(*corners)).max() > 2 * pixel:
            raise HklflowError(
                f"`background: unmeasured`: the detector of {name} is at another place than that "
                f"of {task.names[0]}, so that they see different backgrounds; remove `unmeasured`, "
                "or make them scans of their own"
            )


def _found(task: unmeasured_sums.Task, params: Params) -> _Found:
    """Sum the frames, and find the background."""
    from hklflow.images import powder_rings
    from hklflow.transform.unmeasured import Places

    plan, warnings = unmeasured_sums.plan_of(task)
    punch = unmeasured_sums.Punch(params.punch, params.friedel)
    records, cells = unmeasured_sums.summed(task, plan, punch)
    rings = powder_rings.find(cells)
    if rings.coarse:
        warnings.append(
            f"a pixel spans {cells.pixel:.2f} 1/Å: powder rings cannot be told from a smooth "
            "background; no smooth background is subtracted, and the interval is from 0 to the "
            "level; do not bin the pixels, or measure a run without the crystal"
        )
    warnings += _unsteady(rings)
    pixels, pixel_norm = unmeasured_sums.pixel_places(task.rotations[0]), task.norms[0].pixel
    use = pixel_norm > 0
    found, subtracted = None, False
    if records is None or len(records) == 0:
        warnings.append(
            "the background besides powder rings is not determined: no part of S(Q) was measured "
            "twice (one short rotation, low symmetry), a frame spans more than the space between "
            "reflections, or there are too many frames for pixels that are too coarse to be summed "
            "in blocks; it is not subtracted"
        )
    else:
        assert plan is not None
        of_pixels = Places(pixels.q[use], pixels.azimuth[use])
        found = unmeasured_fit.bounded(
            records, rings, task, plan, of_pixels, params.records, params.shells
        )
        if found is None:
            warnings.append(
                "the background is not determined: too few repeated measurements lie between the "
                "powder rings; nothing but rings is found"
            )
        else:
            said = _objection(found, rings)
            warnings += [said] if said else []
            subtracted = not said and not rings.coarse and found.significance >= SIGNIFICANT
    smooth = unmeasured_fit.smooth_part(found if subtracted else None, pixels, use)
    error = 0.0
    if found is not None:
        error = _relative_error(smooth[1][use], found.bounds.level)
        warnings += _uncertain(error) if params.subtract else []
    ring = rings.image(pixels.q, pixels.azimuth)
    near = rings.near(pixels.q)
    parts = _parts(smooth, ring, near, pixel_norm, params)
    if params.subtract and params.rings == "subtract" and rings.rings:
        warnings.append(
            f"{len(rings.rings)} powder rings are subtracted, with errors of up to half of a ring "
            "in single pixels, which are not in the error bars; `background: {rings: mask}` leaves "
            "the pixels out, and a run without the crystal measures them"
        )
    maps = unmeasured_fit.maps(cells, pixels, use, smooth[0] + ring[0])
    covered = float(near[use].mean()) if use.any() else 0.0
    return _Found(parts, found, rings, covered, cells, maps, warnings, error)


def _relative_error(variance: "NDArray[np.float64]", level: "NDArray[np.float64]") -> float:
    """Return the error (rms over the pixels) of the anisotropic part, as a part of the level."""
    import numpy as np

    middle = float(np.nanmedian(level)) if np.isfinite(level).any() else 0.0
    return float(np.sqrt(variance.mean())) / middle if variance.size and middle > 0 else 0.0


def _uncertain(error: float) -> list[str]:
    """Return a warning if the anisotropic part is subtracted with a large error."""
    if error <= _TOLD_ERROR:
        return []
    return [
        f"the anisotropic part of the background is subtracted with an error of {error:.1%} of the "
        f"level (rms, limit {_TOLD_ERROR:.0%}), which neighbouring voxels share: sums over voxels "
        "have larger errors than stated; measure a run without the crystal"
    ]


def _unsteady(rings: "Rings") -> list[str]:
    """Return warnings on ice, and on rings that are not equally strong in the whole rotation."""
    found = []
    if rings.frozen is not None:
        heights = ", ".join(f"{height:.0%}" for height in rings.frozen.heights)
        found.append(
            f"powder rings of ice: the strongest is {heights} of the level in "
            f"{len(rings.frozen.heights)} consecutive parts of the rotation; all are treated "
            "like other powder rings; leave out the frames with ice if they are few "
            "(`import_scan: {leave_out}`)"
        )
    if rings.changing:
        places = ", ".join(f"{ring.q:.2f}" for ring in rings.changing)
        found.append(
            f"powder rings at |Q| = {places} 1/Å are not equally strong in all parts of the "
            "rotation (ice that grows, a wall that leaves the beam): weaker ones may be left in S "
            "on some frames, and a ring that is subtracted is wrong; leave out the frames with "
            "rings (`import_scan: {leave_out}`), or mask the rings (`hklflow mask add annulus`)"
        )
    return found


def _objection(found: unmeasured_fit.Found, rings: "Rings") -> str | None:
    """Return the reason why the anisotropic part is not subtracted although it is significant."""
    if found.rest.contradicts:
        return (
            "repeated measurements of S(Q) differ in parts of the detector and of the rotation by "
            f"{found.rest.size:.1%} of the counts (rms) more than noise, transmission and a "
            "constant background explain: something moves or changes (a shadow, ice that grows, "
            "spots of another crystal), or much background does not pass through a crystal whose "
            "transmission changes; no smooth background is subtracted, and the interval is from 0 "
            "to the level; mask these pixels or frames, or measure a run without the crystal"
        )
    if rings.ranges and found.significance > SIGNIFICANT:
        # Ends of rings, and rings that are too weak to be found, have a texture, too.
        return (
            "powder rings were found: what is left of them may be taken for a smooth "
            "anisotropic background, so that this is not subtracted; measure a run "
            "without the crystal"
        )
    return None


def _parts(
    smooth: "tuple[NDArray[np.float64], NDArray[np.float64]]",
    ring: "tuple[NDArray[np.float64], NDArray[np.float64]]",
    near: "NDArray[np.bool_]",
    norm: "NDArray[np.float64]",
    params: Params,
) -> "list[Part]":
    """Return what is subtracted, for an incident intensity of 1; nothing on a mere report."""
    import numpy as np

    from hklflow.images.surroundings import Part

    parts = []
    if params.subtract:
        for name, (image, variance) in (("anisotropic part", smooth), ("powder rings", ring)):
            if not (image > 0).any():
                continue
            level = norm * image
            if name == "powder rings" and params.rings == "mask":
                # Also where the texture leaves nothing of a ring: the texture is not well known.
                level = np.where(near, np.nan, 0.0)
            parts.append(Part(name, level, norm**2 * variance, np.ones(()), 0.0))
    return parts


def _share(bounds: "Bounds") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return the least and largest share of the isotropic background of the level."""
    return bounds.low / bounds.level, bounds.high / bounds.level


def _metrics(found: _Found, params: Params) -> dict[str, Any]:
    """Return the figures."""
    import numpy as np

    figures: dict[str, Any] = {
        "subtracted": [part.name for part in found.parts],
        "powder rings": [
            {
                "|Q| in 1/Å": r.q,
                "width in 1/Å": r.width,
                "height over S": r.height,
                "changes during the rotation": r in found.rings.changing,
            }
            for r in found.rings.rings
        ],
        "ice, part of the level by parts of the rotation": (
            found.rings.frozen.heights if found.rings.frozen else []
        ),
        "share of the pixels with powder rings": found.covered,
        "determined": found.smooth is not None,
        "warnings": found.warnings,
    }
    if found.smooth is None or found.bounds is None:
        return figures
    rest = found.smooth.rest
    figures |= {
        "significance of the anisotropic part": found.smooth.significance,
        "error of the anisotropic part that is subtracted, part of the level": found.error,
        "share of repeated measurements that spots disturb": found.smooth.spots,
        "differences of repeated measurements that are not explained": {
            "rms, part of the counts": rest.size,
            "noise, part of the counts": rest.noise,
            "standard deviations": rest.excess,
        },
    }
    low, high = _share(found.bounds)
    finite = np.isfinite(high)
    return figures | {
        "largest share of S that may be background": float(np.max(high[finite], initial=0)),
        "isotropic background": {
            "edges of the shells in 1/Å": found.bounds.edges.round(4).tolist(),
            "least in units of S": found.bounds.low.tolist(),
            "largest in units of S": found.bounds.high.tolist(),
            "level in units of S": found.bounds.level.tolist(),
            "least share of the level": low.tolist(),
            "largest share of the level": high.tolist(),
        },
        "settings": {"subtract": params.subtract, "rings": params.rings},
    }  # fmt: skip


def _sentence(found: _Found) -> str:
    """Return the sentence about the isotropic part."""
    import numpy as np

    rings = f"{len(found.rings.rings)} powder rings ({found.covered:.0%} of the pixels); "
    if found.bounds is None:
        return rings + "the rest of the background is not determined by the rotations"
    low, high = _share(found.bounds)
    if not np.isfinite(high).any():
        return rings + "too few counts to bound the isotropic background"
    return rings + (
        f"isotropic background: at least {np.nanmin(low):.0%} to {np.nanmax(low):.0%} and at most "
        f"{np.nanmin(high):.0%} to {np.nanmax(high):.0%} of the level between the reflections, by "
        "shell; measure a run without the crystal to know it"
    )


if __name__ == "__main__":
    stage.command(main)
