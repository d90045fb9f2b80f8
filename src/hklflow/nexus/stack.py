"""Stack of volumes along temperature or another axis: one virtual four-dimensional NXdata."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.base.errors import HklflowError
from hklflow.geometry.lattice import reciprocal
from hklflow.nexus.default_view import PLANE, PLANE_OF, plane_of, set_view
from hklflow.nexus.entry import add_array, add_group, create, text
from hklflow.nexus.volume import OpenVolume, open_volume, require_one_grid, unlike_corrections

Floats = NDArray[np.float64]

_ARRAYS = ("data", "data_errors", "counts", "norm")


@dataclass(frozen=True)
class Member:
    """One volume of a stack: its file, the name of its scan, and its temperature in K.

    Along another axis than temperature its value is in the place of the temperature.
    """

    path: Path
    scan: str
    temperature: float


def in_order(
    paths: Sequence[Path], scans: Sequence[str], temperatures: Sequence[float | None]
) -> list[Member]:
    """Return the members sorted by temperature, and by name at equal temperature.

    Raises
    ------
    HklflowError
        If the arguments have different lengths, or a scan has no temperature.
    """
    if not len(paths) == len(scans) == len(temperatures) > 0:
        raise HklflowError(
            f"{len(paths)} volumes, {len(scans)} scans and {len(temperatures)} temperatures; give "
            "one of each for every scan"
        )
    members = []
    for path, scan, temperature in zip(paths, scans, temperatures, strict=True):
        if temperature is None:
            raise HklflowError(
                f"scan {scan} has no temperature, which a stack along temperature needs; leave "
                f"{path} out or give its temperature in scans.tsv"
            )
        members.append(Member(path, scan, temperature))
    return sorted(members, key=lambda member: (member.temperature, member.scan))


@dataclass(frozen=True)
class Intensities:
    """Integrated intensities of n reflections at t temperatures.

    Attributes
    ----------
    hkl : (n, 3) array
    intensity, sigma : (n, t) arrays
        Integrated intensity and σ, S × r.l.u.³; NaN if not measured. σ contains only the photon
        noise, see `volumes.boxes`.
    """

    hkl: Floats
    intensity: Floats
    sigma: Floats


@contextmanager
def open_members(
    members: Sequence[Member], group: str = "transform", arrays: Sequence[str] = _ARRAYS
) -> Iterator[list[OpenVolume]]:
    """Open the volumes of a stack without reading them.

    Parameters
    ----------
    group : str
        Name of the NXdata in each volume.
    arrays : sequence of str
        Arrays that each volume must have.

    Raises
    ------
    HklflowError
        If a volume lacks an array (it is not merged), or the grids differ.
    """
    with ExitStack() as stack:
        volumes = [stack.enter_context(open_volume(member.path, group)) for member in members]
        for member, volume in zip(members, volumes, strict=True):
            missing = [name for name in arrays if name not in volume.group]
            if missing:
                raise HklflowError(
                    f"{member.path} has no {', '.join(missing)}, so it cannot be stacked; give "
                    "merged volumes with their errors"
                )
        # Choose the most frequent grid; of equally frequent grids, the grid of the hottest scan,
        # which is often the parent.
        n_same_grid = [sum(v.grid.same_as(other.grid) for other in volumes) for v in volumes]
        usual = max(range(len(volumes)), key=lambda i: (n_same_grid[i], i))
        require_one_grid(
            [volumes[usual], *volumes], "transform the scan again with the parent of the others"
        )
        yield volumes


def read_box(volume: OpenVolume, region: tuple[slice, slice, slice]) -> tuple[Floats, Floats]:
    """Return counts and norm (l, k, h) of a part of a volume."""
    counts, norm = (volume.group[name][region].astype(np.float64) for name in ("counts", "norm"))
    return counts, norm


def write_stack(
    path: Path,
    title: str,
    members: Sequence[Member],
    volumes: Sequence[OpenVolume],
    reflections: Intensities,
    axis: Axis = TEMPERATURE,
) -> None:
    """Write the stack: links to the arrays of the members, and intensities of reflections.

    ``transform`` is one NXdata (temperature, Ql, Qk, Qh) of virtual datasets. The paths of the
    members are relative to the folder of the stack, so that stack and members can be moved
    together. If a member is missing, data and errors read as NaN and the norm as 0.

    Parameters
    ----------
    members : sequence of Member
        In ascending order of temperature.
    volumes : sequence of OpenVolume
        The members, opened by `open_members`.
    """
    with create(path, title, "transform") as entry:
        add_stack(entry, path.parent, title, members, volumes, along=axis)
        _write_reflections(entry, reflections, entry[f"transform/{axis.name}"][()], axis)


def add_stack(
    entry: h5py.Group,
    folder: Path,
    title: str,
    members: Sequence[Member],
    volumes: Sequence[OpenVolume],
    *,
    name: str = "transform",
    arrays: Sequence[str] = _ARRAYS,
    direct: bool = False,
    along: Axis = TEMPERATURE,
) -> None:
    """Add the arrays of the members as one NXdata along temperature, and a list of the members.

    Parameters
    ----------
    entry : h5py.Group
        Entry of a file in ``folder``; the paths of the members are relative to this folder.
    name : str
        Name of the NXdata, in this file and in the members.
    arrays : sequence of str
        Arrays in the NXdata of the members.
    direct : bool
        True if the arrays are on axes of direct space.
    along : Axis
        Axis of the stack.
    """
    grid, cell = volumes[0].grid, volumes[0].cell
    lengths, angles = np.split(np.asarray(cell) if direct else reciprocal(cell), 2)
    axes = ("x", "y", "z") if direct else ("Qh", "Qk", "Ql")
    at = np.array([member.temperature for member in members], dtype=np.float64)
    group = add_group(
        entry,
        name,
        "NXdata",
        signal=arrays[0],
        axes=[along.name, *axes[::-1]],
        angles=angles[::-1].copy(),
        **{f"{axis}_indices": i for i, axis in enumerate((along.name, *axes[::-1]))},
    )
    sources = _Sources(folder, name, members, volumes)
    for array in arrays:
        sources.add(group, array)
    add_array(group, along.name, at, along.units, long_name=along.label)
    for i, axis in enumerate(axes):
        add_array(
            group,
            axis,
            grid.axis(i),
            None if direct else "r.l.u.",
            long_name=f"{axis} (unit cells)" if direct else f"{axis} (r.l.u.)",
            scaling_factor=lengths[i],
        )
    group["title"] = title
    index = plane_of(volumes[0].group, grid)
    set_view(group, [0, index], direct)
    _add_planes(entry, name, index, sources, direct)
    sample = add_group(entry, "sample", "NXsample")
    cells = np.array([volume.cell for volume in volumes])
    add_array(sample, "unit_cell", cells, "angstrom, degree")
    add_array(sample, along.name, at, along.units)
    names = [member.scan for member in members]
    sample.create_dataset("scan", data=names, dtype=h5py.string_dtype())
    notes = add_group(entry, "notes", "NXcollection")
    notes["notes"] = json.dumps({"doubts": doubts_of(members, volumes)})


@dataclass(frozen=True)
class _Sources:
    """Arrays of the members, as sources of virtual datasets of a file in ``folder``."""

    folder: Path
    name: str
    members: Sequence[Member]
    volumes: Sequence[OpenVolume]

    def add(self, group: h5py.Group, array: str, plane: int | None = None) -> None:
        """Add an array of all members along temperature, or only one plane of each."""
        shape = self.volumes[0].grid.array_shape
        part = np.s_[:] if plane is None else np.s_[plane]
        sizes = shape if plane is None else shape[1:]
        types = [volume.group[array].dtype for volume in self.volumes]
        layout = h5py.VirtualLayout((len(self.members), *sizes), np.result_type(*types))
        for i, (member, dtype) in enumerate(zip(self.members, types, strict=True)):
            path = os.path.relpath(member.path, self.folder)
            source = h5py.VirtualSource(path, f"entry/{self.name}/{array}", shape, dtype)
            layout[i] = source[part]
        fill = np.nan if array.startswith("data") else 0
        group.create_virtual_dataset(array, layout, fillvalue=fill)


def _add_planes(entry: h5py.Group, name: str, index: int, sources: _Sources, direct: bool) -> None:
    """Add one plane against temperature as the default plot; it is virtual, too."""
    stack = entry[name]
    axes = [str(axis) for axis in stack.attrs["axes"]]
    group = add_group(
        entry, PLANE, "NXdata", signal="data", axes=[axes[0], *axes[2:]], **{PLANE_OF: name}
    )
    for array in ("data", "data_errors"):
        sources.add(group, array, index)
    for i, axis in enumerate(group.attrs["axes"]):
        entry.copy(stack[axis], group, name=axis)
        group.attrs[f"{axis}_indices"] = i
    group["title"] = f"{text(stack['title'])}, {axes[1]} = {stack[axes[1]][index]:.4g}"
    set_view(group, [0], direct)
    entry.attrs["default"] = PLANE


def doubts_of(members: Sequence[Member], volumes: Sequence[OpenVolume]) -> list[str]:
    """Return the doubts about the members, and corrections that only some of them have."""
    of_members = [
        f"{member.scan}: {sentence}"
        for member, volume in zip(members, volumes, strict=True)
        for sentence in volume.doubts
    ]
    return unlike_corrections([member.scan for member in members], volumes) + of_members


def _write_reflections(entry: h5py.Group, reflections: Intensities, at: Floats, axis: Axis) -> None:
    group = add_group(
        entry,
        "reflections",
        "NXdata",
        signal="intensity",
        axes=["reflection", axis.name],
    )
    group["title"] = "integrated intensities"
    units = "S * r.l.u.^3"
    add_array(group, "intensity", reflections.intensity, units, interpretation="spectrum")
    add_array(group, "intensity_errors", reflections.sigma, units)
    add_array(group, "reflection", np.arange(len(reflections.hkl)))
    add_array(group, axis.name, at, axis.units, long_name=axis.label)
    add_array(group, "hkl", reflections.hkl, "r.l.u.")


def axis_of(group: h5py.Group) -> Axis:
    """Return the axis of a stack from its NXdata; its symbol is not in the file."""
    name = str(group.attrs["axes"][0])
    units = str(group[name].attrs.get("units", ""))
    return TEMPERATURE if name == TEMPERATURE.name else Axis(name, name, units or "1")


def volumes_of(signal: h5py.Dataset, path: Path) -> list[tuple[Path, list[str]]]:
    """Return file and path inside of each volume of a stack, in the order of its temperatures.

    Raises
    ------
    HklflowError
        If a file is missing: the stack would read as not measured at its temperature.
    """
    if not signal.is_virtual:
        raise HklflowError(f"{path} is no stack of volumes that hklflow made; make it again")
    sources = sorted(signal.virtual_sources(), key=lambda s: s.vspace.get_select_bounds()[0][0])
    found = []
    for source in sources:
        file = Path(signal.file.filename).parent / source.file_name
        if not file.is_file():
            raise HklflowError(
                f"{file}, a volume of the stack {path}, is missing; move the stack together with "
                "its scans, or make it again"
            )
        found.append((file, [part for part in source.dset_name.split("/") if part][:-1]))
    return found
