r"""3-D artefact mask: pixel-frames around strong Bragg peaks that contain sensor artefacts.

At high energy a strong reflection adds counts to its surroundings on the same frame (fluorescence
and Compton scattering inside the sensor, blooming) and on the following frames (afterglow). The
diffuse scattering changes slowly from frame to frame. An artefact is therefore an excess over the
same pixels on the neighbouring frames, in an area connected to a strong peak.

The method uses cells of ``cell`` x ``cell`` pixels, summed over valid pixels only:

1. *Background* of a cell on frame z: clipped mean of the count rate of the cell on the other frames
   of a window of ``window`` frames. It is the mean of the values up to ``m + 4 sqrt(m + 1)``, where
   m is the median; the median alone would be biased for few counts.
2. *Excess* E = counts - background, with the Poisson variance ``V = B (1 + 1/n) + 1`` of a cell
   with background B from n frames; the added 1 is needed where B vanishes. For sums over boxes of
   several cells E is limited to ``10 sqrt(V)``, so that a spot does not spread over the box.
3. *Significant* cells: the excess summed over one of the ``boxes`` is above ``n_sigma`` sigma and
   above ``min_ratio`` times the background (incident flux and diffuse scattering may change less).
4. *Seeds*: cells with ``E >= seed_counts`` and ``E >= seed_ratio B``, or cells with overloaded
   pixels that are not overloaded on most frames. A seed also counts on the frame before and the
   frame after if its cell is significant there (tails of the rocking curve).
5. *Region*: significant cells that are connected to a seed and at most ``reach`` pixels from the
   seed; the connection may cross cells without data (gaps). The region is extended by ``margin``
   pixels. Extended seeds stay flagged for ``afterglow_frames`` more frames.

A strong peak under masked pixels has no seed, unless its halo has one (in a gap there is no sensor
and no halo). A reflection that lasts longer than about half of the window counts as background, so
choose a window at least twice as long as the longest spot. Use the mask only for fine slices: if
diffuse scattering near a strong peak changes by more than ``min_ratio`` within the window, it is
flagged as an artefact.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images import mask3d_kernels as kernels

BoolImage = NDArray[np.bool_]
Flagged = tuple[NDArray[np.uint8] | None, int]
"""Packed mask of a frame (None: nothing is flagged), and the number of flagged good pixels."""

_MIN_FRAMES = 4  # shorter scans have no background


@dataclass(frozen=True)
class Mask3dParams:
    """Parameters of the artefact mask; lengths in pixels, windows in frames.

    Attributes
    ----------
    seed_counts
        Smallest counts above background of a seed, in one cell of one frame.
    seed_ratio
        Smallest excess of a seed as a multiple of the cell's background; weaker peaks have no
        visible halo.
    n_sigma
        Smallest significance of the excess in a halo.
    min_ratio
        Smallest excess in a halo, as a fraction of the background.
    cell
        Side of a cell, pixels.
    boxes
        Odd sides of the boxes in which the excess is summed, in cells. A larger box finds
        fainter halos and flags more clean pixels around them.
    window
        Number of frames that determine the background of a frame; centred on it where possible.
    reach
        Largest distance of a halo from its seed, pixels.
    margin
        Width of the border added around each region, pixels; rounded up to cells.
    afterglow_frames
        Number of frames after a seed on which its cells stay flagged.
    flag_from
        Smallest invalid value, such as 2^32 - 1. None: no value is a flag.
    overload_from
        Smallest overloaded value, below ``flag_from``. Overloaded pixels are not summed; they are
        seeds, unless they are overloaded on most frames. None: pixels are never overloaded.
    valid_from
        Values of floating-point frames below this value are invalid; negative integers are always
        invalid.
    """

    seed_counts: float
    seed_ratio: float
    n_sigma: float
    min_ratio: float
    cell: int
    window: int
    reach: float
    margin: float
    afterglow_frames: int
    boxes: tuple[int, ...] = (1, 3)
    flag_from: float | None = None
    overload_from: float | None = None
    valid_from: float = 0.0

    def __post_init__(self) -> None:
        """Check the bounds."""
        limits = {
            "seed_counts": (self.seed_counts, 1),
            "seed_ratio": (self.seed_ratio, 0),
            "n_sigma": (self.n_sigma, 1),
            "min_ratio": (self.min_ratio, 0),
            "cell": (self.cell, 1),
            "window": (self.window, _MIN_FRAMES),
            "reach": (self.reach, 0),
            "margin": (self.margin, 0),
            "afterglow_frames": (self.afterglow_frames, 0),
        }
        for name, (value, low) in limits.items():
            if not (math.isfinite(value) and value >= low):
                raise HklflowError(f"{name}={value} of the 3-D mask: give a number from {low} up")
        if not self.boxes or any(b < 1 or b % 2 == 0 for b in self.boxes):
            raise HklflowError(f"boxes={self.boxes} of the 3-D mask: give odd numbers of cells")


def effective_seed(frame: NDArray[np.float64], params: Mask3dParams) -> float:
    """Return the counts above background that start a region in the median cell of a frame.

    Where the background of a cell is high, ``seed_ratio`` decides instead of ``seed_counts``.

    Parameters
    ----------
    frame : (slow, fast) array
        Counts; NaN in masked pixels. Cells with masked pixels are left out.
    """
    side = params.cell
    n_slow, n_fast = (n // side for n in frame.shape)
    cells = frame[: n_slow * side, : n_fast * side].reshape(n_slow, side, n_fast, side)
    sums = cells.sum(axis=(1, 3))
    known = sums[np.isfinite(sums)]
    background = float(np.median(known)) if known.size else 0.0
    return max(params.seed_counts, params.seed_ratio * background)


def require_length(n_frames: int) -> None:
    """Refuse a scan with too few frames for a background.

    Raises
    ------
    HklflowError
    """
    if n_frames < _MIN_FRAMES:
        raise HklflowError(
            f"a scan of {n_frames} frames is too short for the 3-D mask: "
            f"give at least {_MIN_FRAMES} frames"
        )


class _Binner:
    """Sums frames over cells."""

    def __init__(self, mask: BoolImage, params: Mask3dParams) -> None:
        self.cell = params.cell
        self.good = ~mask
        self.flag = math.inf if params.flag_from is None else float(params.flag_from)
        over = self.flag if params.overload_from is None else float(params.overload_from)
        self.over, self.valid_from = min(over, self.flag), float(params.valid_from)
        cells = [np.arange(0, n, self.cell) for n in mask.shape]
        by_row = np.add.reduceat(self.good.astype(np.int32), cells[0], axis=0)
        self.n_good = np.add.reduceat(by_row, cells[1], axis=1)
        self.sums = np.zeros(mask.shape[1], np.uint32)
        self.keep: NDArray[Any] = self.good  # in the type of the frames after the first frame
        self.limit = np.uint64(0)

    def add(self, frame: NDArray[Any], *cells: NDArray[Any]) -> None:
        """Write counts, valid pixels and overloaded pixels of a frame to ``cells``."""
        if frame.dtype.kind not in "iu":
            limits = self.valid_from, self.flag, self.over
            kernels.bin_any(frame, self.good, self.cell, *limits, *cells)
            return
        frame = np.ascontiguousarray(frame)
        words = frame.view(f"u{frame.itemsize}")
        if self.keep.dtype != words.dtype:
            self.keep = np.where(self.good, np.iinfo(words.dtype).max, 0).astype(words.dtype)
            # The values are read as unsigned words, so negative numbers become large numbers.
            top = min(self.over, float(np.iinfo(frame.dtype).max), 2.0**32 // self.cell**2)
            self.limit = np.uint64(max(math.floor(top), 0))
        binned = (self.keep, self.n_good, self.sums, self.limit, self.cell, self.flag, self.over)
        kernels.bin_integers(frame, words, *binned, cells)


def _ring(size: int, grid: tuple[int, int], dtype: Any) -> NDArray[Any]:
    """Return zeros (size, slow, fast), padded so that frames of a cell use different cache sets.

    The padding gives an odd number of rows, and an odd number of half cache lines per row. Without
    it, all frames of a cell would use the same set, because the sizes of detectors are often powers
    of two.
    """
    lines = -(-grid[1] // 8)
    return np.zeros((size, grid[0] + 1 - grid[0] % 2, 8 * (lines + 1 - lines % 2)), dtype)


class _Masker:
    """State of the streaming: a window of binned frames and the seeds of three frames."""

    def __init__(self, shape: tuple[int, int], mask: BoolImage | None, params: Mask3dParams):
        self.p = params
        self.shape = shape
        bad = np.zeros(shape, np.bool_) if mask is None else np.ascontiguousarray(mask, np.bool_)
        self.binner = _Binner(bad, params)
        c = params.cell
        self.grid = (-(-shape[0] // c), -(-shape[1] // c))
        # Ring buffers: frame z is at z % size. They hold one frame more than the window, because a
        # frame is finished after the seeds of the next frame are known.
        self.size = params.window + 1
        self.rings = tuple(_ring(self.size, self.grid, x) for x in (np.float64, np.int32, np.int32))
        self.n_in = 0
        self.windows: deque[tuple[Any, ...]] = deque()  # of frames with seeds, not yet finished
        self.seeds: deque[NDArray[np.int32]] = deque()  # of these frames and the frame before
        self.n_judged = 0
        self.n_done = 0
        self.glow: deque[NDArray[np.int32]] = deque(maxlen=params.afterglow_frames)
        self.margin = _disc(math.ceil(params.margin / c) if params.margin > 0 else 0)
        self.rules = (np.array(params.boxes), float(params.n_sigma), float(params.min_ratio))
        # Memory of the kernels, and their working arrays.
        self.stamp = 0
        parts = (self.grid[0], -(-self.grid[1] // kernels.PART))
        self.known = (np.zeros(parts, np.int64), *(np.zeros(self.grid) for _ in range(3)))
        self.rates = np.zeros((self.size, kernels.PART))
        self.lowest = (np.zeros(self.grid), np.full((self.grid[0], 2), -1))
        self.met = np.zeros(self.grid, np.int64)
        self.lists = [np.zeros(self.grid[0] * self.grid[1], np.int32) for _ in range(3)]

    def push(self, frame: NDArray[Any]) -> Iterator[Flagged]:
        """Add one frame; yield the masks that are complete now."""
        slot = self.n_in % self.size
        self.binner.add(frame, *(ring[slot] for ring in self.rings))
        self.n_in += 1
        # The first complete window is used for all frames up to the middle of the window.
        while self.n_in >= self.p.window and self.n_judged < self.n_in - self.p.window // 2:
            yield from self._judge()

    def close(self) -> Iterator[Flagged]:
        """Yield the masks of the last frames."""
        require_length(self.n_in)
        while self.n_judged < self.n_in:
            yield from self._judge()
        yield self._finish()

    def _memory(self) -> tuple[Any, ...]:
        """Return the memory of the kernels for a new frame, with no known cells."""
        self.stamp += 1
        return (self.stamp, *self.known, self.rates)

    def _judge(self) -> Iterator[Flagged]:
        """Find the seeds of the next frame; finish the frame before it."""
        first = max(self.n_in - self.p.window, 0)
        slots = np.arange(first, self.n_in) % self.size
        window = (*self.rings, slots, self.n_judged % self.size)
        limits = (float(self.p.seed_counts), float(self.p.seed_ratio))
        seeds = self.lists[0]
        n = kernels.find_seeds(
            window, self._memory(), self.binner.n_good, first, *limits, *self.lowest, seeds
        )
        self.windows.append(window)
        self.seeds.append(seeds[:n].copy())
        self.n_judged += 1
        if self.n_judged > 1:
            yield self._finish()

    def _finish(self) -> Flagged:
        """Grow the region of the oldest unfinished frame, and return its mask."""
        window = self.windows.popleft()
        oldest = min(self.n_done, 1)
        own_seeds = self.seeds[oldest]
        others = [seeds for i, seeds in enumerate(self.seeds) if i != oldest]
        other = np.concatenate(others) if others else own_seeds[:0]
        cells = own_seeds[:0]
        if len(own_seeds) or len(other):
            memory, reach = self._memory(), math.floor((self.p.reach / self.p.cell) ** 2)
            size = kernels.grow(
                window, self.rules, memory, reach, own_seeds, other, self.met, *self.lists
            )
            cells = self.lists[2][:size]
        cells = np.concatenate([cells, *self.glow])
        self.glow.append(own_seeds)
        if self.n_done > 0:
            self.seeds.popleft()
        self.n_done += 1
        if not len(cells):
            return None, 0
        packed = np.zeros((self.shape[0], -(-self.shape[1] // 8)), np.uint8)
        self.stamp += 1
        n_good = kernels.paint(
            cells, self.margin, self.p.cell, self.binner.good, self.stamp, self.met, packed
        )
        return packed, n_good


def _disc(radius: int) -> NDArray[np.int64]:
    """Return the steps (n, 2) from the centre of a disc to its points; radius 1: 3 x 3 points."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.argwhere(x * x + y * y <= (radius + 0.5) ** 2) - radius


