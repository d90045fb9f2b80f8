"""Refine, integrate and refine again until the model of a scan converges.

All iterations run in one job, because a graph of rules has no loops. Displaced detector modules are
reported, and written as a proposal for the calibration store; the geometry of this reduction does
not change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from hklflow import stage
from hklflow.orientation.limits import MODULE_SPOTS
from hklflow.stage import measured, module_report, norms
from hklflow.stage.integration_settings import IntegrationSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.bragg.converge import Integrate, Loop, Outcome, RefinedModel
    from hklflow.bragg.measurement import Measurement
    from hklflow.bragg.reflections import Reflections
    from hklflow.geometry import Rotation
    from hklflow.geometry.modules import Modules
    from hklflow.geometry.symmetry import SpaceGroup
    from hklflow.orientation.product import Orientation
    from hklflow.orientation.refinement import Refined, RefinementLimits
    from hklflow.orientation.residuals import Peaks
    from hklflow.stage.orientation import Observed

Record = dict[str, Any]


VERSION = 11
FRAMES_OF = "scans"


class Inputs(stage.Inputs):
    orientation: Path
    """Refined orientation of the scan."""
    accepted: Path | None = None
    """Verdict of the quality gates on the scan; None if the scan was not judged."""
    scans: list[Path]
    """Scan files of the rotations."""
    masks: list[Path]
    """Pixel masks of the rotations."""
    scales: list[Path]
    """Frame scales of the rotations."""
    peaks: list[Path]
    """Peak tables of the rotations."""


class Outputs(stage.Outputs):
    converged: Path
    """Lattice, orientation, geometry of each rotation and grid, from the best iteration."""
    history: Path
    """History with one record for each iteration."""
    picture: Path
    """Picture: history of the iterations, and residuals by module."""
    modules: Path
    """Residuals by module; also displacements of the modules if the residuals are significant."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    refine_goniometer: bool = True
    """Refine a small rotation of the goniometer head in each rotation except the first."""
    hkl_tolerance: float = Field(0.15, gt=0, lt=0.5)
    """Largest deviation of h, k and l of an indexed peak from integers."""
    min_indexed: float = Field(0.2, gt=0, le=1)
    """Smallest fraction of the peaks from the peak search that must be indexed."""
    d_min: float | None = Field(None, gt=0)
    """Smallest d-spacing of the integrated reflections in Å; None: all measured reflections."""
    min_significance: float = Field(10.0, ge=3)
    """Smallest I/σ of an integrated reflection whose centroid is used."""
    min_correlation: float = Field(0.8, ge=0, lt=1)
    """Smallest correlation of an integrated reflection with the learned profile whose centroid is
    used.
    """
    cell_change: float = Field(0.1, gt=0)
    """Convergence limit: largest change of a cell length or angle, in standard deviations."""
    orientation_change: float = Field(0.002, gt=0)
    """Convergence limit: largest change of an orientation, in degrees."""
    rmsd_change: float = Field(0.01, gt=0)
    """Convergence limit: largest relative change of the root mean square residuals."""
    indexed_change: float = Field(0.002, gt=0)
    """Convergence limit: largest change of the fraction of indexed peaks."""
    max_cycles: int = Field(8, ge=1, le=50)
    """Largest number of refinements."""
    max_integrations: int = Field(3, ge=0)
    """Largest number of integrations. The first one reads all frames; the others do so only if the
    reflections do not fit into half of `integrate: memory`. 0: only peaks from the peak search are
    used. One integration is enough unless predictions move by more than `reintegrate`.
    """
    reintegrate: float = Field(0.1, gt=0)
    """Change of the predicted positions, in pixels or frames, above which reflections are
    integrated again.
    """
    max_unindexed: float = Field(0.1, ge=0, le=1)
    """Fraction of unindexed peaks, among the strong ones, above which a warning is printed."""
    detector: str | None = None
    """Name of the detector in pyFAI, which defines its modules; None: the modules are found from
    the gaps in the pixel mask.
    """
    module_spots: int = Field(MODULE_SPOTS, ge=10)
    """Smallest number of spots to judge a module; from fewer spots the scatter cannot be estimated.
    """
    module_offset: float = Field(0.1, gt=0)
    """Displacement of a module relative to the other modules, in pixels, above which a significant
    displacement is reported and the module level is fitted. Positions of strong spots are not more
    accurate (error floor of peaks).
    """
    block: int = Field(8, gt=0, le=512)
    """Number of frames in memory at a time."""


