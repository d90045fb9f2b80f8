"""Pictures that a person can judge: arrays in, `Figure` out.

Figures are made without pyplot, so that they work without a display and in threads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D
from numpy.typing import ArrayLike, NDArray

from hklflow.core.binning import Grid
from hklflow.core.lattice import reciprocal

Floats = NDArray[np.float64]

_IMAGE = "viridis"
_STYLE = {"fontsize": 9}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=110, format="png")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _halves(figure: Figure, width_ratios: tuple[float, float] = (1, 1)) -> tuple[Any, Any]:
    left, right = figure.subfigures(1, 2, width_ratios=list(width_ratios))  # type: ignore[misc]
    return left, right


def _log_range(image: NDArray[Any]) -> LogNorm:
    """Colour range that shows the diffuse signal and lets Bragg peaks saturate."""
    values = image[np.isfinite(image) & (image > 0)]
    if values.size == 0:
        return LogNorm(0.1, 1.0)
    low, high = np.percentile(values, [2.0, 99.0])
    return LogNorm(max(low, high * 1e-5), max(high, low * 1.01))


# ------------------------------------------------------------------------- volumes


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
        cmap=_IMAGE,
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
    figure = _figure(15, 5.2)
    norm = _log_range(np.concatenate([plane[1].ravel() for plane in planes]))
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
    figure = _figure(15, 5.2)
    left, middle, right = figure.subplots(1, 3)
    scale = (lengths[0], lengths[1])
    norm_plane, data_plane = np.asarray(norm[at]), np.asarray(data[at])
    filled = np.where(norm_plane > 0, norm_plane, np.nan)
    mesh = _plane(left, filled, grid.axis(0), grid.axis(1), scale, angles[2], _log_range(filled))
    figure.colorbar(mesh, ax=left, shrink=0.8, label="norm")
    left.set_title(f"{name}: norm (exposure of each voxel)")
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.asarray(errors[at]) / data_plane
    relative = np.where(np.isfinite(relative), relative, np.nan)
    mesh = _plane(
        middle, relative, grid.axis(0), grid.axis(1), scale, angles[2], _log_range(relative)
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


# -------------------------------------------------------------------------- frames


def detector_image(
    image: NDArray[Any], title: str, label: str, mask: NDArray[np.bool_] | None = None
) -> Figure:
    """One detector image on a logarithmic scale; masked pixels in red."""
    figure = _figure(7.5, 6.5)
    axes = figure.subplots()
    _detector(axes, image, mask)
    figure.colorbar(
        axes.collections[0] if axes.collections else axes.images[0], ax=axes, label=label
    )
    axes.set_title(title)
    return figure


def _detector(axes: Axes, image: NDArray[Any], mask: NDArray[np.bool_] | None) -> None:
    shown = np.asarray(image, dtype=float).copy()
    if mask is not None:
        shown[mask] = np.nan
    norm = _log_range(shown)
    shown = np.where(shown <= 0, float(norm.vmin or 0), shown)
    extent = (0, image.shape[1], image.shape[0], 0)
    axes.imshow(shown, norm=norm, cmap=_IMAGE, extent=extent, interpolation="nearest")
    axes.set_facecolor("0.85")
    if mask is not None:
        overlay = np.zeros((*mask.shape, 4))
        overlay[mask] = (0.85, 0.15, 0.15, 1.0)
        axes.imshow(overlay, extent=extent, interpolation="nearest")
    axes.set(xlabel="fast (pixel)", ylabel="slow (pixel)")


def pixel_mask(
    image: NDArray[Any], bits: NDArray[np.uint32], names: Mapping[int, str], title: str
) -> Figure:
    """The sampled frames with the mask over them, and how many pixels each bit takes."""
    figure = _figure(13, 5.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    _detector(left, image, bits != 0)
    left.set_title("mean of sampled frames; masked pixels in red")
    present = [(name, int(np.sum((bits & bit) != 0))) for bit, name in names.items()]
    present = [item for item in present if item[1]] or [("none", 0)]
    labels, numbers = zip(*present, strict=True)
    right.barh(range(len(labels)), numbers, color="0.4")
    right.set_yticks(range(len(labels)), labels)
    right.invert_yaxis()
    for i, number in enumerate(numbers):
        right.text(number, i, f" {number}", va="center", **_STYLE)
    right.set_xlabel(f"pixels (of {bits.size})")
    right.margins(x=0.2)
    figure.suptitle(title)
    return figure


def frame_statistics(
    arrays: Mapping[str, Floats], maximum_image: NDArray[Any], mask: NDArray[np.bool_], title: str
) -> Figure:
    """Maximum image and the per-frame sums, background, monitor and transmission."""
    figure = _figure(14, 6.2)
    left, right = _halves(figure, (1, 1.1))
    axes = left.subplots()
    _detector(axes, maximum_image, mask)
    axes.set_title("largest count of each pixel over the scan")
    panels = right.subplots(len(arrays), 1, sharex=True)
    for panel, (name, values) in zip(np.atleast_1d(panels), arrays.items(), strict=True):
        panel.plot(np.arange(len(values)) + 0.5, values, lw=0.8)
        panel.set_ylabel(name, **_STYLE)
    np.atleast_1d(panels)[-1].set_xlabel("frame")
    figure.suptitle(title)
    return figure


def peaks(
    maximum_image: NDArray[Any],
    mask: NDArray[np.bool_],
    slow: Floats,
    fast: Floats,
    frame: Floats,
    intensity: Floats,
    flagged: NDArray[np.bool_],
    title: str,
) -> Figure:
    """Peaks on the maximum image, their number over the scan and their intensities."""
    figure = _figure(14, 6.2)
    left, right = _halves(figure, (1.1, 1))
    axes = left.subplots()
    _detector(axes, maximum_image, mask)
    for select, colour, name in ((~flagged, "white", "used"), (flagged, "orangered", "flagged")):
        axes.plot(
            fast[select],
            slow[select],
            "o",
            mfc="none",
            mec=colour,
            ms=6,
            mew=0.8,
            label=f"{int(select.sum())} {name}",
        )
    axes.set(xlim=(0, mask.shape[1]), ylim=(mask.shape[0], 0))
    axes.legend(loc="upper right", facecolor="0.3", labelcolor="white")
    top, bottom = right.subplots(2, 1)
    top.hist(frame, bins=min(100, max(10, len(frame) // 10)), color="0.4")
    top.set(xlabel="frame", ylabel="peaks")
    positive = intensity[intensity > 0]
    if positive.size:
        bottom.hist(
            positive, bins=np.geomspace(positive.min(), positive.max() * 1.01, 50), color="0.4"
        )
        bottom.set_xscale("log")
    bottom.set(xlabel="intensity (counts)", ylabel="peaks")
    figure.suptitle(title)
    return figure


def frame_mask(
    frame: NDArray[Any], excluded: NDArray[np.bool_], fraction: Floats, number: int, title: str
) -> Figure:
    """The frame of which the 3-D mask takes most, before and after, and the fraction by frame."""
    figure = _figure(15, 5)
    left, middle, right = figure.subplots(1, 3)
    _detector(left, frame, None)
    left.set_title(f"frame {number}")
    _detector(middle, frame, excluded)
    middle.set_title("3-D mask in red")
    right.plot(np.arange(len(fraction)) + 0.5, 100 * fraction, lw=0.8)
    right.set(xlabel="frame", ylabel="excluded pixels (%)")
    figure.suptitle(title)
    return figure


# ---------------------------------------------------------------------- refinement


def residuals(
    per_rotation: Mapping[str, Mapping[str, Floats]],
    units: Mapping[str, str],
    lines: Sequence[str],
    title: str,
) -> Figure:
    """Observed minus calculated positions of all rotations, against frame and as histograms.

    Parameters
    ----------
    per_rotation : mapping
        Rotation -> arrays "at frame", then one array per kind of residual.
    units : mapping
        Kind of residual -> unit.
    lines : sequence of str
        Text beside the panels.
    """
    figure = _figure(15, 6.2)
    panels, side = _halves(figure, (3, 1))
    grid = panels.subplots(len(units), 2, width_ratios=[3, 1], sharey="row")
    for row, (kind, unit) in zip(grid, units.items(), strict=True):
        everything = np.concatenate([r[kind] for r in per_rotation.values()])
        limit = 5 * 1.4826 * np.median(np.abs(everything)) + 1e-6 if everything.size else 1.0
        for name, arrays in per_rotation.items():
            row[0].plot(arrays["at frame"], arrays[kind], ".", ms=2, label=name)
        row[0].axhline(0, color="0.3", lw=0.8)
        row[0].set_ylim(-limit, limit)
        row[0].set_ylabel(f"{kind} ({unit})", **_STYLE)
        row[1].hist(
            everything, bins=np.linspace(-limit, limit, 61), orientation="horizontal", color="0.4"
        )
    grid[0, 0].legend(loc="upper right", markerscale=4, **_STYLE)
    grid[-1, 0].set_xlabel("frame")
    side.text(0.0, 0.95, "\n".join(lines), va="top", family="monospace", fontsize=8)
    figure.suptitle(title)
    return figure


def powder(
    image: NDArray[Any],
    mask: NDArray[np.bool_],
    rings: Sequence[tuple[Floats, Floats]],
    two_theta_deg: Floats,
    profile: Floats,
    lines_deg: Floats,
    residual_deg: tuple[Floats, Floats],
    title: str,
) -> Figure:
    """Calibrant image with the rings of the refined geometry, its profile, and the residuals.

    Parameters
    ----------
    rings : sequence of (slow, fast)
        Pixel coordinates of each calculated ring.
    two_theta_deg, profile : (n,) arrays
        Azimuthal average of the image.
    lines_deg : (m,) array
        Calculated 2θ of the calibrant's lines.
    residual_deg : (2θ, Δ2θ)
        Observed minus calculated 2θ of the points used.
    """
    figure = _figure(15, 6.4)
    left, right = _halves(figure)
    axes = left.subplots()
    _detector(axes, image, mask)
    for slow, fast in rings:
        axes.plot(fast, slow, color="white", lw=0.4)
    axes.set(xlim=(0, image.shape[1]), ylim=(image.shape[0], 0))
    top, bottom = right.subplots(2, 1, sharex=True)
    top.plot(two_theta_deg, profile, lw=0.8)
    for line in lines_deg:
        top.axvline(line, color="orangered", lw=0.4)
    top.set(ylabel="azimuthal average (counts)", yscale="log")
    bottom.plot(*residual_deg, ".", ms=2)
    bottom.axhline(0, color="0.3", lw=0.8)
    bottom.set(xlabel="2θ (deg)", ylabel="observed - calculated (deg)")
    figure.suptitle(title)
    return figure


# -------------------------------------------------------------------------- series


def series(rows: Sequence[Mapping[str, Any]], quantities: Mapping[str, str], title: str) -> Figure:
    """Quantities of all scans of each sample against temperature, with error bars.

    Parameters
    ----------
    rows : sequence of mappings
        Each with "sample", "temperature", and for each quantity its value and
        ``<quantity>_sigma``.
    quantities : mapping
        Quantity -> axis label.
    """
    samples = sorted({str(row["sample"]) for row in rows})
    figure = _figure(3.2 * len(quantities) + 1, 2.6 * len(samples) + 0.6)
    grid = figure.subplots(len(samples), len(quantities), squeeze=False)
    for line, sample in zip(grid, samples, strict=True):
        mine = [row for row in rows if row["sample"] == sample and row["temperature"] is not None]
        at = [row["temperature"] for row in mine]
        for axes, (quantity, label) in zip(line, quantities.items(), strict=True):
            axes.errorbar(
                at,
                [row[quantity] for row in mine],
                yerr=[row.get(f"{quantity}_sigma", 0.0) for row in mine],
                fmt="o",
                ms=4,
                capsize=3,
            )
            axes.set(xlabel="temperature (K)", ylabel=label, title=sample)
            axes.ticklabel_format(useOffset=False)
            axes.margins(0.15)
    figure.suptitle(title)
    return figure
