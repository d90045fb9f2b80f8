"""The scale of every frame: what of the norm depends on the frame only.

A pixel counts ``n ~ Poisson(N S)``; the part of N that belongs to frame z is

    monitor(z) * attenuation(z) * scale(z),   scale(z) = transmission(z) * rotation

Monitor and attenuators are measured. The sample's transmission is estimated from a signal
that the sample does not modulate otherwise: the background between the Bragg peaks, over
the incident intensity. It is known relative to its median over the scan only; the factor
`rotation` brings a rotation to the median of the scan's first one.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]

FEWEST_PARTS = 6
"""Parts of the detector of which the scatter is known to a third, half of them independent."""


class Status(IntEnum):
    """What became of a frame's own value."""

    USED = 0
    """It has a part in the curve."""
    REPLACED = 1
    """It is off the curve, which stands for it."""
    INTERPOLATED = 2
    """There is none, or too few near it; the curve is drawn through."""


@dataclass(frozen=True)
class Transmission:
    """Relative transmission of the sample per frame, all (n_frames,) but `level`.

    Attributes
    ----------
    transmission
        The curve over its median.
    errors
        Standard errors of ``transmission``, without that of the common scale; with what `uneven`
        finds, if it was asked.
    ratio
        The frames' own values over the same median; NaN where there is none.
    status
        `Status` of each frame.
    level : float
        The curve's median: signal over incident intensity.
    """

    transmission: Floats
    errors: Floats
    ratio: Floats
    status: NDArray[np.uint8]
    level: float

    @property
    def counts(self) -> dict[str, int]:
        """How many frames have each status; the sum is the number of frames."""
        return {s.name.lower(): int((self.status == s).sum()) for s in Status}

    @property
    def scatter(self) -> float:
        """Relative scatter (1.4826 MAD) of the frames' own values about the curve."""
        own = self.status != Status.INTERPOLATED
        off = self.ratio[own] / self.transmission[own] - 1
        return float(1.4826 * np.median(np.abs(off)))


@dataclass(frozen=True)
class FrameScale:
    """The scale of the frames of one rotation.

    Attributes
    ----------
    monitor, attenuation : (n_frames,) array
        As in the scan file.
    signal : (n_frames,) array
        Counts per pixel from which the transmission was estimated.
    transmission : Transmission
    rotation : float
        Median transmission relative to that of the scan's first rotation.
    area : float
        Solid angle of a pixel at the foot of the normal relative to that of the first rotation:
        divided out of ``rotation``, 1 if the rotations were not compared.
    source : str
        What the signal was: ``background``, ``frame_sum`` or ``none``.
    """

    monitor: Floats
    attenuation: Floats
    signal: Floats
    transmission: Transmission
    rotation: float
    area: float
    source: str

    @property
    def scale(self) -> Floats:
        """Return (n_frames,) what monitor times attenuation is multiplied with."""
        return self.transmission.transmission * self.rotation


def constant(incident: NDArray[Any]) -> Transmission:
    """Transmission of 1 on every frame, for samples whose signal cannot tell it."""
    n = len(incident)
    return Transmission(np.ones(n), np.zeros(n), np.ones(n), np.zeros(n, np.uint8), 1.0)


def transmission(signal: NDArray[Any], incident: NDArray[Any], window: int | None) -> Transmission:
    """Estimate the relative transmission of the sample from signal over incident intensity.

    A parabola (a line if ``window`` is below 11) is fitted to the ratio in the ``window``
    frames nearest to each frame, with Tukey's biweight (c = 4.685 times the scatter, 1.4826
    MAD) in six iterations; its value at the frame is the transmission. Frames weigh as their
    incident intensity does, which for Poisson counts is the best weight and, unlike one from
    the counts themselves, does not favour low ones. Where the frames around do not follow one
    parabola but those before or those after do, theirs is taken: a step of many standard
    deviations stays a step (after Gijbels, Lambert & Qiu, Ann. Inst. Stat. Math. 59, 235, 2007),
    if the next one is not within the window.

    Parameters
    ----------
    signal
        (n_frames,) counts per pixel of each frame; NaN where a frame has none.
    incident
        (n_frames,) positive incident intensity of each frame: monitor times attenuation.
    window
        Odd number of frames, 5 or more: short against the change of the transmission. None:
        no curve, every frame keeps its own value.

    Raises
    ------
    HklflowError
        Incident intensities that are not positive and finite, negative signals, differing
        lengths, a wrong window, or a curve that is not positive.
    """
    b, m = np.asarray(signal, np.float64), np.asarray(incident, np.float64)
    if b.ndim != 1 or b.shape != m.shape:
        raise HklflowError(f"signal {b.shape} and incident {m.shape}: give one value per frame")
    for name, values, wrong in (
        ("incident intensity", m, ~(np.isfinite(m) & (m > 0))),
        ("background", b, (b < 0) | np.isinf(b)),
    ):
        at = np.flatnonzero(wrong)
        if at.size:
            raise HklflowError(
                f"the {name} is {values[at[0]]} on frame {at[0]} ({at.size} such frames): give a "
                "positive value for every frame or leave those frames out (`import_scan: "
                "leave_out`)"
            )
    if window is not None and (window < 5 or window % 2 == 0 or window > b.size):
        raise HklflowError(
            f"window={window} of the transmission over {b.size} frames: give an odd number from "
            "5 to the number of frames, or set `smooth: false`"
        )
    ratio = b / m
    weight = m / np.median(m)
    if window is None:
        value, error, status = _own_values(ratio, weight)
    else:
        value, error, status = _smooth(ratio, weight, window)
    bad = np.flatnonzero(~(value > 0))
    if bad.size:
        raise HklflowError(
            f"the transmission comes out as {value[bad[0]]:.3g} on frame {bad[0]} ({bad.size} such "
            f"frames; {int(np.sum(b > 0))} of {b.size} have a signal): it is too weak; widen "
            "`window` or the annulus, or set `source: none`"
        )
    level = float(np.median(value))
    return Transmission(value / level, error / level, ratio / level, status, level)


