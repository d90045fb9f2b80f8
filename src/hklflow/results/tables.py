"""Tables of peaks and reflections, and temperature series, as xarray datasets."""

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

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
    """Return the quantities of a series along temperature or another axis; else None."""
    import xarray as xr

    if not {"cell", "scans"} <= entry.keys() or "axes" not in entry["cell"].attrs:
        return None
    axis = str(np.atleast_1d(entry["cell"].attrs["axes"])[0])
    variables: dict[str, Any] = {}
    for group in entry.values():
        if isinstance(group, h5py.Group) and group.attrs.get("NX_class") == "NXdata":
            for name, column in group.items():
                if column.ndim == 1 and name != axis:
                    variables[name] = (axis, column[()], _about(column))
    values = entry["cell"][axis]
    at = (axis, values[()], {"units": str(values.attrs.get("units", ""))})
    return xr.Dataset(variables, {axis: at}, {"title": text(entry["title"])})


def _about(column: h5py.Dataset) -> dict[str, str]:
    names = [name for name in ("long_name", "units", "description") if name in column.attrs]
    return {name: str(column.attrs[name]) for name in names}
