"""NeXus files of other programs: open them, find groups, read values in hklflow's units."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError

Floats = NDArray[np.float64]

_MANY = 12  # fields of one group that are listed one by one
_names: ContextVar[set[str] | None] = ContextVar("names of the nodes that were read", default=None)

UNITS = {
    "length": {
        **{"m": 1.0, "meter": 1.0, "metre": 1.0, "cm": 1e-2, "mm": 1e-3, "millimeter": 1e-3},
        **{"um": 1e-6, "µm": 1e-6, "micron": 1e-6, "nm": 1e-9},
    },
    "wavelength": {
        **{"angstrom": 1.0, "angstroms": 1.0, "a": 1.0, "å": 1.0},
        **{"nm": 10.0, "pm": 0.01, "m": 1e10},
    },
    "energy": {"ev": 1.0, "kev": 1e3},
    "angle": {
        **{"deg": np.pi / 180, "degree": np.pi / 180, "degrees": np.pi / 180, "°": np.pi / 180},
        **{"rad": 1.0, "radian": 1.0, "radians": 1.0},
    },
    "time": {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6},
}


def text(value: Any) -> str:
    """Return the text of an attribute or value; bytes that are not UTF-8 are taken as Latin-1."""
    # HDF5 itself allows only ASCII and UTF-8, but some programs write ° and Å in Latin-1.
    content = value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def member(group: Any, name: str) -> Any:
    """Return a member of a group; None if it is absent, or its link is broken or circular."""
    try:
        return group.get(name)
    except (OSError, RuntimeError):
        return None


def located(node: Any) -> str:
    """Return the path of a node and its file, for messages."""
    return f"{node.name} in {node.file.filename}"


def find(group: Any, name: str) -> Any:
    """Return a member of a group; None if it is absent or its link is broken.

    Raises
    ------
    HklflowError
        If the link is circular.
    """
    try:
        node = group.get(name)
    except OSError:  # the linked file does not exist or is not HDF5
        return None
    except RuntimeError as error:
        raise HklflowError(
            f"{posixpath.join(group.name, name)} in {group.file.filename} is a link that leads "
            "back to itself; the file is damaged: copy it again"
        ) from error
    names = _names.get()
    if names is not None and node is not None:
        names.add(str(node.name))
    return node


@contextmanager
def recorded() -> Iterator[set[str]]:
    """Record the paths of all nodes that `find` returns inside the context."""
    names: set[str] = set()
    token = _names.set(names)
    try:
        yield names
    finally:
        _names.reset(token)


def unread(group: Any, names: set[str], depth: int = 8) -> list[str]:
    """Return the paths of the fields below a group that are not among the recorded names.

    Many fields of one group are returned as one item. Groups may contain themselves: ``depth``
    ends the search.
    """
    found: list[str] = []
    for key in group if depth else ():
        link = group.get(key, getlink=True)
        node = member(group, key) if type(link).__name__ == "HardLink" else None
        if node is None:
            continue
        if hasattr(node, "keys"):
            below = unread(node, names, depth - 1)
            many = len(below) > _MANY
            found += [f"{node.name} ({len(below)} fields)"] if many else below
        elif str(node.name) not in names:
            found.append(str(node.name))
    return found


def find_group(group: Any, name: str) -> Any:
    """Return the group ``name`` in a group; None if absent; raise if it is not a group."""
    node = find(group, name)
    return None if node is None else _require_group(node)


def _require_group(node: Any) -> Any:
    if not hasattr(node, "keys"):
        raise HklflowError(f"{located(node)} is a value, not a group; correct the file")
    return node


def find_entry(file: Any) -> Any:
    """Return the NXentry of a file; the group ``entry`` or the file itself if it has none."""
    for name in file:
        group = member(file, name)
        if group is not None and text(group.attrs.get("NX_class", "")) == "NXentry":
            return _require_group(group)
    entry = member(file, "entry")
    return file if entry is None else _require_group(entry)


def find_class(group: Any, name: str) -> list[Any]:
    """Return the children of a group with an NX_class; raises if one is not a group."""
    members = [member(group, key) for key in group]
    return [
        _require_group(g)
        for g in members
        if g is not None and "NX_class" in g.attrs and text(g.attrs["NX_class"]) == name
    ]


def read_values(node: Any) -> Any:
    """Read all of a dataset, after checks that its size and compression cannot fill the memory.

    Raises
    ------
    HklflowError
        If the dataset has more values than a detector has pixels, or cannot be unpacked.
    """
    from hklflow.formats.chunk_sizes import require_sizes
    from hklflow.formats.chunks import DamagedFrameError
    from hklflow.formats.raw_frames import MOST_PIXELS

    if not hasattr(node, "dtype"):
        raise HklflowError(f"{located(node)} is a group, not a value; correct the file")
    if (node.size or 0) > MOST_PIXELS:
        raise HklflowError(
            f"{located(node)} has the shape {node.shape}, more values than {MOST_PIXELS}; the file "
            "is damaged or has something else in this place"
        )
    try:
        if node.shape and not node.is_virtual:
            require_sizes(node, 0, node.shape[0])
        return node[()]
    except (DamagedFrameError, OSError) as error:
        why = error.why if isinstance(error, DamagedFrameError) else error
        where = located(node)
        raise HklflowError(f"{where} cannot be read ({why}); copy the file again") from error


def word(node: Any) -> str:
    """Return the first text of a dataset; empty if the dataset is empty."""
    values = np.ravel(read_values(node))
    return text(values[0]) if node.size else ""


def attribute(node: Any, name: str) -> Floats | None:
    """Return the numbers of an attribute; None if it is not numeric."""
    values = np.asarray(node.attrs[name])
    return values.astype(np.float64) if values.dtype.kind in "iuf" else None


def numbers(node: Any) -> Floats:
    """Return the values of a dataset.

    Raises
    ------
    HklflowError
        If they are not real numbers, or the dataset is empty.
    """
    if not hasattr(node, "dtype") or not node.size:
        raise HklflowError(f"{located(node)} has no value; correct the file")
    if node.dtype.kind in "cbV":  # numpy would take the real part, 0 and 1, or the first field
        raise HklflowError(
            f"{located(node)} is not numeric (its type is {node.dtype}); correct the file"
        )
    try:
        return np.asarray(read_values(node), dtype=np.float64)
    except (TypeError, ValueError) as error:
        where = located(node)
        raise HklflowError(f"{where} is not numeric ({error}); correct the file") from error


def scaled(node: Any, kind: str, default: str | None = None) -> Floats:
    """Return the values of a dataset in hklflow's unit of this kind."""
    values = numbers(node)
    unit = text(node.attrs.get("units", default if default is not None else ""))
    factor = UNITS[kind].get(unit.strip().lower())
    if factor is None:
        raise HklflowError(
            f"{node.name} in {node.file.filename} has the unit {unit!r}, which is not a known unit "
            f"of {kind}; correct the file"
        )
    return values * factor


def constant(node: Any, kind: str | None = None) -> float:
    """Return the value of a dataset that is constant in a rotation, in hklflow's unit of this kind.

    Raises
    ------
    HklflowError
        If the dataset has several values that differ by more than 1 part in 10 000.
    """
    values = np.ravel(numbers(node) if kind is None else scaled(node, kind))
    low, high = float(values.min()), float(values.max())
    if len(values) > 1 and not high - low <= 1e-4 * abs(high):
        raise HklflowError(
            f"{node.name} in {node.file.filename} has {len(values)} values from {low:g} to "
            f"{high:g}, but must be constant in a rotation; split the rotation where it changes, "
            "or correct the file"
        )
    return float(values[0])
