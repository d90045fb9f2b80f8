"""Parts of the detector whose backgrounds between the peaks are compared."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_PARTS = 4  # parts along each side
#: Numbers of pixels that are not in the annulus, and of pixels of parts that are too small.
OUTSIDE, LEFT_OUT = np.int8(-1), np.int8(127)


def parts_of(
    in_patch: Floats, n_patches: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the part of the detector of each patch, and the parts that are large enough.

    Parameters
    ----------
    in_patch : (n_patches,) array
        Number of pixels of the annulus in each patch.
    n_patches : (int, int)
        Number of patches along slow and fast.
    """
    part = [np.arange(n) * min(_PARTS, n) // n for n in n_patches]
    label = (part[0][:, None] * _PARTS + part[1]).ravel()
    size = np.bincount(label, in_patch, _PARTS**2)
    return label, np.flatnonzero(size > size.max() / 4)


def compared(counts: Floats, expected: Floats, member: Floats) -> tuple[Floats, Floats]:
    """Return the ratio of counts to expected counts for parts of the detector, and its error.

    Parameters
    ----------
    counts, expected : (n_frames, n_patches) arrays
    member : (n_parts, n_patches) array
        1 for the patches of a part, else 0.
    """
    of_parts, should = counts @ member.T, expected @ member.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(should > 0, of_parts / should, np.nan)
        errors = np.where(should > 0, np.sqrt(should) / should, np.nan)
    return ratio, errors


def numbered(kept: NDArray[np.int64]) -> NDArray[np.int8]:
    """Return the number of each part among the parts that are kept; `LEFT_OUT` for the others."""
    number = np.full(_PARTS**2, LEFT_OUT, np.int8)
    number[kept] = np.arange(len(kept))
    return number
