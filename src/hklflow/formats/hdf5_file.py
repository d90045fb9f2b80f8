"""Open HDF5 files that other programs wrote."""

from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file


def open_file(path: Path) -> Any:
    """Open an HDF5 file after registering the compressions of detectors."""
    import h5py
    import hdf5plugin  # noqa: F401  (registers bitshuffle, LZ4, zstd)

    require_file(path, "raw file", "check the path in scans.tsv")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise HklflowError(
            f"{path} cannot be opened as HDF5 ({error}); it is truncated or still being "
            "written: copy it again"
        ) from error
