"""Angles of a SPEC scan: a straight line through what the encoder read at each point."""

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.beamlines.spec_counters import column_of
from hklflow.formats.spec import SpecScan

EVEN = 0.25  # of a step, by which angles may be off the line, unless a user allows more
_TOLD = 0.05  # of a step, from which on it is told


def angles_of(scan: SpecScan, circle: str, request: Request) -> tuple[float, float, list[str]]:
    """Start of the first frame and step, in degrees, and what is odd.

    The straight line is that of least squares: one bad reading at an end does not turn it.

    Raises
    ------
    HklflowError
        If the column is missing, does not turn, or is off the line by more than is allowed.
    """
    at = column_of(scan, circle)
    if at is None:
        raise HklflowError(f"it has no column {circle}: the angles of its frames are not known")
    point = np.arange(len(at)) - (len(at) - 1) / 2
    step = round(float(point @ at / (point @ point)), 9)
    off = np.abs(at - at.mean() - step * point)
    worst = int(off.argmax())
    if step == 0 or not np.isfinite(step):
        raise HklflowError(f"its column {circle} does not turn evenly (by {step:g} degrees a step)")
    steps = float(off[worst]) / abs(step)
    told = (
        f"its angles are not evenly spaced: {circle} of point {worst} is {off[worst]:.3g} degrees "
        f"off a line with steps of {step:.6g}, {steps:.2g} of a step (rms "
        f"{np.sqrt(np.mean(off**2)) / abs(step):.2g})"
    )
    if steps > uneven(request):
        raise HklflowError(
            f"{told}; if the readings are off and not the motor, --option "
            f"uneven={np.ceil(10 * steps) / 10:g} takes the line"
        )
    part = {"start": 0.0, "middle": 0.5, "end": 1.0}[request.options.get("angles", "middle")]
    start = float(at.mean()) + (float(point[0]) - part) * step
    return round(start, 9), step, [f"{told}; the line is taken"] if steps > _TOLD else []


def uneven(request: Request) -> float:
    """Steps by which an angle may be off the line.

    Raises
    ------
    HklflowError
        If the option is no such number.
    """
    text = request.options.get("uneven")
    try:
        value = EVEN if text is None else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < np.inf:
        raise HklflowError(f"uneven is {text!r}; give it in steps of the scan, such as 0.5")
    return value
