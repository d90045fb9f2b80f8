"""Index the peaks of a parent scan and refine its lattice and orientation.

All rotations of the scan are refined together, with one cell and one orientation. The parent also
defines the hkl grid to which the parent and its children are transformed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.dials.settings import EngineSettings, frames_of
from hklflow.stage.import_settings import ImportSettings
from hklflow.stage.scan_limits import ScanLimits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.dials.engine import Engine
    from hklflow.geometry import Rotation
    from hklflow.geometry.grid import Grid
    from hklflow.geometry.symmetry import SpaceGroup
    from hklflow.orientation.indexing import Indexing
    from hklflow.orientation.refinement import Refined
    from hklflow.quality.pasted import Imported
    from hklflow.stage.orientation import Observed, Start
    from hklflow.stage.rehearsal import Known

VERSION = 16
FRAMES_OF = frames_of

# The longest cells reach h = 70000 with the shortest wavelengths.
_FARTHEST = 1e5
Index = Annotated[float, Field(ge=-_FARTHEST, le=_FARTHEST)]
Range = tuple[Index, Index]
Limit = Annotated[float, Field(gt=0, le=_FARTHEST)]
Step = Annotated[float, Field(ge=1e-4, le=10)]


class Inputs(stage.Inputs):
    scans: list[Path]
    """Scan files of the rotations."""
    peaks: list[Path]
    """Peak tables of the rotations."""
    masks: list[Path] = Field([])
    """Pixel masks of the rotations. Their gaps show the modules of the detector. Required if DIALS
    searches the peaks.
    """
    start: Path | None = None
    """Orientation from another program. The refinement starts from it without indexing; with
    `fixed` it is not refined either.
    """


class Outputs(stage.Outputs):
    orientation: Path
    """Lattice, orientation, geometry of each rotation, and grid."""
    picture: Path
    """Picture: residuals."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    space_group: str | None = None
    """Space group (Hermann-Mauguin, Hall or number); None: the space group in the sample table."""
    cell: tuple[float, float, float, float, float, float] | None = None
    """Approximate cell in Å and degrees; None: the cell in the sample table."""
    refine_detector: bool = True
    """Refine the beam centre and the rotation of the detector, together with the cell."""
    refine_distance: bool = False
    """Refine the distance, too. It correlates with the size of the cell."""
    hkl_tolerance: float = Field(0.25, gt=0, lt=0.5)
    """Largest deviation of h, k and l of an indexed peak from integers."""
    max_width: float | None = Field(None, gt=0)
    """Largest width of a peak: standard deviation in pixels, for arcs without the part from the
    mosaic spread. Broader peaks are assumed to be diffuse maxima and left out. None: only peaks
    that are identified as diffuse maxima are left out.
    """
    min_indexed: float = Field(0.5, gt=0, le=1)
    """Smallest fraction of peaks that must be indexed."""
    max_cell_deviation: float = Field(0.03, gt=0)
    """Largest relative difference of the refined cell from the cell in the sample table."""
    grid_step: tuple[Step, Step, Step] | None = None
    """Voxel size along h, k, l in r.l.u.; None: 0.05, or the next of 0.0625, 0.1, 0.125, 0.25, 0.5
    and 1 that needs no more than 500 million voxels.
    """
    grid_limits: tuple[Limit, Limit, Limit] | None = None
    """Largest h, k, l of the grid; None: the largest that the detector covers."""
    grid_range: tuple[Range, Range, Range] | None = None
    """First and last voxel centre along h, k and l, for a grid that covers a part of reciprocal
    space only, such as [[1.8, 2.2], [0.8, 1.2], [0.8, 1.2]].
    """

    @field_validator("grid_range", mode="before")
    @classmethod
    def _as_pairs(cls, value: Any) -> Any:
        """Pair the six numbers of a command line, which are in one list."""
        if isinstance(value, list | tuple) and len(value) == 6:
            return [value[0:2], value[2:4], value[4:6]]
        return value

    @model_validator(mode="after")
    def _one_grid(self) -> Self:
        if self.grid_limits is not None and self.grid_range is not None:
            raise ValueError("grid_limits and grid_range are two grids; give one of them")
        return self


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
    imported: ImportSettings = ImportSettings()
    """Corrections of the import, which a remedy takes into account."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Index, refine and write the orientation."""
    from hklflow import plots
    from hklflow.dials import engine
    from hklflow.geometry import symmetry
    from hklflow.orientation import centre, misfit, pseudosymmetry, transition
    from hklflow.orientation import sizes as scale
    from hklflow.orientation.inherited import InheritedErrors
    from hklflow.orientation.leftover import Crystal
    from hklflow.orientation.product import Identity
    from hklflow.orientation.refinement import RefinementLimits
    from hklflow.quality import doubts, pasted, verdict
    from hklflow.stage import orientation

    group, given = _group(params), _given_grid(params)
    compared: list[Mapping[str, Any]] = []
    twins: list[Crystal] = []
    with engine.opened(params, threads) as used:
        scans = orientation.read_scans(params.rotations, inputs.scans, inputs.peaks)
        tables = used.tables(scans, inputs.peaks, inputs.masks)
        of_scan = params.sample, params.scan
        observed = orientation.observe(
            params.rotations, scans, tables, params.max_width, params, of_scan
        )
        free = ["cell", "orientation"]
        if params.refine_detector:
            free += ["detector_x", "detector_y", "detector_rotation"]
        if params.refine_distance:
            free += ["detector_z"]
        if len(observed.names) > 1:
            free += ["misorientation"]
        if params.fixed:
            taken = _taken(inputs.start, params, observed, group)
            ub = taken.ub
            refined, warnings = orientation.as_given(
                observed, taken.rotations, ub, params.hkl_tolerance
            )
            warnings += taken.notes
        else:
            begin, ub, start_notes = _begin(inputs.start, params, observed, group, free, used)
            limits = RefinementLimits(hkl=params.hkl_tolerance, min_fraction=params.min_indexed)

            def refine_from(ub: "NDArray[np.float64]") -> "Refined":
                return used.refine(
                    begin, observed.tables, ub, group, free, limits, start=observed.rotations
                )

            def refine_at(
                fewer: "Observed", rotations: "Sequence[Rotation]", ub: "NDArray[np.float64]"
            ) -> "Refined":
                return used.refine(
                    rotations, fewer.tables, ub, group, free, limits, start=observed.rotations
                )

            is_builtin = used.dials is None and inputs.start is None
            warnings = start_notes
            domains = None
            if is_builtin and params.cell is not None:
                domains = orientation.separated(observed, begin, ub, group, params.cell, refine_at)
            if domains is None:
                with _explained(observed, params, group, tried=is_builtin):
                    refined = refine_from(ub)
                ambiguities = symmetry.reindexing_operators(refined.cell, group)
                n_open = len(ambiguities)
                if is_builtin:
                    refined, n_open = pseudosymmetry.oriented(refined, ambiguities, refine_from)
            else:
                n_all = len(observed.q_crystal(observed.rotations))
                observed, refined, twin = domains
                n_open, twins = 0, [twin]
                n_own = len(refined.indexed)
                warnings.append(
                    f"the peaks belong to two domains: {n_own} of {n_all} are on the lattice of "
                    "the larger domain and were refined, the others were left out"
                )

            def again(fewer: "Observed", more: "Sequence[str]" = free) -> "Refined":
                return used.refine(
                    refined.rotations,
                    fewer.tables,
                    refined.ub,
                    group,
                    more,
                    limits,
                    start=observed.rotations,
                )

            n_peaks = len(refined.indexed)
            observed, refined, left_out = orientation.without_maxima(observed, refined, again)
            warnings += left_out
            if len(refined.indexed) < n_peaks and used.dials is None and inputs.start is None:
                # Diffuse maxima blur the difference between the orientations.
                ambiguities = symmetry.reindexing_operators(refined.cell, group)
                refined, n_open = pseudosymmetry.oriented(refined, ambiguities, refine_from)
            if used.dials is None:
                refined, free = centre.centred(
                    refined, observed.peaks, group, free, partial(again, observed)
                )
                compared = scale.sizes(refined, params.cell, free, partial(again, observed))
    grid, chosen = given or _covering(params, observed, refined)
    warnings += chosen
    if not params.fixed and n_open:
        warnings.append(
            f"the lattice has {n_open} rotation(s) that are not symmetries of "
            f"{params.space_group}: only intensities can decide which orientation is right; the "
            "children keep the parent's choice"
        )
    identity = Identity(
        sample=params.sample,
        scan=params.scan,
        temperature=observed.scans[0].temperature,
        space_group=str(params.space_group),
        parent=params.scan,
        parent_temperature=observed.scans[0].temperature,
        cell_constraints=params.space_group
        if not params.fixed or orientation.constraints_kept(refined.cell, group)
        else None,
        fixed=params.fixed,
        engine=used.described(),
    )
    figures = transition.figures(
        refined,
        observed.peaks,
        group,
        free=free,
        intensities=observed.intensities,
        limits=params.accept.limits(),
    )
    figures["misfit"] = misfit.misfit(
        refined,
        observed.peaks,
        tolerance=params.hkl_tolerance,
        least=params.min_indexed,
        fixed=params.fixed,
    )
    figures["afterglow"] = orientation.afterglows(params.rotations, tables)
    if not params.fixed:
        named = orientation.named(
            params.sample,
            params.scan,
            observed,
            own=True,
            imported=_imported(observed, params),
        )
        figures["sizes"] = pasted.with_cures(compared, refined.cell, _imported(observed, params))
        modules = orientation.modules_of(observed, inputs.masks)
        figures |= doubts.doubts(
            refined,
            observed.peaks,
            observed.intensities,
            observed.widths,
            group,
            free,
            named,
            modules,
        )
        figures["other crystals"] += [doubts.of_crystal(twin, named) for twin in twins]
        if figures["other crystals"]:  # the lattices of a twin together form a larger lattice
            warnings = [text for text in warnings if "supercell" not in text]
    judged = (figures, figures, params.accept.limits(), identity.identity())
    for sentences in verdict.judged(*judged):
        warnings += sentences
    if params.cell is None and not (params.fixed or params.refine_distance):
        warnings.append(
            "no cell is given, so the size of the cell is as right as the detector's distance: the "
            "two go together (1 % of the distance is about 1 % of the cell); give the cell, if it "
            "is known, in the table of samples"
        )
    product = orientation.product(
        refined, observed, grid, identity, warnings, figures, InheritedErrors.none()
    )
    stage.write_json(outputs.orientation, product.to_dict())
    plots.save(orientation.picture(refined, observed, product), outputs.picture)
    print(
        f"{refined.indexed.sum()} of {len(refined.indexed)} peaks within "
        f"{params.hkl_tolerance:g} of integer hkl; cell "
        + " ".join(f"{value:.5g}" for value in refined.cell)
        + "".join(f"; {warning}" for warning in product.warnings)
    )


