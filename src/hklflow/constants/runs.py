"""Files of a raw run, from its configuration (light imports: workflow rules use this module)."""

import re
from pathlib import Path

from hklflow.base.errors import HklflowError

_SUFFIXES = (".h5", ".hdf5", ".nxs")
# A folder of the European XFEL has the files of all devices; this pattern selects the detector.
_DETECTOR_FILE = re.compile(r"RAW-R\d+-(AGIPD|JNGFR)\d+-S\d+\.h5")


def raw_files(run: str, base: Path) -> list[str]:
    """Return the files of a run, sorted by name.

    Parameters
    ----------
    run : str
        A folder, a file or a pattern (``*``, ``?``, ``**``).
    base : Path
        Folder for relative paths.

    Raises
    ------
    HklflowError
        If there is no such file.
    """
    path = base / run
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        paths = [item for item in path.iterdir() if item.suffix in _SUFFIXES and item.is_file()]
        paths = [item for item in paths if _DETECTOR_FILE.fullmatch(item.name)] or paths
    else:
        # pathlib's glob accepts no absolute pattern; it starts at the anchor.
        pattern = path.relative_to(path.anchor) if path.anchor else path
        paths = [item for item in Path(path.anchor).glob(str(pattern)) if item.is_file()]
    paths = [item for item in paths if not item.name.startswith(".")]
    if not paths and path.is_dir():
        raise HklflowError(
            f"run {run!r}: the folder {path} contains no file {', '.join(_SUFFIXES)}; wait for the "
            "files, or name another folder or a pattern of files"
        )
    if not paths:
        raise HklflowError(
            f"run {run!r}: no HDF5 file at {path}; use a folder, a file or a pattern of files"
        )
    return sorted(str(item) for item in paths)
