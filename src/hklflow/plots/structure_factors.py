"""Pictures of scaled and merged reflections."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from hklflow.bragg.error_model import Spread
from hklflow.bragg.scale_model import Curve
from hklflow.bragg.structure_factors import IntensitySeries
from hklflow.plots.common import figure_of
from hklflow.plots.series import intensities

Floats = NDArray[np.float64]

_VERDICTS = {
    "fulfilled": "C2",
    "weak": "C1",
    "violated": "C3",
    "not present": "C0",
    "not tested": "0.7",
}


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
    top.legend(fontsize=8, ncols=4)
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
    bottom.legend(fontsize=8)
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
    figure = figure_of(10, 8.4)
    grid = figure.subplots(2, 2)
    rows = metrics["shells"]
    at = [1 / row["d min"] for row in rows]
    panels: list[tuple[Axes, tuple[str, ...], str]] = [
        (grid[0, 0], ("CC1/2", "CC of rotations", "completeness"), "correlation, completeness"),
        (grid[0, 1], ("R_merge", "R_meas", "R_pim"), "R"),
        (grid[1, 0], ("I/sigma", "multiplicity"), "I/σ, multiplicity"),
    ]
    for axes, names, label in panels:
        for name in names:
            values = [row.get(name) for row in rows]
            if any(value is not None for value in values):
                known = [np.nan if value is None else value for value in values]
                axes.plot(at, known, "o-", ms=4, label=name)
        axes.set(xlabel="1/d (1/Å), outer edge of the shell", ylabel=label)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if axes is grid[0, 0]:
            axes.set_ylim(top=1.05)
        if axes.lines:
            axes.legend(fontsize=8)
    _absences(grid[1, 1], metrics["absences"]["elements"])
    row = metrics["overall"]
    figure.suptitle(f"{title}\n{row['unique']} unique of {row['observations']} observations")
    return figure


def _absences(axes: Axes, elements: Sequence[Mapping[str, Any]]) -> None:
    shown = [e for e in elements if e["observed"]][:24]
    place = np.arange(len(shown))[::-1]
    verdicts = [_shown_verdict(e) for e in shown]
    colours = [_VERDICTS[verdict] for verdict in verdicts]
    axes.barh(
        place, [e["mean"] for e in shown], xerr=[e["mean_error"] for e in shown], color=colours
    )
    labels = [f"{e['name'][:30]}{' *' if e['given'] else ''}" for e in shown]
    axes.set_yticks(place, labels, fontsize=6)
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
        fontsize=7,
        frameon=False,
    )


def _shown_verdict(element: Mapping[str, Any]) -> str:
    """Return the verdict; an element of another space group that is absent is not a violation."""
    verdict = str(element["verdict"])
    return "not present" if verdict == "violated" and not element["given"] else verdict


def changes(series: IntensitySeries, n: int, title: str) -> Figure:
    """Draw the intensities of the n reflections that change most with temperature.

    These reflections have the largest ratio of scatter over the scans to error, among reflections
    that were observed at two or more temperatures.
    """
    known = np.isfinite(series.temperature)
    value, sigma = series.intensity[:, known], series.sigma[:, known]
    seen = np.isfinite(value) & (sigma > 0)
    weight = np.where(seen, 1 / np.where(seen, sigma, 1.0) ** 2, 0.0)
    total = weight.sum(axis=1)
    filled = np.where(seen, value, 0.0)
    mean = (weight * filled).sum(axis=1) / np.maximum(total, 1e-300)
    chi2 = (weight * (filled - mean[:, None]) ** 2).sum(axis=1) / np.maximum(
        seen.sum(axis=1) - 1, 1
    )
    order = np.argsort(-np.where(seen.sum(axis=1) >= 2, chi2, -1.0), kind="stable")
    chosen = order[seen.sum(axis=1)[order] >= 2][:n]
    return intensities(
        series.temperature[known],
        series.hkl[chosen],
        value[chosen],
        sigma[chosen],
        title,
        "I (1/Å³)",
    )
