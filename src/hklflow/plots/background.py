"""Picture of the background that does not come from the crystal."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from hklflow.images.surroundings import Part, Rings
from hklflow.plots.common import SMALL, figure_of


def background(rings: Rings, parts: Sequence[Part], title: str) -> Figure:
    """Draw measured counts, background and rest against |Q|, and the factors of the frames."""
    figure = figure_of(9, 7)
    curves, factors = figure.subplots(2, 1, height_ratios=[2.2, 1])
    rest = rings.measured - rings.background
    error = np.hypot(rings.noise, rings.level)
    curves.plot(rings.q, rings.measured, lw=1.2, color="0.3", label="measured")
    curves.plot(rings.q, rings.background, lw=1.2, color="C1", label="background")
    curves.plot(rings.q, rest, lw=1.4, color="C0", label="rest")
    curves.fill_between(rings.q, rest - error, rest + error, color="C0", alpha=0.3, lw=0)
    curves.axhline(0, lw=0.6, color="0.6")
    curves.set_xlabel("|Q| (1/Å)")
    curves.set_ylabel("mean counts of a pixel and frame", **SMALL)
    curves.legend(fontsize=8)
    for part in parts:
        frames = np.arange(len(part.factor)) + 0.5
        factors.plot(frames, part.factor, lw=1.2, label=f"{part.name} (± {part.error:.2%})")
    factors.set_ylim(0, 1.1 * max(float(part.factor.max()) for part in parts))
    factors.set_xlabel("frame")
    factors.set_ylabel("factor of the background", **SMALL)
    factors.legend(fontsize=8)
    figure.suptitle(title)
    return figure
