"""Exact integer sums of frames that were measured several times.

The sum of a pixel on a frame is, in this order:

* flagged (the largest number of the type of the sum), if the pixel is flagged in any scan (the
  largest number of an unsigned type; a negative count);
* the saturation value of the sum, if the pixel is saturated in any scan. For n scans with the
  saturation value s it is ``n (s - 1) + 1``: a sum of n unsaturated counts is always smaller;
* else the sum of the counts.

Sums are computed in 64 bits and stored in the smallest unsigned type that can hold them.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import flag_value

_STORED = (np.uint16, np.uint32, np.uint64)


def largest_count(dtype: np.dtype[Any], saturation: float | None) -> int:
    """Return the largest valid count of a pixel of one scan, below flag and saturation."""
    if not np.issubdtype(dtype, np.integer):
        raise HklflowError(f"frames of type {dtype} cannot be summed: give frames of integers")
    largest = int(np.iinfo(dtype).max) - (flag_value(dtype) is not None)
    return largest if saturation is None else min(largest, _threshold(saturation) - 1)


def _threshold(saturation: float) -> int:
    """Return the smallest integer count that is saturated."""
    return int(np.ceil(saturation))


@dataclass(frozen=True)
class SumType:
    """Type in which a sum of scans is stored.

    Attributes
    ----------
    dtype : numpy dtype
        Unsigned integer type.
    flag : int
        Value of invalid pixels.
    saturation : int or None
        Value of saturated pixels. None: the scans do not saturate.
    """

    dtype: np.dtype[Any]
    flag: int
    saturation: int | None

    @property
    def limit(self) -> int:
        """Upper limit; every sum of counts must be smaller."""
        return self.flag if self.saturation is None else self.saturation


def sum_types(dtypes: list[np.dtype[Any]], saturation: float | None) -> list[SumType]:
    """Return the types to try for the sum of scans with types ``dtypes``, smallest first.

    If 16 or 32 bits are enough for all possible counts, this type is the only one. Otherwise the
    first type has 32 bits, which is usually enough for measured counts, and the second has 64 bits.
    """
    bound = sum(largest_count(dtype, saturation) for dtype in dtypes)
    saturated = None if saturation is None else len(dtypes) * (_threshold(saturation) - 1) + 1
    types = []
    for stored in _STORED:
        flag = int(np.iinfo(stored).max)
        holds = bound < flag and (saturated is None or saturated < flag)
        if holds or stored is not np.uint16:
            mark = None if saturated is None else min(saturated, flag - 1)
            types.append(SumType(np.dtype(stored), flag, mark))
        if holds:
            break
    return types


@dataclass
class FrameSum:
    """Sum of scans for one block of frames.

    Parameters
    ----------
    shape : (n, slow, fast)
        Shape of the block.
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
        # Frame by frame, so that no other arrays of the size of the block are needed.
        for z, frame in enumerate(block):
            bad = frame < 0 if flag is None else frame == flag
            self.flagged[z] |= bad
            clean = np.where(bad, 0, frame).astype(np.uint64)
            if saturation is not None:
                self.saturated[z] |= clean >= np.uint64(_threshold(saturation))
            self.counts[z] += clean
            # Only scans of 64-bit counts can overflow.
            wrapped = np.argwhere(self.counts[z] < clean)
            if wrapped.size:
                raise HklflowError(
                    f"the sum at (slow, fast) {tuple(wrapped[0].tolist())} does not fit 64 bits; "
                    "the frames are damaged, or do not hold counts"
                )

    def stored(self, kind: SumType) -> NDArray[Any] | None:
        """Return the sum (n, slow, fast) in the type ``kind``; None if a count does not fit."""
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
