"""Plot of the vectors at which the ΔPDF changes with temperature."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import norm

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.plots.series import POINT, decorate, panels_of
from hklflow.quality.pdf_words import strongest, vector_name

if TYPE_CHECKING:
    from hklflow.quality.pdf_words import Course

_MOST = 7  # vectors with a panel of their own
_LEAST_P = 1e-300


def pdf_changes(course: "Course", title: str, axis: Axis = TEMPERATURE) -> Figure:
    """Draw the vectors that change most against temperature, and the significance of all.

    Filled symbols are vectors that change; the dashed line is the limit of the claims.
    """
    found = course.changes
    if found is None:
        figure, (place,) = panels_of(1, 1, 2.0)
        place.text(0.5, 0.5, "no vector could be compared", ha="center", va="center")
        place.set_axis_off()
        figure.suptitle(title)
        return figure
    rows = strongest(course)[:_MOST]
    figure, places = panels_of(len(rows) + 1, 2, 3.0)
    t = course.temperature[course.used]
    for place, i in zip(places[1:], rows, strict=True):
        place.errorbar(t, found.departure[:, i], yerr=found.sigma[:, i], color="C0", **POINT)
        length = course.length[course.reference, i]
        name = f"{vector_name(course.vectors[i])}, {length:.2f} Å"
        decorate(place, "3D-ΔPDF (S per Å³)", name, axis)
        place.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    place = places[0]
    length = course.length[course.reference]
    significance = norm.isf(np.maximum(found.p, _LEAST_P) / 2)
    quiet = course.tested & ~found.changed
    place.plot(length[quiet], significance[quiet], "o", ms=4, mfc="none", color="0.5")
    place.plot(length[found.changed], significance[found.changed], "o", ms=5, color="C3")
    if found.limit > 0:
        place.axhline(norm.isf(found.limit / 2), color="0.5", ls="--", lw=0.8)
    n, changed = int(course.tested.sum()), int(found.changed.sum())
    place.set(
        xlabel="|r| (Å)",
        ylabel="significance of the change (σ)",
        title=f"{changed} of {n} vectors change",
    )
    place.set_ylim(bottom=0)
    figure.suptitle(title)
    return figure
