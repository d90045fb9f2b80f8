"""Angles of a SPEC scan: a straight line through the encoder readings of all points."""

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.beamlines.spec_counters import column_of
from hklflow.formats.spec import SpecScan

EVEN = 0.25  # largest deviation of an angle from the line in steps, unless the user changes it
_TOLD = 0.05  # deviation in steps from which it is reported


def angles_of(scan: SpecScan, circle: str, request: Request) -> tuple[float, float, list[str]]:
    """Return start of the first frame and step, in degrees, and notes on irregularities.

    The line is a least-squares fit: one bad reading at an end does not tilt it.

    Raises
    ------
    HklflowError
        If the column is missing or constant, or deviates from the line by more than allowed.
    """
    angles = column_of(scan, circle)
    if angles is None:
        raise HklflowError(f"it has no column {circle}: the angles of its frames are unknown")
    point = np.arange(len(angles)) - (len(angles) - 1) / 2
    step = round(float(point @ angles / (point @ point)), 9)
    off = np.abs(angles - angles.mean() - step * point)
    worst = int(off.argmax())
    if step == 0 or not np.isfinite(step):
        raise HklflowError(
            f"its column {circle} does not change evenly (by {step:g} degrees a step)"
        )
    steps = float(off[worst]) / abs(step)
    message = (
        f"its angles are not evenly spaced: {circle} of point {worst} deviates by "
        f"{off[worst]:.3g} degrees from a line with steps of {step:.6g}, {steps:.2g} of a step "
        f"(rms {np.sqrt(np.mean(off**2)) / abs(step):.2g})"
    )
    if steps > uneven(request):
        raise HklflowError(
            f"{message}; if the readings are wrong and not the motor, --option "
            f"uneven={np.ceil(10 * steps) / 10:g} uses the line"
        )
    part = {"start": 0.0, "middle": 0.5, "end": 1.0}[request.options.get("angles", "middle")]
    start = float(angles.mean()) + (float(point[0]) - part) * step
    return round(start, 9), step, [f"{message}; the line is used"] if steps > _TOLD else []


def uneven(request: Request) -> float:
    """Return the largest allowed deviation of an angle from the line, in steps.

    Raises
    ------
    HklflowError
        If the option is not a valid number.
    """
    text = request.options.get("uneven")
    try:
        value = EVEN if text is None else float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < np.inf:
        raise HklflowError(f"uneven is {text!r}; enter it in steps of the scan, such as 0.5")
    return value
