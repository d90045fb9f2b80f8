"""Fit the peaks of a finished blob: joint fits, flags, test of significance, rows of the table.

All functions are compiled; a usual peak takes a few hundred microseconds.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.peaks.boxes import OVERLOAD, VALID, clip_box, cut_box, moments, usable
from hklflow.peaks.fit import add_model, fit_peak
from hklflow.peaks.guess import guess_significance
from hklflow.peaks.link import split_maxima
from hklflow.peaks.strips import N_PARAMETERS
from hklflow.peaks.table import FIELDS, PeakFlag
from hklflow.simd.jit import kernel

_NARROW = 0.25  # voxels; below this width, the centre within the voxel cannot be measured
_ITERATIONS = 30
_FIRST_ITERATIONS = 12  # sufficient for choosing the final box and rejecting noise
_WEAK = 15.0  # significance below which a second fit with wide starting values is tried
_WIDE = np.array([1.5, 1.8, 1.8])  # wide starting values of the widths: frames, pixels, pixels
_FEW = 12  # strong voxels; blobs with fewer are mostly noise: even a narrow peak has more
_MANY = 60  # strong voxels; no fluctuation has so many
_NEARLY = 0.7  # fraction of min_significance required of a guess; a fit gives a larger value
_FAR = 0.85  # fraction of min_significance below which a peak is not fitted again
_SWEEPS = 2  # joint fits of touching peaks converge geometrically
_N_FIELDS = len(FIELDS)
_OVERLAP, _SINGLE, _EDGE, _LONG = (
    int(f) for f in (PeakFlag.OVERLAP, PeakFlag.SINGLE_FRAME, PeakFlag.EDGE, PeakFlag.LONG)
)
_MASKED, _OVERLOAD = int(PeakFlag.MASKED), int(PeakFlag.OVERLOAD)


class FitLimits(NamedTuple):
    """Limits and settings of the fits.

    Attributes
    ----------
    margin
        (3,) number of voxels that are added around the strong voxels for the first fit.
    max_width
        (3,) largest widths of a peak.
    gain
        Ratio variance/mean of the counts.
    floor
        Standard deviation, in pixels and frames, that is added in quadrature to the centroid error.
    max_frames
        Limit for the flag ``LONG``.
    min_significance
        Smallest significance. A single peak that is far below it after the first fit is not fitted
        again.
    """

    margin: NDArray[np.int64]
    max_width: NDArray[np.float64]
    gain: float
    floor: float
    max_frames: int
    min_significance: float


class Segments(NamedTuple):
    """Peaks of a blob: n start values, boxes and fits."""

    start: NDArray[np.float64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    p: NDArray[np.float64]
    covariance: NDArray[np.float64]
    information: NDArray[np.float64]
    chi2: NDArray[np.float64]
    number: NDArray[np.int64]
    converged: NDArray[np.bool_]
    ready: NDArray[np.bool_]


@kernel
def _new_segments(n):  # type: ignore[no-untyped-def]
    return Segments(
        np.zeros((n, N_PARAMETERS)), np.zeros((n, 3), np.int64), np.zeros((n, 3), np.int64),
        np.zeros((n, N_PARAMETERS)), np.zeros((n, N_PARAMETERS, N_PARAMETERS)), np.zeros(n),
        np.zeros(n), np.zeros(n, np.int64), np.zeros(n, np.bool_), np.zeros(n, np.bool_),
    )  # fmt: skip


@kernel
def _begin(scene, at, own, height, noise, frames, limits, k, segments):  # type: ignore[no-untyped-def]
    """Set the starting values from moments of the smoothed counts of the voxels `own`.

    Return the box of the first fit.
    """
    weights, total = np.empty(own.size), 0.0
    best, mean_noise = 0, 0.0
    for n in range(own.size):
        weights[n] = max(float(height[own[n]]), 1e-3)
        mean_noise += noise[own[n]] / own.size
        total += weights[n]
        if weights[n] > weights[best]:
            best = n
    low, high, start = segments.low[k], segments.high[k], segments.start[k]
    for a in range(3):
        centre = variance = 0.0
        least, most = at[own[0], a], at[own[0], a]
        for n in range(own.size):
            centre += weights[n] * (at[own[n], a] + 0.5) / total
            least, most = min(least, at[own[n], a]), max(most, at[own[n], a])
        for n in range(own.size):
            variance += weights[n] * (at[own[n], a] + 0.5 - centre) ** 2 / total
        # A box of three voxels has the variance 2/3.
        width = min(np.sqrt(max(variance - 2.0 / 3.0, 0.4**2)), 0.8 * limits.max_width[a])
        start[1 + a], start[4 + a] = centre, np.log(width)
        radius, top = int(np.ceil(3.0 * limits.max_width[a])), at[own[best], a]
        low[a] = max(least, top - radius) - limits.margin[a]
        high[a] = min(most, top + radius) + 1 + limits.margin[a]
        if own.size > _MANY and segments.ready.size == 1:
            # The moments of a bright peak are accurate; a box with its outskirts would be slow.
            half = 4.0 * width + 3.0
            low[a] = max(low[a], int(np.floor(centre - half)))
            high[a] = min(high[a], int(np.ceil(centre + half)))
    clip_box(low, high, frames, scene.shape)
    start[7] = max(mean_noise / 27.0, 0.01)
    counts, kind, level = cut_box(scene, low, high, at)
    use = usable(kind)
    start[0] = max((counts * use).sum() - start[7] * use.sum(), weights[best], 1.0)
    segments.p[k] = start
    return counts, kind, level, use


@kernel
def _is_near(segments, k, at, own):  # type: ignore[no-untyped-def]
    """Return True if the fitted peak is near its blob."""
    p = segments.p[k]
    if not (np.all(np.isfinite(p)) and segments.information[k] > 0.0):
        return False
    for a in range(4):
        if not segments.covariance[k, a, a] > 0.0:
            return False
    for a in range(3):
        reach = 3.0 + 2.0 * np.exp(p[4 + a])
        least, most = at[own[0], a], at[own[0], a]
        for n in own:
            least, most = min(least, at[n, a]), max(most, at[n, a])
        if not (least - reach < p[1 + a] < most + 1 + reach):
            return False
    return True


@kernel
def _significance(segments, k):  # type: ignore[no-untyped-def]
    return segments.p[k, 0] * np.sqrt(segments.information[k])


@kernel
def _fit(box, extra, low, begin, limits, final, k, segments):  # type: ignore[no-untyped-def]
    """Fit a segment with the starting values `begin`; return -ln of its posterior."""
    counts, _, level, use = box
    columns = segments.high[k, 2] - low[2]
    start, max_log = begin.copy(), np.log(limits.max_width)
    narrow, precision = np.zeros(3, np.bool_), np.zeros(3)
    for a in range(3):
        narrow[a] = final and start[4 + a] < np.log(_NARROW)
    value = 0.0
    for _ in range(2):
        for a in range(3):
            # If the peak is contained in one voxel on this axis, its centre has a variance of 1/12
            # about the centre of the voxel.
            precision[a] = 12.0 if narrow[a] else 0.0
            if narrow[a]:
                start[1 + a] = np.floor(start[1 + a]) + 0.5
        p, covariance, information, chi2, number, converged, value = fit_peak(
            counts, use, extra, level, low, columns, start, precision, max_log,
            _ITERATIONS if final else _FIRST_ITERATIONS,
        )  # fmt: skip
        segments.p[k], segments.covariance[k] = p, covariance
        segments.information[k] = information / limits.gain
        segments.chi2[k], segments.number[k], segments.converged[k] = chi2, number, converged
        start[:] = p
        same = True
        for a in range(3):
            now = p[4 + a] < np.log(_NARROW)
            same, narrow[a] = same and now == narrow[a], now
        if not final or same:
            break
    return value


@kernel
def _fit_first(box, extra, low, few, limits, k, segments):  # type: ignore[no-untyped-def]
    """Fit with the widths of the blob as starting values; for a weak peak also with wide values.

    The strong voxels of a weak peak are a few fluctuations near its maximum. A fit that starts with
    their narrow widths can converge on one of these fluctuations. A blob with very few voxels is
    mostly noise, so it is fitted only with the wide starting values.
    """
    # With a constant False, Numba would compile `_fit` again.
    final = np.bool_(False)
    begin, value = segments.start[k], np.inf
    if not few:
        value = _fit(box, extra, low, begin, limits, final, k, segments)
        if _significance(segments, k) > _WEAK:
            return
    p, covariance = segments.p[k].copy(), segments.covariance[k].copy()
    information, chi2 = segments.information[k], segments.chi2[k]
    number, converged = segments.number[k], segments.converged[k]
    wide = begin.copy()
    wide[4:7] = np.log(np.minimum(_WIDE, 0.8 * limits.max_width))
    if not _fit(box, extra, low, wide, limits, final, k, segments) < value:
        segments.p[k], segments.covariance[k] = p, covariance
        segments.information[k], segments.chi2[k] = information, chi2
        segments.number[k], segments.converged[k] = number, converged


@kernel
def _others(segments, me, shape):  # type: ignore[no-untyped-def]
    extra = np.zeros(shape)
    for k in range(segments.ready.size):
        if k != me and segments.ready[k]:
            add_model(segments.p[k], segments.low[me], extra)
    return extra


@kernel
def _widen(scene, at, frames, k, segments):  # type: ignore[no-untyped-def]
    """Cut the box again with the fitted widths: 3.5 widths and two voxels on each side."""
    low, high = np.empty(3, np.int64), np.empty(3, np.int64)
    for a in range(3):
        half = 3.5 * np.exp(segments.p[k, 4 + a]) + 2.0
        low[a] = int(np.floor(segments.p[k, 1 + a] - half))
        high[a] = int(np.ceil(segments.p[k, 1 + a] + half))
    clip_box(low, high, frames, scene.shape)
    counts, kind, level = cut_box(scene, low, high, at)
    use = usable(kind)
    # If the centre is outside the detector, the box can be empty.
    if use.sum() > 2 * N_PARAMETERS:
        segments.low[k], segments.high[k] = low, high
        return counts, kind, level, use
    return _cut(scene, at, k, segments)


@kernel
def _cut(scene, at, k, segments):  # type: ignore[no-untyped-def]
    counts, kind, level = cut_box(scene, segments.low[k], segments.high[k], at)
    return counts, kind, level, usable(kind)


@kernel
def fit_segments(scene, at, height, noise, tops, frames, limits):  # type: ignore[no-untyped-def]
    """Fit the peaks of one blob together.

    Parameters
    ----------
    scene : Scene
    at : (n, 3) int64
        Strong voxels of the blob: frame, slow, fast.
    height, noise : (n,)
        Counts above background, and background, in the box of 27 voxels around each voxel.
    tops : (n,) int64
        Index of the maximum to which each voxel belongs.
    frames : (2,) int64
        First frame, and last frame + 1, that boxes may use.
    limits : FitLimits

    Returns
    -------
    ndarray (peaks, len(FIELDS))
        Rows of the table; empty if the blob is too weak for a fit.
    """
    names = np.unique(tops)
    names = names[np.argsort(-height[names], kind="mergesort")]
    n = names.size
    single = n == 1
    segments = _new_segments(n)
    for k in range(n):
        own = np.flatnonzero(tops == names[k])
        box = _begin(scene, at, own, height, noise, frames, limits, k, segments)
    if single and at.shape[0] <= _MANY and _is_noise(box, noise, segments, limits):
        return np.empty((0, _N_FIELDS))
    for sweep in range(2 if single else 1 + _SWEEPS):
        for k in range(n):
            own = np.flatnonzero(tops == names[k])
            near = sweep > 0 and _is_near(segments, k, at, own)
            if single and near and _significance(segments, k) < _FAR * limits.min_significance:
                break
            if near:
                # Centre the priors on the last fit, so that they remain weak.
                segments.start[k] = segments.p[k]
            if sweep == 1 and near:
                box = _widen(scene, at, frames, k, segments)
            elif not single:
                box = _cut(scene, at, k, segments)
            low, extra = segments.low[k], _others(segments, k, box[0].shape)
            if sweep == 0:
                _fit_first(box, extra, low, own.size < _FEW, limits, k, segments)
            else:
                final = single or sweep == _SWEEPS
                _fit(box, extra, low, segments.start[k], limits, final, k, segments)
            segments.ready[k] = _is_near(segments, k, at, own)
    rows = np.empty((n, _N_FIELDS))
    for k in range(n):
        own = np.flatnonzero(tops == names[k])
        if not single:
            box = _cut(scene, at, k, segments)
        _row(scene, box, at, own, frames, limits, k, segments, rows[k])
    return rows


@kernel
def _is_noise(box, noise, segments, limits):  # type: ignore[no-untyped-def]
    """Return True if a single peak is not even nearly significant with any of the known shapes."""
    counts, _, level, use = box
    background = max(noise.mean() / 27.0, 1e-3)
    centre = segments.start[0, 1:4]
    low, columns = segments.low[0], segments.high[0, 2] - segments.low[0, 2]
    guess = guess_significance(counts, use, level, low, columns, centre, background, limits.gain)
    return guess < _NEARLY * limits.min_significance


@kernel
def fit_blobs(scene, at, values, cuts, n_frames, margin_frames, prominence, limits):  # type: ignore[no-untyped-def]
    """Fit many blobs, each separately.

    Parameters
    ----------
    scene : Scene
    at : (n, 3) int64
        (frame, slow, fast) of strong voxels, one blob after the other.
    values : (n, 3)
        See `Blobs`.
    cuts : (blobs + 1,) int64
        Index at which each blob begins and the previous blob ends.
    n_frames : int
        Number of frames read so far.
    margin_frames : int
        Number of frames around a blob that boxes may use.
    prominence : float
        See `split_maxima`.
    limits : FitLimits

    Returns
    -------
    rows : (peaks, len(FIELDS))
    n_noise : int
        Number of blobs that are too weak for a fit.
    """
    found = np.empty((cuts.size - 1, _N_FIELDS))
    height, noise = values[:, 0].copy(), values[:, 1].copy()
    number = n_noise = 0
    for k in range(cuts.size - 1):
        a, b = cuts[k], cuts[k + 1]
        tops = split_maxima(at[a:b], values[a:b], prominence)
        frames = np.array(
            [
                max(0, at[a:b, 0].min() - margin_frames),
                min(n_frames, at[a:b, 0].max() + 1 + margin_frames),
            ]
        )
        rows = fit_segments(scene, at[a:b], height[a:b], noise[a:b], tops, frames, limits)
        n_noise += len(rows) == 0
        while number + len(rows) > len(found):
            found = np.concatenate((found, np.empty_like(found)))
        found[number : number + len(rows)] = rows
        number += len(rows)
    return found[:number], n_noise


@kernel
def _within_scan(centre, at, frames, limits):  # type: ignore[no-untyped-def]
    """Return the centre of a peak, or the end of the scan if the centre is beyond it.

    Only the flank of such a peak was measured.
    """
    inside = centre.copy()
    if frames[0] == 0:
        inside[0] = max(inside[0], 0.0)
    if frames[1] < at[:, 0].max() + 1 + limits.margin[0]:
        inside[0] = min(inside[0], float(frames[1]))
    return inside


@kernel
def _row(scene, box, at, own, frames, limits, k, segments, row):  # type: ignore[no-untyped-def]
    flags = _OVERLAP if segments.ready.size > 1 else 0
    p, low = segments.p[k], segments.low[k]
    counts, kind, level, _ = box
    if segments.converged[k] and segments.ready[k]:
        chi2 = segments.chi2[k] / max(segments.number[k] - N_PARAMETERS, 1) / limits.gain
        # If the profile is not Gaussian, the errors are increased, never reduced.
        scale = limits.gain * max(1.0, chi2)
        centre, width, intensity = p[1:4].copy(), np.exp(p[4:7]), p[0]
        variance = np.empty(3)
        for a in range(3):
            variance[a] = segments.covariance[k, a + 1, a + 1] * scale
        var_intensity = segments.covariance[k, 0, 0] * scale
        background = p[7]
        for a in range(1, 3):
            background += p[7 + a] * (p[1 + a] - 0.5 * (low[a] + segments.high[k, a]))
        background = max(background, 0.0)
        significance = _significance(segments, k)
    else:
        mark, centre, variance, width, intensity, var_intensity, background = moments(
            counts, kind, level, _others(segments, k, counts.shape), low, at[own],
            segments.start[k], limits.gain,
        )  # fmt: skip
        flags |= mark
        significance, chi2 = intensity / np.sqrt(var_intensity), np.nan
    for a in range(3):
        # If the peak is within one voxel, the likelihood is flat, and its curvature has no
        # information.
        if width[a] < _NARROW and abs(centre[a] % 1.0 - 0.5) + 1.5 * width[a] < 0.5:
            centre[a], variance[a] = np.floor(centre[a]) + 0.5, 1.0 / 12.0
            if a == 0:
                flags |= _SINGLE
        if a > 0 and (
            centre[a] - 2 * width[a] < 0 or centre[a] + 2 * width[a] > scene.shape[a - 1]
        ):
            flags |= _EDGE
    if 4 * width[0] > limits.max_frames:
        flags |= _LONG
    limit = background + max(np.sqrt(limits.gain * background), 0.5)
    inside = _within_scan(centre, at, frames, limits)
    seen, n_above, n_frames, largest = _core(
        counts, kind, low, segments.high[k], inside, width, limit
    )
    flags |= seen
    for a in range(3):
        row[a], row[3 + a], row[6 + a] = centre[a], variance[a] + limits.floor**2, width[a]
    row[9], row[10], row[11] = intensity, var_intensity, background
    row[12], row[13], row[14] = n_above, n_frames, largest
    row[15], row[16], row[17] = significance, chi2, flags


@kernel
def _core(counts, kind, low, high, centre, width, limit):  # type: ignore[no-untyped-def]
    """Examine the voxels within two widths.

    Return the flags of these voxels, the number of voxels above `limit`, the number of frames with
    such voxels, and the largest counts.
    """
    flags, above, frames, largest = 0, 0, 0, 0.0
    nz, ny, nx = high - low
    off, reach = np.empty(3), np.empty(3)
    for a in range(3):
        off[a], reach[a] = low[a] + 0.5 - centre[a], np.hypot(width[a], 0.5)
    for z in range(nz):
        before = above
        dz = ((z + off[0]) / reach[0]) ** 2
        if dz >= 4.0:
            continue
        for y in range(ny):
            dy = dz + ((y + off[1]) / reach[1]) ** 2
            if dy >= 4.0:
                continue
            for x in range(nx):
                if dy + ((x + off[2]) / reach[2]) ** 2 >= 4.0:
                    continue
                if not kind[z, y, x] & VALID:
                    flags |= _MASKED
                    continue
                if kind[z, y, x] & OVERLOAD:
                    flags |= _OVERLOAD
                largest = max(largest, counts[z, y, x])
                above += counts[z, y, x] > limit
        frames += above > before
    return flags, above, frames, largest
