"""From a finished blob to rows of the peak table: boxes, joint fits, moments, flags."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from hklflow.core.peaks_fit import N_PARAMETERS, add_model, fit_peak
from hklflow.core.peaks_link import Voxels
from hklflow.core.peaks_table import FIELDS, PeakFlag

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
Bools = NDArray[np.bool_]
#: Centre, its variance, widths, intensity, its variance, background.
_Values = tuple[F64, F64, F64, float, float, float]

_NARROW = 0.25  # voxels: below this width the centre within the voxel is not measurable
_ITERATIONS = 30
_FIRST_ITERATIONS = 12  # enough to choose the final box and to drop noise
_WEAK = 15.0  # significance below which a second start is tried
_WIDE = (1.5, 1.8, 1.8)  # its widths: frames, pixels, pixels
_FEW = 12  # voxels: a narrow peak makes all boxes around it strong, which are more
_SWEEPS = 2  # joint fits of touching peaks converge geometrically
_RING = 20  # voxels that the background of the moments needs


@dataclass(frozen=True)
class Box:
    """Voxels around a peak (frame, slow, fast).

    ``origin`` is the first voxel (3); ``level`` the relative background of each frame;
    ``foreign`` marks strong voxels of other blobs, ``overload`` saturated ones, ``own`` the
    strong voxels of this blob.
    """

    origin: I64
    counts: F64
    level: F64
    valid: Bools
    foreign: Bools
    overload: Bools
    own: Bools

    @property
    def usable(self) -> Bools:
        """Where the fit may use the voxel."""
        return np.asarray(self.valid & ~self.foreign & ~self.overload)


#: ``cut(low, high)``: the box between two corners, clipped to what is there.
Cut = Callable[[I64, I64], Box]


@dataclass(frozen=True)
class FitLimits:
    """What `fit_segments` needs to know of the search.

    Parameters
    ----------
    margin
        Voxels (3) added around the strong ones for the first fit.
    max_width
        Largest widths (3) of a peak.
    shape
        Detector (slow, fast).
    gain
        Variance of the counts over the counts.
    floor
        Standard deviation, in pixels and frames, added to the centroids'.
    max_frames
        Limit for the flag ``LONG``.
    min_significance
        A single peak far below it after the first fit is not fitted again.
    """

    margin: I64
    max_width: F64
    shape: tuple[int, ...]
    gain: float
    floor: float
    max_frames: int
    min_significance: float


@dataclass
class _Segment:
    at: I64
    start: F64
    box: Box
    p: F64
    covariance: F64
    information: float = 0.0
    chi2: float = 0.0
    number: int = 0
    converged: bool = False

    @property
    def significance(self) -> float:
        return float(self.p[0] * np.sqrt(self.information))

    def near(self) -> bool:
        """Whether the fit ended near where the blob is."""
        if not (np.isfinite(self.p).all() and self.information > 0):
            return False
        reach = 3.0 + 2.0 * np.exp(self.p[4:7])
        inside = (self.p[1:4] > self.at.min(axis=0) - reach) & (
            self.p[1:4] < self.at.max(axis=0) + 1 + reach
        )
        return bool(inside.all() and (np.diag(self.covariance)[:4] > 0).all())


def _begin(voxels: Voxels, cut: Cut, limits: FitLimits) -> _Segment:
    """Take starting values from the moments of the smoothed counts."""
    at = np.stack([voxels[n] for n in ("frame", "slow", "fast")], axis=1).astype(np.int64)
    weight = np.maximum(voxels["height"].astype(float), 1e-3)
    top = at[np.argmax(weight)]
    centre = weight @ (at + 0.5) / weight.sum()
    # a box of three voxels has the variance 2/3
    variance = weight @ (at + 0.5 - centre) ** 2 / weight.sum() - 2.0 / 3.0
    width = np.clip(np.sqrt(np.clip(variance, 0.4**2, None)), None, 0.8 * limits.max_width)
    radius = np.ceil(3.0 * limits.max_width).astype(np.int64)
    low = np.maximum(at.min(axis=0), top - radius) - limits.margin
    high = np.minimum(at.max(axis=0), top + radius) + 1 + limits.margin
    box = cut(low, high)
    start = np.zeros(N_PARAMETERS)
    start[1:4], start[4:7] = centre, np.log(width)
    start[7] = max(float(np.mean(voxels["noise"])) / 27.0, 0.01)
    total = float((box.counts - start[7])[box.usable].sum())
    start[0] = max(total, float(weight.max()), 1.0)
    return _Segment(at, start, box, start.copy(), np.zeros((N_PARAMETERS, N_PARAMETERS)))


def _fit(segment: _Segment, extra: F64, limits: FitLimits, *, final: bool) -> float:
    """Fit a segment and return -ln of its posterior."""
    box, start = segment.box, segment.start.copy()
    usable, max_log = box.usable.astype(np.float64), np.log(limits.max_width)
    iterations = _ITERATIONS if final else _FIRST_ITERATIONS
    narrow = (start[4:7] < np.log(_NARROW)) & final
    for _ in range(2):
        # Contained in one voxel on this axis: the centre is only known to lie within it,
        # which is a variance of 1/12 about the voxel's middle.
        middle = np.floor(start[1:4]) + 0.5
        start[1:4] = np.where(narrow, middle, start[1:4])
        precision = np.where(narrow, 12.0, 0.0)
        result = fit_peak(
            box.counts, usable, extra, box.level, box.origin, start, precision, max_log, iterations
        )
        start, before, narrow = result[0].copy(), narrow, result[0][4:7] < np.log(_NARROW)
        if not final or (narrow == before).all():
            break
    segment.p, segment.covariance, segment.information = result[0], result[1], result[2]
    segment.chi2, segment.number, segment.converged = result[3], result[4], result[5]
    segment.information /= limits.gain
    return float(result[6])


def _fit_first(segment: _Segment, extra: F64, limits: FitLimits) -> None:
    """Fit from the blob's own widths and, if the peak is weak, from wide ones too.

    The strong voxels of a weak peak are a few fluctuations near its top, and a fit that
    starts as narrow as they are can end on one of them. Very few voxels, most of which are
    noise, only get the wide start.
    """
    few = len(segment.at) < _FEW
    value = np.inf if few else _fit(segment, extra, limits, final=False)
    if not few and segment.significance > _WEAK:
        return
    wide = replace(segment, start=segment.start.copy())
    wide.start[4:7] = np.log(np.minimum(_WIDE, 0.8 * limits.max_width))
    if _fit(wide, extra, limits, final=False) < value:
        for name in ("p", "covariance", "information", "chi2", "number", "converged"):
            setattr(segment, name, getattr(wide, name))


def _others(segments: list[_Segment], me: int, ready: list[bool]) -> F64:
    box = segments[me].box
    extra = np.zeros(box.counts.shape)
    for k, other in enumerate(segments):
        if k != me and ready[k]:
            add_model(other.p, box.origin, extra)
    return extra


def _widened(segment: _Segment, cut: Cut) -> Box:
    """Return the box that the fitted widths ask for: 3.5 widths and two voxels each way."""
    half = 3.5 * np.exp(segment.p[4:7]) + 2.0
    box = cut(
        np.floor(segment.p[1:4] - half).astype(np.int64),
        np.ceil(segment.p[1:4] + half).astype(np.int64),
    )
    # a centre beyond the edge can leave nothing
    return box if np.count_nonzero(box.usable) > 2 * segment.p.size else segment.box


def fit_segments(voxels: Voxels, tops: I64, cut: Cut, limits: FitLimits) -> list[dict[str, float]]:
    """Fit the peaks of one blob together.

    Parameters
    ----------
    voxels
        Strong voxels of the blob (fields frame, slow, fast, height, noise).
    tops
        Number of the maximum (n) that each voxel belongs to.
    cut
        Gives the box between two corners.
    limits
        See `FitLimits`.

    Returns
    -------
    list of dict
        A row for each peak, with the keys of `FIELDS`.
    """
    names = np.unique(tops)
    names = names[np.argsort(-voxels["height"][names], kind="stable")]
    segments = [_begin(voxels[tops == top], cut, limits) for top in names]
    single = len(segments) == 1
    ready = [False] * len(segments)
    for sweep in range(2 if single else 1 + _SWEEPS):
        for k, segment in enumerate(segments):
            near = sweep > 0 and segment.near()
            if single and near and segment.significance < 0.7 * limits.min_significance:
                break
            if sweep == 1 and near:
                segment.box = _widened(segment, cut)
            if near:
                # The priors stay weak: they only follow the last fit.
                segment.start = segment.p.copy()
            extra = _others(segments, k, ready)
            if sweep:
                _fit(segment, extra, limits, final=single or sweep == _SWEEPS)
            else:
                _fit_first(segment, extra, limits)
            ready[k] = segment.near()
    return [_row(s, k, segments, ready, limits) for k, s in enumerate(segments)]


def _row(
    segment: _Segment, k: int, segments: list[_Segment], ready: list[bool], limits: FitLimits
) -> dict[str, float]:
    flags = PeakFlag.OVERLAP if len(segments) > 1 else PeakFlag(0)
    p, box = segment.p, segment.box
    if segment.converged and ready[k]:
        chi2 = segment.chi2 / max(segment.number - p.size, 1) / limits.gain
        # A profile that is no Gaussian makes the errors larger, never smaller.
        covariance = segment.covariance * limits.gain * max(1.0, chi2)
        centre, width, intensity = p[1:4].copy(), np.exp(p[4:7]), p[0]
        variance, var_intensity = np.diag(covariance)[1:4].copy(), covariance[0, 0]
        off = p[2:4] - box.origin[1:] - 0.5 * np.array(box.counts.shape[1:])
        background = max(float(p[7] + p[8:10] @ off), 0.0)
        significance = segment.significance
    else:
        mark, moments = _moments(segment, _others(segments, k, ready), limits.gain)
        centre, variance, width, intensity, var_intensity, background = moments
        flags |= mark
        significance, chi2 = intensity / np.sqrt(var_intensity), np.nan
    # Within one voxel the likelihood is flat and its curvature says nothing.
    contained = (width < _NARROW) & (np.abs(centre % 1.0 - 0.5) + 1.5 * width < 0.5)
    centre[contained], variance[contained] = np.floor(centre[contained]) + 0.5, 1.0 / 12.0
    if contained[0]:
        flags |= PeakFlag.SINGLE_FRAME
    low, high = centre - 2 * width, centre + 2 * width
    if (low[1:] < 0).any() or (high[1:] > limits.shape).any():
        flags |= PeakFlag.EDGE
    if 4 * width[0] > limits.max_frames:
        flags |= PeakFlag.LONG
    core = _core(box, centre, width)
    if (core & ~box.valid).any():
        flags |= PeakFlag.MASKED
    if (core & box.overload).any():
        flags |= PeakFlag.OVERLOAD
    valid = core & box.valid
    maximum = box.counts[valid].max() if valid.any() else 0.0
    above = valid & (box.counts > background + max(np.sqrt(limits.gain * background), 0.5))
    frames = np.count_nonzero(above.any(axis=(1, 2)))
    values = [*centre, *(variance + limits.floor**2), *width, intensity, var_intensity, background]
    values += [above.sum(), frames, maximum, significance, chi2, int(flags)]
    return dict(zip(FIELDS, map(float, values), strict=True))


def _core(box: Box, centre: F64, width: F64) -> Bools:
    """Voxels within two widths."""
    axes = [
        ((np.arange(n) + 0.5 + o - c) / np.hypot(w, 0.5)) ** 2
        for n, o, c, w in zip(box.counts.shape, box.origin, centre, width, strict=True)
    ]
    z, y, x = np.ix_(*axes)
    return np.asarray(z + y + x < 4.0)


def _moments(segment: _Segment, extra: F64, gain: float) -> tuple[PeakFlag, _Values]:
    """First and second moments of the counts above background on the strong voxels and around.

    The centroid's variance is ``sum var(n) (x - <x>)² / I²``, with the background's share.
    """
    box, at = segment.box, segment.at
    local = at - box.origin
    local = local[((local >= 0) & (local < box.counts.shape)).all(axis=1)]
    own = np.zeros(box.counts.shape, bool)
    own[tuple(local.T)] = True
    peak = binary_dilation(own, np.ones((1, 3, 3), bool)) & box.usable
    ring = box.usable & ~box.own & ~peak
    rest = box.counts - extra
    flat = np.broadcast_to(box.level[:, None, None], rest.shape)
    if np.count_nonzero(ring) >= _RING:
        background = max(float(rest[ring].sum() / flat[ring].sum()), 0.0)
    else:
        background = float(segment.start[7])
    place = np.argwhere(peak) + box.origin + 0.5
    excess = (rest - background * flat)[peak]
    noise = gain * np.maximum(box.counts[peak], 1.0)
    total, variance = float(excess.sum()), float(noise.sum())
    if total > 3.0 * np.sqrt(max(variance, 1.0)):
        centre = excess @ place / total
        spread = excess @ (place - centre) ** 2 / total
        inside = (centre > place.min(axis=0) - 0.5) & (centre < place.max(axis=0) + 0.5)
        if inside.all():
            # The extent of a voxel is part of the spread; sums of a few noisy voxels can
            # leave less than nothing.
            width = np.sqrt(np.maximum(spread - 1.0 / 12.0, 0.1**2))
            var_centre = noise @ (place - centre) ** 2 / total**2
            var_centre = np.maximum(var_centre, 1e-6)
            return PeakFlag.MOMENTS, (centre, var_centre, width, total, variance, background)
    width = np.maximum(np.std(at, axis=0), 0.3)
    centre = segment.start[1:4].copy()
    return PeakFlag.FIT_FAILED, (centre, width**2, width, total, max(variance, 1.0), background)
