"""Tell hot pixels, which count on all frames, from reflections, which pass in a few."""

import numpy as np

from hklflow.images.masks import Bits, MaskBit
from hklflow.images.pixel_moments import Moments


def effective_frames(moments: Moments) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return over how many frames the counts of each pixel are spread, (slow, fast).

    It is (Σx)² / Σx(x - 1): the number of frames for a constant rate, whatever the Poisson noise,
    and 3.5 σ for a Gaussian rocking curve of width σ frames. It is infinite if no frame has two
    counts.
    """
    pairs = moments.squares - moments.total
    spread = np.full(moments.total.shape, np.inf)
    return np.divide(moments.total**2, pairs, where=pairs > 0, out=spread)


def without_reflections(bits: Bits, moments: Moments, least: float = 0.7) -> Bits:
    """Return the bits without hot pixels that count in less than ``least`` of the frames.

    Sharp spots of a short scan, one or two pixels wide, look like hot pixels in the sum. Pixels
    that flicker are found by their noise.
    """
    hot = (bits & np.uint32(MaskBit.OVER_RESPONDING)) != 0
    brief = hot & (effective_frames(moments) < least * moments.frames)
    return np.where(brief, bits & ~np.uint32(MaskBit.OVER_RESPONDING), bits)
