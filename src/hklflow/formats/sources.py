"""Find the files that contain frames: targets of links in masters, and images of a series."""

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
    """Return the files that contain frames, in addition to the raw files.

    Parameters
    ----------
    raw : sequence of Path
        HDF5 files; for a series of images, its first and last image.
    patterns : sequence of str
        Patterns of the image series.

    Returns
    -------
    dict
        Pattern of a series -> its images; path of a linked file -> that file.
    """
    sources_by_name: dict[str, list[Path]] = {}
    for path in patterns or raw:
        try:
            if not is_hdf5(path):
                sources_by_name |= {str(path): find_files(path)} if patterns else {}
                continue
            images = images_of(Path(path))
            if images is not None:
                sources_by_name[images] = find_files(images)
        except HklflowError:  # the stage reports the error
            continue
        sources_by_name |= {str(file): [file] for file in linked_files(Path(path))}
    return sources_by_name


def linked_files(path: Path) -> list[Path]:
    """Return all files that an HDF5 file links to, directly or through other files.

    Links are external links, sources of virtual datasets, and external raw data, for frames and
    header fields alike. Damaged or missing files are skipped: their reader reports the error.
    """
    files: list[Path] = []
    waiting, visited = [path], {path}
    while waiting:
        for other in _linked(waiting.pop()):
            if other not in visited and other.is_file():
                visited.add(other)
                files.append(other)
                waiting += [other] if is_hdf5(other) else []
    return files


def _linked(path: Path) -> list[Path]:
    """Return the files that one HDF5 file refers to."""
    import h5py

    linked: dict[Path, None] = {}
    with suppress(OSError, RuntimeError), h5py.File(path, "r") as file:
        groups, visited = [file["/"]], set[int]()
        while groups and len(visited) < _MOST_GROUPS:
            group = groups.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    linked[path.parent / link.filename] = None
                if not isinstance(link, h5py.HardLink):
                    continue
                kind = group.get(name, getclass=True)
                if (
                    kind is h5py.Group
                    and (key := h5py.h5o.get_info(group[name].id).addr) not in visited
                ):
                    visited.add(key)
                    groups.append(group[name])
                elif kind is h5py.Dataset:
                    linked |= dict.fromkeys(_files_of_dataset(group[name], path.parent))
    return list(linked)


def _files_of_dataset(data: Any, folder: Path) -> Iterator[Path]:
    """Yield the files with the values of a dataset, if these are outside its own file."""
    for source in data.virtual_sources() if data.is_virtual else ():
        if source.file_name != ".":
            yield folder / source.file_name
    for name, _, _ in data.external or ():
        # HDF5 searches external data from the working directory.
        yield Path(name)


_MOST_GROUPS = 100_000  # a file with more groups is not a raw file


def files_of(name: str, base: Path) -> list[str]:
    """Return the files of a path or pattern in a record; none if they do not exist."""
    path = f"{base}/{name}" if not name.startswith("/") else name
    if name.endswith(tuple(HDF5_SUFFIXES)) or number_pattern(os.path.basename(name)) is None:  # noqa: PTH119
        return [path]
    try:
        names = find_names(path, gaps=True)
    except HklflowError:
        return []
    folder = os.path.dirname(path)  # noqa: PTH120
    return [f"{folder}/{name}" for name in names]
