"""Statistics of a scan from one pass over its frames: maximum, sums, background.

Integer frames are summed exactly in 64-bit integers, which can hold 2^32 counts on 2^22 pixels of
2^9 frames. Floating-point frames are summed in 64-bit floats in the order (frame, slow, fast),
which is exact for integer counts. The result does not depend on the blocks in which frames are
read.

Sums over ranges of frames are made on the way; the sum of all frames is the sum of these ranges.

The sums are computed from the narrow counts of a `FrameStore`. This may be the store of the peak
search, so that frames are read only once.
"""

import math
from collections.abc import Callable, Sequence
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
from hklflow.images.statistics_parts import OUTSIDE, compared, numbered, parts_of

BoolImage = NDArray[np.bool_]
Floats = NDArray[np.float64]
_PATCHES = 16  # patches along each side of the detector, but at most one for each pair of cells
_SPILL = 256  # number of frames whose sum fits the narrow sums
#: Half size of the window of the background, pixels, and limit of loud cells, for statistics that
#: do not share the frame store of the peak search.
_WINDOW, _N_SIGMA = 9, 4.5
#: Largest number of partial sums, and smallest number of frames in each: a partial sum costs about
#: as much time as the search of one frame.
_MOST_PARTS, _FRAMES_OF_PART = 16, 50
_TYPES = (np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64)


@dataclass(frozen=True)
class StatisticsResult:
    """Result of :class:`FrameStatistics`, without masked and flagged pixels.

    Attributes
    ----------
    maximum
        Largest value.
    maximum_at
        Index (frame, slow, fast) of the first pixel with the largest value.
    frame_sums
        (n_frames,) counts, int64 for integer frames, else float64.
    frame_flagged
        (n_frames,) number of invalid pixels outside the mask.
    background
        (n_frames,) robust mean counts per pixel in the annulus; NaN without valid pixels.
    background_errors
        (n_frames,) Poisson standard error of ``background``.
    parts
        (n_frames, n_parts) background of parts of the detector, divided by the expected background;
        NaN where no counts are expected. The expected background is the level of the frame times a
        shape that is the same on all frames. Parts with less than a quarter of the pixels of the
        largest part are left out.
    parts_errors
        Poisson standard errors of ``parts``.
    parts_shape
        (n_parts,) expected background of each part, divided by ``background``.
    parts_image
        (slow, fast) int8: number of the part of each good pixel in the annulus; `OUTSIDE` for other
        pixels, `LEFT_OUT` for pixels in the annulus whose part was left out.
    summed, maximum_image
        (slow, fast) sum and maximum over the frames; 0 for pixels that were never measured.
    valid_frames
        (slow, fast) int64, number of frames with a measurement.
    radial_sums, radial_counts
        (n_frames, n_labels) sum and number of pixels of each label; None without labels.
    """

    maximum: int | float
    maximum_at: tuple[int, int, int]
    frame_sums: NDArray[Any]
    frame_flagged: NDArray[np.int64]
    background: Floats
    background_errors: Floats
    parts: Floats
    parts_errors: Floats
    parts_shape: Floats
    parts_image: NDArray[np.int8]
    summed: NDArray[Any]
    maximum_image: NDArray[Any]
    valid_frames: NDArray[np.int64]
    radial_sums: NDArray[Any] | None
    radial_counts: NDArray[np.int64] | None

    @property
    def mean_image(self) -> Floats:
        """Mean counts per frame (slow, fast), NaN for pixels that were never measured."""
        frames = np.where(self.valid_frames > 0, self.valid_frames, 1)
        return np.where(self.valid_frames > 0, self.summed / frames, np.nan)


