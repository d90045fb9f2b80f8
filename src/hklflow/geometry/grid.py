"""Grid of reciprocal space, and the division of pixel-frames into sub-samples."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry import Rotation

Floats = NDArray[np.float64]

_TB_EACH = 20e-12  # memory for each voxel when a volume is symmetrised, TB
MOST_VOXELS = 200_000_000_000
"""Largest number of voxels. Symmetrising one volume takes 20 bytes of memory per voxel, 4 TB in
total, which is the memory of the largest cluster nodes."""

STEPS = (0.05, 0.0625, 0.1, 0.125, 0.25, 0.5, 1.0)
"""Steps to choose from if none is given: integer hkl are voxel centres, for all but the last also
half-integer hkl."""
SENSIBLE_VOXELS = 500_000_000
"""Largest number of voxels for which a step is chosen: about 35 GB of volumes for a scan, and 10 GB
of memory to symmetrise one. The number is fixed, so that a scan has the same grid on every machine,
and keeps its grid when scans are added."""


@dataclass(frozen=True)
class Grid:
    """A regular grid in hkl; the values on the axes are voxel centres.

    Attributes
    ----------
    first, step : (3,) array
        Centre of the first voxel and spacing along h, k, l.
    shape : (3,) tuple of int
        Number of voxels along h, k, l. Volumes are stored as ``[l, k, h]``.
    """

    first: Floats
    step: Floats
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if (problem := size_problem(self.shape)) is not None:
            raise HklflowError(f"{problem}; set a coarser `grid_step` or a smaller grid")

    @classmethod
    def symmetric(cls, limits: ArrayLike, step: ArrayLike) -> "Grid":
        """Create a grid from -limit to limit with a voxel centred at 0.

        Limits are rounded to a multiple of the step.

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
        """Create a symmetric grid that contains the sphere of radius ``q_max`` (1/Å) of a cell."""
        return cls.symmetric(extents(cell, q_max) / 2, step)

    @classmethod
    def within(cls, ranges: ArrayLike, step: ArrayLike) -> "Grid":
        """Create a grid of a part of reciprocal space.

        Parameters
        ----------
        ranges : (3, 2) array
            Centre of the first voxel, and centre of the last voxel (or slightly more), along
            h, k, l.
        step : (3,) array

        Raises
        ------
        HklflowError
            If a step is not positive or a range is not ascending.
        """
        steps = np.broadcast_to(np.asarray(step, dtype=np.float64), (3,)).copy()
        low, high = np.asarray(ranges, dtype=np.float64).reshape(3, 2).T
        if not (np.all(steps > 0) and np.all(high > low)):
            raise HklflowError(
                f"grid: ranges {np.stack([low, high], 1).tolist()} and steps {steps.tolist()} in "
                "h, k, l; steps must be positive, and each range must go from low to high"
            )
        # A millionth of a step is added, because (high - low) / step may have a rounding error.
        n_h, n_k, n_l = (int(n) + 1 for n in np.floor((high - low) / steps + 1e-6))
        return cls(low.copy(), steps, (n_h, n_k, n_l))

    def axis(self, i: int) -> Floats:
        """Return the voxel centres along axis i (0: h, 1: k, 2: l)."""
        centres: Floats = self.first[i] + self.step[i] * np.arange(self.shape[i])
        # Rounding avoids values such as -0.0 and 1e-17 at the centre.
        return np.round(centres, 10) + 0.0

    def plane_near_zero(self, i: int) -> int:
        """Return the index of the plane at 0 along axis i, or of the middle if 0 is outside."""
        axis = self.axis(i)
        inside = axis[0] <= 0 <= axis[-1]
        return int(np.argmin(np.abs(axis))) if inside else len(axis) // 2

    @property
    def array_shape(self) -> tuple[int, int, int]:
        """Shape of a volume array: (l, k, h)."""
        return (self.shape[2], self.shape[1], self.shape[0])

    def same_as(self, other: "Grid") -> bool:
        """Return True if volumes on both grids can be added."""
        return (
            self.shape == other.shape
            and np.allclose(self.first, other.first, atol=1e-9)
            and np.allclose(self.step, other.step, rtol=1e-9)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "first": self.first.tolist(),
            "step": self.step.tolist(),
            "shape": list(self.shape),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Grid":
        """Create a grid from the description of `to_dict`."""
        n_h, n_k, n_l = (int(n) for n in data["shape"])
        return cls(
            np.asarray(data["first"], float), np.asarray(data["step"], float), (n_h, n_k, n_l)
        )


def size_problem(shape: tuple[int, int, int]) -> str | None:
    """Return the reason why a grid is too large for any machine; None if it is not."""
    voxels = math.prod(shape)
    if voxels <= MOST_VOXELS:
        return None
    return (
        f"a grid of {' x '.join(map(str, shape))} = {voxels:.3g} voxels is too large for any "
        f"machine ({MOST_VOXELS:.3g} voxels at most: one volume to be symmetrised takes "
        f"{_TB_EACH * MOST_VOXELS:.3g} TB of memory, this one {_TB_EACH * voxels:.3g} TB)"
    )


def extents(cell: ArrayLike, q_max: float) -> Floats:
    """Return the extents (3,) along h, k, l of the sphere of radius ``q_max`` (1/Å) of a cell."""
    lengths: Floats = q_max * np.asarray(cell, dtype=np.float64)[:3] / np.pi
    return lengths


def chosen_step(spans: ArrayLike) -> float:
    """Return the finest of the `STEPS` for which a grid has a sensible number of voxels.

    Parameters
    ----------
    spans : (3,) array
        Length of the grid along h, k, l.
    """
    lengths = np.asarray(spans, dtype=np.float64)
    fitting = (step for step in STEPS if np.prod(lengths / step + 1) <= SENSIBLE_VOXELS)
    return next(fitting, STEPS[-1])


def coarser(step: float, spans: ArrayLike) -> str:
    """Return a sentence if a chosen step is not the finest of the `STEPS`, else an empty text."""
    if step == STEPS[0]:
        return ""
    voxels = np.prod(np.asarray(spans, dtype=np.float64) / STEPS[0] + 1)
    return (
        f"no `grid_step` is given, and voxels of {STEPS[0]:g} r.l.u. would be {voxels:.2g} voxels "
        f"(limit of the choice {SENSIBLE_VOXELS:.2g}): voxels are {step:g} r.l.u. wide; to choose "
        "yourself, set `refine_parent: grid_step`"
    )


def pixel_pitch(rotation: Rotation, ub: ArrayLike, grid: Grid) -> Floats:
    """Return the size of one frame, one slow and one fast pixel in voxels.

    Returns
    -------
    (3,) array
        Sizes for (frame, slow, fast): the largest component in units of the step of the grid, over
        the corners and edge centres of the detector and 13 frame coordinates.
    """
    # The ideal plane is used, because no pixel spans the step between two displaced modules.
    rotation = replace(rotation, detector=rotation.detector.plane)
    n_slow, n_fast = rotation.detector.shape
    slow, fast = (a.ravel() for a in np.meshgrid([0, n_slow / 2, n_slow], [0, n_fast / 2, n_fast]))
    frames = np.linspace(0, rotation.scan.n_frames, 13)[:, None]
    hkl = rotation.hkl(ub, frames, slow, fast)
    moved = (
        rotation.hkl(ub, frames + 1, slow, fast),
        rotation.hkl(ub, frames, slow + 1, fast),
        rotation.hkl(ub, frames, slow, fast + 1),
    )
    return np.array([np.abs((shifted - hkl) / grid.step).max() for shifted in moved])


def sub_samples(pitch: Floats) -> tuple[int, int, int]:
    """Return the number of sub-samples along (frame, slow, fast).

    Each sub-sample spans at most half a voxel. The numbers are powers of two, for which photons are
    distributed quickly.
    """
    frame, slow, fast = (
        2 ** max(0, int(np.ceil(np.log2(max(p, 1e-9) / 0.5) - 1e-9))) for p in pitch
    )
    return frame, slow, fast
