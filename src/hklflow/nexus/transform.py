"""The two volumes of a transform: with everything, and without what the 3-D mask excludes."""

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.geometry.grid import Grid
from hklflow.nexus.volume import VolumeWriter

if TYPE_CHECKING:
    from hklflow.transform.binning import Box

Floats = NDArray[np.float64]


class TransformWriter:
    """Write both volumes layer by layer.

    Parameters
    ----------
    path, masked_path : Path
    grid : Grid
    cell : (6,) array
        Å and degrees.
    counts_dtype : numpy dtype
        Of the counts as stored.
    variance : bool
        Whether the boxes have variances of the counts.
    exact : bool
        Store norms and variances as float64, without rounding: for volumes that will be added.
    """

    def __init__(
        self,
        path: Path,
        masked_path: Path,
        grid: Grid,
        cell: Floats,
        counts_dtype: Any,
        variance: bool = False,
        exact: bool = False,
    ) -> None:
        self._names = ("counts", "norm", "variance") if variance else ("counts", "norm")
        titles = ("counts and norm, all", "counts and norm, without the 3-D mask")
        self._writers = [
            VolumeWriter(
                where,
                grid,
                cell,
                title,
                counts_dtype,
                False,
                fast=True,
                variance=variance,
                exact=exact,
            )
            for where, title in zip((path, masked_path), titles, strict=True)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> "TransformWriter":
        with ExitStack() as stack:
            for writer in self._writers:
                stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, boxes: "Iterable[Box]") -> None:
        """Write boxes of voxels, each a chunk of the files or made of some; see `CHUNK`.

        What is in none of them was not measured: it takes no room and reads as zeros.
        """
        full, masked = (writer.datasets for writer in self._writers)
        for box in boxes:
            at = tuple(slice(i, i + n) for i, n in zip(box.first, box.counts.shape, strict=True))
            for name in self._names:
                _store(getattr(box, name), full[name], at)
            if box.clean_counts is not box.counts:
                for name in self._names:
                    _store(getattr(box, f"clean_{name}"), masked[name], at)
                continue
            for name in self._names:
                _copy_chunks(full[name], masked[name], box.first, box.counts.shape)

    def note(self, notes: dict[str, Any]) -> None:
        """Record what was done."""
        for writer in self._writers:
            writer.note(notes)


def _store(values: NDArray[Any], target: h5py.Dataset, at: tuple[slice, ...]) -> None:
    # HDF5 converts ten times as slowly.
    target[at] = values.astype(target.dtype, copy=False)


def _copy_chunks(
    source: h5py.Dataset, target: h5py.Dataset, first: tuple[int, int, int], shape: tuple[int, ...]
) -> None:
    """Copy chunks as they are packed."""
    starts = (range(i, i + n, c) for i, n, c in zip(first, shape, source.chunks, strict=True))
    for at in product(*starts):
        mask, packed = source.id.read_direct_chunk(at)
        target.id.write_direct_chunk(at, packed, mask)
