"""Pictures of scaled and merged reflections."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.bragg.error_model import Spread
from hklflow.bragg.scale_model import Curve
from hklflow.bragg.structure_factors import IntensitySeries
from hklflow.plots.common import SMALL, figure_of
from hklflow.plots.series import intensities

Floats = NDArray[np.float64]

_VERDICTS = {
    "fulfilled": "C2",
    "weak": "C1",
    "violated": "C3",
    "not present": "C0",
    "not tested": "0.7",
}
_MOST_ELEMENTS = 24
_STEPS = (("C0", 5.0), ("C1", 2.5), ("k", 1.0))
"""Colours and widths of curves: a thin curve on a wide one shows that both are equal."""


def scales(curves: Sequence[Curve], spread: Spread, names: Sequence[str], title: str) -> Figure:
    """Draw scale and B of each rotation with error bars, and the spread between equivalents."""
    figure = figure_of(9, 8.4)
    top, middle, bottom = figure.subplots(3, 1)
    for number, (curve, name) in enumerate(zip(curves, names, strict=True)):
        colour = f"C{number % 10}"
        factor = np.exp(curve.log_scale)
        _band(top, curve.angle, factor, factor * curve.log_scale_sigma, colour, name)
        _band(middle, curve.angle, curve.decay, curve.decay_sigma, colour, name)
    top.set(ylabel="scale", xlabel="angle of the scan (deg)")
    middle.set(ylabel="B (Å²)", xlabel="angle of the scan (deg)")
    top.legend(fontsize=9, ncols=4)
    known = np.argsort(spread.intensity)
    known = known[spread.intensity[known] > 0]
    bottom.axhline(1, color="0.7", lw=0.8)
    bottom.plot(spread.intensity[known], spread.before[known], "o-", color="0.6", label="counting")
    bottom.plot(spread.intensity[known], spread.after[known], "o-", color="C0", label="error model")
    bottom.set(
        xscale="log",
        xlabel="intensity (1/Å³)",
        ylabel="rms deviation of\nequivalents over σ",
        ylim=(0, None),
    )
    bottom.legend(fontsize=9)
    figure.suptitle(title)
    return figure


def _band(axes: Axes, x: Floats, y: Floats, sigma: Floats, colour: str, name: str) -> None:
    axes.plot(x, y, color=colour, lw=1.3, label=name)
    axes.fill_between(x, y - sigma, y + sigma, color=colour, alpha=0.25, lw=0)


def merged(metrics: Mapping[str, Any], title: str) -> Figure:
    """Draw statistics by resolution, and the test of absences.

    Parameters
    ----------
    metrics : mapping
        Metrics of the stage `merge_reflections`.
    """
    elements = [e for e in metrics["absences"]["elements"] if e["observed"]][:_MOST_ELEMENTS]
    lower = max(4.2, 0.2 * len(elements) + 1.5)
    figure = figure_of(11, 4.2 + lower)
    grid = figure.subplots(2, 2, height_ratios=[4.2, lower])
    rows, row = metrics["shells"], metrics["overall"]
    # Steps from edge to edge show the width of each shell, also of a single one.
    edges = [1 / (rows[0]["d max"] or row["d max"]), *(1 / shell["d min"] for shell in rows)]
    panels: list[tuple[Axes, tuple[str, ...], str]] = [
        (grid[0, 0], ("CC1/2", "CC of rotations", "completeness"), "correlation, completeness"),
        (grid[0, 1], ("R_merge", "R_meas", "R_pim"), "R"),
        (grid[1, 0], ("I/sigma", "multiplicity"), "I/σ, multiplicity"),
    ]
    for axes, names, label in panels:
        for name, (colour, wide) in zip(names, _STEPS, strict=False):
            values = [np.nan if shell.get(name) is None else shell[name] for shell in rows]
            if np.isfinite(values).any():
                axes.stairs(values, edges, baseline=None, color=colour, lw=wide, label=name)
        axes.set(xlabel="1/d (1/Å)", ylabel=label)
        axes.margins(y=0.1)
        if axes.patches:
            axes.autoscale_view()
            axes.legend(**SMALL)
    low, high = grid[0, 0].get_ylim()
    grid[0, 0].set_ylim(min(low, 0.0), max(high, 1.05))
    grid[0, 1].set_ylim(bottom=0)
    grid[1, 0].set_yscale("log")  # a multiplicity of 10 and an I/σ of 500
    _absences(grid[1, 1], elements)
    figure.suptitle(f"{title}\n{row['unique']} unique of {row['observations']} observations")
    return figure


def _absences(axes: Axes, elements: Sequence[Mapping[str, Any]]) -> None:
    place = np.arange(len(elements))[::-1]
    verdicts = [_shown_verdict(e) for e in elements]
    colours = [_VERDICTS[verdict] for verdict in verdicts]
    axes.barh(
        place,
        [e["mean"] for e in elements],
        xerr=[e["mean_error"] for e in elements],
        color=colours,
    )
    labels = [f"{e['name'][:30]}{' *' if e['given'] else ''}" for e in elements]
    axes.set_yticks(place, labels, fontsize=9)
    axes.axvline(0, color="0.5", lw=0.8)
    axes.set_xlabel(
        "mean I/σ of reflections that the element forbids\n(*: in the given space group)",
        fontsize=9,
    )
    axes.legend(
        handles=[
            Patch(color=colour, label=verdict)
            for verdict, colour in _VERDICTS.items()
            if verdict in verdicts
        ],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        fontsize=9,
        frameon=False,
    )


def _shown_verdict(element: Mapping[str, Any]) -> str:
    """Return the verdict; an element of another space group that is absent is not a violation."""
    verdict = str(element["verdict"])
    return "not present" if verdict == "violated" and not element["given"] else verdict


def changes(series: IntensitySeries, n: int, title: str, axis: Axis = TEMPERATURE) -> Figure:
    """Draw the n reflections that differ most from the change that all reflections share.

    The dashed lines are a mean times scale and ``exp(-2 ΔB s²)`` of each scan: beam, illuminated
    volume, absorption and mean displacements change all reflections. Reflections that were observed
    at a single temperature are not drawn.
    """
    known = np.isfinite(series.temperature)
    value, sigma = series.intensity[:, known], series.sigma[:, known]
    seen = np.isfinite(value) & (sigma > 0)
    factor = _shared(series)[:, known]
    weight = np.where(seen, 1 / np.where(seen, sigma, 1.0) ** 2, 0.0)
    filled = np.where(seen, value, 0.0)
    total = np.maximum((weight * factor**2).sum(axis=1), 1e-300)
    expected = factor * ((weight * factor * filled).sum(axis=1) / total)[:, None]
    chi2 = (weight * (filled - expected) ** 2).sum(axis=1) / np.maximum(seen.sum(axis=1) - 1, 1)
    order = np.argsort(-np.where(seen.sum(axis=1) >= 2, chi2, -1.0), kind="stable")
    chosen = order[seen.sum(axis=1)[order] >= 2][:n]
    places = series.temperature[known]
    lines = expected[chosen] if len(np.unique(places)) > 1 else ()
    if len(lines):
        title += "\ndashed: the change that all reflections share (scale and ΔB of the scan)"
    figure = intensities(
        places, series.hkl[chosen], value[chosen], sigma[chosen], title, "I (1/Å³)", axis
    )
    for axes, line in zip(figure.axes, lines, strict=False):
        axes.plot(places, line, "--", color="0.45", lw=1)
    return figure


def _shared(series: IntensitySeries) -> Floats:
    """Return scale and Debye-Waller factor of each scan for each reflection (n, t).

    They are 1 in scans without a scale, and in scans of another parent than the reflection's.
    """
    factor = series.scale * np.exp(-2 * series.decay * (0.5 / series.d[:, None]) ** 2)
    of_setting = np.array(series.parents) == np.array(series.settings)[:, None]
    return np.where(of_setting & np.isfinite(factor), factor, 1.0)
