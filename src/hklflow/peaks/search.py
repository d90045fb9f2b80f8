"""Search for Bragg peaks on rotation frames: one pass, bounded memory, one row per reflection.

1. A frame is packed into narrow counts, and its background is determined (`frame_store`).
2. Strong voxels (`peaks.screen`) are linked to blobs across frames, with 26 neighbours
   (`peaks.link`).
3. A finished blob is divided among its significant maxima. Each part is fitted with a
   voxel-integrated Gaussian by maximum likelihood (`peaks.segments`, `peaks.fit`), on all valid
   voxels of a box around the part. First moments of the strong voxels alone would be biased by the
   noise that selected these voxels, by gaps and by edges. Moments are used only if no fit
   converges.

Coordinates are (frame, slow, fast) as in `hklflow.geometry.frames`. Frames are processed one by
one, so the result does not depend on the block size. The memory contains slightly more than the
last ``max_frames + 2 margin_frames`` frames and the voxels of unfinished blobs. A pixel takes a
little more than one byte; two if the background is high, four for frames of floats.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.background import Curvature, dispersion
from hklflow.images.frame_store import COLUMNS, ROWS, FrameStore
from hklflow.images.statistics import FrameStatistics
from hklflow.peaks import afterglow
from hklflow.peaks.boxes import OVERLOAD, VALID, Scene, as_bytes, cut_box
from hklflow.peaks.link import BlobLinker, Blobs, blob_extents
from hklflow.peaks.screen import DEPTH, SCRATCH
from hklflow.peaks.segments import FitLimits, fit_blobs
from hklflow.peaks.strong import find_strong
from hklflow.peaks.table import (
    FIELDS,
    PeakFlag,
    PeakParams,
    PeakTable,
    cut_by_ends,
    significant,
    without_duplicates,
)

__all__ = ["PeakFlag", "PeakParams", "PeakSearch", "PeakTable", "find_peaks"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_REJECTED = ("too_long", "too_large", "too_small", "insignificant", "duplicate")
_CAP = 0.999  # fraction of the largest width above which a width counts as at its limit
#: Number of frames that are tested together; number of frames after which blobs are linked and
#: fitted.
_TESTED, _LINKED = 8, 16


def find_peaks(
    blocks: Iterable[NDArray[Any]],
    mask: NDArray[np.bool_],
    params: PeakParams,
    *,
    first_frame: int = 0,
    scan_frames: int | None = None,
) -> PeakTable:
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
        Required number of frames. None: the number is not checked.

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
            f"the peak search got {search.n_frames} frames, but the scan has {scan_frames}; check "
            "that the data file is complete"
        )
    return search.finish()


def _room_for(n: int) -> tuple[I64, I64, F64]:
    """Allocate arrays: candidates of a band, strong voxels of frames, values of strong voxels."""
    return np.zeros(n, np.int64), np.zeros((_TESTED, n), np.int64), np.zeros((_TESTED, n, 3))


class PeakSearch:
    """Peak search that reads frames in blocks: call `add` for all blocks in order, then `finish`.

    Parameters
    ----------
    mask
        Bad pixels (slow, fast), True = bad.
    params
        See `PeakParams`.
    first_frame
        Frame coordinate of the first frame.
    statistics
        Frame statistics with the same mask; every frame is also added to them.
    """

    def __init__(
        self,
        mask: NDArray[np.bool_],
        params: PeakParams,
        *,
        first_frame: int = 0,
        statistics: FrameStatistics | None = None,
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
        self._statistics = statistics
        self._frames: FrameStore | None = None
        self._slots = params.max_frames + 2 * params.margin_frames + DEPTH + _LINKED + _TESTED
        self._found = _room_for(4096)
        self._strong_at = np.zeros((self._slots, 1024), np.int64)
        self._strong_number = np.zeros(self._slots, np.int64)
        self._new_at: list[I64] = []
        self._new_values: list[F64] = []
        self._pending = Blobs.none()
        self._rows: list[F64] = []
        self._followed: list[afterglow.Followed] = []
        self._tested = 0  # frames whose strong voxels are known
        self._counts = dict.fromkeys(("candidates", "blobs", "peaks", *_REJECTED, "frames"), 0)
        self._finished = False

    def add(self, block: NDArray[Any]) -> None:
        """Add the next frames (n, slow, fast)."""
        if self._finished:
            raise HklflowError("the peak search has finished; start a new one for more frames")
        if block.ndim != 3 or block.shape[1:] != self._mask.shape:
            raise HklflowError(
                f"a block of frames has the shape {block.shape}, but the mask has "
                f"{self._mask.shape}; give (n, slow, fast) and the mask of this detector"
            )
        if block.dtype.kind not in "uif":
            raise HklflowError(f"frames have type {block.dtype}; give integers or floats")
        if self._frames is None:
            self._begin(block.dtype)
        elif block.dtype != self._dtype:
            raise HklflowError(
                f"a block of frames has the type {block.dtype}, but earlier blocks {self._dtype}; "
                "give all blocks of a scan in one number type"
            )
        for frame in block:
            self._take(frame)

    def _begin(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype
        self._frames = FrameStore(
            self._mask,
            dtype,
            self._slots,
            window=self.params.window,
            n_sigma=self.params.n_sigma * np.sqrt(self.gain or 1.0),
            invalid_from=self.params.invalid_from,
            valid_from=self.params.valid_from,
            sums=self._statistics is not None,
        )

    def _take(self, frame: NDArray[Any]) -> None:
        assert self._frames is not None
        self._frames.take(frame)
        if self._statistics is not None:
            self._statistics.take(frame, self._frames)
        if self.n_frames == 0:
            cells = self._frames.store.rate.shape[1:]
            self._curvature = Curvature((cells[0], cells[1]), self._frames.half)
            _, rows, width = self._frames.store.counts.shape
            self._blobs = BlobLinker(rows, width, self.params.max_frames)
            self._wide = np.zeros(SCRATCH, self._frames.wide)
        slot, store = self.n_frames % self._slots, self._frames.store
        same = store.flagged[slot] == 0
        self._curvature.correct(store.rate[slot], self._frames.scratch.sizes, same=bool(same))
        self.n_frames += 1
        if self.n_frames - DEPTH // 2 - self._tested == _TESTED:
            self._test(self._tested + _TESTED)

    def _test(self, end: int) -> None:
        """Find the strong voxels of the frames before `end`; their neighbours must be stored."""
        assert self._frames is not None
        frames, begin, p = self._frames, self._tested, self.params
        if self.gain is None:
            self.gain = dispersion(*frames.around(begin))
            frames.n_sigma = p.n_sigma * np.sqrt(self.gain)
        limits = float(p.n_sigma * np.sqrt(self.gain)), float(p.threshold)
        most = int(min(frames.most_one, p.threshold)), int(frames.most_sum)
        shape, numbers = np.array(self._mask.shape), np.zeros(end - begin, np.int64)
        found = self._found
        while more := find_strong(
            frames.store, begin, end, shape, frames.top, limits, most, self._wide, *found, numbers
        ):
            found = self._found = _room_for(more)
        for k, number in enumerate(range(begin, end)):
            n, slot = numbers[k], number % self._slots
            at = found[1][k, :n]
            self._new_at.append(np.stack([np.full(n, number), at, np.full(n, number)], axis=1))
            self._new_values.append(found[2][k, :n].copy())
            if n > self._strong_at.shape[1]:
                more = 2 * n - self._strong_at.shape[1]
                self._strong_at = np.pad(self._strong_at, ((0, 0), (0, more)))
            self._strong_at[slot, :n] = at
            self._strong_number[slot] = n
        self._tested = end
        if len(self._new_at) >= _LINKED:
            self._link()
            self._fit_pending(everything=False)

    def _link(self) -> None:
        """Link the new strong voxels and process the blobs that ended."""
        if self._new_at:
            new = np.concatenate(self._new_at), np.concatenate(self._new_values)
            self._take_blobs(self._blobs.add(self._tested - 1, *new))
            self._new_at, self._new_values = [], []

    def _take_blobs(self, blobs: Blobs) -> None:
        """Count the blobs, and keep the blobs that may be peaks."""
        frames, pixels, _ = blob_extents(blobs.at, blobs.cuts, self._blobs.width)
        too_long = frames > self.params.max_frames
        too_large = (pixels > self.params.max_pixels) & ~too_long
        self._counts["blobs"] += len(frames)
        self._counts["candidates"] += int((too_long | too_large).sum())
        self._counts["too_long"] += int(too_long.sum())
        self._counts["too_large"] += int(too_large.sum())
        self._pending = self._pending.join(blobs.select(~too_long & ~too_large))

    def _fit_pending(self, *, everything: bool) -> None:
        limit = self._tested - 1 - self.params.margin_frames
        _, _, last = blob_extents(self._pending.at, self._pending.cuts, self._blobs.width)
        ready = (last <= limit) | everything
        if not ready.any():
            return
        blobs, self._pending = self._pending.select(ready), self._pending.select(~ready)
        assert self._frames is not None
        p, gain, width = self.params, self.gain or 1.0, self._blobs.width
        slow, fast = blobs.at[:, 1] // width - ROWS, blobs.at[:, 1] % width - COLUMNS
        scene = Scene(
            as_bytes(self._frames.store),
            self._frames.store.counts.itemsize,
            self._strong_at,
            self._strong_number,
            np.array(self._mask.shape),
            float(self._frames.top),
            float(p.saturation),
        )
        rows, n_noise = fit_blobs(
            scene,
            np.stack([blobs.at[:, 0], slow, fast], axis=1),
            blobs.values,
            blobs.cuts,
            self._tested,
            p.margin_frames,
            float(p.prominence * np.sqrt(gain)),
            FitLimits(
                margin=np.array([p.margin_frames, p.margin_pixels, p.margin_pixels]),
                max_width=np.array([p.max_frames, p.window, p.window]) / 2.0,
                gain=float(gain),
                floor=0.0,  # the stage adds the error floors in pixels and in frames
                max_frames=p.max_frames,
                min_significance=float(p.min_significance),
            ),
        )
        small = rows[:, FIELDS.index("n_pixels")] < p.min_pixels
        # Only the last call knows the end of the scan.
        end = self.n_frames if everything else np.inf
        good = significant(rows, p.min_significance, end)
        self._counts["candidates"] += len(rows) + n_noise
        self._counts["too_small"] += int(small.sum())
        self._counts["insignificant"] += n_noise + int((~small & ~good).sum())
        self._rows.append(rows[~small & good])
        self._follow(scene, rows[~small & good])

    def _follow(self, scene: Scene, rows: F64) -> None:
        """Store the counts around strong spots for `afterglow`, while the frames are in memory."""
        column = {name: rows[:, k] for k, name in enumerate(FIELDS)}
        strong = (column["flags"] == 0) & (column["significance"] >= afterglow.SIGNIFICANT)
        strong &= (column["width_frame"] <= afterglow.WIDEST) & np.isfinite(column["frame"])
        reach = np.array([afterglow.FRAMES, afterglow.REACH, afterglow.REACH])
        end = np.array([self.n_frames, *self._mask.shape])
        start = np.array([max(self.n_frames - self._slots, 0), 0, 0])
        nothing = np.zeros((0, 3), np.int64)
        for k in np.flatnonzero(strong):
            centre, width = (
                np.array([column[f"{begin}{name}"][k] for name in ("frame", "slow", "fast")])
                for begin in ("", "width_")
            )
            low = np.floor(centre).astype(np.int64) - reach
            high = low + 2 * reach + 1
            # Only the frames at equal distances before and after the middle are used.
            middle = low[0] + afterglow.FRAMES
            half = min(afterglow.FRAMES, middle - start[0], end[0] - 1 - middle)
            first, last = middle - half, middle + half + 1
            if half < 1 or np.any(low[1:] < 0) or np.any(high[1:] > end[1:]):
                continue
            box = np.array([first, *low[1:]]), np.array([last, *high[1:]])
            counts, kind, _ = cut_box(scene, *box, nothing)
            n = 2 * afterglow.REACH + 1
            measured = (kind[:, :, :n] & (VALID | OVERLOAD)) == VALID
            part = np.full((high[0] - low[0], n * n), np.nan, np.float32)
            inner = slice(first - low[0], last - low[0])
            part[inner] = np.where(measured, counts[:, :, :n], np.nan).reshape(-1, n * n)
            near = part[afterglow.FRAMES - 1 : afterglow.FRAMES + 2]
            use = np.all(np.isfinite(near), axis=0) & (near.max(axis=0) >= afterglow.LEAST)
            if use.any():
                spot = afterglow.Followed(
                    centre, width, column["significance"][k], int(low[0]), part[:, use].T
                )
                self._followed.append(spot)
        if len(self._followed) > 2 * afterglow.MOST:
            self._followed = afterglow.strongest(self._followed)

    def followed(self, peaks: PeakTable) -> list[afterglow.Followed]:
        """Return the strongest spots that have no neighbour among the peaks of the whole scan."""
        own = replace(peaks, frame=peaks.frame - self._first_frame)
        return afterglow.strongest(afterglow.alone(self._followed, own))

    def finish(self) -> PeakTable:
        """Finish all blobs at the end of the scan and return the table."""
        if self._finished:
            raise HklflowError("the peak search has already finished and returned its table")
        if self._frames is not None and self.n_frames:
            for number in range(self.n_frames, self.n_frames + DEPTH // 2):
                self._frames.clear(number % self._slots)
            while self._tested < self.n_frames:
                self._test(min(self._tested + _TESTED, self.n_frames))
            self._link()
            self._take_blobs(self._blobs.finish(self.n_frames))
            self._fit_pending(everything=True)
        self._finished = True
        return self._table()

    def _table(self) -> PeakTable:
        rows = np.concatenate([np.zeros((0, len(FIELDS))), *self._rows])
        columns: dict[str, Any] = {name: rows[:, k] for k, name in enumerate(FIELDS)}
        # The length of the scan is known now: flag peaks that an end of the scan cuts.
        ends = cut_by_ends(columns["frame"], columns["width_frame"], self.n_frames)
        for name in ("n_pixels", "n_frames", "flags"):
            columns[name] = columns[name].astype(np.int64)
        columns["flags"] |= np.where(ends, int(PeakFlag.SCAN_END), 0)
        inside = np.clip(columns["frame"], 0, self.n_frames)
        columns["var_frame"] = columns["var_frame"] + (columns["frame"] - inside) ** 2
        columns["frame"] = inside
        widest = np.maximum(columns["width_slow"], columns["width_fast"]) >= _CAP * (
            self.params.window / 2
        )
        columns["flags"] |= np.where(widest, int(PeakFlag.WIDEST), 0)
        columns["frame"] = columns["frame"] + self._first_frame
        keep = without_duplicates(columns)
        order = np.lexsort((columns["fast"], columns["slow"], columns["frame"]))
        order = order[keep[order]]
        self._counts["duplicate"] = int((~keep).sum())
        self._counts["peaks"], self._counts["frames"] = int(keep.sum()), self.n_frames
        return PeakTable(
            **{name: column[order] for name, column in columns.items()}, counts=self._counts
        )
