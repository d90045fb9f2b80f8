"""Repeated measurements of the same S(Q): sums of counts and norm by orbit, angle and direction.

S(Q) is measured many times: at Q and -Q, at positions that the Laue group makes equivalent, on both
crossings of the Ewald sphere, and in several rotations. Voxels that are equivalent form an orbit.
A record is the sum over the pixels of one zone of the detector, in one range of frames, that lie in
one voxel. Counts of records of one orbit differ only by their norms and by the scale that
`redundancy` determines.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation, rays
from hklflow.geometry.grid import Grid
from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]

_NOT_USED = -1


@kernel
def _fill_orbits(orbit, n_h, n_k, n_l, turns, shifts):  # type: ignore[no-untyped-def]
    """Write the smallest index of the equivalent voxels that are on the grid."""
    for l in range(n_l):  # noqa: E741
        for k in range(n_k):
            for h in range(n_h):
                at = (l * n_k + k) * n_h + h
                least = at
                for i in range(turns.shape[0]):
                    t, s = turns[i], shifts[i]
                    x = t[0, 0] * h + t[0, 1] * k + t[0, 2] * l + s[0]
                    y = t[1, 0] * h + t[1, 1] * k + t[1, 2] * l + s[1]
                    z = t[2, 0] * h + t[2, 1] * k + t[2, 2] * l + s[2]
                    if 0 <= x < n_h and 0 <= y < n_k and 0 <= z < n_l:
                        least = min(least, (z * n_k + y) * n_h + x)
                orbit[at] = least


def orbits(grid: Grid, turns: NDArray[np.int64], shifts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the orbit of each voxel (l, k, h): the smallest flat index of its voxels.

    Parameters
    ----------
    grid : Grid
    turns, shifts : (n, 3, 3), (n, 3) int arrays
        Maps of voxel indices (h, k, l) of the operations, see `volumes.symmetrise.images`.

    Raises
    ------
    HklflowError
        If the grid has more voxels than 32 bits can number.
    """
    if np.prod(grid.shape, dtype=np.float64) >= 2**31:
        raise HklflowError(f"a grid of {grid.shape} voxels is too large for orbits; use a coarser")
    orbit = np.empty(grid.array_shape, np.int32)
    _fill_orbits(orbit.reshape(-1), *grid.shape, turns, shifts)
    return orbit


class _Pixels(NamedTuple):
    """Pixels in use, ordered by zone: flat number, q_lab, norm; ends of the zones."""

    number: NDArray[np.int64]
    q: Floats
    norm: Floats
    ends: NDArray[np.int64]


class _Made(NamedTuple):
    """Records of a range of frames."""

    voxel: NDArray[np.int32]
    zone: NDArray[np.uint16]
    counts: NDArray[np.float32]
    norm: NDArray[np.float32]


@kernel
def _voxel(m, q, offset, i):  # type: ignore[no-untyped-def]
    x = m[i, 0] * q[0] + m[i, 1] * q[1] + m[i, 2] * q[2]
    return int(np.floor(x + offset[i]))


