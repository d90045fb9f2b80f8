"""Write the two volumes of a transform: with all pixels, and without pixels in the 3-D mask."""

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
    """Writer of both volumes, layer by layer.

    Parameters
    ----------
    path, masked_path : Path
    grid : Grid
    cell : (6,) array
        Cell, Å and degrees.
    counts_dtype : numpy dtype
        Type of the stored counts.
    variance : bool
        True if the boxes have variances of the counts.
    exact : bool
        True: store norms and variances as float64, without rounding, for volumes that will be
        added.
    background : bool
        True if the boxes have a background, which was subtracted from the counts.
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
        background: bool = False,
    ) -> None:
        self._names = ("counts", "norm") + ("variance",) * variance + ("background",) * background
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
                background=background,
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
        """Write boxes of voxels; each must consist of whole chunks of the files.

        Voxels outside all boxes were not measured; they take no space and read as zeros.
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
        """Record the notes of the stage."""
        for writer in self._writers:
            writer.note(notes)


def _store(values: NDArray[Any], target: h5py.Dataset, at: tuple[slice, ...]) -> None:
    # astype is ten times as fast as the conversion of HDF5.
    target[at] = values.astype(target.dtype, copy=False)


def _copy_chunks(
    source: h5py.Dataset, target: h5py.Dataset, first: tuple[int, int, int], shape: tuple[int, ...]
) -> None:
    """Copy compressed chunks without decompressing them."""
    starts = (range(i, i + n, c) for i, n, c in zip(first, shape, source.chunks, strict=True))
    for at in product(*starts):
        mask, packed = source.id.read_direct_chunk(at)
        target.id.write_direct_chunk(at, packed, mask)
