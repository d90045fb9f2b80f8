"""Separate Bragg reflections from the maxima of diffuse scattering around them.

A diffuse maximum is broader than a reflection. It is next to the reflection, on the side where S(Q)
is larger. If the widths form two classes with few peaks between them, the width alone is enough.
This is important for weak maxima: they are displaced by less than their errors, but they bias the
cell because all are displaced to the same side. Otherwise width and displacement are used together:
the width of spots also varies across a detector, and a displacement may have other reasons.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

ENOUGH = 20  #: number of peaks of a class that is enough to refine a crystal
_NARROW = 1.3  # upper limit of the narrow class, relative to its most frequent width
_STEP = 1.2  # ratio of widths between the broader classes
_BESIDE = 3.0  # squared residual of a displaced peak, relative to the median of narrow peaks
_FEWEST = 30  # smallest number of narrow peaks, in addition to a fraction of all
_SHARE = 0.03
_WELL = 8.0  # I/σ above which the width of a peak is known to 10 %
_BANDWIDTH = 0.06  # bandwidth of the density of ln(width)
_APART = 0.3  # largest density between two classes, relative to the smaller class
_SLIGHT = 5  # smallest number of peaks in a class, even if too small for a refinement
_SPIKE = 0.08  # density relative to the highest density; a smaller maximum is noise


def narrow(width: Floats, significance: Floats) -> Mask | None:
    """Return the narrowest class of peaks (n,) that is large enough; None if there is none.

    Parameters
    ----------
    width : (n,) array
        Width in pixels.
    significance : (n,) array
        Intensity over its standard deviation.
    """
    known = (significance > _WELL) & (width > 0)
    if known.sum() < _FEWEST:
        return None
    log_width, _, summits = _classes(width[known])
    for i in summits:
        mode = float(np.exp(log_width[i]))
        narrow_peaks: Mask = width <= _NARROW * mode
        around = narrow_peaks & (width >= mode / _NARROW)
        if around.sum() >= max(_FEWEST, _SHARE * len(width)):
            return narrow_peaks
    return None


def _classes(width: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return logarithms of widths, the density of peaks there, and indices of its maxima."""
    x = np.log(width)
    log_width = np.linspace(x.min() - _BANDWIDTH, x.max() + _BANDWIDTH, 400)
    density = np.array([np.exp(-0.5 * ((x - y) / _BANDWIDTH) ** 2).sum() for y in log_width])
    summits = np.flatnonzero(
        (density >= np.r_[0, density[:-1]]) & (density > np.r_[density[1:], 0])
    )
    return log_width, density, summits


def gap(width: Floats, significance: Floats) -> float | None:
    """Return a width between a narrow and a broader class; None if there is no gap.

    Parameters
    ----------
    width : (n,) array
        Width in pixels.
    significance : (n,) array
        Intensity over its standard deviation. If enough peaks have a well-known width, only these
        are used.
    """
    known = (significance > _WELL) & (width > 0)
    if known.sum() < _FEWEST:
        known = width > 0
    if known.sum() < ENOUGH:
        return None
    log_width, density, summits = _classes(width[known])
    classes = [i for i in summits if density[i] >= max(_SLIGHT, _SPIKE * density.max())]
    for i, j in pairwise(classes):
        between = i + int(np.argmin(density[i:j]))
        if density[between] < _APART * min(density[i], density[j]):
            return float(np.exp(log_width[between]))
    return None


def reflections(width: Floats, core: Mask, squares: Floats) -> Mask:
    """Return True for peaks in width classes whose positions fit as well as those of narrow peaks.

    Parameters
    ----------
    width : (n,) array
        Width in pixels.
    core : (n,) bool array
        Narrow peaks, with which the crystal was refined.
    squares : (n,) array
        Σ (residual / σ)² of each peak; NaN if the peak has no residual.
    """
    limit = float(width[core].max())
    well = _BESIDE * float(np.nanmedian(squares[core]))
    keep = core.copy()
    while True:
        next_class = (width > limit) & (width <= _STEP * limit)
        beyond = width > limit
        if not beyond.any():
            return keep
        judged = next_class & np.isfinite(squares)
        if judged.sum() >= 5 and float(np.median(squares[judged])) > well:
            return keep
        keep |= next_class
        limit *= _STEP
