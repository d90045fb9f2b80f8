"""Picture of the absolute scale: Bragg intensities, high angles, factors of all methods."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.bragg.absolute import Intensities
from hklflow.plots.common import SMALL, WIDEST, figure_of

Floats = NDArray[np.float64]

_MOST = 4000  # reflections that are drawn


@dataclass
class Points:
    """Points of the picture; empty arrays if a method was not used.

    Attributes
    ----------
    calculated, observed : (n,) arrays
        Intensities of some strong reflections, 1/Å³.
    shells : (m, 3) array
        |Q|, ratio of S to the expected scattering, and its error, in shells.
    """

    calculated: Floats = field(default_factory=lambda: np.empty(0))
    observed: Floats = field(default_factory=lambda: np.empty(0))
    shells: Floats = field(default_factory=lambda: np.empty((0, 3)))

    def intensities(self, data: Intensities) -> None:
        """Take evenly spaced strong reflections."""
        strong = np.flatnonzero((data.observed > 3 * data.sigma) & (data.expected > 0))
        rows = strong[:: max(1, len(strong) // _MOST)]
        self.calculated, self.observed = data.expected[rows], data.observed[rows]


def absolute_scale(points: Points, metrics: Mapping[str, Any], title: str) -> Figure:
    """Draw what each method used, and the factors that the methods gave."""
    figure = figure_of(WIDEST, 4.5)
    left, middle, right = figure.subplots(1, 3)
    _intensities(left, points, metrics["factor"])
    _shells(middle, points.shells, metrics["factor"])
    _factors(right, metrics)
    figure.suptitle(title)
    return figure


def _intensities(axes: Any, points: Points, factor: float | None) -> None:
    axes.set(xlabel="|F|² (2π)³/V of the structure, 1/Å³", ylabel="I, 1/Å³", title="Bragg")
    if not len(points.calculated):
        axes.text(0.5, 0.5, "not used", ha="center", transform=axes.transAxes)
        return
    axes.loglog(points.calculated, points.observed, ".", ms=2, alpha=0.5)
    if factor is not None:
        ends = np.array([points.calculated.min(), points.calculated.max()])
        axes.loglog(ends, ends / factor, "k-", lw=0.8, label="1 / factor")
        axes.legend(**SMALL)


def _shells(axes: Any, shells: Floats, factor: float | None) -> None:
    axes.set(xlabel="|Q|, 1/Å", ylabel="S / expected scattering", title="high angles")
    if not len(shells):
        axes.text(0.5, 0.5, "not used", ha="center", transform=axes.transAxes)
        return
    axes.errorbar(shells[:, 0], shells[:, 1], shells[:, 2], fmt="o", ms=4, capsize=2)
    if factor is not None:
        axes.axhline(1 / factor, color="k", lw=0.8, label="1 / factor")
        axes.legend(**SMALL)


def _factors(axes: Any, metrics: Mapping[str, Any]) -> None:
    axes.set(xlabel="factor (electron units per cell)", title="all methods")
    names = list(metrics["methods"])
    for i, name in enumerate(names):
        found = metrics["methods"][name]
        if found["factor"] is None:
            axes.text(0.5, i, "refused", ha="center", transform=axes.get_yaxis_transform())
            continue
        axes.errorbar(found["factor"], i, xerr=found["sigma"], fmt="o", capsize=3)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    if metrics["factor"] is not None:
        axes.axvspan(
            metrics["factor"] - metrics["sigma"],
            metrics["factor"] + metrics["sigma"],
            color="k",
            alpha=0.1,
        )
