"""Parent files of NXRefine: scans that belong together, and settings of their reduction."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats import nxrefine_fields as fields
from hklflow.formats.nxrefine_header import read_grid
from hklflow.formats.nxrefine_settings import KEYS, Becomes, read_ini

Floats = NDArray[np.float64]

_DEPTH = 4  # folders from a file up to those of its experiment


@dataclass(frozen=True)
class Parent:
    """Registered scans and settings in a parent's file."""

    path: Path
    scans: Mapping[str, bool] = field(default_factory=dict)
    """True for selected scans; the key is the stem of the scan's file."""
    settings: Mapping[str, str] = field(default_factory=dict)
    grid: Mapping[str, Any] = field(default_factory=dict)
    grid_note: str = ""
    orientations: Mapping[str, Floats] = field(default_factory=dict)


def is_parent(path: Path) -> bool:
    """Return True if a file name is a parent's."""
    return path.name.endswith("_scans.nxs")


def read_parent(path: Path, file: Any) -> Parent:
    """Read an open parent file, and the experiment's settings, which the file overrides.

    Raises
    ------
    HklflowError
        If the file contradicts itself, or the experiment's settings cannot be read.
    """
    stems = fields.texts(file, "entry/nxscans/scans")
    selected = fields.find(file, "entry/nxscans/selected")
    chosen = [True] * len(stems) if selected is None else np.ravel(selected[()]).tolist()
    if len(chosen) != len(stems):
        raise HklflowError(
            f"{path} registers {len(stems)} scans but has {len(chosen)} selection flags; correct "
            "the file"
        )
    grid, note = read_grid(file)
    names = [n for n in fields.rotation_names(file) if fields.has_orientation(file, n)]
    return Parent(
        path,
        {stem: bool(flag) for stem, flag in zip(stems, chosen, strict=True)},
        ini_of(path) | fields.texts_of(file, "entry/nxscans/settings"),
        grid,
        note,
        {n: fields.orientation_matrix(file, n) for n in names},
    )


def ini_of(path: Path) -> dict[str, str]:
    """Return the reduction settings of the experiment that a file belongs to."""
    for folder in path.parents[:_DEPTH]:
        ini = folder / "tasks/settings.ini"
        if ini.is_file():
            lines = read_ini(ini)
            return {key: text for section, key, text in lines if section == "nxreduce"}
    return {}


def setting(key: str, settings: Mapping[str, str]) -> Any:
    """Convert one of NXRefine's settings to hklflow's value; None if it is not set.

    Raises
    ------
    HklflowError
        If the value is not valid for the setting.
    """
    row, text = KEYS["nxreduce"][key], settings.get(key, "")
    if not isinstance(row, Becomes) or text in ("", "None"):
        return None
    try:
        return row.convert(text)
    except ValueError as error:
        raise HklflowError(
            f"{key} in NXRefine's settings has the invalid value {text!r} ({row.says}); correct it"
        ) from error
