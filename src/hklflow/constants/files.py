"""Files of constants: one per ASIC in intermediate steps, and the detector's ``constants.nxs``.

``/entry/instrument/detector`` contains the quantities of an ASIC or a module. In the detector's
file the quantities are in its groups ``module_NN``. Axes of an array: gain stage (if any), memory
cell, ss, fs.
"""

import json
import re
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.nexus.entry import add_array, add_group, create, open_entry, text

DEFINITION = "hklflow_detector_constants"


@dataclass(frozen=True)
class Quantity:
    """One array of constants.

    Attributes
    ----------
    values : array
    units : str
        Unit; empty for a dimensionless number.
    attrs : dict
        Further attributes, for example `source`: the measurement that each stage comes from.
    """

    values: NDArray[Any]
    units: str = ""
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Constants:
    """Quantities of an ASIC or a module, with their description.

    Attributes
    ----------
    about : dict
        Plain data (JSON): detector, module, asic, measure, runs and others.
    quantities : dict
        `Quantity` of each name.
    """

    about: dict[str, Any]
    quantities: dict[str, Quantity]

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return the values of a quantity."""
        try:
            return self.quantities[name].values
        except KeyError:
            raise HklflowError(
                f"these constants have no {name} (they have {', '.join(self.quantities)})"
            ) from None

    def __contains__(self, name: str) -> bool:
        return name in self.quantities


def write_part(path: Path, title: str, constants: Constants) -> None:
    """Write the quantities of one ASIC or module; the first one is the default plot."""
    with create_part(path, title) as group:
        add_quantities(group, constants)


@contextmanager
def create_part(path: Path, title: str) -> Iterator[h5py.Group]:
    """Create the file of one ASIC or module and yield the group for its quantities."""
    with create(path, title, "overview") as entry:
        entry["definition"] = DEFINITION
        group = _detector(entry)
        yield group
        _overview(entry, group, "pixel_mask" if "pixel_mask" in group else next(iter(group)))


def read_part(path: Path) -> Constants:
    """Read the quantities of one ASIC or module.

    Raises
    ------
    HklflowError
        If the file contains no quantities.
    """
    with open_entry(path) as entry:
        return read_quantities(entry["instrument/detector"])


def add_quantities(group: h5py.Group, constants: Constants) -> None:
    """Store quantities in a group, compressed in chunks of one memory cell (and stage)."""
    set_about(group, constants.about)
    for name, item in constants.quantities.items():
        add_array(group, name, item.values, item.units, **item.attrs)


def read_quantities(group: h5py.Group, names: Container[str] | None = None) -> Constants:
    """Read the quantities that `add_quantities` stored: those in `names`, or all for None."""
    quantities = {
        name: Quantity(
            item[()],
            str(item.attrs.get("units", "")),
            {key: value for key, value in item.attrs.items() if key != "units"},
        )
        for name, item in group.items()
        if isinstance(item, h5py.Dataset) and (names is None or name in names)
    }
    return Constants(about_of(group), quantities)


def about_of(group: h5py.Group) -> dict[str, Any]:
    """Read the description of the quantities in a group."""
    try:
        about = json.loads(group.attrs["about"])
    except (KeyError, TypeError, ValueError) as error:
        about = error
    if not isinstance(about, dict):
        raise HklflowError(
            f"{group.file.filename}: {group.name} has no valid description (attribute about); "
            "create the file again"
        )
    return about


def set_about(group: h5py.Group, about: Mapping[str, Any]) -> None:
    """Write the description of the quantities in a group."""
    group.attrs["about"] = json.dumps(dict(about))


@contextmanager
def create_detector(path: Path, title: str, about: Mapping[str, Any]) -> Iterator[h5py.Group]:
    """Create the detector's file and yield ``/entry/instrument/detector`` for the modules."""
    with create(path, title, "overview") as entry:
        entry["definition"] = DEFINITION
        group = _detector(entry)
        set_about(group, about)
        yield group
        first = next(item for item in group.values() if isinstance(item, h5py.Group))
        shown = "pixel_mask" if "pixel_mask" in first else next(iter(first))
        _overview(entry, first, shown)


class DetectorConstants:
    """An open file of a detector's constants.

    Attributes
    ----------
    about : dict
    modules : tuple of int
        Numbers of the modules in the file.
    """

    def __init__(self, group: h5py.Group) -> None:
        self._group = group
        self.about = about_of(group)
        names = (re.fullmatch(r"module_(\d+)", name) for name in group)
        self.modules = tuple(sorted(int(match[1]) for match in names if match))
        for number in self.modules:
            _refuse_links(group, module_name(number))
            for name in group[module_name(number)]:
                _refuse_links(group[module_name(number)], name)

    def module(self, number: int, names: Container[str] | None = None) -> Constants:
        """Read quantities of a module into memory: those in `names`, or all for None."""
        return read_quantities(self.group(number), names)

    def group(self, number: int) -> h5py.Group:
        """Return the group of a module, to read parts of its arrays.

        Raises
        ------
        HklflowError
            If the file has no such module.
        """
        if number not in self.modules:
            raise HklflowError(
                f"{self._group.file.filename} has no module {number} (it has "
                f"{', '.join(map(str, self.modules))})"
            )
        return self._group[module_name(number)]


@contextmanager
def open_constants(path: Path) -> Iterator[DetectorConstants]:
    """Open a detector's file of constants.

    Raises
    ------
    HklflowError
        If the file contains no detector constants.
    """
    with open_entry(path) as entry:
        definition = entry.get("definition")
        has_text = isinstance(definition, h5py.Dataset) and h5py.check_string_dtype(
            definition.dtype
        )
        if not has_text or text(definition) != DEFINITION:
            raise HklflowError(
                f"{path} contains no detector constants (its definition is not {DEFINITION})"
            )
        yield DetectorConstants(entry["instrument/detector"])


def _refuse_links(group: h5py.Group, name: str) -> None:
    """Reject links to other files: the record of a version does not cover their content."""
    if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
        raise HklflowError(
            f"{group.file.filename}: {name} is a link to another file; copy the linked data into "
            "this file"
        )


def module_name(number: int) -> str:
    """Return the name of a module's group."""
    return f"module_{number:02d}"


def _detector(entry: h5py.Group) -> h5py.Group:
    instrument = add_group(entry, "instrument", "NXinstrument")
    return add_group(instrument, "detector", "NXdetector")


def _overview(entry: h5py.Group, group: h5py.Group, name: str) -> None:
    """Create the default plot: an image (ss, fs) of the first stage and memory cell."""
    values = group[name]
    image = values[(0,) * (values.ndim - 2)] if values.ndim > 1 else values[()]
    data = add_group(entry, "overview", "NXdata", signal=name)
    add_array(data, name, np.asarray(image), long_name=f"{name} (first stage, first memory cell)")
