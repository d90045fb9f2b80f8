r"""3-D artefact mask: pixel-frames around strong Bragg intensity that the sensor has spoilt.

At high energy a strong reflection lights up its surroundings on the same frame: fluorescence and
Compton scatter inside the sensor, blooming, and afterglow on the frames that follow. The diffuse
scattering below changes slowly from frame to frame, so the artefact is what exceeds the same
pixels on the neighbouring frames, in an area connected to a strong peak.

Method, on cells of ``cell`` x ``cell`` pixels, sums over valid pixels only:

1. *Background* of a cell on frame z: clipped mean of its count rate on the other frames of a
   window of ``window`` frames (median m of the cell, then the mean of the values up to
   ``m + 4 sqrt(m + 1)``: the median alone is biased for few counts).
2. *Excess* E = counts - background, with the Poisson variance ``V = B (1 + 1/n) + 1`` of a cell
   with background B from n frames; one count is the floor where B vanishes. For sums over boxes
   of several cells E is capped at ``10 sqrt(V)``, so that a spot does not smear over the box.
3. *Significant* cells: the excess summed over one of the ``boxes`` is above ``n_sigma`` sigma and
   above ``min_ratio`` times the background, which the incident flux and the diffuse may change.
4. *Seeds*: cells with ``E >= seed_counts`` and ``E >= seed_ratio B``, or with more overloaded
   pixels than usual. A seed holds on the frames before and after as well if its cell is
   significant there: the tails of the rocking curve.
5. *Region*: significant cells connected to a seed, over cells without data (gaps), and at most
   ``reach`` pixels from it, dilated by ``margin`` pixels. Seeds themselves, dilated, for
   ``afterglow_frames`` more frames.

A strong peak hidden under masked pixels seeds nothing unless its halo does (in a gap there is no
sensor to make one). A reflection that lasts longer than about half of the window becomes
background: choose the window at least twice as long as the longest spot. Diffuse scattering that
changes by more than ``min_ratio`` within the window beside a strong peak is taken for artefact:
the mask is for fine slices, where it does not.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hklflow.errors import HklflowError

BoolImage = NDArray[np.bool_]
_CAP = 10.0  # of a cell's excess in a box, in σ: below n_sigma after averaging over 3 x 3 cells
_CLIP = 4.0  # σ above the median that still counts as background
_MIN_FRAMES = 4  # shorter scans give no background


@dataclass(frozen=True)
class Mask3dParams:
    """Parameters of the artefact mask; lengths in pixels, windows in frames.

    Attributes
    ----------
    seed_counts
        Counts above background in one cell of one frame that make it a seed.
    seed_ratio
        The same, as a multiple of the cell's background: weaker peaks have no visible halo.
    n_sigma
        Significance of the excess that belongs to a halo.
    min_ratio
        Smallest excess that belongs to a halo, as a fraction of the background.
    cell
        Side of a cell, pixels.
    boxes
        Odd sides of the boxes in which the excess is summed, in cells. A larger box finds
        fainter halos and flags more clean pixels around them.
    window
        Frames from which the background of a frame is taken, centred where possible.
    reach
        Largest distance of a halo from its seed, pixels.
    margin
        Pixels added around each region, rounded up to cells.
    afterglow_frames
        Frames after a seed on which its cells stay flagged.
    flag_from
        Values from here on are no measurement (2^32 - 1 and the like); None if there is none.
    overload_from
        Values from here on, below ``flag_from``, are overloaded: not summed, and seeds where
        they are not there on most frames; None if there is none.
    """

    seed_counts: float = 400.0
    seed_ratio: float = 1.0
    n_sigma: float = 6.0
    min_ratio: float = 0.05
    cell: int = 4
    boxes: tuple[int, ...] = (1, 3)
    window: int = 15
    reach: float = 128.0
    margin: float = 4.0
    afterglow_frames: int = 0
    flag_from: float | None = None
    overload_from: float | None = None

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


@dataclass
class _Cells:
    """One frame on cells: counts, valid pixels, overloaded pixels."""

    counts: NDArray[np.float64]
    valid: NDArray[np.int32]
    overloaded: NDArray[np.int32]


@dataclass
class _Excess:
    """What one frame has above its background, on cells."""

    significant: BoolImage
    blind: BoolImage
    seeds: BoolImage


@numba.njit(cache=True, nogil=True)
def _bin(frame, mask, cell, flag_from, overload_from, counts, valid, overloaded):  # type: ignore[no-untyped-def]
    """Sum one frame (slow, fast) over cells."""
    for i in range(frame.shape[0]):
        a = i // cell
        for j in range(frame.shape[1]):
            if mask[i, j]:
                continue
            value = np.float64(frame[i, j])
            b = j // cell
            # Written so that NaN fails it.
            if value >= 0.0 and value < overload_from:
                counts[a, b] += value
                valid[a, b] += 1
            elif value >= overload_from and value < flag_from:
                overloaded[a, b] += 1


@numba.njit(cache=True, nogil=True)
def _background(counts, valid, overloaded, own, clip, excess, variance, usual):  # type: ignore[no-untyped-def]
    """Excess and variance of frame ``own`` in a window (frame, cell, cell); NaN if blind."""
    n_frames, n_slow, n_fast = counts.shape
    values = np.empty(n_frames)
    for a in range(n_slow):
        for b in range(n_fast):
            excess[a, b] = np.nan
            here = valid[own, a, b]
            n = 0
            over = 0
            for z in range(n_frames):
                if z == own:
                    continue
                if overloaded[z, a, b] > 0:
                    over += 1
                if valid[z, a, b] == 0:
                    continue
                value = counts[z, a, b] * here / valid[z, a, b]
                k = n
                while k > 0 and values[k - 1] > value:
                    values[k] = values[k - 1]
                    k -= 1
                values[k] = value
                n += 1
            usual[a, b] = 2 * over > n_frames - 1
            if here == 0 or n == 0:
                continue
            median = 0.5 * (values[(n - 1) // 2] + values[n // 2])
            limit = median + clip * np.sqrt(median + 1.0)
            total = 0.0
            used = 0
            while used < n and values[used] <= limit:
                total += values[used]
                used += 1
            level = total / used
            excess[a, b] = counts[own, a, b] - level
            variance[a, b] = level * (1.0 + 1.0 / used) + 1.0


def _disc(radius: int) -> BoolImage:
    """Return a disc as a structuring element; radius 1 is the 3 x 3 square."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(x * x + y * y <= (radius + 0.5) ** 2)


