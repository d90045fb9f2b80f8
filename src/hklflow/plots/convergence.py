"""Picture of a converging refinement: its history, and the residuals by module."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hklflow.base.values import CELL_NAMES
from hklflow.plots.common import WIDEST, figure_of

Record = Mapping[str, Any]

# Smallest ranges of the map, so that small residuals have short arrows.
_ARROW_PX = 0.2
_SHADE_PX = 0.1
_CHANGES = {
    "cell": ("cell_change", "cell (σ)"),
    "orientation": ("orientation_change", "orientation (deg)"),
    "rmsd": ("rmsd_change", "rmsd (relative)"),
    "indexed": ("indexed_change", "fraction indexed"),
}


def convergence(
    iterations: Sequence[Record],
    kept: int,
    modules: Sequence[Record],
    limits: Record,
    title: str,
) -> Figure:
    """Draw the history of the iterations, and the residuals of the modules as arrows.

    Parameters
    ----------
    iterations : sequence of dict
        Iterations of ``convergence.json``, beginning with the start.
    kept : int
        Number of the kept iteration.
    modules : sequence of dict
        Rows of `hklflow.bragg.residual_map`, as dicts.
    limits : mapping
        Limits for convergence: ``cell_change``, ``orientation_change``, ``rmsd_change``,
        ``indexed_change``.
    title : str
    """
    figure = figure_of(WIDEST, 8.4)
    (cell, change, rmsd), (score, indexed, map_) = figure.subplots(2, 3)
    _draw_cell(cell, iterations, kept)
    _draw_changes(change, iterations, limits)
    _draw_rmsd(rmsd, iterations)
    _draw_score(score, iterations, kept)
    _draw_indexed(indexed, iterations)
    _draw_modules(map_, modules)
    for axes in (cell, change, rmsd, score, indexed):
        axes.set_xlabel("iteration (0: start)", fontsize=9)
        axes.set_xticks(range(len(iterations)))
    figure.suptitle(title)
    return figure


def _draw_cell(axes: Axes, iterations: Sequence[Record], kept: int) -> None:
    values = np.array([item["cell"] for item in iterations], float)
    sigma = np.array([item["cell_sigma"] for item in iterations], float)
    free = np.flatnonzero(sigma[kept] > 0)
    number = np.arange(len(values))
    for place, i in enumerate(free):
        shift = 0.06 * (place - 0.5 * (len(free) - 1))
        axes.errorbar(
            number + shift,
            1e6 * (values[:, i] / values[kept, i] - 1),
            1e6 * sigma[:, i] / values[kept, i],
            fmt="o-", ms=4, lw=0.8, capsize=2, label=CELL_NAMES[i],
        )  # fmt: skip
    axes.axvline(kept, color="0.8", lw=6, zorder=0)
    axes.set_ylabel("cell relative to the kept one (10⁻⁶)", fontsize=9)
    axes.set_title("cell; grey: kept", fontsize=9)
    axes.legend(fontsize=9)


def _draw_changes(axes: Axes, iterations: Sequence[Record], limits: Record) -> None:
    for name, (limit, label) in _CHANGES.items():
        known = [i for i in iterations if name in i["change"]]
        # A change of exactly 0 cannot be drawn on the logarithmic axis.
        over = [max(float(i["change"][name]) / limits[limit], 1e-4) for i in known]
        axes.plot([i["iteration"] for i in known], over, "o-", ms=4, label=label)
    axes.axhline(1, color="0.3", lw=0.8)
    axes.set(yscale="log")
    axes.set_ylim(top=100 * axes.get_ylim()[1])  # space for the legend
    axes.set_ylabel("change over the limit", fontsize=9)
    axes.set_title("converged: all below 1", fontsize=9)
    axes.legend(loc="upper right", fontsize=9)


def _draw_rmsd(axes: Axes, iterations: Sequence[Record]) -> None:
    """Draw residuals without outliers, if known, and in faint colours those of all used spots."""
    used, held = "rmsd (slow, fast, frame)", "rmsd of held-out peaks (slow, fast, frame)"
    number = [item["iteration"] for item in iterations]
    values = {key: np.array([item[key] for item in iterations], float) for key in (used, held)}
    # The first row is for the whole detector, without outliers; the start may have no rows.
    rows = [item["modules"][0]["rms_px"] if item["modules"] else None for item in iterations]
    apart = [np.nan if row is None else np.hypot(*row) for row in rows]
    lines = (
        (apart, "o-", "C0", 1.0, "pixels, used, no outliers"),
        (np.hypot(*values[held][:, :2].T), "s--", "C1", 1.0, "pixels, held out, no outliers"),
        (np.hypot(*values[used][:, :2].T), "o:", "C0", 0.4, "pixels, used, with outliers"),
        (values[held][:, 2], "s--", "C2", 1.0, "frames, held out, no outliers"),
        (values[used][:, 2], "o:", "C2", 0.4, "frames, used, with outliers"),
    )
    for y, style, color, alpha, label in lines:
        axes.plot(number, y, style, ms=4, color=color, alpha=alpha, label=label)
    axes.set_yscale("log")
    axes.set_ylim(top=10 * axes.get_ylim()[1])  # space for the legend
    axes.set_ylabel("rms residual", fontsize=9)
    axes.set_title("observed minus predicted", fontsize=9)
    axes.legend(loc="upper left", fontsize=9)


def _draw_score(axes: Axes, iterations: Sequence[Record], kept: int) -> None:
    number = [item["iteration"] for item in iterations]
    axes.plot(number, [item["score"] for item in iterations], "o-", ms=4, color="C0")
    axes.plot(kept, iterations[kept]["score"], "o", ms=11, mfc="none", color="C0")
    axes.set_ylabel("score", fontsize=9)
    axes.set_title("score of held-out peaks; circle: kept", fontsize=9)


def _draw_indexed(axes: Axes, iterations: Sequence[Record]) -> None:
    number = [item["iteration"] for item in iterations]
    axes.plot(number, [100 * item["fraction indexed"] for item in iterations], "o-", ms=4)
    axes.set_ylim(0, 103)
    axes.set_ylabel("peaks indexed (%)", fontsize=9)
    used = [
        item["peaks"].get("used", 0) + item["reflections"].get("used", 0) for item in iterations
    ]
    axes.set_title(f"spots used: {', '.join(str(n) for n in used[1:])}", fontsize=9)


def _draw_modules(axes: Axes, modules: Sequence[Record]) -> None:
    """Draw the median residual of each module as an arrow, and its rms as the colour."""
    known = [row for row in modules if row["median_px"] is not None]
    boxes = np.array([row["rectangle"] for row in modules])
    rmsd = [float(np.hypot(*row["rms_px"])) for row in known]
    high = max([_SHADE_PX, *rmsd])
    for row in modules:
        s0, s1, f0, f1 = row["rectangle"]
        color: str | tuple[float, float, float] = "0.9"
        if row["rms_px"] is not None:
            part = float(np.hypot(*row["rms_px"])) / high
            color = (1.0, 1.0 - 0.35 * part, 1.0 - 0.6 * part)
        axes.add_patch(Rectangle((f0, s0), f1 - f0, s1 - s0, fc=color, ec="0.4", lw=0.5))
        axes.text(f0, s0, f" {row['spots']}", va="top", fontsize=9, color="0.3")
    if known:
        middle = np.array([[r["rectangle"][0] + r["rectangle"][1],
                            r["rectangle"][2] + r["rectangle"][3]] for r in known]) / 2  # fmt: skip
        off = np.array([row["median_px"] for row in known], float)
        longest = float(np.hypot(*off.T).max())
        side = float(np.min(boxes[:, 1::2] - boxes[:, ::2]))
        full = max(longest, _ARROW_PX)
        scale = full / (0.45 * side)
        axes.quiver(
            middle[:, 1], middle[:, 0], off[:, 1], off[:, 0], angles="xy", scale_units="xy",
            scale=scale, width=0.006, color="C0",
        )  # fmt: skip
        axes.set_title(
            f"median residual of each module, largest {longest:.3f} px;\n"
            f"half a module side is {full:.2g} px; numbers: spots;\n"
            f"shade 0 to {high:.2g} px: rms {min(rmsd):.3f} to {max(rmsd):.3f} px",
            fontsize=9,
        )
    axes.set(
        xlim=(boxes[:, 2].min(), boxes[:, 3].max()),
        ylim=(boxes[:, 1].max(), boxes[:, 0].min()),
        aspect="equal",
        xlabel="fast (pixel)",
        ylabel="slow (pixel)",
    )
