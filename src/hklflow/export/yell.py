"""HDF5 of Yell, which DISCUS, meerkat and 3DSConvert also read.

Datasets: ``data`` [h, k, l] (or [u, v, w]), ``lower_limits``, ``step_sizes``, ``unit_cell``,
``is_direct`` and ``format`` ("Yell 1.0"). Yell's manual (github.com/YellProgram/Yell,
documentation/reference.md) asks for an even number of voxels with 000 at n/2; a grid of n = 2m + 1
voxels around 000 loses its last plane for Yell. DISCUS (`kuplot`, hdf5_read) takes any grid.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hklflow.export.source import Slab, Source, as_json
from hklflow.formats.hdf5_output import hdf5_output
from hklflow.nexus.entry import PACKED

_CHUNK = 64
_NO_ERRORS = "the format holds no errors; write them with --errors to a second file"


def write(source: Source, path: Path) -> list[str]:
    """Write a volume for Yell, and for S(Q) the weights 1/σ as ``NAME_weights.h5``."""
    grid = source.grid
    middle = (np.array(grid.shape) - 1) / 2 * grid.step
    centred = np.abs(grid.first + middle) < 1e-6 * grid.step
    n = np.array(grid.shape)
    cut = (n % 2 == 1) & (n > 1) & centred
    shape: tuple[int, ...] = tuple((n - cut).tolist())
    notes = _write(source, path, shape, weights=False)
    if cut.any():
        axes = [
            name for name, use in zip("xyz" if source.direct else "hkl", cut, strict=True) if use
        ]
        notes.append(
            f"Yell needs an even number of voxels: the last plane along {', '.join(axes)} is left "
            "out"
        )
    if source.has_errors and not source.direct:
        weights = path.with_name(f"{path.stem}_weights{path.suffix}")
        _write(source, weights, shape, weights=True)
        notes.append(
            f"weights 1/σ, 0 for voxels without a value, are in {weights.name}; name the files "
            "experiment.h5 and weights.h5 for Yell"
        )
    elif source.has_errors:
        notes.append(_NO_ERRORS)
    return notes


def write_discus(source: Source, path: Path) -> list[str]:
    """Write all planes of a volume, for DISCUS."""
    notes = _write(source, path, source.grid.shape, weights=False)
    return [*notes, _NO_ERRORS] if source.has_errors else notes


def _write(source: Source, path: Path, shape: tuple[int, ...], *, weights: bool) -> list[str]:
    grid = source.grid
    facts = source.facts | ({"quantity": "least-squares weights, 1/σ"} if weights else {})
    n_h, n_k, n_l = shape
    chunks = (min(_CHUNK, n_h), min(_CHUNK, n_k), min(16, n_l))
    with hdf5_output(path, libver=("earliest", "v110")) as file:
        file.attrs["filetype"] = "Yell 1.0"
        file.attrs["hklflow"] = as_json(facts)
        file.create_dataset("format", data="Yell 1.0", dtype=h5py.string_dtype("ascii"))
        file["is_direct"] = np.int8(source.direct)
        file["lower_limits"] = grid.first
        file["step_sizes"] = grid.step
        file["unit_cell"] = source.cell
        data = file.create_dataset("data", shape, "<f4", chunks=chunks, **PACKED)
        for slab in source.slabs():
            last = min(slab.last, n_l)
            values = _weights(slab) if weights else slab.data
            data[:, :, slab.first : last] = values[: last - slab.first, :n_k, :n_h].T
    return [f"voxels without a value are {source.unmeasured:g}"]


def _weights(slab: Slab) -> Any:
    errors = slab.errors
    assert errors is not None  # the caller has asked
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((errors > 0) & np.isfinite(errors), 1 / errors, 0).astype(np.float32)
