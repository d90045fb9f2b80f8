r"""Afterglow: a share of the counts of a frame that the detector shows again on the next frame.

If a share a of the counts is kept, a pixel with counts s(z) in frame z shows s(z) + a s(z - 1). All
strong spots are then late by a frames, and the orientation of the crystal is wrong by a steps about
the rotation axis. No residual reveals this error. But a crossing of the Ewald sphere is symmetric
in time: if the rocking curve is symmetric, the counts of a pixel as a function of the frame are
symmetric, too. The part after the middle exceeds the mirrored part before the middle only by the
afterglow. To the counts of each pixel as a function of the frame (its course), the model

.. math:: \mu(z) = A g(z) + b + a A [g(z - 1) - g(z + 1)] / 2

is fitted by weighted least squares; g is the integral of a Gaussian over a frame. Errors of this
model that are symmetric in time do not affect a.

Rocking curves may be asymmetric, because mosaic spread rotates spots along their powder rings. This
asymmetry has opposite signs for reflections that enter and that leave the sphere, and it is
proportional to the third power of the width. It is fitted together with the mean of a. If spots
differ by more than their errors (blocks of the crystal, a second crystal), the error of the mean
increases accordingly. If the standard deviation of the rocking curves is larger than a frame, an
afterglow of a few per cent cannot be detected.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.peaks.table import PeakTable

Floats = NDArray[np.float64]

#: Number of pixels on each side of a spot's centre, and of frames, that are recorded.
REACH, FRAMES = 2, 9
#: Largest width of recorded spots, frames; the window does not contain the ends of wider spots.
WIDEST = 2.0
#: Smallest significance of a spot, and smallest counts of a pixel at its maximum.
SIGNIFICANT, LEAST = 30.0, 300.0
#: Number of used spots; the strongest spots are used, because they contribute most.
MOST = 1000
_FEWEST = 25  # smallest number of spots for a scatter
_SURE = 4.0  # standard deviations; chance exceeds this limit once in 30000 scans
_BIASED = 2.0  # share in errors of the mean centroid; smaller shares do not affect the orientation
_LEAST_DELAY = 1e-3  # frames: no goniometer is more accurate
_STEPS, _PASSES = 20, 3
_TAILS = 3.0  # distance in widths within which another peak is near
_HUBER = 2.0  # standard deviations above which a spot has less weight
_LEVEL = 0.01  # known share with which the response of the fit is computed


class Followed(NamedTuple):
    """Counts of the pixels of one spot as functions of the frame (courses).

    Attributes
    ----------
    centre : (3,) array
        Frame, slow, fast.
    width : (3,) array
    significance : float
    first : int
        Number of the frame in the first column of `counts`.
    counts : (pixels, 2 FRAMES + 1) float32 array
        Counts; NaN without a measurement.
    """

    centre: Floats
    width: Floats
    significance: float
    first: int
    counts: NDArray[np.float32]


@dataclass(frozen=True)
class Afterglow:
    """Share of the counts of the previous frame that a frame contains, from `measured`.

    Attributes
    ----------
    share, sigma : float
        Share, and its standard deviation from the scatter of the spots.
    scatter : float
        Scatter of the spots beyond their errors.
    spots : int
    """

    share: float
    sigma: float
    scatter: float
    spots: int

    @property
    def seen(self) -> bool:
        """True if the share is significant, and consistent for most spots."""
        return self.share > max(_SURE * self.sigma, self.scatter, _LEAST_DELAY)


def sentence(peaks: PeakTable) -> str | None:
    """Return a sentence on the afterglow if it is significant and affects the centroids."""
    if peaks.afterglow is None:
        return None
    found = Afterglow(**peaks.afterglow)
    known = peaks.var_frame[np.isfinite(peaks.var_frame) & (peaks.var_frame > 0)]
    mean = 1 / np.sqrt(max(float(np.sum(1 / known)), np.finfo(float).tiny))
    if not found.seen or found.share < _BIASED * mean:
        return None
    share = f"{100 * found.share:.3g} ± {100 * found.sigma:.1g} %"
    return (
        f"the detector keeps {share} of a pixel's counts for the next frame ({found.spots} spots): "
        f"centroids of strong spots are late by up to {found.share:.2g} frames (the error of their "
        f"mean is {mean:.1g}), and the orientation is off by as much about the rotation axis; "
        "subtract this share of each frame from the next before the import, or measure with longer "
        "frames"
    )


def strongest(spots: list[Followed], most: int = MOST) -> list[Followed]:
    """Return the most significant spots."""
    return sorted(spots, key=lambda spot: -spot.significance)[:most]


def alone(spots: list[Followed], peaks: PeakTable) -> list[Followed]:
    """Return the spots without another peak nearby in the recorded frames."""
    at = np.stack([peaks.frame, peaks.slow, peaks.fast], axis=1)
    reach = _TAILS * np.stack([peaks.width_frame, peaks.width_slow, peaks.width_fast], axis=1)
    found = []
    for spot in spots:
        own = np.array([FRAMES, REACH + 0.5, REACH + 0.5])
        near = np.all(np.abs(at - spot.centre) < own + reach, axis=1)
        if np.count_nonzero(near) <= 1:
            found.append(spot)
    return found


def measured(spots: list[Followed], sense: Floats) -> Afterglow | None:
    """Measure the afterglow on spots from `alone`; None if there are too few.

    Parameters
    ----------
    spots : list of Followed
    sense : (spots,) array
        1 for reflections that enter the Ewald sphere, -1 for reflections that leave it.
    """
    if len(spots) < _FEWEST:
        return None
    pixels = [len(spot.counts) for spot in spots]
    counts = np.concatenate([spot.counts for spot in spots]).astype(np.float64)
    centre = np.repeat([spot.centre[0] - spot.first for spot in spots], pixels)
    width = np.repeat([spot.width[0] for spot in spots], pixels)
    number = np.repeat(np.arange(len(spots)), pixels)
    share, found = 0.0, None
    for _ in range(_PASSES):
        # Converged when no afterglow is left after subtraction of the share.
        fit = _fitted(_without(counts, share), centre, width)
        found = _of_spots(fit, number, sense)
        if found is None:
            return None
        share = share + found.share
        centre, width = fit.centre, fit.width
    assert found is not None
    return replace(found, share=share)


def _without(counts: Floats, share: float) -> Floats:
    """Subtract a share of the previous frame from each frame of courses (m, n), in order."""
    found = counts.copy()
    for z in range(1, counts.shape[1]):
        before = found[:, z - 1]
        found[:, z] -= share * np.where(np.isfinite(before), before, 0.0)
    return found


def _of_spots(fit: "_Fit", number: NDArray[np.int64], sense: Floats) -> Afterglow | None:
    """Combine shares of pixels (m,) to shares of spots; `number` (m,) is the spot of each pixel."""
    # If a spot is hardly wider than a frame, its fitted centre and width absorb a part of the
    # afterglow. This part is determined by fitting a course with a known share. Afterglow and its
    # mirror image are treated equally; otherwise the weights would favour spots early in a frame.
    answers = [
        side * _fitted(_marked(fit, more), fit.centre, fit.width).share / _LEVEL
        for side, more in ((1, fit.after), (-1, fit.before))
    ]
    response = 0.5 * (answers[0] + answers[1])
    use = (fit.sigma > 0) & np.isfinite(fit.sigma) & np.isfinite(response) & (fit.chi2 > 0)
    number, response = number[use], response[use]
    sigma = fit.sigma[use] * np.sqrt(np.maximum(fit.chi2[use], 1.0))
    n = len(sense)
    weight = np.bincount(number, (response / sigma) ** 2, n)
    total = np.bincount(number, response * fit.share[use] / sigma**2, n)
    good = weight > 0
    if good.sum() < _FEWEST:
        return None
    wide = np.bincount(number, fit.width[use], n)[good] / np.bincount(number, None, n)[good]
    skew = sense[good] * wide**3
    return _common(total[good] / weight[good], 1 / np.sqrt(weight[good]), skew)


def _marked(fit: "_Fit", more: Floats) -> Floats:
    """Return the model of a fit with a known share of counts from later or earlier frames."""
    return np.where(fit.known, fit.model + _LEVEL * more, np.nan)


class _Fit(NamedTuple):
    known: NDArray[np.bool_]
    share: Floats
    sigma: Floats
    chi2: Floats
    centre: Floats
    width: Floats
    model: Floats
    after: Floats
    before: Floats


def _gaussian(centre: Floats, width: Floats, n: int) -> Floats:
    """Return the integrals (m, n) of Gaussians (m,) over the frames 0 to n."""
    from scipy.special import ndtr  # jobs that only read the share do not need it

    edges = np.arange(n + 1)
    return np.diff(ndtr((edges - centre[:, None]) / width[:, None]), axis=1)


def _fitted(counts: Floats, centre: Floats, width: Floats) -> _Fit:
    """Fit a Gaussian and a background to each course (m, n), then the share."""
    n, h = counts.shape[1], 1e-4
    known = np.isfinite(counts)
    counts = np.where(known, counts, 0.0)
    low = np.where(known, counts, np.inf).min(axis=1)
    background = np.maximum(low, 0.1)
    height = np.maximum(np.sum((counts - background[:, None]) * known, axis=1), 10.0)
    centre, log_width = centre.copy(), np.log(np.maximum(width, 0.3))

    def derivatives() -> tuple[Floats, Floats]:
        w = np.exp(log_width)
        g = _gaussian(centre, w, n)
        by_centre = (_gaussian(centre + h, w, n) - _gaussian(centre - h, w, n)) / (2 * h)
        larger, smaller = (_gaussian(centre, w * np.exp(x), n) for x in (h, -h))
        by_width = (larger - smaller) / (2 * h)
        scaled = [height[:, None] * x for x in (by_centre, by_width)]
        columns = np.stack([g, *scaled, np.ones_like(g)], axis=2)
        return columns, height[:, None] * g + background[:, None]

    def equations(columns: Floats, model: Floats) -> tuple[Floats, Floats]:
        weight = known / np.maximum(model, 0.1)
        weighted = columns * weight[..., None]
        matrix = np.swapaxes(weighted, 1, 2) @ columns
        right = np.einsum("mni,mn->mi", weighted, counts - model)
        # This term is negligible for good data; without it, a course without flanks would not
        # determine the width.
        matrix += 1e-9 * np.eye(matrix.shape[1])
        return matrix, right

    for _ in range(_STEPS):
        columns, model = derivatives()
        matrix, right = equations(columns, model)
        matrix += 1e-3 * matrix * np.eye(4)
        step = np.linalg.solve(matrix, right[..., None])[..., 0]
        height = np.maximum(height + step[:, 0], 0.2 * height)
        centre = centre + np.clip(step[:, 1], -0.4, 0.4)
        log_width = log_width + np.clip(step[:, 2], -0.4, 0.4)
        log_width = np.clip(log_width, np.log(0.12), np.log(2 * WIDEST))
        background = np.maximum(background + step[:, 3], 0.05)
    columns, model = derivatives()
    width = np.exp(log_width)
    after, before = (_gaussian(centre + x, width, n) * height[:, None] for x in (1, -1))
    columns = np.concatenate([columns, 0.5 * (after - before)[..., None]], axis=2)
    matrix, right = equations(columns, model)
    covariance = np.linalg.inv(matrix)
    step = np.einsum("mij,mj->mi", covariance, right)
    left = counts - model - np.einsum("mni,mi->mn", columns, step)
    chi2 = np.sum(left**2 * known / np.maximum(model, 0.1), axis=1)
    chi2 /= np.maximum(known.sum(axis=1) - 5, 1)
    sigma = np.sqrt(np.maximum(covariance[:, 4, 4], 0.0))
    return _Fit(known, step[:, 4], sigma, chi2, centre, width, model, after, before)


def _common(share: Floats, sigma: Floats, skew: Floats) -> Afterglow:
    """Return the robust mean of the spots' shares (n,), with a term for their skewness."""
    columns = np.stack([np.ones(len(share)), skew / max(np.abs(skew).max(), 1e-9)], axis=1)
    values, scatter2 = np.array([np.median(share), 0.0]), 0.0
    for _ in range(50):
        off = (share - columns @ values) ** 2
        variance = sigma**2 + scatter2
        weight = 1 / (variance * np.maximum(1.0, np.sqrt(off / variance) / _HUBER))
        matrix = columns.T @ (weight[:, None] * columns) + 1e-12 * np.eye(2)
        values = np.linalg.solve(matrix, columns.T @ (weight * share))
        # The median of squares of normal errors is 0.455 of their variance.
        excess = np.median(off / variance) / 0.4549 - 1
        scatter2 = max(scatter2 + 0.5 * excess * float(np.median(variance)), 0.0)
    inverse = np.linalg.inv(matrix)
    off = (share - columns @ values) ** 2
    covariance = inverse @ (columns.T @ ((weight**2 * off)[:, None] * columns)) @ inverse
    sigma_mean = float(np.sqrt(covariance[0, 0]))
    return Afterglow(float(values[0]), sigma_mean, float(np.sqrt(scatter2)), len(share))
