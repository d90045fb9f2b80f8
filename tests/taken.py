"""Names of the results next to the axis of a series: an axis cannot have them."""

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401

from hklflow.experiment.series_axis import SeriesAxis


def accepted(*paths: Path, axis: str = "temperature") -> set[str]:
    """Return names that are next to the axis in results, but that an axis may have.

    Parameters
    ----------
    paths : Path
        Tables (tab-separated, `.tsv`) and HDF5 files; each has the axis.
    axis : str
        Axis of the series of these files.
    """
    names: set[str] = set()
    for path in paths:
        with_axis = [group for group in _groups(path) if axis in group]
        assert with_axis, f"{path} has no {axis}"
        names.update(*with_axis)
    return {name for name in names - {axis} if _is_axis(name)}


def _groups(path: Path) -> list[set[str]]:
    """Return the columns of a table, or the members of each group of an HDF5 file."""
    if path.suffix == ".tsv":
        with path.open() as file:
            return [set(file.readline().rstrip("\n").split("\t"))]
    found: list[set[str]] = []

    def collect(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Group):
            found.append(set(item))

    with h5py.File(path) as file:
        file.visititems(collect)
    return found


def _is_axis(name: str) -> bool:
    try:
        SeriesAxis(column=name, unit="T")
    except ValueError:
        return False
    return True
