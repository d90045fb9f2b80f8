"""Tell hot pixels from sharp reflections by the counts of each pixel over the sampled frames.

Spots of one or two pixels look like hot pixels in the sum of frames, and have no neighbours that
could tell. Their counts in time differ:

* a reflection is one bump: nearly all its excess is in consecutive frames, and rises and falls;
* a hot pixel has the same rate on all frames on which it is hot, or flickers: its excess is spread
  over separate frames, or has a flat top.

Few counts show no shape. They are a reflection's if they are on few consecutive frames.
"""

import numpy as np
from numpy.typing import NDArray

from hklflow.images.pixel_moments import Moments

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_PERSISTENT = 0.7  # fraction of the frames from which a pixel is hot, whatever the shape
_BRIGHT = 0.1  # fraction of the largest excess from which a frame belongs to a bump
_TOGETHER = 0.7  # smallest fraction of the excess in consecutive frames
_FLAT = 0.03  # squared variation of the excess in a bump, relative to its mean, of a flat top
_SIGMA = 3.0  # significance of this variation
_SHORT = 3  # frames of a bump without a visible shape
_FEW = 5, 0.1  # frames, or fraction of the frames, of a bump that is too weak to have a shape
_CURVED = 0.15  # half of the squared variation of a Gaussian curve
_AROUND = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if (i, j) != (0, 0)]


def effective_frames(moments: Moments) -> Floats:
    """Return over how many frames the counts of each pixel are spread, (slow, fast).

    It is (Σx)² / Σx(x - 1): the number of frames for a constant rate, whatever the Poisson noise,
    and 3.5 σ for a Gaussian rocking curve of width σ frames. It is infinite if no frame has two
    counts.
    """
    pairs = moments.squares - moments.total
    spread = np.full(moments.total.shape, np.inf)
    return np.divide(moments.total**2, pairs, where=pairs > 0, out=spread)


def brief(hot: Bools, moments: Moments) -> NDArray[np.intp]:
    """Return the hot pixels (k, 2) that do not count on most frames: they may be reflections."""
    return np.argwhere(hot & (effective_frames(moments) < _PERSISTENT * moments.frames))


def background(pixels: NDArray[np.intp], moments: Moments, good: Bools) -> Floats:
    """Return the median counts per frame (k,) of the good pixels around each pixel (k, 2)."""
    reach = max(max(step) for step in _AROUND)
    around = np.pad(np.where(good, moments.mean, np.nan), reach, constant_values=np.nan)
    slow, fast = pixels.T + reach
    near = np.array([around[slow + i, fast + j] for i, j in _AROUND])
    near[0, np.isnan(near).all(axis=0)] = 0.0
    rates: Floats = np.nanmedian(near, axis=0)
    return rates


def are_reflections(counts: Floats, rate: Floats) -> Bools:
    """Return True for pixels (k,) whose counts have one bump in time.

    Parameters
    ----------
    counts : (n, k) array
        Counts of the pixels on n frames, in the order of time; NaN where flagged.
    rate : (k,) array
        Background per frame.
    """
    excess = np.nan_to_num(counts - rate)
    top = excess.argmax(axis=0)
    largest = excess.max(axis=0)
    bright = excess > np.maximum(_BRIGHT * largest, 2 * np.sqrt(rate))
    # Consecutive bright frames have the same number of dim frames before them.
    before = np.cumsum(~bright, axis=0)
    bump = bright & (before == np.take_along_axis(before, top[None], axis=0))
    inside = np.where(bump, excess, 0.0)
    together = inside.sum(axis=0) > _TOGETHER * excess.sum(axis=0)
    m = np.maximum(bump.sum(axis=0), 1)
    mean = inside.sum(axis=0) / m
    scatter = np.where(bump, (excess - mean) ** 2, 0.0).sum(axis=0) / np.maximum(m - 1, 1)
    # The Poisson variance of the counts is no shape.
    poisson = mean + rate
    squared = np.where(mean > 0, mean, np.inf) ** 2
    variation = (scatter - poisson) / squared
    error = poisson * np.sqrt(2 / np.maximum(m - 1, 1)) / squared
    shaped = (m <= _SHORT) | (variation > np.maximum(_FLAT, _SIGMA * error))
    weak = (m <= max(_FEW[0], _FEW[1] * len(counts))) & (variation + _SIGMA * error > _CURVED)
    return np.asarray(together & (shaped | weak) & (largest > 0))
