"""Files with one NXentry: create, open and fill them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hklflow import __version__
from hklflow.base.errors import HklflowError
from hklflow.formats.hdf5_output import hdf5_output

PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


@contextmanager
def create(path: Path, title: str, default: str) -> Iterator[h5py.Group]:
    """Create a file; yield its entry, whose default plot is the group ``default``."""
    with hdf5_output(path, libver=("earliest", "v110")) as file:
        file.attrs["default"] = "entry"
        file.attrs["creator"] = f"hklflow {__version__}"
        entry = add_group(file, "entry", "NXentry")
        entry.attrs["default"] = default
        entry["title"] = title
        yield entry


@contextmanager
def open_entry(path: Path) -> Iterator[h5py.Group]:
    """Open a file for reading; yield its entry.

    Raises
    ------
    HklflowError
        If the file is not HDF5, or its entry lacks a required group or field.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise HklflowError(
            f"{path} is not a readable HDF5 file ({error}); create it again"
        ) from error
    with file:
        try:
            yield file.get("entry", file)  # raw files of other programs may have no `entry`
        except KeyError as error:
            raise HklflowError(
                f"{path} is not the product that is needed here ({error}); check the path"
            ) from error


def add_group(parent: h5py.Group, name: str, nx_class: str, **attrs: Any) -> h5py.Group:
    """Create a group of a NeXus class, with attributes."""
    group = parent.require_group(name)
    group.attrs["NX_class"] = nx_class
    for key, value in attrs.items():
        group.attrs[key] = value
    return group


def add_array(
    group: h5py.Group, name: str, data: Any, units: str | None = None, **attrs: Any
) -> None:
    """Store an array with attributes; compress it unless it is small."""
    array = np.asarray(data)
    packed = PACKED if array.size > 1024 else {}
    dataset = group.create_dataset(name, data=array, **packed)
    if units is not None:
        dataset.attrs["units"] = units
    for key, value in attrs.items():
        dataset.attrs[key] = value


def text(dataset: h5py.Dataset) -> str:
    """Return the text of a dataset."""
    value = dataset[()]
    return value.decode() if isinstance(value, bytes) else str(value)
