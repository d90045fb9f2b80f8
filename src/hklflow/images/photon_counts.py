"""Decide from the noise of frames if their values are photon counts.

The variance of photon counts is their mean. Photon counters differ from that by little:

* A photon that is shared by two pixels counts in one of them, in none, or in both. The variance of
  a pixel remains its mean. With a threshold far below half of the energy, neighbours are
  correlated: with a third of the photons counted twice, variance and covariances are together 1.5
  times the mean.
* Dead time narrows the distribution of bright pixels, and its correction widens it, by twice the
  share of lost counts (a fifth of the counts: 0.6 to 1.6). Dark pixels are not concerned.
* Sums of frames or of blocks of pixels remain photon counts; flat fields change the ratio by their
  own deviation from 1, in most pixels below a tenth; values interpolated in wide pixels have a
  smaller variance, but are few.

The gain of a CCD is seldom as near to 1, and its light spreads over neighbouring pixels, so that
the variance of one pixel is far below the sum with its neighbours. An offset or read noise makes
the ratio differ between dark and bright tiles. Its noise is in every pixel: whole numbers that are
mostly 0 are photon counts, whatever the ratio, which scattering that changes fast increases.
"""

from collections.abc import Sequence
from enum import Enum

from hklflow.images.gain_estimate import Ratio

LEAST, MOST = 0.8, 1.25
"""Variance over mean of a pixel in photon counts, in dark tiles and elsewhere."""
_MOST_NEAR = 1.6  # with the neighbours
_LEAST_BRIGHT, _MOST_BRIGHT = 0.3, 1.6  # with dead time, if dark tiles are photon counts
_MOSTLY_ZERO = 0.3  # mean of whole numbers of which most are 0
_FAST = 0.1  # share of the noise that may be scattering that changes within 4 frames
_SIGMA = 5.0


class Verdict(Enum):
    """Kind of the values."""

    PHOTONS = "photon counts"
    DOUBTFUL = "doubtful"
    OTHER = "no photon counts"


def verdict(ratios: Sequence[Ratio], *, whole: bool) -> Verdict:
    """Return the kind of the values from the noise of dark and bright tiles; none: photons.

    ``whole``: the values are whole numbers, none below 0.
    """
    if not ratios or (whole and ratios[0].mean < _MOSTLY_ZERO):
        return Verdict.PHOTONS
    if any(r.excess > max(_SIGMA * r.excess_error, _FAST * r.near) for r in ratios):
        return Verdict.DOUBTFUL
    dark, bright = ratios
    if _beyond(dark, LEAST, MOST):
        return Verdict.OTHER
    if not _beyond(bright, LEAST, MOST):
        return Verdict.PHOTONS
    # Dead time explains bright tiles, if the dark tiles are known to be photon counts.
    known = _SIGMA * dark.single_error < 0.1
    if not known or not _beyond(bright, _LEAST_BRIGHT, _MOST_BRIGHT):
        return Verdict.DOUBTFUL
    return Verdict.OTHER


def _beyond(ratio: Ratio, least: float, most: float) -> bool:
    """Return True if a ratio is outside of limits, and noise does not explain it."""
    single, near = _SIGMA * ratio.single_error, _SIGMA * ratio.near_error
    return not least - single <= ratio.single <= most + single or ratio.near - near > max(
        _MOST_NEAR, most
    )