@dataclass(frozen=True)
class Uneven:
    """How differently the background changes on parts of the detector.

    Attributes
    ----------
    spread : float
        Relative rms of the parts' curves about the common one, without what counting makes.
    error : float
        Relative error that the common curve has by it.
    significant : bool
        Whether counting alone could not make the spread.
    """

    spread: float
    error: float
    significant: bool


def uneven(parts: Floats, errors: Floats, window: int | None) -> Uneven | None:
    """Compare the transmissions that parts of the detector tell, each by its own background.

    What the sample absorbs as a whole is common to them. Diffuse scattering that turns with the
    crystal and absorption that depends on direction are not, and the common curve follows them as
    far as their mean over the detector does. Parts on opposite sides of the beam see nearly the
    same, for S(-Q) = S(Q): the error of the mean counts half as many as there are.

    Parameters
    ----------
    parts, errors
        (n_frames, n_parts) backgrounds over level and shape, and their Poisson errors; see
        `images.statistics`.
    window
        As of `transmission`.

    Returns
    -------
    Uneven or None
        None where fewer than `FEWEST_PARTS` parts have a curve.
    """
    off, variance = [], []
    for own, poisson in zip(parts.T, errors.T, strict=True):
        known = np.isfinite(own) & (poisson > 0)
        if known.sum() >= max(window or 0, 2):
            d, v = _curve(own[known], poisson[known], window)
            off.append(d)
            variance.append(v)
    if len(off) < FEWEST_PARTS:
        return None
    d, v = np.concatenate(off), np.concatenate(variance)
    # Of noise alone this is 1, with that standard deviation.
    chi2, noise = float(np.mean(d**2) / np.mean(v)), _chance(len(d), window)
    spread = float(np.sqrt(max(float(np.mean(d**2) - np.mean(v)), 0.0)))
    return Uneven(spread, spread / float(np.sqrt(len(off) / 2 - 1)), chi2 > 1 + 5 * noise)


def change(own: Transmission, window: int | None) -> float:
    """Rms of a curve about its mean, relative, beyond its errors; 0 where these alone may make it.

    Parameters
    ----------
    window
        As of `transmission`.
    """
    square, noise = float(np.var(own.transmission)), float(np.mean(own.errors**2))
    if square <= noise * (1 + 5 * _chance(own.errors.size, window)):
        return 0.0
    return float(np.sqrt(square - noise))


def _chance(n: int, window: int | None) -> float:
    """Return the standard deviation of a reduced χ² of n values of smooth curves."""
    return float(np.sqrt(2 / (n if window is None else 3 * n / window)))


def _curve(own: Floats, poisson: Floats, window: int | None) -> tuple[Floats, Floats]:
    """Return a part's smooth curve less 1, and its variance, (n_frames,) each."""
    from scipy.ndimage import median_filter
    from scipy.signal import savgol_filter

    # Wings of peaks add to the noise of single frames.
    noise = max(float(np.median(poisson)), _noise(own, np.ones_like(own)))
    if window is None:
        return own - 1, np.full(own.size, noise**2)
    middle = median_filter(own, window, mode="nearest")
    calm = np.clip(own, middle - 4 * noise, middle + 4 * noise)
    powers = _places(window)[:, None] ** np.arange(3)
    leverage = np.sum(powers * np.linalg.pinv(powers).T, axis=1)
    half = window // 2
    inner = np.full(own.size - 2 * half, leverage[half])
    of_frame = np.concatenate([leverage[:half], inner, leverage[half + 1 :]])
    return savgol_filter(calm, window, 2) - 1, noise**2 * of_frame


