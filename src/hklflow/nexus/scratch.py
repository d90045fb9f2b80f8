"""Arrays that do not fit in memory, stored in temporary files while a stage runs."""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.volumes.pdf import Store


def mapped(folder: Path, size: int) -> mmap.mmap:
    """Map a file of zero bytes without a name; the file disappears when the process ends.

    Raises
    ------
    OSError
        If the folder has too little space. (Without this check, the first access to a missing page
        would crash the process.)
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return mmap.mmap(file.fileno(), size)


class Scratch(Store):
    """Array, initially zeros, in a file without a name that disappears when the process ends.

    Parameters
    ----------
    folder : Path
        Folder of the output, which has space for results.
    """

    in_memory = False

    def __init__(self, shape: tuple[int, ...], dtype: Any, folder: Path) -> None:
        self._map = mapped(folder, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self.array = np.frombuffer(self._map, dtype).reshape(shape)

    def release(self) -> None:
        """Release the memory of the array; its content remains in the file."""
        self._map.madvise(mmap.MADV_DONTNEED)
