"""Pictures of volumes: slices and coverage, with true angles for skewed cells."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.geometry.lattice import reciprocal
from hklflow.plots.common import IMAGE, figure_of, log_range

if TYPE_CHECKING:
    from hklflow.transform.shells import Shells

Floats = NDArray[np.float64]


def _plane(
    axes: Axes,
    image: NDArray[Any],
    x: Floats,
    y: Floats,
    scale: tuple[float, float],
    angle: float,
    norm: LogNorm,
) -> Any:
    """Draw a plane with the true angle and lengths of its two reciprocal axes.

    The coordinates (x, y) in r.l.u. are transformed to Cartesian 1/Å, x along the first axis, y at
    ``angle`` degrees to it.
    """
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    shear = Affine2D(np.array([[scale[0], scale[1] * c, 0], [0, scale[1] * s, 0], [0, 0, 1]]))
    # The image extends by half a step beyond the first and last voxel centres.
    dx, dy = (float(a[1] - a[0]) / 2 if len(a) > 1 else 0.5 for a in (x, y))
    # An image, because a mesh of quadrilaterals takes a hundred times as long.
    drawn = axes.imshow(
        # Measured voxels without counts have the darkest colour; unmeasured voxels are NaN.
        np.where(image <= 0, float(norm.vmin or 0), image),
        norm=norm,
        cmap=IMAGE,
        extent=(x[0] - dx, x[-1] + dx, y[0] - dy, y[-1] + dy),
        origin="lower",
        interpolation="nearest",
        transform=shear + axes.transData,
    )
    # Show only the part with data: the grid of a skewed cell has empty corners.
    rows, columns = np.nonzero(np.isfinite(image))
    if rows.size:
        points = np.stack([x[columns], y[rows]], axis=1)
    else:
        points = np.array([(a, b) for a in (x[0], x[-1]) for b in (y[0], y[-1])])
    corners = shear.transform(points)
    # Half a voxel more, so that a single row or column of voxels is visible.
    more_y = dy * scale[1] * s
    more_x = dx * scale[0] + dy * scale[1] * abs(c)
    axes.set_xlim(corners[:, 0].min() - more_x, corners[:, 0].max() + more_x)
    axes.set_ylim(corners[:, 1].min() - more_y, corners[:, 1].max() + more_y)
    axes.set_aspect("equal")
    axes.set_facecolor("0.85")
    return drawn


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


def slices(grid: Grid, cell: ArrayLike, sections: Sections, title: str) -> Figure:
    """Draw hk0, h0l and 0kl planes of a volume, with true angles and lengths.

    Parameters
    ----------
    cell : (6,) array
    sections : Sections
        Planes; voxels that were not measured are grey.
    """
    lengths, angles = np.split(reciprocal(cell), 2)
    h, k, l = (f"{grid.axis(i)[at]:g}" for i, at in enumerate(sections.at))  # noqa: E741
    planes = (
        (f"h k {l}", sections.hk, 0, 1, angles[2]),
        (f"h {k} l", sections.hl, 0, 2, angles[1]),
        (f"{h} k l", sections.kl, 1, 2, angles[0]),
    )
    figure = figure_of(15, 5.2)
    norm = log_range(np.concatenate([plane[1].ravel() for plane in planes]))
    mesh: Any = None
    letters = "abc"
    for axes, (name, image, i, j, angle) in zip(figure.subplots(1, 3), planes, strict=True):
        mesh = _plane(
            axes, image, grid.axis(i), grid.axis(j), (lengths[i], lengths[j]), angle, norm
        )
        axes.set_title(name)
        axes.set_xlabel(f"along {letters[i]}* (1/Å)")
        axes.set_ylabel(f"in plane, towards {letters[j]}* (1/Å)")
    figure.colorbar(mesh, ax=figure.axes, label="S(Q) (counts per unit norm)", shrink=0.85)
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
    lengths, angles = np.split(reciprocal(cell), 2)
    name = f"h k {grid.axis(2)[sections.at[2]]:g}"
    figure = figure_of(15, 5.2)
    left, middle, right = figure.subplots(1, 3)
    scale = (lengths[0], lengths[1])
    filled = np.where(sections.hk_norm > 0, sections.hk_norm, np.nan)
    mesh = _plane(left, filled, grid.axis(0), grid.axis(1), scale, angles[2], log_range(filled))
    figure.colorbar(mesh, ax=left, shrink=0.8, label="norm")
    left.set_title(f"{name}: norm (exposure of each voxel)")
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = sections.hk_errors / sections.hk
    relative = np.where(np.isfinite(relative), relative, np.nan)
    mesh = _plane(
        middle, relative, grid.axis(0), grid.axis(1), scale, angles[2], log_range(relative)
    )
    figure.colorbar(mesh, ax=middle, shrink=0.8, label="σ(S) / S")
    middle.set_title(f"{name}: relative error")
    with np.errstate(invalid="ignore"):
        right.step(shells.edges[:-1], 100 * shells.seen / shells.inside, where="post")
    right.set_xlim(0, shells.edges[1:][shells.seen > 0].max(initial=shells.edges[1]))
    right.set(xlabel="|Q| (1/Å)", ylabel="measured voxels (%)", ylim=(0, 103))
    right.set_title("coverage by shell")
    figure.suptitle(title)
    return figure
