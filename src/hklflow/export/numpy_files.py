"""Arrays of numpy with a JSON file about axes, cell and conventions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from hklflow.export.source import Slab, Source, as_json


def write(source: Source, path: Path) -> list[str]:
    """Write ``NAME.npy``, ``NAME_errors.npy`` and ``NAME.json``."""
    shape = source.grid.array_shape
    _stream(path, shape, source, lambda slab: slab.data)
    files = {"data": path.name}
    if source.has_errors:
        errors = path.with_name(f"{path.stem}_errors.npy")
        _stream(errors, shape, source, lambda slab: slab.errors)
        files["errors"] = errors.name
    names = "xyz" if source.direct else "hkl"
    axes = {name: source.grid.axis(i).tolist() for i, name in enumerate(names)}
    described: dict[str, Any] = {
        "files": files,
        "order": list(names[::-1]),
        "shape": list(shape),
        "axis values": axes,
        "grid": source.grid.to_dict(),
        "Cartesian vectors of one unit of each axis (columns)": source.basis.tolist(),
        "unit of Cartesian vectors": source.length_unit,
        **source.facts,
    }
    path.with_suffix(".json").write_text(as_json(described, indent=1) + "\n", encoding="utf-8")
    return [] if source.has_errors or source.only_errors else ["the product has no errors"]


def _stream(
    path: Path, shape: tuple[int, ...], source: Source, part: Callable[[Slab], Any]
) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, header)
        for slab in source.slabs():
            file.write(np.ascontiguousarray(part(slab), "<f4").tobytes())
