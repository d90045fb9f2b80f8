"""Light scan files: the metadata of a scan, and links to its frames in other files.

A light scan file is an NXmx file without frames. It links HDF5 datasets as HDF5 links, and a series
of images by the pattern of its names (``/entry/data/image_files``); relative paths begin in the
folder of the light file. `hklflow import` writes them for raw files with incomplete headers; all
other code treats them as raw files. Their names end in `SUFFIX`.
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

CALIBRATION = "entry/instrument/calibration"
"""Group of the powder data in instrument files, and its link in scan files."""

Links = str | list[tuple[str, str]]
"""Pattern of a series of images, or list of (HDF5 file, path in it) in the order of the frames."""


def is_light(raw: str | Path) -> bool:
    """Return True if a raw file is a light scan file, by its name."""
    return str(raw).endswith(SUFFIX)


def write_light(
    path: Path,
    header: Header,
    shape: tuple[int, int],
    links: Links,
    *,
    sample: str,
    source: Mapping[str, Any],
    instrument: str | None = None,
) -> None:
    """Write a light scan file.

    Parameters
    ----------
    path : Path
        Path whose name ends in `SUFFIX`.
    header : Header
        Metadata of the scan; must contain ``n_frames``.
    shape : (slow, fast)
        Pixels of a frame.
    links : Links
        Links to the frames.
    sample : str
        Name of the sample.
    source : mapping of text or numbers
        Sources of the metadata, for people; stored in ``/entry/import``.
    instrument : str, optional
        Instrument file with powder data, relative to the light file; the data are linked.

    Raises
    ------
    HklflowError
        If the number of frames is unknown, an array does not fit it, or the name is wrong.
    """
    if header.n_frames is None or not is_light(path):
        raise HklflowError(
            f"{path} must end in {SUFFIX} and have a known number of frames, not {header.n_frames}"
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
        if instrument is not None:
            writer.link(CALIBRATION, instrument, CALIBRATION)
        writer.note(source)


def sources_of(path: Path) -> list[tuple[str, str]]:
    """Return the sources of the frames: (HDF5 file, path in it), or (pattern, empty).

    Relative paths are returned with the folder of the light file.

    Raises
    ------
    HklflowError
        If the file is not a light scan file.
    """
    links = links_of(path)
    if isinstance(links, str):
        return [(str(path.parent / links), "")]
    return [(str(path.parent / file), inside) for file, inside in links]


def links_of(path: Path) -> Links:
    """Return the links of a light scan file to its frames, as they are written in it.

    Raises
    ------
    HklflowError
        If the file is not a light scan file.
    """
    import h5py

    with open_file(path) as file:
        if is_light(path) and (node := find(file, f"entry/data/{IMAGE_FILES}")) is not None:
            return word(node)
        group = find_group(file, "entry/data")
        links = [] if group is None else [group.get(name, getlink=True) for name in sorted(group)]
    found = [(str(x.filename), str(x.path)) for x in links if isinstance(x, h5py.ExternalLink)]
    if not found:
        raise HklflowError(
            f"{path} links no frames, so it is not a light scan file; import it again"
        )
    return found


def images_of(path: Path) -> str | None:
    """Return the pattern of the images that a light scan file links; None if it links HDF5."""
    if not is_light(path):
        return None
    with open_file(path) as file:
        node = find(file, f"entry/data/{IMAGE_FILES}")
        return None if node is None else str(path.parent / word(node))
