"""Index the peaks of a parent scan and refine its lattice and orientation.

All rotations of the scan are refined together: one cell, one orientation. The parent
also fixes the hkl grid on which it and its children are transformed.
"""

from pathlib import Path

from pydantic import Field

from hklflow import stage
from hklflow.dials.settings import OrientationEngine
from hklflow.errors import HklflowError

VERSION = 4


class Inputs(stage.Inputs):
    scans: list[Path]
    """Scan files of the rotations."""
    peaks: list[Path]
    """Peak tables of the rotations."""
    masks: list[Path] = Field([])
    """Pixel masks of the rotations; needed where DIALS searches the peaks."""
    start: Path | None = None
    """Orientation that another program found: refinement starts there, nothing is indexed."""


class Outputs(stage.Outputs):
    orientation: Path
    """Lattice, orientation, geometry of each rotation, grid."""
    picture: Path
    """Picture: residuals."""


class Settings(stage.Params):
    """What the configuration file sets."""

    space_group: str | None = None
    """Space group (Hermann-Mauguin, Hall or number); None: that of the sample table."""
    cell: tuple[float, float, float, float, float, float] | None = None
    """Approximate cell in Å and degrees; None: that of the sample table."""
    refine_detector: bool = True
    """Refine the beam centre and the detector's turn, with the cell."""
    refine_distance: bool = False
    """Refine the distance too; it correlates with the size of the cell."""
    hkl_tolerance: float = Field(0.25, gt=0, lt=0.5)
    """Largest deviation from an integer, in each of h, k, l, of an indexed peak."""
    min_indexed: float = Field(0.5, gt=0, le=1)
    """Least fraction of peaks that must be indexed."""
    max_cell_deviation: float = Field(0.03, gt=0)
    """Largest relative difference from the cell of the sample table."""
    grid_step: tuple[float, float, float] = (0.05, 0.05, 0.05)
    """Voxel size along h, k, l in r.l.u."""
    grid_limits: tuple[float, float, float] | None = None
    """Largest h, k, l of the grid; None: all that the detector reaches."""


class Params(Settings, OrientationEngine):
    """Settings, what makes them happen, and what the tables say of the scan."""

    sample: str
    """Sample."""
    scan: str
    """Scan."""
    rotations: list[str]
    """Names of the rotations, in the order of the inputs."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Index, refine, write."""
    from hklflow import orientation, plots
    from hklflow.core import gates, geometry, symmetry, transition
    from hklflow.core.grid import Grid
    from hklflow.core.indexing import index_peaks
    from hklflow.core.refinement import Limits, refine

    if params.space_group is None:
        raise HklflowError(
            f"{params.sample} {params.scan} has no space group; give it in the table of samples or "
            "as `refine_parent: space_group`"
        )
    observed = orientation.read(params.rotations, inputs.scans, inputs.peaks)
    group = symmetry.space_group(params.space_group)
    indexing = index_peaks(
        observed.q_crystal(observed.rotations),
        cell=params.cell,
        group=group,
        tolerance=params.hkl_tolerance,
        cell_tolerance=params.max_cell_deviation,
        min_fraction=params.min_indexed,
    )
    free = ["cell", "orientation"]
    if params.refine_detector:
        free += ["detector_x", "detector_y", "detector_rotation"]
    if params.refine_distance:
        free += ["detector_z"]
    if len(observed.names) > 1:
        free += ["misorientation"]
    refined = refine(
        observed.rotations,
        observed.peaks,
        indexing.ub,
        group,
        free=free,
        limits=Limits(hkl=params.hkl_tolerance, min_fraction=params.min_indexed),
    )
    if params.grid_limits is not None:
        grid = Grid.symmetric(params.grid_limits, params.grid_step)
    else:
        q_max = max(geometry.q_max(rotation) for rotation in refined.rotations)
        grid = Grid.covering(refined.cell, q_max, params.grid_step)
    warnings = [indexing.relation] if indexing.relation else []
    if indexing.ambiguities:
        warnings.append(
            f"the lattice has {len(indexing.ambiguities)} rotation(s) that are no symmetry of "
            f"{params.space_group}: which orientation is right only intensities can tell; the "
            "children keep the parent's choice"
        )
    identity = {
        "sample": params.sample,
        "scan": params.scan,
        "temperature": observed.scans[0].temperature,
        "space_group": params.space_group,
        "parent": params.scan,
        "parent_temperature": observed.scans[0].temperature,
        "cell_constraints": params.space_group,
    }
    figures = transition.figures(
        refined, observed.peaks, group, free=free, intensities=observed.intensities
    )
    warnings += gates.failures(figures, figures, gates.Limits(), identity)
    warnings += gates.own_absences(figures, gates.Limits(), identity)
    data = orientation.product(refined, observed, grid, identity, warnings, figures)
    stage.write_json(outputs.orientation, data)
    plots.save(orientation.picture(refined, observed, data), outputs.picture)
    print(
        f"{refined.fraction_indexed:.1%} of {len(refined.indexed)} peaks indexed "
        f"({indexing.fraction:.1%} before the refinement); cell "
        + " ".join(f"{value:.5g}" for value in refined.cell)
        + "".join(f"; {warning}" for warning in data["warnings"])
    )


if __name__ == "__main__":
    stage.command(main)
