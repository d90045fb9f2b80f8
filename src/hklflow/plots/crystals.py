"""Picture of the scans that are merged to one set of structure factors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from hklflow.plots.common import figure_of


def scans(metrics: Mapping[str, Any], title: str) -> Figure:
    """Draw what CC1/2 gains without each scan, significance, cell, scale and B; limits are lines.

    A scan is left out that is beyond both of the first two limits, or beyond that of the cell.

    Parameters
    ----------
    metrics : mapping
        Metrics of the stage `merge_crystals`.
    """
    rows, limits = metrics["scans"], metrics["limits"]
    figure = figure_of(10, 2.6 + 0.28 * len(rows))
    panels = figure.subplots(1, 5, sharey=True)
    # A scan that helps much can make 1 - CC1/2 many times larger: its bar ends at -100 %.
    gain = [None if row["gain"] is None else 100 * max(row["gain"], -1) for row in rows]
    strain = [None if row["strain"] is None else 100 * row["strain"] for row in rows]
    for axes, values, label, limit, neutral in (
        (panels[0], gain, "1 − CC1/2 falls by (%)\nwithout the scan", 100 * limits["gain"], 0.0),
        (panels[1], _column(rows, "significance"), "significance (σ)", limits["significance"], 0.0),
        (panels[2], strain, "strain of the cell (%)", 100 * limits["cell strain"], 0.0),
        (panels[3], _column(rows, "scale"), "scale", None, 1.0),
        (panels[4], _column(rows, "B"), "B (Å²)", None, 0.0),
    ):
        _bars(axes, rows, values, neutral)
        axes.set_xlabel(label, fontsize=9)
        if limit is not None:
            axes.axvline(limit, color="C3", ls="--", lw=1.2)
        axes.xaxis.set_major_locator(MaxNLocator(3))
    panels[3].set_xscale("log")
    # Scales of a sample's crystals are seldom a decade apart: numbers, few of them.
    panels[3].xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    panels[3].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[3].xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_yticks(np.arange(len(rows)), [row["scan"] for row in rows], fontsize=9)
    panels[0].invert_yaxis()
    figure.legend(
        handles=[Patch(color="C0", label="merged"), Patch(color="C3", label="left out")],
        loc="outside lower right",
        ncols=2,
        fontsize=9,
        frameon=False,
    )
    figure.suptitle(title)
    return figure


def _column(rows: list[Mapping[str, Any]], name: str) -> list[float | None]:
    return [row[name] for row in rows]


def _bars(
    axes: Axes, rows: list[Mapping[str, Any]], values: list[float | None], neutral: float
) -> None:
    axes.axvline(neutral, color="0.7", lw=0.8)
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        colour = "C0" if row["merged"] else "C3"
        if value is None:
            axes.text(neutral, place, "–", color=colour, va="center", ha="center")
            continue
        axes.plot([neutral, value], [place, place], color=colour, lw=3, solid_capstyle="butt")
        axes.plot(value, place, "o", color=colour, ms=5)
