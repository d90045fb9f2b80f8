"""Open a product by its content."""

from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.results.source import source_of
from hklflow.results.stack import Stack
from hklflow.results.tables import series_of, table_of
from hklflow.results.volume import Volume

_PRODUCTS = (
    "a volume, a stack, a table of peaks or reflections, a temperature series, an orientation, or "
    "the folder of an experiment"
)


def open_product(path: Path) -> Any:
    """Open a file; see `hklflow.results.open_result`."""
    import h5py

    from hklflow.base.system import require_file

    file, inside = _split(path)
    require_file(file, "product", "correct the path")
    if file.suffix.lower() == ".json":
        from hklflow.stage.products import read_orientation

        return read_orientation(file)
    if not h5py.is_hdf5(file):
        raise HklflowError(f"{path} is not HDF5; give {_PRODUCTS}")
    return _of_hdf5(file, inside)


def _of_hdf5(path: Path, inside: list[str]) -> Any:
    from hklflow.nexus.entry import open_entry
    from hklflow.nexus.plottable import open_plottable
    from hklflow.nexus.stack import axis_of, volumes_of

    with open_plottable(path, inside) as plottable:
        if plottable is not None and plottable.space and plottable.signal.ndim == 3:
            return Volume(source_of(path, inside, plottable))
        if plottable is not None and plottable.space:
            at = plottable.axis(0)
            if at is not None:
                files = volumes_of(plottable.signal, path)
                axis = axis_of(plottable.group)
                return Stack(at[()], [_volume(*member) for member in files], axis)
    if not inside:
        with open_entry(path) as entry:
            for reader in (table_of, series_of):
                if (table := reader(entry)) is not None:
                    return table
    where = "/".join([str(path), *inside])
    raise HklflowError(
        f"{where} is no product that can be opened here; give {_PRODUCTS} (`hklflow show {path}` "
        "lists what it holds)"
    )


def _volume(path: Path, inside: list[str]) -> Volume:
    from hklflow.nexus.plottable import open_plottable

    with open_plottable(path, inside) as plottable:
        if plottable is None or plottable.signal.ndim != 3 or not plottable.space:
            raise HklflowError(f"{path} has no volume, but a stack links to it; make it again")
        return Volume(source_of(path, inside, plottable))


def _split(path: Path) -> tuple[Path, list[str]]:
    """Split a path into a file and the names inside it."""
    for folder in path.parents:
        if folder.is_file():
            return folder, list(path.relative_to(folder).parts)
    return path, []
