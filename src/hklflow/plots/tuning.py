"""Picture of the search for better parameters of the peak search."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hklflow.bragg.tune import Sweep, Tuning
from hklflow.plots.common import SMALL, WIDEST, figure_of


def tuning(result: Tuning, title: str) -> Figure:
    """Draw the score along each parameter, and below it the numbers of indexed and other spots.

    The last series of trials for each parameter is drawn; the other parameters are constant in it.
    """
    last = {sweep.name: sweep for sweep in result.sweeps}
    figure = figure_of(min(3.4 * len(last), WIDEST), 5.6)
    panels = figure.subplots(2, len(last), sharex="col", squeeze=False)
    for column, sweep in enumerate(last.values()):
        _column(panels[0, column], panels[1, column], sweep, result)
    panels[0, 0].set_ylabel("score", **SMALL)
    panels[1, 0].set_ylabel("spots", **SMALL)
    panels[1, 0].legend(loc="best", fontsize=9)
    gain, sigma = result.gain
    outcome = f"gain {gain:.1f} ± {sigma:.1f}" if result.changed else "no better setting"
    figure.suptitle(f"{title}: score {result.start.score:.1f}, {outcome}", fontsize=11)
    return figure


def _column(above: Any, below: Any, sweep: Sweep, result: Tuning) -> None:
    values = sweep.values
    score, indexed, found = (
        np.array([getattr(trial, name) for trial in sweep.trials])
        for name in ("score", "beyond_chance", "total")
    )
    best = max(sweep.trials, key=lambda trial: trial.score)
    noise = [best.better_than(trial)[1] for trial in sweep.trials]
    above.errorbar(values, score, yerr=noise, fmt="o-", ms=4, lw=1, capsize=2)
    marks = {"now": (result.start, "0.4"), "best": (result.best, "C3")}
    for name, (trial, colour) in marks.items():
        for panel in (above, below):
            panel.axvline(
                getattr(trial.params, sweep.name),
                color=colour,
                lw=1,
                ls=":" if name == "now" else "-",
                label=name if panel is above else None,
            )
    above.legend(loc="best", fontsize=9)
    below.plot(values, indexed, "o-", ms=4, lw=1, color="C2", label="indexed, beyond chance")
    below.plot(values, found - indexed, "s--", ms=4, lw=1, color="C1", label="not indexed")
    below.set_ylim(bottom=0)
    below.set_xlabel(sweep.name, **SMALL)
    for panel in (above, below):
        panel.tick_params(labelsize=9)
