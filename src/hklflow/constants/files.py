"""Files of constants: those of one ASIC on the way, and the detector's ``constants.nxs``.

``/entry/instrument/detector`` has the quantities of an ASIC or a module; in the detector's file
these stand in ``module_NN`` below it. An array over the stages of gain has them first, then memory
cells, then (ss, fs).
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
        Empty for a number.
    attrs : dict
        Such as `source`: per stage, which measurement it is from.
    """

    values: NDArray[Any]
    units: str = ""
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Constants:
    """Quantities of an ASIC or a module, and what is known of them.

    Attributes
    ----------
    about : dict
        Plain data (JSON): detector, module, asic, measure, runs ...
    quantities : dict
        Name -> `Quantity`.
    """

    about: dict[str, Any]
    quantities: dict[str, Quantity]

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Values of a quantity."""
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
    """Make the file of one ASIC or module; gives the group for its quantities."""
    with create(path, title, "overview") as entry:
        entry["definition"] = DEFINITION
        group = _detector(entry)
        yield group
        _overview(entry, group, "pixel_mask" if "pixel_mask" in group else next(iter(group)))


def read_part(path: Path) -> Constants:
    """Quantities of one ASIC or module.

    Raises
    ------
    HklflowError
        If the file holds none.
    """
    with open_entry(path) as entry:
        return read_quantities(entry["instrument/detector"])


def add_quantities(group: h5py.Group, constants: Constants) -> None:
    """Store quantities in a group, each packed by (stage and) memory cell."""
    set_about(group, constants.about)
    for name, item in constants.quantities.items():
        add_array(group, name, item.values, item.units, **item.attrs)


def read_quantities(group: h5py.Group, names: Container[str] | None = None) -> Constants:
    """Read what `add_quantities` stored; of the quantities only those named, if there are names."""
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
    """What is known of the quantities in a group."""
    try:
        about = json.loads(group.attrs["about"])
    except (KeyError, TypeError, ValueError) as error:
        about = error
    if not isinstance(about, dict):
        raise HklflowError(
            f"{group.file.filename}: {group.name} does not say what it is of; make it again"
        )
    return about


def set_about(group: h5py.Group, about: Mapping[str, Any]) -> None:
    """Say what the quantities in a group are of."""
    group.attrs["about"] = json.dumps(dict(about))


@contextmanager
def create_detector(path: Path, title: str, about: Mapping[str, Any]) -> Iterator[h5py.Group]:
    """Make the detector's file; gives ``/entry/instrument/detector`` to put ``module_NN`` in."""
    with create(path, title, "overview") as entry:
        entry["definition"] = DEFINITION
        group = _detector(entry)
        set_about(group, about)
        yield group
        first = next(item for item in group.values() if isinstance(item, h5py.Group))
        shown = "pixel_mask" if "pixel_mask" in first else next(iter(first))
        _overview(entry, first, shown)


class DetectorConstants:
    """An open detector's file.

    Attributes
    ----------
    about : dict
    modules : tuple of int
        Numbers of the modules that it has.
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
        """Quantities of a module, in memory: those with these names; None: all."""
        return read_quantities(self.group(number), names)

    def group(self, number: int) -> h5py.Group:
        """Group of a module, to read parts of its arrays.

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
        If it is none.
    """
    with open_entry(path) as entry:
        definition = entry.get("definition")
        told = isinstance(definition, h5py.Dataset) and h5py.check_string_dtype(definition.dtype)
        if not told or text(definition) != DEFINITION:
            raise HklflowError(
                f"{path} holds no detector constants (its definition is not {DEFINITION})"
            )
        yield DetectorConstants(entry["instrument/detector"])


def _refuse_links(group: h5py.Group, name: str) -> None:
    """Refuse what is in another file: the record of a version knows nothing of that one."""
    if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
        raise HklflowError(
            f"{group.file.filename}: {name} is a link to another file; copy what it leads to"
        )


def module_name(number: int) -> str:
    """Name of a module's group."""
    return f"module_{number:02d}"


def _detector(entry: h5py.Group) -> h5py.Group:
    instrument = add_group(entry, "instrument", "NXinstrument")
    return add_group(instrument, "detector", "NXdetector")


def _overview(entry: h5py.Group, group: h5py.Group, name: str) -> None:
    """Make the default plot: an image (ss, fs), of the first stage and memory cell."""
    values = group[name]
    image = values[(0,) * (values.ndim - 2)] if values.ndim > 1 else values[()]
    data = add_group(entry, "overview", "NXdata", signal=name)
    add_array(data, name, np.asarray(image), long_name=f"{name} (first stage, first memory cell)")
