"""Tables of peaks and reflections, and temperature series, as xarray datasets."""

from typing import TYPE_CHECKING, Any

import h5py

from hklflow.nexus.entry import text

if TYPE_CHECKING:
    import xarray as xr


def table_of(entry: h5py.Group) -> "xr.Dataset | None":
    """Return the peaks or reflections of a file, with the names of NXreflections; else None."""
    import xarray as xr

    for name, dimension in (("peaks", "peak"), ("reflections", "reflection")):
        group = entry.get(name)
        if isinstance(group, h5py.Group) and group.attrs.get("NX_class") == "NXreflections":
            columns = {
                n: c for n, c in group.items() if isinstance(c, h5py.Dataset) and c.ndim == 1
            }
            # HDF5 lists names in the order of the alphabet: h, k, l come first here.
            names = sorted(columns, key=lambda n: n not in ("h", "k", "l"))
            variables = {n: (dimension, columns[n][()], _about(columns[n])) for n in names}
            return xr.Dataset(variables, attrs={"title": text(entry["title"])})
    return None


def series_of(entry: h5py.Group) -> "xr.Dataset | None":
    """Return the quantities of a temperature series and their errors; else None."""
    import xarray as xr

    if not {"cell", "scans"} <= entry.keys() or "temperature" not in entry["cell"]:
        return None
    variables: dict[str, Any] = {}
    for group in entry.values():
        if isinstance(group, h5py.Group) and group.attrs.get("NX_class") == "NXdata":
            for name, column in group.items():
                if column.ndim == 1 and name != "temperature":
                    variables[name] = ("temperature", column[()], _about(column))
    at = ("temperature", entry["cell/temperature"][()], {"units": "K"})
    return xr.Dataset(variables, {"temperature": at}, {"title": text(entry["title"])})


def _about(column: h5py.Dataset) -> dict[str, str]:
    names = [name for name in ("long_name", "units", "description") if name in column.attrs]
    return {name: str(column.attrs[name]) for name in names}
