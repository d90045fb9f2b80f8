r"""Accumulate counts and norm of pixel-frames on a grid of reciprocal space.

The estimator is ``S_v = C_v / M_v``. C is the sum of the counts, and M the sum of the norms N, over
all pixel-frames (or sub-samples of pixel-frames) whose Q is in voxel v. This is the
maximum-likelihood estimator for Poisson data. Volumes are merged by adding C and M.

Sub-samples. A pixel-frame that is larger than half a voxel is divided into n sub-samples, each with
the norm N / n. The counted photons are distributed to the sub-samples one by one, at random but
reproducibly. A Poisson number that is divided in this way gives independent Poisson numbers. C
stays an integer and is conserved exactly, and the variance of a voxel is still ``C / M²``. If the
counts were divided evenly, neighbouring voxels would be correlated, and C / M² would be wrong by a
factor of 1.3 to 2. Data that are not counts (floating point) are divided evenly.

Read noise. A value of an integrating detector is a number of photons plus normal noise of known
variance R. The nearest integer number of photons is distributed to the sub-samples; the remainder
goes to one sub-sample at random. If the remainder is the noise, a share has the mean λ / n and the
variance ``(λ + R) / n``, and shares are not correlated; this is true for noise below a sixth of a
photon. Larger noise is partly distributed as photons, and the variance of a share is then larger:
1.18 times for noise of 0.3 photons and λ = 0.05. If R is above 1/12, the variance of the remainder,
the remainder is not the noise. Then normal numbers with the variance ``(R - 1/12) / n``, whose sum
is 0, are added to the shares; negative values are distributed like photons, with less of the normal
numbers. The shares then have the variance ``(λ + R) / n`` within 5 % and are not correlated; if λ
is far below R, the variance of a share is larger: 1.1 to 1.2 times for R of 1 or more, 1.5 times
for R = 0.3. ``C + Σ R / n`` is an unbiased estimate of the
variance of C. It replaces C wherever C is the variance for photons alone.

Integers. The norm of a sub-sample is rounded to a multiple of a unit. The unit is 2⁻²² of a power
of two that is larger than N of every pixel-frame. Sums of integers do not depend on their order.
Therefore C and M are identical to the last bit for any blocks of frames, threads and passes. If all
parts of a rotation are given the norms of the whole rotation, their volumes add up exactly to the
volume of the whole rotation.

Rounding changes M of a voxel with m sub-samples by √(m / 12) units. For pixel-frames of c photons
whose N is 2²² a units, this change is ``√(c n / 12) / (2²² a)`` of the voxel's error bar: 2 · 10⁻⁷
for c = 1, n = 1, a = 0.3; and 0.04 for c = 1000, n = 4 behind an attenuator of 10⁴ that other
frames do not have (a = 10⁻⁴). A sum above 32 bits is carried to 32 more bits; an overflow of these
would need 2⁴² pixel-frames in one voxel. Sums are returned as float64, which is exact up to 2³¹
times the largest N.

Background. The expected background E and its variance (see `surroundings`) are summed over the same
pixel-frames and sub-samples in the same way, in units of their own: integers of 64 bits, of which
float64 has 53, so that they are exact up to 2³¹ times the largest E of a pixel-frame, too.

Floating point. Floating-point frames are added in float64, norms in units of 2⁻³². Photon values
with read noise are rounded to multiples of 2⁻²⁶ photon. Up to 2²⁷ photons in a voxel, C then does
not depend on the order of summation either. The scale of other data that are not counts is unknown,
so their C depends on the order by about 10⁻¹⁶; their M does not.

Threads. Each thread owns some planes of the grid and adds the sub-samples in these planes. A thread
reads only the tiles of the detector that may reach its planes.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid, pixel_pitch, sub_samples
from hklflow.transform.bricks import Bricks
from hklflow.transform.counts import LANES
from hklflow.transform.lanes import DEALT, ROWS
from hklflow.transform.loops import Lanes, Plain, overflow
from hklflow.transform.sums import Readout, Sums

__all__ = [
    "Accumulator",
    "Grid",
    "Readout",
    "counts_type",
    "pixel_pitch",
    "sub_samples",
    "voxel_bytes",
]

Floats = NDArray[np.float64]


class Box(NamedTuple):
    """Sums of a box of voxels.

    Attributes
    ----------
    first : (l, k, h)
        First voxel.
    counts, norm : (l, k, h) arrays
        Sums of all pixel-frames.
    clean_counts, clean_norm : (l, k, h) arrays
        Sums without the pixels that the artefact mask excludes. If the mask excludes nothing in
        this box, these are the arrays ``counts`` and ``norm``.
    variance, clean_variance : (l, k, h) arrays or None
        Variance of the counts with read noise, or with a background that is subtracted. None: the
        variance equals the counts.
    background, clean_background : (l, k, h) arrays or None
        Expected background, which ``counts`` does not contain. None: nothing was subtracted.
    """

    first: tuple[int, int, int]
    counts: NDArray[Any]
    norm: NDArray[Any]
    clean_counts: NDArray[Any]
    clean_norm: NDArray[Any]
    variance: NDArray[Any] | None = None
    clean_variance: NDArray[Any] | None = None
    background: NDArray[Any] | None = None
    clean_background: NDArray[Any] | None = None


class Accumulator(Sums):
    """Sums of counts and norm of one rotation on a grid.

    Counts and norms are stored as uint32. A voxel that was reached takes 8 bytes, and 4 more if its
    norm exceeds 1024 times the largest N. Counts and norms are float64 for frames of floats or
    64-bit integers, for fewer than 16 pixels along fast, and if the number of sub-samples is not a
    power of two up to 32.

    For the parameters see `sums.Sums`.

    Attributes
    ----------
    used, invalid : int
        Numbers of valid and of invalid pixel-frames of the pixels in use.
    inside : int
        Number of sub-samples inside the planes.
    """

    used = 0
    invalid = 0
    inside = 0
    _engine: Lanes | Plain | None = None
    _has_excluded = False

    @cached_property
    def _live_in_row(self) -> NDArray[np.int64]:
        return np.count_nonzero(self.pixel_norm > 0, axis=1)

    @property
    def norm_unit(self) -> float:
        """Unit of the norms: all norms are multiples of it."""
        return self.norm_bound * (self._engine or Lanes).UNIT

    @property
    def outside(self) -> int:
        """Number of sub-samples of used pixel-frames outside the planes."""
        return self.used * self.n_sub - self.inside

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
            Counts; NaN and values below ``Readout.valid_from`` are flags and are not added.
        first : int
            Frame number of the block's first frame.
        excluded : (n, slow, ceil(fast / 8)) uint8 array, optional
            Bit-packed artefact mask (`numpy.packbits` along fast) for all rows.
        row : int, optional
            First row, a multiple of 8, if ``frames`` is a band of rows (n, rows, fast). The rows of
            a frame must be contiguous in memory; there may be gaps between frames.

        Raises
        ------
        HklflowError
            If the block does not fit the detector, the scan or its mask, or a voxel's counts
            exceed 32 bits.
        """
        if len(frames) == 0:
            return
        self._check(frames.shape, first, None if excluded is None else excluded.shape, row)
        n_fast, row = frames.shape[2], row or 0
        rows_contiguous = frames.strides[1:] == (n_fast * frames.itemsize, frames.itemsize)
        rows_contiguous &= frames.strides[0] >= frames.shape[1] * frames.strides[1]
        if not (rows_contiguous and frames.dtype.isnative):
            frames = np.ascontiguousarray(frames, dtype=frames.dtype.newbyteorder("="))
        if self._engine is None:
            fast = _is_fast(frames.dtype, n_fast, self.samples)
            fast &= self.readout.read_variance is None
            self._engine = Lanes(self) if fast else Plain(self)
        rows = slice(row, row + frames.shape[1])
        if excluded is None or not excluded[:, rows].any():
            excluded = np.zeros((0, 0, 0), dtype=np.uint8)
        self._has_excluded |= excluded.size > 0
        invalid = 0
        whole = [(first, first + len(frames))]
        for begin, end in self.direction.ranges(first, len(frames)) if self.direction else whole:
            part = slice(begin - first, end - first)
            found = self._engine.add(frames[part], begin, excluded[part], row)
            self.inside += found[0]
            invalid += found[1]
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
        # The kernel does not check bounds: with a wrong size it would read other memory.
        n_slow, n_fast = self.rotation.detector.shape
        n_frames = self.rotation.scan.n_frames
        begin = row or 0
        end = n_slow if row is None or len(frames) != 3 else begin + frames[1]
        tiled = begin >= 0 and begin % ROWS == 0 and (end % ROWS == 0 or end == n_slow)
        if len(frames) != 3 or frames[1:] != (end - begin, n_fast) or end > n_slow or not tiled:
            raise HklflowError(
                f"a block of frames has shape {frames}"
                f"{'' if row is None else f' from row {row} on'}, but the detector has ({n_slow}, "
                f"{n_fast}) pixels; use the geometry of this detector"
            )
        if first < 0 or first + frames[0] > n_frames:
            raise HklflowError(
                f"frames {first} to {first + frames[0] - 1} do not fit a scan of {n_frames} "
                "frames; check its first frame and number of frames"
            )
        if excluded is not None and excluded != (frames[0], n_slow, (n_fast + 7) // 8):
            raise HklflowError(
                f"the artefact mask of a block has shape {excluded}, not "
                f"{(frames[0], n_slow, (n_fast + 7) // 8)}; make it again from these frames"
            )

    def boxes(self, shape: tuple[int, int, int] = (16, 64, 64)) -> Iterator[Box]:
        """Yield the sums in boxes of voxels; boxes without measured voxels are left out.

        Parameters
        ----------
        shape : (l, k, h)
            Shape of a box, multiples of 8; boxes at the end of the grid are smaller.
        """
        engine = self._engine or Lanes(self)
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
                    box = self._box(engine, (l, k, h), size)
                    if box is not None:
                        yield box

    def _box(
        self, engine: Lanes | Plain, first: tuple[int, int, int], size: tuple[int, int, int]
    ) -> Box | None:
        """Return the sums of a box; None if no voxel was measured."""
        excluded = engine.excluded if self._has_excluded else None
        counts, norm = np.empty(size, engine.kept.counts.dtype), np.empty(size)
        measured = engine.kept.box(first, counts, norm, self.norm_unit)
        clean = (counts, norm)
        if excluded is not None:
            more = tuple(np.empty_like(a) for a in clean)
            if excluded.box(first, more[0], more[1], self.norm_unit):
                counts, norm, measured = counts + more[0], norm + more[1], True
                if counts.dtype.kind == "u" and np.any(counts < clean[0]):
                    raise overflow()
        if not measured:
            return None
        box = Box(first, counts, norm, *clean)
        if self.readout.read_variance is not None and isinstance(engine, Plain):
            kept_noise, excluded_noise = engine.read_noise(first, size)
            variances = counts + kept_noise + excluded_noise, clean[0] + kept_noise
            box = box._replace(variance=variances[0], clean_variance=variances[1])
        if self.expected is None:
            return box
        kept = _expected_of(engine.expected, engine, self.expected_bounds, box)
        if clean[0] is counts:
            return _subtracted(box, kept, kept)
        more = _expected_of(engine.expected_excluded, engine, self.expected_bounds, box)
        return _subtracted(box, tuple(a + b for a, b in zip(kept, more, strict=True)), kept)

    def total(self) -> tuple[Floats, Floats]:
        """Return (C, M), shape (l, k, h), of all pixel-frames; all planes must fit into memory."""
        return self._dense("counts", "norm")

    def clean(self) -> tuple[Floats, Floats]:
        """Return (C, M), shape (l, k, h), without the pixels that the artefact mask excludes."""
        return self._dense("clean_counts", "clean_norm")

    def _dense(self, *names: str) -> tuple[Floats, Floats]:
        first, last = self.planes
        counts, norm = np.zeros((2, last - first, *self.grid.array_shape[1:]))
        for box in self.boxes():
            begin = (box.first[0] - first, *box.first[1:])
            region = tuple(slice(i, i + n) for i, n in zip(begin, box.counts.shape, strict=True))
            counts[region], norm[region] = (getattr(box, name) for name in names)
        return counts, norm


def _expected_of(
    bricks: Bricks, engine: Lanes | Plain, bounds: Floats, box: Box
) -> tuple[Floats, ...]:
    """Return the expected background and its variance in a box."""
    expected, variance = np.empty((2, *box.norm.shape))
    bricks.box(box.first, expected, variance, engine.UNIT * bounds[1])
    return expected * (engine.UNIT * bounds[0]), variance


def _subtracted(box: Box, around: tuple[Floats, ...], clean: tuple[Floats, ...]) -> Box:
    """Return a box with counts minus background, of all pixels and without the artefact mask."""
    own = box.counts if box.variance is None else box.variance
    counts, variance = box.counts - around[0], own + around[1]
    if clean is around:
        return box._replace(
            counts=counts, clean_counts=counts, variance=variance, clean_variance=variance,
            background=around[0], clean_background=around[0],
        )  # fmt: skip
    own = box.clean_counts if box.clean_variance is None else box.clean_variance
    return box._replace(
        counts=counts, clean_counts=box.clean_counts - clean[0], variance=variance,
        clean_variance=own + clean[1], background=around[0], clean_background=clean[0],
    )  # fmt: skip


def _is_fast(frames: np.dtype[Any], n_fast: int, samples: tuple[int, int, int]) -> bool:
    """Return True for frames that the fast loop can sum, without read noise."""
    whole = frames.kind in "ui" and frames.itemsize <= 4
    return whole and n_fast >= LANES and int(np.prod(samples)) in DEALT


def voxel_bytes(
    frames: np.dtype[Any],
    n_fast: int,
    samples: tuple[int, int, int],
    read_noise: bool = False,
    background: bool = False,
) -> int:
    """Return the bytes of a voxel that is reached.

    8; without the fast loop 16; with read noise 32; with a background 16 more.
    """
    more = 16 if background else 0
    if read_noise:
        return 32 + more
    return (8 if _is_fast(frames, n_fast, samples) else 16) + more


def counts_type(frames: np.dtype[Any], n_fast: int, samples: tuple[int, int, int]) -> np.dtype[Any]:
    """Return the type in which the counts of an accumulator are stored without loss.

    The fast loop has uint32 and refuses larger counts; without the fast loop counts may be larger.
    """
    if frames.kind not in "ui":
        return np.dtype(np.float64)
    return np.dtype(np.uint32 if _is_fast(frames, n_fast, samples) else np.uint64)
