"""MDHistoWorkspace of Mantid, as its algorithm SaveMD (version 2) writes it and LoadMD reads it.

Layout from Mantid's sources Framework/MDAlgorithms/src/SaveMD2.cpp and LoadMD.cpp: the axes are bin
edges with ``long_name``, ``units`` and ``frame``; ``signal``, ``errors_squared`` and ``num_events``
are double precision [l, k, h], ``mask`` is int8. hklflow's Q is kf - ki, which Mantid calls
``Crystallography``: Mantid turns the signs of h, k, l if its own setting is ``Inelastic``.
"""

from pathlib import Path

import numpy as np

from hklflow.export.source import Source, as_json
from hklflow.formats.hdf5_output import hdf5_output
from hklflow.nexus.entry import PACKED, add_group

_AXES = ("[H,0,0]", "[0,K,0]", "[0,0,L]")
_HKL = 3  # SpecialCoordinateSystem::HKL
_NO_NORMALIZATION = 0  # MDNormalization::NoNormalization


def write(source: Source, path: Path) -> list[str]:
    """Write a volume of hkl as a workspace; return notes about what it cannot hold."""
    grid = source.grid
    counts = source.plottable.group.get("counts")
    with hdf5_output(path, libver=("earliest", "v110")) as file:
        entry = add_group(file, "MDHistoWorkspace", "NXentry")
        entry.attrs["SaveMDVersion"] = np.int32(2)
        entry.attrs["QConvention"] = "Crystallography"
        entry.attrs["hklflow"] = as_json(source.facts)
        entry["coordinate_system"] = np.array([_HKL], np.uint32)
        entry["visual_normalization"] = np.array([_NO_NORMALIZATION], np.uint32)
        data = add_group(entry, "data", "NXdata")
        for i, name in enumerate(_AXES):
            centres = grid.axis(i)
            edges = np.append(centres, centres[-1] + grid.step[i]) - grid.step[i] / 2
            data[name] = edges
            data[name].attrs.update({"units": "r.l.u.", "long_name": name, "frame": "HKL"})
        types = {"signal": "f8", "errors_squared": "f8", "num_events": "f8", "mask": "i1"}
        shape = grid.array_shape
        arrays = {
            name: data.create_dataset(name, shape, kind, chunks=(1, *shape[1:]), **PACKED)
            for name, kind in types.items()
        }
        arrays["signal"].attrs["signal"] = np.int32(1)
        arrays["signal"].attrs["axes"] = ":".join(_AXES[::-1])
        for slab in source.slabs():
            planes = slice(slab.first, slab.last)
            measured = np.isfinite(slab.data)
            arrays["signal"][planes] = slab.data
            squares = 0.0 if slab.errors is None else np.square(slab.errors, dtype=np.float64)
            arrays["errors_squared"][planes] = np.where(measured, squares, np.nan)
            events = measured if counts is None else np.where(measured, counts[planes], 0)
            arrays["num_events"][planes] = events
            arrays["mask"][planes] = ~measured
    notes = ["the cell and UB are not in the workspace: set them in Mantid with SetUB"]
    if not source.has_errors:
        notes.append("errors are written as 0")
    if counts is None:
        notes.append("the product has no counts: num_events is 1 for each voxel with a value")
    return notes
