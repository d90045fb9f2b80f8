"""Separate Bragg reflections from the maxima of diffuse scattering around them.

A diffuse maximum is broader than a reflection. It is next to the reflection, on the side where S(Q)
is larger. If the widths form two classes with few peaks between them, the width alone is enough.
This is important for weak maxima: they are displaced by less than their errors, but they bias the
cell because all are displaced to the same side. Otherwise width and displacement are used together:
the width of spots also varies across a detector, and a displacement may have other reasons.

A diffuse maximum is broad in all directions, also along the rotation. A broad spot with the rocking
width of sharp reflections is a reflection: mosaic spread, strain, the size of the crystal and the
depth of the sensor broaden spots on the detector only.
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
_TOLD_APART = 1.3  # smallest ratio of the rocking widths of a maximum and of a reflection
_RESOLVED = 0.3  # frames; smallest width of a maximum along the rotation that frames resolve
_PIXEL = np.sqrt(1 / 6)  # pixels; width of a pixel, like a width of both directions
_SPIKE = 0.08  # density relative to the highest density; a smaller maximum is noise


def with_pixel(width: Floats) -> Floats:
    """Return widths (n,) with the width of a pixel, from widths without it.

    Spots that are much narrower than a pixel have the same image, whatever their width.
    """
    return np.hypot(width, _PIXEL)


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


def broad_reflections(broad: Mask, size: Floats, rocking: Floats, step: Floats) -> Mask:
    """Return True for broad peaks (n,) that are reflections, as their rocking curves show.

    A maximum of the diffuse scattering has its size on the detector also along the rotation, in
    addition to the rocking width of reflections. Single widths are uncertain: if most broad peaks
    are as broad along the rotation as maxima, no peak is a reflection.

    Parameters
    ----------
    broad : (n,) bool array
        Peaks that are broad on the detector.
    size : (n,) array
        Width on the detector, as a rotation of the crystal, radian.
    rocking : (n,) array
        Width along the scan, as a rotation of the crystal, radian.
    step : (n,) array
        Rotation of the crystal in a frame, radian.
    """
    none = np.zeros_like(broad)
    if not broad.any() or broad.all():
        return none
    typical = float(np.median(rocking[~broad]))
    maximum = np.hypot(size, typical)
    judged = broad & (maximum > _TOLD_APART * typical) & (size > _RESOLVED * step)
    # The limit between reflection and maximum is the geometric mean of their widths.
    narrow_curve: Mask = rocking**2 < maximum * typical
    if judged.sum() < _SLIGHT or np.mean(narrow_curve[judged]) <= 0.5:
        return none
    return broad & narrow_curve


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
