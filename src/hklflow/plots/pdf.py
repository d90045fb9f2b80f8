"""Pictures of pair distribution functions: planes through the origin, and their errors."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.plots.common import figure_of

Floats = NDArray[np.float64]

#: Largest distance from the origin that is drawn, in Å.
REACH = 25.0


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
    grid: Grid, cell: ArrayLike, sections: Sections, general: float, beyond: float, title: str
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
    """
    lengths, angles = np.split(np.asarray(cell, dtype=np.float64), 2)
    planes = (
        ("x y 0", sections.xy, 0, 1, angles[2]),
        ("x 0 z", sections.xz, 0, 2, angles[1]),
        ("0 y z", sections.yz, 1, 2, angles[0]),
    )
    g = lattice.metric(cell)
    values_of_planes = []
    for _, image, i, j, _ in planes:
        x, y = grid.axis(i), grid.axis(j)[:, None]
        r2 = g[i, i] * x * x + g[j, j] * y * y + 2 * g[i, j] * x * y
        values_of_planes.append(np.abs(image[(r2 > beyond**2) & (r2 < REACH**2)]))
    values = np.concatenate(values_of_planes)
    top = float(np.percentile(values, 99.8)) if values.size else float(np.abs(sections.xy).max())
    norm = Normalize(-(top or 1.0), top or 1.0)
    figure = figure_of(15, 9.2)
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.75, 1])
    upper, lower = parts
    letters, mesh = "abc", None
    panels = upper.subplots(1, 3)
    for axes, (name, image, i, j, angle) in zip(panels, planes, strict=True):
        x, y = grid.axis(i), grid.axis(j)
        mesh = _plane(axes, image, x, y, (lengths[i], lengths[j]), angle, norm)
        axes.set_title(name)
        axes.set_xlabel(f"along {letters[i]} (Å)")
        axes.set_ylabel(f"in plane, towards {letters[j]} (Å)")
    upper.colorbar(mesh, ax=list(panels), label="PDF (S per Å³)", extend="both", shrink=0.85)
    for i, axes in enumerate(lower.subplots(1, 3, sharey=True)):
        r = grid.axis(i) * lengths[i]
        inside = (r >= 0) & (r <= REACH)
        axes.semilogy(r[inside], np.abs(sections.rows[i][inside]), "k-", lw=0.8, label="|PDF|")
        axes.semilogy(r[inside], sections.sigmas[i][inside], "C3-", lw=1.2, label="σ")
        axes.axhline(general, color="C3", ls=":", lw=1, label="σ, general position")
        axes.set_ylim(bottom=general / 30)
        axes.set_xlabel(f"along {letters[i]} (Å)")
        if i == 0:
            axes.set_ylabel("S per Å³")
            axes.legend(fontsize=8)
    figure.suptitle(f"{title} (within {REACH:g} Å)")
    return figure


def _plane(
    axes: Axes,
    image: NDArray[Any],
    x: Floats,
    y: Floats,
    scale: tuple[float, float],
    angle: float,
    norm: Normalize,
) -> Any:
    """Draw a plane in Cartesian Å, with x along the first axis."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    shear = Affine2D(np.array([[scale[0], scale[1] * c, 0], [0, scale[1] * s, 0], [0, 0, 1]]))
    dx, dy = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    drawn = axes.imshow(
        image,
        norm=norm,
        cmap="RdBu_r",
        extent=(x[0] - dx, x[-1] + dx, y[0] - dy, y[-1] + dy),
        origin="lower",
        interpolation="nearest",
        transform=shear + axes.transData,
    )
    half_x = min(REACH, scale[0] * float(-x[0]))
    half_y = min(REACH, scale[1] * float(-y[0]) * s)
    axes.set_xlim(-half_x, half_x)
    axes.set_ylim(-half_y, half_y)
    axes.set_aspect("equal")
    axes.set_facecolor("0.85")
    return drawn
