"""Arrays that do not fit in memory, kept in files while a stage runs."""

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.core.pdf import Store


class Scratch(Store):
    """An array of zeros in a file without a name, which vanishes with the process.

    Parameters
    ----------
    folder : Path
        That of the output: there is room for results.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, folder: Path) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        with tempfile.TemporaryFile(dir=folder) as file:
            # Room is taken now: a full disk must not end in a bus error later.
            os.posix_fallocate(file.fileno(), 0, size)
            self._map = mmap.mmap(file.fileno(), size)
        self.array = np.frombuffer(self._map, dtype).reshape(shape)

    def release(self) -> None:
        """Leave what was read or written to the system: it is in the file."""
        self._map.madvise(mmap.MADV_DONTNEED)
