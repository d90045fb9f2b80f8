"""Light scan files: what is known of a scan, and links to its frames, which stay where they are.

A light scan file is an NXmx file without frames: datasets of HDF5 files are linked as HDF5 links
them, a series of images by the pattern of its names (``/entry/data/image_files``), both from the
light file's own folder if they are given as relative paths. `hklflow import` writes them for raw
files whose headers don't say enough; to everything else they are raw files. They are told
by their names, which end in `SUFFIX`.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.formats.hdf5_file import open_file
from hklflow.formats.header import Header
from hklflow.formats.nxfile import find, find_group, word
from hklflow.formats.write_raw import IMAGE_FILES, NXmxWriter, described

SUFFIX = ".scan.nxs"

Links = str | list[tuple[str, str]]
"""Pattern of a series of images, or (HDF5 file, path in it) in the order of the frames."""


def is_light(raw: str | Path) -> bool:
    """Whether a raw file is a light scan file, by its name."""
    return str(raw).endswith(SUFFIX)


def write_light(
    path: Path,
    header: Header,
    shape: tuple[int, int],
    links: Links,
    *,
    sample: str,
    source: Mapping[str, Any],
) -> None:
    """Write a light scan file.

    Parameters
    ----------
    path : Path
        Its name ends in `SUFFIX`.
    header : Header
        All that is known of the scan; ``n_frames`` must be.
    shape : (slow, fast)
        Pixels of a frame.
    links : Links
        Where the frames are.
    sample : str
        Name of the sample.
    source : mapping of text or numbers
        What the facts come from, for people: it stands in ``/entry/import``.

    Raises
    ------
    HklflowError
        If the number of frames is not known, arrays do not fit it, or the name is another.
    """
    if header.n_frames is None or not is_light(path):
        raise HklflowError(
            f"{path} must end in {SUFFIX} and be for a known number of frames, not "
            f"{header.n_frames}"
        )
    facts = replace(
        described(header, shape, header.n_frames),
        sample_name=sample,
        pixel_mask=header.pixel_mask,
        saturation=header.saturation,
        underload=header.underload,
        read_variance=header.read_variance,
        links=links,
    )
    with NXmxWriter(path, facts) as writer:
        writer.note(source)


def sources_of(path: Path) -> list[tuple[str, str]]:
    """Where the frames of a light scan file are: (HDF5 file, path in it), or (pattern, nothing).

    Paths that the file gives from its own folder come back with that folder.

    Raises
    ------
    HklflowError
        If it is no light scan file.
    """
    import h5py

    images = images_of(path)
    if images is not None:
        return [(images, "")]
    with open_file(path) as file:
        group = find_group(file, "entry/data")
        links = [] if group is None else [group.get(name, getlink=True) for name in sorted(group)]
    found = [
        (str(path.parent / link.filename), str(link.path))
        for link in links
        if isinstance(link, h5py.ExternalLink)
    ]
    if not found:
        raise HklflowError(f"{path} links no frames: it is no light scan file; import it again")
    return found


def images_of(path: Path) -> str | None:
    """Pattern of the series of images that a light scan file links; None: it links HDF5."""
    if not is_light(path):
        return None
    with open_file(path) as file:
        node = find(file, f"entry/data/{IMAGE_FILES}")
        return None if node is None else str(path.parent / word(node))
