"""Pixel masks, and 3-D masks of all frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.formats.hdf5_output import closed_on_failure
from hklflow.images.masks import MaskBit
from hklflow.nexus.entry import PACKED, add_array, add_group, create, open_entry

Floats = NDArray[np.float64]


def write_mask(path: Path, bits: NDArray[np.uint32]) -> None:
    """Write a pixel mask: NXmx bits, 0 for good pixels.

    The attributes ``bit_values`` and ``bit_meanings`` explain the bits.
    """
    with create(path, "pixel mask", "mask") as entry:
        data = add_group(entry, "mask", "NXdata", signal="pixel_mask", axes=["slow", "fast"])
        add_array(
            data,
            "pixel_mask",
            bits.astype(np.uint32),
            long_name="bits of NXmx pixel_mask, 0 = good",
            bit_values=np.array(list(MaskBit), np.uint32),
            bit_meanings=[bit.label for bit in MaskBit],
        )
        add_array(data, "slow", np.arange(bits.shape[0]) + 0.5, "pixel")
        add_array(data, "fast", np.arange(bits.shape[1]) + 0.5, "pixel")


def read_mask(path: Path) -> NDArray[np.uint32]:
    """Read the bits of a pixel mask (slow, fast)."""
    with open_entry(path) as entry:
        bits: NDArray[np.uint32] = entry["mask/pixel_mask"][()]
        return bits


class FrameMaskWriter:
    """Writer of a 3-D mask, bit-packed along fast; frames are written in blocks."""

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self._path, self._shape = path, shape
        self._flagged = np.zeros(shape[0])

    def __enter__(self) -> "FrameMaskWriter":
        self._context = create(self._path, "3-D artefact mask", "flagged")
        self._entry = self._context.__enter__()
        with closed_on_failure(self._context):
            self._make_bits()
        self._next = 0
        return self

    def _make_bits(self) -> None:
        n, n_slow, n_fast = self._shape
        mask = add_group(self._entry, "mask", "NXcollection")
        self._bits = mask.create_dataset(
            "bits",
            shape=(n, n_slow, (n_fast + 7) // 8),
            dtype=np.uint8,
            chunks=(1, n_slow, (n_fast + 7) // 8),
            **PACKED,
        )
        self._bits.attrs["description"] = "numpy.packbits along the fast axis; 1 = excluded"
        self._bits.attrs["shape"] = self._shape

    def record_seed(self, counts: float) -> None:
        """Record the counts above background that start a region in the median cell."""
        self._bits.attrs["effective_seed"] = counts
        self._bits.attrs["effective_seed_meaning"] = (
            "counts above background that start a region, in the median cell of the frame with the "
            "most excluded pixels: the larger of seed_counts and seed_ratio times background"
        )

    def append(self, packed: NDArray[np.uint8], flagged: Floats) -> None:
        """Append packed frames (n, slow, ceil(fast / 8)) and their flagged fractions (n,)."""
        stop = self._next + len(packed)
        self._flagged[self._next : stop] = flagged
        for number, frame in enumerate(packed, self._next):
            # Frames that are not written take no space and read as zeros.
            if frame.any():
                self._bits[number] = frame
        self._next = stop

    def __exit__(self, *error: Any) -> None:
        label = "excluded fraction of the frame"
        with closed_on_failure(self._context):
            data = add_group(self._entry, "flagged", "NXdata", signal="fraction", axes=["frame"])
            add_array(data, "fraction", self._flagged, "", long_name=label)
            add_array(data, "frame", np.arange(self._shape[0]) + 0.5)
        self._context.__exit__(*error)


class FrameMask:
    """3-D mask in an open file.

    Attributes
    ----------
    shape : (frame, slow, ceil(fast / 8))
        Shape of the packed bits.
    attrs : mapping
        ``shape`` in pixels, and ``description``.
    """

    def __init__(self, entry: h5py.Group) -> None:
        self._bits = entry["mask/bits"]
        self._flagged: NDArray[np.bool_] = entry["flagged/fraction"][()] > 0
        self.shape, self.attrs = self._bits.shape, self._bits.attrs

    def __getitem__(self, frames: Any) -> NDArray[np.uint8]:
        """Return the packed bits of some frames."""
        bits: NDArray[np.uint8] = self._bits[frames]
        return bits

    def any(self, first: int, last: int) -> bool:
        """Return True if a good pixel of the frames first to last (exclusive) is flagged."""
        return bool(self._flagged[first:last].any())


@contextmanager
def open_frame_mask(path: Path) -> Iterator[FrameMask]:
    """Open the packed bits of a 3-D mask, which are indexed by frame."""
    with open_entry(path) as entry:
        yield FrameMask(entry)
