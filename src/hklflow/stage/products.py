"""Read the products of a scan that many stages use: its orientation, and its verdict."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hklflow.stage.contract import read_json

if TYPE_CHECKING:
    from hklflow.orientation.product import Orientation


def read_orientation(path: Path) -> "Orientation":
    """Read an ``orientation.json``, ``parent.json`` or ``converged.json``.

    Raises
    ------
    HklflowError
        If the file is damaged, or an older version of hklflow wrote it.
    """
    from hklflow.orientation.product import Orientation

    return Orientation.from_dict(read_json(path), path)


def read_accepted(path: Path | None) -> bool | Literal["not judged"]:
    """Return from an ``accepted.json`` if the scan was accepted; "not judged" without a path."""
    return "not judged" if path is None else bool(read_json(path)["accepted"])
