"""Which peaks are Bragg reflections, and which are maxima of the diffuse scattering around them.

A maximum is broader than a reflection, and it lies beside it: where S(Q) around the reflection is
larger on one side. Neither says enough alone, for spots differ in width across a detector, and what
is beside its place may be so for other reasons; together they do.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_NARROW = 1.3  # times the width of most narrow peaks: where their class ends for certain
_STEP = 1.2  # ratio of widths between the classes beyond
_BESIDE = 3.0  # times the median squared residual of the narrow ones: not as well placed
_FEWEST = 30  # narrow peaks, and a share of all
_SHARE = 0.03
_WELL = 8.0  # significance of peaks whose width is known to a tenth
_BANDWIDTH = 0.06  # of the density of ln(width)


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
    x = np.log(width[known])
    at = np.linspace(x.min(), x.max(), 400)
    density = np.array([np.exp(-0.5 * ((x - y) / _BANDWIDTH) ** 2).sum() for y in at])
    summits = np.flatnonzero(
        (density >= np.r_[0, density[:-1]]) & (density > np.r_[density[1:], 0])
    )
    for i in summits:
        mode = float(np.exp(at[i]))
        own: Mask = width <= _NARROW * mode
        around = own & (width >= mode / _NARROW)
        if around.sum() >= max(_FEWEST, _SHARE * len(width)):
            return own
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
