"""The annulus in |Q| in which the background between the Bragg peaks is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

BoolImage = NDArray[np.bool_]
Floats = NDArray[np.float64]

# Inside is the scattering of air around the beam stop; outside are the corners, with few pixels.
_INNER, _OUTER = 0.3, 0.95
# A detector that sees no more than this outermost part of |Q| is used up to its corners.
_FAR = 0.9


@dataclass(frozen=True)
class Annulus:
    """A range of |Q| and its pixels.

    Attributes
    ----------
    fractions : (float, float)
        Both ends, as fractions of the largest |Q| on the detector.
    ends : (float, float)
        Both ends in 1/Å.
    inside : (slow, fast) array
        True for the pixels (also bad ones) of the range.
    sentence : str
        One line for the log.
    """

    fractions: tuple[float, float]
    ends: tuple[float, float]
    inside: BoolImage
    sentence: str


def annulus(q: Floats, good: BoolImage, given: Sequence[float] | None) -> Annulus:
    """Return the annulus for the |Q| of the pixels.

    Parameters
    ----------
    q : (slow, fast) array
        |Q| of the pixels, 1/Å.
    good : (slow, fast) array
        True for the pixels that are not masked.
    given : (float, float) or None
        Ends as fractions of the largest |Q|. None: from 0.3 (or the smallest |Q| of good pixels, if
        this is larger) to 0.95; to 1 if the detector has only |Q| above 0.9.

    Raises
    ------
    HklflowError
        If the range has no good pixel.
    """
    largest = float(q.max())
    if not good.any():
        raise HklflowError("every pixel is masked: check the mask and the frames")
    smallest, outermost = (float(f(q[good])) for f in (np.min, np.max))
    if given is None:
        start = max(_INNER * largest, smallest)
        ends = (start, _OUTER * largest if start < _FAR * largest else largest)
    else:
        ends = (given[0] * largest, given[1] * largest)
    low, high = (end / largest for end in ends)
    inside = (q >= ends[0]) & (q <= ends[1])
    if not (inside & good).any():
        what = "is given from the larger to the smaller end" if low > high else "has no good pixel"
        raise HklflowError(
            f"annulus [{low:g}, {high:g}] of the background {what}: its ends are fractions of the "
            f"largest |Q| on the detector ({largest:.4g} 1/Å), and the good pixels are from "
            f"{smallest / largest:.3g} to {outermost / largest:.3g}; change `find_peaks: annulus`, "
            "or leave it out"
        )
    source = "chosen from the |Q| of the good pixels" if given is None else "as given"
    return Annulus(
        (low, high),
        ends,
        inside,
        f"background from |Q| {ends[0]:.4g} to {ends[1]:.4g} 1/Å, {source}: {low:.3g} to "
        f"{high:.3g} of the largest",
    )
