"""One streaming pass over the frames of a scan: maximum, sums, background, transmission.

Integer frames are summed in 64-bit integers, exactly: 2^32 counts on 2^22 pixels of 2^9 frames
fit. Floating frames are summed in 64-bit floats in the order (frame, slow, fast), which is exact
for whole counts. Nothing depends on how the frames are cut into blocks.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hklflow.errors import HklflowError

BoolImage = NDArray[np.bool_]
Floats = NDArray[np.float64]
_CELL = 8  # pixels; side of the cells of the robust background
_TYPES = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64)


@dataclass(frozen=True)
class StatisticsResult:
    """What :class:`FrameStatistics` found; masked and flagged pixels never count.

    Attributes
    ----------
    maximum
        Largest value, and
    maximum_at
        its (frame, slow, fast) index; the first one where several are equal.
    frame_sums
        (n_frames,) counts, int64 for integer frames, else float64.
    frame_flagged
        (n_frames,) number of pixels outside the mask that carry no measurement.
    background
        (n_frames,) robust mean counts per pixel in the annulus, NaN where it has no pixel, and
    background_errors
        its Poisson standard error.
    summed, maximum_image
        (slow, fast) sum and maximum over the frames; pixels never measured are 0.
    valid_frames
        (slow, fast) int64, number of frames with a measurement.
    radial_sums, radial_counts
        (n_frames, n_labels) sum and number of pixels per label, or None.
    """

    maximum: int | float
    maximum_at: tuple[int, int, int]
    frame_sums: NDArray[Any]
    frame_flagged: NDArray[np.int64]
    background: Floats
    background_errors: Floats
    summed: NDArray[Any]
    maximum_image: NDArray[Any]
    valid_frames: NDArray[np.int64]
    radial_sums: NDArray[Any] | None
    radial_counts: NDArray[np.int64] | None

    @property
    def mean_image(self) -> Floats:
        """Counts per frame (slow, fast), NaN where never measured."""
        seen = np.where(self.valid_frames > 0, self.valid_frames, 1)
        return np.where(self.valid_frames > 0, self.summed / seen, np.nan)


@numba.njit(cache=True, nogil=True)
def _add_frame(frame, mask, invalid_from, labels, total, top, seen, radial, radial_n):  # type: ignore[no-untyped-def]
    """Add a frame; return its sum, flagged pixels, largest value and where that stands."""
    zero = total[0, 0] - total[0, 0]  # of the accumulator's type
    frame_sum = zero
    flagged = 0
    best = zero
    best_at = -1
    n_fast = frame.shape[1]
    for i in range(frame.shape[0]):
        for j in range(n_fast):
            if mask[i, j]:
                continue
            raw = frame[i, j]
            # Written so that NaN and infinity fail it.
            if not (raw >= 0 and raw < invalid_from):
                flagged += 1
                continue
            value = zero + raw
            frame_sum += value
            total[i, j] += value
            seen[i, j] += 1
            if value > top[i, j]:
                top[i, j] = value
            if best_at < 0 or value > best:
                best = value
                best_at = i * n_fast + j
            if labels.size > 0:
                label = labels[i, j]
                if label >= 0:
                    radial[label] += value
                    radial_n[label] += 1
    return frame_sum, flagged, best, best_at


@numba.njit(cache=True, nogil=True)
def _cell_rates(flat, index, starts, invalid_from, rates, sizes):  # type: ignore[no-untyped-def]
    """Mean counts of each cell of the annulus and its number of pixels; 0 if it has a peak."""
    values = np.empty(_CELL * _CELL)
    for c in range(starts.size - 1):
        n = 0
        total = 0.0
        top = 0.0
        for k in range(starts[c], starts[c + 1]):
            value = np.float64(flat[index[k]])
            if value >= 0.0 and value < invalid_from:
                values[n] = value
                n += 1
                total += value
                top = max(top, value)
        sizes[c] = 0
        if n == 0:
            continue
        median = np.median(values[:n])
        # Half of the median allows for the slope of the background within a cell.
        if top <= 1.5 * median + 6.0 * np.sqrt(median + 1.0):
            rates[c] = total / n
            sizes[c] = n


class FrameStatistics:
    """Accumulate the statistics of a scan block by block.

    The background of a frame is a mean over cells of 8 x 8 pixels of the annulus: cells with a
    pixel above ``1.5 m + 6 sqrt(m + 1)`` (m the median of the cell) hold a Bragg peak and are
    left out, as is the highest and lowest tenth of the others. Both ends are trimmed so that the
    result scales with the exposure.

    Parameters
    ----------
    mask
        Bad pixels (slow, fast), True = bad.
    annulus
        Pixels (slow, fast) of the background, ``q_min < q < q_max``; None for no background.
    invalid_from
        Values from here on are no measurement (2^16 - 1, 2^32 - 1), see
        :func:`hklflow.core.masks.flag_value`; infinity if there is none. Negative and non-finite
        values never are one.
    labels
        Radial label (slow, fast) of each pixel, from 0 up, negative = none; None for no
        radial sums.

    Raises
    ------
    HklflowError
        Shapes differ, or no good pixel is in the annulus.
    """

    def __init__(
        self,
        mask: BoolImage,
        annulus: BoolImage | None = None,
        *,
        invalid_from: float = np.inf,
        labels: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        ring = np.zeros(mask.shape, bool) if annulus is None else annulus
        if mask.ndim != 2 or mask.shape != ring.shape:
            raise HklflowError(f"mask {mask.shape} and annulus {ring.shape} differ in shape")
        if labels is not None and labels.shape != mask.shape:
            raise HklflowError(f"radial labels {labels.shape} and mask {mask.shape} differ")
        self._mask = np.ascontiguousarray(mask, np.bool_)
        slow, fast = np.nonzero(ring & ~self._mask)
        if annulus is not None and slow.size == 0:
            raise HklflowError("no good pixel in the background annulus: widen q_min to q_max")
        cell = (slow // _CELL) * (mask.shape[1] // _CELL + 1) + fast // _CELL
        order = np.argsort(cell, kind="stable")
        self._index = (slow * mask.shape[1] + fast)[order]
        changes = np.flatnonzero(np.diff(cell[order])) + 1
        self._starts = np.unique(np.concatenate([[0], changes, [order.size]]))
        self._flag = float(invalid_from)
        self._labels = (
            np.zeros((0, 0), np.int64) if labels is None else np.ascontiguousarray(labels, np.int64)
        )
        self._n_labels = 0 if labels is None else max(int(labels.max()) + 1, 0)
        self._dtype: np.dtype[Any] | None = None
        self._frames: list[tuple[Any, int, float, float]] = []
        self._radial: list[tuple[NDArray[Any], NDArray[np.int64]]] = []
        self._best: tuple[Any, tuple[int, int, int]] | None = None

    def _start(self, dtype: np.dtype[Any]) -> None:
        """Choose the type of the accumulators from the first block."""
        if dtype.type not in _TYPES:
            raise HklflowError(
                f"frames of type {dtype}: give integers of up to 32 bits or floats, so that sums "
                "cannot overflow"
            )
        self._dtype = dtype
        self._sum_type = np.int64 if np.issubdtype(dtype, np.integer) else np.float64
        self._total = np.zeros(self._mask.shape, self._sum_type)
        self._top = np.zeros(self._mask.shape, self._sum_type)
        self._seen = np.zeros(self._mask.shape, np.int64)

    def add(self, block: NDArray[Any]) -> None:
        """Add the next frames (n, slow, fast), of one type throughout the scan."""
        if block.ndim != 3 or block.shape[1:] != self._mask.shape:
            raise HklflowError(f"frames {block.shape} do not fit the mask {self._mask.shape}")
        if self._dtype is None:
            self._start(block.dtype)
        elif block.dtype != self._dtype:
            raise HklflowError(f"frames of type {block.dtype} after frames of type {self._dtype}")
        for frame in block:
            self._add_frame(np.ascontiguousarray(frame))

    def _add_frame(self, frame: NDArray[Any]) -> None:
        """Add one frame."""
        radial = np.zeros(self._n_labels, self._sum_type)
        radial_n = np.zeros(self._n_labels, np.int64)
        sums = (self._total, self._top, self._seen, radial, radial_n)
        total, flagged, best, at = _add_frame(frame, self._mask, self._flag, self._labels, *sums)
        if at >= 0 and (self._best is None or best > self._best[0]):
            row, column = divmod(at, frame.shape[1])
            self._best = (best, (len(self._frames), row, column))
        n_cells = self._starts.size - 1
        rates, sizes = np.zeros(n_cells), np.zeros(n_cells, np.int64)
        _cell_rates(frame.ravel(), self._index, self._starts, self._flag, rates, sizes)
        self._frames.append((total, flagged, *_trimmed(rates[sizes > 0], sizes[sizes > 0])))
        if self._n_labels:
            self._radial.append((radial, radial_n))

    def result(self) -> StatisticsResult:
        """Return what was found so far; HklflowError if there was no frame or no measurement."""
        if not self._frames or self._best is None:
            raise HklflowError("no measured pixel in the scan: check the frames and the mask")
        sums, flagged, background, errors = zip(*self._frames, strict=True)
        as_number = int if self._sum_type is np.int64 else float
        radial = zip(*self._radial, strict=True) if self._radial else (None, None)
        radial_sums, radial_counts = (None if r is None else np.stack(r) for r in radial)
        return StatisticsResult(
            maximum=as_number(self._best[0]),
            maximum_at=self._best[1],
            frame_sums=np.array(sums, self._sum_type),
            frame_flagged=np.array(flagged, np.int64),
            background=np.array(background, np.float64),
            background_errors=np.array(errors, np.float64),
            summed=self._total.copy(),
            maximum_image=self._top.copy(),
            valid_frames=self._seen.copy(),
            radial_sums=radial_sums,
            radial_counts=radial_counts,
        )


def _trimmed(rates: Floats, sizes: NDArray[np.int64]) -> tuple[float, float]:
    """Mean rate of the cells without the highest and lowest tenth, and its Poisson error."""
    if rates.size == 0:
        return np.nan, np.nan
    cut = rates.size // 10
    order = np.argsort(rates, kind="stable")[cut : rates.size - cut]
    pixels = int(sizes[order].sum())
    rate = float(rates[order] @ sizes[order]) / pixels
    # One count stands for zero counts, which would claim no error.
    return rate, float(np.sqrt(max(rate * pixels, 1.0)) / pixels)


@dataclass(frozen=True)
class Transmission:
    """Relative sample transmission per frame, all (n_frames,).

    Attributes
    ----------
    transmission
        Smoothed background/monitor over its median.
    errors
        Standard errors of ``transmission``, without that of the common scale.
    ratio
        The same before smoothing.
    used
        Frames that the robust fit kept with at least half of the full weight.
    """

    transmission: Floats
    errors: Floats
    ratio: Floats
    used: BoolImage


def transmission(background: NDArray[Any], monitor: NDArray[Any], window: int = 31) -> Transmission:
    """Estimate the relative sample transmission from background and monitor.

    A straight line is fitted to background/monitor in the ``window`` frames nearest to each
    frame, with Tukey's biweight (c = 4.685 times the scatter, 1.4826 MAD) in six iterations;
    its value at the frame is the transmission. Lines keep the ends of the scan unbiased, where a
    running median is not.

    Parameters
    ----------
    background
        (n_frames,) positive background of each frame, counts per pixel.
    monitor
        (n_frames,) incident flux of each frame, positive.
    window
        Odd number of frames, 5 or more: short against the change of the transmission.

    Raises
    ------
    HklflowError
        Values that are not positive and finite, differing lengths, or a wrong window.
    """
    b, m = np.asarray(background, np.float64), np.asarray(monitor, np.float64)
    if b.ndim != 1 or b.shape != m.shape:
        raise HklflowError(f"background {b.shape} and monitor {m.shape}: give one value per frame")
    for name, values in (("monitor", m), ("background", b)):
        wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if wrong.size:
            raise HklflowError(
                f"{name} is {values[wrong[0]]} on frame {wrong[0]} ({wrong.size} such frames): "
                "give a positive value for every frame or leave those frames out"
            )
    if window < 5 or window % 2 == 0 or window > b.size:
        raise HklflowError(
            f"window={window} of the transmission over {b.size} frames: give an odd number from "
            "5 to the number of frames"
        )
    ratio = b / m
    ratio = ratio / np.median(ratio)
    first = np.clip(np.arange(b.size) - window // 2, 0, b.size - window)
    index = first[:, None] + np.arange(window)
    y, x = ratio[index], (index - np.arange(b.size)[:, None]) / window
    fit = np.median(y, axis=1)[:, None]
    for _ in range(6):
        residual = y - fit
        scale = 1.4826 * np.median(np.abs(residual), axis=1, keepdims=True)
        scale = np.maximum(scale, 1e-12)
        weight = np.maximum(1 - (residual / (4.685 * scale)) ** 2, 0) ** 2
        s0, s1, s2 = (np.sum(weight * x**k, axis=1) for k in range(3))
        t0, t1 = (np.sum(weight * y * x**k, axis=1) for k in range(2))
        det = s0 * s2 - s1**2
        value, slope = (s2 * t0 - s1 * t1) / det, (s0 * t1 - s1 * t0) / det
        fit = value[:, None] + slope[:, None] * x
    variance = np.sum(weight**2 * (s2[:, None] - s1[:, None] * x) ** 2, axis=1) / det**2
    own = np.arange(b.size) - first
    norm = float(np.median(value))
    return Transmission(
        transmission=value / norm,
        errors=scale[:, 0] * np.sqrt(variance) / norm,
        ratio=ratio / norm,
        used=np.take_along_axis(weight, own[:, None], axis=1)[:, 0] >= 0.5,
    )


def propose_peak_threshold(result: StatisticsResult, false_pixels: float = 1.0) -> float:
    """Propose the counts from which a pixel belongs to a peak.

    The Poisson quantile that diffuse scattering of the 99th percentile of the mean image exceeds
    on no more than ``false_pixels`` pixel-frames of the whole scan. Stronger diffuse (1 % of the
    pixels) may lie above it: it is a start for the peak search, not a law.

    Parameters
    ----------
    result
        Statistics of the scan.
    false_pixels
        Expected number of pixel-frames above the threshold by chance.
    """
    mean = result.mean_image
    level = float(np.nanpercentile(mean, 99))
    chance = false_pixels / float(result.valid_frames.sum())
    if not 0 < chance < 1:
        raise HklflowError(f"false_pixels={false_pixels}: give more than 0, less than the scan has")
    return float(stats.poisson.isf(chance, level) + 1)
