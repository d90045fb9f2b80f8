"""Pictures of pair distribution functions: planes through the origin, and their errors."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.plots.back_transform import back_transform
from hklflow.plots.common import SMALL, WIDEST, figure_of
from hklflow.plots.planes import REACH, group
from hklflow.volumes.back_transform import Comparison
from hklflow.volumes.planes import metric_of, plane_of_grid


class Sections:
    """Planes xy0, x0z and 0yz of the PDF, and σ along the axes, collected slab by slab.

    Attributes
    ----------
    xy, xz, yz : arrays
        PDF; the second array axis is the first letter.
    rows, sigmas : lists of three arrays
        PDF and σ along x, y and z.
    """

    def __init__(self, grid: Grid) -> None:
        self._middle = [n // 2 for n in grid.shape]
        n_x, n_y, n_z = grid.shape
        self.xy, self.xz, self.yz = np.empty((n_y, n_x)), np.empty((n_z, n_x)), np.empty((n_z, n_y))
        self.rows, self.sigmas = ([np.empty(n) for n in grid.shape] for _ in range(2))

    def add(self, first: int, pdf: NDArray[Any], sigma: NDArray[Any]) -> None:
        """Add planes (z, y, x), beginning at ``first``."""
        planes = slice(first, first + len(pdf))
        x, y, z = self._middle
        self.xz[planes], self.yz[planes] = pdf[:, y], pdf[:, :, x]
        self.rows[2][planes], self.sigmas[2][planes] = pdf[:, y, x], sigma[:, y, x]
        if planes.start <= z < planes.stop:
            self.xy[:] = pdf[z - first]
            self.rows[0][:], self.sigmas[0][:] = pdf[z - first, y], sigma[z - first, y]
            self.rows[1][:], self.sigmas[1][:] = pdf[z - first, :, x], sigma[z - first, :, x]


def pair_distribution(
    grid: Grid,
    cell: ArrayLike,
    sections: Sections,
    general: float,
    beyond: float,
    title: str,
    back: tuple[Comparison, Grid] | None = None,
) -> Figure:
    """Draw planes through the origin with true angles, and PDF and σ along the axes.

    Parameters
    ----------
    grid : Grid
        Grid of x, y, z.
    cell : (6,) array
    general : float
        σ at a general position.
    beyond : float
        Distance in Å. Values farther from the origin set the colour range.
    back : Comparison and Grid, optional
        Back transform against S(Q), drawn below, and the grid of S.
    """
    metric, lengths = metric_of(cell, True), np.asarray(cell, dtype=np.float64)[:3]
    images = ((2, sections.xy), (1, sections.xz), (0, sections.yz))
    cuts = [
        plane_of_grid(grid, axis, grid.shape[axis] // 2, image, "xyz").within(metric, REACH)
        for axis, image in images
    ]
    heights = [5.4, 3.6, *([9.0] if back else [])]
    figure = figure_of(WIDEST, sum(heights))
    upper, lower, *rest = figure.subfigures(len(heights), 1, height_ratios=heights)  # type: ignore[misc]
    group(upper, (1, 3), cuts, metric, True, True, "PDF", beyond)
    for i, axes in enumerate(lower.subplots(1, 3, sharey=True)):
        r = grid.axis(i) * lengths[i]
        inside = (r >= 0) & (r <= REACH)
        axes.semilogy(r[inside], np.abs(sections.rows[i][inside]), "k-", lw=0.8, label="|PDF|")
        axes.semilogy(r[inside], sections.sigmas[i][inside], "C3-", lw=1.2, label="σ")
        axes.axhline(general, color="C3", ls=":", lw=1, label="σ, general position")
        axes.set_ylim(bottom=general / 30)
        axes.set_xlabel(f"along {'abc'[i]} (Å)")
        if i == 0:
            axes.set_ylabel("S per Å³")
            axes.legend(**SMALL)
    if back:
        back_transform(rest[0], *back, cell)
    figure.suptitle(f"{title} (within {REACH:g} Å)")
    return figure