def _smooth(ratio: Floats, weight: Floats, window: int) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """Value, standard error and status of each frame; NaN where nothing is known at all."""
    n = ratio.size
    known = np.isfinite(ratio)
    blocks = _fit_blocks(ratio, weight, window)
    frames = np.arange(n)
    last = n - window
    around = np.clip(frames - window // 2, 0, last)
    enough = blocks.usable[around]
    if not enough.any():
        return np.full(n, np.nan), np.full(n, np.nan), np.full(n, Status.INTERPOLATED, np.uint8)
    before, after = np.clip(frames - window + 1, 0, last), np.clip(frames, 0, last)
    # A side to which the frame itself is an outlier is the wrong one.
    cost = [blocks.misfit[b] + (blocks.tukey[b, frames - b] < 0.5) for b in (before, after)]
    side = np.where(cost[0] < cost[1], before, after)
    # Twice the noise is no parabola; half of that is the better side of a step.
    step = (blocks.misfit[around] > 2) & (blocks.misfit[side] < 0.5 * blocks.misfit[around])
    choice = np.where(step & known, side, around)
    value, error, kept = blocks.at(frames, choice)
    status = np.where(kept, Status.USED, Status.REPLACED).astype(np.uint8)
    status[~known | ~enough] = Status.INTERPOLATED
    # Where too few frames around have a value, a line between those that have.
    at = np.flatnonzero(enough)
    return np.interp(frames, at, value[at]), np.interp(frames, at, error[at]), status


@dataclass(frozen=True)
class _Blocks:
    """Parabolas in all blocks of `window` frames; (m, ...) arrays, one row for each start.

    Attributes
    ----------
    coefficients : (m, k)
    covariance : (m, k, k)
    tukey : (m, window)
        Biweights of the frames.
    misfit : (m,)
        Mean square residual over the noise of single frames, each at most 16; infinite where
        the block has too few values.
    usable : (m,)
    """

    coefficients: Floats
    covariance: Floats
    tukey: Floats
    misfit: Floats
    usable: NDArray[np.bool_]

    def at(
        self, frames: NDArray[np.int64], start: NDArray[np.int64]
    ) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Value and error of frames from the blocks with these starts, and which count."""
        window, k = self.tukey.shape[1], self.coefficients.shape[1]
        powers = _places(window)[frames - start][:, None] ** np.arange(k)
        value = np.sum(powers * self.coefficients[start], axis=1)
        error = np.sqrt(np.einsum("zi,zij,zj->z", powers, self.covariance[start], powers))
        return value, error, self.tukey[start, frames - start] >= 0.5


def _places(window: int) -> Floats:
    """Places of the frames of a block, -1/2 to 1/2."""
    return (np.arange(window) - (window - 1) / 2) / window


def _fit_blocks(ratio: Floats, weight: Floats, window: int) -> _Blocks:
    """Fit robust parabolas."""
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
        found = np.linalg.solve(normal, right[..., None])[..., 0]
        fit = found @ powers.T
    inverse = np.linalg.inv(normal)
    # A value of weight w has the variance spread² / w.
    middle = np.einsum("bw,wi,wj->bij", t**2 * w * spread**2, powers, powers)
    square = np.where(has, np.minimum(((y - fit) / noise) ** 2 * w, 16.0), 0.0)
    coefficients[usable], covariance[usable] = found, inverse @ middle @ inverse
    tukey[usable], misfit[usable] = t, square.sum(axis=1) / (has.sum(axis=1) - k)
    return _Blocks(coefficients, covariance, tukey, misfit, usable)


def _noise(ratio: Floats, weight: Floats) -> float:
    """Standard deviation of a single frame of weight 1, from the differences of neighbours."""
    at = np.flatnonzero(np.isfinite(ratio))
    if at.size < 2:
        return 0.0
    steps = np.abs(np.diff(ratio[at])) / np.sqrt(1 / weight[at][1:] + 1 / weight[at][:-1])
    return float(1.4826 * np.median(steps))


def _own_values(ratio: Floats, weight: Floats) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """Return the frames' own values, interpolated where there is none or zero."""
    known = np.isfinite(ratio) & (ratio > 0)
    at = np.flatnonzero(known)
    status = np.where(known, Status.USED, Status.INTERPOLATED).astype(np.uint8)
    if at.size == 0:
        return np.full(ratio.size, np.nan), np.full(ratio.size, np.nan), status
    value = np.interp(np.arange(ratio.size), at, ratio[at])
    # Neighbours differ by noise; what the transmission itself does is slow.
    return value, _noise(ratio, weight) / np.sqrt(weight), status


def compare(
    own: Transmission, first: Transmission, area: float, source: str, enabled: bool
) -> tuple[float, float]:
    """Scale of a rotation relative to the scan's first, and the area that was divided out.

    The signal is counted per pixel, so the ratio of the levels holds the ratio of the pixels'
    solid angles, which the transform's solid-angle correction applies by itself.

    Parameters
    ----------
    area
        Solid angle of a pixel at the foot of the normal over that of the first rotation.
    source
        The signal; ``none`` cannot compare.
    enabled
        False: every rotation keeps its own scale, 1.
    """
    if not enabled or source == "none":
        return 1.0, 1.0
    return own.level / first.level / area, area
