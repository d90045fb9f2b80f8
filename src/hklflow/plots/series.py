"""Plots of quantities against temperature."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.plots.common import WIDEST, figure_of

# Without caps: next to an error smaller than the point, a cap looks like an error of temperature.
POINT: dict[str, Any] = {"fmt": "o", "ms": 4}


def panels_of(n: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with n panels in rows; unused panels of the last row are empty."""
    columns = max(1, min(n, columns))
    rows = max(1, -(-n // columns))
    figure = figure_of(4 * columns + 0.6, height * rows + 0.8)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for spare in axes[n:]:
        spare.set_axis_off()
    return figure, axes[:n]


def decorate(axes: Axes, label: str, title: str = "", axis: Axis = TEMPERATURE) -> None:
    """Label the axes of a panel against temperature, or along another axis."""
    axes.set(xlabel=axis.label, ylabel=label, title=title)
    axes.margins(0.12)


def series(
    rows: Sequence[Mapping[str, Any]],
    quantities: Mapping[str, str],
    title: str,
    axes_of: Mapping[str, Axis] | None = None,
) -> Figure:
    """Draw quantities of all scans of each sample against temperature, with error bars.

    Parameters
    ----------
    rows : sequence of mappings
        Rows with "sample", "temperature" (or "value", along another axis), and for each quantity
        its value and ``<quantity>_sigma``.
    quantities : mapping
        Axis label of each quantity.
    axes_of : mapping, optional
        Axes of the samples whose series is not along temperature.
    """
    axes_of = {} if axes_of is None else axes_of
    samples = sorted({str(row["sample"]) for row in rows})
    figure = figure_of(min(3.2 * len(quantities) + 1, WIDEST), 2.6 * len(samples) + 0.6)
    grid = figure.subplots(len(samples), len(quantities), squeeze=False)
    for line, sample in zip(grid, samples, strict=True):
        own = [(row.get("value", row["temperature"]), row) for row in rows]
        own = [(x, row) for x, row in own if row["sample"] == sample and x is not None]
        temperatures, mine = [x for x, _ in own], [row for _, row in own]
        for axes, (quantity, label) in zip(line, quantities.items(), strict=True):
            axes.errorbar(
                temperatures,
                [row[quantity] for row in mine],
                yerr=[row.get(f"{quantity}_sigma", 0.0) for row in mine],
                **POINT,
            )
            decorate(axes, label, sample, axes_of.get(sample, TEMPERATURE))
    figure.suptitle(title)
    return figure


def temperature_series(
    rows: Sequence[Mapping[str, Any]],
    quantities: Mapping[str, str],
    transitions: Sequence[tuple[float, float]],
    title: str,
    axis: Axis = TEMPERATURE,
) -> Figure:
    """Draw quantities of one sample against temperature, one panel each.

    Parameters
    ----------
    rows : sequence of mappings
        Rows with "scan", "parent", "temperature" (K; a row with None is not drawn), and for each
        quantity its value and ``<quantity>_sigma``.
    quantities : mapping
        Axis label of each quantity.
    transitions : sequence of (warmer, colder)
        Temperatures between which a band is drawn.
    title : str
    axis : Axis
        Axis of the series; its values are in the place of temperatures.
    """
    placed = [row for row in rows if row["temperature"] is not None]
    parents = list(dict.fromkeys(str(row["parent"]) for row in placed))
    figure, panels = panels_of(len(quantities), 3, 2.8)
    for axes, (quantity, label) in zip(panels, quantities.items(), strict=True):
        for i, parent in enumerate(parents):
            mine = [row for row in placed if row["parent"] == parent]
            axes.errorbar(
                [row["temperature"] for row in mine],
                [row[quantity] for row in mine],
                yerr=[row[f"{quantity}_sigma"] for row in mine],
                color=f"C{i}",
                **POINT,
            )
            parent_rows = [row for row in mine if row["scan"] == parent]
            axes.plot(
                [row["temperature"] for row in parent_rows],
                [row[quantity] for row in parent_rows],
                "s",
                ms=11,
                mfc="none",
                color=f"C{i}",
            )
        for warmer, colder in transitions:
            axes.axvspan(colder, warmer, color="C3", alpha=0.15, lw=0)
        decorate(axes, label, axis=axis)
    handles: list[Any] = [
        Line2D([], [], color=f"C{i}", marker="o", ls="", label=f"children of {parent}")
        for i, parent in enumerate(parents)
    ]
    handles.append(Line2D([], [], color="0.4", marker="s", ms=9, mfc="none", ls="", label="parent"))
    if transitions:
        handles.append(Patch(color="C3", alpha=0.15, label="leaves its trend"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6))
    figure.suptitle(title)
    return figure


def intensities(
    temperature: ArrayLike,
    hkl: ArrayLike,
    intensity: ArrayLike,
    sigma: ArrayLike,
    title: str,
    label: str = "I (S × r.l.u.³)",
    axis: Axis = TEMPERATURE,
) -> Figure:
    """Draw integrated intensities against temperature, one panel for each reflection.

    The axes do not begin at 0, so that small changes are visible. Intensities at a single
    temperature are in one panel.

    Parameters
    ----------
    temperature : (t,) array
    hkl : (n, 3) array
    intensity, sigma : (n, t) arrays
        NaN if a reflection was not measured.
    title : str
    label : str
        Label of the intensities, with unit.
    axis : Axis
        Axis of the series; its values are in the place of temperatures.
    """
    places, pairs = np.asarray(temperature), np.stack([intensity, sigma], axis=-1)
    names = [" ".join(f"{x:g}" for x in row) for row in np.asarray(hkl, dtype=np.float64)]
    if len(np.unique(places)) < 2:
        figure, (axes,) = panels_of(1, 1, 4.0)
        figure.set_figwidth(min(0.5 * len(names) + 3, WIDEST))
        for values, errors in pairs.transpose(1, 2, 0):
            axes.errorbar(np.arange(len(names)), values, yerr=errors, **POINT)
        axes.axhline(0, color="0.7", lw=0.8)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=9)
        axes.set(ylabel=label, title=" ".join(axis.at(t) for t in np.unique(places)))
        figure.suptitle(title)
        return figure
    figure, panels = panels_of(len(names), 3, 2.6)
    for axes, name, (values, errors) in zip(panels, names, pairs.transpose(0, 2, 1), strict=True):
        axes.errorbar(places, values, yerr=errors, **POINT | {"fmt": "o-", "lw": 1})
        decorate(axes, label, name, axis)
    figure.suptitle(title)
    return figure
