"""Picture of the scale from repeated measurements."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.plots.common import SMALL, figure_of

if TYPE_CHECKING:
    from hklflow.transform.direction import Refined

Floats = NDArray[np.float64]


def refined_scale(corrections: "Mapping[str, Refined]", angles: Mapping[str, Floats]) -> Figure:
    """Draw the factor of the frames, and the range of the direction's factor, of each rotation.

    Parameters
    ----------
    corrections : mapping
        Of each rotation by its name; empty if the scale was not determined.
    angles : mapping
        Scan angles at mid-frame in degrees, of each rotation by its name.
    """
    figure = figure_of(9, 6)
    curve, direction = figure.subplots(2, 1, sharex=True)
    for number, (name, found) in enumerate(corrections.items()):
        angle, colour = angles[name], f"C{number % 10}"
        curve.plot(angle, found.curve, lw=1.2, color=colour, label=name)
        low, high = found.curve - found.errors, found.curve + found.errors
        curve.fill_between(angle, low, high, color=colour, alpha=0.3, lw=0)
        factor = np.exp(found.direction.log.reshape(len(found.direction.log), -1))
        at = angle[np.minimum(np.arange(len(factor)) * found.direction.every, len(angle) - 1)]
        low, middle, high = np.quantile(factor, [0.05, 0.5, 0.95], axis=1)
        direction.fill_between(at, low, high, color=colour, alpha=0.3, lw=0, label=name)
        direction.plot(at, middle, lw=0.8, color=colour)
    curve.set_ylabel("factor of the frame\n(to that by frame_scale)", **SMALL)
    direction.set_ylabel("factor of the direction\n(5 to 95 % of the detector)", **SMALL)
    direction.set_xlabel("scan angle at mid-frame (deg)")
    if corrections:
        curve.legend(loc="best", fontsize=9)
        figure.suptitle("scale from repeated measurements of S(Q)")
    else:
        figure.suptitle("the scale is not determined by repeated measurements: nothing is changed")
    return figure
