"""Series along temperature: a folder for nxs_analysis_tools, and one file for X-TEC.

``TempDependence`` of nxs_analysis_tools (0.1.16) opens a folder with files ``*_<T>.nxs`` that have
``entry/transform`` with ``data`` [l, k, h] and the axes Qh, Qk, Ql. X-TEC takes an array
[T, l, k, h] (xtec.Preprocessing.Mask_Zeros) in which 0 means not measured; ``to_xtec`` of
nxs_analysis_tools puts it in ``entry/data`` with the axis ``Te``.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.export.source import Source, Stack, as_json
from hklflow.formats.hdf5_output import hdf5_output
from hklflow.geometry.lattice import reciprocal
from hklflow.nexus.entry import PACKED, add_array, add_group, create
from hklflow.nexus.grid_writer import GridWriter
from hklflow.nexus.provenance import read_provenance, write_provenance


def write_temperatures(stack: Stack, folder: Path) -> list[str]:
    """Write each volume of a stack as ``NAME_<T>.nxs``, where NAME is the folder.

    Raises
    ------
    HklflowError
        If two volumes have the same temperature, or one is negative.
    """
    if not stack.axis.is_temperature:
        raise HklflowError(
            f"{stack.path} is a stack along {stack.axis.name}, and nxs_analysis_tools reads "
            "temperatures only; use the format xtec"
        )
    names = [f"{kelvin:.10g}" for kelvin in stack.temperatures]
    for name in names:
        if names.count(name) > 1:
            raise HklflowError(
                f"{stack.path} has {names.count(name)} volumes at {name} K, and a file for each "
                "temperature cannot hold them; use the format xtec, or stack one scan for each "
                "temperature"
            )
        if not name.replace(".", "", 1).isdigit():
            raise HklflowError(
                f"{stack.path} has a volume at {name} K, which nxs_analysis_tools cannot read from "
                "a file name; correct the temperature in scans.tsv"
            )
    folder.mkdir()
    for name, volume in zip(names, stack.volumes, strict=True):
        _write_volume(folder / f"{folder.name}_{name}.nxs", volume, float(name))
    return [f"{len(names)} files: {', '.join(names)} K"]


def _write_volume(path: Path, volume: Source, kelvin: float) -> None:
    types = {"data": np.float32}
    if volume.has_errors:
        types["data_errors"] = np.float32
    title = f"{volume.facts['title']}, {kelvin:g} K"
    with GridWriter(path, volume.grid, volume.cell, title, types) as writer:
        for slab in volume.slabs():
            arrays = {"data": slab.data} | (
                {"data_errors": slab.errors} if slab.errors is not None else {}
            )
            writer.write(slab.first, **arrays)
        writer.note({"exported from": volume.facts} | _symmetry(volume))
    with hdf5_output(path, "r+") as file:
        add_array(file["entry/sample"], "temperature", kelvin, "K")
    write_provenance(path, read_provenance(volume.path))  # it says if the product is diagnostic


def _symmetry(volume: Source) -> dict[str, Any]:
    """Return the note on repeated measurements, without which errors of cuts are too small."""
    from hklflow.geometry.symmetry import space_group

    if not volume.facts["symmetrised"]:
        return {}
    symbol = volume.facts["space group"]
    return {"operations": space_group(symbol).laue_operations.tolist(), "space_group": symbol}


def write_xtec(stack: Stack, path: Path) -> list[str]:
    """Write a stack as one array [T, l, k, h]."""
    first = stack.volumes[0]
    shape = first.grid.array_shape
    chunks = (1, *(min(n, size) for n, size in zip((16, 64, 64), shape, strict=True)))
    with create(path, str(first.facts["title"]), "data") as entry:
        group = add_group(
            entry, "data", "NXdata", signal="data", axes=["Te", "Ql", "Qk", "Qh"], Te_indices=0
        )
        data = group.create_dataset(
            "data", (len(stack.volumes), *shape), "<f4", chunks=chunks, **PACKED
        )
        data.attrs["long_name"] = first.facts["quantity"]
        for number, volume in enumerate(stack.volumes):
            for slab in volume.slabs():
                data[number, slab.first : slab.last] = slab.data
        add_array(group, "Te", stack.temperatures, stack.axis.units, long_name=stack.axis.label)
        lengths = reciprocal(first.cell)[:3]
        for i, name in enumerate(("Qh", "Qk", "Ql")):
            group.attrs[f"{name}_indices"] = 3 - i
            add_array(
                group,
                name,
                first.grid.axis(i),
                "r.l.u.",
                long_name=f"{name} (r.l.u.)",
                scaling_factor=lengths[i],
            )
        sample = add_group(entry, "sample", "NXsample")
        cells = np.array([volume.cell for volume in stack.volumes])
        add_array(sample, "unit_cell", cells, "angstrom, degree")
        add_array(sample, stack.axis.name, stack.temperatures, stack.axis.units)
        entry.attrs["hklflow"] = as_json(first.facts)
    return [
        f"voxels without a value are {first.unmeasured:g}",
        "X-TEC takes no errors, and they are not written",
    ]
