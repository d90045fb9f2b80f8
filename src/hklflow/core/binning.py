r"""Accumulate counts and norm of pixel-frames on a grid of reciprocal space.

The estimator is ``S_v = C_v / M_v``: C is the sum of counts and M the sum of the
norm N over the (sub-samples of) pixel-frames whose Q falls in voxel v. It is the
maximum-likelihood estimate for Poisson data, and merging is adding C and M.

Sub-samples. A pixel-frame that is larger than half a voxel is divided in n
sub-samples, each with N / n. Counted photons are dealt at random (but
reproducibly) to the sub-samples, one by one: a Poisson number divided like this
gives independent Poisson numbers, so that C stays an integer, is conserved
exactly, and ``C / M²`` stays the variance of a voxel. Dividing the counts evenly
would correlate neighbouring voxels, and C / M² would be wrong by 1.3 to 2 times.
Data that are not counts (floating point) are divided evenly.

Threads. Each thread owns some planes of the grid and adds to them what falls there;
it looks only at the tiles of the detector that may reach them. Every voxel gets its
counts in the same order whatever the number of threads or of passes over the frames,
so the sums are the same to the last bit.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.core import binning_lanes, binning_plain
from hklflow.core.binning_lanes import ROWS
from hklflow.core.bricks import Bricks
from hklflow.core.geometry import Rotation
from hklflow.core.grid import Grid, pixel_pitch, sub_samples
from hklflow.core.lanes import LANES
from hklflow.core.tiles import Tiles
from hklflow.errors import HklflowError

__all__ = ["Accumulator", "Grid", "pixel_pitch", "sub_samples", "voxel_bytes"]

Floats = NDArray[np.float64]


class Box(NamedTuple):
    """Sums of a box of voxels.

    Attributes
    ----------
    first : (l, k, h)
        First voxel.
    counts, norm, clean_counts, clean_norm : (l, k, h) arrays
        Of everything, and without what the artefact mask excluded; the same arrays if it
        excluded nothing here.
    """

    first: tuple[int, int, int]
    counts: NDArray[Any]
    norm: NDArray[Any]
    clean_counts: NDArray[Any]
    clean_norm: NDArray[Any]


class Accumulator:
    """Sums of counts and norm of one rotation on a grid.

    Counts are kept as uint32 and norms as float32, 8 bytes for a voxel that is touched; for
    frames of floating point, of 64-bit integers, of fewer than 16 pixels along fast or with
    sub-samples that are no power of two up to 32, both are float64.

    Parameters
    ----------
    rotation : Rotation
    ub : (3, 3) array
        1/Å with 2π.
    grid : Grid
    pixel_norm : (slow, fast) array
        The pixel's part of N; 0 for pixels that are not to be used.
    frame_norm : (n_frames,) array
        The frame's part of N (monitor, attenuation, transmission, exposure); 0
        for frames that are not to be used.
    samples : (frame, slow, fast)
        Sub-samples, see `sub_samples`.
    keep_excluded : bool
        Keep what an artefact mask excludes in volumes of its own, so that the
        volume without that mask can be had as their sum.
    invalid_from : float
        Values from here on are no measurement (flags, saturated pixels).
    seed : int
        Of the dealing of photons, 0 or more. Sweeps whose volumes are added or compared
        need different seeds: sweeps of the same geometry that share one send the same
        pixel's photons the same way, and the error of their sum comes out too small.
    planes : (first, last) or None
        Only these planes l of the grid; ``first`` is a multiple of 8. None: all.
    threads : int
        Threads that add.

    Attributes
    ----------
    used, invalid : int
        Pixel-frames with a measurement and without one, of the pixels that are used.
    inside : int
        Sub-samples that fell in the planes.
    """

    def __init__(
        self,
        rotation: Rotation,
        ub: ArrayLike,
        grid: Grid,
        pixel_norm: Floats,
        frame_norm: Floats,
        samples: tuple[int, int, int] = (1, 1, 1),
        keep_excluded: bool = False,
        invalid_from: float = np.inf,
        seed: int = 0,
        planes: tuple[int, int] | None = None,
        threads: int = 1,
    ) -> None:
        if pixel_norm.shape != rotation.detector.shape:
            raise HklflowError(
                f"the pixel norm has shape {pixel_norm.shape}, the detector "
                f"{rotation.detector.shape}; mask, flat field and frames must agree"
            )
        if len(frame_norm) != rotation.scan.n_frames:
            raise HklflowError(
                f"the frame norm has {len(frame_norm)} values for {rotation.scan.n_frames} frames"
            )
        self.rotation, self.grid, self.samples = rotation, grid, samples
        self.planes = (0, grid.shape[2]) if planes is None else planes
        self.invalid_from, self.threads, self.keep_excluded = invalid_from, threads, keep_excluded
        # Spread over all bits, so that neighbouring seeds share nothing.
        self.seed = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        self.pixel_norm = np.nan_to_num(np.ascontiguousarray(pixel_norm, dtype=np.float64))
        self.frame_norm = np.nan_to_num(np.asarray(frame_norm, dtype=np.float64))
        self._ub = np.asarray(ub, dtype=np.float64)
        self._live_in_row = np.count_nonzero(self.pixel_norm > 0, axis=1)
        self._engine: _Lanes | _Plain | None = None
        self._has_excluded = False
        self.used = 0
        self.invalid = 0
        self.inside = 0

    @property
    def outside(self) -> int:
        """Sub-samples of used pixel-frames that fell outside the planes."""
        return self.used * int(np.prod(self.samples)) - self.inside

    def q(self, dtype: type[np.floating[Any]]) -> NDArray[Any]:
        """q_lab (sub-samples of a pixel, 3, slow, fast) in 1/Å."""
        n_slow, n_fast = self.rotation.detector.shape
        _, sub_slow, sub_fast = self.samples
        table = np.empty((sub_slow * sub_fast, 3, n_slow, n_fast), dtype)
        for s in range(sub_slow * sub_fast):
            fast = np.arange(n_fast)[None, :] + (s % sub_fast + 0.5) / sub_fast
            # A few rows at a time stay in the cache.
            for top in range(0, n_slow, 32):
                rows = np.arange(top, min(top + 32, n_slow))[:, None]
                q = self.rotation.q_lab(rows + (s // sub_fast + 0.5) / sub_slow, fast)
                table[s, :, top : top + 32] = np.moveaxis(q, -1, 0)
        return table

    def to_voxel(self, frames: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Matrices (n, sub-samples, 3, 3) that take q_lab to voxels on frames, and offset (3,)."""
        sub = self.samples[0]
        at = frames[:, None] + (np.arange(sub) + 0.5) / sub
        turn = self.rotation.goniometer.rotation(self.rotation.scan.angle(at))
        to_hkl = np.linalg.inv(turn @ self._ub)
        return to_hkl / self.grid.step[:, None], 0.5 - self.grid.first / self.grid.step

    def add(
        self,
        frames: NDArray[Any],
        first: int,
        excluded: NDArray[np.uint8] | None = None,
        row: int | None = None,
    ) -> None:
        """Add a block of frames, or a band of its rows.

        Parameters
        ----------
        frames : (n, slow, fast) array
            Counts; negative or NaN values are flags and add to nothing.
        first : int
            Frame number of the block's first frame.
        excluded : (n, slow, ceil(fast / 8)) uint8 array, optional
            Bit-packed artefact mask (`numpy.packbits` along fast), of all rows.
        row : int
            First row of ``frames``, which then are a band of rows (n, rows, fast); a multiple
            of 8. Rows must be contiguous in memory, frames need not.

        Raises
        ------
        HklflowError
            If the block does not fit the detector, the scan or its mask, or a voxel's counts
            exceed 32 bits.
        """
        if len(frames) == 0:
            return
        if excluded is not None and not self.keep_excluded:
            raise ValueError("an artefact mask needs keep_excluded=True")
        self._check(frames.shape, first, None if excluded is None else excluded.shape, row)
        n_fast, row = frames.shape[2], row or 0
        rows_contiguous = frames.strides[1:] == (n_fast * frames.itemsize, frames.itemsize)
        rows_contiguous &= frames.strides[0] >= frames.shape[1] * frames.strides[1]
        if not (rows_contiguous and frames.dtype.isnative):
            frames = np.ascontiguousarray(frames, dtype=frames.dtype.newbyteorder("="))
        if self._engine is None:
            fast = voxel_bytes(frames.dtype, n_fast, self.samples) == 8
            self._engine = _Lanes(self) if fast else _Plain(self)
        rows = slice(row, row + frames.shape[1])
        if excluded is None or not excluded[:, rows].any():
            excluded = np.zeros((0, 0, 0), dtype=np.uint8)
        self._has_excluded |= excluded.size > 0
        inside, invalid = self._engine.add(frames, first, excluded, row)
        self.inside += inside
        self.invalid += invalid
        used_frames = np.count_nonzero(self.frame_norm[first : first + len(frames)] > 0)
        self.used += int(self._live_in_row[rows].sum()) * int(used_frames) - invalid

    def _check(
        self,
        frames: tuple[int, ...],
        first: int,
        excluded: tuple[int, ...] | None,
        row: int | None,
    ) -> None:
        # The kernel does not check bounds: what does not fit would read foreign memory.
        n_slow, n_fast = self.rotation.detector.shape
        n_frames = self.rotation.scan.n_frames
        begin = row or 0
        end = n_slow if row is None or len(frames) != 3 else begin + frames[1]
        tiled = begin >= 0 and begin % ROWS == 0 and (end % ROWS == 0 or end == n_slow)
        if len(frames) != 3 or frames[1:] != (end - begin, n_fast) or end > n_slow or not tiled:
            raise HklflowError(
                f"a block of frames has shape {frames}"
                f"{'' if row is None else f' from row {row} on'}, the detector ({n_slow}, "
                f"{n_fast}) pixels; use the geometry of this detector"
            )
        if first < 0 or first + frames[0] > n_frames:
            raise HklflowError(
                f"frames {first} to {first + frames[0] - 1} were given to a scan of {n_frames} "
                "frames; check its first frame and number of frames"
            )
        if excluded is not None and excluded != (frames[0], n_slow, (n_fast + 7) // 8):
            raise HklflowError(
                f"the artefact mask of a block has shape {excluded}, not "
                f"{(frames[0], n_slow, (n_fast + 7) // 8)}; make it again from these frames"
            )

    def boxes(self, shape: tuple[int, int, int] = (16, 64, 64)) -> Iterator[Box]:
        """Sums in boxes of voxels, where something was measured.

        Parameters
        ----------
        shape : (l, k, h)
            Of a box, multiples of 8; those at the grid's end are smaller.
        """
        engine = self._engine or _Lanes(self)
        kept, excluded = engine.kept, engine.excluded if self._has_excluded else None
        _, n_k, n_h = self.grid.array_shape
        first, last = self.planes
        for l in range(first, last, shape[0]):  # noqa: E741
            for k in range(0, n_k, shape[1]):
                for h in range(0, n_h, shape[2]):
                    size = (
                        min(shape[0], last - l),
                        min(shape[1], n_k - k),
                        min(shape[2], n_h - h),
                    )
                    counts, norm = (np.empty(size, a.dtype) for a in (kept.counts, kept.norm))
                    measured = kept.box((l, k, h), counts, norm)
                    clean = (counts, norm)
                    if excluded is not None:
                        more = tuple(np.empty_like(a) for a in clean)
                        if excluded.box((l, k, h), *more):
                            counts, norm, measured = counts + more[0], norm + more[1], True
                            if np.any(counts < clean[0]):
                                raise _overflow()
                    if measured:
                        yield Box((l, k, h), counts, norm, *clean)

    def total(self) -> tuple[Floats, Floats]:
        """(C, M) of shape (l, k, h) of everything; all planes must fit into memory."""
        return self._dense("counts", "norm")

    def clean(self) -> tuple[Floats, Floats]:
        """(C, M) of shape (l, k, h) without what the artefact mask excluded."""
        return self._dense("clean_counts", "clean_norm")

    def _dense(self, *names: str) -> tuple[Floats, Floats]:
        first, last = self.planes
        counts, norm = np.zeros((2, last - first, *self.grid.array_shape[1:]))
        for box in self.boxes():
            begin = (box.first[0] - first, *box.first[1:])
            at = tuple(slice(i, i + n) for i, n in zip(begin, box.counts.shape, strict=True))
            counts[at], norm[at] = (getattr(box, name) for name in names)
        return counts, norm


def voxel_bytes(frames: np.dtype[Any], n_fast: int, samples: tuple[int, int, int]) -> int:
    """Bytes of a voxel that is touched: 8, or 16 where the fast loop can't be used."""
    whole = frames.kind in "ui" and frames.itemsize <= 4
    fast = whole and n_fast >= LANES and int(np.prod(samples)) in binning_lanes.DEALT
    return 8 if fast else 16


def _overflow() -> HklflowError:
    return HklflowError(
        "a voxel has more than 4294967295 counts; mask the direct beam or use a finer grid"
    )


class _Plain:
    """One pixel at a time, in double precision; see `binning_plain`."""

    def __init__(self, sums: Accumulator) -> None:
        self._sums = sums
        self._q = np.ascontiguousarray(np.moveaxis(sums.q(np.float64), (0, 1), (2, 3)))
        self.kept = Bricks(sums.grid, *sums.planes, np.float64, np.float64)
        self.excluded = (
            Bricks(sums.grid, *sums.planes, np.float64, np.float64) if sums.keep_excluded else None
        )

    def add(
        self, frames: NDArray[Any], first: int, excluded: NDArray[np.uint8], row: int
    ) -> tuple[int, int]:
        """Add a band; (inside, invalid)."""
        sums, other = self._sums, self.excluded or self.kept
        to_voxel, offset = sums.to_voxel(first + np.arange(len(frames)))
        return binning_plain.add_block(
            frames,
            first,
            row,
            self._q,
            sums.pixel_norm,
            sums.frame_norm[first : first + len(frames)],
            np.ascontiguousarray(to_voxel),
            offset,
            _window(sums, self.kept),
            excluded,
            bool(np.issubdtype(frames.dtype, np.integer)),
            sums.seed,
            float(sums.invalid_from),
            self.kept.counts,
            self.kept.norm,
            other.counts,
            other.norm,
        )


def _window(sums: Accumulator, bricks: Bricks) -> NDArray[np.int32]:
    (n_h, n_k, _), (first, last) = sums.grid.shape, sums.planes
    window = [0, n_h, 0, n_k, first, last - first, *bricks.strides, first]
    return np.array(window, dtype=np.int32)


class _Lanes:
    """Sixteen pixels at a time; see `binning_lanes`."""

    def __init__(self, sums: Accumulator) -> None:
        self._sums = sums
        self._pool = ThreadPoolExecutor(sums.threads) if sums.threads > 1 else None
        self._block = (-1, -1)
        self._steps: binning_lanes.Steps | None = None
        self._parts: list[binning_lanes.Part] = []
        q = sums.q(np.float32)
        self._tiles = Tiles(q, sums.pixel_norm > 0)
        self._pixels = _pixel_tables(q, sums.pixel_norm)
        self.kept = Bricks(sums.grid, *sums.planes, np.uint32, np.float32)
        self.excluded = (
            Bricks(sums.grid, *sums.planes, np.uint32, np.float32) if sums.keep_excluded else None
        )
        other = self.excluded or self.kept
        self._volumes = binning_lanes.Sums(
            self.kept.counts, self.kept.norm, other.counts, other.norm
        )

    def add(
        self, frames: NDArray[Any], first: int, excluded: NDArray[np.uint8], row: int
    ) -> tuple[int, int]:
        """Add a band; (inside, invalid)."""
        sums = self._sums
        if self._block != (first, len(frames)):
            self._begin(first, len(frames))
        if self._steps is None:
            return 0, 0
        # Ranges over the type of the frames; every negative number reads as a larger one.
        bits = 8 * frames.dtype.itemsize - (frames.dtype.kind == "i")
        limit = np.uint32(min(np.ceil(sums.invalid_from), 2**bits, 2**32 - 1))
        shape, stride = frames.shape, frames.strides[0] // frames.itemsize
        # What lies between the rows of two frames is in the same memory.
        size = (shape[0] - 1) * stride + shape[1] * shape[2]
        flat = np.lib.stride_tricks.as_strided(frames, (size,), (frames.itemsize,))
        tables = (flat, shape, stride, self._steps, self._pixels, self._volumes)
        work = [(*tables, part, excluded, limit, sums.seed, row) for part in self._parts]

        def run(job: Any) -> tuple[int, int, bool]:
            done: tuple[int, int, bool] = binning_lanes.add_block(*job)
            return done

        results = list(map(run, work) if self._pool is None else self._pool.map(run, work))
        if any(overflow for _, _, overflow in results):
            raise _overflow()
        return sum(r[0] for r in results), sum(r[1] for r in results)

    def _begin(self, first: int, n: int) -> None:
        """Tables of a block of frames, for all its bands."""
        sums = self._sums
        self._block, self._steps, self._parts = (first, n), None, []
        used = np.flatnonzero(sums.frame_norm[first : first + n] > 0)
        if len(used) == 0:
            return
        matrix, offset = sums.to_voxel(first + used)
        norm = sums.frame_norm[first + used] / int(np.prod(sums.samples))
        self._steps = binning_lanes.Steps(
            used,
            _rows(matrix, offset),
            np.repeat(norm, sums.samples[0]).astype(np.float32),
            _keys(sums.seed, first + used, sums.samples),
            first + used,
        )
        # The planes are divided among the threads so that each has as many tiles to see to.
        to_voxel = self._steps.to_voxel
        windows = self._tiles.divide(_window(sums, self.kept), to_voxel, sums.threads)
        for number, window in enumerate(windows):
            counted = np.arange(self._tiles.shape[0]) % len(windows) == number
            reached = self._tiles.reaching(window, to_voxel)
            self._parts.append(binning_lanes.Part(window, reached, counted))


def _rows(matrix: Floats, offset: Floats) -> NDArray[np.float32]:
    """Matrices (n, sub-samples, 3, 3) and offset (3,) as (steps, 12) rows for `follow`."""
    rows = np.empty((*matrix.shape[:2], 3, 4), np.float32)
    rows[..., :3], rows[..., 3] = matrix, offset
    return rows.reshape(-1, 12)


def _keys(
    seed: np.uint64, frames: NDArray[np.int64], samples: tuple[int, int, int]
) -> NDArray[np.uint32]:
    """Two random numbers (n, 2) of each frame, if there is something to deal."""
    if samples == (1, 1, 1):
        return np.zeros((len(frames), 2), np.uint32)
    return np.stack(
        [np.random.SeedSequence([int(seed), int(z)]).generate_state(2, np.uint32) for z in frames]
    )


def _pixel_tables(q: NDArray[np.float32], norm: Floats) -> binning_lanes.Pixels:
    n_sub, _, n_slow, n_fast = q.shape
    n_groups = -(-n_fast // LANES)
    table = np.zeros((n_sub, 3, n_slow * n_fast + LANES), np.float32)
    table[..., : n_slow * n_fast] = q.reshape(n_sub, 3, -1)
    weights = np.zeros(n_slow * n_fast + LANES, np.float32)
    weights[: n_slow * n_fast] = norm.ravel()
    padded = np.zeros((n_slow, n_groups * LANES), np.float32)
    padded[:, :n_fast] = norm
    groups = padded.reshape(n_slow, n_groups, LANES)
    live = np.asarray((groups > 0).any(axis=2))
    return binning_lanes.Pixels(table, weights, np.ascontiguousarray(groups[:, -1]), live)
