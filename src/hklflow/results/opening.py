"""Open a product of hklflow by its content."""

import os
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.results.source import source_of
from hklflow.results.volume import Volume


def open_result(path: "str | os.PathLike[str]") -> Any:
    """Open a product: a volume, a stack of volumes, a table, or an orientation.

    Parameters
    ----------
    path : str or Path
        File; for a volume in a master file also the path inside, as
        ``quartz_100K.nxs/entry/masked_symm_transform``.

    Raises
    ------
    HklflowError
        If the file does not exist, or is not a product that can be opened.
    """
    from hklflow.base.system import require_file
    from hklflow.nexus.plottable import open_plottable

    file, inside = _split(Path(path))
    require_file(file, "product", "correct the path")
    with open_plottable(file, inside) as plottable:
        if plottable is not None and plottable.space and plottable.signal.ndim == 3:
            return Volume(source_of(file, inside, plottable))
    raise HklflowError(f"{path} is not a product that can be opened; give a volume")


def _split(path: Path) -> tuple[Path, list[str]]:
    """Split a path into a file and the names inside it."""
    for folder in path.parents:
        if folder.is_file():
            return folder, list(path.relative_to(folder).parts)
    return path, []