@kernel
def _add(frames, rules, pixels, frame_norm, to_voxel, offset, orbit, shape, sums, touched, made):  # type: ignore[no-untyped-def]
    """Sum a range of frames, zone by zone; return the number of records."""
    (valid_from, invalid_from), (counts, norm) = rules, sums
    n, begin = 0, 0
    for zone in range(len(pixels.ends)):
        n_touched = 0
        for z in range(frames.shape[0]):
            if frame_norm[z] <= 0:
                continue
            for i in range(begin, pixels.ends[zone]):
                h = _voxel(to_voxel[z], pixels.q[i], offset, 0)
                k = _voxel(to_voxel[z], pixels.q[i], offset, 1)
                l = _voxel(to_voxel[z], pixels.q[i], offset, 2)  # noqa: E741
                if not (0 <= h < shape[0] and 0 <= k < shape[1] and 0 <= l < shape[2]):
                    continue
                at = (l * shape[1] + k) * shape[0] + h
                value = frames[z, pixels.number[i]]
                if orbit[at] < 0 or not valid_from <= value < invalid_from:
                    continue
                if norm[at] == 0:
                    touched[n_touched] = at
                    n_touched += 1
                counts[at] += value
                norm[at] += pixels.norm[i] * frame_norm[z]
        for i in range(n_touched):
            at = touched[i]
            made.voxel[n], made.zone[n] = at, zone
            made.counts[n], made.norm[n] = counts[at], norm[at]
            counts[at] = 0
            norm[at] = 0
            n += 1
        begin = pixels.ends[zone]
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
    frame : float32 array
        Mean frame of the range.
    zone : uint16 array
        Zone of the detector.
    counts, norm : float32 arrays
    """

    voxel: NDArray[np.int32]
    rotation: NDArray[np.uint16]
    frame: NDArray[np.float32]
    zone: NDArray[np.uint16]
    counts: NDArray[np.float32]
    norm: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.voxel)

    def take(self, chosen: NDArray[Any]) -> "Records":
        """Return the chosen records."""
        return Records(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @classmethod
    def joined(cls, parts: "list[Records]", orbit: NDArray[np.int32], gap: float) -> "Records":
        """Join records of all rotations, one for each passage of a voxel; ordered by orbit.

        A voxel is on the Ewald sphere for several ranges of frames. These are one passage and
        become one record, at its mean frame: S(Q) at both ends of a voxel differs, which is no
        repetition. Orbits with only one passage are left out.

        Parameters
        ----------
        parts : list of Records
            At least one record.
        orbit : (l, k, h) int32 array
            Orbit of each voxel, see `orbits`.
        gap : float
            Ranges whose mean frames are further apart are different passages.
        """
        every = _concatenated(parts)
        every = every.take(np.lexsort((every.frame, every.zone, every.rotation, every.voxel)))
        new = np.ones(len(every), bool)
        same = [a[1:] == a[:-1] for a in (every.voxel, every.rotation, every.zone)]
        new[1:] = ~(np.logical_and.reduce(same) & (np.diff(every.frame) <= gap))
        at = np.flatnonzero(new)
        norm = np.add.reduceat(every.norm, at, dtype=np.float64)
        frame = np.add.reduceat(every.norm * every.frame, at, dtype=np.float64) / norm
        passages = replace(
            every.take(at),
            voxel=orbit.reshape(-1)[every.voxel[at]],
            frame=frame.astype(np.float32),
            counts=np.add.reduceat(every.counts, at),
            norm=norm.astype(np.float32),
        )
        passages = passages.take(np.argsort(passages.voxel, kind="stable"))
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
    orbit : (l, k, h) int32 array
        Orbit of each voxel; negative: not used. See `orbits`.
    pixel_norm : (slow, fast) array
        The pixel's factor of the norm; 0: not used.
    frame_norm : (n_frames,) array
        The frame's factor of the norm without the scale that is sought; 0: not used.
    zone : (slow, fast) int array
        Zone of each pixel.
    valid_from, invalid_from : float
        See `transform.sums.Readout`.
    """

    def __init__(
        self,
        rotation: Rotation,
        number: int,
        ub: ArrayLike,
        grid: Grid,
        orbit: NDArray[np.int32],
        pixel_norm: Floats,
        frame_norm: Floats,
        zone: NDArray[np.integer[Any]],
        valid_from: float = 0.0,
        invalid_from: float = np.inf,
    ) -> None:
        self._rotation, self._number, self._grid = rotation, number, grid
        self._ub = np.asarray(ub, np.float64)
        self._orbit, self._frame_norm = orbit.reshape(-1), frame_norm
        self._valid = valid_from, invalid_from
        used = np.flatnonzero(pixel_norm > 0)
        used = used[np.argsort(zone.reshape(-1)[used], kind="stable")]
        q = np.empty((3, *rotation.detector.shape))
        rays.q_lab(rotation, (0.5, 0.5), q)
        ends = np.cumsum(np.bincount(zone.reshape(-1)[used]))
        q_of_used = np.ascontiguousarray(q.reshape(3, -1)[:, used].T)
        self._pixels = _Pixels(used, q_of_used, pixel_norm.reshape(-1)[used], ends)
        # Zeros of untouched pages take no memory.
        self._sums = np.zeros(self._orbit.size), np.zeros(self._orbit.size)
        self._parts: list[Records] = []

    def add(self, frames: NDArray[Any], first: int) -> None:
        """Add a range of frames (n, slow, fast) as one angle; ``first`` is its first frame."""
        n = len(frames)
        if n == 0 or first + n > len(self._frame_norm):
            raise HklflowError(
                f"frames {first} to {first + n - 1} do not fit a rotation of "
                f"{len(self._frame_norm)} frames"
            )
        rotation = self._rotation
        turn = rotation.goniometer.rotation(rotation.scan.angle(first + np.arange(n) + 0.5))
        to_voxel = np.linalg.inv(turn @ self._ub) / self._grid.step[:, None]
        offset = 0.5 - self._grid.first / self._grid.step
        pixel_frames = n * len(self._pixels.number)
        most = min(pixel_frames, self._orbit.size * len(self._pixels.ends))
        made = _Made(
            np.empty(most, np.int32), np.empty(most, np.uint16), *np.empty((2, most), np.float32)
        )
        k = _add(
            frames.reshape(n, -1),
            self._valid,
            self._pixels,
            self._frame_norm[first : first + n],
            np.ascontiguousarray(to_voxel),
            offset,
            self._orbit,
            self._grid.shape,
            self._sums,
            np.empty(min(pixel_frames, self._orbit.size), np.int32),
            made,
        )
        number = np.full(k, self._number, np.uint16)
        middle = np.full(k, first + n / 2, np.float32)
        self._parts.append(
            Records(
                made.voxel[:k].copy(),
                number,
                middle,
                made.zone[:k].copy(),
                made.counts[:k].copy(),
                made.norm[:k].copy(),
            )
        )

    def records(self) -> Records:
        """Return the records so far, in the order of the frames."""
        return _concatenated(self._parts)
