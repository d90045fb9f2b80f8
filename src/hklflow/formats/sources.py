"""Files that hold the frames of raw files: what masters link to, and the images of a series."""

from collections.abc import Sequence
from pathlib import Path

from hklflow.errors import HklflowError
from hklflow.formats.light import images_of
from hklflow.formats.raw import HDF5_SUFFIXES, find_files, is_hdf5, number_pattern, open_frames


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


def files_of(name: str, base: Path) -> list[Path]:
    """Files that a path or pattern of a record stands for; none if they are not there."""
    path = base / name
    if path.suffix.lower() in HDF5_SUFFIXES or number_pattern(path.name) is None:
        return [path]
    try:
        return find_files(path, gaps=True)
    except HklflowError:
        return []
