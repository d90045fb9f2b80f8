"""Pictures of geometry: residuals of a refinement, powder rings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.plots.common import SMALL, WIDEST, figure_of, halves
from hklflow.plots.detector import draw_detector

Floats = NDArray[np.float64]


def residuals(
    per_rotation: Mapping[str, Mapping[str, Floats]],
    units: Mapping[str, str],
    lines: Sequence[str],
    title: str,
) -> Figure:
    """Draw observed minus calculated positions of all rotations, against frame, with histograms.

    Parameters
    ----------
    per_rotation : mapping
        Arrays of each rotation: "at frame", then one array for each kind of residual.
    units : mapping
        Unit of each kind of residual.
    lines : sequence of str
        Lines of text next to the panels.
    """
    figure = figure_of(WIDEST, 6.4)
    panels, side = halves(figure, (2.4, 1))
    grid = panels.subplots(len(units), 2, width_ratios=[3, 1], sharey="row")
    for row, (kind, unit) in zip(grid, units.items(), strict=True):
        everything = np.concatenate([r[kind] for r in per_rotation.values()])
        limit = 5 * 1.4826 * np.median(np.abs(everything)) + 1e-6 if everything.size else 1.0
        for name, arrays in per_rotation.items():
            row[0].plot(arrays["at frame"], arrays[kind], ".", ms=2, label=name)
        row[0].axhline(0, color="0.3", lw=0.8)
        row[0].set_ylim(-limit, limit)
        row[0].set_ylabel(f"{kind} ({unit})", **SMALL)
        row[1].hist(
            everything, bins=np.linspace(-limit, limit, 61), orientation="horizontal", color="0.4"
        )
    grid[0, 0].legend(loc="upper right", markerscale=4, **SMALL)
    grid[-1, 0].set_xlabel("frame")
    side.text(0.0, 0.95, "\n".join(lines), va="top", family="monospace", fontsize=9)
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
    """Draw the calibrant image with the calculated rings, its profile, and the residuals.

    Parameters
    ----------
    rings : sequence of (slow, fast)
        Pixel coordinates of each calculated ring.
    two_theta_deg, profile : (n,) arrays
        Azimuthal average of the image.
    lines_deg : (m,) array
        Calculated 2θ of the calibrant's lines.
    residual_deg : (2θ, Δ2θ)
        2θ of the points used, and observed minus calculated 2θ.
    """
    figure = figure_of(WIDEST, 5.8)
    left, right = halves(figure)
    axes = left.subplots()
    draw_detector(axes, image, mask, label="counts")
    for slow, fast in rings:
        axes.plot(fast, slow, color="white", lw=0.7, ls="--")
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
