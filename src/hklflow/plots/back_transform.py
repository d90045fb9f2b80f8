"""Picture of the ΔPDF transformed back to S(Q): χ² against the radius, and the plane h k 0."""

from typing import Any

import numpy as np
from matplotlib.colors import Normalize

from hklflow.geometry.grid import Grid
from hklflow.plots.common import SMALL, log_range
from hklflow.plots.planes import draw
from hklflow.volumes.back_transform import Comparison
from hklflow.volumes.planes import metric_of, plane_of_grid

#: Limit of the colours of residuals, σ.
_LIMIT = 5.0


def back_transform(figure: Any, made: Comparison, grid: Grid, cell: Any) -> None:
    """Draw a comparison into a part of a figure.

    Parameters
    ----------
    figure : figure or subfigure
    made : Comparison
    grid : Grid
        Grid of S.
    cell : (6,) array
    """
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.5])
    radius, number = made.radii[made.chosen], len(made.radii)
    left, right = upper.subplots(1, 2)
    left.errorbar(made.radii, made.beyond, made.beyond_sigma, fmt="ko-", ms=4, lw=1,
                  label="beyond R")  # fmt: skip
    if number > 1:
        # A step from each radius to the next one.
        middle = np.sqrt(made.radii[1:] * made.radii[:-1])
        width = np.stack([middle - made.radii[:-1], made.radii[1:] - middle])
        left.errorbar(middle, made.shells, made.shells_sigma, width, fmt="C0.", lw=1.2,
                      label="from one R to the next")  # fmt: skip
    left.axhline(1, color="0.5", lw=1, ls="--")
    high = max(float(np.nanmax(made.beyond)), float(np.nanmax(made.shells, initial=0.0)), 2.0)
    left.set(xscale="log", yscale="log", ylim=(0.3, 2 * high), xlabel="R (Å)")
    left.set_ylabel("χ² of S(Q)")
    left.set_title("signal of pairs; 1 is noise alone")
    left.legend(**SMALL)
    right.plot(made.radii, 100 * made.explained, "ko-", ms=4, lw=1)
    right.set(xscale="log", xlabel="R (Å)", ylabel="explained (%)", ylim=(-5, 105))
    right.set_title("modulation of S(Q) that pairs within R explain")
    if np.isnan(made.explained).all():
        right.text(0.5, 0.5, "only noise", ha="center", transform=right.transAxes)
    for axes in (left, right):
        axes.axvline(radius, color="C3", lw=1, ls=":")
    measured, back, residual = made.picture
    n_k, n_h = measured.shape
    first = np.array([-(n_h // 2), -(n_k // 2), 0]) * grid.step
    shown = Grid(first, grid.step, (n_h, n_k, 1))
    metric, norm = metric_of(cell, False), log_range(measured)
    panels = (
        ("w S(Q), measured", measured, norm),
        (f"ΔPDF within {radius:.0f} Å, back", back, norm),
        ("residual (σ)", residual, Normalize(-_LIMIT, _LIMIT)),
    )
    for axes, (name, image, colours) in zip(lower.subplots(1, 3), panels, strict=True):
        one = plane_of_grid(shown, 2, 0, image)
        drawn = draw(axes, one, metric, "1/Å", colours, image is residual)
        unit = "σ" if image is residual else "counts per unit norm"
        lower.colorbar(drawn, ax=axes, location="bottom", aspect=30, shrink=0.8, label=unit)
        axes.set_title(f"{one.plane.text}: {name}")
