"""Mean of a volume over a slab around a plane, with errors.

A slab consists of copies of the plane, shifted along the normal of the plane in index space. The
normal is scaled to a largest component of 1. For a slab of thickness w, ``h k 0`` becomes
``h k t`` and ``h h l`` becomes ``h+t h-t l``, with t from -w/2 to w/2.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.volumes.planes import Cut, Plane, cut, sample

Floats = NDArray[np.float64]
_DIGITS = 1e-6  # tolerance in voxels


@dataclass(frozen=True)
class Slab:
    """Mean of a volume over a slab.

    Attributes
    ----------
    cut : Cut
        Mean of the measured voxels.
    errors : (m, n) array or None
        Standard deviations for independent voxels. After symmetrising, voxels on both sides of a
        mirror are the same measurement, and the true errors are larger.
    offsets : (k,) array
        Values of t that were averaged, in r.l.u. or cells.
    thickness : float
        Thickness of the k layers of voxels, in r.l.u. or cells.
    """

    cut: Cut
    errors: NDArray[Any] | None
    offsets: Floats
    thickness: float


def offsets(plane: Plane, grid: Grid, width: float) -> tuple[Floats, Floats, float]:
    """Return the values of t across a slab, their direction (3,), and the step (one voxel).

    Raises
    ------
    HklflowError
        If the width is negative, not finite, or larger than the volume.
    """
    if not (np.isfinite(width) and width >= 0):
        raise HklflowError(f"the width of the slab is {width:g}; give 0 or a positive number")
    normal = np.cross(plane.first, plane.second)
    normal = normal / normal[np.argmax(np.abs(normal))]
    step = 1 / np.max(np.abs(normal) / grid.step)
    # Path of the plane from one corner of the volume to the opposite corner.
    extent = np.asarray(grid.shape) * grid.step
    reach = float(np.abs(normal) @ extent / (normal @ normal))
    if width > 2 * reach:
        raise HklflowError(
            f"the slab of width {width:g} is thicker than the volume; give {2 * reach:g} or less"
        )
    half = int(np.floor(width / 2 / step + _DIGITS))
    return step * np.arange(-half, half + 1), normal, float(step)


def average(
    values: Any,
    sigmas: Any,
    grid: Grid,
    plane: Plane,
    width: float,
    block: tuple[int, int, int] = (16, 64, 64),
) -> Slab:
    """Average a volume over a slab around a plane.

    Parameters
    ----------
    values, sigmas : (l, k, h) array, or an object that is sliced like an array
        Values and their standard deviations. If ``sigmas`` is None, there are no errors.
    width : float
        Thickness in r.l.u. (cells in direct space); 0: only the plane. The layers of voxels whose
        middle is in the slab are averaged; see `Slab.thickness`.
    block : (int, int, int)
        See `hklflow.volumes.planes.cut`.

    Raises
    ------
    HklflowError
        If the width is not valid (see `offsets`), or the plane is outside the volume.
    """
    steps, direction, voxel = offsets(plane, grid, width)
    base = cut(values, grid, plane, block)
    if not base.image.size:
        reach = ", ".join(
            f"{name} from {grid.axis(i)[0]:g} to {grid.axis(i)[-1]:g}"
            for i, name in enumerate("xyz" if {*plane.letters} & {*"xyz"} else "hkl")
        )
        raise HklflowError(
            f"plane {plane.text} is outside the volume ({reach}); choose a plane inside"
        )
    shape = base.image.shape
    total, squares, number = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)
    for step in steps:
        moved = replace(plane, origin=plane.origin + step * direction)
        image = base.image if step == 0 else sample(values, grid, moved, base.u, base.v, block)
        good = np.isfinite(image)
        total[good] += image[good]
        number += good
        if sigmas is not None:
            sigma = sample(sigmas, grid, moved, base.u, base.v, block)
            squares[good] += sigma[good].astype(np.float64) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, errors = total / number, np.sqrt(squares) / number
    return Slab(
        replace(base, image=mean), None if sigmas is None else errors, steps, len(steps) * voxel
    )
