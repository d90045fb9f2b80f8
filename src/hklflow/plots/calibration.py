"""Pictures of a calibration's metrics, for a person to judge a candidate."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hklflow.plots.common import SMALL, WIDEST, figure_of

Metrics = Mapping[str, Any]

_HARMONICS = {"cos": "cos χ", "sin": "sin χ", "cos2": "cos 2χ", "sin2": "sin 2χ"}


def assessment(metrics: Metrics, title: str) -> Figure:
    """Draw rings, azimuth, convergence and modules of one calibration; see `calibration.assess`."""
    figure = figure_of(WIDEST, 8)
    (rings, widths), (harmonics, last) = figure.subplots(2, 2)
    draw_rings(rings, {"": metrics})
    draw_widths(widths, {"": metrics})
    draw_harmonics(harmonics, {"": metrics})
    if metrics["modules"] is None:
        _draw_convergence(last, metrics["convergence"])
    else:
        _draw_modules(last, metrics["modules"])
    figure.suptitle(title)
    return figure


def comparison(metrics: Mapping[str, Metrics], title: str) -> Figure:
    """Draw rings, widths and harmonics of several calibrations, with their names."""
    figure = figure_of(WIDEST, 4.8)
    rings, widths, harmonics = figure.subplots(1, 3)
    draw_rings(rings, metrics)
    draw_widths(widths, metrics)
    draw_harmonics(harmonics, metrics)
    figure.suptitle(title)
    return figure


def draw_rings(axes: Axes, metrics: Mapping[str, Metrics]) -> None:
    """Draw the mean Δd/d of each ring with its standard error."""
    for name, one in metrics.items():
        angle, mean, sem = _columns(one, "two_theta_deg", "mean", "sem")
        axes.errorbar(angle, 1e6 * mean, 1e6 * sem, fmt="o", ms=3, lw=0.8, label=name)
    axes.axhline(0, color="0.3", lw=0.8)
    axes.set(xlabel="2θ (deg)", ylabel="mean Δd/d of the ring (10⁻⁶)")
    axes.set_title("observed d-spacings relative to the calibrant", fontsize=9)
    _legend(axes, metrics)


def draw_widths(axes: Axes, metrics: Mapping[str, Metrics]) -> None:
    """Draw the width of each ring: from its whole profile, and from its sectors separately."""
    for name, one in metrics.items():
        angle, whole, sectors = _columns(one, "two_theta_deg", "fwhm_deg", "sector_fwhm_deg")
        (line,) = axes.plot(angle, whole, "o", ms=3, label=f"{name} whole ring".strip())
        axes.plot(angle, sectors, ".", ms=3, color=line.get_color(), alpha=0.5,
                  label=f"{name} sectors".strip())  # fmt: skip
    axes.set(xlabel="2θ (deg)", ylabel="FWHM (deg)")
    axes.set_ylim(0, 1.15 * axes.get_ylim()[1])
    axes.set_title("a wrong geometry makes the whole ring wider than its sectors", fontsize=9)
    axes.legend(**SMALL)


def draw_harmonics(axes: Axes, metrics: Mapping[str, Metrics]) -> None:
    """Draw azimuthal harmonics of the residuals."""
    place = np.arange(len(_HARMONICS))
    for i, (name, one) in enumerate(metrics.items()):
        values = one["harmonics_px"]
        shift = 0.12 * (i - 0.5 * (len(metrics) - 1))
        axes.errorbar(
            place + shift, [values[key] for key in _HARMONICS], values["sigma"], fmt="o", ms=4,
            capsize=3, label=name,
        )  # fmt: skip
    axes.axhline(0, color="0.3", lw=0.8)
    axes.set_xticks(place, list(_HARMONICS.values()))
    axes.set_ylabel("amplitude in the residuals (pixel)")
    axes.set_title("χ: error of the beam centre; 2χ: tilt", fontsize=9)
    _legend(axes, metrics)


def _draw_convergence(axes: Axes, convergence: Mapping[str, Any]) -> None:
    history = convergence["history"]
    axes.plot([cycle["median_off_deg"] for cycle in history], "o-", ms=4)
    axes.set(xlabel="cycle", ylabel="median |Δ2θ| (deg)", yscale="log")
    axes.set_title(f"convergence: {convergence['reason']}", fontsize=9)


def _draw_modules(axes: Axes, modules: list[dict[str, Any]]) -> None:
    """Draw the radial residual of each module at its position."""
    known = [row for row in modules if row["radial_px"] is not None]
    limit = max((abs(row["radial_px"]) for row in known), default=0.0) or 0.1
    for row in modules:
        s0, s1, f0, f1 = row["module"]
        shift = row["radial_px"]
        color = "0.9" if shift is None else _color(shift / limit)
        axes.fill([f0, f1, f1, f0], [s0, s0, s1, s1], color=color, ec="0.3", lw=0.5)
        text = "–" if shift is None else f"{shift:.3f}"
        axes.text((f0 + f1) / 2, (s0 + s1) / 2, text, ha="center", va="center", fontsize=9)
    axes.set(xlabel="fast (pixel)", ylabel="slow (pixel)", aspect="equal")
    axes.invert_yaxis()
    axes.set_title("radial residual of each module (pixel)", fontsize=9)


def _color(value: float) -> tuple[float, float, float]:
    """Return red for outwards, blue for inwards, for values from -1 to 1."""
    strength = min(abs(value), 1.0)
    faint = 1.0 - 0.7 * strength
    return (1.0, faint, faint) if value > 0 else (faint, faint, 1.0)


def _columns(metrics: Metrics, *names: str) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """Return columns of the table of rings; NaN without a measurement."""
    rows = metrics["rings"]
    return [np.array([np.nan if row[n] is None else row[n] for row in rows], float) for n in names]


def _legend(axes: Axes, metrics: Mapping[str, Metrics]) -> None:
    if any(metrics):
        axes.legend(**SMALL)
