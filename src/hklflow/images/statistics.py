"""One streaming pass over the frames of a scan: maximum, sums, background.

Integer frames are summed in 64-bit integers, exactly: 2^32 counts on 2^22 pixels of 2^9 frames
fit. Floating frames are summed in 64-bit floats in the order (frame, slow, fast), which is exact
for whole counts. Nothing depends on how the frames are cut into blocks.

The sums come from the narrow counts of a `FrameStore`, which may be that of the peak search: the
frames are read once.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.background import CELL
from hklflow.images.frame_store import COLUMNS, ROWS, SUMMED, FrameStore
from hklflow.images.rows import PER_WORD
from hklflow.images.statistics_kernels import (
    add_float_frame,
    add_labels,
    add_odd,
    add_patches,
    correct_labels,
    narrow_largest,
    trimmed_level,
)

BoolImage = NDArray[np.bool_]
Floats = NDArray[np.float64]
_PATCHES = 16  # along each side of the detector, or as many as there are pairs of cells
_PARTS = 4  # likewise, of the parts whose backgrounds are compared
_SPILL = 256  # frames that the narrow sums hold
#: Of the background's window in pixels and the standard deviations of its loud cells, where the
#: statistics do not share the frame store of the peak search.
_WINDOW, _N_SIGMA = 9, 4.5
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
    parts
        (n_frames, n_parts) background of parts of the detector over what the level of the frame
        and the shape of the background, which is the same on all frames, make there; NaN where a
        part has no count. Parts with less than a quarter of the pixels of the largest are left
        out.
    parts_errors
        Their Poisson standard errors.
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
    parts: Floats
    parts_errors: Floats
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


class FrameStatistics:
    """Accumulate the statistics of a scan block by block.

    The background of a frame is made of cells of 4 x 4 pixels of the annulus: those with a
    pixel above ``1.5 m + 6 sqrt(m + 1)`` (m the middle of the means of four cells, or the
    background around) hold a Bragg peak and are left out, with the others of the same 8 x 8
    pixels. The others are added in patches of the detector, and the model ``level(frame) *
    shape(patch)`` is fitted to all frames together: without the shape, the background of a
    frame would change with the cells that its peaks cost. A frame's level leaves out the tenth
    of the patches that is highest above the shape and the tenth that is lowest, for what is
    left of the peaks' wings. The two halves of a patch (its cells as the colours of a chessboard)
    choose for each other: what the other half counted says whether this one is left out. So a
    wing, which is in both, goes, and the photons' own noise, which is not, does not count: at one
    count per patch a mean trimmed by its own noise is 20 % too small, and not always by the
    same.

    Parameters
    ----------
    mask
        Bad pixels (slow, fast), True = bad.
    annulus
        Pixels (slow, fast) of the background, ``q_min < q < q_max``, which takes the cells that
        lie in it with half of their good pixels; None for no background.
    invalid_from
        Values from here on are no measurement (2^16 - 1, 2^32 - 1), see
        :func:`hklflow.images.masks.flag_value`; infinity if there is none. Non-finite values never
        are one.
    valid_from
        Nor are values below, of floats; of integers negative ones never are.
    labels
        Radial label (slow, fast) of each pixel, from 0 up, negative = none; None for no
        radial sums. Those that are the same all over a cell cost little.

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
        valid_from: float = 0.0,
        labels: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        ring = np.zeros(mask.shape, bool) if annulus is None else annulus
        if mask.ndim != 2 or mask.shape != ring.shape:
            raise HklflowError(f"mask {mask.shape} and annulus {ring.shape} differ in shape")
        if labels is not None and labels.shape != mask.shape:
            raise HklflowError(f"radial labels {labels.shape} and mask {mask.shape} differ")
        if annulus is not None and not (ring & ~mask).any():
            raise HklflowError("no good pixel in the background annulus: widen q_min to q_max")
        self._mask = np.ascontiguousarray(mask, np.bool_)
        self._flag, self._valid_from = float(invalid_from), float(valid_from)
        good = _in_cells(~self._mask).sum(axis=(1, 3))
        inside = _in_cells(ring & ~self._mask).sum(axis=(1, 3))
        self._ring = (2 * inside >= good) & (inside > 0)
        cells = [-(-n // CELL) for n in mask.shape]
        self._side = np.array([max(2, -(-n // _PATCHES)) for n in cells])
        self._n_patches = tuple(-(-n // s) for n, s in zip(good.shape, self._side, strict=True))
        row, column = np.indices(good.shape)
        patch = row // self._side[0] * self._n_patches[1] + column // self._side[1]
        n = self._n_patches[0] * self._n_patches[1]
        self._in_patch = np.bincount(
            patch.ravel(), (self._ring * good).ravel().astype(float), n
        ).astype(np.float64)
        self._set_labels(labels)
        self._dtype: np.dtype[Any] | None = None
        self._own_frames: FrameStore | None = None
        self._patches: list[tuple[Floats, Floats]] = []
        self._frames: list[tuple[Any, int]] = []
        self._radial: list[tuple[NDArray[Any], NDArray[np.int64]]] = []
        self._best: tuple[Any, tuple[int, int, int]] | None = None

    def _set_labels(self, labels: NDArray[np.integer[Any]] | None) -> None:
        """Find the cells that have one label all over, and the other pixels that have one."""
        mask = self._mask
        self._n_labels = 0 if labels is None else max(int(labels.max()) + 1, 0)
        self._labels = np.full(mask.shape, -1)
        if labels is not None:
            self._labels[~mask] = np.maximum(labels[~mask], -1)
        # Masked pixels fit any label.
        parts = _in_cells(self._labels, -1), _in_cells(~mask, False)
        lowest = np.where(parts[1], parts[0], self._n_labels).min(axis=(1, 3))
        highest = np.where(parts[1], parts[0], -1).max(axis=(1, 3))
        whole = (lowest == highest) & (lowest >= 0)
        self._cell_at = np.flatnonzero(whole)
        self._cell_labels = lowest.ravel()[self._cell_at]
        on_pixels = np.repeat(np.repeat(whole, CELL, 0), CELL, 1)
        self._whole = np.ascontiguousarray(on_pixels[: mask.shape[0], : mask.shape[1]])
        slow, fast = np.nonzero(~self._whole & (self._labels >= 0))
        width = -(-mask.shape[1] // PER_WORD) * PER_WORD + 2 * COLUMNS
        self._pixel_at = (slow + ROWS) * width + fast + COLUMNS
        self._pixel_labels = self._labels[slow, fast]

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
        self._unseen = np.zeros(self._mask.shape, np.int64)

    def add(self, block: NDArray[Any]) -> None:
        """Add the next frames (n, slow, fast), of one type throughout the scan."""
        if block.ndim != 3 or block.shape[1:] != self._mask.shape:
            raise HklflowError(f"frames {block.shape} do not fit the mask {self._mask.shape}")
        if self._dtype is not None and block.dtype != self._dtype:
            raise HklflowError(f"frames of type {block.dtype} after frames of type {self._dtype}")
        if self._dtype is None:
            self._start(block.dtype)
            self._own_frames = FrameStore(
                self._mask,
                block.dtype,
                SUMMED,
                window=_WINDOW,
                n_sigma=_N_SIGMA,
                invalid_from=self._flag,
                valid_from=self._valid_from,
                sums=True,
            )
        assert self._own_frames is not None
        for frame in block:
            self._own_frames.take(frame)
            self.take(frame, self._own_frames)

    def take(self, frame: NDArray[Any], frames: FrameStore) -> None:
        """Add the frame (slow, fast) that a frame store with sums has just taken."""
        if self._dtype is None:
            self._start(frame.dtype)
        store, scratch = frames.store, frames.scratch
        slot = (frames.n_frames - 1) % frames.slots
        counts, pixels = np.zeros((*self._n_patches, 2)), np.zeros((*self._n_patches, 2))
        add_patches(
            store.counts[slot],
            scratch.cells,
            scratch.size,
            store.rate[slot],
            self._ring,
            self._side,
            counts,
            pixels,
        )
        self._patches.append((counts.reshape(-1, 2), pixels.reshape(-1, 2)))
        radial = np.zeros(self._n_labels, self._sum_type)
        radial_n = np.zeros(self._n_labels, np.int64)
        if self._sum_type is np.float64:
            images = self._total, self._top, self._unseen
            valid = self._valid_from, self._flag
            found = add_float_frame(
                frame, self._mask, *valid, self._labels, *images, radial, radial_n
            )
            total, flagged, best, at = found
        else:
            total, flagged, best, at = self._take_integers(frames, slot, radial, radial_n)
        if at >= 0 and (self._best is None or best > self._best[0]):
            row, column = divmod(at, frame.shape[1])
            self._best = (best, (len(self._frames), row, column))
        self._frames.append((total, flagged))
        if self._n_labels:
            self._radial.append((radial, radial_n))

    def _take_integers(
        self, frames: FrameStore, slot: int, radial: NDArray[Any], radial_n: NDArray[np.int64]
    ) -> tuple[int, int, int, int]:
        """Add integers; return the sum, flagged pixels, the largest value and where it stands."""
        store, cells, size = frames.store, frames.scratch.cells, frames.scratch.size
        image, n = store.counts[slot], store.odd_number[slot]
        at, values = store.odd_at[slot, :n], store.odd_value[slot, :n]
        top, cap = int(frames.top), frames.most_in_cell
        best, best_at, lacking = add_odd(
            at, values, image.shape[1], top, cap, self._total, self._top, self._unseen
        )
        if best_at < 0 and (self._best is None or self._best[0] < top - 1):
            shape = np.array(self._mask.shape)
            best, best_at = narrow_largest(image, store.keep, shape, at, values)
        if self._n_labels:
            where = self._cell_at, self._cell_labels, image, self._pixel_at, self._pixel_labels
            add_labels(cells, size, *where, radial, radial_n)
            correct_labels(at, values, image, self._labels, self._whole, top, cap, radial, radial_n)
        total = int(store.whole[slot]) + lacking
        if (len(self._frames) + 1) % _SPILL == 0:
            self._spill(frames)
        self._shared = frames
        return total, int(store.flagged[slot]), best, best_at

    def _spill(self, frames: FrameStore) -> None:
        """Add the narrow sums to the wide ones."""
        frames.add_up()
        inner = (slice(ROWS, ROWS + self._mask.shape[0]), slice(COLUMNS, None))
        sums, most = (part[inner][:, : self._mask.shape[1]] for part in (frames.total, frames.most))
        self._total += sums
        np.maximum(self._top, most, out=self._top)
        frames.total[:] = 0

    def result(self) -> StatisticsResult:
        """Return what was found so far; HklflowError if there was no frame or no measurement."""
        if not self._frames or self._best is None:
            raise HklflowError("no measured pixel in the scan: check the frames and the mask")
        if self._sum_type is np.int64:
            self._spill(self._shared)
        sums, flagged = zip(*self._frames, strict=True)
        seen = np.where(self._mask, 0, len(self._frames) - self._unseen)
        counts, pixels = (np.stack(part) for part in zip(*self._patches, strict=True))
        found = _levels(counts, pixels, self._in_patch)
        parts, parts_errors = _compared(
            counts.sum(axis=2), found.expected, self._in_patch, self._n_patches
        )
        as_number = int if self._sum_type is np.int64 else float
        radial = zip(*self._radial, strict=True) if self._radial else (None, None)
        radial_sums, radial_counts = (None if r is None else np.stack(r) for r in radial)
        return StatisticsResult(
            maximum=as_number(self._best[0]),
            maximum_at=self._best[1],
            frame_sums=np.array(sums, self._sum_type),
            frame_flagged=np.array(flagged, np.int64),
            background=found.level,
            background_errors=found.errors,
            parts=parts,
            parts_errors=parts_errors,
            summed=self._total.copy(),
            maximum_image=self._top.copy(),
            valid_frames=seen,
            radial_sums=radial_sums,
            radial_counts=radial_counts,
        )


def _in_cells(image: NDArray[Any], outside: Any = False) -> NDArray[Any]:
    """View an image (slow, fast) as the cells of a frame store, (rows, 4, columns, 4)."""
    rows, columns = -(-image.shape[0] // CELL), -(-image.shape[1] // PER_WORD) * PER_WORD // CELL
    whole = np.full((rows * CELL, columns * CELL), outside, image.dtype)
    whole[: image.shape[0], : image.shape[1]] = image
    return whole.reshape(rows, CELL, columns, CELL)


class _Levels(NamedTuple):
    """Background of each frame.

    Attributes
    ----------
    level, errors : (n_frames,) arrays
        Counts per pixel of the annulus, and the Poisson error.
    expected : (n_frames, n_patches) array
        Counts of the patches: level times shape, on their calm cells.
    """

    level: Floats
    errors: Floats
    expected: Floats


def _levels(counts: Floats, pixels: Floats, in_patch: Floats) -> _Levels:
    """Fit the level of each frame and the shape of the background to the patches.

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
            level[z], errors[z] = trimmed_level(counts[z], pixels[z], shape)
    mean = float(shape @ in_patch) / max(int(in_patch.sum()), 1)
    expected = np.nan_to_num(level)[:, None] * shape * whole_pixels
    return _Levels(level * mean, errors * mean, expected)


def _compared(
    counts: Floats, expected: Floats, in_patch: Floats, n_patches: tuple[int, ...]
) -> tuple[Floats, Floats]:
    """Return counts over expected counts of the detector's parts, and the Poisson errors.

    Parameters
    ----------
    counts, expected : (n_frames, n_patches) arrays
    in_patch : (n_patches,) array
        Pixels of the annulus.
    n_patches : (int, int)
        Along slow and fast.
    """
    part = [np.arange(n) * min(_PARTS, n) // n for n in n_patches]
    label = (part[0][:, None] * _PARTS + part[1]).ravel()
    size = np.bincount(label, in_patch, _PARTS**2)
    kept = np.flatnonzero(size > size.max() / 4)
    member = (label == kept[:, None]).astype(np.float64)
    seen, should = counts @ member.T, expected @ member.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(should > 0, seen / should, np.nan)
        errors = np.where(should > 0, np.sqrt(should) / should, np.nan)
    return ratio, errors


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
    return _exceeded_by_chance(level, chance) + 1


def _exceeded_by_chance(mean: float, chance: float) -> float:
    """Return the least number that a Poisson variable exceeds with at most this chance.

    `scipy.stats.poisson.isf` gives the same; its import costs more than a small scan's statistics.
    """
    from scipy.special import pdtr, pdtrik

    if not mean > 0:
        return 0.0 * mean
    exact = float(pdtrik(1 - chance, mean))
    if not math.isfinite(exact):  # a chance below the numbers' own precision
        return math.inf
    number = math.ceil(exact)
    return float(number - (number > 0 and pdtr(number - 1, mean) >= 1 - chance))