class FrameStatistics:
    """Statistics of a scan, accumulated block by block.

    The background of a frame is measured on cells of 4 x 4 pixels in the annulus, in groups of
    2 x 2 cells. A group with a pixel above ``1.5 m + 6 sqrt(m + 1)`` contains a Bragg peak and is
    left out; m is the middle of the means of the four cells, or the background around the group if
    this is lower. The other cells are called calm.

    Calm cells are summed in patches of the detector, and the model ``level(frame) * shape(patch)``
    is fitted to all frames together. Without the shape, the level of a frame would depend on the
    cells that its peaks exclude.

    Tails of peaks may remain, so the level of a frame excludes the highest and the lowest tenth of
    the patches, relative to the shape. Each patch has two halves (cells in the colours of a
    chessboard), and the counts of one half decide if the other half is left out. A tail is in both
    halves and is left out. Photon noise is independent in both halves and does not bias the level.
    If a patch were selected by its own noise, the level would be about 20 % too small at one count
    per patch.

    Parameters
    ----------
    mask
        Bad pixels (slow, fast), True = bad.
    annulus
        Pixels (slow, fast) of the background, see `hklflow.images.annulus`. Cells with at least
        half of their good pixels in the annulus are used. None: no background.
    invalid_from
        Smallest invalid value (2^16 - 1, 2^32 - 1), see :func:`hklflow.images.masks.flag_value`;
        infinity: no value is a flag. Non-finite values are always invalid.
    valid_from
        Values of floating-point frames below this value are invalid; negative integers are always
        invalid.
    labels
        Radial label (slow, fast) of each pixel, from 0 up; negative for pixels without a label.
        None: no radial sums. Cells whose pixels all have the same label are processed faster.

    part_ends
        Numbers of frames, increasing, after which a partial sum ends.
    on_part
        Function that takes the sum image (slow, fast) of each range of frames when it is complete.
        The image is valid only during the call.

    Raises
    ------
    HklflowError
        If shapes differ, or the annulus has no good pixel.
    """

    def __init__(
        self,
        mask: BoolImage,
        annulus: BoolImage | None = None,
        *,
        invalid_from: float = np.inf,
        valid_from: float = 0.0,
        labels: NDArray[np.integer[Any]] | None = None,
        part_ends: Sequence[int] = (),
        on_part: Callable[[NDArray[Any]], None] = lambda image: None,
    ) -> None:
        self._part_ends, self._on_part = frozenset(part_ends), on_part
        ring = np.zeros(mask.shape, bool) if annulus is None else annulus
        if mask.ndim != 2 or mask.shape != ring.shape:
            raise HklflowError(f"mask {mask.shape} and annulus {ring.shape} differ in shape")
        if labels is not None and labels.shape != mask.shape:
            raise HklflowError(
                f"radial labels {labels.shape} and mask {mask.shape} differ in shape"
            )
        if annulus is not None and not (ring & ~mask).any():
            raise HklflowError(
                "the background annulus has no good pixel; change `find_peaks: annulus`"
            )
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
        self._patch = patch
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
        """Find the cells whose pixels have the same label, and all other pixels with a label."""
        mask = self._mask
        self._n_labels = 0 if labels is None else max(int(labels.max()) + 1, 0)
        self._labels = np.full(mask.shape, -1)
        if labels is not None:
            self._labels[~mask] = np.maximum(labels[~mask], -1)
        # A masked pixel fits any label.
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
        require_type(dtype)
        self._dtype = dtype
        self._sum_type = np.int64 if np.issubdtype(dtype, np.integer) else np.float64
        self._summed = np.zeros(self._mask.shape, self._sum_type)
        self._part = np.zeros(self._mask.shape, self._sum_type)
        self._top = np.zeros(self._mask.shape, self._sum_type)
        self._unseen = np.zeros(self._mask.shape, np.int64)

    def add(self, block: NDArray[Any]) -> None:
        """Add the next frames (n, slow, fast), of one type throughout the scan."""
        if block.ndim != 3 or block.shape[1:] != self._mask.shape:
            raise HklflowError(
                f"frames of shape {block.shape} do not match a mask of shape {self._mask.shape}"
            )
        if self._dtype is not None and block.dtype != self._dtype:
            raise HklflowError(
                f"frames of type {block.dtype} follow frames of type {self._dtype}; give frames of "
                "one type"
            )
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
            images = self._part, self._top, self._unseen
            valid = self._valid_from, self._flag
            total, flagged, best, best_at = add_float_frame(
                frame, self._mask, *valid, self._labels, *images, radial, radial_n
            )
        else:
            total, flagged, best, best_at = self._take_integers(frames, slot, radial, radial_n)
        if best_at >= 0 and (self._best is None or best > self._best[0]):
            row, column = divmod(best_at, frame.shape[1])
            self._best = (best, (len(self._frames), row, column))
        self._frames.append((total, flagged))
        if self._n_labels:
            self._radial.append((radial, radial_n))
        if len(self._frames) in self._part_ends:
            self._end_part()

    def _end_part(self) -> None:
        """Hand out the sum since the last part, and add it to the sum of all frames."""
        if self._sum_type is np.int64:
            self._spill(self._shared)
        self._on_part(self._part)
        np.add(self._summed, self._part, out=self._summed)
        self._part[:] = 0

    def _take_integers(
        self, frames: FrameStore, slot: int, radial: NDArray[Any], radial_n: NDArray[np.int64]
    ) -> tuple[int, int, int, int]:
        """Add a frame of integers; return sum, number of flagged pixels, maximum and its index."""
        store, cells, size = frames.store, frames.scratch.cells, frames.scratch.size
        image, n = store.counts[slot], store.odd_number[slot]
        places, values = store.odd_at[slot, :n], store.odd_value[slot, :n]
        top, cap = int(frames.top), frames.most_in_cell
        best, best_at, lacking = add_odd(
            places, values, image.shape[1], top, cap, self._part, self._top, self._unseen
        )
        if best_at < 0 and (self._best is None or self._best[0] < top - 1):
            shape = np.array(self._mask.shape)
            best, best_at = narrow_largest(image, store.keep, shape, places, values)
        if self._n_labels:
            labelled = self._cell_at, self._cell_labels, image, self._pixel_at, self._pixel_labels
            add_labels(cells, size, *labelled, radial, radial_n)
            correct_labels(
                places, values, image, self._labels, self._whole, top, cap, radial, radial_n
            )
        total = int(store.whole[slot]) + lacking
        if (len(self._frames) + 1) % _SPILL == 0:
            self._spill(frames)
        self._shared = frames
        return total, int(store.flagged[slot]), best, best_at

    def _spill(self, frames: FrameStore) -> None:
        """Add the narrow sums to the wide sums."""
        frames.add_up()
        inner = (slice(ROWS, ROWS + self._mask.shape[0]), slice(COLUMNS, None))
        sums, most = (part[inner][:, : self._mask.shape[1]] for part in (frames.total, frames.most))
        self._part += sums
        np.maximum(self._top, most, out=self._top)
        frames.total[:] = 0

    def result(self) -> StatisticsResult:
        """Return the statistics of all frames so far.

        Raises
        ------
        HklflowError
            If there are no frames or no valid pixels.
        """
        if not self._frames or self._best is None:
            raise HklflowError("the scan has no valid pixel: check the frames and the mask")
        if self._sum_type is np.int64:
            self._spill(self._shared)
        sums, flagged = zip(*self._frames, strict=True)
        valid_frames = np.where(self._mask, 0, len(self._frames) - self._unseen)
        counts, pixels = (np.stack(part) for part in zip(*self._patches, strict=True))
        levels = _levels(counts, pixels, self._in_patch)
        label, kept = parts_of(self._in_patch, self._n_patches)
        member = (label == kept[:, None]).astype(np.float64)
        parts, parts_errors = compared(counts.sum(axis=2), levels.expected, member)
        calm = np.nan_to_num(levels.level)[:, None] * pixels.sum(axis=2)
        total = (calm @ member.T).sum(axis=0)
        shape = (levels.expected @ member.T).sum(axis=0) / np.where(total > 0, total, np.nan)
        as_number = int if self._sum_type is np.int64 else float
        radial = zip(*self._radial, strict=True) if self._radial else (None, None)
        radial_sums, radial_counts = (None if r is None else np.stack(r) for r in radial)
        return StatisticsResult(
            maximum=as_number(self._best[0]),
            maximum_at=self._best[1],
            frame_sums=np.array(sums, self._sum_type),
            frame_flagged=np.array(flagged, np.int64),
            background=levels.level,
            background_errors=levels.errors,
            parts=parts,
            parts_errors=parts_errors,
            parts_shape=shape,
            parts_image=self._image_of(label, kept),
            summed=self._summed + self._part,
            maximum_image=self._top.copy(),
            valid_frames=valid_frames,
            radial_sums=radial_sums,
            radial_counts=radial_counts,
        )

    def _image_of(self, label: NDArray[np.int64], kept: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return the number of the part of each pixel of the annulus; see `StatisticsResult`."""
        number = numbered(kept)
        cells = np.where(self._ring, number[label[self._patch]], OUTSIDE)
        n_slow, n_fast = self._mask.shape
        image = np.repeat(np.repeat(cells, CELL, 0), CELL, 1)[:n_slow, :n_fast]
        return np.where(self._mask, OUTSIDE, image).astype(np.int8)


def part_ends(n_frames: int) -> list[int]:
    """Return the numbers of frames after which the partial sums of a rotation end.

    There are at most 16 ranges of almost equal size, with 50 frames or more in each; empty if there
    is only one.
    """
    n = min(_MOST_PARTS, n_frames // _FRAMES_OF_PART)
    return [n_frames * (i + 1) // n for i in range(n)] if n > 1 else []


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
        Counts per pixel in the annulus, and the Poisson error of this level.
    expected : (n_frames, n_patches) array
        Expected counts in the calm cells of the patches (level times shape).
    """

    level: Floats
    errors: Floats
    expected: Floats


def _levels(counts: Floats, pixels: Floats, in_patch: Floats) -> _Levels:
    """Fit the level of each frame and the shape of the background to the patches.

    Parameters
    ----------
    counts, pixels : (n_frames, n_patches, 2)
        Counts and pixels of the calm cells in both halves of each patch.
    in_patch : (n_patches,)
        Number of pixels of the annulus in each patch.
    """
    n = len(counts)
    whole_counts, whole_pixels = counts.sum(axis=2), pixels.sum(axis=2)
    known = whole_pixels.sum(axis=1) > 0
    level, errors = np.full(n, np.nan), np.full(n, np.nan)
    level[known] = whole_counts[known].sum(axis=1) / whole_pixels[known].sum(axis=1)
    shape = np.ones(len(in_patch))
    for _ in range(5):
        # Frames without counts do not change the shape.
        expected = (np.nan_to_num(level)[:, None] * whole_pixels).sum(axis=0)
        shape = np.where(expected > 0, whole_counts.sum(axis=0) / np.maximum(expected, 1e-300), 0.0)
        for z in np.flatnonzero(known):
            level[z], errors[z] = trimmed_level(counts[z], pixels[z], shape)
    mean = float(shape @ in_patch) / max(int(in_patch.sum()), 1)
    expected = np.nan_to_num(level)[:, None] * shape * whole_pixels
    return _Levels(level * mean, errors * mean, expected)


def require_type(dtype: np.dtype[Any]) -> None:
    """Refuse frames of a type whose sums may overflow.

    Raises
    ------
    HklflowError
    """
    if dtype.type not in _TYPES:
        raise HklflowError(
            f"frames of type {dtype} cannot be summed without overflow: give integers of up to "
            "32 bits, or floats"
        )


def propose_peak_threshold(result: StatisticsResult, false_pixels: float = 1.0) -> float:
    """Propose the smallest counts of a pixel that belongs to a peak.

    Diffuse scattering at the level of the 99th percentile of the mean image exceeds this threshold
    on at most ``false_pixels`` pixel-frames of the whole scan (Poisson quantile). Stronger diffuse
    scattering (1 % of the pixels) may exceed it, so the threshold is only a first value for the
    peak search.

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
        raise HklflowError(
            f"false_pixels={false_pixels}: give more than 0 and less than the pixel-frames of the "
            "scan"
        )
    return _exceeded_by_chance(level, chance) + 1


def _exceeded_by_chance(mean: float, chance: float) -> float:
    """Return the smallest number that a Poisson variable exceeds with at most this probability.

    `scipy.stats.poisson.isf` is the same function, but its import is slow.
    """
    from scipy.special import pdtr, pdtrik

    if not mean > 0:
        return 0.0 * mean
    exact = float(pdtrik(1 - chance, mean))
    if not math.isfinite(exact):  # the probability is below floating-point precision
        return math.inf
    number = math.ceil(exact)
    return float(number - (number > 0 and pdtr(number - 1, mean) >= 1 - chance))
