"""When a refinement in cycles is done: the rule alone, without any geometry.

A cycle refines and measures again. The loop stops when beam centre and distance stand still
and the rings fit; when the median abs(Δ2θ) rises, what was before is kept (SNAPRed's rule);
and after `max_cycles`. Parameters themselves are no measure: poni and rot trade against each
other.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np

T = TypeVar("T")

Reason = Literal["settled", "still", "median rose", "cap"]


@dataclass(frozen=True)
class Cycle:
    """What a cycle ended with.

    Attributes
    ----------
    beam_centre : (slow, fast)
        Pixels.
    distance, distance_sigma : float
        Along the beam, metres.
    median_off, fwhm : float
        Median of abs(Δ2θ) over the points and width of the rings, radians.
    rings, points : int
        How many were used.
    what : str
        What kind of cycle it was.
    """

    beam_centre: tuple[float, float]
    distance: float
    distance_sigma: float
    median_off: float
    fwhm: float
    rings: int
    points: int
    what: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, angles in degrees."""
        data = asdict(self)
        for name in ("median_off", "fwhm"):
            data[f"{name}_deg"] = float(np.degrees(data.pop(name)))
        return data


@dataclass(frozen=True)
class Tolerance:
    """When a loop is settled.

    Attributes
    ----------
    centre : float
        Largest move of the beam centre between cycles, pixels.
    distance : float
        Largest change of the distance in its σ.
    off : float
        Largest median abs(Δ2θ) in FWHM.
    """

    centre: float = 0.02
    distance: float = 1.0
    off: float = 0.05

    def still(self, before: Cycle, after: Cycle) -> bool:
        """Tell whether beam centre and distance stand still."""
        moved = np.hypot(*np.subtract(after.beam_centre, before.beam_centre))
        far = abs(after.distance - before.distance)
        return bool(moved < self.centre and far < self.distance * after.distance_sigma)

    def fits(self, cycle: Cycle) -> bool:
        """Tell whether the rings fit."""
        return cycle.median_off <= self.off * cycle.fwhm


@dataclass(frozen=True)
class Converged(Generic[T]):
    """Where a loop ended.

    Attributes
    ----------
    state
        The best state.
    cycle : Cycle
        Of that state.
    history : list of Cycle
        All cycles, with one that was thrown away at the end if the median rose.
    reason : str
        "settled": nothing moves and the rings fit; "still": nothing moves, but the rings
        scatter; "median rose": the cycle before was kept; "cap": `max_cycles` were not
        enough.
    """

    state: T
    cycle: Cycle
    history: list[Cycle]
    reason: Reason


def converge(
    step: Callable[[T], tuple[T, Cycle]],
    state: T,
    *,
    max_cycles: int = 10,
    tolerance: Tolerance | None = None,
) -> Converged[T]:
    """Repeat `step` until it settles.

    Parameters
    ----------
    step : callable
        State -> next state and its `Cycle`.
    state
        Where to begin.
    max_cycles : int
        At least 1.
    """
    limit = tolerance or Tolerance()
    state, last = step(state)
    history = [last]
    while len(history) < max_cycles:
        after, cycle = step(state)
        history.append(cycle)
        still = limit.still(last, cycle)
        gained = last.median_off - cycle.median_off
        if gained >= 0:  # not if it is nan
            state, last = after, cycle
        # A last digit that jitters while nothing moves is not a rise.
        if still and limit.fits(last):
            return Converged(state, last, history, "settled")
        if still and gained < 0.01 * last.median_off:
            return Converged(state, last, history, "still")
        if not gained >= 0:
            return Converged(state, last, history, "median rose")
    return Converged(state, last, history, "cap")