def _group(params: Params) -> "SpaceGroup":
    """Return the space group of the parameters."""
    from hklflow.geometry import symmetry

    if params.space_group is None:
        raise HklflowError(
            f"{params.sample} {params.scan} has no space group; give it in the table of samples or "
            "as `refine_parent: space_group`"
        )
    return symmetry.space_group(params.space_group)


def _given_grid(params: Params) -> "tuple[Grid, list[str]] | None":
    """Return the grid of the parameters and notes; None: the grid follows from the refinement."""
    import numpy as np

    from hklflow.geometry.grid import Grid

    if params.grid_range is not None:
        step, notes = _step(params, np.ptp(params.grid_range, axis=1))
        return Grid.within(params.grid_range, step), notes
    if params.grid_limits is not None:
        step, notes = _step(params, 2 * np.array(params.grid_limits))
        return Grid.symmetric(params.grid_limits, step), notes
    return None


def _covering(params: Params, observed: "Observed", refined: "Refined") -> "tuple[Grid, list[str]]":
    """Return the grid that covers the detector, and notes.

    A step is chosen for the expected cell and the geometry of the import, which the planning knows,
    too. The step then does not depend on the last digits of a refinement.
    """
    from hklflow import geometry
    from hklflow.geometry import grid as grids

    cell = refined.cell if params.cell is None else params.cell
    before = max(geometry.q_max(rotation) for rotation in observed.rotations)
    step, notes = _step(params, grids.extents(cell, before))
    q_max = max(geometry.q_max(rotation) for rotation in refined.rotations)
    return grids.Grid.covering(refined.cell, q_max, step), notes


