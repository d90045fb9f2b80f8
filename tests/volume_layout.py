"""Validator of the layout of volumes, docs/volume_layout.md: all deviations of a file."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hklflow.geometry.grid import Grid
from hklflow.geometry.lattice import reciprocal

AXES = {"transform": ("Qh", "Qk", "Ql"), "pdf": ("x", "y", "z")}
PLAIN = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}


def problems(path: Path) -> list[str]:
    """What of a volume or a pair distribution is not as the page says; empty: nothing."""
    found: list[str] = []
    with h5py.File(path) as file:
        entry = file[str(file.attrs["default"])]
        name = "pdf" if "pdf" in entry else "transform"
        group = entry[name]
        axes = AXES[name]
        if list(group.attrs["axes"]) != list(axes[::-1]):
            found.append(f"axes are {list(group.attrs['axes'])}")
        grid = Grid.from_dict(json.loads(entry["notes/grid"][()]))
        cell = entry["sample/unit_cell"][()]
        lengths, angles = np.split(np.asarray(cell if name == "pdf" else reciprocal(cell)), 2)
        found += _axes(group, axes, grid, lengths)
        if not np.allclose(group.attrs["angles"], angles[::-1]):
            found.append(f"angles are {group.attrs['angles']}")
        arrays = {n: group[n] for n in group if group[n].ndim == 3}
        found += [f"{n} has {a.shape}" for n, a in arrays.items() if a.shape != grid.array_shape]
        found += _values({n: a[()] for n, a in arrays.items()})
        found += _filters(arrays)
        found += _view(file, entry, group)
    return found


def _axes(group: h5py.Group, axes: tuple[str, ...], grid: Grid, lengths: Any) -> list[str]:
    found = []
    for i, axis in enumerate(axes):
        if not np.allclose(group[axis][()], grid.axis(i)):
            found.append(f"{axis} is not the grid's axis")
        if not np.isclose(group[axis].attrs["scaling_factor"], lengths[i]):
            found.append(f"the scaling factor of {axis} is {group[axis].attrs['scaling_factor']}")
    return found


def _values(arrays: dict[str, Any]) -> list[str]:
    found = []
    data, errors = arrays["data"], arrays["data_errors"]
    if (errors < 0).any():
        found.append("negative errors")
    if "norm" in arrays:
        norm = arrays["norm"]
        measured = np.isfinite(data)
        if (norm < 0).any() or (measured & (norm == 0)).any():
            found.append("data where the norm is 0")
        if not np.array_equal(measured, np.isfinite(errors)):
            found.append("data and errors are known in different voxels")
        if not np.allclose(data[measured], arrays["counts"][measured] / norm[measured], rtol=1e-5):
            found.append("data is not counts / norm")
        if arrays["counts"][norm == 0].any():
            found.append("counts where the norm is 0")
    return found


def _filters(arrays: dict[str, h5py.Dataset]) -> list[str]:
    found = []
    for name, dataset in arrays.items():
        plist = dataset.id.get_create_plist()
        if not {plist.get_filter(i)[0] for i in range(plist.get_nfilters())} <= PLAIN:
            found.append(f"{name} needs a filter that h5py does not have")
    return found


def _view(file: h5py.File, entry: h5py.Group, group: h5py.Group) -> list[str]:
    found = []
    plane = entry[str(entry.attrs["default"])]
    words = [str(word) for word in group.attrs["default_slice"]]
    if words[1:] != [".", "."] or not words[0].isdigit():
        return [f"default_slice is {words}"]
    shown = group["data"][int(words[0])]
    if not np.array_equal(plane["data"][()], shown, equal_nan=True):
        found.append("the default plot is not the plane of default_slice")
    if np.isfinite(group["data"][()]).any() and not np.isfinite(shown).any():
        found.append("nothing is measured on the plane of the default plot")
    for shown_group in (plane, group):
        style = json.loads(shown_group.attrs["SILX_style"])
        if style.get("signal_scale_type") not in {"log", "linear"}:
            found.append(f"SILX_style is {style}")
        if not shown_group["title"][()]:
            found.append("no title")
    return found
