"""Whole orientations of scans: tests say what of them matters."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hklflow import stage
from hklflow.geometry import Rotation
from hklflow.geometry.grid import Grid
from hklflow.orientation.product import Orientation

GRID = Grid.symmetric([1.0, 1.0, 1.0], [0.5, 0.5, 0.5])


def orientation(
    rotations: Mapping[str, Rotation] | None = None,
    ub: ArrayLike = np.eye(3),  # noqa: B008
    group: str = "P 1",
    grid: Grid = GRID,
    **changed: Any,
) -> Orientation:
    """Orientation of the scan 300K of a crystal; ``changed``: fields that differ."""
    made = Orientation.known("300K", rotations or {}, ub, group, grid)
    return replace(made, **{"sample": "s"} | changed)


def write_orientation(path: Path, *args: Any, **changed: Any) -> Path:
    """Write an `orientation` as its stage would; gives the path."""
    stage.write_json(path, orientation(*args, **changed).to_dict())
    return path
