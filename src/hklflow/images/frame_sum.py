"""Exact integer sums of frames that were measured several times.

For every pixel and frame, in this order:

* flagged in any of the scans (the largest number of an unsigned type; a negative count): the
  sum is flagged, with the largest number of its own type;
* saturated in any of the scans: the sum has its saturation value ``n (s - 1) + 1`` for n scans
  of saturation value s, the least number that n counts below s cannot reach;
* else the sum of the counts.

Sums are made in 64 bits and stored in the smallest unsigned type that holds them.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import flag_value

_STORED = (np.uint16, np.uint32, np.uint64)


def largest_count(dtype: np.dtype[Any], saturation: float | None) -> int:
    """Largest number that a pixel of a scan can count: below flag and saturation."""
    if not np.issubdtype(dtype, np.integer):
        raise HklflowError(f"frames of type {dtype} are no counts: sums are made of integers")
    largest = int(np.iinfo(dtype).max) - (flag_value(dtype) is not None)
    return largest if saturation is None else min(largest, _threshold(saturation) - 1)


def _threshold(saturation: float) -> int:
    """First whole count that is saturated."""
    return int(np.ceil(saturation))


@dataclass(frozen=True)
class SumType:
    """How a sum of scans is stored.

    Attributes
    ----------
    dtype : numpy dtype
        Unsigned.
    flag : int
        Value of pixels without a measurement.
    saturation : int or None
        Value of pixels that are saturated; None if the scans do not saturate.
    """

    dtype: np.dtype[Any]
    flag: int
    saturation: int | None

    @property
    def limit(self) -> int:
        """Every sum of counts must be below."""
        return self.flag if self.saturation is None else self.saturation


def sum_types(dtypes: list[np.dtype[Any]], saturation: float | None) -> list[SumType]:
    """Types to store the sum of scans of `dtypes` in: the first that holds the counts.

    The first holds any counts that the scans could have, if 32 bits can; if they cannot it has
    32 bits all the same, which real counts fit, and the second has 64.
    """
    bound = sum(largest_count(dtype, saturation) for dtype in dtypes)
    saturated = None if saturation is None else len(dtypes) * (_threshold(saturation) - 1) + 1
    found = []
    for stored in _STORED:
        flag = int(np.iinfo(stored).max)
        holds = bound < flag and (saturated is None or saturated < flag)
        if holds or stored is not np.uint16:
            mark = None if saturated is None else min(saturated, flag - 1)
            found.append(SumType(np.dtype(stored), flag, mark))
        if holds:
            break
    return found


@dataclass
class FrameSum:
    """Sum of one block of frames (n, slow, fast).

    Parameters
    ----------
    shape : (n, slow, fast)
    """

    shape: tuple[int, int, int]
    counts: NDArray[np.uint64] = field(init=False)
    flagged: NDArray[np.bool_] = field(init=False)
    saturated: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros(self.shape, np.uint64)
        self.flagged = np.zeros(self.shape, np.bool_)
        self.saturated = np.zeros(self.shape, np.bool_)

    def add(self, block: NDArray[Any], saturation: float | None) -> None:
        """Add the same frames of another scan."""
        flag = flag_value(block.dtype)
        # Frame by frame, so that nothing of the block's size is needed in between.
        for z, frame in enumerate(block):
            bad = frame < 0 if flag is None else frame == flag
            self.flagged[z] |= bad
            clean = np.where(bad, 0, frame).astype(np.uint64)
            if saturation is not None:
                self.saturated[z] |= clean >= np.uint64(_threshold(saturation))
            self.counts[z] += clean
            # Only scans of 64-bit counts can do this.
            wrapped = np.argwhere(self.counts[z] < clean)
            if wrapped.size:
                raise HklflowError(
                    f"the sum at (slow, fast) {tuple(wrapped[0].tolist())} is more than 64 bits "
                    "hold; the counts are damaged or no counts"
                )

    def stored(self, kind: SumType) -> NDArray[Any] | None:
        """Return the sum as it is stored (n, slow, fast); None if a count does not fit."""
        out = np.empty(self.shape, kind.dtype)
        for z, counts in enumerate(self.counts):
            invalid = self.flagged[z] | self.saturated[z]
            counts[invalid] = 0
            if np.any(counts >= np.uint64(kind.limit)):
                return None
            out[z] = counts
            if kind.saturation is not None:
                out[z][self.saturated[z]] = kind.saturation
            out[z][self.flagged[z]] = kind.flag
        return out
