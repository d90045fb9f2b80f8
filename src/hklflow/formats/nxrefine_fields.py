"""Fields of NXRefine's NeXus files, read with care: files that are damaged, links elsewhere."""

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
_MOST_NUMBERS = 1_000_000  # that one field of the geometry may have


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """Open a file of NXRefine; within it, what is damaged is told by one sentence.

    Raises
    ------
    HklflowError
        If there is no such file, or what is read from it within cannot be read.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise HklflowError(f"{path} does not exist; check the path")
    try:
        # What comes of numbers that are none is not finite, and refused.
        with h5py.File(path, "r") as file, np.errstate(all="ignore"):
            yield file
    except _DAMAGE as error:
        raise HklflowError(
            f"{path} is not a readable file of NXRefine ({type(error).__name__}: {error}); copy it "
            "again"
        ) from None


def rotation_names(file: Any) -> list[str]:
    """Names of the rotations: groups that end in a digit and have an instrument, f2 before f10."""
    names = [name for name in file if name[-1].isdigit() and is_group(file, name)]
    names = [name for name in names if is_group(file[name], "instrument")]
    return sorted(names, key=lambda name: [int(x) if x.isdigit() else x for x in _parts(name)])


def _parts(name: str) -> list[str]:
    return re.split(r"(\d+)", name)


def has_orientation(file: Any, name: str) -> bool:
    """Whether a rotation has an orientation."""
    return find(file, f"{name}/{DETECTOR}/orientation_matrix") is not None


def is_group(file: Any, name: str) -> bool:
    """Whether a name is a group of this file; links to other files are not followed."""
    import h5py

    if name not in file or isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        return False
    return file.get(name, getclass=True, getlink=False) is h5py.Group


def find(group: Any, name: str, largest: int | None = _MOST_NUMBERS) -> Any:
    """Dataset, or None if there is none or a larger one; links to other files are not followed."""
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
    """Values of a field, at least 1-D.

    Raises
    ------
    HklflowError
        If there is none and no default, or a value is not finite.
    """
    found = find(group, name)
    if found is None:
        if default is None:
            raise HklflowError(f"{name} is missing in {group.name} of {group.file.filename}")
        return np.array([default])
    values = np.asarray(found[()], dtype=np.float64)
    if not np.isfinite(values).all():
        raise HklflowError(f"{found.name} in {group.file.filename} is not finite; mend the file")
    return np.atleast_1d(values)


def number(group: Any, name: str, default: float | None = None) -> float:
    """First value of a field; raises as `numbers`."""
    return float(numbers(group, name, default).flat[0])


def words(group: Any, name: str) -> str:
    """Text of a field; empty if there is none."""
    found = find(group, name)
    if found is None:
        return ""
    value = found[()]
    return text(value.flat[0] if isinstance(value, np.ndarray) else value)


def texts(group: Any, name: str) -> list[str]:
    """Texts of a field, none if there is no such field."""
    found = find(group, name)
    if found is None:
        return []
    values = np.ravel(np.asarray(found[()], dtype=object))
    return [text(value) for value in values]


def texts_of(group: Any, name: str) -> dict[str, str]:
    """All fields of a group of parameters, as text."""
    if not is_group(group, name):
        return {}
    return {key: words(group[name], key) for key in group[name] if find(group[name], key)}


def link(group: Any, name: str) -> tuple[str | None, str]:
    """File that an external link leads to (None: it is none), and the path in it."""
    import h5py

    parent, _, last = name.rpartition("/")
    if parent not in group or not isinstance(group[parent], h5py.Group):
        return None, ""
    found = group[parent].get(last, getlink=True)  # does not follow it
    if not isinstance(found, h5py.ExternalLink):
        return None, ""
    return found.filename, found.path


def orientation_matrix(file: Any, name: str) -> Floats:
    """What NXRefine keeps as the orientation of a rotation, (3, 3)."""
    return numbers(file, f"{name}/{DETECTOR}/orientation_matrix").reshape(3, 3)
