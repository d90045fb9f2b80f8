"""Quantities against temperature."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from hklflow.plots.common import figure_of


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
    figure = figure_of(3.2 * len(quantities) + 1, 2.6 * len(samples) + 0.6)
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
