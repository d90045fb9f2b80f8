"""Picture of the fill: S before and after, punched voxels, and errors in control holes."""

from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.geometry.lattice import reciprocal
from hklflow.plots.common import figure_of, log_range
from hklflow.plots.volumes import _plane

Floats = NDArray[np.float64]

_CODES = ("measured", "punched,\nfilled", "not measured,\nfilled", "not\nmeasured")
_LARGE = 14  # font size that is readable at half the size


def fill(
    grid: Grid,
    cell: ArrayLike,
    plane: tuple[int, float],
    before: NDArray[Any],
    after: NDArray[Any],
    code: NDArray[Any],
    control: tuple[Floats, str] | None,
    q_max: float,
    title: str,
) -> Figure:
    """Draw a plane before and after on one colour scale, its codes, and pulls of control holes.

    Parameters
    ----------
    cell : (6,) array
    plane : (int, float)
        Constant axis (2: l) and its value.
    before, after, code : arrays
        S and the codes of the stage; the second array axis is the first varying one.
    control : (n,) array and str, or None
        Pulls of the control holes and the name of the fill method; None without control holes.
    q_max : float
        Limit in |Q|, 1/Å, drawn as a circle.
    """
    lengths, angles = np.split(reciprocal(cell), 2)
    axis, value = plane
    i, j = (n for n in range(3) if n != axis)
    names = ["h", "k", "l"]
    names[axis] = f"{value:g}"
    figure = figure_of(13, 10.2)
    panels = figure.subplots(2, 2).ravel()
    norm = log_range(after)
    scale = (lengths[i], lengths[j])
    where = grid.axis(i), grid.axis(j), scale, angles[axis]
    drawn = [
        _plane(axes, image, *where, norm)
        for axes, image in zip(panels[:2], (before, after), strict=True)
    ]
    # All three panels have the limits of the widest panel.
    spans = [(*axes.get_xlim(), *axes.get_ylim()) for axes in panels[:2]]
    low, high = np.min(spans, axis=0)[[0, 2]], np.max(spans, axis=0)[[1, 3]]
    colours = ListedColormap(["#e8e8e8", "#d1495b", "#30638e", "#ffffff"])
    steps: Any = BoundaryNorm(np.arange(-0.5, 4), 4)
    drawn.append(_plane(panels[2], np.where(code == 0, 1e-9, code), *where, norm))
    drawn[2].set(cmap=colours, norm=steps)
    panels[2].set_facecolor("white")
    for axes, image, name in zip(
        panels[:3], drawn, ("before", "after", "what was done"), strict=True
    ):
        axes.set_title(f"{' '.join(names)}: {name}", fontsize=_LARGE)
        if name == "what was done":
            bar = figure.colorbar(image, ax=axes, shrink=0.95, ticks=range(4))
            bar.ax.set_yticklabels(_CODES, fontsize=_LARGE)
        else:
            bar = figure.colorbar(image, ax=axes, shrink=0.95)
            bar.set_label("S(Q) (counts per unit norm)", fontsize=_LARGE)
            bar.ax.tick_params(labelsize=_LARGE)
    angle = np.linspace(0, 2 * np.pi, 361)
    off = value * lengths[axis]
    round_ = np.sqrt(max(q_max**2 - off**2, 0.0))
    for axes in panels[:3]:
        # The circle is exact for a section through the origin, and approximate for other sections.
        axes.plot(round_ * np.cos(angle), round_ * np.sin(angle), color="0.4", lw=0.8, ls="--")
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        axes.set_xlabel(f"along {'abc'[i]}* (1/Å)", fontsize=_LARGE)
        axes.set_ylabel(f"in plane, towards {'abc'[j]}* (1/Å)", fontsize=_LARGE)
    panels[3].set_box_aspect((high[1] - low[1]) / (high[0] - low[0]))
    _histogram(panels[3], control)
    for axes in panels:
        axes.tick_params(labelsize=_LARGE)
    figure.suptitle(title, fontsize=_LARGE + 3)
    return figure


def _histogram(axes: Any, control: tuple[Floats, str] | None) -> None:
    axes.set_xlabel("(fill − measured) / σ of both", fontsize=_LARGE)
    axes.set_ylabel("density", fontsize=_LARGE)
    if control is None:
        axes.set_title("no space for control holes", fontsize=_LARGE)
        return
    pulls, name = control
    edges = np.linspace(-5, 5, 61)
    axes.hist(np.clip(pulls, -5, 5), edges, density=True, color="0.7", label="control holes")
    axes.plot(edges, np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi), color="k", label="normal curve")
    axes.set_title(f"control holes:\n{name}", fontsize=_LARGE)
    # The legend is above the curve and does not cover it.
    axes.set_ylim(top=1.5 * axes.get_ylim()[1])
    axes.legend(loc="upper center", fontsize=_LARGE)