class Params(Settings):
    """Settings of the stage, the scan from the tables, and the flat field.

    Other factors of the norm are smooth and do not shift centroids; this stage does not use
    intensities.
    """

    flat_field: Path | None = None
    """File of the relative response of the pixels, see `transform`."""
    sample: str
    """Name of the sample."""
    scan: str
    """Name of the scan."""
    rotations: list[str]
    """Names of the rotations, in the order of the inputs."""
    integrate: IntegrationSettings = IntegrationSettings()
    """Settings for the integration of reflections."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Iterate, judge the result and write it."""
    from hklflow import plots
    from hklflow.bragg import convergence
    from hklflow.plots.convergence import convergence as draw

    start = stage.read_orientation(inputs.orientation)
    if start.fixed:
        _as_given(inputs, outputs, params)
        return
    run = _run(inputs, params, start, threads)
    outcome = run.outcome
    modules, notes = _modules(inputs.masks, params, run.observed)
    report = module_report.examine(
        run.loop, outcome, modules, least=params.module_offset, spots=params.module_spots
    )
    section = _section(inputs, run, report)
    notes += run.notes
    notes += convergence.warnings(outcome, section, params.max_unindexed)
    notes += report.warnings(params.sample, params.scan)
    stage.write_json(outputs.converged, _product(inputs, run, start, notes, section))
    history = [
        convergence.record(item, table)
        for item, table in zip(outcome.iterations, report.tables, strict=True)
    ]
    stage.write_json(outputs.history, {"kept": outcome.best, "iterations": history})
    stage.write_json(outputs.modules, report.to_dict(params.sample, params.scan))
    figure = draw(
        history,
        outcome.best,
        [row.to_dict() for row in report.rows[1:] or report.rows],
        params.model_dump(),
        f"{params.sample} {params.scan}: {outcome.reason}",
    )
    plots.save(figure, outputs.picture)
    print(
        f"{outcome.reason}; iteration {outcome.best} is kept; cell "
        + " ".join(f"{value:.5g}" for value in outcome.kept.model.cell)
        + "".join(f"; {note}" for note in notes)
    )


class _Run(NamedTuple):
    """The loop and its outcome.

    Attributes
    ----------
    observed : Observed
        Peaks of the rotations that the loop used.
    reads : list of str
        Name of the rotation of each pass over the frames.
    notes : list of str
        Warnings about the peaks.
    """

    loop: "Loop"
    outcome: "Outcome"
    observed: "Observed"
    reads: list[str]
    notes: list[str]


def _run(inputs: Inputs, params: Params, start: "Orientation", threads: int) -> _Run:
    """Read the peaks and iterate from the start."""
    from hklflow.bragg import converge
    from hklflow.bragg.centroids import Acceptance, without
    from hklflow.orientation import refinement
    from hklflow.stage import orientation

    everything = orientation.read(params.rotations, inputs.scans, inputs.peaks)
    before = {name: program.value for name, program in start.refined_parameters.items()}
    names = enumerate(params.rotations)
    offsets = {i: start.offsets[name] for i, name in names if name in start.offsets}
    model = converge.RefinedModel(
        [start.rotation(name) for name in params.rotations],
        start.ub,
        start.cell,
        start.own_cell_sigma,
        offsets,
    )
    free = _free(before, params)
    limits = refinement.RefinementLimits(hkl=params.hkl_tolerance, min_fraction=params.min_indexed)
    observed, notes = _reflections_only(everything, model, start.constraints, free, limits)
    integrate, reads, rocking = _integrator(
        inputs, params, start.group, observed.spreads, everything.peaks, threads
    )
    loop = converge.Loop(
        observed.peaks,
        start.constraints,
        free,
        integrate if params.max_integrations else None,
        limits,
        converge.Rest(
            params.cell_change,
            params.orientation_change,
            params.rmsd_change,
            params.indexed_change,
            params.max_cycles,
            params.max_integrations,
            params.reintegrate,
        ),
        Acceptance(params.min_significance, params.min_correlation),
        [without(a, b) for a, b in zip(everything.peaks, observed.peaks, strict=True)],
    )
    outcome = loop.run(model)
    notes += _doubtful_arcs(outcome, observed, rocking)
    return _Run(loop, outcome, observed, reads, notes)


def _section(inputs: Inputs, run: _Run, report: module_report.ModuleReport) -> Record:
    """Return the figures that the product has under ``converged``."""
    from hklflow.bragg import convergence, residual_map

    outcome, observed = run.outcome, run.observed
    spots = outcome.kept.spots or outcome.iterations[1].spots
    assert spots is not None
    section = convergence.section(
        run.loop, outcome, observed.names, observed.intensities, observed.n_found
    )
    section["accepted"] = stage.read_accepted(inputs.accepted)
    section["passes over the frames"] = len(run.reads) / len(observed.names)
    sentences = [module.told() for module in report.displaced]
    section["modules"] = {"displaced": sentences, "fitted": "why not" not in report.level}
    section["residuals by frame"] = residual_map.by_frame(spots, observed.names)
    return section


