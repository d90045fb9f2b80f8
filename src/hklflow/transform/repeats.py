"""Repeated measurements of the same S(Q): sums of counts and norm by orbit, angle and direction.

S(Q) is measured many times: at Q and -Q, at positions that the Laue group makes equivalent, on both
crossings of the Ewald sphere, and in several rotations. Voxels that are equivalent form an orbit.
A record is the sum over the pixels and frames of one passage of one voxel through the Ewald sphere.
Counts of records of one orbit differ only by their norms, by the scale that `redundancy`
determines, and by the background.

Voxels are coarse compared with pixels. Therefore small blocks of pixels, in a small range of
frames, are summed before they are given to a voxel, which takes most of the time otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation, rays
from hklflow.geometry.grid import Grid
from hklflow.geometry.off_axis import OffAxis
from hklflow.simd.jit import kernel
from hklflow.transform.direction import Direction
from hklflow.transform.sums import Readout

Floats = NDArray[np.float64]

_ALL_VALID = Readout()


class Orbits(NamedTuple):
    """Orbits of the voxels of a grid, which are found when they are needed; see `orbits`.

    Attributes
    ----------
    known : (voxels,) int32 array
        Orbit of each voxel plus 1; -1: not used; 0: not yet known.
    near : three bool arrays
        True where the middle of a voxel is near an integer, along h, k and l.
    turns, shifts : (n, 3, 3), (n, 3) int arrays
        Maps of voxel indices (h, k, l) of the operations.
    share : float
        Share of the orbits that are kept.
    """

    known: NDArray[np.int32]
    near: tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]
    turns: NDArray[np.int64]
    shifts: NDArray[np.int64]
    share: float


def orbits(
    grid: Grid,
    turns: NDArray[np.int64],
    shifts: NDArray[np.int64],
    punch: float,
    share: float,
) -> Orbits:
    """Return the orbits of the voxels: the smallest flat index (l, k, h) of equivalent voxels.

    Parameters
    ----------
    grid : Grid
    turns, shifts : (n, 3, 3), (n, 3) int arrays
        Maps of voxel indices (h, k, l) of the operations, see `volumes.symmetrise.images`.
    punch : float
        Voxels whose middles differ from a reflection by less than this in h, k and l are not used.
    share : float
        Share of the orbits that are kept; voxels of the others are not used.

    Raises
    ------
    HklflowError
        If the grid has more voxels than 32 bits can number.
    """
    if np.prod(grid.shape, dtype=np.float64) >= 2**31:
        raise HklflowError(f"a grid of {grid.shape} voxels is too large for orbits; use a coarser")
    near = []
    for first, step, n in zip(grid.first, grid.step, grid.shape, strict=True):
        middle = first + step * np.arange(n)
        near.append(np.abs(middle - np.rint(middle)) < punch)
    # Most voxels are never visited; zeros of untouched pages take no memory.
    known = np.zeros(int(np.prod(grid.array_shape)), np.int32)
    return Orbits(known, (near[0], near[1], near[2]), turns, shifts, share)


@kernel
def _is_used(orbits, h, k, l):  # type: ignore[no-untyped-def]  # noqa: E741
    """Return True for a voxel of an orbit in use, and remember its orbit."""
    n_h, n_k, n_l = len(orbits.near[0]), len(orbits.near[1]), len(orbits.near[2])
    if orbits.near[0][h] and orbits.near[1][k] and orbits.near[2][l]:
        return False
    at = (l * n_k + k) * n_h + h
    if orbits.known[at] == 0:
        least = at
        for i in range(orbits.turns.shape[0]):
            t, s = orbits.turns[i], orbits.shifts[i]
            x = t[0, 0] * h + t[0, 1] * k + t[0, 2] * l + s[0]
            y = t[1, 0] * h + t[1, 1] * k + t[1, 2] * l + s[1]
            z = t[2, 0] * h + t[2, 1] * k + t[2, 2] * l + s[2]
            if 0 <= x < n_h and 0 <= y < n_k and 0 <= z < n_l:
                least = min(least, (z * n_k + y) * n_h + x)
        # The golden ratio scatters the numbers: a share of them is random enough.
        used = (least * 0.6180339887498949) % 1.0 < orbits.share
        orbits.known[at] = least + 1 if used else -1
    return orbits.known[at] > 0


class _Pixels(NamedTuple):
    """Blocks of pixels: pixels in use with their norms; ends, q_lab and middles of the blocks."""

    number: NDArray[np.int64]
    norm: Floats
    background: Floats
    ends: NDArray[np.int64]
    q: Floats
    middle: Floats


class _Frames(NamedTuple):
    """A range of frames: counts (n, pixels), frame norms, excluded pixels, valid counts."""

    counts: NDArray[Any]
    norm: Floats
    background: Floats
    excluded: NDArray[np.uint8]
    valid_from: float
    invalid_from: float


class _Made(NamedTuple):
    """Sums of the blocks of a range of frames, with their voxels and places on the detector."""

    voxel: NDArray[np.int32]
    slow: NDArray[np.float32]
    fast: NDArray[np.float32]
    counts: NDArray[np.float32]
    norm: NDArray[np.float32]
    background: NDArray[np.float32]


@kernel
def _add(frames, pixels, to_voxel, offset, orbits, shape, made):  # type: ignore[no-untyped-def]
    """Sum a range of frames by block of pixels; return the number of blocks in use."""
    n, begin = 0, 0
    masked = frames.excluded.size > 0
    for b in range(len(pixels.ends)):
        q = pixels.q[b]
        x = to_voxel[0, 0] * q[0] + to_voxel[0, 1] * q[1] + to_voxel[0, 2] * q[2] + offset[0]
        y = to_voxel[1, 0] * q[0] + to_voxel[1, 1] * q[1] + to_voxel[1, 2] * q[2] + offset[1]
        z = to_voxel[2, 0] * q[0] + to_voxel[2, 1] * q[1] + to_voxel[2, 2] * q[2] + offset[2]
        h, k, l = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))  # noqa: E741
        first, begin = begin, pixels.ends[b]
        if not (0 <= h < shape[0] and 0 <= k < shape[1] and 0 <= l < shape[2]):
            continue
        if not _is_used(orbits, h, k, l):
            continue
        counts, norm, background = 0.0, 0.0, 0.0
        for f in range(frames.counts.shape[0]):
            row = frames.counts[f]
            if frames.norm[f] <= 0:
                continue
            of_frame = 0.0
            for i in range(first, pixels.ends[b]):
                p = pixels.number[i]
                value = row[p]
                if not frames.valid_from <= value < frames.invalid_from:
                    continue
                if masked and frames.excluded[f, p] > 0:
                    continue
                counts += value
                of_frame += pixels.norm[i]
                for part in range(len(pixels.background)):
                    background += pixels.background[part, i] * frames.background[part, f]
            norm += of_frame * frames.norm[f]
        if norm <= 0:
            continue
        made.voxel[n] = (l * shape[1] + k) * shape[0] + h
        made.counts[n] = counts
        made.norm[n] = norm
        made.background[n] = background
        made.slow[n] = pixels.middle[b, 0]
        made.fast[n] = pixels.middle[b, 1]
        n += 1
    return n


@dataclass(frozen=True)
class Records:
    """Sums of one or more rotations, arrays (n,).

    Attributes
    ----------
    voxel : int32 array
        Number of the voxel; after `joined`, of its orbit.
    rotation : uint16 array
        Number of the rotation.
    frame, slow, fast : float32 arrays
        Mean frame, and mean place on the detector in pixels.
    counts, norm : float32 arrays
    background : float32 array
        Expected counts that are not of S(Q).
    """

    voxel: NDArray[np.int32]
    rotation: NDArray[np.uint16]
    frame: NDArray[np.float32]
    slow: NDArray[np.float32]
    fast: NDArray[np.float32]
    counts: NDArray[np.float32]
    norm: NDArray[np.float32]
    background: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.voxel)

    def take(self, chosen: NDArray[Any]) -> "Records":
        """Return the chosen records."""
        return Records(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def joined(cls, parts: "list[Records]", orbits: Orbits, gap: float) -> "Records":
        """Join records of all rotations, one for each passage of a voxel; ordered by orbit.

        A voxel is on the Ewald sphere for several ranges of frames. These are one passage and
        become one record, at its mean frame: S(Q) at both ends of a voxel differs, which is no
        repetition. Orbits with only one passage are left out.

        Parameters
        ----------
        parts : list of Records
            At least one; of the rotations in their order, each in the order of the frames.
        orbits : Orbits
            Orbits of the voxels, the same as for `Repeats`.
        gap : float
            Ranges whose mean frames are further apart are different passages.
        """
        every = _concatenated(parts)
        orbit = orbits.known[every.voxel] - 1
        # Rotations and frames are in order already.
        order = np.argsort((orbit.astype(np.int64) << 32) | every.voxel, kind="stable")
        every, orbit = every.take(order), orbit[order]
        new = np.ones(len(every), bool)
        same = (every.voxel[1:] == every.voxel[:-1]) & (every.rotation[1:] == every.rotation[:-1])
        new[1:] = ~(same & (np.diff(every.frame) <= gap))
        at = np.flatnonzero(new)
        norm = np.add.reduceat(every.norm, at, dtype=np.float64)

        def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
            total = np.add.reduceat(every.norm * values, at, dtype=np.float64)
            return (total / norm).astype(np.float32)

        passages = Records(
            orbit[at],
            every.rotation[at],
            mean(every.frame),
            mean(every.slow),
            mean(every.fast),
            np.add.reduceat(every.counts, at),
            norm.astype(np.float32),
            np.add.reduceat(every.background, at),
        )
        again = np.zeros(len(passages), bool)
        again[1:] = passages.voxel[1:] == passages.voxel[:-1]
        again[:-1] |= again[1:]
        return passages.take(again)


def _concatenated(parts: list[Records]) -> Records:
    arrays: Any = {
        f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Records)
    }
    return Records(**arrays)


class Repeats:
    """Collect the records of one rotation.

    Parameters
    ----------
    rotation : Rotation
    number : int
        Number of the rotation.
    ub : (3, 3) array
        Orientation matrix, 1/Å with 2π.
    grid : Grid
    orbits : Orbits
        Orbits of the voxels, the same for all rotations.
    pixel_norm : (slow, fast) array
        The pixel's factor of the norm; 0: not used.
    frame_norm : (n_frames,) array
        The frame's factor of the norm without the scale that is fitted; 0: not used.
    readout : Readout
        Limits of valid counts.
    block : (int, int)
        Pixels along (slow, fast) that are summed before they are given to a voxel.
    background : sequence of ((slow, fast) array, (n_frames,) array)
        Parts of the expected background: factors of the pixel and of the frame.
    direction : Direction or None
        A further factor of the norm.
    offset : (3,) array or None
        Offset of the crystal from the axis, in the goniometer's frame, m.
    """

    def __init__(
        self,
        rotation: Rotation,
        number: int,
        ub: ArrayLike,
        grid: Grid,
        orbits: Orbits,
        pixel_norm: Floats,
        frame_norm: Floats,
        readout: Readout = _ALL_VALID,
        block: tuple[int, int] = (1, 1),
        background: Sequence[tuple[Floats, Floats]] = (),
        direction: Direction | None = None,
        offset: Floats | None = None,
    ) -> None:
        self._off_axis = None if offset is None else OffAxis(rotation, offset)
        self._rotation, self._number, self._grid = rotation, number, grid
        self._ub = np.asarray(ub, np.float64)
        self._orbits, self._frame_norm = orbits, frame_norm
        self._readout, self._pixel_norm, self._direction = readout, pixel_norm, direction
        if direction is not None:
            direction.require(len(frame_norm), pixel_norm.shape)
        shape = pixel_norm.shape, frame_norm.shape
        of_pixels, self._background = (
            np.array([part[i] for part in background]).reshape(-1, *shape[i]) for i in (0, 1)
        )
        self._pixels = _blocks(rotation, pixel_norm, of_pixels, block)
        n = len(self._pixels.ends)
        self._made = _Made(np.empty(n, np.int32), *(np.empty(n, np.float32) for _ in range(5)))
        self._parts: list[Records] = []

    def add(
        self, frames: NDArray[Any], first: int, excluded: NDArray[np.uint8] | None = None
    ) -> None:
        """Add a range of frames (n, slow, fast) as one angle.

        Parameters
        ----------
        frames : (n, slow, fast) array
        first : int
            First frame.
        excluded : (n, slow, fast) uint8 array, optional
            Pixels above 0 are not used.
        """
        n = len(frames)
        if n == 0 or first + n > len(self._frame_norm):
            raise HklflowError(
                f"frames {first} to {first + n - 1} do not fit a rotation of "
                f"{len(self._frame_norm)} frames"
            )
        rotation = self._rotation
        turn = rotation.goniometer.rotation(rotation.scan.angle(first + n / 2))
        to_voxel = np.linalg.inv(turn @ self._ub) / self._grid.step[:, None]
        origin = 0.5 - self._grid.first / self._grid.step
        if self._off_axis is not None:
            change = to_voxel @ self._off_axis.change(turn)
            to_voxel, origin = to_voxel + change[:, :3], origin + change[:, 3]
        k = _add(
            _Frames(
                frames.reshape(n, -1),
                self._frame_norm[first : first + n],
                self._background[:, first : first + n],
                np.empty((0, 0), np.uint8) if excluded is None else excluded.reshape(n, -1),
                float(self._readout.valid_from),
                float(self._readout.invalid_from),
            ),
            self._pixels_of(first + n // 2),
            np.ascontiguousarray(to_voxel),
            origin,
            self._orbits,
            self._grid.shape,
            self._made,
        )
        made = self._made
        part = Records(
            made.voxel[:k].copy(),
            np.full(k, self._number, np.uint16),
            np.full(k, first + n / 2, np.float32),
            *(values[:k].copy() for values in made[1:]),
        )
        self._parts.append(part)

    def _pixels_of(self, frame: int) -> _Pixels:
        """Return the pixels with the factor of the direction of a frame."""
        if self._direction is None:
            return self._pixels
        rows = slice(0, len(self._pixel_norm))
        norm = self._direction.times(self._pixel_norm, frame, rows)
        return self._pixels._replace(norm=norm.reshape(-1)[self._pixels.number])

    def records(self) -> Records:
        """Return a record for each block and range of frames so far, in the order of the frames."""
        return _concatenated(self._parts)


def _blocks(
    rotation: Rotation, pixel_norm: Floats, background: Floats, block: tuple[int, int]
) -> _Pixels:
    """Return the pixels in use, ordered by block; q_lab of a block is the mean of its pixels."""
    n_slow, n_fast = pixel_norm.shape
    across = -(-n_fast // block[1])
    slow, fast = np.indices(pixel_norm.shape)
    number = (slow // block[0] * across + fast // block[1]).reshape(-1)
    used = np.flatnonzero(pixel_norm > 0)
    used = used[np.argsort(number[used], kind="stable")]
    begins = np.flatnonzero(np.diff(number[used], prepend=-1))
    ends = np.append(begins[1:], len(used))
    q = np.empty((3, n_slow, n_fast))
    rays.q_lab(rotation, (0.5, 0.5), q)
    size = (ends - begins)[:, None]

    def mean(values: Floats) -> Floats:
        return np.asarray(
            np.add.reduceat(values.reshape(-1, n_slow * n_fast)[:, used].T, begins) / size
        )

    middle = mean(np.stack([slow + 0.5, fast + 0.5]))
    norm, below = pixel_norm.reshape(-1)[used], background.reshape(-1, n_slow * n_fast)[:, used]
    return _Pixels(used, norm, below, ends, mean(q), middle)
