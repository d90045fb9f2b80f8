"""Pictures of volumes: slices and coverage, skewed cells drawn true."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from numpy.typing import ArrayLike, NDArray

from hklflow.core.grid import Grid
from hklflow.core.lattice import reciprocal
from hklflow.plots.common import IMAGE, figure_of, log_range

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

    A shear and a scale take (x, y) in r.l.u. to Cartesian 1/Å: x along the
    first axis, y at ``angle`` degrees to it.
    """
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    shear = Affine2D(np.array([[scale[0], scale[1] * c, 0], [0, scale[1] * s, 0], [0, 0, 1]]))
    dx, dy = x[1] - x[0], y[1] - y[0]
    # Edges half a step outside the centres that the axes label.
    edges_x = np.concatenate([x - dx / 2, [x[-1] + dx / 2]])
    edges_y = np.concatenate([y - dy / 2, [y[-1] + dy / 2]])
    mesh = axes.pcolormesh(
        edges_x,
        edges_y,
        # Measured and empty is the darkest colour; what was not measured stays NaN.
        np.where(image <= 0, float(norm.vmin or 0), image),
        norm=norm,
        cmap=IMAGE,
        transform=shear + axes.transData,
        rasterized=True,
    )
    # Only as far as there are data: the grid of a skewed cell has empty corners.
    rows, columns = np.nonzero(np.isfinite(image))
    if rows.size:
        seen = np.stack([x[columns], y[rows]], axis=1)
    else:
        seen = np.array([(a, b) for a in (x[0], x[-1]) for b in (y[0], y[-1])])
    corners = shear.transform(seen)
    axes.set_xlim(corners[:, 0].min(), corners[:, 0].max())
    axes.set_ylim(corners[:, 1].min(), corners[:, 1].max())
    axes.set_aspect("equal")
    axes.set_facecolor("0.85")
    return mesh


def _plane_near_zero(grid: Grid, i: int) -> int:
    """Index of the plane at 0 along axis i, or of the middle one if 0 is off the grid."""
    axis = grid.axis(i)
    inside = axis[0] <= 0 <= axis[-1]
    return int(np.argmin(np.abs(axis))) if inside else len(axis) // 2


def slices(grid: Grid, cell: ArrayLike, data: Any, title: str) -> Figure:
    """hk0, h0l and 0kl planes of a volume, with the cell's true angles and lengths.

    Where the grid does not reach the origin, the planes through its middle.

    Parameters
    ----------
    cell : (6,) array
    data : (l, k, h) array or HDF5 dataset
        NaN (drawn grey) where nothing was measured.
    """
    lengths, angles = np.split(reciprocal(cell), 2)
    at = [_plane_near_zero(grid, i) for i in range(3)]
    h, k, l = (f"{grid.axis(i)[at[i]]:g}" for i in range(3))  # noqa: E741
    planes = (
        (f"h k {l}", data[at[2]], 0, 1, angles[2]),
        (f"h {k} l", data[:, at[1]], 0, 2, angles[1]),
        (f"{h} k l", data[:, :, at[0]], 1, 2, angles[0]),
    )
    figure = figure_of(15, 5.2)
    norm = log_range(np.concatenate([plane[1].ravel() for plane in planes]))
    mesh: Any = None
    letters = "hkl"
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


def coverage(grid: Grid, cell: ArrayLike, norm: Any, data: Any, errors: Any, title: str) -> Figure:
    """How well the hk0 plane is measured: norm, relative error, and the coverage by shell.

    Parameters
    ----------
    norm, data, errors : (l, k, h) arrays or HDF5 datasets
    """
    lengths, angles = np.split(reciprocal(cell), 2)
    at = _plane_near_zero(grid, 2)
    name = f"h k {grid.axis(2)[at]:g}"
    figure = figure_of(15, 5.2)
    left, middle, right = figure.subplots(1, 3)
    scale = (lengths[0], lengths[1])
    norm_plane, data_plane = np.asarray(norm[at]), np.asarray(data[at])
    filled = np.where(norm_plane > 0, norm_plane, np.nan)
    mesh = _plane(left, filled, grid.axis(0), grid.axis(1), scale, angles[2], log_range(filled))
    figure.colorbar(mesh, ax=left, shrink=0.8, label="norm")
    left.set_title(f"{name}: norm (exposure of each voxel)")
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.asarray(errors[at]) / data_plane
    relative = np.where(np.isfinite(relative), relative, np.nan)
    mesh = _plane(
        middle, relative, grid.axis(0), grid.axis(1), scale, angles[2], log_range(relative)
    )
    figure.colorbar(mesh, ax=middle, shrink=0.8, label="σ(S) / S")
    middle.set_title(f"{name}: relative error")
    metric = np.zeros((3, 3))
    star = np.cos(np.radians(angles))
    metric[np.diag_indices(3)] = lengths**2
    for i, j, c in ((1, 2, star[0]), (0, 2, star[1]), (0, 1, star[2])):
        metric[i, j] = metric[j, i] = lengths[i] * lengths[j] * c
    corner = np.max(np.abs([grid.axis(i)[[0, -1]] for i in range(3)]), axis=1)
    bins = np.linspace(0, float(np.sum(corner * lengths)), 121)
    inside, seen = np.zeros(120), np.zeros(120)
    k, h = np.meshgrid(grid.axis(1), grid.axis(0), indexing="ij", sparse=True)
    for plane, l in enumerate(grid.axis(2)):  # noqa: E741
        q2 = (
            metric[0, 0] * h**2
            + metric[1, 1] * k**2
            + metric[2, 2] * l**2
            + 2 * (metric[0, 1] * h * k + metric[0, 2] * h * l + metric[1, 2] * k * l)
        )
        q = np.sqrt(np.maximum(q2, 0))
        inside += np.histogram(q, bins)[0]
        seen += np.histogram(q[norm[plane] > 0], bins)[0]
    with np.errstate(invalid="ignore"):
        right.step(bins[:-1], 100 * seen / inside, where="post")
    right.set_xlim(0, bins[1:][seen > 0].max(initial=bins[1]))
    right.set(xlabel="|Q| (1/Å)", ylabel="measured voxels (%)", ylim=(0, 103))
    right.set_title("coverage by shell")
    figure.suptitle(title)
    return figure
