"""Picture of merged still frames."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.plots.common import figure_of

if TYPE_CHECKING:
    from hklflow.bragg.still_scaling import StillScaling
    from hklflow.bragg.stills import Residuals


def merged(
    metrics: Mapping[str, Any],
    excitation: NDArray[np.float64],
    scaling: "StillScaling",
    title: str,
) -> Figure:
    """Draw statistics by resolution, excitation errors, scales and correlations of the frames.

    Parameters
    ----------
    metrics : mapping
        Metrics of the stage `merge_stills`.
    excitation : (n,) array
        Excitation errors of all reflections in widths of their nodes.
    """
    figure = figure_of(10, 8)
    grid = figure.subplots(2, 2)
    rows = metrics["shells"]
    at = [1 / row["d min"] for row in rows]
    for axes, names, label in (
        (grid[0, 0], ("CC1/2", "completeness"), "correlation, completeness"),
        (grid[0, 1], ("I/sigma", "multiplicity"), "I/σ, multiplicity"),
    ):
        for name in names:
            values = [np.nan if row.get(name) is None else row[name] for row in rows]
            axes.plot(at, values, "o-", ms=4, label=name)
        axes.set(xlabel="1/d (1/Å), outer edge of the shell", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=9)
    axes = grid[1, 0]
    edges = np.linspace(-4, 4, 41)
    axes.hist(excitation, edges, color="0.6")
    axes.set(xlabel="excitation error (widths of the node)", ylabel="integrated reflections")
    axes = grid[1, 1]
    used = scaling.used
    for chosen, colour, name in ((used, "C0", "used"), (~used, "C3", "left out")):
        if chosen.any():
            axes.plot(
                scaling.scale[chosen], scaling.correlation[chosen], ".", color=colour, label=name
            )
    axes.set(xscale="log", xlabel="scale of the frame", ylabel="correlation with the other frames")
    axes.legend(fontsize=9)
    row = metrics["overall"]
    figure.suptitle(
        f"{title}\n{metrics['indexed frames']} of {metrics['frames']} frames; "
        f"{row['unique']} unique of {row['observations']} observations"
    )
    return figure


def detector(before: "Residuals", after: "Residuals", title: str) -> Figure:
    """Draw the residuals of the spots of each module before and after the refinement."""
    figure = figure_of(10, 5)
    for axes, residuals, name in zip(
        figure.subplots(1, 2, sharex=True, sharey=True),
        (before, after),
        ("before", "after"),
        strict=True,
    ):
        for module in np.unique(residuals.module):
            mine = residuals.module == module
            axes.plot(
                residuals.fast[mine], residuals.slow[mine], ".", ms=3, label=f"module {module}"
            )
        axes.axhline(0, color="0.5", lw=0.8)
        axes.axvline(0, color="0.5", lw=0.8)
        axes.set(
            title=f"{name}: rms {residuals.rms:.3f} pixels",
            xlabel="observed - predicted, fast (pixels)",
            ylabel="observed - predicted, slow (pixels)",
            aspect="equal",
        )
        if len(np.unique(residuals.module)) <= 8:
            axes.legend(fontsize=9)
    figure.suptitle(title)
    return figure
