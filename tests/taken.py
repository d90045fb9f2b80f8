"""Names of the results next to the axis of a series: an axis cannot have them."""

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401

from hklflow.experiment.series_axis import SeriesAxis


def accepted(*paths: Path, axis: str = "temperature") -> set[str]:
    """Return names that stand next to the axis in results, but that an axis may have.

    Parameters
    ----------
    paths : Path
        Tables (tab-separated, `.tsv`) and HDF5 files.
    axis : str
        Axis of the series of these files.
    """
    names: set[str] = set()
    n_with_axis = 0
    for path in paths:
        if path.suffix == ".tsv":
            with path.open() as file:
                groups = [set(file.readline().rstrip("\n").split("\t"))]
        else:
            groups = []
            with h5py.File(path) as file:
                file.visititems(
                    lambda _, x: groups.append({*x}) if isinstance(x, h5py.Group) else None
                )
        with_axis = [group for group in groups if axis in group]
        assert with_axis, f"{path} has no {axis}"
        n_with_axis += len(with_axis)
        names.update(*with_axis)
    assert n_with_axis
    return {name for name in names - {axis} if _is_axis(name)}


def _is_axis(name: str) -> bool:
    try:
        SeriesAxis(column=name, unit="T")
    except ValueError:
        return False
    return name != "temperature"
