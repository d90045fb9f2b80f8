"""The formats of `hklflow export`, and the products that each holds."""

import difflib
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hklflow.base.errors import HklflowError

#: Write a source to a path; return notes about data that the format cannot hold.
Write = Callable[[Any, Path], list[str]]


@dataclass(frozen=True)
class Format:
    """Format of another program.

    Attributes
    ----------
    purpose : str
    source : str
        Kind of product: a volume of hkl or direct space, a volume of hkl only, a stack of volumes
        along temperature, or structure factors.
    suffixes : tuple of str
        Endings of the target; empty for a folder.
    unmeasured : float
        Number for voxels without a value, if the user states none; NaN if readers know NaN.
    module, function : str
        Writer: a module of this package and its function.
    """

    purpose: str
    source: Literal["volume", "hkl", "stack", "reflections"]
    suffixes: tuple[str, ...]
    module: str
    function: str = "write"
    unmeasured: float = math.nan

    @property
    def write(self) -> Write:
        """Writer; its module is imported now."""
        module = importlib.import_module(f"hklflow.export.{self.module}")
        writer: Write = getattr(module, self.function)
        return writer


FORMATS: dict[str, Format] = {
    "ccp4": Format(
        "map for ChimeraX, Coot, PyMOL, gemmi",
        "volume",
        (".ccp4", ".map", ".mrc"),
        "ccp4",
        unmeasured=0.0,
    ),
    "cube": Format("text for VESTA, VMD and ASE", "volume", (".cube",), "cube", unmeasured=0.0),
    "yell": Format("input of Yell", "volume", (".h5", ".hdf5"), "yell", unmeasured=0.0),
    "discus": Format(
        "input of DISCUS", "volume", (".h5", ".hdf5"), "yell", "write_discus", unmeasured=0.0
    ),
    "npy": Format("arrays of numpy and a JSON of axes", "volume", (".npy",), "numpy_files"),
    "vtk": Format("grid for ParaView and pyvista", "volume", (".vts", ".vti"), "vtk"),
    "mantid": Format("MDHistoWorkspace for Mantid and rmc-discord", "hkl", (".nxs",), "mantid"),
    "temperatures": Format(
        "folder for nxs_analysis_tools", "stack", (), "series", "write_temperatures"
    ),
    "xtec": Format(
        "file for X-TEC", "stack", (".nxs", ".h5"), "series", "write_xtec", unmeasured=0.0
    ),
    "cif": Format("reflections for publication", "reflections", (".cif",), "cif"),
}

#: Formats that are not written, and the reason.
REFUSED: dict[str, str] = {
    "rmcprofile": (
        "its manual describes no file of single-crystal diffuse scattering, and no public reader "
        "could check one; export yell, discus or mantid, which 3DSConvert "
        "(github.com/maximeremenko/3DSConvert) converts for RMCProfile"
    ),
}


def format_named(name: str | None) -> Format:
    """Return a format by its name; None is a name that the user left out.

    Raises
    ------
    HklflowError
        If there is no such format, or hklflow does not write it; the message says why.
    """
    if name in FORMATS:
        return FORMATS[name]
    if name in REFUSED:
        raise HklflowError(f"{name} is not written: {REFUSED[name]}")
    if name is None:
        raise HklflowError(
            f"give a format first: {', '.join(FORMATS)}; `hklflow export --help` says which "
            "products each of them holds"
        )
    near = difflib.get_close_matches(name.lower(), FORMATS, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise HklflowError(f"there is no export format {name!r}{hint}; choose {', '.join(FORMATS)}")
