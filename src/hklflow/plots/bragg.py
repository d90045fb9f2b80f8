"""Pictures of integrated reflections."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.bragg.reflections import UNFIT, ReflectionFlag, Reflections
from hklflow.plots.common import IMAGE, SMALL, figure_of

if TYPE_CHECKING:
    from hklflow.bragg.integrate import Integrated

Floats = NDArray[np.float64]

_POINTS: dict[str, Any] = {"ls": "", "marker": ".", "ms": 3, "rasterized": True}


def integration(
    reflections: Reflections, found: "Integrated | None", title: str, engine: str = ""
) -> Figure:
    """Draw I/σ, background, fits against sums, profiles, and observed positions.

    Parameters
    ----------
    reflections : Reflections
    found : Integrated or None
        Result of the integration by hklflow; None if another program integrated.
    title : str
    engine : str
        Name of the program for the title; empty: no name.
    """
    figure = figure_of(16, 9) if found is not None else figure_of(20, 4.8)
    axes = figure.subplots(2, 4) if found is not None else figure.subplots(1, 5, squeeze=False)
    use = np.isfinite(reflections.intensity_sum) & ~reflections.has(UNFIT)
    table = reflections.select(use)
    _strength(axes[0, 0], table)
    _background(axes[0, 1], table)
    _estimates(axes[0, 2], table)
    _places(axes[0, 3], table)
    _detector(axes.flat[4], reflections)
    if found is not None:
        _profiles(axes[1, 1:3], found)
        _write_counters(axes[1, 3], found)
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
    axes.plot(*_binned(1 / table.d, ratio, np.nanmean), label="mean, sums")
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
    for name, unit in units.items():
        off = getattr(table, f"observed_{name}") - getattr(table, name)
        off = off[np.isfinite(off)]
        if off.size:
            label = f"{name}: median {np.median(off):+.3f}, σ {off.std():.3f} {unit}"
            axes.hist(off, bins=np.linspace(-1, 1, 81), histtype="step", label=label)
    axes.set_xlabel("observed minus predicted", **SMALL)
    axes.legend(loc="upper right", fontsize=7)


def _detector(axes: Any, table: Reflections) -> None:
    """Draw the reflections on the detector; colours show integrated reflections and others."""
    unfit = table.has(UNFIT)
    unlike = table.has(ReflectionFlag.UNLIKE)
    for rows, style, label in (
        (~unfit, {"color": "0.6"}, "integrated"),
        (unfit & ~unlike, {"color": "tab:orange"}, "partial, overlapping, long ..."),
        (unlike, {"color": "tab:red"}, "unlike the profile"),
    ):
        axes.plot(table.fast[rows], table.slow[rows], ".", ms=1.5, label=label, **style)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.set_xlabel("fast (pixels)", **SMALL)
    axes.set_ylabel("slow (pixels)", **SMALL)
    axes.legend(loc="upper right", markerscale=4, fontsize=7)


def _profiles(axes: Any, found: "Integrated") -> None:
    """Draw the learned profiles of each region, and sections of them through the centre."""
    nodes = found.profile.nodes
    middle = len(nodes) // 2
    gaussian = np.exp(-0.5 * (nodes[:, None] ** 2 + nodes[None, :] ** 2))
    n_frame, n_slow, n_fast = found.profile.regions
    correction = found.profile.correction.reshape(n_frame, n_slow, n_fast, *(3 * [len(nodes)]))
    rows = [
        np.hstack([correction[0, y, x, middle] * gaussian for x in range(n_fast)])
        for y in range(n_slow)
    ]
    axes[0].imshow(np.vstack(rows), norm=LogNorm(1e-4, 1.0), cmap=IMAGE, origin="upper")
    axes[0].set_title("profile in (slow, fast) by part of the detector", **SMALL)
    axes[0].set_xticks([])
    axes[0].set_yticks([])
    line = np.exp(-0.5 * nodes**2)
    for region in found.profile.correction:
        cuts = (region[:, middle, middle], region[middle, :, middle], region[middle, middle, :])
        for cut, colour in zip(cuts, ("tab:blue", "tab:orange", "tab:green"), strict=True):
            axes[1].semilogy(nodes, cut * line, color=colour, lw=0.8)
    axes[1].semilogy(nodes, line, "k:", lw=1)
    axes[1].set_ylim(1e-5, 3)
    axes[1].set_xlabel("standard deviations (frame, slow, fast; dotted: Gaussian)", **SMALL)
    axes[1].set_title("profile through the centre", **SMALL)


def _write_counters(axes: Any, found: "Integrated") -> None:
    axes.set_axis_off()
    slow, fast = np.exp(found.widths.slow[0]), np.exp(found.widths.fast[0])
    lines = [
        *(f"{name:32s} {number}" for name, number in found.counters.items()),
        "",
        f"mosaic {np.degrees(found.widths.mosaic):.4f}°",
        f"spot {slow:.2f} x {fast:.2f} pixels in the middle",
        f"references {int(found.profile.n_references.sum())}",
        f"relative error of profile {found.profile_error:.4f}",
        f"median chi2 of background {np.nanmedian(found.background_chi2):.3f}",
        "",
        *(
            f"{flag.name or '':16s} {int(found.reflections.has(flag).sum())}"
            for flag in ReflectionFlag
        ),
    ]
    axes.text(0.0, 1.0, "\n".join(lines), va="top", family="monospace", fontsize=7.5)
