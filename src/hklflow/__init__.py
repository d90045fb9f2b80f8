"""hklflow: single-crystal X-ray rotation data, from raw frames to S(Q) volumes."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow.base import kernel_cache
from hklflow.base.native import preload

if TYPE_CHECKING:
    import os

__version__ = "0.1.0"

kernel_cache.choose(Path(__file__).parent)
preload()


def open(path: "str | os.PathLike[str]") -> Any:
    """Open a product in Python; see `hklflow.results.open_result`.

    Raises
    ------
    HklflowError
        If the file does not exist, or is not a product that can be opened.
    """
    # By name, because the rooms below `results` import this module for its version.
    return importlib.import_module("hklflow.results").open_result(path)
