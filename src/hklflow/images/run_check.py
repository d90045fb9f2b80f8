"""Parts of a run without the crystal that its frames with the crystal contradict.

A run is wrong where it has something that is not there with the crystal: spots of a diamond or of a
sapphire window, the crystal itself, or the shadow of a beam stop that was elsewhere.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hklflow.images.surroundings import Part

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Edge of the neighbourhood of a spot in pixels, and its pixels that may be stronger. A spot has at
# most these pixels; the crest of a powder ring through the neighbourhood has more.
_REACH = 11
_STRONGER = 10
# Standard deviations of a spot above its neighbourhood, and its least relative height. Of ten
# million pixels of noise 0.01 are higher; efficiencies of pixels differ by less.
_SPOT = 6.0
_RELATIVE = 0.2
# Share of the median of the run below which a pixel may be in a shadow, and the rate at the border
# of the shadow over this limit: smooth scattering does not change by 10 within three pixels.
_SHADOW = 0.02
_STEP = 10.0
_BORDER = 3
_SQUARE = np.ones((3, 3), np.bool_)
# Pixels of the smallest shadow; single dead pixels are for the mask.
_LEAST = 10


class Counted(NamedTuple):
    """Sums over frames, of each pixel.

    Attributes
    ----------
    counts : (slow, fast) array
        Counts with the crystal.
    expected, variance : (slow, fast) array
        Counts that the runs expect, and their variance; NaN: not known.
    """

    counts: Floats
    expected: Floats
    variance: Floats


def expected(counts: Floats, weights: Floats, parts: list[Part]) -> Counted:
    """Return the sums of pixels, from the incident intensities times the factor of each part.

    A pixel with few counts of the run has at least the variance of its own counts: a spot of noise
    is high in its neighbourhood.
    """
    mean, variance = np.zeros((2, *counts.shape))
    for weight, part in zip(weights, parts, strict=True):
        known = np.isfinite(part.level) & np.isfinite(part.variance)
        total = float(part.variance[known].sum())
        per_count = total / max(float(part.level[known].sum()), 1e-300)
        mean += weight * part.level
        variance += weight**2 * np.maximum(part.variance, part.level * per_count)
    return Counted(counts, mean, variance)


def spots(sums: Counted) -> Bools:
    """Mark spots of the run that are not in the frames with the crystal, and their neighbours.

    A spot is stronger than nearly all pixels of its neighbourhood in the run; powder rings are no
    spots. Spots that scatter in both (a window that does not rotate, a hot pixel) are right: the
    frames have at least half of them.
    """
    known = np.isfinite(sums.expected) & np.isfinite(sums.variance)
    if not known.any():
        return known
    rank = _REACH**2 - _STRONGER - 1
    own, measured = _filled(sums.expected, known), _filled(sums.counts, known)
    around = ndimage.rank_filter(own, rank, _REACH)
    height = own - around
    error = np.sqrt(_filled(sums.variance, known))
    sharp = known & (height > _SPOT * error) & (height > _RELATIVE * around)
    if not sharp.any():
        return sharp
    rest = measured - ndimage.median_filter(measured, _REACH)
    # The crystal's scattering is not smooth either: the scatter is at least that of counting.
    noise = np.sqrt(np.maximum(np.maximum(measured, own), 1.0))
    scatter = max(1.0, 1.4826 * _deviation((rest / noise)[known]))
    missing = height - 2 * rest > _SPOT * np.hypot(error, 2 * scatter * noise)
    negative = own - measured > _SPOT * np.hypot(error, noise)
    return np.asarray(ndimage.binary_dilation(sharp & (missing | negative), _SQUARE) & known)


def _deviation(values: Floats) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def shadows(sums: Counted) -> Bools:
    """Mark shadows in the run, with a sharp border, that are not in the frames with the crystal."""
    known = np.isfinite(sums.expected)
    if not (sums.expected[known] > 0).any():
        return np.zeros_like(known)
    limit = _SHADOW * float(np.median(sums.expected[known]))
    share = sums.counts > 10 * _SHADOW * float(np.median(sums.counts[known]))
    dark = known & (sums.expected < limit)
    labels, n = ndimage.label(dark, _SQUARE)
    found = np.zeros_like(known)
    for i, box in enumerate(ndimage.find_objects(labels, n), 1):
        window = tuple(slice(max(s.start - _BORDER, 0), s.stop + _BORDER) for s in box)
        own = labels[window] == i
        if np.count_nonzero(own) < _LEAST or not share[window][own].mean() > 0.5:
            continue
        border = ndimage.binary_dilation(own, _SQUARE, _BORDER) & known[window] & ~own
        if border.any() and np.median(sums.expected[window][border]) > _STEP * limit:
            # Pixels at the edge are partly in the shadow.
            found[window] |= ndimage.binary_dilation(own, _SQUARE) & known[window]
    return found


def _filled(image: Floats, known: Bools) -> Floats:
    """Replace unknown pixels by the nearest known one."""
    if known.all():
        return image
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(image[tuple(nearest)], np.float64)
