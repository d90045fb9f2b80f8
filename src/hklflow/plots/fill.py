"""Picture of the fill: before, after, what was punched, and how well control holes were told."""

from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hklflow.core.grid import Grid
from hklflow.core.lattice import reciprocal
from hklflow.plots.common import figure_of, log_range
from hklflow.plots.volumes import _plane

Floats = NDArray[np.float64]

_CODES = ("measured", "punched, filled", "not measured, filled", "not measured")


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
    """A plane before and after on one colour scale, what was filled, and pulls of control holes.

    Parameters
    ----------
    cell : (6,) array
    plane : (int, float)
        Axis that is constant (2: l) and its value.
    before, after, code : arrays
        S and the codes of the stage, second axis the first of those that vary.
    control : (n,) array and str, or None
        Pulls of the control holes and the interpolant.
    q_max : float
        Reach in 1/Å, drawn as a circle.
    """
    lengths, angles = np.split(reciprocal(cell), 2)
    axis, value = plane
    i, j = (n for n in range(3) if n != axis)
    names = ["h", "k", "l"]
    names[axis] = f"{value:g}"
    figure = figure_of(19, 5.4)
    panels = figure.subplots(1, 4, width_ratios=(1, 1, 1, 0.9))
    norm = log_range(after)
    scale = (lengths[i], lengths[j])
    where = grid.axis(i), grid.axis(j), scale, angles[axis]
    for axes, image, name in zip(panels[:2], (before, after), ("before", "after"), strict=True):
        drawn = _plane(axes, image, *where, norm)
        axes.set_title(f"{' '.join(names)}: {name}")
    figure.colorbar(drawn, ax=list(panels[:2]), shrink=0.75, label="S(Q) (counts per unit norm)")
    colours = ListedColormap(["#e8e8e8", "#d1495b", "#30638e", "#ffffff"])
    steps: Any = BoundaryNorm(np.arange(-0.5, 4), 4)
    drawn = _plane(panels[2], np.where(code == 0, 1e-9, code), *where, log_range(after))
    drawn.set(cmap=colours, norm=steps)
    panels[2].set_facecolor("white")
    panels[2].set_title("what was done")
    bar = figure.colorbar(drawn, ax=panels[2], shrink=0.75, ticks=range(4))
    bar.ax.set_yticklabels(_CODES, fontsize=9)
    angle = np.linspace(0, 2 * np.pi, 361)
    off = value * lengths[axis]
    round_ = np.sqrt(max(q_max**2 - off**2, 0.0))
    for axes in panels[:3]:
        limits = axes.get_xlim(), axes.get_ylim()
        # Through the middle the section of the sphere is a circle, off it only nearly.
        axes.plot(round_ * np.cos(angle), round_ * np.sin(angle), color="0.4", lw=0.8, ls="--")
        axes.set(xlim=limits[0], ylim=limits[1])
        axes.set_xlabel(f"along {'hkl'[i]}* (1/Å)")
    panels[0].set_ylabel(f"in plane, towards {'hkl'[j]}* (1/Å)")
    _histogram(panels[3], control)
    figure.suptitle(title)
    return figure


def _histogram(axes: Any, control: tuple[Floats, str] | None) -> None:
    axes.set(xlabel="(fill − measured) / σ of both", ylabel="density")
    if control is None:
        axes.set_title("no room for control holes")
        return
    pulls, name = control
    edges = np.linspace(-5, 5, 61)
    axes.hist(np.clip(pulls, -5, 5), edges, density=True, color="0.7", label="control holes")
    axes.plot(edges, np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi), color="k", label="normal curve")
    axes.set_title(f"control holes: {name}", fontsize=9)
    axes.legend(loc="upper right", fontsize=9)
