"""Read slabs of volumes for computing: whole chunks are decompressed and put in their places.

HDF5 reads with its own filters under one lock. Here ISA-L decompresses, and a kernel puts
the numbers where they belong: several times as fast. `chunk_reader` does the same for planes and
cuts, without numba.
"""

from itertools import product
from math import prod
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.nexus.chunks import place, place_ranks

_SHUFFLE_GZIP = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE)


class SlabReader:
    """Reader of planes of one dataset (l, k, h); anything but hklflow's own layout is left to HDF5.

    Attributes
    ----------
    shape, dtype
        Those of the dataset.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._dataset, self._fill = dataset, dataset.fillvalue
        self._packed = self._is_packed()
        self._memory: NDArray[Any] | None = None
        self._stored: dict[tuple[int, ...], int] = {}
        if self._packed:
            dataset.id.chunk_iter(
                lambda chunk: self._stored.__setitem__(tuple(chunk.chunk_offset), chunk.filter_mask)
            )

    def _is_packed(self) -> bool:
        stored = self._dataset
        if stored.chunks is None or len(stored.shape) != 3 or stored.is_virtual:
            return False
        if stored.dtype.kind not in "iuf" or not stored.dtype.isnative:
            return False
        creation = stored.id.get_create_plist()
        filters = tuple(creation.get_filter(i)[0] for i in range(creation.get_nfilters()))
        return filters == _SHUFFLE_GZIP

    def read(
        self, first: int, last: int, rows: slice = slice(None), columns: slice = slice(None)
    ) -> NDArray[Any]:
        """Return planes (last - first, rows, columns) along l, k, h, as stored."""
        parts = slice(first, last), rows, columns
        shape = [
            max(b - a, 0)
            for a, b, _ in (part.indices(n) for part, n in zip(parts, self.shape, strict=True))
        ]
        out = np.empty(shape, self.dtype)
        self.read_into(out, first, rows, columns)
        return out

    def read_again(self, first: int, last: int) -> NDArray[Any]:
        """Return planes as `read` does, in memory that the next call uses again.

        The system takes as long to provide new memory as the numbers take to be put in place.
        """
        last = min(last, self.shape[0])
        if self._memory is None or len(self._memory) < last - first:
            self._memory = np.empty((last - first, *self.shape[1:]), self.dtype)
        out = self._memory[: last - first]
        self.read_into(out, first)
        return out

    def read_into(
        self,
        out: NDArray[Any],
        first: int,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> None:
        """Read planes from ``first`` on into a contiguous array."""
        parts = slice(first, first + len(out)), rows, columns
        bounds = [part.indices(n)[:2] for part, n in zip(parts, self.shape, strict=True)]
        if not self._packed or out.dtype != self.dtype:
            out[...] = self._dataset[tuple(slice(a, b) for a, b in bounds)]
            return
        words = out.view(f"u{self.dtype.itemsize}")
        steps = self._dataset.chunks
        starts = (range(a - a % step, b, step) for (a, b), step in zip(bounds, steps, strict=True))
        for origin in product(*starts):
            at = tuple(i - a for i, (a, _) in zip(origin, bounds, strict=True))
            if (skipped := self._stored.get(origin)) is not None:
                self._inflate(origin, skipped, words, at)
            else:
                inside = (slice(max(i, 0), i + n) for i, n in zip(at, steps, strict=True))
                out[tuple(inside)] = self._fill

    def _inflate(
        self, origin: tuple[int, ...], skipped: int, out: NDArray[Any], at: tuple[int, ...]
    ) -> None:
        """Decompress a chunk of the filters shuffle and gzip."""
        from isal import isal_zlib

        size, shape = self.dtype.itemsize, self._dataset.chunks
        _, packed = self._dataset.id.read_direct_chunk(origin)
        if not skipped & 2:  # the second filter
            try:
                packed = isal_zlib.decompress(packed, bufsize=size * prod(shape))
            except isal_zlib.error as error:  # type: ignore[misc]  # its stub is wrong
                raise self._damaged(origin) from error
        if len(packed) != size * prod(shape):
            raise self._damaged(origin)
        if skipped & 1:
            place(np.frombuffer(packed, out.dtype).reshape(shape), out, at)
        else:
            place_ranks(np.frombuffer(packed, np.uint8).reshape(size, *shape), out, at)

    def _damaged(self, origin: tuple[int, ...]) -> HklflowError:
        dataset = self._dataset
        return HklflowError(
            f"{dataset.file.filename}: the block of {dataset.name} that begins at {origin} is "
            "damaged; copy the file again, or create it again"
        )
