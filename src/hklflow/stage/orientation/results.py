"""Convert a refinement to the orientation of a scan, and draw its picture."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hklflow.base.values import CELL_NAMES
from hklflow.geometry.grid import Grid
from hklflow.orientation import refinement
from hklflow.orientation.inherited import InheritedErrors
from hklflow.orientation.product import Identity, Orientation, Parameter
from hklflow.stage.orientation.observed import Observed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def product(
    refined: refinement.Refined,
    observed: Observed,
    grid: Grid,
    identity: Identity,
    warnings: Sequence[str],
    figures: Mapping[str, Any],
    inherited: InheritedErrors,
) -> Orientation:
    """Return the refined orientation of a scan.

    Parameters
    ----------
    figures : mapping
        Results of `orientation.transition` and other tests.
    inherited : InheritedErrors
        Errors from the geometry of the parent, to be added to those of the refinement.
    """
    # For a model without refinement, the numbers are for the peaks that agree with the model.
    shown = refined.used if refined.used.any() else refined.held_out
    untested = (
        [f"whether the cell obeys the space group was not tested: {figures['why not']}"]
        if figures["free cell"] is None
        else []
    )
    cell_covariance = refined.cell_covariance + inherited.cell
    turn_variance = np.degrees(refined.orientation_sigma) ** 2 + np.diag(inherited.orientation)
    return Orientation(
        **identity.identity(),
        cell=refined.cell,
        cell_sigma=np.sqrt(np.diag(cell_covariance)),
        cell_covariance=cell_covariance,
        u=refined.u,
        ub=refined.ub,
        orientation_sigma=np.sqrt(turn_variance),
        inherited=inherited,
        rotations=dict(zip(observed.names, refined.rotations, strict=True)),
        calibrated_detectors={
            name: scan.rotation.detector
            for name, scan in zip(observed.names, observed.scans, strict=True)
        },
        offsets={observed.names[i]: offset for i, offset in refined.offsets.items()},
        grid=grid,
        refined_parameters={
            name: Parameter(value, sigma)
            for name, value, sigma in zip(refined.names, refined.values, refined.sigma, strict=True)
        },
        parameter_covariance=refined.covariance,
        metrics={
            "peaks found": observed.n_found,
            "peaks": len(refined.indexed),
            "peaks left out": dict(observed.left_out),
            # This value depends on `hkl_tolerance` of this refinement; do not compare scans by it.
            "fraction indexed": refined.fraction_indexed,
            "used in refinement": int(refined.used.sum()),
            "rmsd in pixels": float(np.hypot(refined.rmsd[0], refined.rmsd[1])),
            "rmsd in frames": float(refined.rmsd[2]),
            "median residual (slow, fast, frame)": np.median(
                np.abs(refined.residuals[shown]), axis=0
            )
            if shown.any()
            else [None] * 3,
            "rmsd of held-out peaks (slow, fast, frame)": refined.rmsd_held_out,
            "reduced chi2": refined.chi2,
            "condition number": refined.condition,
            "correlations above 0.95": refined.correlations,
        },
        figures=figures,
        warnings=[*warnings, *observed.notes, *untested, *refined.warnings],
    )


def picture(refined: refinement.Refined, observed: Observed, orientation: Orientation) -> "Figure":
    """Plot the residuals of all rotations, with the main numbers."""
    from hklflow import plots

    starts = np.cumsum([0, *(len(p.frame) for p in observed.peaks)])
    kinds = {"slow": 0, "fast": 1, "frame": 2}
    per_rotation = {}
    for i, (name, peaks) in enumerate(zip(observed.names, observed.peaks, strict=True)):
        rows = slice(starts[i], starts[i + 1])
        use = refined.used[rows] | refined.held_out[rows]
        arrays = {kind: refined.residuals[rows, at][use] for kind, at in kinds.items()}
        per_rotation[name] = {"at frame": peaks.frame[use], **arrays}
    metrics = orientation.metrics
    free = "" if orientation.cell_constraints else ", cell without its constraints"
    lines = [f"space group {orientation.space_group}{free}", ""]
    lines += ["the orientation is fixed: nothing was refined", ""] if orientation.fixed else []
    lines += [
        f"{n:5s} {v:9.5f} ± {s:.5f}"
        for n, v, s in zip(CELL_NAMES, orientation.cell, orientation.cell_sigma, strict=True)
    ]
    turn = orientation.orientation_sigma
    lines += [
        f"U       ± {turn[0]:.5f} {turn[1]:.5f} {turn[2]:.5f} deg",
        "",
        f"{metrics['peaks']} peaks, {_known(100 * orientation.fraction_indexed, '.1f')} % indexed",
        f"{metrics['used in refinement']} used",
        f"rmsd {_known(metrics['rmsd in pixels'])} px, {_known(metrics['rmsd in frames'])} frames",
        "median |residual| {} {} px, {} fr".format(
            *map(_known, metrics["median residual (slow, fast, frame)"])
        ),
        f"reduced chi2 {_known(metrics['reduced chi2'], '.2f')}",
        "",
    ]
    lines += [
        f"{name:22s} {value:.3g} ± {sigma:.1g}"
        for name, value, sigma in zip(refined.names, refined.values, refined.sigma, strict=True)
        if name not in CELL_NAMES
    ]
    units = {"slow": "pixel", "fast": "pixel", "frame": "frame"}
    title = f"{orientation.sample} {orientation.scan}: observed minus predicted"
    return plots.residuals(per_rotation, units, lines, title)


def _known(value: float | None, form: str = ".3f") -> str:
    """Format a number; a dash if there were no peaks."""
    return "–" if value is None or np.isnan(value) else format(value, form)
