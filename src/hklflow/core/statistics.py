"""One streaming pass over the frames of a scan: maximum, sums, background.

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
_PATCHES = 16  # along each side of the detector, or as many as there are cells
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
def _cell_rates(flat, index, starts, odd, invalid_from, rates, sizes):  # type: ignore[no-untyped-def]
    """Mean counts of both halves (n_cells, 2) of each cell of the annulus and their pixels.

    0 pixels: the cell has a peak, or a half without a measurement.
    """
    values = np.empty(_CELL * _CELL)
    for c in range(starts.size - 1):
        n = 0
        top = 0.0
        sizes[c] = 0
        rates[c] = 0.0
        for k in range(starts[c], starts[c + 1]):
            value = np.float64(flat[index[k]])
            if value >= 0.0 and value < invalid_from:
                values[n] = value
                n += 1
                rates[c, odd[k]] += value
                sizes[c, odd[k]] += 1
                top = max(top, value)
        if sizes[c, 0] == 0 or sizes[c, 1] == 0:
            sizes[c] = 0
            continue
        median = np.median(values[:n])
        # Half of the median allows for the slope of the background within a cell.
        if top <= 1.5 * median + 6.0 * np.sqrt(median + 1.0):
            rates[c] /= sizes[c]
        else:
            sizes[c] = 0


class FrameStatistics:
    """Accumulate the statistics of a scan block by block.

    The background of a frame is made of cells of 8 x 8 pixels of the annulus: cells with a
    pixel above ``1.5 m + 6 sqrt(m + 1)`` (m the median of the cell) hold a Bragg peak and are
    left out. The others are added in patches of the detector, and the model ``level(frame) *
    shape(patch)`` is fitted to all frames together: without the shape, the background of a
    frame would change with the cells that its peaks cost. A frame's level leaves out the tenth
    of the patches that is highest above the shape and the tenth that is lowest, for what is
    left of the peaks' wings. The two halves of a patch (as the colours of a chessboard) choose
    for each other: what the other half counted says whether this one is left out. So a wing,
    which is in both, goes, and the photons' own noise, which is not, does not count: at one
    count per patch a mean trimmed by its own noise is 20 % too small, and not always by the
    same.

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
        self._odd = ((slow + fast) % 2)[order]
        self._patches: list[tuple[Floats, NDArray[np.int64]]] = []
        changes = np.flatnonzero(np.diff(cell[order])) + 1
        self._starts = np.unique(np.concatenate([[0], changes, [order.size]]))
        side = [-(-size // (_CELL * _PATCHES)) * _CELL for size in mask.shape]
        head = order[self._starts[:-1]]
        patch = (slow[head] // side[0]) * (mask.shape[1] // side[1] + 1) + fast[head] // side[1]
        # Numbered without gaps.
        _, self._patch = np.unique(patch, return_inverse=True)
        self._flag = float(invalid_from)
        self._labels = (
            np.zeros((0, 0), np.int64) if labels is None else np.ascontiguousarray(labels, np.int64)
        )
        self._n_labels = 0 if labels is None else max(int(labels.max()) + 1, 0)
        self._dtype: np.dtype[Any] | None = None
        self._frames: list[tuple[Any, int]] = []
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
        rates, sizes = np.empty((n_cells, 2)), np.empty((n_cells, 2), np.int64)
        _cell_rates(frame.ravel(), self._index, self._starts, self._odd, self._flag, rates, sizes)
        n_patches = int(self._patch.max(initial=-1)) + 1
        counts, pixels = np.zeros((n_patches, 2)), np.zeros((n_patches, 2), np.int64)
        np.add.at(counts, self._patch, rates * sizes)
        np.add.at(pixels, self._patch, sizes)
        self._patches.append((counts, pixels))
        self._frames.append((total, flagged))
        if self._n_labels:
            self._radial.append((radial, radial_n))

    def result(self) -> StatisticsResult:
        """Return what was found so far; HklflowError if there was no frame or no measurement."""
        if not self._frames or self._best is None:
            raise HklflowError("no measured pixel in the scan: check the frames and the mask")
        sums, flagged = zip(*self._frames, strict=True)
        counts, pixels = (np.stack(part) for part in zip(*self._patches, strict=True))
        in_patch = np.bincount(
            np.repeat(self._patch, np.diff(self._starts)), minlength=pixels.shape[1]
        )
        background, errors = _levels(counts, pixels, in_patch)
        as_number = int if self._sum_type is np.int64 else float
        radial = zip(*self._radial, strict=True) if self._radial else (None, None)
        radial_sums, radial_counts = (None if r is None else np.stack(r) for r in radial)
        return StatisticsResult(
            maximum=as_number(self._best[0]),
            maximum_at=self._best[1],
            frame_sums=np.array(sums, self._sum_type),
            frame_flagged=np.array(flagged, np.int64),
            background=background,
            background_errors=errors,
            summed=self._total.copy(),
            maximum_image=self._top.copy(),
            valid_frames=self._seen.copy(),
            radial_sums=radial_sums,
            radial_counts=radial_counts,
        )


def _levels(
    counts: Floats, pixels: NDArray[np.int64], in_patch: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Background of each frame in counts per pixel of the annulus, and its Poisson error.

    Parameters
    ----------
    counts, pixels : (n_frames, n_patches, 2)
        Of the calm cells' halves.
    in_patch : (n_patches,)
        Pixels of the annulus.
    """
    n = len(counts)
    whole_counts, whole_pixels = counts.sum(axis=2), pixels.sum(axis=2)
    seen = whole_pixels.sum(axis=1) > 0
    level, errors = np.full(n, np.nan), np.full(n, np.nan)
    level[seen] = whole_counts[seen].sum(axis=1) / whole_pixels[seen].sum(axis=1)
    shape = np.ones(len(in_patch))
    for _ in range(5):
        # Frames without counts say nothing of the shape.
        expected = (np.nan_to_num(level)[:, None] * whole_pixels).sum(axis=0)
        shape = np.where(expected > 0, whole_counts.sum(axis=0) / np.maximum(expected, 1e-300), 0.0)
        for z in np.flatnonzero(seen):
            level[z], errors[z] = _trimmed(counts[z], pixels[z] * shape[:, None])
    mean = float(shape @ in_patch) / max(int(in_patch.sum()), 1)
    return level * mean, errors * mean


def _trimmed(counts: Floats, expected: Floats) -> tuple[float, float]:
    """Counts over those expected (n, 2), each half trimmed by the other's ratio, and its error.

    NaN if none is expected.
    """
    use = (expected > 0).all(axis=1)
    counts, expected = counts[use], expected[use]
    if len(counts) == 0:
        return np.nan, np.nan
    ratio = counts / expected
    cut = len(counts) // 10
    found, norm = 0.0, 0.0
    for judge, half in ((0, 1), (1, 0)):
        kept = np.argsort(ratio[:, judge], kind="stable")[cut : len(counts) - cut]
        found += float(counts[kept, half].sum())
        norm += float(expected[kept, half].sum())
    # One count stands for zero counts, which would claim no error.
    return found / norm, float(np.sqrt(max(found, 1.0)) / norm)


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
