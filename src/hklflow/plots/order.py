"""Plot of order parameters against temperature."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.plots.series import POINT, decorate, panels_of

if TYPE_CHECKING:
    from hklflow.bragg.order_counts import Counts
    from hklflow.bragg.order_parameter import Order
    from hklflow.bragg.satellite_course import Course


def order_parameters(
    fits: Sequence[tuple[str, "Counts", "Order", "Course"]], title: str, axis: Axis = TEMPERATURE
) -> Figure:
    """Draw the intensity of each vector against temperature, with the fitted curve.

    The band is the interval of 68 % of T_c. Scans that agree with no curve are crossed out. A
    vector that symmetry leaves free has a second panel with its position.

    Parameters
    ----------
    fits : sequence of (vector, counts, order, course)
    """
    free = [
        (vector, course) for vector, _, _, course in fits if course.star.basis.size and course.seen
    ]
    number = len(fits) + len(free)
    figure, places = panels_of(max(number, 1), 2, 3.4 if fits else 2.0)
    if not fits:
        places[0].text(
            0.5,
            0.5,
            f"no propagation vector was measured\nat five {axis.plural} or more",
            ha="center",
            va="center",
        )
        places[0].set_axis_off()
    for axes, (vector, counts, order, _) in zip(places, fits, strict=False):
        axes.axhline(0, color="0.8", lw=0.8)
        if order.t_c is not None:
            axes.axvspan(
                *order.t_c.inner, color="C3", alpha=0.25, lw=0, label=f"{axis.onset}, 68 %"
            )
        label = {"transition": f"fit ({order.kind})", "none": "smooth curve"}
        axes.plot(*order.curve.T, color="C1", label=label.get(order.answer, "smooth curve"))
        x_error = counts.temperature_sigma if np.any(counts.temperature_sigma > 0) else None
        values = (counts.temperature, counts.intensity)
        axes.errorbar(*values, yerr=counts.sigma, xerr=x_error, color="C0", **POINT)
        if order.bad:
            rows = list(order.bad)
            axes.plot(values[0][rows], values[1][rows], "kx", ms=10, label="bad scan")
        decorate(axes, "mean I (S × r.l.u.³)", vector, axis)
        axes.legend(fontsize=9)
    for axes, (vector, course) in zip(places[len(fits) :], free, strict=False):
        _position(axes, vector, course, axis)
    figure.suptitle(title)
    return figure


def _position(axes: Axes, vector: str, course: "Course", axis: Axis) -> None:
    """Draw the displacement of each free component from the mean vector against temperature."""
    rows = course.seen
    t = course.temperature[rows]
    measured = np.array([x.vector for i in rows if (x := course.positions[i]) is not None])
    sigma = np.array([course.sigma(i) for i in rows])
    if course.locked is not None:
        axes.axvspan(*course.locked.inner, color="C3", alpha=0.25, lw=0, label="lock-in, 68 %")
    for i, name in enumerate("hkl"):
        if not np.any(course.star.basis[i]):
            continue
        middle = course.mean[i]
        at = f"{name}, mean {middle:.4f}" if course.moves is not True else f"{name} − {middle:.4f}"
        (line,) = axes.plot(course.temperature, course.vectors[:, i] - middle, lw=1)
        color = line.get_color()
        axes.errorbar(t, measured[:, i] - middle, yerr=sigma[:, i], color=color, label=at, **POINT)
    decorate(axes, "q − mean (r.l.u.)", f"position of {vector}", axis)
    axes.legend(fontsize=9)
