"""The plain and the fast loop of the transform, with their tables and volumes; see `binning`."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.transform import lanes as binning_lanes
from hklflow.transform import plain as binning_plain
from hklflow.transform.bricks import Bricks
from hklflow.transform.counts import LANES
from hklflow.transform.lanes import MOST_FRAMES
from hklflow.transform.lanes_surroundings import Around
from hklflow.transform.lanes_surroundings import tables as around_tables
from hklflow.transform.plain import COUNTS_UNIT
from hklflow.transform.sums import Sums
from hklflow.transform.tiles import Tiles

Floats = NDArray[np.float64]


def overflow() -> HklflowError:
    """Return the error for a voxel with too many counts."""
    return HklflowError(
        "a voxel has more than 4294967295 counts; mask the direct beam or use a finer grid"
    )


class Plain:
    """Plain loop: one pixel at a time, in double precision; see `plain`."""

    #: Unit of the norms, relative to `Sums.norm_bound`.
    UNIT = 2.0**-32

    def __init__(self, sums: Sums) -> None:
        self._sums = sums
        self._q = np.ascontiguousarray(np.moveaxis(sums.q(np.float64), (0, 1), (2, 3)))
        self.kept = Bricks(sums.grid, *sums.planes, np.float64, np.float64)
        self.excluded = Bricks(sums.grid, *sums.planes, np.float64, np.float64)
        self._frame_norm = sums.frame_norm / (sums.n_sub * self.UNIT * sums.norm_bound)
        self._read_variance = np.zeros((0, 0))
        self._noise: Bricks | None = None
        if sums.readout.read_variance is not None:
            shares = np.asarray(sums.readout.read_variance, np.float64) / sums.n_sub
            self._read_variance = np.rint(shares / COUNTS_UNIT) * COUNTS_UNIT
            self._noise = Bricks(sums.grid, *sums.planes, np.float64, np.float64)
        self._weights, self._factors = np.zeros((0, 0, 0)), np.zeros((0, 0))
        self.expected = self.expected_excluded = self.kept
        if sums.expected is not None:
            self._weights = sums.expected.pixel
            self._factors = sums.expected.frame / (sums.n_sub * sums.expected_units(self.UNIT))
            self.expected, self.expected_excluded = (
                Bricks(sums.grid, *sums.planes, np.float64, np.float64) for _ in range(2)
            )

    def read_noise(
        self, first: tuple[int, int, int], shape: tuple[int, int, int]
    ) -> tuple[Floats, Floats]:
        """Return the sums of the read variance in a box of voxels: kept pixels, excluded pixels."""
        kept, excluded = np.zeros((2, *shape))
        if self._noise is not None:
            self._noise.box(first, kept, excluded)
        return kept, excluded

    def add(
        self, frames: NDArray[Any], first: int, excluded: NDArray[np.uint8], row: int
    ) -> tuple[int, int]:
        """Add a band; (inside, invalid)."""
        sums = self._sums
        to_voxel = sums.to_voxel(first + np.arange(len(frames)))
        return binning_plain.add_block(
            frames,
            first,
            row,
            binning_plain.Tables(
                self._q,
                sums.pixel_norm_of(first, slice(row, row + frames.shape[1])),
                self._frame_norm[first : first + len(frames)],
                to_voxel,
                _window(sums, self.kept),
                self._weights,
                self._factors[:, first : first + len(frames)],
            ),
            excluded,
            self._read_variance,
            binning_plain.Rules(
                bool(np.issubdtype(frames.dtype, np.integer)),
                sums.seed,
                float(sums.readout.valid_from),
                float(sums.readout.invalid_from),
            ),
            binning_plain.Volumes(
                self.kept.counts,
                self.kept.norm,
                self.excluded.counts,
                self.excluded.norm,
                (self._noise or self.kept).counts,
                self.expected.counts,
                self.expected_excluded.counts,
            ),
        )


def _window(sums: Sums, bricks: Bricks) -> NDArray[np.int32]:
    (n_h, n_k, _), (first, last) = sums.grid.shape, sums.planes
    window = [0, n_h, 0, n_k, first, last - first, *bricks.strides, first]
    return np.array(window, dtype=np.int32)


class Lanes:
    """Fast loop: sixteen pixels at a time; see `lanes`."""

    #: See `Plain.UNIT`: the sum over a pixel on `MOST_FRAMES` frames has 32 bits.
    UNIT = 2.0**-22

    def __init__(self, sums: Sums) -> None:
        self._sums = sums
        self._pool = ThreadPoolExecutor(sums.threads) if sums.threads > 1 else None
        self._block = (-1, -1)
        self._steps: binning_lanes.Steps | None = None
        self._parts: list[binning_lanes.Part] = []
        q = sums.q(np.float32)
        self._tiles = Tiles(q, sums.pixel_norm > 0)
        self._pixels = _pixel_tables(q, sums.pixel_norm)
        self.kept = Bricks(sums.grid, *sums.planes, np.uint32, np.uint32)
        self.excluded = Bricks(sums.grid, *sums.planes, np.uint32, np.uint32)
        self._around = self._surroundings() if sums.expected is not None else None
        self._volumes = binning_lanes.Sums(
            self.kept.counts,
            self.kept.norm,
            self.kept.carry,
            self.excluded.counts,
            self.excluded.norm,
            self.excluded.carry,
        )

    def add(
        self, frames: NDArray[Any], first: int, excluded: NDArray[np.uint8], row: int
    ) -> tuple[int, int]:
        """Add a band; (inside, invalid)."""
        sums = self._sums
        if len(frames) > MOST_FRAMES:
            front, rest = slice(0, MOST_FRAMES), slice(MOST_FRAMES, None)
            done = self.add(frames[front], first, excluded[front], row)
            more = self.add(frames[rest], first + MOST_FRAMES, excluded[rest], row)
            return done[0] + more[0], done[1] + more[1]
        if self._block != (first, len(frames)):
            self._begin(first, len(frames))
        if self._steps is None:
            return 0, 0
        if sums.direction is not None:
            rows = slice(row, row + frames.shape[1])
            binning_lanes.set_norm(sums.pixel_norm_of(first, rows), row, rows.stop, self._pixels)
        # The limit must fit the type of the frames; negative numbers are read as larger numbers.
        bits = 8 * frames.dtype.itemsize - (frames.dtype.kind == "i")
        limit = np.uint32(min(np.ceil(sums.readout.invalid_from), 2**bits, 2**32 - 1))
        shape, stride = frames.shape, frames.strides[0] // frames.itemsize
        # Frames lie in the same memory, with possible gaps between them.
        size = (shape[0] - 1) * stride + shape[1] * shape[2]
        flat = np.lib.stride_tricks.as_strided(frames, (size,), (frames.itemsize,))
        tables = (flat, shape, stride, self._steps, self._pixels, self._volumes)
        last = row, self._around
        work = [(*tables, part, excluded, limit, sums.seed, *last) for part in self._parts]

        def run(job: Any) -> tuple[int, int, bool]:
            done: tuple[int, int, bool] = binning_lanes.add_block(*job)
            return done

        results = list(map(run, work) if self._pool is None else self._pool.map(run, work))
        if any(overflow for _, _, overflow in results):
            raise overflow()
        return sum(r[0] for r in results), sum(r[1] for r in results)

    def _surroundings(self) -> Around:
        """Return the tables of the expected background, still without frames, and empty sums."""
        sums = self._sums
        assert sums.expected is not None
        self._expected_units = sums.expected_units(self.UNIT)
        self.expected, self.expected_excluded = (
            Bricks(sums.grid, *sums.planes, np.uint64, np.uint64) for _ in range(2)
        )
        weights, tails = around_tables(sums.expected)
        memory = self.expected.counts, self.expected_excluded.counts
        return Around(weights, tails, np.zeros((len(weights), 0), np.float32), *memory)

    def _begin(self, first: int, n: int) -> None:
        """Compute the tables of a block of frames, which all its bands use."""
        sums = self._sums
        self._block, self._steps, self._parts = (first, n), None, []
        used = np.flatnonzero(sums.frame_norm[first : first + n] > 0)
        if len(used) == 0:
            return
        to_voxel = sums.to_voxel(first + used).astype(np.float32).reshape(-1, 12)
        norm = sums.frame_norm[first + used] / (sums.n_sub * self.UNIT * sums.norm_bound)
        self._steps = binning_lanes.Steps(
            used,
            to_voxel,
            np.repeat(norm, sums.samples[0]).astype(np.float32),
            _keys(sums.seed, first + used, sums.samples),
            first + used,
        )
        if self._around is not None and sums.expected is not None:
            scaled = sums.expected.frame[:, first + used] / (sums.n_sub * self._expected_units)
            frames = np.repeat(scaled, sums.samples[0], axis=1).astype(np.float32)
            self._around = self._around._replace(frames=frames)
        # Divide the planes so that all threads have the same number of tiles.
        windows = self._tiles.divide(_window(sums, self.kept), to_voxel, sums.threads)
        for number, window in enumerate(windows):
            counted = np.arange(self._tiles.shape[0]) % len(windows) == number
            reached = self._tiles.reaching(window, to_voxel)
            self._parts.append(binning_lanes.Part(window, reached, counted))


def _keys(
    seed: np.uint64, frames: NDArray[np.int64], samples: tuple[int, int, int]
) -> NDArray[np.uint32]:
    """Return two random numbers (n, 2) for each frame; 0 if photons are not dealt."""
    if samples == (1, 1, 1):
        return np.zeros((len(frames), 2), np.uint32)
    return np.stack(
        [np.random.SeedSequence([int(seed), int(z)]).generate_state(2, np.uint32) for z in frames]
    )


def _pixel_tables(q: NDArray[np.float32], norm: Floats) -> binning_lanes.Pixels:
    n_slow, n_fast = norm.shape
    n_groups = -(-n_fast // LANES)
    pixels = binning_lanes.Pixels(
        q,
        np.zeros(n_slow * n_fast + LANES, np.float32),
        np.zeros((n_slow, LANES), np.float32),
        np.zeros((n_slow, n_groups), np.bool_),
    )
    binning_lanes.fill_norm(norm, pixels)
    return pixels