def _product(
    inputs: Inputs, run: _Run, start: "Orientation", notes: list[str], section: Record
) -> Record:
    """Return the orientation of the kept iteration."""
    from hklflow import __version__
    from hklflow.stage import orientation

    kept = run.outcome.kept
    if kept.refined is None:
        warnings = [*start.warnings, *notes]
        return _unchanged(inputs.orientation, warnings=warnings, converged=section)
    # The start may come from another program; this refinement does not.
    program = f"hklflow {__version__}"
    start_here = replace(start, engine={"program": program, "spots": program})
    product = orientation.product(
        kept.refined,
        run.observed,
        start.grid,
        start_here,
        notes,
        start.figures,
        start.inherited,
    )
    # The refinement also used integrated centroids, which are indexed by construction.
    peaks = {"peaks": run.loop.total, "fraction indexed": kept.fraction_indexed}
    return replace(
        product,
        metrics={**product.metrics, **peaks},
        started_from=start.engine,
        converged=section,
    ).to_dict()


def _unchanged(orientation: Path, **entries: Any) -> Record:
    """Return the content of an orientation file with additional entries."""
    data = stage.read_json(orientation) | entries
    return {key: value for key, value in data.items() if key != "provenance"}


def _as_given(inputs: Inputs, outputs: Outputs, params: Params) -> None:
    """Write the products of a scan with a fixed orientation: unchanged, without a history."""
    from hklflow import plots
    from hklflow.plots.common import figure_of

    reason = "the orientation is fixed: nothing was refined"
    section = {"converged": None, "reason": reason, "refinements": 0, "integrations": 0}
    stage.write_json(outputs.converged, _unchanged(inputs.orientation, converged=section))
    stage.write_json(outputs.history, {"kept": None, "iterations": []})
    report = module_report.ModuleReport(None, [], [], [], {"why not": reason})
    stage.write_json(outputs.modules, report.to_dict(params.sample, params.scan))
    figure = figure_of(6, 1.5)
    figure.text(0.5, 0.5, f"{params.sample} {params.scan}: {reason}", ha="center", va="center")
    plots.save(figure, outputs.picture)
    print(reason)


def _free(refined: "Mapping[str, float]", params: Params) -> list[str]:
    """Return the groups of parameters that were refined before.

    If one of them were fixed now, the errors would be too small.
    """
    from hklflow.geometry.parameters import groups_of

    free = {"cell", "orientation", *groups_of(list(refined))} - {"misorientation"}
    if params.refine_goniometer and len(params.rotations) > 1 and "scan_offset" not in free:
        free.add("misorientation")
    return sorted(free)


def _reflections_only(
    observed: "Observed",
    model: "RefinedModel",
    group: "SpaceGroup",
    free: Sequence[str],
    limits: "RefinementLimits",
) -> "tuple[Observed, list[str]]":
    """Leave out the diffuse maxima that the previous refinement also left out."""
    from hklflow.orientation.refinement import refine
    from hklflow.stage import orientation

    def refined(some: "Observed") -> "Refined":
        return refine(model.rotations, some.peaks, model.ub, group, free=free, limits=limits)

    fewer, _, notes = orientation.without_maxima(observed, refined(observed), refined)
    return fewer, notes


def _doubtful_arcs(
    outcome: "Outcome", observed: "Observed", widths: "Mapping[int, float]"
) -> list[str]:
    """Return a warning if centroids may be on arcs, which would change the cell."""
    import numpy as np

    untold = [i for i, spread in enumerate(observed.spreads) if spread is None]
    refined = outcome.kept.refined
    if not untold or not widths or refined is None or not outcome.kept.reflections.get("used"):
        return []
    rocking = max(widths[i] for i in untold)
    size, sigma = refined.cell[:3], refined.cell_sigma[:3]
    off = rocking**2 / 2  # relative to the radius perpendicular to the beam, see `orientation.arcs`
    if not np.any(off * size > sigma):
        return []
    return [
        f"rocking curves of {np.degrees(rocking):.2g}° may be mosaic spread; the centroids of "
        f"arcs then make the cell up to {1e6 * off:.0f} ppm too large (its error is "
        f"{1e6 * np.min(sigma[sigma > 0] / size[sigma > 0]):.0f} ppm), and the peaks of "
        f"{', '.join(observed.names[i] for i in untold)} are too few to decide: find more peaks "
        "(`find_peaks: min_significance`) or use the cell of the earlier refinement"
    ]


