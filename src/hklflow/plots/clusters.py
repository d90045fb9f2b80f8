"""Picture of clusters of trajectories."""

from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.geometry.grid import Grid
from hklflow.plots.common import figure_of

Floats = NDArray[np.float64]

_COLUMNS = 3
_PLANES = 3


def clusters(
    temperatures: Floats,
    mean: Floats,
    errors: Floats,
    labels: NDArray[np.uint8],
    grid: Grid,
    title: str,
    axis: Axis = TEMPERATURE,
) -> Figure:
    """Draw the mean trajectory of each cluster, and the labels on the planes with most of them.

    Parameters
    ----------
    temperatures : (T,) array
    mean, errors : (K, T) arrays
        Mean of S over the voxels of each cluster.
    labels : (l, k, h) array
        0 for no change, 1 to K for a cluster.
    axis : Axis
        Axis of the series; its values are in the place of temperatures.
    """
    n = len(mean)
    rows = -(-n // _COLUMNS)
    figure = figure_of(4 * _COLUMNS + 0.6, 2.6 * rows + 4.4)
    grid_of_axes = figure.subplots(
        rows + 1, _COLUMNS, squeeze=False, height_ratios=[*[2.6] * rows, 4.0]
    )
    panels = list(grid_of_axes[:rows].ravel())
    for spare in panels[n:]:
        spare.set_axis_off()
    for i, axes in enumerate(panels[:n]):
        axes.errorbar(temperatures, mean[i], yerr=errors[i], fmt="o-", ms=4, lw=1, color=f"C{i}")
        axes.set(xlabel=axis.label, ylabel="mean S", title=f"cluster {i + 1}")
        axes.margins(0.08, 0.12)
    if not n:
        panels = []
    colours = ListedColormap(["0.93", *(f"C{i % 10}" for i in range(max(n, 1)))])
    norm = BoundaryNorm(np.arange(-0.5, max(n, 1) + 1.5), colours.N)
    planes = _fullest(labels)
    for axes, number in zip(grid_of_axes[rows], planes, strict=False):
        axes.imshow(labels[number], origin="lower", cmap=colours, norm=norm, **_extent(grid))
        axes.set(xlabel="h (r.l.u.)", ylabel="k (r.l.u.)", title=f"l = {grid.axis(2)[number]:.3g}")
    for spare in grid_of_axes[rows][len(planes) :]:
        spare.set_axis_off()
    figure.suptitle(title)
    return figure


def _fullest(labels: NDArray[np.uint8]) -> list[int]:
    """Return planes with l ≥ 0 and many labels that are not next to each other."""
    counts = np.count_nonzero(labels, axis=(1, 2)).astype(float)
    chosen: list[int] = []
    away = max(1, len(counts) // 20)
    counts[: len(counts) // 2] = 0
    while len(chosen) < _PLANES and counts.max(initial=0) > 0:
        best = int(np.argmax(counts))
        chosen.append(best)
        counts[max(best - away, 0) : best + away + 1] = 0
    return sorted(chosen) or [len(counts) // 2]


def _extent(grid: Grid) -> dict[str, Any]:
    h, k = grid.axis(0), grid.axis(1)
    half = grid.step / 2
    edges = (h[0] - half[0], h[-1] + half[0], k[0] - half[1], k[-1] + half[1])
    return {"extent": edges, "interpolation": "nearest", "aspect": "auto"}
