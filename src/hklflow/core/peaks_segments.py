"""From a finished blob to rows of the peak table: boxes, joint fits, flags."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from hklflow.core.peaks_fit import add_model, fit_peak

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Columns that a fitted peak fills, in the order of `Peaks`.
FIELDS = (
    *("frame", "slow", "fast", "var_frame", "var_slow", "var_fast"),
    *("width_frame", "width_slow", "width_fast", "intensity", "var_intensity", "background"),
    *("n_pixels", "n_frames", "maximum", "significance", "chi2", "flags"),
)

_MAX_RADIUS = 20  # pixels: a wider box would be another thing than a peak
_NARROW = 0.25  # voxels: below this width the centre within the voxel is not measurable
_ITERATIONS = 40
_FIRST_ITERATIONS = 12  # enough to choose the final box and to drop noise
_WEAK = 15.0  # significance below which a second start is tried
_WIDE = (1.5, 1.8, 1.8)  # its widths: frames, pixels, pixels
_FEW = 12  # voxels: a narrow peak makes all boxes around it strong, which are more
_SWEEPS = 3  # joint fits of touching peaks converge geometrically


class PeakFlag(IntFlag):
    """What to know about a peak before it is used.

    ``EDGE`` within two widths of the detector's edge or beyond it; ``MASKED`` invalid
    voxels within two widths; ``SCAN_END`` within two widths of the scan's first or last
    frame; ``LONG`` four widths cover more frames than `PeakParams.max_frames`; ``OVERLAP``
    fitted together with a touching peak; ``SINGLE_FRAME`` contained in one frame, so that
    its centre within the frame is not measured; ``FIT_FAILED`` the fit did not converge and
    the row holds moments of the strong voxels; ``OVERLOAD`` has saturated voxels, which the
    fit leaves out.
    """

    EDGE = 1
    MASKED = 2
    SCAN_END = 4
    LONG = 8
    OVERLAP = 16
    SINGLE_FRAME = 32
    FIT_FAILED = 64
    OVERLOAD = 128


@dataclass(frozen=True)
class Box:
    """Voxels around a peak: first voxel (3), counts, validity, saturation (frame, slow, fast)."""

    origin: I64
    counts: F64
    valid: NDArray[np.uint8]
    foreign: NDArray[np.bool_]
    overload: NDArray[np.bool_]

    @property
    def usable(self) -> NDArray[np.uint8]:
        """One where the fit may use the voxel."""
        return (self.valid.astype(bool) & ~self.foreign & ~self.overload).astype(np.uint8)


#: ``cut(low, high)``: the box between two corners, clipped to what is there.
Cut = Callable[[I64, I64], Box]


@dataclass
class _Segment:
    voxels: NDArray[np.void]
    middle: F64
    start: F64
    box: Box
    p: F64
    covariance: F64
    information: float = 0.0
    chi2: float = 0.0
    number: int = 0
    converged: bool = False


def _coordinates(voxels: NDArray[np.void]) -> I64:
    return np.stack([voxels[name] for name in ("frame", "slow", "fast")], axis=1).astype(np.int64)


def _begin(voxels: NDArray[np.void], cut: Cut, margin: I64) -> _Segment:
    """Take starting values from the moments of the smoothed counts."""
    at = _coordinates(voxels)
    weight = np.maximum(voxels["height"].astype(float), 1e-3)
    top = at[np.argmax(weight)]
    centre = np.average(at + 0.5, axis=0, weights=weight)
    # a box of three voxels has the variance 2/3
    variance = np.average((at + 0.5 - centre) ** 2, axis=0, weights=weight) - 2.0 / 3.0
    width = np.sqrt(np.clip(variance, 0.4**2, None))
    low = np.maximum(at.min(axis=0), top - _MAX_RADIUS) - margin
    high = np.minimum(at.max(axis=0), top + _MAX_RADIUS) + 1 + margin
    box = cut(low, high)
    usable = box.usable.astype(bool)
    start = np.zeros(10)
    start[1:4], start[4:7] = centre, np.log(width)
    start[7] = max(float(np.mean(voxels["noise"])) / 27.0, 0.01)
    total = float((box.counts[usable] - start[7]).sum())
    start[0] = max(total, float(weight.max()), 1.0)
    return _Segment(voxels, centre, start, box, start.copy(), np.zeros((10, 10)))


def _fit(segment: _Segment, extra: F64, iterations: int) -> float:
    """Fit a segment and return -ln of its posterior."""
    box, usable, precision = segment.box, segment.box.usable, np.zeros(3)
    start = segment.start
    for attempt in range(2):
        result = fit_peak(box.counts, usable.astype(np.float64), extra, box.origin, start, precision, iterations)
        p, narrow = result[0], np.exp(result[0][4:7]) < _NARROW
        if attempt or not narrow.any():
            break
        # Contained in one voxel on this axis: the centre is only known to lie within it,
        # which is a variance of 1/12. Fitted again about the voxel's middle.
        start = p.copy()
        for axis in np.flatnonzero(narrow):
            start[1 + axis] = np.floor(p[1 + axis]) + 0.5
            precision[axis] = 12.0
    segment.p, segment.covariance, segment.information = result[0], result[1], result[2]
    segment.chi2, segment.number, segment.converged = result[3], result[4], result[5]
    return float(result[6])


def _fit_first(segment: _Segment, extra: F64) -> None:
    """Fit from the blob's own widths and, if the peak is weak, from wide ones too.

    The strong voxels of a weak peak are a few fluctuations near its top, and a fit that
    starts as narrow as they are can end on one of them. Very few voxels, most of which are
    noise, only get the wide start.
    """
    few = segment.voxels.size < _FEW
    value = np.inf if few else _fit(segment, extra, _FIRST_ITERATIONS)
    if not few and _significance(segment) > _WEAK:
        return
    wide = replace(segment, start=segment.start.copy())
    wide.start[4:7] = np.log(_WIDE)
    if _fit(wide, extra, _FIRST_ITERATIONS) < value:
        for name in ("p", "covariance", "information", "chi2", "number", "converged"):
            setattr(segment, name, getattr(wide, name))


def _others(segments: list[_Segment], me: int, ready: list[bool]) -> F64:
    box = segments[me].box
    extra = np.zeros(box.counts.shape)
    for k, other in enumerate(segments):
        if k != me and ready[k]:
            add_model(other.p, box.origin, 1.0, extra)
    return extra


def _widened(segment: _Segment, cut: Cut) -> Box:
    """Return the box that the fitted widths ask for: 3.5 widths and two voxels each way."""
    half = np.minimum(3.5 * np.exp(segment.p[4:7]) + 2.0, _MAX_RADIUS)
    box = cut(
        np.floor(segment.p[1:4] - half).astype(np.int64),
        np.ceil(segment.p[1:4] + half).astype(np.int64),
    )
    # a centre beyond the edge can leave nothing
    return box if int(box.usable.sum()) > 2 * segment.p.size else segment.box


def _sound(segment: _Segment) -> bool:
    """Whether the fit converged near where the blob is."""
    return segment.converged and _near(segment)


def _significance(segment: _Segment) -> float:
    return float(segment.p[0] * np.sqrt(segment.information))


def _near(segment: _Segment) -> bool:
    reach = 3.0 + 2.0 * np.exp(segment.p[4:7])
    at = _coordinates(segment.voxels)
    inside = (segment.p[1:4] > at.min(axis=0) - reach) & (
        segment.p[1:4] < at.max(axis=0) + 1 + reach
    )
    variances = np.diag(segment.covariance)[:4]
    return bool(
        inside.all()
        and np.isfinite(segment.p).all()
        and (variances > 0).all()
        and segment.information > 0
    )


def fit_segments(
    voxels: NDArray[np.void],
    tops: I64,
    cut: Cut,
    margin: I64,
    shape: tuple[int, int],
    floor: float,
    max_frames: int,
    min_significance: float,
) -> list[dict[str, float]]:
    """Fit the peaks of one blob together.

    Parameters
    ----------
    voxels
        Strong voxels of the blob (fields frame, slow, fast, height, noise).
    tops
        Number of the maximum (n) that each voxel belongs to.
    cut
        Gives the box between two corners.
    margin
        Voxels (3) added around the strong ones for the first fit.
    shape
        Detector (slow, fast).
    floor
        Standard deviation, in pixels and frames, added to the centroids'.
    max_frames
        Limit for the flag ``LONG``.
    min_significance
        A single peak far below it after the first fit is not fitted again.

    Returns
    -------
    list of dict
        A row for each peak, with the keys of `FIELDS`.
    """
    segments = [_begin(voxels[tops == top], cut, margin) for top in np.unique(tops)]
    single = len(segments) == 1
    ready = [False] * len(segments)
    order = sorted(range(len(segments)), key=lambda k: -float(segments[k].voxels["height"].max()))
    for sweep in range(2 if single else 1 + _SWEEPS):
        for k in order:
            segment = segments[k]
            near = sweep > 0 and _near(segment)
            if single and near and _significance(segment) < 0.7 * min_significance:
                break
            if sweep == 1 and near:
                segment.box = _widened(segment, cut)
            if near:
                # The priors stay weak: they only follow the last fit.
                segment.start = segment.p.copy()
            extra = _others(segments, k, ready)
            if sweep:
                last = single or sweep == _SWEEPS
                _fit(segment, extra, _ITERATIONS if last else _FIRST_ITERATIONS)
            else:
                _fit_first(segment, extra)
            ready[k] = _near(segment)
    return [_row(s, not single, shape, floor, max_frames) for s in segments]


def _row(
    segment: _Segment, overlap: bool, shape: tuple[int, int], floor: float, max_frames: int
) -> dict[str, float]:
    p, box, at = segment.p, segment.box, _coordinates(segment.voxels)
    flags = PeakFlag.OVERLAP if overlap else PeakFlag(0)
    if _sound(segment):
        centre, width, intensity = p[1:4], np.exp(p[4:7]), p[0]
        variance = np.diag(segment.covariance)[1:4].copy()
        # Within one voxel the likelihood is flat and its curvature says nothing.
        contained = (width < _NARROW) & (np.abs(centre % 1.0 - 0.5) + 1.5 * width < 0.5)
        variance[contained] = np.maximum(variance[contained], 1.0 / 12.0)
        variance += floor**2
        var_intensity = segment.covariance[0, 0]
        significance = _significance(segment)
        background = _background_at(p, box)
        chi2 = segment.chi2 / max(segment.number - p.size, 1)
    else:
        flags |= PeakFlag.FIT_FAILED
        centre, width = segment.middle, np.maximum(np.std(at, axis=0), 0.3)
        variance = width**2 + floor**2
        background = float(np.mean(segment.voxels["noise"])) / 27.0
        inside = _strong_in_box(at, box)
        counted = float(box.counts[inside].sum())
        intensity, var_intensity = counted - background * inside.sum(), max(counted, 1.0)
        significance, chi2 = intensity / np.sqrt(var_intensity), np.nan
    low, high = centre - 2 * width, centre + 2 * width
    if (low[1:] < 0).any() or (high[1:] > shape).any():
        flags |= PeakFlag.EDGE
    middle = [
        (np.arange(n) + 0.5 + o - c) / np.hypot(w, 0.5)
        for n, o, c, w in zip(box.counts.shape, box.origin, centre, width, strict=True)
    ]
    z, y, x = np.ix_(*middle)
    core = z**2 + y**2 + x**2 < 4.0
    if (core & (box.valid == 0)).any():
        flags |= PeakFlag.MASKED
    if (core & box.overload).any():
        flags |= PeakFlag.OVERLOAD
    if width[0] < _NARROW:
        flags |= PeakFlag.SINGLE_FRAME
    if 4 * width[0] > max_frames:
        flags |= PeakFlag.LONG
    valid = core & (box.valid != 0)
    maximum = box.counts[valid].max() if valid.any() else 0.0
    above = valid & (box.counts > background + max(np.sqrt(background), 0.5))
    frames = np.count_nonzero(above.any(axis=(1, 2)))
    values = [*centre, *variance, *width, intensity, var_intensity, background]
    values += [above.sum(), frames, maximum, significance, chi2, int(flags)]
    return dict(zip(FIELDS, map(float, values), strict=True))


def _background_at(p: F64, box: Box) -> float:
    off = p[2:4] - box.origin[1:] - 0.5 * np.array(box.counts.shape[1:])
    return max(float(p[7] + p[8:10] @ off), 0.0)


def _strong_in_box(at: I64, box: Box) -> NDArray[np.bool_]:
    inside = np.zeros(box.counts.shape, bool)
    local = at - box.origin
    keep = ((local >= 0) & (local < box.counts.shape)).all(axis=1)
    inside[tuple(local[keep].T)] = True
    return np.asarray(inside & (box.usable != 0), bool)
