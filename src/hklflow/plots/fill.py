"""Picture of the fill: S before and after, punched voxels, and errors in control holes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.plots.common import WIDEST, figure_of, log_range
from hklflow.plots.planes import draw
from hklflow.volumes.cosines import Cosine
from hklflow.volumes.planes import metric_of, plane_of_grid

Floats = NDArray[np.float64]

_CODES = ("measured", "punched,\nfilled", "not measured,\nfilled", "not\nmeasured")
_NOT_MEASURED = 3
_COLOURS = ListedColormap(["#e8e8e8", "#d1495b", "#30638e", "#ffffff"])


def fill(
    grid: Grid,
    cell: ArrayLike,
    plane: tuple[int, int],
    before: NDArray[Any],
    after: NDArray[Any],
    code: NDArray[Any],
    control: tuple[Floats, str] | None,
    cosines: Sequence[Cosine],
    q_max: float,
    title: str,
) -> Figure:
    """Draw a plane before and after on one colour scale, its codes, and tests of the fill.

    Parameters
    ----------
    cell : (6,) array
    plane : (int, int)
        Constant axis (2: l) and its index.
    before, after, code : arrays
        S and the codes of the stage; the second array axis is the first varying one.
    control : (n,) array and str, or None
        Pulls of the control holes and the name of the fill method; None without control holes.
    cosines : sequence of Cosine
        Injected cosines; empty without the fill by the spectrum.
    q_max : float
        Limit in |Q|, 1/Å, drawn as a circle.
    """
    metric, (axis, at) = metric_of(cell, False), plane
    value, norm = grid.axis(axis)[at], log_range(after)
    layout: Any = [["before", "after"], ["codes", "control"]]
    if cosines:
        layout.append(["cosines", "cosines"])
    figure = figure_of(WIDEST, 14.0 if cosines else 10.4)
    heights = [3.0, 3.0, 2.0][: len(layout)]
    named = figure.subplot_mosaic(layout, height_ratios=heights)
    panels = [named[name] for name in ("before", "after", "codes", "control")]
    done = np.where(code == _NOT_MEASURED, np.nan, code)
    images = {"before": before, "after": after, "what was done": done}
    steps: Any = BoundaryNorm(np.arange(-0.5, 4), 4)
    for axes, (name, image) in zip(panels[:3], images.items(), strict=True):
        one = plane_of_grid(grid, axis, at, image)
        drawn = draw(axes, one, metric, "1/Å", steps if image is done else norm, False)
        if image is done:
            drawn.set(cmap=_COLOURS, interpolation="nearest")
            axes.set_facecolor("white")
            figure.colorbar(drawn, ax=axes, shrink=0.95, ticks=range(4)).ax.set_yticklabels(_CODES)
        else:
            figure.colorbar(drawn, ax=axes, shrink=0.95, label="S(Q) (counts per unit norm)")
        axes.set_title(f"{one.plane.text}: {name}")
    # All three panels have the limits of the widest panel.
    spans = np.array([(*axes.get_xlim(), *axes.get_ylim()) for axes in panels[:2]])
    low, high = spans.min(axis=0)[[0, 2]], spans.max(axis=0)[[1, 3]]
    angle = np.linspace(0, 2 * np.pi, 361)
    off = value * np.sqrt(metric[axis, axis])
    radius = np.sqrt(max(q_max**2 - off**2, 0.0))
    for axes in panels[:3]:
        # The circle is exact for a section through the origin, and approximate for other sections.
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.4", lw=0.8, ls="--")
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    panels[3].set_box_aspect((high[1] - low[1]) / (high[0] - low[0]))
    _histogram(panels[3], control)
    if cosines:
        _recovered(named["cosines"], cosines)
    figure.suptitle(title)
    return figure


def _recovered(axes: Any, cosines: Sequence[Cosine]) -> None:
    shares = np.array([item.recovered for item in cosines])
    # Bars of the strongest cosines are seen whole; those of weak ones would hide the shares.
    half = 1.2 * max(np.abs(shares - 1).max(), min(item.error for item in cosines), 0.005)
    for at_lattice, marker, label in ((True, "o", "lattice vectors"), (False, "s", "elsewhere")):
        own = [item for item in cosines if item.at_lattice_vector == at_lattice]
        axes.errorbar(
            [item.length for item in own],
            [100 * item.recovered for item in own],
            # A bar beyond the panel is as long as the panel.
            [100 * min(item.error, 10.0) for item in own],
            fmt=marker,
            capsize=3,
            label=f"{label}, bar: noise",
        )
    for item in cosines:
        where = (item.length, 100 * item.recovered)
        text = f"{item.lost:.1g} σ lost"
        axes.annotate(text, where, (5, 5), textcoords="offset points")
    axes.axhline(100, color="0.4", lw=0.8, ls="--")
    axes.margins(x=0.12)
    axes.set_ylim(100 * (1 - half), 100 * (1 + half))
    axes.set_xlabel("|r| (Å)")
    axes.set_ylabel("recovered (%)")
    axes.set_title("injected cosines: amplitude in the ΔPDF after the fill")
    axes.legend(loc="lower left")


def _histogram(axes: Any, control: tuple[Floats, str] | None) -> None:
    axes.set_xlabel("(fill − measured) / σ of both")
    axes.set_ylabel("density")
    if control is None:
        axes.set_title("no space for control holes")
        return
    pulls, name = control
    edges = np.linspace(-5, 5, 61)
    axes.hist(np.clip(pulls, -5, 5), edges, density=True, color="0.7", label="control holes")
    axes.plot(edges, np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi), color="k", label="normal curve")
    axes.set_title(f"control holes:\n{name}")
    # The legend is above the curve and does not cover it.
    axes.set_ylim(top=1.5 * axes.get_ylim()[1])
    axes.legend(loc="upper center")
