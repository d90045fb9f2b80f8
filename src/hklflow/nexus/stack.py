"""Merged volumes along temperature as one virtual four-dimensional NXdata."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.core.lattice import reciprocal
from hklflow.errors import HklflowError
from hklflow.nexus.entry import add_array, add_group, create
from hklflow.nexus.volume import OpenVolume, open_volume

Floats = NDArray[np.float64]

_ARRAYS = ("data", "data_errors", "counts", "norm")


@dataclass(frozen=True)
class Member:
    """One merged volume of a stack: its file, the scan's name, and its temperature in K."""

    path: Path
    scan: str
    temperature: float


@dataclass(frozen=True)
class Intensities:
    """Integrated intensities of n reflections at t temperatures.

    Attributes
    ----------
    hkl : (n, 3) array
    intensity, sigma : (n, t) arrays
        S × r.l.u.³; NaN where not measured. σ is that of the photons alone, see `core.boxes`.
    """

    hkl: Floats
    intensity: Floats
    sigma: Floats


@contextmanager
def open_members(members: Sequence[Member]) -> Iterator[list[OpenVolume]]:
    """Open the volumes of a stack without reading them.

    Raises
    ------
    HklflowError
        If one is not merged, or its grid differs from that of the others.
    """
    with ExitStack() as stack:
        volumes = [stack.enter_context(open_volume(member.path)) for member in members]
        for member, volume in zip(members, volumes, strict=True):
            missing = [name for name in _ARRAYS if name not in volume.group]
            if missing:
                raise HklflowError(
                    f"{member.path} has no {', '.join(missing)}: it is no merged volume; "
                    "give those that the stage merge wrote"
                )
        # The grid that most of them have; among equals the hottest's, which is often the parent's.
        alike = [sum(v.grid.same_as(other.grid) for other in volumes) for v in volumes]
        usual = max(range(len(volumes)), key=lambda i: (alike[i], i))
        for member, volume in zip(members, volumes, strict=True):
            if not volume.grid.same_as(volumes[usual].grid):
                raise HklflowError(
                    f"{member.path} has another grid ({volume.grid.to_dict()}) than "
                    f"{members[usual].path} ({volumes[usual].grid.to_dict()}); transform the scan "
                    "again with the parent of the others"
                )
        yield volumes


def read_box(volume: OpenVolume, region: tuple[slice, slice, slice]) -> tuple[Floats, Floats]:
    """Counts and norm (l, k, h) of a part of a volume."""
    counts, norm = (volume.group[name][region].astype(np.float64) for name in ("counts", "norm"))
    return counts, norm


def write_stack(
    path: Path,
    title: str,
    members: Sequence[Member],
    volumes: Sequence[OpenVolume],
    reflections: Intensities,
) -> None:
    """Write the stack: links to the members' arrays, and intensities of reflections.

    ``transform`` is one NXdata (temperature, Ql, Qk, Qh) of virtual datasets. The members'
    paths in it are relative to its own folder, so that both can be moved together; where a
    member is missing, data and errors read as NaN and the norm as 0.

    Parameters
    ----------
    members : sequence of Member
        In ascending order of temperature.
    volumes : sequence of OpenVolume
        The members, opened by `open_members`.
    """
    grid, cell = volumes[0].grid, volumes[0].cell
    lengths, angles = np.split(reciprocal(cell), 2)
    at = np.array([member.temperature for member in members], dtype=np.float64)
    with create(path, title, "transform") as entry:
        group = add_group(
            entry,
            "transform",
            "NXdata",
            signal="data",
            axes=["temperature", "Ql", "Qk", "Qh"],
            temperature_indices=0,
            Ql_indices=1,
            Qk_indices=2,
            Qh_indices=3,
            angles=angles[::-1].copy(),
        )
        for name in _ARRAYS:
            dtype = np.result_type(*(volume.group[name].dtype for volume in volumes))
            layout = h5py.VirtualLayout((len(members), *grid.array_shape), dtype)
            for i, member in enumerate(members):
                layout[i] = h5py.VirtualSource(
                    os.path.relpath(member.path, path.parent),
                    f"entry/transform/{name}",
                    grid.array_shape,
                    volumes[i].group[name].dtype,
                )
            fill = np.nan if name.startswith("data") else 0
            group.create_virtual_dataset(name, layout, fillvalue=fill)
        add_array(group, "temperature", at, "K", long_name="temperature (K)")
        for i, name in enumerate(("Qh", "Qk", "Ql")):
            add_array(
                group,
                name,
                grid.axis(i),
                "r.l.u.",
                long_name=f"{name} (r.l.u.)",
                scaling_factor=lengths[i],
            )
        group["title"] = title
        _write_reflections(entry, reflections, at)
        sample = add_group(entry, "sample", "NXsample")
        cells = np.array([volume.cell for volume in volumes])
        add_array(sample, "unit_cell", cells, "angstrom, degree")
        add_array(sample, "temperature", at, "K")
        names = [member.scan for member in members]
        sample.create_dataset("scan", data=names, dtype=h5py.string_dtype())


def _write_reflections(entry: h5py.Group, reflections: Intensities, at: Floats) -> None:
    group = add_group(
        entry,
        "reflections",
        "NXdata",
        signal="intensity",
        axes=["reflection", "temperature"],
    )
    group["title"] = "integrated intensities"
    units = "S * r.l.u.^3"
    add_array(group, "intensity", reflections.intensity, units, interpretation="spectrum")
    add_array(group, "intensity_errors", reflections.sigma, units)
    add_array(group, "reflection", np.arange(len(reflections.hkl)))
    add_array(group, "temperature", at, "K", long_name="temperature (K)")
    add_array(group, "hkl", reflections.hkl, "r.l.u.")
