"""Plot of diffuse features against temperature."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from hklflow.plots.series import POINT, decorate, panels_of

if TYPE_CHECKING:
    from hklflow.quality.feature_words import Course


def diffuse_features(courses: Sequence["Course"], title: str) -> Figure:
    """Draw the correlation lengths and the intensity of each feature against temperature.

    Arrows are one-sided limits (95 %).
    """
    figure, places = panels_of(max(2 * len(courses), 1), 2, 3.4 if courses else 2.0)
    if not courses:
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
        decorate(lengths, "correlation length (Å)", course.name)
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
        decorate(sizes, "mean I (S × r.l.u.³)", course.name)
    figure.suptitle(title)
    return figure
