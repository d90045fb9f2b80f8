"""Pictures of symmetrised volumes: slices, maps, and agreement of equivalents."""

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.plots.common import WIDEST, figure_of
from hklflow.plots.planes import draw, group
from hklflow.plots.volumes import Sections
from hklflow.volumes.planes import metric_of, plane_of_grid
from hklflow.volumes.symmetrise import Agreement

Floats = NDArray[np.float64]


class Maps:
    """Maps of multiplicity and disagreement in the hk plane, collected slab by slab."""

    def __init__(self, grid: Grid, plane: int) -> None:
        self._plane = plane
        self.multiplicity, self.disagreement = np.full((2, *grid.array_shape[1:]), np.nan)

    def add(self, first: int, multiplicity: NDArray[Any], disagreement: NDArray[Any]) -> None:
        """Add planes (l, k, h), beginning at ``first``."""
        if first <= self._plane < first + len(multiplicity):
            many = multiplicity[self._plane - first]
            self.multiplicity[:] = np.where(many > 0, many, np.nan)
            self.disagreement[:] = disagreement[self._plane - first]


def symmetrised(
    grid: Grid, cell: ArrayLike, sections: Sections, maps: Maps, agreement: Agreement, title: str
) -> Figure:
    """Draw S(Q) in three planes, the maps in hk, and CC1/2, χ² and coverage against |Q|.

    Parameters
    ----------
    cell : (6,) array
        Cell, Å and degrees.
    """
    metric = metric_of(cell, False)
    figure = figure_of(WIDEST, 10.2)
    upper, lower = figure.subfigures(2, 1)  # type: ignore[misc]
    group(upper, (1, 3), sections.cuts(grid), metric, False, False, "S(Q)")
    *panels, last = lower.subplots(1, 3)
    most = float(np.nanmax(maps.multiplicity, initial=2.0))
    for axes, image, norm, label in (
        (panels[0], maps.multiplicity, LogNorm(1, most), "multiplicity: measurements used"),
        (panels[1], maps.disagreement, LogNorm(0.2, 20), "disagreement: χ² of equivalents"),
    ):
        plane = plane_of_grid(grid, 2, sections.at[2], image)
        axes.set_title(plane.plane.text)
        mesh = draw(axes, plane, metric, "1/Å", norm, False)
        lower.colorbar(mesh, ax=axes, location="bottom", shrink=0.8, label=label)
    _by_shell(last, agreement)
    figure.suptitle(title)
    return figure


def _by_shell(axes: Any, agreement: Agreement) -> None:
    middle = (agreement.edges[1:] + agreement.edges[:-1]) / 2
    before, after = agreement.coverage
    axes.plot(middle, before, "C1--", label="coverage before")
    axes.plot(middle, after, "C1-", label="coverage after")
    axes.plot(middle, agreement.half_correlation, "C0.-", label="CC½ of S, without Bragg")
    reached = middle[after > 0]
    axes.set(xlabel="|Q| (1/Å)", xlim=(0, reached.max(initial=middle[0])), ylim=(-0.05, 1.05))
    axes.axhline(0, color="0.7", lw=0.8)
    axes.legend(loc="lower left", fontsize=9)
    axes.set_title("by shell")