def flag_frames(
    blocks: Iterable[NDArray[Any]], mask: BoolImage | None, params: Mask3dParams
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Flag the sensor artefacts of a scan while its frames are read.

    Only ``window`` + 1 frames, summed over cells, are kept in memory (16 / cell² bytes per pixel
    and frame). The mask of a frame is returned ``window / 2 + 1`` frames after the frame was read.

    Parameters
    ----------
    blocks
        Frames (n, slow, fast) in order, any real type; negative and non-finite values are
        invalid. A block is no longer used when the next block is requested.
    mask
        Bad pixels (slow, fast), True = bad, or None. Bad pixels are not summed, and their values
        in the result have no meaning.
    params
        See :class:`Mask3dParams`.

    Yields
    ------
    packed
        Masks (m, slow, ceil(fast / 8)), packed by :func:`pack`, 1 = artefact; one mask for each
        frame, in order. The values do not depend on the sizes of the blocks.
    n_good
        Number of flagged good pixels (m,).

    Raises
    ------
    HklflowError
        If shapes differ, or the scan has fewer than four frames.
    """
    masker: _Masker | None = None
    longest = 1
    for block in blocks:
        if block.ndim != 3:
            raise HklflowError(f"a block of frames has shape {block.shape}: give (n, slow, fast)")
        if masker is None:
            shape = (block.shape[1], block.shape[2])
            if mask is not None and mask.shape != shape:
                raise HklflowError(
                    f"the mask has shape {mask.shape}, the frames {shape}; give the mask of these "
                    "frames"
                )
            masker = _Masker(shape, mask, params)
        if block.shape[1:] != masker.shape:
            raise HklflowError(
                f"frames of shape {block.shape[1:]} follow frames of shape {masker.shape}; give "
                "frames of one shape"
            )
        longest = max(longest, len(block))
        ready = [done for frame in block for done in masker.push(frame)]
        yield from _stacked(ready, masker.shape, longest)
    if masker is None:
        raise HklflowError("no frames for the 3-D mask: check the range of frames")
    yield from _stacked(list(masker.close()), masker.shape, longest)


def _stacked(
    ready: list[Flagged], shape: tuple[int, int], longest: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Stack the masks in blocks of at most ``longest`` frames."""
    for start in range(0, len(ready), longest):
        part = ready[start : start + longest]
        packed = np.zeros((len(part), shape[0], -(-shape[1] // 8)), np.uint8)
        for i, (packed_frame, _) in enumerate(part):
            if packed_frame is not None:
                packed[i] = packed_frame
        yield packed, np.array([n for _, n in part], np.int64)


def mask_frames(
    blocks: Iterable[NDArray[Any]], mask: BoolImage | None, params: Mask3dParams
) -> Iterator[NDArray[np.bool_]]:
    """Do :func:`flag_frames`, but yield unpacked masks, bool (m, slow, fast), True = artefact."""
    n_fast = 0

    def watched() -> Iterator[NDArray[Any]]:
        nonlocal n_fast
        for block in blocks:
            n_fast = block.shape[-1]
            yield block

    for packed, _ in flag_frames(watched(), mask, params):
        yield unpack(packed, n_fast)


def pack(block: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack masks (n, slow, fast) into bits, uint8 (n, slow, ceil(fast / 8)).

    The first pixel is the highest bit. Rows are padded with zeros, so that every row starts with a
    new byte.
    """
    return np.packbits(block, axis=-1)


def unpack(packed: NDArray[np.uint8], n_fast: int) -> NDArray[np.bool_]:
    """Unpack masks made by :func:`pack`; return bool (n, slow, n_fast)."""
    if packed.dtype != np.uint8 or packed.shape[-1] != -(-n_fast // 8):
        raise HklflowError(
            f"a packed mask with {packed.shape[-1]} {packed.dtype} per row does not match rows of "
            f"{n_fast} pixels: give the width of the detector in pixels"
        )
    return np.unpackbits(packed, axis=-1, count=n_fast).view(np.bool_)
