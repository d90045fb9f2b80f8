"""Files that hold the frames of raw files: what masters link to, and the images of a series."""

import os
from collections.abc import Sequence
from pathlib import Path

from hklflow.errors import HklflowError
from hklflow.formats.light import images_of
from hklflow.formats.raw import (
    HDF5_SUFFIXES,
    find_files,
    find_names,
    is_hdf5,
    number_pattern,
    open_frames,
)


def sources(raw: Sequence[Path], patterns: Sequence[str]) -> dict[str, list[Path]]:
    """Files with frames besides the raw files themselves.

    Parameters
    ----------
    raw : sequence of Path
        HDF5 files; of a series of images, both ends.
    patterns : sequence of str
        Patterns of the series.

    Returns
    -------
    dict
        Pattern of a series -> its images; path of a file that is linked -> that file.
    """
    found: dict[str, list[Path]] = {}
    for path in patterns or raw:
        try:
            if not is_hdf5(path):
                found |= {str(path): find_files(path)} if patterns else {}
                continue
            images = images_of(Path(path))
            if images is not None:
                found[images] = find_files(images)
                continue
            with open_frames(path) as frames:
                found |= {str(file): [file] for file in frames.files if file != Path(path)}
        except HklflowError:  # the stage says what is wrong, or knows how to read it
            continue
    return found


def files_of(name: str, base: Path) -> list[str]:
    """Files that a path or pattern of a record stands for; none if they are not there."""
    path = f"{base}/{name}" if not name.startswith("/") else name
    if name.endswith(tuple(HDF5_SUFFIXES)) or number_pattern(os.path.basename(name)) is None:  # noqa: PTH119
        return [path]
    try:
        names = find_names(path, gaps=True)
    except HklflowError:
        return []
    folder = os.path.dirname(path)  # noqa: PTH120
    return [f"{folder}/{name}" for name in names]
