"""Read fields of NXRefine's NeXus files: handle damaged files, and ignore links to other files."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.nxfile import text

Floats = NDArray[np.float64]

DETECTOR = "instrument/detector"
GONIOMETER = "instrument/goniometer"
_DAMAGE = (OSError, LookupError, ValueError, TypeError, ArithmeticError, RuntimeError)
_MOST_NUMBERS = 1_000_000  # largest size of a field of the geometry


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open a file of NXRefine; inside the context, damage raises one clear error.

    Raises
    ------
    HklflowError
        If the file does not exist, or data read inside the context are damaged.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise HklflowError(f"{path} does not exist; check the path")
    try:
        # Results of invalid numbers are not finite, and are refused later.
        with h5py.File(path, "r") as file, np.errstate(all="ignore"):
            yield file
    except _DAMAGE as error:
        raise HklflowError(
            f"{path} is not a readable file of NXRefine ({type(error).__name__}: {error}); copy it "
            "again"
        ) from None


def rotation_names(file: Any) -> list[str]:
    """List the rotations: groups with an instrument whose names end in a digit, f2 before f10."""
    names = [name for name in file if name[-1].isdigit() and is_group(file, name)]
    names = [name for name in names if is_group(file[name], "instrument")]
    return sorted(names, key=lambda name: [int(x) if x.isdigit() else x for x in _parts(name)])


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def has_orientation(file: Any, name: str) -> bool:
    """Return True if a rotation has an orientation."""
    return find(file, f"{name}/{DETECTOR}/orientation_matrix") is not None


def is_group(file: Any, name: str) -> bool:
    """Return True if a name is a group of this file; links to other files are not followed."""
    import h5py

    if name not in file or isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        return False
    return file.get(name, getclass=True, getlink=False) is h5py.Group


def find(group: Any, name: str, largest: int | None = _MOST_NUMBERS) -> Any:
    """Return a dataset; None if it is absent, too large, or behind a link to another file."""
    import h5py

    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or part not in group:
            return None
        if isinstance(group.get(part, getlink=True), h5py.ExternalLink):
            return None
        group = group[part]
    if not isinstance(group, h5py.Dataset) or (largest is not None and group.size > largest):
        return None
    return group


def numbers(group: Any, name: str, default: float | None = None) -> Floats:
    """Return the values of a field, at least 1-D.

    Raises
    ------
    HklflowError
        If the field is absent without a default, or a value is not finite.
    """
    field = find(group, name)
    if field is None:
        if default is None:
            raise HklflowError(f"{name} is missing in {group.name} of {group.file.filename}")
        return np.array([default])
    values = np.asarray(field[()], dtype=np.float64)
    if not np.isfinite(values).all():
        raise HklflowError(f"{field.name} in {group.file.filename} is not finite; correct the file")
    return np.atleast_1d(values)


def number(group: Any, name: str, default: float | None = None) -> float:
    """Return the first value of a field; raises as `numbers`."""
    return float(numbers(group, name, default).flat[0])


def words(group: Any, name: str) -> str:
    """Return the text of a field; empty if it is absent."""
    field = find(group, name)
    if field is None:
        return ""
    value = field[()]
    return text(value.flat[0] if isinstance(value, np.ndarray) else value)


def texts(group: Any, name: str) -> list[str]:
    """Return the texts of a field; an empty list if it is absent."""
    field = find(group, name)
    if field is None:
        return []
    values = np.ravel(np.asarray(field[()], dtype=object))
    return [text(value) for value in values]


def texts_of(group: Any, name: str) -> dict[str, str]:
    """Return all fields of a group of parameters, as text."""
    if not is_group(group, name):
        return {}
    return {key: words(group[name], key) for key in group[name] if find(group[name], key)}


def link(group: Any, name: str) -> tuple[str | None, str]:
    """Return the target of an external link: file and path in it; (None, "") if it is not one."""
    import h5py

    parent, _, last = name.rpartition("/")
    if parent not in group or not isinstance(group[parent], h5py.Group):
        return None, ""
    target = group[parent].get(last, getlink=True)  # does not follow the link
    if not isinstance(target, h5py.ExternalLink):
        return None, ""
    return target.filename, target.path


def orientation_matrix(file: Any, name: str) -> Floats:
    """Return the orientation matrix (3, 3) of a rotation as NXRefine stores it."""
    return numbers(file, f"{name}/{DETECTOR}/orientation_matrix").reshape(3, 3)
