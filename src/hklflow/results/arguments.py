"""Numbers that users give to the methods of results; text and complex numbers are refused."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError, shortened

Floats = NDArray[np.float64]


def real(given: Any, *shapes: tuple[int, ...]) -> Floats | None:
    """Return finite real numbers as an array of one of some shapes; None for anything else."""
    try:
        values = np.asarray(given)
    except ValueError:  # rows of different lengths
        return None
    if values.dtype.kind not in "iuf" or values.shape not in shapes:
        return None
    return values.astype(np.float64) if np.isfinite(values).all() else None


def positive(name: str, given: Any, *, or_zero: bool = False) -> float:
    """Return a positive number.

    Raises
    ------
    HklflowError
        If it is none.
    """
    value = real(given, ())
    if value is None or value < 0 or (value == 0 and not or_zero):
        what = "neither 0 nor a positive number" if or_zero else "not a positive number"
        raise HklflowError(f"{name}: {shown(given)} is {what}; correct it")
    return float(value)


def shown(given: Any) -> str:
    """Return a value for a message."""
    return shortened(repr(given))