class _Masker:
    """The streaming state: a window of binned frames and the excess of three frames."""

    def __init__(self, shape: tuple[int, int], mask: BoolImage | None, params: Mask3dParams):
        self.p = params
        self.shape = shape
        self.mask = np.zeros(shape, bool) if mask is None else np.ascontiguousarray(mask, bool)
        c = params.cell
        self.grid = (-(-shape[0] // c), -(-shape[1] // c))
        size = (params.window, *self.grid)
        # Ring buffers: frame z stands at z % window. The order inside does not matter.
        self.counts = np.zeros(size)
        self.valid = np.zeros(size, np.int32)
        self.overloaded = np.zeros(size, np.int32)
        self.n_in = 0
        self.n_judged = 0
        self.judged: deque[_Excess] = deque()  # the frames around the next one to finish
        self.glow: deque[BoolImage] = deque(maxlen=max(params.afterglow_frames, 1))
        self.margin = _disc(math.ceil(params.margin / c)) if params.margin > 0 else None

    def push(self, frame: NDArray[Any]) -> Iterator[BoolImage]:
        """Take one frame, give the masks that have become ready."""
        p = self.p
        at = self.n_in % p.window
        for array in (self.counts, self.valid, self.overloaded):
            array[at] = 0
        flag = np.inf if p.flag_from is None else p.flag_from
        over = flag if p.overload_from is None else min(p.overload_from, flag)
        cells = (self.counts[at], self.valid[at], self.overloaded[at])
        _bin(frame, self.mask, p.cell, flag, over, *cells)
        self.n_in += 1
        if self.n_in < p.window:
            return
        # The first full window serves all frames up to its middle.
        while self.n_judged <= self.n_in - 1 - p.window // 2:
            yield from self._judge(p.window)

    def close(self) -> Iterator[BoolImage]:
        """Give the masks of the last frames."""
        if self.n_in < _MIN_FRAMES:
            raise HklflowError(
                f"a scan of {self.n_in} frames has no background for the 3-D mask: "
                f"give at least {_MIN_FRAMES} frames"
            )
        while self.n_judged < self.n_in:
            yield from self._judge(min(self.p.window, self.n_in))
        yield self._finish(self.judged[1], self.judged[0])

    def _judge(self, n_window: int) -> Iterator[BoolImage]:
        """Find the excess of the next frame; finish the one before it."""
        p = self.p
        own = self.n_judged % p.window
        excess, variance = np.empty(self.grid), np.zeros(self.grid)
        usual = np.zeros(self.grid, bool)
        window = (self.counts[:n_window], self.valid[:n_window], self.overloaded[:n_window])
        _background(*window, own, _CLIP, excess, variance, usual)
        blind = np.isnan(excess)
        excess[blind] = 0.0
        # variance = B (1 + 1/n) + 1 stands for B: the difference is small beside seed_ratio.
        seeds = (excess >= p.seed_counts) & (excess >= p.seed_ratio * variance)
        seeds |= (self.overloaded[own] > 0) & ~usual
        self.judged.append(_Excess(self._significant(excess, variance), blind, seeds))
        self.n_judged += 1
        if len(self.judged) == 2:
            yield self._finish(self.judged[0], self.judged[1])
        elif len(self.judged) == 3:
            yield self._finish(self.judged[1], self.judged[0], self.judged[2])
            self.judged.popleft()

    def _significant(self, excess: NDArray[np.float64], variance: NDArray[np.float64]) -> BoolImage:
        """Mark cells whose excess is significant in one of the boxes."""
        # As for the seeds, the variance stands for the background.
        n_sigma, min_ratio = self.p.n_sigma, self.p.min_ratio
        sigma = np.sqrt(np.maximum(variance, 1.0))
        result = np.zeros(self.grid, bool)
        capped = np.minimum(excess, _CAP * sigma)
        for box in self.p.boxes:
            if box == 1:
                total, noise = excess, variance
            else:
                total = ndimage.uniform_filter(capped, box, mode="constant") * box**2
                noise = ndimage.uniform_filter(variance, box, mode="constant") * box**2
            limit = np.maximum(n_sigma * np.sqrt(np.maximum(noise, 1.0)), min_ratio * noise)
            result |= total > limit
        return result

    def _finish(self, this: _Excess, *others: _Excess) -> BoolImage:
        """Grow the region of one frame and expand it to pixels."""
        p = self.p
        seeds = this.seeds.copy()
        for other in others:
            seeds |= other.seeds & this.significant
        region = np.zeros(self.grid, bool)
        if seeds.any():
            near = ndimage.distance_transform_edt(~seeds) <= p.reach / p.cell
            allowed = (this.significant | this.blind | seeds) & near
            region = ndimage.binary_propagation(seeds, np.ones((3, 3), bool), mask=allowed)
            region &= this.significant | seeds
        for old in self.glow:
            if p.afterglow_frames:
                region |= old
        self.glow.append(this.seeds)
        if self.margin is not None and region.any():
            region = ndimage.binary_dilation(region, self.margin)
        return self._expand(region)

    def _expand(self, region: BoolImage) -> BoolImage:
        """Turn cells into pixels."""
        if not region.any():
            return np.zeros(self.shape, bool)
        wide = np.repeat(region, self.p.cell, axis=1)[:, : self.shape[1]]
        return np.repeat(wide, self.p.cell, axis=0)[: self.shape[0]]


def mask_frames(
    blocks: Iterable[NDArray[Any]], mask: BoolImage | None, params: Mask3dParams
) -> Iterator[NDArray[np.bool_]]:
    """Flag the sensor artefacts of a scan, streaming.

    At most the current block and ``window`` frames on cells (16 / cell² bytes per pixel
    each) are held. Masks lag behind the frames by ``window / 2 + 1``.

    Parameters
    ----------
    blocks
        Frames (n, slow, fast) in order, any real type; negative and non-finite values are no
        measurement.
    mask
        Bad pixels (slow, fast), True = bad, or None. They are not summed; whether a region
        covers them has no meaning.
    params
        See :class:`Mask3dParams`.

    Yields
    ------
    NDArray
        bool (m, slow, fast), True = artefact; together as many frames as came in, in order.
        The values do not depend on the sizes of the blocks.

    Raises
    ------
    HklflowError
        Shapes differ, or the scan has fewer than four frames.
    """
    masker: _Masker | None = None
    longest = 1
    for block in blocks:
        if block.ndim != 3:
            raise HklflowError(f"a block of frames has shape {block.shape}: (n, slow, fast) wanted")
        if masker is None:
            shape = (block.shape[1], block.shape[2])
            if mask is not None and mask.shape != shape:
                raise HklflowError(f"mask of shape {mask.shape} for frames of shape {shape}")
            masker = _Masker(shape, mask, params)
        if block.shape[1:] != masker.shape:
            raise HklflowError(f"frames of shape {block.shape[1:]} after frames {masker.shape}")
        longest = max(longest, len(block))
        ready = [done for frame in block for done in masker.push(frame)]
        for start in range(0, len(ready), longest):
            yield np.stack(ready[start : start + longest])
    if masker is None:
        raise HklflowError("no frames for the 3-D mask: check the range of frames")
    ready = []
    for done in masker.close():
        ready.append(done)
        if len(ready) == longest:
            yield np.stack(ready)
            ready = []
    if ready:
        yield np.stack(ready)


def pack(block: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack masks (n, slow, fast) into bits: uint8 (n, slow, ceil(fast / 8)), first pixel highest.

    Rows are padded with zeros, so every row starts on a byte.
    """
    return np.packbits(block, axis=-1)


def unpack(packed: NDArray[np.uint8], n_fast: int) -> NDArray[np.bool_]:
    """Undo :func:`pack`: bool (n, slow, n_fast)."""
    if packed.dtype != np.uint8 or packed.shape[-1] != -(-n_fast // 8):
        raise HklflowError(
            f"packed mask of {packed.shape[-1]} {packed.dtype} per row does not hold rows of "
            f"{n_fast} pixels: give the width of the detector in pixels"
        )
    return np.unpackbits(packed, axis=-1, count=n_fast).view(np.bool_)
