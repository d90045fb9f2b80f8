"""Files of NXRefine's parents: scans that belong together, and how they are to be reduced."""

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
    """A parent's file: what it registers and prescribes."""

    path: Path
    scans: Mapping[str, bool] = field(default_factory=dict)
    """Stem of a scan's file -> whether it is selected."""
    settings: Mapping[str, str] = field(default_factory=dict)
    grid: Mapping[str, Any] = field(default_factory=dict)
    grid_note: str = ""
    orientations: Mapping[str, Floats] = field(default_factory=dict)


def is_parent(path: Path) -> bool:
    """Whether a file is a parent, by its name."""
    return path.name.endswith("_scans.nxs")


def read_parent(path: Path, file: Any) -> Parent:
    """Read an open file of scans, and the settings of its experiment, which it goes before.

    Raises
    ------
    HklflowError
        If it contradicts itself, or the experiment's settings cannot be read.
    """
    stems = fields.texts(file, "entry/nxscans/scans")
    selected = fields.find(file, "entry/nxscans/selected")
    chosen = [True] * len(stems) if selected is None else np.ravel(selected[()]).tolist()
    if len(chosen) != len(stems):
        raise HklflowError(
            f"{path} registers {len(stems)} scans and says of {len(chosen)} whether they are "
            "selected; mend the file"
        )
    grid, note = read_grid(file)
    names = [n for n in fields.rotation_names(file) if fields.has_orientation(file, n)]
    return Parent(
        path,
        {stem: bool(one) for stem, one in zip(stems, chosen, strict=True)},
        ini_of(path) | fields.texts_of(file, "entry/nxscans/settings"),
        grid,
        note,
        {n: fields.orientation_matrix(file, n) for n in names},
    )


def ini_of(path: Path) -> dict[str, str]:
    """Settings of reductions of the experiment that a file belongs to."""
    for folder in path.parents[:_DEPTH]:
        ini = folder / "tasks/settings.ini"
        if ini.is_file():
            lines = read_ini(ini)
            return {key: text for section, key, text in lines if section == "nxreduce"}
    return {}


def setting(key: str, settings: Mapping[str, str]) -> Any:
    """Value of one of NXRefine's settings as hklflow has it; None if it is not said.

    Raises
    ------
    HklflowError
        If it is not what the setting needs.
    """
    row, text = KEYS["nxreduce"][key], settings.get(key, "")
    if not isinstance(row, Becomes) or text in ("", "None"):
        return None
    try:
        return row.convert(text)
    except ValueError as error:
        raise HklflowError(
            f"{key} of NXRefine's settings is {text!r}, not what it needs ({row.says}); mend it"
        ) from error
