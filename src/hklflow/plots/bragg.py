"""Pictures of integrated reflections."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.bragg.reflections import UNFIT, ReflectionFlag, Reflections
from hklflow.plots.common import SMALL, WIDEST, figure_of

if TYPE_CHECKING:
    from hklflow.bragg.integrate import Integrated

Floats = NDArray[np.float64]

_POINTS: dict[str, Any] = {"ls": "", "marker": ".", "ms": 4, "rasterized": True}


def integration(
    reflections: Reflections, found: "Integrated | None", title: str, engine: str = ""
) -> Figure:
    """Draw I/σ, background, fits over sums, observed positions, the detector, and profiles.

    Parameters
    ----------
    reflections : Reflections
    found : Integrated or None
        Result of the integration by hklflow; None if another program integrated.
    title : str
    engine : str
        Name of the program for the title; empty: no name.
    """
    figure = figure_of(WIDEST, 8)
    axes = figure.subplots(2, 3).ravel()
    use = np.isfinite(reflections.intensity_sum) & ~reflections.has(UNFIT)
    table = reflections.select(use)
    _strength(axes[0], table)
    _background(axes[1], table)
    _estimates(axes[2], table)
    _places(axes[3], table)
    _detector(axes[4], reflections)
    if found is not None:
        _profiles(axes[5], found)
    else:
        axes[5].set_axis_off()
    figure.suptitle(f"{title}, by {engine}" if engine else title)
    return figure


def _strength(axes: Any, table: Reflections) -> None:
    """Draw I/σ of each reflection, and the mean in bins of 1/d."""
    axes.set_xlabel("1/d (1/Å)", **SMALL)
    axes.set_ylabel("I/σ", **SMALL)
    if not len(table):
        return
    ratio = table.intensity_sum / table.sigma_sum
    axes.plot(1 / table.d, ratio, color="0.6", **_POINTS)
    axes.plot(*_binned(1 / table.d, ratio, np.nanmean), lw=4, alpha=0.5, label="mean, sums")
    fitted = table.intensity_profile / table.sigma_profile
    axes.plot(*_binned(1 / table.d, fitted, np.nanmean), label="mean, fits")
    axes.set_yscale("symlog", linthresh=1.0)
    low, high = np.nanmin(ratio), np.nanmax(ratio)
    # Only powers of ten have labels, so the range ends at powers of ten.
    axes.set_ylim(_decade(low, down=True), _decade(high, down=False))
    axes.legend(**SMALL)


def _decade(value: float, *, down: bool) -> float:
    """Return the nearest power of ten (positive or negative), or zero, below or above a value."""
    if abs(value) <= 1:
        return float(np.floor(value) if down else np.ceil(value))
    outward = (value < 0) == down
    power = np.log10(abs(value))
    return float(np.sign(value) * 10 ** (np.ceil(power) if outward else np.floor(power)))


def _background(axes: Any, table: Reflections) -> None:
    axes.set_xlabel("1/d (1/Å)", **SMALL)
    axes.set_ylabel("S below the reflections", **SMALL)
    if not len(table):
        return
    axes.plot(1 / table.d, table.background, color="0.6", **_POINTS)
    axes.plot(*_binned(1 / table.d, table.background, np.nanmedian), label="median")
    low, high = np.nanpercentile(table.background, [0.5, 99.5])
    axes.set_ylim(min(low, 0.0), 1.2 * high + 1e-12)
    axes.legend(**SMALL)


def _binned(x: Floats, y: Floats, what: Any) -> tuple[Floats, Floats]:
    """Return centres and values of up to 20 bins of equal numbers, without empty bins."""
    order = np.argsort(x)
    parts = [part for part in np.array_split(order, 20) if np.isfinite(y[part]).any()]
    return np.array([x[part].mean() for part in parts]), np.array([what(y[part]) for part in parts])


def _estimates(axes: Any, table: Reflections) -> None:
    """Draw the ratio of fitted to summed intensity against I/σ."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = table.intensity_profile / table.intensity_sum
        strength = table.intensity_sum / table.sigma_sum
    shown = (strength > 3) & np.isfinite(ratio)
    axes.semilogx(strength[shown], ratio[shown], color="0.3", **_POINTS)
    axes.axhline(1.0, color="tab:red", lw=0.8)
    axes.set_ylim(0.5, 1.5)
    axes.set_xlabel("I/σ of the sum", **SMALL)
    axes.set_ylabel("fit over sum", **SMALL)


def _places(axes: Any, table: Reflections) -> None:
    """Draw observed minus predicted positions of strong reflections."""
    units = {"frame": "frames", "slow": "pixels", "fast": "pixels"}
    every = {name: getattr(table, f"observed_{name}") - getattr(table, name) for name in units}
    known = {name: off[np.isfinite(off)] for name, off in every.items()}
    spread = [np.percentile(np.abs(off), 98) for off in known.values() if off.size]
    reach = min(1.0, 2 * max(spread, default=0.5)) or 1.0
    for (name, off), style in zip(known.items(), ("-", "--", "-."), strict=True):
        if off.size:
            label = f"{name}: {np.median(off):+.3f} ± {off.std():.3f} {units[name]}"
            bins = np.linspace(-reach, reach, 61)
            axes.hist(np.clip(off, -reach, reach), bins, histtype="step", ls=style, label=label)
    axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # space for the legend
    axes.set_xlabel("observed minus predicted", **SMALL)
    axes.set_ylabel("reflections", **SMALL)
    axes.legend(loc="upper right", title="median, σ", title_fontsize=9, **SMALL)


def _detector(axes: Any, table: Reflections) -> None:
    """Draw the reflections on the detector; colours show integrated reflections and others."""
    unfit = table.has(UNFIT)
    unlike = table.has(ReflectionFlag.UNLIKE)
    for rows, style, label in (
        (~unfit, {"color": "0.5", "marker": "."}, "integrated"),
        (unfit & ~unlike, {"color": "C1", "marker": "x"}, "partial, overlapping, long ..."),
        (unlike, {"color": "C3", "marker": "+"}, "unlike the profile"),
    ):
        name = f"{np.count_nonzero(rows)} {label}"
        axes.plot(table.fast[rows], table.slow[rows], ls="", ms=5, label=name, **style)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("fast (pixels)", **SMALL)
    axes.set_ylabel("slow (pixels)", **SMALL)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), **SMALL)


def _profiles(axes: Any, found: "Integrated") -> None:
    """Draw sections through the centre of the learned profile of each part of the detector."""
    nodes = found.profile.nodes
    middle = len(nodes) // 2
    line = np.exp(-0.5 * nodes**2)
    styles = (("frame", "C0", "-"), ("slow", "C1", "--"), ("fast", "C2", "-."))
    for region in found.profile.correction:
        cuts = (region[:, middle, middle], region[middle, :, middle], region[middle, middle, :])
        for cut, (name, colour, style) in zip(cuts, styles, strict=True):
            axes.semilogy(nodes, cut * line, style, color=colour, lw=1, label=name)
    axes.semilogy(nodes, line, "k:", lw=1.2, label="Gaussian")
    axes.set_ylim(1e-5, 3)
    axes.set_xlabel("standard deviations", **SMALL)
    axes.set_ylabel("profile through its centre", **SMALL)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), loc="lower center", **SMALL)
