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
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.core.geometry import Rotation
from hklflow.errors import HklflowError

Floats = NDArray[np.float64]

# Above this many photons in a pixel, and this many per sub-sample, the shares are drawn
# from the normal limit of the binomial distribution: its width is then 8 or more.
_DEAL_ONE_BY_ONE = 1024
_NORMAL_SHARE = 64


@dataclass(frozen=True)
class Grid:
    """A regular grid of hkl whose axes label voxel centres.

    Attributes
    ----------
    first, step : (3,) array
        Centre of the first voxel and spacing along h, k, l.
    shape : (3,) tuple of int
        Voxels along h, k, l. Volumes are stored as ``[l, k, h]``.
    """

    first: Floats
    step: Floats
    shape: tuple[int, int, int]

    @classmethod
    def symmetric(cls, limits: ArrayLike, step: ArrayLike) -> "Grid":
        """Grid from -limit to limit (rounded to whole steps), with 0 in its centre voxel.

        Raises
        ------
        HklflowError
            If a step is not positive or a limit is below one step.
        """
        steps = np.broadcast_to(np.asarray(step, dtype=np.float64), (3,)).copy()
        bounds = np.broadcast_to(np.asarray(limits, dtype=np.float64), (3,))
        if np.any(steps <= 0) or np.any(bounds < steps):
            raise HklflowError(
                f"grid: limits {bounds.tolist()} and steps {steps.tolist()} in h, k, l; "
                "steps must be positive and limits at least one step"
            )
        half = np.floor(bounds / steps + 1e-9).astype(int)
        shape = (2 * int(half[0]) + 1, 2 * int(half[1]) + 1, 2 * int(half[2]) + 1)
        return cls(-half * steps, steps, shape)

    @classmethod
    def covering(cls, cell: ArrayLike, q_max: float, step: ArrayLike) -> "Grid":
        """Symmetric grid that holds the sphere of radius ``q_max`` (1/Å) of a cell."""
        lengths = np.asarray(cell, dtype=np.float64)[:3]
        return cls.symmetric(q_max * lengths / (2 * np.pi), step)

    def axis(self, i: int) -> Floats:
        """Voxel centres along axis i (0: h, 1: k, 2: l)."""
        centres: Floats = self.first[i] + self.step[i] * np.arange(self.shape[i])
        # -0.0 and 1e-17 at the centre would only irritate.
        return np.round(centres, 10) + 0.0

    @property
    def array_shape(self) -> tuple[int, int, int]:
        """Shape of a volume array: (l, k, h)."""
        return (self.shape[2], self.shape[1], self.shape[0])

    def same_as(self, other: "Grid") -> bool:
        """Whether two volumes can be added."""
        return (
            self.shape == other.shape
            and np.allclose(self.first, other.first, atol=1e-9)
            and np.allclose(self.step, other.step, rtol=1e-9)
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {
            "first": self.first.tolist(),
            "step": self.step.tolist(),
            "shape": list(self.shape),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Grid":
        """Inverse of `to_dict`."""
        n_h, n_k, n_l = (int(n) for n in data["shape"])
        return cls(
            np.asarray(data["first"], float), np.asarray(data["step"], float), (n_h, n_k, n_l)
        )


def pixel_pitch(rotation: Rotation, ub: ArrayLike, grid: Grid) -> Floats:
    """How far one frame, one slow and one fast pixel reach, in voxels.

    Returns
    -------
    (3,) array
        Along (frame, slow, fast): the largest component in units of the grid's
        step, over the detector's corners and edge centres and twelve angles.
    """
    n_slow, n_fast = rotation.detector.shape
    slow, fast = (a.ravel() for a in np.meshgrid([0, n_slow / 2, n_slow], [0, n_fast / 2, n_fast]))
    frames = np.linspace(0, rotation.scan.n_frames, 13)[:, None]
    here = rotation.hkl(ub, frames, slow, fast)
    moved = (
        rotation.hkl(ub, frames + 1, slow, fast),
        rotation.hkl(ub, frames, slow + 1, fast),
        rotation.hkl(ub, frames, slow, fast + 1),
    )
    return np.array([np.abs((there - here) / grid.step).max() for there in moved])


def sub_samples(pitch: Floats) -> tuple[int, int, int]:
    """Sub-samples along (frame, slow, fast) so that each spans at most half a voxel."""
    frame, slow, fast = (max(1, int(np.ceil(p / 0.5 - 1e-9))) for p in pitch)
    return frame, slow, fast


@numba.njit(cache=True, nogil=True, inline="always")
def _next_random(state: np.uint64) -> np.uint64:
    """One step of the splitmix64 generator (Steele, Lea & Flood, OOPSLA 2014)."""
    z = state + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _deal(n: int, state: np.uint64, dealt: Floats) -> None:
    """Deal n photons at random to the sub-samples; ``dealt`` is overwritten.

    One by one, or for many photons as the chain of binomial distributions that a
    multinomial one factors into, each by its normal limit.
    """
    n_sub = len(dealt)
    if n <= max(_DEAL_ONE_BY_ONE, _NORMAL_SHARE * n_sub):
        dealt[:] = 0.0
        for _ in range(n):
            state = _next_random(state)
            # high bits times n: an unbiased choice to 2⁻³²
            dealt[int(((state >> np.uint64(32)) * np.uint64(n_sub)) >> np.uint64(32))] += 1.0
        return
    left = float(n)
    for s in range(n_sub - 1):
        p = 1.0 / (n_sub - s)
        state = _next_random(state)
        radius = np.sqrt(-2.0 * np.log((float(state >> np.uint64(11)) + 0.5) * 2.0**-53))
        state = _next_random(state)
        normal = radius * np.cos(2.0 * np.pi * float(state >> np.uint64(11)) * 2.0**-53)
        share = np.floor(left * p + np.sqrt(left * p * (1.0 - p)) * normal + 0.5)
        dealt[s] = min(max(share, 0.0), left)
        left -= dealt[s]
    dealt[n_sub - 1] = left


@numba.njit(cache=True, nogil=True)
def _accumulate(
    frames: NDArray[Any],
    first_frame: int,
    q: Floats,
    pixel_norm: Floats,
    frame_norm: Floats,
    to_voxel: Floats,
    offset: Floats,
    shape: NDArray[np.int64],
    excluded: NDArray[np.uint8],
    deal: bool,
    seed: np.uint64,
    invalid_from: float,
    counts: Floats,
    norm: Floats,
    counts_excluded: Floats,
    norm_excluded: Floats,
) -> tuple[int, int, int]:
    """Add a block of frames to flat (C, M) volumes; see `Accumulator.add`.

    ``to_voxel`` (n, frame sub-samples, 3, 3) takes q_lab to voxels; ``q`` is
    (slow, fast, pixel sub-samples, 3); excluded is bit-packed along fast, or
    empty. Returns used, outside (any sub-sample counts) and invalid
    pixel-frames.
    """
    n_frames, n_slow, n_fast = frames.shape
    n_phi, n_pix = to_voxel.shape[1], q.shape[2]
    n_sub = n_phi * n_pix
    share = 1.0 / n_sub
    dealt = np.zeros(n_sub, dtype=np.float64)
    masked = excluded.size > 0
    used = 0
    outside = 0
    invalid = 0
    for z in range(n_frames):
        if not frame_norm[z] > 0:
            continue
        for i in range(n_slow):
            for j in range(n_fast):
                weight = pixel_norm[i, j]
                if not weight > 0:
                    continue
                value = frames[z, i, j]
                n = float(value)
                if not 0 <= n < invalid_from:  # negative and NaN are flags
                    invalid += 1
                    continue
                weight = weight * frame_norm[z] * share
                if n_sub > 1 and n > 0:
                    if deal:
                        state = np.uint64((first_frame + z) * n_slow * n_fast + i * n_fast + j)
                        state = _next_random(seed ^ (state * np.uint64(0xD1342543DE82EF95)))
                        _deal(int(n), state, dealt)
                    else:
                        dealt[:] = n * share
                elif n_sub > 1:
                    dealt[:] = 0.0
                else:
                    dealt[0] = n
                is_excluded = masked and (excluded[z, i, j >> 3] >> (7 - (j & 7))) & 1
                lost = False
                for a in range(n_phi):
                    m = to_voxel[z, a]
                    for b in range(n_pix):
                        x, y, w = q[i, j, b, 0], q[i, j, b, 1], q[i, j, b, 2]
                        h = int(np.floor(m[0, 0] * x + m[0, 1] * y + m[0, 2] * w + offset[0]))
                        k = int(np.floor(m[1, 0] * x + m[1, 1] * y + m[1, 2] * w + offset[1]))
                        l = int(np.floor(m[2, 0] * x + m[2, 1] * y + m[2, 2] * w + offset[2]))  # noqa: E741
                        if (
                            h < 0
                            or k < 0
                            or l < 0
                            or h >= shape[0]
                            or k >= shape[1]
                            or l >= shape[2]
                        ):
                            lost = True
                            continue
                        v = (l * shape[1] + k) * shape[0] + h
                        if is_excluded:
                            counts_excluded[v] += dealt[a * n_pix + b]
                            norm_excluded[v] += weight
                        else:
                            counts[v] += dealt[a * n_pix + b]
                            norm[v] += weight
                used += 1
                outside += lost
    return used, outside, invalid


class Accumulator:
    """Sums of counts and norm of one rotation on a grid.

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
        self._invalid_from = float(invalid_from)
        # Spread over all bits, so that neighbouring seeds share nothing.
        self._seed = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
        self._ub = np.asarray(ub, dtype=np.float64)
        self._pixel_norm = np.ascontiguousarray(pixel_norm, dtype=np.float64)
        self._frame_norm = np.asarray(frame_norm, dtype=np.float64)
        size = int(np.prod(grid.shape))
        self._counts, self._norm = np.zeros(size), np.zeros(size)
        kept = size if keep_excluded else 0
        self._counts_excluded, self._norm_excluded = np.zeros(kept), np.zeros(kept)
        self.used = 0
        self.outside = 0
        self.invalid = 0

    @cached_property
    def _q(self) -> Floats:
        n_slow, n_fast = self.rotation.detector.shape
        _, sub_slow, sub_fast = self.samples
        slow = np.arange(n_slow)[:, None] + (np.arange(sub_slow) + 0.5) / sub_slow
        fast = np.arange(n_fast)[:, None] + (np.arange(sub_fast) + 0.5) / sub_fast
        q = self.rotation.q_lab(slow[:, None, :, None], fast[None, :, None, :])
        return np.ascontiguousarray(q.reshape(n_slow, n_fast, sub_slow * sub_fast, 3))

    def add(
        self, frames: NDArray[Any], first: int, excluded: NDArray[np.uint8] | None = None
    ) -> None:
        """Add a block of frames.

        Parameters
        ----------
        frames : (n, slow, fast) array
            Counts; negative or NaN values are flags and add to nothing.
        first : int
            Frame number of the block's first frame.
        excluded : (n, slow, ceil(fast / 8)) uint8 array, optional
            Bit-packed artefact mask (`numpy.packbits` along fast).

        Raises
        ------
        HklflowError
            If the block does not fit the detector, the scan or its mask.
        """
        n = len(frames)
        if n == 0:
            return
        self._check(frames.shape, first, None if excluded is None else excluded.shape)
        sub = self.samples[0]
        at = first + np.arange(n)[:, None] + (np.arange(sub) + 0.5) / sub
        turn = self.rotation.goniometer.rotation(self.rotation.scan.angle(at))
        to_hkl = np.linalg.inv(turn @ self._ub)
        masked = excluded is not None and self._counts_excluded.size > 0
        if excluded is not None and not masked:
            raise ValueError("an artefact mask needs keep_excluded=True")
        used, outside, invalid = _accumulate(
            frames,
            first,
            self._q,
            self._pixel_norm,
            self._frame_norm[first : first + n],
            np.ascontiguousarray(to_hkl / self.grid.step[:, None]),
            0.5 - self.grid.first / self.grid.step,
            np.array(self.grid.shape, dtype=np.int64),
            excluded if excluded is not None else np.zeros((0, 0, 0), dtype=np.uint8),
            bool(np.issubdtype(frames.dtype, np.integer)),
            self._seed,
            self._invalid_from,
            self._counts,
            self._norm,
            self._counts_excluded,
            self._norm_excluded,
        )
        self.used += used
        self.outside += outside
        self.invalid += invalid

    def _check(self, frames: tuple[int, ...], first: int, excluded: tuple[int, ...] | None) -> None:
        # The kernel does not check bounds: what does not fit would read foreign memory.
        n_slow, n_fast = self.rotation.detector.shape
        n_frames = self.rotation.scan.n_frames
        if len(frames) != 3 or frames[1:] != (n_slow, n_fast):
            raise HklflowError(
                f"a block of frames has shape {frames}, the detector ({n_slow}, {n_fast}) pixels; "
                "use the geometry of this detector"
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

    def clean(self) -> tuple[Floats, Floats]:
        """(C, M) of shape (l, k, h) without what the artefact mask excluded."""
        shape = self.grid.array_shape
        return self._counts.reshape(shape), self._norm.reshape(shape)

    def total(self) -> tuple[Floats, Floats]:
        """(C, M) of shape (l, k, h) of everything."""
        if not self._counts_excluded.size:
            return self.clean()
        shape = self.grid.array_shape
        return (
            (self._counts + self._counts_excluded).reshape(shape),
            (self._norm + self._norm_excluded).reshape(shape),
        )
