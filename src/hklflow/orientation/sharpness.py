"""Which peaks are Bragg reflections, and which are maxima of the diffuse scattering around them.

A maximum is broader than a reflection, and it lies beside it: where S(Q) around the reflection is
larger on one side. Where widths fall into two classes with few between them, the width says enough:
weak maxima are beside their places by less than their errors, and still pull the cell, for all are
on the same side. Else neither says enough alone, for spots differ in width across a detector, and
what is beside its place may be so for other reasons; together they do.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

ENOUGH = 20  #: peaks of a class by which a crystal can be refined
_NARROW = 1.3  # times the width of most narrow peaks: where their class ends for certain
_STEP = 1.2  # ratio of widths between the classes beyond
_BESIDE = 3.0  # times the median squared residual of the narrow ones: not as well placed
_FEWEST = 30  # narrow peaks, and a share of all
_SHARE = 0.03
_WELL = 8.0  # significance of peaks whose width is known to a tenth
_BANDWIDTH = 0.06  # of the density of ln(width)
_APART = 0.3  # density between two classes, of the smaller one's: they are two
_SLIGHT = 5  # peaks that make a class, if too few to refine by
_SPIKE = 0.08  # of the highest density: less is noise


def narrow(width: Floats, significance: Floats) -> Mask | None:
    """The narrowest class of peaks (n,) that has a share of them; None: there is none.

    Parameters
    ----------
    width : (n,) array
        Pixels.
    significance : (n,) array
        Intensity over its standard deviation.
    """
    known = (significance > _WELL) & (width > 0)
    if known.sum() < _FEWEST:
        return None
    at, _, summits = _classes(width[known])
    for i in summits:
        mode = float(np.exp(at[i]))
        own: Mask = width <= _NARROW * mode
        around = own & (width >= mode / _NARROW)
        if around.sum() >= max(_FEWEST, _SHARE * len(width)):
            return own
    return None


def _classes(width: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Logarithms of widths, the density of peaks there, and the indices of its summits."""
    x = np.log(width)
    at = np.linspace(x.min() - _BANDWIDTH, x.max() + _BANDWIDTH, 400)
    density = np.array([np.exp(-0.5 * ((x - y) / _BANDWIDTH) ** 2).sum() for y in at])
    summits = np.flatnonzero(
        (density >= np.r_[0, density[:-1]]) & (density > np.r_[density[1:], 0])
    )
    return at, density, summits


def gap(width: Floats, significance: Floats) -> float | None:
    """Width that few peaks have, between a narrow class and a broader one; None: there is none.

    Parameters
    ----------
    width : (n,) array
        Pixels.
    significance : (n,) array
        Intensity over its standard deviation; of enough peaks only those count whose width is
        known.
    """
    known = (significance > _WELL) & (width > 0)
    if known.sum() < _FEWEST:
        known = width > 0
    if known.sum() < ENOUGH:
        return None
    at, density, summits = _classes(width[known])
    classes = [i for i in summits if density[i] >= max(_SLIGHT, _SPIKE * density.max())]
    for i, j in pairwise(classes):
        between = i + int(np.argmin(density[i:j]))
        if density[between] < _APART * min(density[i], density[j]):
            return float(np.exp(at[between]))
    return None


def reflections(width: Floats, core: Mask, squares: Floats) -> Mask:
    """Peaks that are no broader than some that are as well placed as the narrow ones.

    Parameters
    ----------
    width : (n,) array
        Pixels.
    core : (n,) bool array
        The narrow peaks; by these the crystal was refined.
    squares : (n,) array
        Σ (residual / σ)² of each peak; NaN where there is none.
    """
    limit = float(width[core].max())
    well = _BESIDE * float(np.nanmedian(squares[core]))
    keep = core.copy()
    while True:
        own = (width > limit) & (width <= _STEP * limit)
        beyond = width > limit
        if not beyond.any():
            return keep
        judged = own & np.isfinite(squares)
        if judged.sum() >= 5 and float(np.median(squares[judged])) > well:
            return keep
        keep |= own
        limit *= _STEP
