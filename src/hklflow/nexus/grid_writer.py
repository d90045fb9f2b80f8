"""Write arrays on a grid of hkl, or of direct space, slab by slab."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from hklflow.formats.hdf5_output import closed_on_failure
from hklflow.geometry.grid import Grid
from hklflow.geometry.lattice import reciprocal
from hklflow.nexus.default_view import add_plane, best_plane, set_view
from hklflow.nexus.entry import PACKED, add_array, add_group, create

Floats = NDArray[np.float64]

#: Number of planes of a chunk in the file.
PLANES = 16

# Number of rows along k, and of voxels along h, of a chunk. A plane across the rows decompresses
# all rows of its chunks: few rows make cuts fast. Volumes that hklflow reads as a whole have more.
_ROWS, _ROWS_FAST = 32, 64

_DESCRIPTIONS = {
    "variance": "of the counts: photons, read noise, and noise of the background",
    "background": "expected background, subtracted from counts: photons = counts + background",
    "data_background": "background that was subtracted, in units of data; NaN where not measured",
    "punched": (
        "0 measured, 1 punched and filled, 2 not measured and filled, 3 not measured and left"
    ),
}

# Label and unit of arrays on hkl, and in direct space.
_LABELS = {
    False: {
        "data": ("S(Q)", "counts per unit norm"),
        "data_errors": ("σ of S(Q)", "counts per unit norm"),
    },
    True: {
        "data": ("pair distribution", "S per angstrom^3"),
        "data_errors": ("σ of the pair distribution", "S per angstrom^3"),
    },
}


class GridWriter:
    """Writer of arrays on a grid, slab by slab, so that they need not fit in memory.

    The default plot is one plane of the first array, see `default_view`. Axes are at voxel centres.
    The NXdata has the angles between its axes, and each axis has a ``scaling_factor``. NeXpy uses
    both to draw skewed cells with their true shape.

    Parameters
    ----------
    grid : Grid
        Grid of hkl, or of x, y, z in fractions of a, b, c.
    cell : (6,) array
        Cell, Å and degrees.
    types : mapping of name to numpy dtype
        Arrays to write. Where nothing is written, floating-point arrays called ``data...`` read as
        NaN and all other arrays as 0.
    group : str
        Name of the NXdata.
    direct : bool
        True for a grid of x, y, z.
    signed : bool
        True if the first array has values of both signs; viewers then show it on a linear scale.
    fast : bool
        True: compress with bitshuffle and LZ4, ten times faster than gzip, for volumes that only
        hklflow reads; their default plot is the whole first array. False: compress with gzip,
        which needs no plugin.
    """

    def __init__(
        self,
        path: Path,
        grid: Grid,
        cell: Floats,
        title: str,
        types: Mapping[str, Any],
        *,
        group: str = "transform",
        direct: bool = False,
        signed: bool = False,
        fast: bool = False,
    ) -> None:
        self._grid, self._cell, self._title, self._fast = grid, cell, title, fast
        self._name, self._direct, self._signed = group, direct, signed
        self._measured = np.zeros(grid.shape[2], np.int64)
        self._types = dict(types)
        # HDF5 takes as long to find a dataset as to write a chunk, and new memory as long as `cut`.
        self._datasets: dict[str, h5py.Dataset] = {}
        self._memory: dict[np.dtype[Any], NDArray[Any]] = {}
        self._context = create(path, title, group)

    def __enter__(self) -> Self:
        self._entry = self._context.__enter__()
        with closed_on_failure(self._context):
            self._make_datasets()
        return self

    def _make_datasets(self) -> None:
        cell = self._cell if self._direct else reciprocal(self._cell)
        lengths, angles = np.split(np.asarray(cell, dtype=np.float64), 2)
        axes = ("x", "y", "z") if self._direct else ("Qh", "Qk", "Ql")
        self._group = add_group(
            self._entry,
            self._name,
            "NXdata",
            signal=next(iter(self._types)),
            axes=list(axes[::-1]),
            # between the axes (0, 1), (0, 2), (1, 2) of h, k, l: the order that NeXpy expects
            angles=angles[::-1].copy(),
            **{f"{name}_indices": 2 - i for i, name in enumerate(axes)},
        )
        shape = self._grid.array_shape
        rows = _ROWS_FAST if self._fast else _ROWS
        self._chunks = (min(PLANES, shape[0]), min(rows, shape[1]), min(rows, shape[2]))
        packed: Any = PACKED
        if self._fast:
            packed = hdf5plugin.Bitshuffle(cname="lz4")
        for name, dtype in self._types.items():
            # Voxels that were not measured have no counts, no norm and no S.
            floating = np.issubdtype(dtype, np.floating)
            fill = np.nan if name.startswith("data") and floating else 0
            dataset = self._datasets[name] = self._group.create_dataset(
                name, shape=shape, dtype=dtype, chunks=self._chunks, fillvalue=fill, **packed
            )
            if name in _DESCRIPTIONS:
                dataset.attrs["description"] = _DESCRIPTIONS[name]
            if name in _LABELS[self._direct]:
                label, unit = _LABELS[self._direct][name]
                dataset.attrs["long_name"] = f"{label} ({unit})"
                dataset.attrs["units"] = unit
        for i, name in enumerate(axes):
            label = f"{name} (unit cells)" if self._direct else f"{name} (r.l.u.)"
            add_array(
                self._group,
                name,
                self._grid.axis(i),
                "unit cells" if self._direct else "r.l.u.",
                long_name=label,
                scaling_factor=lengths[i],
            )
        self._group["title"] = self._title
        sample = add_group(self._entry, "sample", "NXsample")
        add_array(sample, "unit_cell", self._cell, "angstrom, degree")

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Shape (l, k, h) of the chunks in the file."""
        return self._chunks

    def write(self, first: int, **arrays: NDArray[Any]) -> None:
        """Write planes from ``first`` on; all arrays of ``types`` are given by name.

        Raises
        ------
        ValueError
            If the planes do not begin and end with whole chunks.
        """
        self.write_block((first, 0), **arrays)

    @property
    def strips(self) -> list[slice]:
        """Ranges of rows along k that share chunks."""
        n_k, step = self._grid.array_shape[1], self._chunks[1]
        return [slice(k, min(k + step, n_k)) for k in range(0, n_k, step)]

    def write_rows(self, first: int, rows: slice, **arrays: NDArray[Any]) -> None:
        """Write one of the `strips` of planes (l, k, h); see `write`."""
        self.write_block((first, rows.start), **{n: arrays[n][:, rows] for n in self._types})

    def write_block(self, at: tuple[int, int], **arrays: NDArray[Any]) -> None:
        """Write a block (l, k, h) of all h; ``at`` is its first plane and row.

        Raises
        ------
        ValueError
            If the block does not begin and end with whole chunks.
        """
        put = self._write_fast if self._fast else self._write_strip
        if not self._fast:
            self._count(at[0], arrays)
        for name in self._types:
            block, dataset = arrays[name], self._datasets[name]
            for begin, n, chunk, whole in zip(
                at, block.shape, self._chunks, self._grid.array_shape, strict=False
            ):
                if begin % chunk or ((begin + n) % chunk and begin + n != whole):
                    raise ValueError(f"{begin} to {begin + n} are not whole chunks of {chunk}")
            for l in range(0, block.shape[0], self._chunks[0]):  # noqa: E741
                for k in range(0, block.shape[1], self._chunks[1]):
                    part = block[l : l + self._chunks[0], k : k + self._chunks[1]]
                    put(dataset, (at[0] + l, at[1] + k), part)

    # Chunks that are not written take no space and read as the fill value.

    def _write_strip(self, dataset: h5py.Dataset, at: tuple[int, int], strip: NDArray[Any]) -> None:
        # Imported here, so that reading volumes does not need numba.
        from hklflow.nexus.chunks import cut, pack

        n, stored, dtype = -(-strip.shape[2] // self._chunks[2]), dataset.id, dataset.dtype
        if dtype not in self._memory:
            self._memory[dtype] = np.empty((n, *self._chunks), dtype)
        chunks, used = self._memory[dtype], np.empty(n, np.bool_)
        cut(strip, dataset.fillvalue, chunks, used)
        for i in np.flatnonzero(used):
            stored.write_direct_chunk((*at, int(i) * self._chunks[2]), pack(chunks[i]))

    def _write_fast(self, dataset: h5py.Dataset, at: tuple[int, int], strip: NDArray[Any]) -> None:
        fill, n_h = dataset.fillvalue, self._chunks[2]
        used = np.flatnonzero(
            (strip == strip if np.isnan(fill) else strip != fill).any(axis=(0, 1))
        )
        if len(used):
            l, k = (slice(i, i + n) for i, n in zip(at, strip.shape, strict=False))  # noqa: E741
            h = slice(used[0] // n_h * n_h, (used[-1] // n_h + 1) * n_h)
            dataset[l, k, h] = strip[:, :, h]

    def _count(self, first: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Count the measured voxels of a block (l, k, h), to choose the plane for viewers."""
        if "norm" in arrays:
            measured = arrays["norm"] > 0
        else:
            measured = np.isfinite(arrays[next(iter(self._types))])
        self._measured[first : first + len(measured)] += np.count_nonzero(measured, axis=(1, 2))

    @property
    def datasets(self) -> dict[str, h5py.Dataset]:
        """Datasets of the file by name; they must be written chunk by chunk."""
        return dict(self._datasets)

    def add_group(self, write: Callable[[h5py.Group], None]) -> None:
        """Let a function write a group of its own into the entry."""
        write(self._entry)

    def note(self, notes: Mapping[str, Any]) -> None:
        """Record the notes of the stage, in words and numbers."""
        group = add_group(self._entry, "notes", "NXcollection")
        group["grid"] = json.dumps(self._grid.to_dict())
        group["notes"] = json.dumps(notes)

    def __exit__(self, *error: Any) -> None:
        if error[0] is None and not self._fast:
            with closed_on_failure(self._context):
                index = best_plane(self._measured, self._grid.plane_near_zero(2))
                set_view(self._group, [index], self._signed)
                add_plane(self._entry, self._name, index, self._signed)
        self._context.__exit__(*error)
