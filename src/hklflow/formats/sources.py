"""Files that hold the frames of raw files: what masters link to, and the images of a series."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.formats.light import images_of
from hklflow.formats.raw import HDF5_SUFFIXES, is_hdf5
from hklflow.formats.series import find_files, find_names, number_pattern


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
        except HklflowError:  # the stage says what is wrong
            continue
        found |= {str(file): [file] for file in linked_files(Path(path))}
    return found


def linked_files(path: Path) -> list[Path]:
    """All files that an HDF5 file links to, and these in turn: frames and header fields alike.

    External links, sources of virtual datasets, and raw bytes in files of their own. What is
    damaged or not there ends a branch: who reads it says so.
    """
    found: list[Path] = []
    waiting, seen = [path], {path}
    while waiting:
        for other in _linked(waiting.pop()):
            if other not in seen and other.is_file():
                seen.add(other)
                found.append(other)
                waiting += [other] if is_hdf5(other) else []
    return found


def _linked(path: Path) -> list[Path]:
    """Files that one HDF5 file names."""
    import h5py

    named: dict[Path, None] = {}
    with suppress(OSError, RuntimeError), h5py.File(path, "r") as file:
        groups, seen = [file["/"]], set[int]()
        while groups and len(seen) < _MOST_GROUPS:
            group = groups.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    named[path.parent / link.filename] = None
                if not isinstance(link, h5py.HardLink):
                    continue
                kind = group.get(name, getclass=True)
                if (
                    kind is h5py.Group
                    and (key := h5py.h5o.get_info(group[name].id).addr) not in seen
                ):
                    seen.add(key)
                    groups.append(group[name])
                elif kind is h5py.Dataset:
                    named |= dict.fromkeys(_files_of_dataset(group[name], path.parent))
    return list(named)


def _files_of_dataset(data: Any, folder: Path) -> Iterator[Path]:
    """Files with the values of a dataset, if they are not in its own."""
    for source in data.virtual_sources() if data.is_virtual else ():
        if source.file_name != ".":
            yield folder / source.file_name
    for name, _, _ in data.external or ():
        # HDF5 looks for them from the working directory.
        yield Path(name)


_MOST_GROUPS = 100_000  # more are a trap, or nothing that has frames


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
