"""Pictures of symmetrised volumes: slices, maps, and agreement of equivalents."""

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.geometry.lattice import reciprocal
from hklflow.plots.common import figure_of, log_range
from hklflow.plots.volumes import Sections, _plane
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
    lengths, angles = np.split(reciprocal(cell), 2)
    h, k, l = (f"{grid.axis(i)[at]:g}" for i, at in enumerate(sections.at))  # noqa: E741
    figure = figure_of(15.5, 10)
    axes = figure.subplots(2, 3)
    s_range = log_range(
        np.concatenate([a.ravel() for a in (sections.hk, sections.hl, sections.kl)])
    )
    most = float(np.nanmax(maps.multiplicity, initial=2.0))
    chi2_range = LogNorm(0.2, 20)
    panels = (
        (axes[0, 0], f"h k {l}: S(Q)", sections.hk, (0, 1), s_range, ""),
        (axes[0, 1], f"h {k} l: S(Q)", sections.hl, (0, 2), s_range, ""),
        (axes[0, 2], f"{h} k l: S(Q)", sections.kl, (1, 2), s_range, "counts per unit norm"),
        (axes[1, 0], f"h k {l}: multiplicity", maps.multiplicity, (0, 1), LogNorm(1, most),
         "measurements used"),
        (axes[1, 1], f"h k {l}: disagreement", maps.disagreement, (0, 1), chi2_range,
         "reduced χ² of equivalents"),
    )  # fmt: skip
    for place, name, image, (i, j), colours, label in panels:
        angle = angles[3 - i - j]
        scale = (lengths[i], lengths[j])
        mesh = _plane(place, image, grid.axis(i), grid.axis(j), scale, angle, colours)
        place.set_title(name)
        place.set_xlabel(f"along {'abc'[i]}* (1/Å)")
        place.set_ylabel(f"in plane, towards {'abc'[j]}* (1/Å)")
        if label:
            figure.colorbar(mesh, ax=place, shrink=0.85, label=label)
    _by_shell(axes[1, 2], agreement)
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
