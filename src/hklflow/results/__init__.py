"""Results in Python: cuts of volumes with errors, and tables, as xarray objects.

`hklflow.open` opens any product. Numbers are read from the file when a method needs them.
"""

import os
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.results.arguments import shown
from hklflow.results.experiment import Experiment
from hklflow.results.opening import open_product
from hklflow.results.stack import Stack
from hklflow.results.volume import Volume

__all__ = ["Experiment", "Stack", "Volume", "open_product", "open_result"]


def open_result(path: "str | os.PathLike[str]") -> Any:
    """Open a product of hklflow, or an experiment.

    Parameters
    ----------
    path : str or Path
        File, or folder of an experiment. For a volume in a master file also the path inside, as
        ``quartz_100K.nxs/entry/masked_symm_transform``.

    Returns
    -------
    Volume, Stack, Experiment, Orientation or xarray.Dataset
        Tables and temperature series are read as an ``xarray.Dataset``.

    Raises
    ------
    HklflowError
        If the file does not exist, or is not a product that can be opened.
    """
    if not isinstance(path, str | os.PathLike):
        raise HklflowError(f"{shown(path)} is not a path; give the path of a file or folder")
    return Experiment(Path(path)) if Path(path).is_dir() else open_product(Path(path))
