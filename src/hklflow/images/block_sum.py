"""Sums of blocks of pixels, frame by frame, exact for counts.

The sum of a block on a frame is, in this order:

* flagged, if a pixel of the block is masked or flagged (the largest number of an unsigned type; a
  negative count; a float that is not finite or below the smallest valid value);
* the saturation value of the sums, if a pixel of the block is saturated: ``n (s - 1) + 1`` for n
  pixels of saturation value s (n s for floats), which no sum of unsaturated pixels reaches;
* else the sum of all pixels. A sum never contains only a part of a block.

Counts are stored as uint32 with its largest number as the flag, floats as float32 with NaN as the
flag.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import BoolImage, flag_value
from hklflow.simd.jit import kernel

FLAG = 2**32 - 1
_NEVER = 2**62


@kernel
def _sum_counts(frame, bad, factor, flag_from, saturated_from, mark, limit, out):  # type: ignore[no-untyped-def]
    """Sum one frame of integers; return the number of sums that do not fit."""
    n_slow, n_fast = out.shape
    width = n_fast * factor
    # Rows first: sum, maximum and minimum along rows are fast.
    total = np.empty(width, np.int64)
    high, low = np.empty(width, frame.dtype), np.empty(width, frame.dtype)
    beyond = 0
    for i in range(n_slow):
        row = frame[i * factor]
        for x in range(width):
            value = row[x]
            total[x] = np.int64(value)
            high[x] = value
            low[x] = value
        for k in range(1, factor):
            row = frame[i * factor + k]
            for x in range(width):
                value = row[x]
                total[x] += np.int64(value)
                high[x] = max(high[x], value)
                low[x] = min(low[x], value)
        for j in range(n_fast):
            x = j * factor
            found, most, least = total[x], np.int64(high[x]), np.int64(low[x])
            for k in range(1, factor):
                found += total[x + k]
                most = max(most, np.int64(high[x + k]))
                least = min(least, np.int64(low[x + k]))
            if bad[i, j] or least < 0 or most >= flag_from:
                out[i, j] = np.uint32(FLAG)
            elif most >= saturated_from:
                out[i, j] = np.uint32(mark)
            elif most >= limit or found >= limit:
                beyond += 1
            else:
                out[i, j] = np.uint32(found)
    return beyond


@kernel
def _sum_values(frame, bad, factor, valid_from, saturated_from, mark, out):  # type: ignore[no-untyped-def]
    """Sum one frame of floats."""
    n_slow, n_fast = out.shape
    for i in range(n_slow):
        for j in range(n_fast):
            found, most, flagged = 0.0, -np.inf, bad[i, j]
            for y in range(i * factor, (i + 1) * factor):
                for x in range(j * factor, (j + 1) * factor):
                    value = np.float64(frame[y, x])
                    flagged |= not (np.isfinite(value) and value >= valid_from)
                    found += value
                    most = max(most, value)
            if flagged:
                out[i, j] = np.float32(np.nan)
            else:
                out[i, j] = np.float32(mark if most >= saturated_from else found)


@dataclass(frozen=True)
class BlockSum:
    """Sums of blocks of frames of one type.

    Parameters
    ----------
    factor : int
        Pixels along each side of a block.
    bad : (blocks slow, blocks fast) bool array
        Blocks with a masked pixel.
    dtype : numpy dtype
        Type of the frames.
    saturation : float or None
        Smallest value of a saturated pixel. None: pixels do not saturate.
    valid_from : float
        Smallest valid value of floating-point frames.
    """

    factor: int
    bad: BoolImage
    dtype: np.dtype[Any]
    saturation: float | None = None
    valid_from: float = 0.0
    stored: np.dtype[Any] = field(init=False)
    """Type of the sums."""
    saturated: float | None = field(init=False)
    """Value of sums with a saturated pixel; None: pixels do not saturate."""

    def __post_init__(self) -> None:
        counts = np.issubdtype(self.dtype, np.integer)
        mark = None
        if self.saturation is not None:
            n = self.factor**2
            least = np.ceil(self.saturation)
            mark = min(n * (least - 1) + 1, FLAG - 1.0) if counts else n * self.saturation
            mark = float(mark if counts else np.float32(mark))
        object.__setattr__(self, "stored", np.dtype(np.uint32 if counts else np.float32))
        object.__setattr__(self, "saturated", mark)

    def __call__(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Sum frames (n, slow, fast) to (n, blocks slow, blocks fast).

        Raises
        ------
        HklflowError
            If a sum of counts does not fit 32 bits.
        """
        out = np.empty((len(frames), *self.bad.shape), self.stored)
        mark = self.saturated or 0.0
        saturation = np.inf if self.saturation is None else self.saturation
        for z, frame in enumerate(frames):
            if self.stored.kind == "f":
                _sum_values(frame, self.bad, self.factor, self.valid_from, saturation, mark, out[z])
                continue
            flag = flag_value(self.dtype) or _NEVER
            first = int(min(np.ceil(saturation), _NEVER))
            limit = FLAG if self.saturation is None else int(mark)
            if _sum_counts(
                frame,
                self.bad,
                self.factor,
                min(flag, _NEVER),
                first,
                int(mark),
                max(limit, 1),
                out[z],
            ):
                raise HklflowError(
                    f"a block of {self.factor} x {self.factor} pixels has more than {limit} "
                    "counts, too many for 32 bits; the counts are damaged, or `import_scan: "
                    "saturation` is missing"
                )
        return out
