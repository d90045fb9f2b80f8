"""Dead, under-responding, hot and stuck pixels, found in sums of many frames."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import Bits, BoolImage, MaskBit
from hklflow.simd.jit import kernel

_FALSE_PIXELS = 0.01  # expected number of good pixels of a whole detector that are called dead
_BLOCK = 16  # side in pixels of the blocks of `expected_counts`


@kernel
def _neighbourhood(image, bad, radius, median, scatter, third_high, third_low):  # type: ignore[no-untyped-def]
    """Compute the local statistics of the good neighbours of every good pixel.

    ``median`` and ``scatter`` (1.4826 MAD) are taken over the square of half size ``radius``.
    ``third_high`` and ``third_low`` are the third highest and third lowest of the 8 nearest
    neighbours; if some of these neighbours are bad, the highest and lowest. ``median`` is NaN if
    there are too few good neighbours.
    """
    n_slow, n_fast = image.shape
    values = np.empty((2 * radius + 1) ** 2)
    near = np.empty(8)
    for i in range(n_slow):
        for j in range(n_fast):
            median[i, j] = np.nan
            if bad[i, j]:
                continue
            n = 0
            m = 0
            for a in range(max(0, i - radius), min(n_slow, i + radius + 1)):
                for b in range(max(0, j - radius), min(n_fast, j + radius + 1)):
                    if bad[a, b] or (a == i and b == j):
                        continue
                    values[n] = image[a, b]
                    n += 1
                    if abs(a - i) <= 1 and abs(b - j) <= 1:
                        near[m] = image[a, b]
                        m += 1
            if n < 8 or m < 3:
                continue
            centre = np.median(values[:n])
            median[i, j] = centre
            for k in range(n):
                values[k] = abs(values[k] - centre)
            scatter[i, j] = 1.4826 * np.median(values[:n])
            ordered = np.sort(near[:m])
            # Next to a gap only three pixels of a spot may be visible: compare with all neighbours.
            rank = 2 if m == 8 else 0
            third_high[i, j] = ordered[m - 1 - rank]
            third_low[i, j] = ordered[rank]


def find_defects(
    summed: NDArray[Any],
    bad: BoolImage,
    *,
    n_sigma: float = 8.0,
    contrast: float = 5.0,
    low_fraction: float = 0.3,
    radius: int = 3,
) -> Bits:
    """Find dead, under-responding and hot pixels in a long summed image.

    A pixel is compared with the median m of its good neighbours in a square of
    ``2 radius + 1`` pixels. The σ of a pixel is the larger of the Poisson error sqrt(m + 1) and
    the scatter (1.4826 MAD) of these neighbours; the scatter is larger on a steep background.

    * hot: ``x - m > n_sigma σ`` and ``x - m > contrast (x3 - m)``, where x3 is the third highest
      of the eight nearest neighbours. A Bragg spot fails the second test because it extends over
      the neighbours; groups of up to three hot pixels pass this test. Next to bad pixels x3 is the
      highest neighbour, because a gap may hide most of a spot. A single hot pixel is found there,
      a pair of hot pixels is not.
    * dead: x = 0 where m is at least `dead_expected`.
    * under-responding: x is below ``low_fraction`` times m, below ``low_fraction`` times x3', and
      ``x3' - x > n_sigma sqrt(x3' + 1)``; x3' is the third lowest of the eight nearest neighbours.

    Draw the beamstop first: the shadow of a thin arm looks like dead pixels.

    Parameters
    ----------
    summed
        Counts (slow, fast) summed over many frames, at least some tens per pixel.
    bad
        Known bad pixels (slow, fast); they are neither judged nor used as neighbours.

    Returns
    -------
    NDArray
        uint32 (slow, fast) with the bits DEAD, UNDER_RESPONDING and OVER_RESPONDING.
    """
    if summed.ndim != 2 or summed.shape != bad.shape:
        raise HklflowError(f"summed image {summed.shape} and mask {bad.shape} differ in shape")
    if radius < 2:
        raise HklflowError(f"radius={radius} of the defect search: give 2 pixels or more")
    image = np.ascontiguousarray(summed, np.float64)
    out = [np.zeros(image.shape) for _ in range(4)]
    _neighbourhood(image, np.ascontiguousarray(bad, np.bool_), radius, *out)
    median, scatter, third_high, third_low = out
    judged = np.isfinite(median)
    m = np.where(judged, median, 0.0)
    sigma = np.maximum(np.sqrt(np.maximum(m, 0) + 1), scatter)
    excess = image - m
    hot = judged & (excess > n_sigma * sigma) & (excess > contrast * (third_high - m))
    dead = judged & (image == 0) & (m >= dead_expected(int(judged.sum())))
    floor = np.maximum(third_low, 0)
    low = judged & ~dead & (floor - image > n_sigma * np.sqrt(floor + 1))
    low &= image < low_fraction * np.minimum(m, floor)
    bits = np.zeros(image.shape, np.uint32)
    bits[hot] |= np.uint32(MaskBit.OVER_RESPONDING)
    bits[dead] |= np.uint32(MaskBit.DEAD)
    bits[low] |= np.uint32(MaskBit.UNDER_RESPONDING)
    return bits


def dead_expected(n_pixels: int) -> float:
    """Return the expected counts at which a pixel without counts is dead.

    With m counts expected, a good pixel has none with the probability exp(-m). With this m, 0.01
    good pixels of a detector have none.
    """
    return math.log(max(n_pixels, 1) / _FALSE_PIXELS)


def expected_counts(summed: NDArray[Any], bad: BoolImage) -> NDArray[np.float64]:
    """Return the median of the 16 x 16 pixels around each good pixel, as a flat array.

    Where it is below `dead_expected`, `find_defects` sees no dead pixel.

    Parameters
    ----------
    summed
        Counts (slow, fast) summed over frames.
    bad
        Known bad pixels (slow, fast).
    """
    slow, fast = (np.arange(n) // _BLOCK for n in summed.shape)
    block = (slow[:, None] * (fast[-1] + 1) + fast)[~bad]
    order = np.lexsort((summed[~bad], block))
    numbers = np.bincount(block)
    middle = np.cumsum(numbers) - numbers + numbers // 2
    return np.asarray(summed[~bad][order][middle[block]], np.float64)


def find_constant(
    summed: NDArray[Any],
    maximum: NDArray[Any],
    valid_frames: NDArray[np.integer[Any]],
    *,
    minimum: float = 10.0,
    min_frames: int = 10,
) -> BoolImage:
    """Find pixels with the same counts on every frame; such pixels do not count photons.

    Parameters
    ----------
    summed, maximum, valid_frames
        Sum, maximum and number of valid frames of each pixel, (slow, fast); see
        :class:`hklflow.images.statistics.FrameStatistics`.
    minimum
        Smallest constant value that is flagged. Low counts may agree by chance; ten counts on ten
        frames agree with a probability below 1e-8.
    min_frames
        Fewest valid frames with which a pixel is judged.
    """
    if min_frames < 2:
        raise HklflowError(f"min_frames={min_frames} of the constant pixels: give 2 or more")
    constant = np.asarray(maximum, np.float64) * valid_frames == summed
    return np.asarray(constant & (maximum >= minimum) & (valid_frames >= min_frames))
