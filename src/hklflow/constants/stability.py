"""Search for pixels that are strong in many frames of a rotation.

A rotating crystal has reflections in a given pixel only now and then. A pixel that is strong in
half of the frames is therefore bad (as in dials.find_bad_pixels).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import Bits, BoolImage, MaskBit, flagged

Floats = NDArray[np.float64]

MIN_FRAMES = 10
"""Least number of frames to test a pixel."""
_WINDOW = 9  # width in pixels of the local background
_AROUND = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]


@dataclass(frozen=True)
class Found:
    """Frequency with which each pixel (ss, fs) was strong.

    Attributes
    ----------
    fraction : array
        Fraction of the frames that measured the pixel; NaN if no frame did.
    bits : uint32 array
        NOISY for pixels that are strong too often.
    """

    fraction: Floats
    bits: Bits


class Stability:
    """Count the frames in which each pixel is strong.

    A count x is strong if ``x - b > n_sigma sqrt(b + 1)`` and ``x - b > contrast (x3 - b)``. b is
    the mean of the good pixels in a square of 9 x 9 pixels; x3 is the third highest of the eight
    nearest neighbours (next to bad pixels: the highest). The second condition excludes rings and
    the edges of shadows, because the neighbours see them, too. Groups of up to three adjacent bad
    pixels are found.

    Parameters
    ----------
    bad : (ss, fs) bool array
        Pixels that are neither tested nor used.
    flag_from : float
        Smallest value that is a flag instead of a measurement.
    n_sigma, contrast : float
    """

    def __init__(
        self,
        bad: BoolImage,
        *,
        flag_from: float = math.inf,
        n_sigma: float,
        contrast: float = 3.0,
    ) -> None:
        self._bad, self._flag = bad, flag_from
        self._n_sigma, self._contrast = n_sigma, contrast
        self._strong = np.zeros(bad.shape, np.int64)
        self._seen = np.zeros(bad.shape, np.int64)

    def add(self, frames: NDArray[Any]) -> None:
        """Add frames (n, ss, fs)."""
        if frames.shape[1:] != self._bad.shape:
            raise HklflowError(f"frames {frames.shape} do not fit the mask {self._bad.shape}")
        for frame in frames:
            good = ~self._bad & ~flagged(frame, self._flag)
            self._seen += good
            self._strong[
                self._strong_pixels(np.where(good, frame, 0).astype(np.float64), good)
            ] += 1

    def result(self, *, often: float) -> Found:
        """Return the pixels that are strong too often.

        Parameters
        ----------
        often : float
            Fraction of the frames from which a pixel is noisy.
        """
        fraction = np.full(self._bad.shape, np.nan)
        np.divide(self._strong, self._seen, where=self._seen > 0, out=fraction)
        judged = self._seen >= MIN_FRAMES
        noisy = judged & (np.where(judged, fraction, 0) >= often)
        return Found(fraction, np.where(noisy, np.uint32(MaskBit.NOISY), np.uint32(0)))

    def _strong_pixels(self, image: Floats, good: BoolImage) -> tuple[NDArray[np.int64], ...]:
        from scipy.ndimage import uniform_filter

        number = _WINDOW**2 * uniform_filter(good.astype(np.float64), _WINDOW, mode="constant")
        total = _WINDOW**2 * uniform_filter(image, _WINDOW, mode="constant")
        others = np.rint(number - good)
        background = np.maximum(total - image, 0) / np.maximum(others, 1)
        excess = image - background
        chosen = good & (others >= 8) & (excess > self._n_sigma * np.sqrt(background + 1))
        slow, fast = np.nonzero(chosen)
        near = np.full((len(_AROUND), len(slow)), -np.inf)
        for k, (i, j) in enumerate(_AROUND):
            inside = (slow + i >= 0) & (slow + i < image.shape[0])
            inside &= (fast + j >= 0) & (fast + j < image.shape[1])
            neighbour = slow[inside] + i, fast[inside] + j
            near[k, inside] = np.where(good[neighbour], image[neighbour], -np.inf)
        near.sort(axis=0)
        rival = np.where(np.isfinite(near[0]), near[-3], near[-1])
        alone = excess[slow, fast] > self._contrast * (rival - background[slow, fast])
        return slow[alone], fast[alone]
