"""Volumes on an hkl grid, whole or slab by slab."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.core.grid import Grid
from hklflow.core.lattice import reciprocal
from hklflow.nexus.entry import PACKED, add_array, add_group, create, open_entry, text

Floats = NDArray[np.float64]

#: Planes of a chunk in the file.
PLANES = 16


@dataclass(frozen=True)
class Volume:
    """Accumulated counts and norm on a grid, with S and its errors once derived.

    Attributes
    ----------
    grid : Grid
    cell : (6,) array
        Å and degrees: the scale and the angles of the axes.
    counts, norm : (l, k, h) arrays
    data, errors : (l, k, h) arrays or None
        S and σ(S); NaN where nothing was measured.
    notes : dict
        What was done, in words and numbers.
    """

    grid: Grid
    cell: Floats
    counts: Floats
    norm: Floats
    data: Floats | None = None
    errors: Floats | None = None
    notes: dict[str, Any] = field(default_factory=dict)


class VolumeWriter:
    """Write a volume slab by slab along l, so that it need not fit in memory.

    The default plot is S(Q) (or the counts, before the merge). Axes label voxel centres.
    The NXdata carries the angles between its axes and the axes carry their
    ``scaling_factor`` in 1/Å, which NeXpy uses to draw skewed cells with their true shape.

    Parameters
    ----------
    counts_dtype : numpy dtype
        Of the counts as stored.
    derived : bool
        Whether S and its errors will be written too.
    fast : bool
        Pack with bitshuffle and LZ4, ten times faster than gzip: for volumes that only hklflow
        reads. Gzip needs no plugin.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        cell: Floats,
        title: str,
        counts_dtype: Any,
        derived: bool,
        fast: bool = False,
    ) -> None:
        self._grid, self._cell, self._title, self._fast = grid, cell, title, fast
        self._context = create(path, title, "transform")
        # The norm is a sum of up to 1e5 terms: single precision keeps 6e-8 of it.
        self._types: dict[str, Any] = {"counts": counts_dtype, "norm": np.float32}
        if derived:
            self._types = {"data": np.float32, "data_errors": np.float32} | self._types

    def __enter__(self) -> "VolumeWriter":
        lengths, angles = np.split(reciprocal(self._cell), 2)
        self._entry = self._context.__enter__()
        self._group = add_group(
            self._entry,
            "transform",
            "NXdata",
            signal=next(iter(self._types)),
            axes=["Ql", "Qk", "Qh"],
            Ql_indices=0,
            Qk_indices=1,
            Qh_indices=2,
            # between (Qh, Qk), (Qh, Ql), (Qk, Ql), in the order NeXpy expects
            angles=angles[::-1].copy(),
        )
        shape = self._grid.array_shape
        self._chunks = (min(PLANES, shape[0]), min(64, shape[1]), min(64, shape[2]))
        packed: Any = PACKED
        if self._fast:
            import hdf5plugin

            packed = hdf5plugin.Bitshuffle(cname="lz4")
        for name, dtype in self._types.items():
            self._group.create_dataset(
                name, shape=shape, dtype=dtype, chunks=self._chunks, **packed
            )
        for i, name in enumerate(("Qh", "Qk", "Ql")):
            add_array(
                self._group,
                name,
                self._grid.axis(i),
                "r.l.u.",
                long_name=f"{name} (r.l.u.)",
                scaling_factor=lengths[i],
            )
        self._group["title"] = self._title
        sample = add_group(self._entry, "sample", "NXsample")
        add_array(sample, "unit_cell", self._cell, "angstrom, degree")
        return self

    def write(self, first: int, **arrays: Floats) -> None:
        """Write planes from ``first`` on: counts, norm and, if derived, data and data_errors.

        It is quick in multiples of `PLANES`.
        """
        for name in self._types:
            self._write(self._group[name], first, arrays[name])

    def _write(self, dataset: h5py.Dataset, first: int, planes: Floats) -> None:
        # What is not written takes no room and reads as zeros.
        _, n_k, n_h = self._chunks
        for k in range(0, planes.shape[1], n_k):
            rows = planes[:, k : k + n_k]
            used = np.flatnonzero(rows.any(axis=(0, 1)))
            if len(used):
                h = slice(used[0] // n_h * n_h, (used[-1] // n_h + 1) * n_h)
                dataset[first : first + len(planes), k : k + n_k, h] = rows[:, :, h]

    def note(self, notes: Mapping[str, Any]) -> None:
        """Record what was done, in words and numbers."""
        group = add_group(self._entry, "notes", "NXcollection")
        group["grid"] = json.dumps(self._grid.to_dict())
        group["notes"] = json.dumps(notes)

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def write_volume(path: Path, volume: Volume, title: str) -> None:
    """Write a volume that is in memory; see `VolumeWriter`."""
    counts = _smallest(volume.counts)
    derived = volume.data is not None and volume.errors is not None
    arrays = {"counts": counts, "norm": volume.norm}
    if volume.data is not None and volume.errors is not None:
        arrays |= {"data": volume.data, "data_errors": volume.errors}
    with VolumeWriter(path, volume.grid, volume.cell, title, counts.dtype, derived) as writer:
        writer.write(0, **arrays)
        writer.note(volume.notes)


def _smallest(counts: Floats) -> NDArray[Any]:
    """Counts as uint32 when they are whole and fit: exact, and half the space."""
    whole = counts.size > 0 and counts.max() < 2**32 and bool(np.all(counts == np.rint(counts)))
    return counts.astype(np.uint32) if whole else counts


@dataclass(frozen=True)
class OpenVolume:
    """A volume on disk, read by planes; see `open_volume`."""

    grid: Grid
    cell: Floats
    group: h5py.Group

    @property
    def counts_are_whole(self) -> bool:
        """Whether the counts are integers."""
        return bool(np.issubdtype(self.group["counts"].dtype, np.integer))

    @property
    def notes(self) -> dict[str, Any]:
        """What was done."""
        found: dict[str, Any] = json.loads(text(self.group.parent["notes/notes"]))
        return found

    def slab(self, first: int, last: int) -> tuple[Floats, Floats]:
        """Counts and norm (last - first, k, h) of some planes, as float64."""
        planes = slice(first, last)
        return (
            self.group["counts"][planes].astype(np.float64),
            self.group["norm"][planes].astype(np.float64),
        )


@contextmanager
def open_volume(path: Path) -> Iterator[OpenVolume]:
    """Open a volume without reading it."""
    with open_entry(path) as entry:
        grid = Grid.from_dict(json.loads(text(entry["notes/grid"])))
        yield OpenVolume(grid, entry["sample/unit_cell"][()], entry["transform"])


def read_volume(path: Path) -> Volume:
    """Read a volume (counts and norm as float64)."""
    with open_entry(path) as entry:
        group = entry["transform"]
        derived = "data" in group
        return Volume(
            grid=Grid.from_dict(json.loads(text(entry["notes/grid"]))),
            cell=entry["sample/unit_cell"][()],
            counts=group["counts"][()].astype(np.float64),
            norm=group["norm"][()].astype(np.float64),
            data=group["data"][()] if derived else None,
            errors=group["data_errors"][()] if derived else None,
            notes=json.loads(text(entry["notes/notes"])),
        )
