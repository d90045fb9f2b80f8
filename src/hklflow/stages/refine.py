"""Refine lattice and orientation of one scan, starting from the orientation of its parent.

A fixed orientation is the unchanged orientation of the parent; only the statistics come from the
peaks of this scan.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hklflow import stage
from hklflow.dials.settings import EngineSettings, frames_of
from hklflow.stage.scan_limits import ScanLimits

if TYPE_CHECKING:
    from hklflow.orientation.refinement import Refined
    from hklflow.stage.orientation import Observed
    from hklflow.stage.rehearsal import Known

VERSION = 16
FRAMES_OF = frames_of


class Inputs(stage.Inputs):
    parent: Path
    """Orientation of the parent."""
    scans: list[Path]
    """Scan files of the rotations."""
    peaks: list[Path]
    """Peak tables of the rotations."""
    masks: list[Path] = Field([])
    """Pixel masks of the rotations. Their gaps show the modules of the detector. Required if DIALS
    searches the peaks.
    """


class Outputs(stage.Outputs):
    orientation: Path
    """Lattice, orientation, geometry of each rotation, and grid."""
    picture: Path
    """Picture: residuals."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    refine_goniometer: bool = True
    """Refine a small rotation of the goniometer head in each rotation except the first."""
    constraints: Literal["auto", "parent"] = "auto"
    """`parent`: the cell obeys the constraints of the space group of the parent. `auto`: if the
    limits of `accept` show that these constraints are broken, the cell is refined without them. The
    reported space group remains that of the parent until the scan gets its own parent.
    """
    hkl_tolerance: float = Field(0.15, gt=0, lt=0.5)
    """Largest deviation of h, k and l of an indexed peak from integers."""
    max_width: float | None = Field(None, gt=0)
    """Largest width of a peak: standard deviation in pixels, for arcs without the part from the
    mosaic spread. Broader peaks are assumed to be diffuse maxima and left out. None: only peaks
    that are identified as diffuse maxima are left out.
    """
    min_indexed: float = Field(0.2, gt=0, le=1)
    """Smallest fraction of peaks that must be indexed. It is low, because below a transition most
    peaks may be superlattice reflections. By chance the fraction is (2 hkl_tolerance)³.
    """


class Params(Settings, EngineSettings):
    """Settings of the stage, the programs that refine, and the scan from the tables."""

    sample: str
    """Name of the sample."""
    scan: str
    """Name of the scan."""
    rotations: list[str]
    """Names of the rotations, in the order of the inputs."""
    accept: ScanLimits = ScanLimits()
    """Limits by which the scan will be judged."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Refine and write the orientation."""
    from hklflow import plots
    from hklflow.dials import engine
    from hklflow.geometry import symmetry
    from hklflow.orientation import centre, misfit, transition
    from hklflow.orientation.inherited import InheritedErrors, inherited_errors
    from hklflow.orientation.product import Identity
    from hklflow.orientation.refinement import RefinementLimits
    from hklflow.quality import doubts, verdict
    from hklflow.stage import orientation

    parent = stage.read_orientation(inputs.parent)
    group = parent.group
    limits = RefinementLimits(hkl=params.hkl_tolerance, min_fraction=params.min_indexed)
    free = ["cell", "orientation"]
    if params.refine_goniometer and len(params.rotations) > 1:
        free += ["misorientation"]
    with engine.opened(params, threads) as used:
        scans = orientation.read_scans(params.rotations, inputs.scans, inputs.peaks)
        tables = used.tables(scans, inputs.peaks, inputs.masks)
        of_scan = params.sample, params.scan
        observed = orientation.observe(
            params.rotations, scans, tables, params.max_width, params, of_scan
        )
        rotations, notes = orientation.inherited(observed, parent)
        if params.fixed:
            refined, more = orientation.as_given(
                observed, rotations, parent.ub, params.hkl_tolerance
            )
            notes += more
        else:
            refined = used.refine(rotations, observed.tables, parent.ub, group, free, limits)

            def again(fewer: "Observed", more: "Sequence[str]" = free) -> "Refined":
                return used.refine(rotations, fewer.tables, refined.ub, group, more, limits)

            observed, refined, left_out = orientation.without_maxima(observed, refined, again)
            notes += left_out
            if used.dials is None:
                refined, free = centre.centred(
                    refined, observed.peaks, group, free, partial(again, observed)
                )
        examined = transition.examine(
            refined,
            observed.peaks,
            group,
            free=free,
            intensities=observed.intensities,
            limits=params.accept.limits(),
        )
        broken = examined.broken(params.accept.limits())
        loose = bool(broken) and examined.free is not None and params.constraints == "auto"
        loose &= not params.fixed
        none = symmetry.space_group("P 1")
        if examined.free is not None and loose:
            # Start again from the geometry of the parent, with the limits of this stage.
            refined = used.refine(rotations, observed.tables, examined.free.ub, none, free, limits)
            notes.append(f"the cell was refined without constraints: {', '.join(broken)} is broken")
    inherited = InheritedErrors.none()
    if not params.fixed:
        inherited = inherited_errors(
            refined,
            observed.peaks,
            none if loose else group,
            orientation.inheritance(observed, parent, rotations),
        )
    figures = examined.figures
    figures["misfit"] = misfit.misfit(
        refined,
        observed.peaks,
        tolerance=params.hkl_tolerance,
        least=params.min_indexed,
        fixed=params.fixed,
    )
    figures["afterglow"] = orientation.afterglows(params.rotations, tables)
    if not params.fixed:
        named = orientation.named(params.sample, params.scan, observed, own=False)
        figures |= doubts.doubts(
            refined,
            observed.peaks,
            observed.intensities,
            observed.widths,
            none if loose else group,
            free,
            named,
            orientation.modules_of(observed, inputs.masks),
        )
    # Constraints that the cell happens to obey, for a fixed orientation.
    constraints = parent.cell_constraints if params.fixed else parent.space_group
    identity = Identity(
        sample=params.sample,
        scan=params.scan,
        temperature=observed.scans[0].temperature,
        space_group=parent.space_group,
        parent=parent.scan,
        parent_temperature=parent.temperature,
        cell_constraints=None if loose else constraints,
        fixed=params.fixed,
        engine=used.described(),
    )
    # This judgement is only reported; the stage `accept` decides with its limits.
    judged = (figures, parent.figures, params.accept.limits(), identity.identity())
    for sentences in verdict.judged(*judged):
        notes += sentences
    product = orientation.product(
        refined, observed, parent.grid, identity, notes, figures, inherited
    )
    stage.write_json(outputs.orientation, product.to_dict())
    plots.save(orientation.picture(refined, observed, product), outputs.picture)
    print(
        f"{refined.indexed.sum()} of {len(refined.indexed)} peaks within "
        f"{params.hkl_tolerance:g} of integer hkl; cell "
        + " ".join(f"{value:.5g}" for value in refined.cell)
        + "".join(f"; {warning}" for warning in product.warnings)
    )


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Read the choice of peaks."""
    from hklflow.stage.orientation import require_choice

    facts = zip(params.rotations, map(known.scan, inputs.scans), strict=True)
    require_choice([(name, one.scan) for name, one in facts if one is not None], params)


if __name__ == "__main__":
    stage.command(main)
