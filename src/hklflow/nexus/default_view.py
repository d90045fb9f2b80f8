"""Default view of a volume: the plane that viewers open, its scale, and a copy of the plane.

NeXpy, H5Web and silx open the first or the middle plane of a volume with a linear scale, where
often nothing was measured, and silx reads a volume as a whole. A small NXdata with one plane is
therefore the default plot of a file; the volume has the attributes ``default_slice`` (NeXus) and
``SILX_style`` (silx and H5Web).
"""

import json
from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.geometry.grid import Grid
from hklflow.nexus.entry import add_array, add_group, text

PLANE = "plane"
"""Name of the NXdata with the plane."""

PLANE_OF = "plane_of"
"""Attribute of this NXdata: name of the NXdata of the volume, in the same entry."""


def best_plane(measured: NDArray[np.int64], near: int) -> int:
    """Return the index of the plane that viewers open.

    It is the plane nearest to ``near`` that has at least half as many measured voxels as the
    plane with the most.

    Parameters
    ----------
    measured : (n,) array
        Number of measured voxels of each plane.
    near : int
        Index of the plane at 0, or of the middle plane.
    """
    if not measured.any():
        return near
    well = np.flatnonzero(2 * measured >= measured.max())
    return int(well[np.argmin(np.abs(well - near))])


def plane_of(group: h5py.Group, grid: Grid) -> int:
    """Return the plane of a volume that `set_view` set, else the plane at 0 or in the middle."""
    if "default_slice" in group.attrs:
        return int(group.attrs["default_slice"][0])
    return grid.plane_near_zero(2)


def set_view(group: h5py.Group, planes: Sequence[int], signed: bool) -> None:
    """Set the default plane and scale of an NXdata whose last two dimensions are the picture.

    Parameters
    ----------
    planes : sequence of int
        Index for each of the other dimensions.
    signed : bool
        True if the values have both signs: the scale is then linear, not logarithmic.
    """
    group.attrs["default_slice"] = [*map(str, planes), ".", "."]
    scale = "linear" if signed else "log"
    group.attrs["SILX_style"] = json.dumps({"signal_scale_type": scale})
    # silx then reads one plane at a time.
    group[group.attrs["signal"]].attrs["interpretation"] = "image"


def add_plane(entry: h5py.Group, name: str, index: int, signed: bool) -> None:
    """Copy one plane of a volume with its errors, as the default plot of the entry.

    Parameters
    ----------
    name : str
        Name of the NXdata of the volume (n, rows, columns).
    index : int
        Index of the plane along the first dimension.
    """
    volume = entry[name]
    signal, (across, *axes) = str(volume.attrs["signal"]), volume.attrs["axes"]
    group = add_group(entry, PLANE, "NXdata", signal=signal, axes=axes)
    group.attrs[PLANE_OF] = name
    for array in (signal, f"{signal}_errors"):
        if array in volume:
            add_array(group, array, volume[array][index])
            for key, value in volume[array].attrs.items():
                group[array].attrs[key] = value
    for i, axis in enumerate(axes):
        entry.copy(volume[axis], group, name=axis)
        group.attrs[f"{axis}_indices"] = i
    # NeXpy draws skewed cells with the angle between the two axes.
    group.attrs["angles"] = float(volume.attrs["angles"][0])
    group["title"] = f"{text(volume['title'])}, {across} = {volume[across][index]:.4g}"
    set_view(group, (), signed)
    entry.attrs["default"] = PLANE
