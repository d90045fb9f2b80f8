"""Arrays that do not fit in memory, kept in files while a stage runs."""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.volumes.pdf import Store


def mapped(folder: Path, size: int) -> mmap.mmap:
    """Map a file of so many zero bytes that has no name, and is gone with the process.

    Raises
    ------
    OSError
        If the folder has no room: a page without any would end the process later.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return mmap.mmap(file.fileno(), size)


class Scratch(Store):
    """An array of zeros in a file without a name, which vanishes with the process.

    Parameters
    ----------
    folder : Path
        That of the output: there is room for results.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, folder: Path) -> None:
        self._map = mapped(folder, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self.array = np.frombuffer(self._map, dtype).reshape(shape)

    def release(self) -> None:
        """Leave what was read or written to the system: it is in the file."""
        self._map.madvise(mmap.MADV_DONTNEED)
