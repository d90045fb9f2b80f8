"""Plot of diffuse features against temperature."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.plots.series import POINT, decorate, panels_of

if TYPE_CHECKING:
    from hklflow.quality.feature_words import Course
    from hklflow.quality.search_words import Sighting
    from hklflow.series.feature_search import Discovery
    from hklflow.series.zone_average import ZoneAverage

_LEVELS = (0.0, 0.5)  # planes of the averaged cell that are drawn, in periods


def diffuse_features(
    courses: Sequence["Course"],
    title: str,
    averages: Sequence[tuple[str, "ZoneAverage", Sequence["Sighting"]]] = (),
    along: Axis = TEMPERATURE,
) -> Figure:
    """Draw the correlation lengths and the intensity of each feature against temperature.

    Arrows are one-sided limits (95 %). For each parent whose volumes were searched there are two
    planes of the average over zones, with the features that were found.
    """
    n = 2 * len(courses)
    figure, places = panels_of(max(n + 2 * len(averages), 1), 2, 3.4 if n or averages else 2.0)
    for (parent, average, sightings), pair in zip(
        averages, zip(places[n::2], places[n + 1 :: 2], strict=False), strict=False
    ):
        found = [(x.name, x.discovery) for x in sightings]
        for axes, level in zip(pair, _LEVELS, strict=True):
            zone_plane(axes, average, found, level, f"parent {parent}")
    if not courses and not averages:
        places[0].text(0.5, 0.5, "no feature could be fitted", ha="center", va="center")
        places[0].set_axis_off()
    for course, lengths, sizes in zip(courses, places[::2], places[1::2], strict=False):
        for number, axis in enumerate(course.axes):
            colour = f"C{number}"
            for t, fit in zip(course.temperatures, course.fits, strict=True):
                if fit is None or not fit.seen:
                    continue
                xi, known = fit.xi[number], fit.determined[number]
                if known == "value":
                    error = [[xi.value - xi.inner[0]], [xi.inner[1] - xi.value]]
                    lengths.errorbar([t], [xi.value], yerr=error, color=colour, **POINT)
                else:
                    limit = xi.limit[0] if known == "longer" else xi.limit[1]
                    marker = "^" if known == "longer" else "v"
                    lengths.plot([t], [limit], marker, color=colour, mfc="none")
            lengths.plot([], [], "o", color=colour, label=f"ξ along {axis}")
        decorate(lengths, "correlation length (Å)", course.name, along)
        if any(fit is not None and fit.seen for fit in course.fits):
            lengths.set_yscale("log")
            lengths.legend(fontsize=9)
        else:
            lengths.text(0.5, 0.5, "not seen", ha="center", transform=lengths.transAxes)
            lengths.set(xticks=[], yticks=[], xlabel="", ylabel="")
        sizes.axhline(0, color="0.8", lw=0.8)
        rows = [i for i, fit in enumerate(course.fits) if fit is not None]
        sizes.errorbar(
            np.array(course.temperatures)[rows],
            np.array(course.intensity)[rows],
            yerr=np.array(course.intensity_sigma)[rows],
            color="C0",
            **POINT,
        )
        decorate(sizes, "mean I (S × r.l.u.³)", course.name, along)
    figure.suptitle(title)
    return figure


def zone_plane(
    axes: Axes,
    average: "ZoneAverage",
    found: Sequence[tuple[str, "Discovery"]],
    level: float,
    what: str,
) -> None:
    """Draw a plane of constant l of the average over zones, and where features cross it.

    Contours are around points, rods and sheets, where these and their equivalents meet the plane.

    Parameters
    ----------
    level : float
        l of the plane, in periods.
    """
    cell = average.cell
    row = round(level * cell.shape[0]) % cell.shape[0]
    values = average.mean.reshape(cell.shape)[row]
    h, k = (cell.period * (np.arange(n + 2) - 0.5) / n for n in cell.shape[:0:-1])
    known = values[np.isfinite(values)]
    limits = np.percentile(known, [2, 99.5]) if known.size else (0.0, 1.0)
    wide = np.pad(values, ((0, 1), (0, 1)), mode="wrap")
    image = axes.pcolormesh(h, k, wide, vmin=limits[0], vmax=limits[1], cmap="viridis")
    axes.figure.colorbar(image, ax=axes, label="S above its local mean")
    height = row * cell.period / cell.shape[0]
    grid = np.linspace(0, cell.period, 201)
    x, y = np.meshgrid(grid, grid)
    plane = np.stack([x, y, np.full(x.shape, height)], axis=-1)
    for number, (name, one) in enumerate(found):
        colour, drawn = f"C{(number + 1) % 10}", False
        metric = np.linalg.inv(one.columns.T @ np.linalg.inv(cell.lattice.metric) @ one.columns)
        best = np.full(x.shape, np.inf)
        for operation, shift in zip(cell.operations, cell.translations, strict=True):
            away = (plane @ operation.T + shift) @ one.columns - one.place
            away -= cell.period * np.rint(away / cell.period)
            square = np.einsum("...i,ij,...j->...", away, metric, away)
            best = np.minimum(best, square)
        radius = (0.04 * cell.period) ** 2 * np.diag(cell.lattice.metric)[:2].min()
        if best.min() < radius / 2:
            axes.contour(x, y, best, [radius], colors=colour, linewidths=1.2)
            drawn = True
        if drawn:
            axes.plot([], [], color=colour, label=name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, loc="upper right")
    axes.set(xlabel="h", ylabel="k", title=f"{what}: mean over zones, l = {height:g}")
    axes.set_aspect("equal")