def _integrator(
    inputs: Inputs,
    params: Params,
    group: "SpaceGroup",
    spreads: "Sequence[float | None]",
    found: "Sequence[Peaks]",
    threads: int,
) -> "tuple[Integrate, list[str], dict[int, float]]":
    """Return a function that integrates all rotations with a given model.

    Reflections that were ``found`` as peaks are not integrated, because only their peaks are used.
    The function fills the two other results: a list with an entry for each rotation that was read,
    and the rocking width of each rotation.
    """
    from hklflow import nexus
    from hklflow.bragg.centroids import found_as_peaks, placed
    from hklflow.bragg.collected import Collected
    from hklflow.bragg.integrate import integrate

    reads: list[str] = []
    rocking: dict[int, float] = {}

    def frames_of(i: int, rotations: "Sequence[Rotation]") -> "Measurement":
        return _measurement(inputs, params, i, rotations, threads, reads)

    chosen = params.integrate.chosen(threads)
    # Rotations share the memory.
    limit = 0.5e6 * chosen.memory / len(params.rotations)
    collected = [Collected(limit) for _ in params.rotations]

    def integrate_rotation(
        i: int, rotations: "Sequence[Rotation]", ub: "NDArray[np.float64]"
    ) -> "Reflections":
        integrated_reflections = integrate(
            frames_of(i, rotations),
            ub,
            group,
            nexus.read_peaks(inputs.peaks[i]),
            chosen,
            d_min=params.d_min,
            shown=partial(_shown, rotations[i].scan.n_frames),
            collected=collected[i],
            left_out=partial(found_as_peaks, found[i], rotations[i], ub, params.hkl_tolerance),
        )
        rocking[i] = integrated_reflections.widths.mosaic
        spread = spreads[i]
        if not spread:
            return integrated_reflections.reflections
        return placed(
            integrated_reflections.reflections,
            rotations[i],
            integrated_reflections.widths,
            chosen.n_sigma,
            spread,
        )

    def integrated(
        rotations: "Sequence[Rotation]", ub: "NDArray[np.float64]"
    ) -> "list[Reflections]":
        return [integrate_rotation(i, rotations, ub) for i in range(len(rotations))]

    return integrated, reads, rocking


def _shown(
    n_frames: int, blocks: "Iterable[NDArray[Any]]", description: str
) -> "Iterable[NDArray[Any]]":
    return stage.progress(blocks, n_frames, description, len)


def _measurement(
    inputs: Inputs,
    params: Params,
    i: int,
    rotations: "Sequence[Rotation]",
    threads: int,
    reads: list[str],
) -> "Measurement":
    """Return the frames of a rotation and their norm, with the geometry of the present model."""
    from hklflow import nexus

    scan, rotation = nexus.read_scan(inputs.scans[i]), rotations[i]
    # The peak search locates spots by counts. Factors that vary across a spot would shift the
    # integrated centroids relative to the peaks; intensities are not used here.
    factors = norms.Corrections(
        solid_angle=False, polarization=False, efficiency=False, flat_field=params.flat_field
    )
    norm = norms.read_norm(
        inputs.masks[i], inputs.scales[i], factors, rotations[0].detector, rotation, scan.binning
    )
    measurement = measured.measurement(scan, rotation, norm, block=params.block, threads=threads)

    def blocks() -> "Iterable[NDArray[Any]]":
        reads.append(params.rotations[i])
        return measurement.blocks()

    return replace(measurement, blocks=blocks)


def _modules(
    masks: Sequence[Path], params: Params, observed: "Observed"
) -> "tuple[Modules | None, list[str]]":
    """Return the modules of the detector, from its geometry or from gaps, and messages."""
    from hklflow.calibration.modules import detector_modules
    from hklflow.images.pixel_binning import bin_modules
    from hklflow.stage import orientation

    detectors = [rotation.detector for rotation in observed.rotations]
    shapes = {detector.shape for detector in detectors}
    if len(shapes) > 1:
        listed = ", ".join(str(shape) for shape in sorted(shapes))
        return None, [f"residuals by module were not made: rotations have detectors of {listed}"]
    if detectors[0].modules is None and params.detector is not None:
        modules, binning = detector_modules(params.detector), observed.scans[0].binning
        return modules if binning is None else bin_modules(modules, binning.factor), []
    return orientation.modules_of(observed, masks), []


if __name__ == "__main__":
    stage.command(main)
