"""Scale of every frame: the part of the norm that depends only on the frame.

A pixel counts ``n ~ Poisson(N S)``. The factor of the norm N that belongs to frame z is

    monitor(z) * attenuation(z) * scale(z),   scale(z) = transmission(z) * rotation

Monitor and attenuators are measured. The transmission of the sample is estimated from the
background between the Bragg peaks, divided by the incident intensity, because this signal changes
only by absorption. The transmission is known only relative to the median over its rotation; the
factor ``rotation`` scales it to the median of the scan's first rotation.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]

FEWEST_PARTS = 6
"""Fewest parts of the detector. Half of them are independent and give the scatter within 1/3."""

SCATTER_LIMIT = 5.0
"""Scatter of the frames about their smooth curve, in counting errors, above which counting noise
cannot explain the scatter. The ratio is 1.1 to 1.5 in simulated scans with a steady beam and up to
2.4 in a measured scan (L-cysteine), because tails of Bragg peaks add noise to the background."""


JUMP_LIMIT = 8.0
"""Smallest jump of the transmission between two frames, in units of the scatter of such
differences over the rotation. Without a jump, the largest of 360 is 4.3 times the scatter in
simulated rotations with diffuse scattering."""

LEAST_JUMP = 0.03
"""Smallest jump (logarithm) that is reported: three times the relative error of the scale that
comparisons of scans assume."""

_SIDE = 11  # frames on each side of a jump
_ALONE = 4.0  # smallest ratio of a jump to the rms change between other frames next to it
_GAP = 5  # frames without a signal over which a jump is searched


class Status(IntEnum):
    """Use of the value measured on a frame."""

    USED = 0
    """The value contributes to the curve."""
    REPLACED = 1
    """The value is an outlier and is replaced by the curve."""
    INTERPOLATED = 2
    """The frame has no value, or has too few values around it; the curve is interpolated."""


@dataclass(frozen=True)
class Transmission:
    """Relative transmission of the sample on each frame; arrays (n_frames,) except ``level``.

    Attributes
    ----------
    transmission
        The smooth curve, divided by its median.
    errors
        Standard errors of ``transmission``, without the error of the common scale. They include the
        error that `uneven` returns, if it was computed.
    ratio
        Measured values of the frames, divided by the same median; NaN for frames without a value.
    status
        `Status` of each frame.
    level : float
        Median of the curve (signal divided by incident intensity).
    """

    transmission: Floats
    errors: Floats
    ratio: Floats
    status: NDArray[np.uint8]
    level: float

    @property
    def counts(self) -> dict[str, int]:
        """Number of frames of each status; the sum is the number of frames."""
        return {s.name.lower(): int((self.status == s).sum()) for s in Status}

    @property
    def scatter(self) -> float:
        """Relative scatter (1.4826 MAD) of the measured values about the curve."""
        valued = self.status != Status.INTERPOLATED
        off = self.ratio[valued] / self.transmission[valued] - 1
        return float(1.4826 * np.median(np.abs(off)))


@dataclass(frozen=True)
class FrameScale:
    """Scale of the frames of one rotation.

    Attributes
    ----------
    monitor, attenuation : (n_frames,) array
        Values of the scan file.
    signal : (n_frames,) array
        Counts per pixel from which the transmission was estimated.
    transmission : Transmission
    rotation : float
        Median transmission relative to the median of the scan's first rotation.
    area : float
        Solid angle of the pixel nearest to the sample, relative to the first rotation.
        ``rotation`` is divided by this ratio; 1 if the rotations were not compared.
    source : str
        The signal: ``background``, ``frame_sum`` or ``none``.
    absorption : (n_frames,) array or None
        Mean transmission of each frame by the crystal's shape, by which the signal was divided; a
        further factor of the norm. None: the shape is not given.
    """

    monitor: Floats
    attenuation: Floats
    signal: Floats
    transmission: Transmission
    rotation: float
    area: float
    source: str
    absorption: Floats | None = None

    @property
    def scale(self) -> Floats:
        """Factor (n_frames,) by which monitor, attenuation and absorption are multiplied."""
        return self.transmission.transmission * self.rotation

    @property
    def course(self) -> Floats:
        """Transmission (n_frames,) of the crystal, divided by its median."""
        return course(self.transmission, self.absorption)

    @property
    def norm(self) -> Floats:
        """Factor (n_frames,) of the norm: all but the factor of the direction."""
        found = self.monitor * self.attenuation * self.scale
        return found if self.absorption is None else found * self.absorption


def course(curve: Transmission, absorption: Floats | None) -> Floats:
    """Return the transmission (n_frames,) of the crystal, divided by its median."""
    if absorption is None:
        return curve.transmission
    found = curve.transmission * absorption
    return np.asarray(found / np.median(found))


def constant(incident: NDArray[Any]) -> Transmission:
    """Return a transmission of 1 on every frame, for samples without a usable signal."""
    n = len(incident)
    return Transmission(np.ones(n), np.zeros(n), np.ones(n), np.zeros(n, np.uint8), 1.0)


def transmission(
    signal: NDArray[Any],
    incident: NDArray[Any],
    window: int | None,
    surroundings: NDArray[Any] | float = 0.0,
) -> Transmission:
    """Estimate the relative transmission of the sample from signal over incident intensity.

    For each frame, a parabola (a line if ``window`` is below 11) is fitted to the ratio in the
    ``window`` nearest frames. The fit uses Tukey's biweight (c = 4.685 times the scatter, 1.4826
    MAD) in six iterations. The value of the parabola at the frame is the transmission.

    The weight of a frame is its incident intensity. This weight is best for Poisson counts, and it
    does not favour low counts, as weights from the counts would.

    If the frames on both sides do not follow one parabola, but the frames before or the frames
    after do, the parabola of this side is used. A step of many standard deviations is thus kept
    (after Gijbels, Lambert & Qiu, Ann. Inst. Stat. Math. 59, 235, 2007), unless there is another
    step within the window.

    Parameters
    ----------
    signal
        (n_frames,) counts per pixel of each frame; NaN for a frame without a signal.
    incident
        (n_frames,) positive incident intensity of each frame: monitor times attenuation.
    window
        Odd number of frames, 5 or more; the transmission should change little within half a window.
        None: no curve; every frame keeps its measured value.
    surroundings
        (n_frames,) expected counts per pixel that are not from the crystal. They are subtracted
        from the signal; the difference of a single frame may be negative, the curve may not.

    Raises
    ------
    HklflowError
        If an incident intensity is not positive and finite, a signal is negative, the lengths
        differ, the window is wrong, or the curve is not positive.
    """
    b, m = np.asarray(signal, np.float64), np.asarray(incident, np.float64)
    if b.ndim != 1 or b.shape != m.shape:
        raise HklflowError(f"signal {b.shape} and incident {m.shape}: give one value per frame")
    for name, values, wrong in (
        ("incident intensity", m, ~(np.isfinite(m) & (m > 0))),
        ("background", b, (b < 0) | np.isinf(b)),
    ):
        frames = np.flatnonzero(wrong)
        if frames.size:
            raise HklflowError(
                f"the {name} is {values[frames[0]]} on frame {frames[0]} ({frames.size} such "
                "frames): give a positive value for every frame, or leave these frames out "
                "(`import_scan: leave_out`)"
            )
    require_window(window, b.size)
    ratio = (b - surroundings) / m
    weight = m / np.median(m)
    if window is None:
        value, error, status = _own_values(ratio, weight)
    else:
        value, error, status = _smooth(ratio, weight, window)
    bad = np.flatnonzero(~(value > 0))
    if bad.size and np.any(np.asarray(surroundings) > 0):
        share = float(np.nanmedian(surroundings / np.where(b > 0, b, np.nan)))
        raise HklflowError(
            f"the transmission is {value[bad[0]]:.3g} on frame {bad[0]} ({bad.size} such frames), "
            f"because the background without the crystal is {share:.0%} of the signal; check "
            "monitor, exposure, attenuation and `seen_through` of the runs, or set `frame_scale: "
            "{source: none}`"
        )
    if bad.size:
        raise HklflowError(
            f"the transmission is {value[bad[0]]:.3g} on frame {bad[0]} ({bad.size} such frames; "
            f"{int(np.sum(b > 0))} of {b.size} frames have a signal): the signal is too weak; "
            "widen `frame_scale: window` or `find_peaks: annulus`, or set `frame_scale: {source: "
            "none}`"
        )
    level = float(np.median(value))
    return Transmission(value / level, error / level, ratio / level, status, level)


def require_window(window: int | None, n_frames: int) -> None:
    """Refuse a window that is even, shorter than 5 frames, or longer than the rotation.

    Raises
    ------
    HklflowError
    """
    if window is not None and (window < 5 or window % 2 == 0 or window > n_frames):
        raise HklflowError(
            f"window={window} of the transmission over {n_frames} frames: set `frame_scale: "
            "window` to an odd number from 5 to the number of frames, leave it out, or set "
            "`smooth: false`"
        )


@dataclass(frozen=True)
class Uneven:
    """Test if the background changes differently in different parts of the detector.

    Attributes
    ----------
    spread : float
        Relative rms difference between the curves of the parts and the common curve, without
        counting noise.
    error : float
        Relative error of the common curve that follows from this spread.
    significant : bool
        True if counting noise cannot explain the spread.
    """

    spread: float
    error: float
    significant: bool


def uneven(parts: Floats, errors: Floats, window: int | None) -> Uneven | None:
    """Compare the transmissions from the backgrounds of different parts of the detector.

    Absorption by the whole sample is the same for all parts. Diffuse scattering that rotates with
    the crystal, and absorption that depends on the direction, differ between parts, and their mean
    over the detector changes the common curve. Parts on opposite sides of the beam measure nearly
    the same values, because S(-Q) = S(Q). Therefore only half of the parts count for the error of
    the mean.

    Parameters
    ----------
    parts, errors
        Backgrounds (n_frames, n_parts) divided by level and shape, and their Poisson errors; see
        `images.statistics`.
    window
        See `transmission`.

    Returns
    -------
    Uneven or None
        None if fewer than `FEWEST_PARTS` parts have a curve.
    """
    off, variance = [], []
    for part, poisson in zip(parts.T, errors.T, strict=True):
        known = np.isfinite(part) & (poisson > 0)
        if known.sum() >= max(window or 0, 2):
            d, v = _curve(part[known], poisson[known], window)
            off.append(d)
            variance.append(v)
    if len(off) < FEWEST_PARTS:
        return None
    d, v = np.concatenate(off), np.concatenate(variance)
    # For counting noise alone, χ² is 1 with the standard deviation `noise`.
    chi2, noise = float(np.mean(d**2) / np.mean(v)), _chance(len(d), window)
    spread = float(np.sqrt(max(float(np.mean(d**2) - np.mean(v)), 0.0)))
    return Uneven(spread, spread / float(np.sqrt(len(off) / 2 - 1)), chi2 > 1 + 5 * noise)


def counting_error(errors: Floats) -> float | None:
    """Return the median relative counting error of the frames' backgrounds.

    Parameters
    ----------
    errors
        Poisson errors (n_frames, n_parts) of the relative backgrounds of parts of the detector.

    Returns
    -------
    float or None
        None if no part has a background.
    """
    known = np.isfinite(errors) & (errors > 0)
    number = known.sum(axis=1)
    if not number.any():
        return None
    total = np.sqrt(np.sum(np.where(known, errors, 0.0) ** 2, axis=1))
    return float(np.median(total[number > 0] / number[number > 0]))


@dataclass(frozen=True)
class Jump:
    """Jump of the transmission between two neighbouring frames.

    Attributes
    ----------
    before, after : int
        Frames on both sides, from 0.
    factor : float
        Transmission after the jump relative to the transmission before it.
    limit : float
        Smallest change, |log factor|, that is a jump in this rotation.
    """

    before: int
    after: int
    factor: float
    limit: float

    @property
    def error(self) -> float:
        """Relative error of S on one side, if the other side is right."""
        return max(self.factor, 1 / self.factor) - 1


def jumps(signal: NDArray[Any], incident: NDArray[Any]) -> list[Jump]:
    """Return the jumps of signal over incident intensity, the largest first.

    The transmission of a crystal is continuous in the angle, also where a plate is edge-on. For
    each pair of neighbouring frames, the parabola through the 11 frames before and the parabola
    through the 11 frames after are compared half-way. A jump is a difference of more than
    `JUMP_LIMIT` times the scatter (1.4826 MAD) of these differences over the rotation, and of more
    than `LEAST_JUMP`. The medians of both sides must have at least half of it, and so must the two
    frames, whose change must also be 4 times that between other frames next to them, so that a
    narrow feature of S is no jump.

    Parameters
    ----------
    signal
        (n_frames,) counts per pixel of the crystal; NaN for a frame without a signal.
    incident
        (n_frames,) positive incident intensity of each frame.

    Returns
    -------
    list of Jump
        Empty if fewer than 44 frames have a signal. The first and last 11 frames are not tested.
    """
    ratio = np.asarray(signal, np.float64) / incident
    frames = np.flatnonzero(np.isfinite(ratio) & (ratio > 0))
    if frames.size < 4 * _SIDE:
        return []
    ratio, log = ratio[frames], np.log(ratio[frames])
    weight = np.asarray(incident, np.float64)[frames] / np.median(incident)
    blocks = _fit_blocks(ratio, weight, _SIDE)
    at = np.arange(_SIDE, frames.size - _SIDE + 1)
    # The places of a block are -1/2 to 1/2 at half a frame outside of its first and last frame.
    end = 0.5 ** np.arange(blocks.coefficients.shape[1])
    start = (-0.5) ** np.arange(end.size)
    low, high = blocks.coefficients[at - _SIDE] @ end, blocks.coefficients[at] @ start
    usable = (low > 0) & (high > 0) & (frames[at] - frames[at - 1] <= _GAP)
    if not usable.any():
        return []
    step = np.log(np.where(usable, high, 1.0) / np.where(usable, low, 1.0))
    limit = max(JUMP_LIMIT * 1.4826 * float(np.median(np.abs(step[usable]))), LEAST_JUMP)
    pair = np.diff(log)[at - 1]
    both = np.array([np.median(log[z : z + _SIDE]) - np.median(log[z - _SIDE : z]) for z in at])
    found = []
    free = usable.copy()
    while np.any(free & (np.abs(step) > limit)):
        i = int(np.argmax(np.where(free, np.abs(step), 0.0)))
        sign, near = np.sign(step[i]), slice(max(i - _SIDE, 0), i + _SIDE + 1)
        j = near.start + int(np.argmax(np.where(free, pair * sign, -np.inf)[near]))
        least, others = abs(step[i]) / 2, np.delete(pair[near], j - near.start)
        least = max(least, _ALONE * float(np.sqrt(np.mean(others**2))))
        if pair[j] * sign > least and min(step[j] * sign, both[j] * sign) > abs(step[i]) / 2:
            z = at[j]
            found.append(Jump(int(frames[z - 1]), int(frames[z]), float(np.exp(step[j])), limit))
        free[near] = False
    return found


def change(curve: Transmission, window: int | None) -> float:
    """Return the relative rms change of a curve, corrected for its errors; 0: not significant.

    Parameters
    ----------
    curve
    window
        See `transmission`.
    """
    square, noise = float(np.var(curve.transmission)), float(np.mean(curve.errors**2))
    if square <= noise * (1 + 5 * _chance(curve.errors.size, window)):
        return 0.0
    return float(np.sqrt(square - noise))


def _chance(n: int, window: int | None) -> float:
    """Return the standard deviation of a reduced χ² of n values of smooth curves."""
    return float(np.sqrt(2 / (n if window is None else 3 * n / window)))


def _curve(part: Floats, poisson: Floats, window: int | None) -> tuple[Floats, Floats]:
    """Return the smooth curve of a part of the scan, minus 1, and its variance, (n_frames,)."""
    from scipy.ndimage import median_filter
    from scipy.signal import savgol_filter

    # Tails of peaks increase the noise of single frames.
    noise = max(float(np.median(poisson)), _noise(part, np.ones_like(part)))
    if window is None:
        return part - 1, np.full(part.size, noise**2)
    middle = median_filter(part, window, mode="nearest")
    calm = np.clip(part, middle - 4 * noise, middle + 4 * noise)
    powers = _places(window)[:, None] ** np.arange(3)
    leverage = np.sum(powers * np.linalg.pinv(powers).T, axis=1)
    half = window // 2
    inner = np.full(part.size - 2 * half, leverage[half])
    of_frame = np.concatenate([leverage[:half], inner, leverage[half + 1 :]])
    return savgol_filter(calm, window, 2) - 1, noise**2 * of_frame


def _smooth(ratio: Floats, weight: Floats, window: int) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """Return value, standard error and status of each frame; NaN if no frame has a curve."""
    n = ratio.size
    known = np.isfinite(ratio)
    blocks = _fit_blocks(ratio, weight, window)
    frames = np.arange(n)
    last = n - window
    centred = np.clip(frames - window // 2, 0, last)
    enough = blocks.usable[centred]
    if not enough.any():
        return np.full(n, np.nan), np.full(n, np.nan), np.full(n, Status.INTERPOLATED, np.uint8)
    before, after = np.clip(frames - window + 1, 0, last), np.clip(frames, 0, last)
    # A parabola of one side is wrong if the frame itself is an outlier of this parabola.
    cost = [blocks.misfit[b] + (blocks.tukey[b, frames - b] < 0.5) for b in (before, after)]
    side = np.where(cost[0] < cost[1], before, after)
    # With a misfit above 2, the frames do not follow one parabola. If one side has less than half
    # of this misfit, there is a step.
    step = (blocks.misfit[centred] > 2) & (blocks.misfit[side] < 0.5 * blocks.misfit[centred])
    choice = np.where(step & known, side, centred)
    value, error, kept = blocks.at(frames, choice)
    status = np.where(kept, Status.USED, Status.REPLACED).astype(np.uint8)
    status[~known | ~enough] = Status.INTERPOLATED
    # Interpolate linearly where too few frames around the frame have a value.
    fitted = np.flatnonzero(enough)
    values = np.interp(frames, fitted, value[fitted])
    return values, np.interp(frames, fitted, error[fitted]), status


@dataclass(frozen=True)
class _Blocks:
    """Parabolas fitted to all blocks of ``window`` frames; arrays (m, ...), one row per block.

    Attributes
    ----------
    coefficients : (m, k)
    covariance : (m, k, k)
    tukey : (m, window)
        Biweights of the frames.
    misfit : (m,)
        Mean square of residual / noise of a frame, each square at most 16; infinite for blocks with
        too few values.
    usable : (m,)
        True for blocks with enough values.
    """

    coefficients: Floats
    covariance: Floats
    tukey: Floats
    misfit: Floats
    usable: NDArray[np.bool_]

    def at(
        self, frames: NDArray[np.int64], start: NDArray[np.int64]
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return value and error of frames from the blocks ``start``, and True for inliers."""
        window, k = self.tukey.shape[1], self.coefficients.shape[1]
        powers = _places(window)[frames - start][:, None] ** np.arange(k)
        value = np.sum(powers * self.coefficients[start], axis=1)
        error = np.sqrt(np.einsum("zi,zij,zj->z", powers, self.covariance[start], powers))
        return value, error, self.tukey[start, frames - start] >= 0.5


