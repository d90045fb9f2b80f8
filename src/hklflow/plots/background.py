"""Picture of the background that does not come from the crystal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.images.surroundings import Part, Rings
from hklflow.plots.common import SMALL, figure_of

if TYPE_CHECKING:
    from hklflow.images.ring_search import Cells
    from hklflow.transform.unmeasured_bounds import Bounds


def background(rings: Rings, parts: Sequence[Part], title: str) -> Figure:
    """Draw measured counts, background and rest against |Q|, and the factors of the frames."""
    figure = figure_of(9, 7)
    curves, factors = figure.subplots(2, 1, height_ratios=[2.2, 1])
    rest = rings.measured - rings.background
    error = np.hypot(rings.noise, rings.level)
    curves.plot(rings.q, rings.measured, lw=1.2, color="0.3", label="measured")
    curves.plot(rings.q, rings.background, lw=1.2, color="C1", label="background")
    curves.plot(rings.q, rest, lw=1.4, color="C0", label="rest")
    curves.fill_between(rings.q, rest - error, rest + error, color="C0", alpha=0.3, lw=0)
    curves.axhline(0, lw=0.6, color="0.6")
    curves.set_xlabel("|Q| (1/Å)")
    curves.set_ylabel("mean counts of a pixel and frame", **SMALL)
    curves.legend(fontsize=9)
    for part in parts:
        frames = np.arange(len(part.factor)) + 0.5
        factors.plot(frames, part.factor, lw=1.2, label=f"{part.name} (± {part.error:.2%})")
    factors.set_ylim(0, 1.1 * max(float(part.factor.max()) for part in parts))
    factors.set_xlabel("frame")
    factors.set_ylabel("factor of the background", **SMALL)
    factors.legend(fontsize=9)
    figure.suptitle(title)
    return figure


def unmeasured(
    cells: "Cells", maps: NDArray[np.float64], bounds: "Bounds | None", title: str
) -> Figure:
    """Draw level, background and rest against |Q| and azimuth, and the isotropic interval.

    Parameters
    ----------
    maps : (2, sectors, bins) array
        Level between the reflections, and background, in units of S.
    """
    figure = figure_of(9, 8)
    rows = figure.subplots(4, 1, sharex=True, height_ratios=[2.4, 1, 1, 1])
    curves, q = rows[0], (cells.edges[:-1] + cells.edges[1:]) / 2
    unit = np.where(np.isfinite(maps).all(axis=0), cells.unit.sum(axis=0), 0)
    seen = unit.sum(axis=0) > 0
    both = (np.nan_to_num(maps) * unit).sum(axis=1)[:, seen] / unit.sum(axis=0)[seen]
    if bounds is not None:
        steps = {"step": "post", "lw": 0, "alpha": 0.35}
        low, high = (np.append(x, x[-1]) for x in (bounds.low, bounds.high))
        curves.fill_between(
            bounds.edges, low, high, color="C2", label="isotropic background: interval", **steps
        )
    for label, curve, colour in (
        ("measured between the reflections", both[0], "0.3"),
        ("rings and least anisotropic background", both[1], "C1"),
        ("rest", both[0] - both[1], "C0"),
    ):
        curves.plot(q[seen], curve, lw=1.3, color=colour, label=label)
    curves.set_ylim(0, 1.15 * float(np.nanmax(both, initial=1e-12)))
    curves.set_ylabel("mean, in units of S", **SMALL)
    curves.legend(fontsize=9)
    top = float(np.nanquantile(maps[0], 0.99)) if np.isfinite(maps[0]).any() else 1.0
    images = ("measured", maps[0]), ("background", maps[1]), ("rest", maps[0] - maps[1])
    for axes, (label, image) in zip(rows[1:], images, strict=True):
        shown = axes.imshow(
            image, origin="lower", aspect="auto", interpolation="nearest", vmin=0, vmax=top,
            extent=(cells.edges[0], cells.edges[-1], -180, 180),
        )  # fmt: skip
        axes.set_ylabel(f"{label}\nazimuth (deg)", **SMALL)
        figure.colorbar(shown, ax=axes, pad=0.01)
    rows[-1].set_xlabel("|Q| (1/Å)")
    figure.colorbar(shown, ax=curves, pad=0.01).ax.set_visible(False)
    figure.suptitle(f"background without a measurement, {title}")
    return figure