def _step(params: Params, extents: "NDArray[np.float64]") -> "tuple[Sequence[float], list[str]]":
    """Return the step of the grid, and a note if it had to be chosen coarser than usual."""
    from hklflow.geometry import grid

    if params.grid_step is not None:
        return params.grid_step, []
    step = grid.chosen_step(extents)
    return (step,) * 3, [note for note in [grid.coarser(step, extents)] if note]


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Read the choice of peaks, make the grid, take the orientation that is given, if possible."""
    from hklflow.dials.frames import require_counter
    from hklflow.stage.orientation import Observed, require_choice

    group = _group(params)
    _given_grid(params)
    facts = [known.scan(path) for path in inputs.scans]
    scans = [one.scan for one in facts if one is not None]
    if params.spots == "dials":
        for scan in scans:
            require_counter(scan)
    known_scans = zip(params.rotations, facts, strict=True)
    require_choice([(name, one.scan) for name, one in known_scans if one is not None], params)
    if len(scans) < len(facts) or not all(one is not None and one.calibrated for one in facts):
        return
    observed = Observed(tuple(params.rotations), tuple(scans), (), 0, ())
    if params.fixed:
        _taken(inputs.start, params, observed, group)
    elif inputs.start is not None:
        _started(inputs.start, params, observed, group)


def _started(
    start: Path, params: Params, observed: "Observed", group: "SpaceGroup"
) -> "tuple[Start, NDArray[np.float64]]":
    """Return the start, and its UB in the setting of the space group."""
    from hklflow.stage import orientation

    model = orientation.started(start, observed)
    start_group = group if model.group is None else model.group
    tolerance, where = params.max_cell_deviation, f"the start {start}"
    return model, orientation.reconciled(
        model.ub, start_group, group, params.cell, tolerance, where
    )


def _taken(
    start: Path | None, params: Params, observed: "Observed", group: "SpaceGroup"
) -> "Start":
    """Return the starting orientation; its UB must be in the setting of the space group."""
    import numpy as np

    if start is None:
        raise HklflowError(
            f"{params.sample} {params.scan} has `orientation: fixed` without an orientation; give "
            "it as `orientation: start`"
        )
    start_model, same = _started(start, params, observed, group)
    if not np.allclose(same, start_model.ub, atol=1e-9):
        raise HklflowError(
            f"the start {start} has the lattice of {group.symbol}, but in another setting, in "
            "which it cannot be taken as it is; give the space group and the cell of its setting, "
            "or its UB in theirs"
        )
    return start_model


def _begin(
    start: Path | None,
    params: Params,
    observed: "Observed",
    group: "SpaceGroup",
    free: list[str],
    used: "Engine",
) -> "tuple[list[Rotation], NDArray[np.float64], list[str]]":
    """Return the geometry and UB at the start of the refinement, and notes on them."""
    import numpy as np

    from hklflow.dials import orient
    from hklflow.orientation.expected import in_other_setting, require_possible, sparse
    from hklflow.orientation.indexing import index_peaks
    from hklflow.quality import doubts
    from hklflow.stage import orientation

    rotations, tolerance = observed.rotations, params.max_cell_deviation
    if start is not None:
        start_model, ub = _started(start, params, observed, group)
        return start_model.rotations, ub, start_model.notes
    with _explained(observed, params, group):
        if used.dials is not None:
            rotations, ub = orient.index(
                used.dials, rotations, observed.tables, group, params.cell, free, used.folder
            )
            where = "the lattice that DIALS found"
            ub = orientation.reconciled(ub, group, group, params.cell, tolerance, where)
            return rotations, ub, []
        g = observed.q_crystal(rotations)
        strength = np.concatenate(observed.intensities)
        indexing = index_peaks(
            g,
            cell=params.cell,
            group=group,
            tolerance=params.hkl_tolerance,
            cell_tolerance=tolerance,
            min_fraction=min(doubts.LEAST_INDEXED, params.min_indexed),
            strength=strength,
        )
        if indexing.fraction < params.min_indexed:
            raise HklflowError(_too_few(indexing, g, strength, group, params))
        require_possible(indexing)
        if indexing.relation and in_other_setting(indexing.ub, params.cell, group, tolerance):
            raise HklflowError(f"{indexing.relation}; check cell and space group")
    parts = np.split(g, np.cumsum([len(peaks.frame) for peaks in observed.peaks])[:-1])
    notes = [indexing.relation, *sparse(indexing.ub, parts, observed.names)]
    return rotations, indexing.ub, [note for note in notes if note]


@contextmanager
def _explained(
    observed: "Observed", params: Params, group: "SpaceGroup", tried: bool = True
) -> "Iterator[None]":
    """Add what would index the peaks to an error, if other geometries are to be tried."""
    from hklflow.orientation.expected import Sought
    from hklflow.stage import orientation

    try:
        yield
    except HklflowError as error:
        sought = Sought(
            params.cell, group, params.hkl_tolerance, params.max_cell_deviation, params.min_indexed
        )
        reason = (
            orientation.explanation(observed, sought, _imported(observed, params)) if tried else ""
        )
        if not reason:
            raise
        raise HklflowError(f"{error}; {reason}") from error


def _imported(observed: "Observed", params: Params) -> "Imported":
    from hklflow.stage import orientation

    return orientation.imported(f"{params.sample}/{params.scan}", observed, params.imported)


def _too_few(
    indexing: "Indexing",
    g: "NDArray[np.float64]",
    strength: "NDArray[np.float64]",
    group: "SpaceGroup",
    params: Params,
) -> str:
    """Return the reason why too few peaks are indexed, as far as the unindexed peaks show it."""
    from hklflow.quality import doubts

    intro = (
        f"the expected cell indexes {indexing.indexed.sum()} of {len(g)} peaks "
        f"({indexing.fraction:.0%}, limit {params.min_indexed:.0%})"
    )
    check = (
        "check the cell, the distance, the beam centre, the wavelength, and the rotation axis with "
        "its sense"
    )
    causes = doubts.causes(indexing.ub, g, strength, group)
    if not causes:
        relation = f"{indexing.relation}; " if indexing.relation else ""
        return f"{intro}; {relation}{check}"
    # With a wrong geometry, a few peaks are at such positions by chance.
    return (
        f"{intro}; of the others {'; '.join(causes)}; if they are not expected, {check}; to "
        "continue nevertheless, lower `refine_parent: min_indexed`"
    )


if __name__ == "__main__":
    stage.command(main)