def _places(window: int) -> Floats:
    """Return the coordinates of the frames of a block, -1/2 to 1/2."""
    return (np.arange(window) - (window - 1) / 2) / window


def _fit_blocks(ratio: Floats, weight: Floats, window: int) -> _Blocks:
    """Fit robust parabolas to all blocks."""
    known = np.isfinite(ratio)
    index = np.arange(ratio.size - window + 1)[:, None] + np.arange(window)
    has, m = known[index], len(index)
    k = 3 if window >= 11 else 2
    usable = has.sum(axis=1) >= max(window // 2, k + 1)
    noise = max(_noise(ratio, weight), 1e-12 * float(np.abs(ratio[known]).max(initial=0)), 1e-300)
    powers = _places(window)[:, None] ** np.arange(k)
    coefficients, covariance = np.full((m, k), np.nan), np.full((m, k, k), np.nan)
    tukey, misfit = np.zeros((m, window)), np.full(m, np.inf)
    if not usable.any():
        return _Blocks(coefficients, covariance, tukey, misfit, usable)
    has = has[usable]
    y, w = np.where(has, ratio[index[usable]], 0.0), np.where(has, weight[index[usable]], 0.0)
    fit = np.nanmedian(np.where(has, y, np.nan), axis=1, keepdims=True)
    for _ in range(6):
        off = (y - fit) * np.sqrt(w)
        spread = 1.4826 * np.nanmedian(np.where(has, np.abs(off), np.nan), axis=1, keepdims=True)
        spread = np.maximum(spread, 1e-3 * noise)
        t = np.where(has, np.maximum(1 - (off / (4.685 * spread)) ** 2, 0) ** 2, 0.0)
        normal = np.einsum("bw,wi,wj->bij", t * w, powers, powers)
        right = np.einsum("bw,wi->bi", t * w * y, powers)
        solution = np.linalg.solve(normal, right[..., None])[..., 0]
        fit = solution @ powers.T
    inverse = np.linalg.inv(normal)
    # The variance of a value of weight w is spread² / w.
    middle = np.einsum("bw,wi,wj->bij", t**2 * w * spread**2, powers, powers)
    square = np.where(has, np.minimum(((y - fit) / noise) ** 2 * w, 16.0), 0.0)
    coefficients[usable], covariance[usable] = solution, inverse @ middle @ inverse
    tukey[usable], misfit[usable] = t, square.sum(axis=1) / (has.sum(axis=1) - k)
    return _Blocks(coefficients, covariance, tukey, misfit, usable)


def _noise(ratio: Floats, weight: Floats) -> float:
    """Return the σ of a frame of weight 1, from the differences of neighbouring frames."""
    frames = np.flatnonzero(np.isfinite(ratio))
    if frames.size < 2:
        return 0.0
    steps = np.abs(np.diff(ratio[frames])) / np.sqrt(
        1 / weight[frames][1:] + 1 / weight[frames][:-1]
    )
    return float(1.4826 * np.median(steps))


def _own_values(ratio: Floats, weight: Floats) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """Return the measured values, interpolated for frames without a value or with zero."""
    known = np.isfinite(ratio) & (ratio > 0)
    frames = np.flatnonzero(known)
    status = np.where(known, Status.USED, Status.INTERPOLATED).astype(np.uint8)
    if frames.size == 0:
        return np.full(ratio.size, np.nan), np.full(ratio.size, np.nan), status
    value = np.interp(np.arange(ratio.size), frames, ratio[frames])
    # The transmission changes slowly, so neighbours differ only by noise.
    return value, _noise(ratio, weight) / np.sqrt(weight), status


def compare(
    own: Transmission, first: Transmission, area: float, source: str, enabled: bool
) -> tuple[float, float]:
    """Return the scale of a rotation relative to the first rotation, and the area.

    The signal is counted per pixel, so the ratio of the levels contains the ratio of the solid
    angles of the pixels (the area). The transform corrects solid angles; therefore the scale is
    divided by the area.

    Parameters
    ----------
    own, first
        Transmission of the rotation and of the first rotation.
    area
        Solid angle of the pixel nearest to the sample, relative to the first rotation.
    source
        Kind of signal; with ``none``, rotations cannot be compared.
    enabled
        False: rotations are not compared, and the scale is 1.
    """
    if not enabled or source == "none":
        return 1.0, 1.0
    return own.level / first.level / area, area
