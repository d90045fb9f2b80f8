"""Search for Bragg peaks on rotation frames: one pass, bounded memory, one row per reflection.

1. Background of each frame and strong voxels (`background`).
2. Strong voxels are connected to blobs across frames, 26 neighbours (`peaks_link`).
3. A blob that has ended is divided among its significant maxima, and each is fitted with a
   voxel-integrated Gaussian by maximum likelihood (`peaks_segments`, `peaks_fit`), on all
   valid voxels of a box around it. First moments of the strong voxels alone would be biased
   by the noise that selected them, by gaps and by edges; they stand in where no fit converges.

Coordinates are (frame, slow, fast) as `frames` defines them. Frames are handled one at a
time, so the blocks in which they arrive do not matter. What is kept in memory: the last
``max_frames + 2 margin_frames + 3`` frames in their own number type with one byte per pixel
beside them, about twenty float32 frames, and the voxels of the blobs that have not ended.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.core.background import (
    DEPTH,
    clean_frame,
    dispersion,
    local_background,
    quiet_mean,
    residual,
    strong_voxels,
)
from hklflow.core.peaks_link import VOXEL, BlobLinker, Voxels, split_maxima
from hklflow.core.peaks_segments import Box, FitLimits, fit_segments
from hklflow.core.peaks_table import (
    FIELDS,
    PeakFlag,
    PeakParams,
    Peaks,
    is_significant,
    without_duplicates,
)
from hklflow.errors import HklflowError

__all__ = ["PeakFlag", "PeakParams", "PeakSearch", "Peaks", "find_peaks"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_REJECTED = ("too_long", "too_large", "too_small", "insignificant", "duplicate")


def find_peaks(
    blocks: Iterable[NDArray[Any]],
    mask: NDArray[np.bool_],
    params: PeakParams,
    *,
    first_frame: int = 0,
    scan_frames: int | None = None,
) -> Peaks:
    """Find the peaks of a scan.

    Parameters
    ----------
    blocks
        Arrays (n, slow, fast) of counts in scan order. NaN and negative values are flags.
    mask
        Bad pixels (slow, fast), True = bad.
    params
        See `PeakParams`.
    first_frame
        Frame coordinate of the first frame.
    scan_frames
        Number of frames that must come; None if it is not known.

    Returns
    -------
    Peaks

    Raises
    ------
    HklflowError
        If shapes or number types do not fit, or the number of frames is not `scan_frames`.
    """
    search = PeakSearch(mask, params, first_frame=first_frame)
    for block in blocks:
        search.add(block)
    if scan_frames is not None and search.n_frames != scan_frames:
        raise HklflowError(
            f"the peak search got {search.n_frames} frames where the scan has {scan_frames}; "
            "check that the data file is complete"
        )
    return search.finish()


class PeakSearch:
    """The search as an accumulator: `add` blocks in order, then `finish` once."""

    def __init__(
        self, mask: NDArray[np.bool_], params: PeakParams, *, first_frame: int = 0
    ) -> None:
        if mask.ndim != 2 or mask.dtype != np.bool_:
            raise HklflowError(
                f"the mask of the peak search is {mask.dtype} with shape {mask.shape}; "
                "give booleans (slow, fast), True for bad pixels"
            )
        self.params = params
        self.n_frames = 0
        self.gain = params.gain
        self._mask = np.ascontiguousarray(mask)
        self._first_frame = first_frame
        self._length = params.max_frames + 2 * params.margin_frames + 3
        self._raw: NDArray[Any] | None = None
        self._strong = np.zeros((self._length, *mask.shape), np.uint8)
        self._excess = np.zeros((DEPTH, *mask.shape), np.float32)
        self._expected = np.zeros((DEPTH, *mask.shape), np.float32)
        self._counts_2d = np.zeros(mask.shape, np.float32)
        self._valid_2d = np.zeros(mask.shape, np.uint8)
        self._smooth = np.zeros(mask.shape, np.float32)
        self._noise = np.zeros(mask.shape, np.float32)
        self._level = np.ones(self._length)
        self._blobs = BlobLinker(mask.shape, params.max_frames)
        self._pending: list[Voxels] = []
        self._rows: list[dict[str, float]] = []
        self._tested = 0  # frames whose strong voxels are known
        self._counts = dict.fromkeys(("candidates", "blobs", "peaks", *_REJECTED, "frames"), 0)
        self._finished = False

    def add(self, block: NDArray[Any]) -> None:
        """Take the next frames (n, slow, fast)."""
        if self._finished:
            raise HklflowError("the peak search has finished; start a new one for more frames")
        if block.ndim != 3 or block.shape[1:] != self._mask.shape:
            raise HklflowError(
                f"a block of frames has the shape {block.shape} where the mask has "
                f"{self._mask.shape}; give (n, slow, fast) and the mask of this detector"
            )
        if block.dtype.kind not in "uif":
            raise HklflowError(f"frames are {block.dtype}; give integer or floating counts")
        if self._raw is None:
            self._raw = np.zeros((self._length, *self._mask.shape), block.dtype)
        elif block.dtype != self._raw.dtype:
            raise HklflowError(
                f"a block of frames is {block.dtype} after {self._raw.dtype}; "
                "give all blocks of a scan in one number type"
            )
        for frame in block:
            self._take(frame)

    def _take(self, frame: NDArray[Any]) -> None:
        assert self._raw is not None
        p, slot = self.params, self.n_frames % DEPTH
        self._raw[self.n_frames % self._length] = frame
        clean_frame(frame, self._mask, p.invalid_from, self._counts_2d, self._valid_2d)
        n_sigma = p.n_sigma * np.sqrt(self.gain or 1.0)
        mean = local_background(self._counts_2d, self._valid_2d, p.window, n_sigma)
        residual(self._counts_2d, self._valid_2d, mean, self._excess[slot], self._expected[slot])
        self.n_frames += 1
        if self.n_frames > DEPTH // 2:
            self._test_next()

    def _test_next(self) -> None:
        """Find and link the strong voxels of the next frame that has its neighbours."""
        number = self._tested
        strong = self._strong[number % self._length]
        if self.gain is None:
            self._mark_strong(number, 1.0, strong)
            self.gain = dispersion(self._smooth, self._noise)
        self._mark_strong(number, self.gain, strong)
        self._level[number % self._length] = quiet_mean(
            self._excess[number % DEPTH], self._expected[number % DEPTH], strong
        )
        slow, fast = np.nonzero(strong)
        new = np.zeros(slow.size, VOXEL)
        new["frame"], new["slow"], new["fast"], new["first"] = number, slow, fast, number
        new["height"], new["noise"] = self._smooth[slow, fast], self._noise[slow, fast]
        for blob in self._blobs.add(number, new):
            self._classify(blob)
        self._tested += 1
        self._fit_pending(everything=False)

    def _mark_strong(self, number: int, gain: float, strong: NDArray[np.uint8]) -> None:
        p = self.params
        strong_voxels(
            self._excess,
            self._expected,
            number % DEPTH,
            p.n_sigma * np.sqrt(gain),
            p.threshold,
            strong,
            self._smooth,
            self._noise,
        )

    def _classify(self, voxels: Voxels) -> None:
        p = self.params
        self._counts["blobs"] += 1
        extent = max(np.ptp(voxels["slow"]), np.ptp(voxels["fast"])) + 1
        reason = None
        if voxels["frame"].max() - voxels["first"].min() + 1 > p.max_frames:
            reason = "too_long"
        elif extent > p.max_pixels:
            reason = "too_large"
        if reason is None:
            self._pending.append(voxels)
        else:
            self._counts["candidates"] += 1
            self._counts[reason] += 1

    def _fit_pending(self, *, everything: bool) -> None:
        limit = self._tested - 1 - self.params.margin_frames
        waiting = []
        for voxels in self._pending:
            if everything or voxels["frame"].max() <= limit:
                self._fit_blob(voxels)
            else:
                waiting.append(voxels)
        self._pending = waiting

    def _fit_blob(self, voxels: Voxels) -> None:
        p, gain = self.params, self.gain or 1.0
        at = np.stack([voxels[n] for n in ("frame", "slow", "fast")], axis=1)
        height, noise = voxels["height"].astype(float), voxels["noise"].astype(float)
        tops = split_maxima(at, height, noise, p.prominence * np.sqrt(gain))
        frames = (
            max(0, int(at[:, 0].min()) - p.margin_frames),
            min(self._tested, int(at[:, 0].max()) + 1 + p.margin_frames),
        )
        limits = FitLimits(
            margin=np.array([p.margin_frames, p.margin_pixels, p.margin_pixels]),
            max_width=np.array([p.max_frames, p.window, p.window]) / 2.0,
            shape=self._mask.shape,
            gain=gain,
            floor=p.sigma_floor,
            max_frames=p.max_frames,
            min_significance=p.min_significance,
        )

        def cut(low: I64, high: I64) -> Box:
            return self._cut(low, high, frames, at)

        rows = fit_segments(voxels, tops, cut, limits)
        self._counts["candidates"] += len(rows)
        for row in rows:
            if row["n_pixels"] < p.min_pixels:
                self._counts["too_small"] += 1
            elif not is_significant(row, p.min_significance):
                self._counts["insignificant"] += 1
            else:
                self._rows.append(row)

    def _cut(self, low: I64, high: I64, frames: tuple[int, int], at: NDArray[np.int32]) -> Box:
        assert self._raw is not None
        low = np.maximum(low, [frames[0], 0, 0])
        high = np.maximum(np.minimum(high, [frames[1], *self._mask.shape]), low)
        slots = np.arange(low[0], high[0]) % self._length
        window = (slice(low[1], high[1]), slice(low[2], high[2]))
        counts = self._raw[slots, *window].astype(np.float64)
        valid = ~self._mask[window] & (counts >= 0) & (counts < self.params.invalid_from)
        strong = self._strong[slots, *window] != 0
        local = at - low
        local = local[((local >= 0) & (local < counts.shape)).all(axis=1)]
        own = np.zeros(counts.shape, bool)
        own[tuple(local.T)] = True
        overload = valid & (counts >= self.params.saturation)
        counts[~valid] = 0.0
        level = self._level[slots] / max(self._level[slots].mean(), 1e-30) if slots.size else slots
        return Box(
            low.astype(np.int64),
            counts,
            np.asarray(level, np.float64),
            valid,
            strong & ~own,
            overload,
            own,
        )

    def finish(self) -> Peaks:
        """End of the scan: close all blobs and return the table."""
        if self._finished:
            raise HklflowError("the peak search has finished already; its table was returned")
        for number in range(self.n_frames, self.n_frames + DEPTH // 2):
            self._excess[number % DEPTH] = 0.0
            self._expected[number % DEPTH] = 0.0
            if self._tested < self.n_frames and number >= DEPTH // 2:
                self._test_next()
        for blob in self._blobs.finish():
            self._classify(blob)
        self._fit_pending(everything=True)
        self._finished = True
        return self._table()

    def _table(self) -> Peaks:
        columns = {name: np.array([row[name] for row in self._rows]) for name in FIELDS}
        # a peak that ended early or late on the scan, now that its length is known
        low = columns["frame"] - 2 * columns["width_frame"]
        high = columns["frame"] + 2 * columns["width_frame"]
        ends = (low < 0) | (high > self.n_frames)
        for name in ("n_pixels", "n_frames", "flags"):
            columns[name] = columns[name].astype(np.int64)
        columns["flags"] |= np.where(ends, int(PeakFlag.SCAN_END), 0)
        columns["frame"] = columns["frame"] + self._first_frame
        keep = without_duplicates(columns)
        order = np.lexsort((columns["fast"], columns["slow"], columns["frame"]))
        order = order[keep[order]]
        self._counts["duplicate"] = int((~keep).sum())
        self._counts["peaks"], self._counts["frames"] = int(keep.sum()), self.n_frames
        return Peaks(
            **{name: column[order] for name, column in columns.items()}, counts=self._counts
        )
