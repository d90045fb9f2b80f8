"""Convergence of a refinement in cycles; independent of the geometry.

A cycle refines the geometry and measures the rings again. The loop stops when beam centre and
distance no longer change and the rings fit. It also stops when the median abs(Δ2θ) rises (then the
cycle before is kept, as in SNAPRed), and after `max_cycles`. The parameters poni and rot are not
tested, because they are correlated.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np

T = TypeVar("T")

Reason = Literal["settled", "still", "median rose", "cap"]


@dataclass(frozen=True)
class Cycle:
    """Result of one cycle.

    Attributes
    ----------
    beam_centre : (slow, fast)
        Pixels.
    distance, distance_sigma : float
        Distance along the beam and its σ, metres.
    median_off, fwhm : float
        Median of abs(Δ2θ) over the points, and width of the rings, radians.
    rings, points : int
        Number of used rings and points.
    what : str
        Name of the step to which the cycle belongs.
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
        """Return JSON-ready data, with angles in degrees."""
        data = asdict(self)
        for name in ("median_off", "fwhm"):
            data[f"{name}_deg"] = float(np.degrees(data.pop(name)))
        return data


@dataclass(frozen=True)
class Tolerance:
    """Limits for convergence.

    Attributes
    ----------
    centre : float
        Largest change of the beam centre between cycles, pixels.
    distance : float
        Largest change of the distance, in its σ.
    off : float
        Largest median abs(Δ2θ), in FWHM.
    """

    centre: float = 0.02
    distance: float = 1.0
    off: float = 0.05

    def still(self, before: Cycle, after: Cycle) -> bool:
        """Return True if beam centre and distance changed by less than the limits."""
        moved = np.hypot(*np.subtract(after.beam_centre, before.beam_centre))
        far = abs(after.distance - before.distance)
        return bool(moved < self.centre and far < self.distance * after.distance_sigma)

    def fits(self, cycle: Cycle) -> bool:
        """Return True if the median abs(Δ2θ) is below its limit."""
        return cycle.median_off <= self.off * cycle.fwhm


@dataclass(frozen=True)
class Converged(Generic[T]):
    """Result of a loop.

    Attributes
    ----------
    state
        The best state.
    cycle : Cycle
        Cycle of the best state.
    history : list of Cycle
        All cycles, including a rejected last cycle if the median rose.
    reason : str
        "settled": no more changes, and the rings fit. "still": no more changes, but the rings
        scatter. "median rose": the median abs(Δ2θ) rose, so the cycle before was kept. "cap": not
        converged in `max_cycles`.
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
    """Repeat `step` until the refinement converges.

    Parameters
    ----------
    step : callable
        Function that takes a state and returns the next state and its `Cycle`.
    state
        First state.
    max_cycles : int
        Largest number of cycles, at least 1.
    """
    limit = tolerance or Tolerance()
    state, last = step(state)
    history = [last]
    while len(history) < max_cycles:
        after, cycle = step(state)
        history.append(cycle)
        still = limit.still(last, cycle)
        gained = last.median_off - cycle.median_off
        if gained >= 0:  # False for nan
            state, last = after, cycle
        # After convergence, rounding errors may increase the median; this is not a rise.
        if still and limit.fits(last):
            return Converged(state, last, history, "settled")
        if still and gained < 0.01 * last.median_off:
            return Converged(state, last, history, "still")
        if not gained >= 0:
            return Converged(state, last, history, "median rose")
    return Converged(state, last, history, "cap")
