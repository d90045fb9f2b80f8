"""Refine lattice and orientation of one scan, starting from its parent's orientation.

A fixed orientation is the parent's as it is; only its figures are of this scan's peaks.
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

VERSION = 10
FRAMES_OF = frames_of


class Inputs(stage.Inputs):
    parent: Path
    """Orientation of the parent."""
    scans: list[Path]
    """Scan files of the rotations."""
    peaks: list[Path]
    """Peak tables of the rotations."""
    masks: list[Path] = Field([])
    """Pixel masks of the rotations: their gaps tell the detector's modules; needed where DIALS
    searches the peaks."""


class Outputs(stage.Outputs):
    orientation: Path
    """Lattice, orientation, geometry of each rotation, grid."""
    picture: Path
    """Picture: residuals."""


class Settings(stage.Params):
    """What the configuration file sets."""

    refine_goniometer: bool = True
    """Refine a small turn of the goniometer head in each rotation but the first."""
    constraints: Literal["auto", "parent"] = "auto"
    """`parent`: the cell keeps the relations of the parent's space group. `auto`: where they are
    broken by the limits of `accept` the cell is refined without; the
    space group told is the parent's all the same, until the scan has a parent of its own."""
    hkl_tolerance: float = Field(0.15, gt=0, lt=0.5)
    """Largest deviation from an integer, in each of h, k, l, of an indexed peak."""
    max_width: float | None = Field(None, gt=0)
    """Peaks that are broader than this are left out, in pixels (standard deviation, of arcs without
    what the mosaic spread makes of it): maxima of the diffuse scattering; None: only those that are
    found to be."""
    min_indexed: float = Field(0.2, gt=0, le=1)
    """Least fraction of peaks that must be indexed; low, because superlattice reflections may
    outnumber the others below a transition. By chance a fraction of (2 hkl_tolerance)³ is."""


class Params(Settings, EngineSettings):
    """Settings, what makes them happen, and what the tables say of the scan."""

    sample: str
    """Sample."""
    scan: str
    """Scan."""
    rotations: list[str]
    """Names of the rotations, in the order of the inputs."""
    accept: ScanLimits = ScanLimits()
    """Limits by which it will be judged."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Refine, write."""
    from hklflow import plots
    from hklflow.dials import engine
    from hklflow.geometry import symmetry
    from hklflow.orientation import centre, misfit, transition
    from hklflow.orientation.product import Identity
    from hklflow.orientation.refinement import RefinementLimits
    from hklflow.quality import doubts, gates, verdict
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
        observed = orientation.observe(params.rotations, scans, tables, params.max_width)
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
            # From what was inherited and with the limits of this stage, as the refinement before.
            refined = used.refine(rotations, observed.tables, examined.free.ub, none, free, limits)
            notes.append(f"the cell was refined without constraints: {', '.join(broken)} is broken")
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
    # Of a fixed orientation, those that it happens to keep.
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
    # Only told here: whether the scan goes on is decided by `accept`, with the limits set.
    judged = (figures, parent.figures, params.accept.limits(), identity.identity())
    notes += gates.failures(*judged) + verdict.doubts(*judged)
    product = orientation.product(refined, observed, parent.grid, identity, notes, figures)
    stage.write_json(outputs.orientation, product.to_dict())
    plots.save(orientation.picture(refined, observed, product), outputs.picture)
    print(
        f"{refined.indexed.sum()} of {len(refined.indexed)} peaks within "
        f"{params.hkl_tolerance:g} of integer hkl; cell "
        + " ".join(f"{value:.5g}" for value in refined.cell)
        + "".join(f"; {warning}" for warning in product.warnings)
    )


if __name__ == "__main__":
    stage.command(main)
