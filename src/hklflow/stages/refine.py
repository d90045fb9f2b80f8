"""Refine lattice and orientation of one scan, starting from its parent's orientation."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    parent: Path
    """Orientation of the parent."""
    scans: list[Path]
    """Scan files of the rotations."""
    peaks: list[Path]
    """Peak tables of the rotations."""


class Outputs(stage.Outputs):
    orientation: Path
    """Lattice, orientation, geometry of each rotation, grid."""
    picture: Path
    """Picture: residuals."""


class Settings(stage.Params):
    """What the configuration file sets."""

    refine_goniometer: bool = True
    """Refine a small turn of the goniometer head in each rotation but the first."""
    hkl_tolerance: float = Field(0.15, gt=0, lt=0.5)
    """Largest deviation from an integer, in each of h, k, l, of an indexed peak."""
    min_indexed: float = Field(0.2, gt=0, le=1)
    """Least fraction of peaks that must be indexed; low, because superlattice reflections may
    outnumber the others below a transition. By chance a fraction of (2 hkl_tolerance)³ is."""


class Params(Settings):
    """Settings, and what the tables say of the scan."""

    sample: str
    """Sample."""
    scan: str
    """Scan."""
    rotations: list[str]
    """Names of the rotations, in the order of the inputs."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Refine, write."""
    from hklflow import orientation, plots
    from hklflow.core import symmetry
    from hklflow.core.binning import Grid
    from hklflow.core.refinement import Limits, refine

    parent = stage.read_json(inputs.parent)
    observed = orientation.read(params.rotations, inputs.scans, inputs.peaks)
    rotations, notes = orientation.inherited(observed, parent)
    free = ["cell", "orientation"]
    if params.refine_goniometer and len(rotations) > 1:
        free += ["misorientation"]
    refined = refine(
        rotations,
        observed.peaks,
        parent["UB"],
        symmetry.space_group(parent["space_group"]),
        free=free,
        limits=Limits(hkl=params.hkl_tolerance, min_fraction=params.min_indexed),
    )
    identity = {
        "sample": params.sample,
        "scan": params.scan,
        "space_group": parent["space_group"],
        "parent": parent["scan"],
    }
    before = parent["metrics"]["fraction indexed"]
    if refined.fraction_indexed < before - 0.15:
        notes.append(
            f"{refined.fraction_indexed:.0%} of the peaks are indexed against {before:.0%} of the "
            f"parent {parent['scan']}: superlattice reflections or another phase? Look at the "
            "unindexed peaks, and consider a parent of its own for these temperatures"
        )
    grid = Grid.from_dict(parent["grid"])
    data = orientation.product(refined, observed, grid, identity, notes)
    stage.write_json(outputs.orientation, data)
    plots.save(orientation.picture(refined, observed, data), outputs.picture)
    print(
        f"{refined.fraction_indexed:.1%} of {len(refined.indexed)} peaks indexed; cell "
        + " ".join(f"{value:.5g}" for value in refined.cell)
        + "".join(f"; {warning}" for warning in data["warnings"])
    )


if __name__ == "__main__":
    stage.command(main)
