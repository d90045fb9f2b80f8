"""Pictures of volumes: slices and coverage."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.plots.common import WIDEST, figure_of, log_range
from hklflow.plots.planes import draw, group
from hklflow.volumes.planes import Cut, metric_of, plane_of_grid

if TYPE_CHECKING:
    from hklflow.transform.shells import Shells


class Sections:
    """Planes of a volume for the pictures, collected slab by slab.

    The planes are at 0, or in the middle of the grid if it does not contain the origin.

    Attributes
    ----------
    at : (int, int, int)
        Values of h, k and l of the planes, as indices.
    hk, hl, kl : arrays
        S; the second array axis is the first letter. NaN if not measured.
    hk_errors, hk_norm : (k, h) arrays
    """

    def __init__(self, grid: Grid) -> None:
        self.at = tuple(grid.plane_near_zero(i) for i in range(3))
        n_l, n_k, n_h = grid.array_shape
        self.hk, self.hl, self.kl = (
            np.full(shape, np.nan) for shape in ((n_k, n_h), (n_l, n_h), (n_l, n_k))
        )
        self.hk_errors, self.hk_norm = np.full((n_k, n_h), np.nan), np.zeros((n_k, n_h))

    def add(self, first: int, data: NDArray[Any], errors: NDArray[Any], norm: NDArray[Any]) -> None:
        """Add planes (l, k, h), beginning at ``first``."""
        planes = slice(first, first + len(data))
        h, k, l = self.at  # noqa: E741
        self.hl[planes], self.kl[planes] = data[:, k], data[:, :, h]
        if planes.start <= l < planes.stop:
            self.hk[:], self.hk_errors[:] = data[l - first], errors[l - first]
            self.hk_norm[:] = norm[l - first]

    def cuts(self, grid: Grid) -> list[Cut]:
        """Return the planes as cuts: hk, hl, kl."""
        images = ((2, self.hk), (1, self.hl), (0, self.kl))
        return [plane_of_grid(grid, axis, self.at[axis], image) for axis, image in images]


def slices(grid: Grid, cell: ArrayLike, sections: Sections, title: str) -> Figure:
    """Draw hk0, h0l and 0kl planes of a volume, with true angles and lengths.

    Parameters
    ----------
    cell : (6,) array
    sections : Sections
        Planes; voxels that were not measured are grey.
    """
    figure = figure_of(WIDEST, 5.0)
    group(figure, (1, 3), sections.cuts(grid), metric_of(cell, False), False, False, "S(Q)")
    figure.suptitle(title)
    return figure


def coverage(
    grid: Grid, cell: ArrayLike, sections: Sections, shells: "Shells", title: str
) -> Figure:
    """Draw norm and relative error of the hk0 plane, and the coverage by shell.

    Parameters
    ----------
    cell : (6,) array
    sections : Sections
    shells : Shells
        Shells of the whole volume.
    """
    figure = figure_of(WIDEST, 5.0)
    left, middle, right = figure.subplots(1, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = sections.hk_errors / sections.hk
    for axes, image, label in (
        (left, np.where(sections.hk_norm > 0, sections.hk_norm, np.nan), "norm (exposure)"),
        (middle, np.where(np.isfinite(relative), relative, np.nan), "σ(S) / S"),
    ):
        plane = plane_of_grid(grid, 2, sections.at[2], image)
        axes.set_title(plane.plane.text)
        mesh = draw(axes, plane, metric_of(cell, False), "1/Å", log_range(image), False)
        figure.colorbar(mesh, ax=axes, location="bottom", shrink=0.8, label=label)
    with np.errstate(invalid="ignore"):
        right.step(shells.edges[:-1], 100 * shells.seen / shells.inside, where="post")
    right.set_xlim(0, shells.edges[1:][shells.seen > 0].max(initial=shells.edges[1]))
    right.set(xlabel="|Q| (1/Å)", ylabel="measured voxels (%)", ylim=(0, 103))
    right.set_title("coverage by shell")
    figure.suptitle(title)
    return figure
