"""The mean over a slab about a plane of a volume, with its errors.

A slab is the plane moved along the normal of its indices, whose largest component is 1:
``h k 0`` of thickness w is ``h k t``, ``h h l`` is ``h+t h-t l``, with t from -w/2 to w/2.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.volumes.planes import Cut, Plane, cut, sample

Floats = NDArray[np.float64]
_DIGITS = 1e-6  # of a voxel


@dataclass(frozen=True)
class Slab:
    """The mean of a volume over a slab.

    Attributes
    ----------
    cut : Cut
        The mean of the voxels that were measured.
    errors : (m, n) array or None
        Standard deviations, as of voxels that are independent: after symmetrising, voxels on
        both sides of a mirror are the same measurement, and errors are larger.
    offsets : (k,) array
        Values of t that were averaged, in r.l.u. or cells.
    thickness : float
        Of the k layers of voxels, in the same.
    """

    cut: Cut
    errors: NDArray[Any] | None
    offsets: Floats
    thickness: float


def offsets(plane: Plane, grid: Grid, width: float) -> tuple[Floats, Floats, float]:
    """Steps t across a slab, one voxel apart, the direction (3,) in which they go, and a voxel.

    Raises
    ------
    HklflowError
        If the width is negative, not finite, or more than what the volume holds.
    """
    if not (np.isfinite(width) and width >= 0):
        raise HklflowError(f"width {width:g} is not the thickness of a slab; give 0 or more")
    normal = np.cross(plane.first, plane.second)
    normal = normal / normal[np.argmax(np.abs(normal))]
    step = 1 / np.max(np.abs(normal) / grid.step)
    # How far the plane can move from one corner of the volume to the opposite one.
    extent = np.asarray(grid.shape) * grid.step
    reach = float(np.abs(normal) @ extent / (normal @ normal))
    if width > 2 * reach:
        raise HklflowError(
            f"width {width:g} is more than this volume holds about a plane; give {2 * reach:g} or "
            "less"
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
    """Average a volume over a slab about a plane.

    Parameters
    ----------
    values, sigmas : (l, k, h) array, or what is sliced like one
        Values and their standard deviations; None for the latter if there are none.
    width : float
        Thickness in r.l.u. (cells in direct space); 0: the plane alone. Layers of voxels with
        their middle in it are averaged: see `Slab.thickness`.
    block : (int, int, int)
        See `hklflow.volumes.planes.cut`.

    Raises
    ------
    HklflowError
        If the width is no thickness, or the plane is outside the volume.
    """
    steps, direction, voxel = offsets(plane, grid, width)
    base = cut(values, grid, plane, block)
    if not base.image.size:
        reach = ", ".join(
            f"{name} from {grid.axis(i)[0]:g} to {grid.axis(i)[-1]:g}"
            for i, name in enumerate("xyz" if {*plane.letters} & {*"xyz"} else "hkl")
        )
        raise HklflowError(
            f"plane {plane.text} is outside the volume ({reach}); give one that meets it"
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
