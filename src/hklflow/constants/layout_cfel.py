"""Files of AGIPD modules on the test bench of CFEL (DESY), as the AGIPD toolbox reads them.

A file ``M304_m2_dark_tint150ns_00012_part00000.nxs`` is one part of one run of module M304 in
position 2 of the bench; a run in one file has no ``_part``. It contains

* ``entry/instrument/detector/data`` (n, rows, columns), int16 or uint16: one image each for the
  analogue and the digital part of a memory cell, one after the other;
* ``entry/instrument/detector/sequence_number`` (n,): number of each image in the run, from 1; a
  gap marks lost images;
* ``entry/instrument/detector/collection/frame_numbers``: number of images that were triggered.

A trigger fills ``memory_cells`` memory cells; the files do not store this number. Image i of a run
(from 0) is memory cell (i // 2) % memory_cells of trigger i // (2 memory_cells). Rows and columns
are those of the module: column c and row r is (ss, fs) = (last - c, r), as for modules 0 to 7 of
the AGIPD 1M of the European XFEL.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating
from hklflow.constants.layout import Images, Layout, Read, require_shape
from hklflow.constants.layout_lab import to_common
from hklflow.constants.raw_frames import Part, one_frame_each

_DETECTOR = "entry/instrument/detector"
_NAME = re.compile(r".+?_m(\d+)_.*?(?:_part(\d+))?\.(?:nxs|h5|hdf5)")
_AXES = ("fs", "-ss")


class Cfel(Layout):
    """Layout ``cfel``: modules of AGIPD on the test bench of CFEL."""

    first_train = 1
    as_modules = (0, 7)

    def parts(self, path: Path, detector: Integrating) -> list[Part]:
        """Return the part of the module; triggers are counted from 1."""
        module, number = _names(path)
        with h5py.File(path) as file:
            data = file[f"{_DETECTOR}/data"]
            sequence = _sequence(path, file)
            images = int(np.ravel(file[f"{_DETECTOR}/collection/frame_numbers"][()])[0])
            if data.ndim != 3 or data.dtype not in (np.int16, np.uint16):
                raise HklflowError(
                    f"{path} has images {data.shape} of type {data.dtype}; raw images of layout "
                    "cfel are (n, rows, columns) of 16 bits: use the raw files"
                )
            require_shape(path, data.shape[:0:-1], detector.module)
            n_data = len(data)
        cells = _memory_cells(path, detector, images)
        first = _first_images(sequence)
        # Frames of which both images are stored; images without a number are frames too many.
        whole = int(np.count_nonzero(first + 1 < n_data)) + max(n_data - len(sequence), 0)
        image = sequence[first] - 1
        train = (image // (2 * cells) + self.first_train).astype(np.uint64)
        trains, begins, count = one_frame_each(train)
        return [
            Part(
                path,
                module,
                number,
                trains,
                begins,
                count,
                train,
                image // 2 % cells,
                lengths={"frames": {"data": whole, "sequence_number": len(first)}},
                cut=True,
            )
        ]

    @contextmanager
    def open(self, part: Part, detector: Integrating) -> Iterator[Read]:
        """Open the part; images are rotated to (ss, fs)."""
        with h5py.File(part.path) as file:
            data, rows = file[f"{_DETECTOR}/data"], _first_images(_sequence(part.path, file))

            def read(first: int, last: int) -> tuple[Images, Images]:
                begin = rows[first:last]
                if len(begin) == 0:
                    empty = np.zeros((0, *detector.module), np.uint16)
                    return empty, empty
                images = data[begin[0] : begin[-1] + 2]
                if images.min() < 0:
                    raise HklflowError(
                        f"{part.path} has negative values, which no raw image of AGIPD has; copy "
                        "it again, or leave it out of the run"
                    )
                images = images.astype(np.uint16)
                begin = begin - begin[0]
                return to_common(images[begin], _AXES), to_common(images[begin + 1], _AXES)

            yield read


def _names(path: Path) -> tuple[int, int]:
    """Return the position of the module and the number of the part from the name of a file."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise HklflowError(
            f"{path} does not name the position of its module; files of layout cfel are named as "
            "M304_m2_dark_tint150ns_00012_part00000.nxs (module 2)"
        )
    return int(match[1]), int(match[2] or 0)


def _sequence(path: Path, file: h5py.File) -> NDArray[np.int64]:
    sequence = file[f"{_DETECTOR}/sequence_number"][()].reshape(-1).astype(np.int64)
    if len(sequence) and (sequence[0] < 1 or (np.diff(sequence) <= 0).any()):
        raise HklflowError(
            f"{path} has sequence numbers that do not increase from 1; leave it out of the run"
        )
    return sequence


def _memory_cells(path: Path, detector: Integrating, images: int) -> int:
    """Return the memory cells of a trigger, which must divide the images of the run."""
    cells = detector.memory_cells
    if cells is None:
        raise HklflowError(
            f"{path}: files of layout cfel do not store how many memory cells a trigger fills; "
            "give memory_cells in the entry of constants (scans cannot be corrected from them)"
        )
    if images % (2 * cells):
        raise HklflowError(
            f"{path} belongs to a run of {images} images, which is no multiple of 2 x {cells} "
            "images (analogue and digital part of each memory cell); correct memory_cells"
        )
    return cells


def _first_images(sequence: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of analogue images that are followed by their digital image."""
    followed = np.diff(sequence, append=-1) == 1
    return np.flatnonzero(followed & (sequence % 2 == 1))
