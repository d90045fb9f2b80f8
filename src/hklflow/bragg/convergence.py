"""Report of the refinement loop: result, records of its iterations, warnings."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg.congruence import congruence
from hklflow.bragg.converge import Iteration, Loop, Outcome, seen
from hklflow.bragg.residual_map import Row

Record = dict[str, Any]

_INCONGRUENT = 2.0  # ratio of difference to error bars; for few parameters it scatters by a third
_DRAWN = 3.0  # σ of the peaks' cell; by chance one of six parameters exceeds it in 1 % of the cases
_STRONGEST = 20  # number of unindexed peaks that are listed


def section(
    loop: Loop,
    outcome: Outcome,
    names: Sequence[str],
    intensities: Sequence[NDArray[np.float64]],
    n_found: int,
) -> Record:
    """Return the record of the loop that its product stores under ``converged``.

    Parameters
    ----------
    names : sequence of str
        Names of the rotations.
    intensities : sequence of (n,) arrays
        Intensities of the peaks in the loop, counts.
    n_found : int
        Number of peaks found, including those that cannot be used in the refinement.
    """
    best, start, last = outcome.kept, outcome.iterations[0], outcome.iterations[-1]
    try:
        agree: Record = congruence(
            best.model.rotations, outcome.data, best.model.ub, loop.group, free=loop.free,
            limits=loop.limits,
        ).to_dict()  # fmt: skip
    except HklflowError as error:
        agree = {"why not": str(error)}
    return {
        "converged": outcome.converged,
        "reason": outcome.reason,
        "kept": outcome.best,
        "refinements": len(outcome.iterations) - 1,
        "integrations": outcome.integrations,
        "seconds": sum(item.seconds for item in outcome.iterations),
        "last change": last.change,
        "score": best.score,
        "score of the start": start.score,
        "rmsd of held-out peaks (slow, fast, frame)": best.rmsd_held_out,
        "rmsd of held-out peaks at the start": start.rmsd_held_out,
        "fraction indexed": best.fraction_indexed,
        "unindexed peaks": unindexed(loop, outcome, names, intensities),
        "peaks": best.peaks | {"unfit for refinement": n_found - loop.total},
        "reflections": best.reflections,
        "odd and even frames": agree,
    }


def unindexed(
    loop: Loop,
    outcome: Outcome,
    names: Sequence[str],
    intensities: Sequence[NDArray[np.float64]],
) -> Record:
    """Return the number of peaks that the model does not index, and a list of the strongest."""
    under = seen(outcome.kept.model, loop.peaks, loop.limits)
    intensity = np.concatenate(intensities)
    which = np.repeat(np.arange(len(names)), [len(p.frame) for p in loop.peaks])
    position = np.concatenate([p.position for p in loop.peaks])
    rows = np.flatnonzero(~under.indexed)
    strongest = rows[np.argsort(-intensity[rows], kind="stable")][:_STRONGEST]
    return {
        "number": len(rows),
        "fraction": len(rows) / len(intensity),
        "part of the intensity": float(intensity[rows].sum() / intensity.sum()),
        "strongest": [
            {
                "rotation": names[which[i]],
                "slow, fast, frame": position[i].round(2).tolist(),
                "counts": float(intensity[i]),
            }
            for i in strongest
        ],
    }


def warnings(outcome: Outcome, figures: Record, max_unindexed: float) -> list[str]:
    """Return the warnings of the refinement loop.

    Parameters
    ----------
    figures : dict
        Record from `section`.
    max_unindexed : float
        Fraction of unindexed peaks above which a warning is given.
    """
    notes = []
    if not outcome.converged:
        notes.append(f"the loop did not converge: {outcome.reason}; the best model is used")
    if outcome.best == 0:
        notes.append("no refinement was better than the start, so the start is used")
    notes += _drawn(outcome)
    none = figures["unindexed peaks"]
    if none["fraction"] > max_unindexed:
        notes.append(
            f"{none['fraction']:.1%} of the peaks are not indexed "
            f"({none['part of the intensity']:.1%} of the intensity; limit "
            f"{max_unindexed:.0%}): a second lattice, ice, or a superlattice"
        )
    figure = figures["odd and even frames"].get("figure")
    if figure is not None and figure > _INCONGRUENT:
        notes.append(
            f"models of odd and of even frames differ by {figure:.1f} times their error bars: the "
            "error bars are too small by this factor"
        )
    return notes


def _drawn(outcome: Outcome) -> list[str]:
    """Warn if the centroids change the cell by more than additional spots can explain."""
    alone = [item for item in outcome.iterations[1:] if not item.integrations]
    best = outcome.kept
    if not alone or not best.integrations:
        return []
    # The cell from a part of the spots should differ from the cell of all spots by less than its σ.
    before, sigma = alone[-1].model.cell, alone[-1].model.cell_sigma
    free = sigma > 0
    pulls = np.abs(best.model.cell - before)[free] / sigma[free]
    if not np.any(pulls > _DRAWN):
        return []
    return [
        f"{best.reflections['used']} centroids of integrated reflections move the cell by "
        f"{pulls.max():.1f} σ from the cell of the {alone[-1].peaks['used']} peaks: scattering "
        "next to the reflections shifts them; refine with the peaks only (`converge: "
        "{max_integrations: 0}`)"
    ]


def record(item: Iteration, table: Sequence[Row]) -> Record:
    """Return the record of one iteration for ``convergence.json``.

    Parameters
    ----------
    table : sequence of Row
        Residuals of the iteration by module.
    """
    refined = item.refined
    fit: Record = {}
    if refined is not None:
        fit = {
            "reduced chi2": refined.chi2,
            "condition number": refined.condition,
            "orientation_sigma_deg": np.degrees(refined.orientation_sigma),
            "warnings": refined.warnings,
        }
    return {
        "iteration": item.number,
        "integrations before": item.integrations,
        "cell": item.model.cell,
        "cell_sigma": item.model.cell_sigma,
        "UB": item.model.ub,
        "change": item.change,
        "rmsd (slow, fast, frame)": item.rmsd,
        "rmsd of held-out peaks (slow, fast, frame)": item.rmsd_held_out,
        "score": item.score,
        "fraction indexed": item.fraction_indexed,
        "peaks": item.peaks,
        "reflections": item.reflections,
        "modules": [row.to_dict() for row in table],
        "seconds": item.seconds,
        **fit,
    }
