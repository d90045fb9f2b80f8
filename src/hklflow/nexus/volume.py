"""Volumes on an hkl grid, whole or slab by slab."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from hklflow.core.grid import Grid
from hklflow.core.lattice import reciprocal
from hklflow.nexus.chunks import pack, take
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
    variance : bool
        Whether the variance of the counts will be, where that is not the counts: with read noise.
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
        variance: bool = False,
    ) -> None:
        self._grid, self._cell, self._title, self._fast = grid, cell, title, fast
        self._context = create(path, title, "transform")
        # The norm is a sum of up to 1e5 terms: single precision keeps 6e-8 of it.
        self._types: dict[str, Any] = {"counts": counts_dtype, "norm": np.float32}
        if variance:
            self._types["variance"] = np.float32
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
            packed = hdf5plugin.Bitshuffle(cname="lz4")
        for name, dtype in self._types.items():
            # What was not measured: no counts, no norm, no S.
            fill = np.nan if name.startswith("data") else 0
            dataset = self._group.create_dataset(
                name, shape=shape, dtype=dtype, chunks=self._chunks, fillvalue=fill, **packed
            )
            if name == "variance":
                dataset.attrs["description"] = "of the counts: photons and read noise"
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

    def write(self, first: int, **arrays: NDArray[Any]) -> None:
        """Write planes from ``first`` on: all that was announced, by name.

        Raises
        ------
        ValueError
            If the planes do not begin and end with layers of chunks.
        """
        for rows in self.strips:
            self.write_rows(first, rows, **arrays)

    @property
    def strips(self) -> list[slice]:
        """Rows along k that chunks have in common."""
        n_k, step = self._grid.array_shape[1], self._chunks[1]
        return [slice(k, min(k + step, n_k)) for k in range(0, n_k, step)]

    def write_rows(self, first: int, rows: slice, **arrays: NDArray[Any]) -> None:
        """Write one of the `strips` of planes (l, k, h); see `write`."""
        put = self._write_fast if self._fast else self._write_strip
        for name in self._types:
            planes, stop = arrays[name], first + len(arrays[name])
            if first % PLANES or (stop % PLANES and stop != self._grid.array_shape[0]):
                raise ValueError(f"planes {first} to {stop} are not whole layers of {PLANES}")
            for start in range(0, len(planes), PLANES):
                layer = planes[start : start + PLANES, rows]
                put(self._group[name], (first + start, rows.start), layer)

    # What is not written takes no room and reads as the fill value.

    def _write_strip(self, dataset: h5py.Dataset, at: tuple[int, int], strip: NDArray[Any]) -> None:
        chunk = np.empty(self._chunks, dataset.dtype)
        for h in range(0, strip.shape[2], self._chunks[2]):
            if take(strip, h, dataset.fillvalue, chunk):
                dataset.id.write_direct_chunk((*at, h), pack(chunk))

    def _write_fast(self, dataset: h5py.Dataset, at: tuple[int, int], strip: NDArray[Any]) -> None:
        fill, n_h = dataset.fillvalue, self._chunks[2]
        used = np.flatnonzero(
            (strip == strip if np.isnan(fill) else strip != fill).any(axis=(0, 1))
        )
        if len(used):
            l, k = (slice(i, i + n) for i, n in zip(at, strip.shape, strict=False))  # noqa: E741
            h = slice(used[0] // n_h * n_h, (used[-1] // n_h + 1) * n_h)
            dataset[l, k, h] = strip[:, :, h]

    @property
    def datasets(self) -> dict[str, h5py.Dataset]:
        """The volumes in the file, by name, to be written chunk by chunk."""
        return {name: self._group[name] for name in self._types}

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
    def has_variance(self) -> bool:
        """Whether the counts have a variance of their own, with read noise."""
        return "variance" in self.group

    def variance(self, region: Any) -> Floats:
        """Variance of the counts in a region (l, k, h): of photons, the counts."""
        name = "variance" if self.has_variance else "counts"
        values: Floats = self.group[name][region].astype(np.float64)
        return values

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


class SideBySide:
    """Reads planes of several volumes of the same grid so that each chunk is unpacked once.

    Attributes
    ----------
    noisy : bool
        Whether a volume has a variance of its own, with read noise.
    """

    def __init__(self, volumes: Sequence[OpenVolume]) -> None:
        names = ["counts", "norm"]
        self.noisy = any(volume.has_variance for volume in volumes)
        self._stored = [[volume.group[name] for volume in volumes] for name in names]
        if self.noisy:
            variances = ["variance" if v.has_variance else "counts" for v in volumes]
            self._stored.append([v.group[n] for v, n in zip(volumes, variances, strict=True)])
        self._memory = [
            np.empty(0, np.result_type(*(d.dtype for d in datasets))) for datasets in self._stored
        ]

    def strips(self, first: int, last: int) -> Iterator[tuple[slice, list[NDArray[Any]]]]:
        """Some planes in strips along k.

        Parameters
        ----------
        first, last : int
            Planes, multiples of `PLANES` or the end.

        Yields
        ------
        rows : slice
            Along k.
        sums : list of (n, last - first, rows, h) arrays
            Counts, norm and, with read noise in any of the volumes, variance of the counts, as
            stored; overwritten by the next strip.
        """
        _, n_k, n_h = self._stored[0][0].shape
        step = self._stored[0][0].chunks[1]
        for k in range(0, n_k, step):
            rows = slice(k, min(k + step, n_k))
            shape = (len(self._stored[0]), last - first, rows.stop - k, n_h)
            size = int(np.prod(shape))
            for i, memory in enumerate(self._memory):
                if memory.size < size:
                    self._memory[i] = np.empty(size, memory.dtype)
            sums = [memory[:size].reshape(shape) for memory in self._memory]
            for strip, datasets in zip(sums, self._stored, strict=True):
                for i, dataset in enumerate(datasets):
                    dataset.read_direct(strip, np.s_[first:last, rows], np.s_[i])
            yield rows, sums


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
