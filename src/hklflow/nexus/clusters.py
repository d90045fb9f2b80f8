"""Labels of clusters on the grid of the volumes, and trajectories of the clusters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.geometry.grid import Grid
from hklflow.nexus.entry import add_array, add_group
from hklflow.nexus.grid_writer import PLANES, GridWriter

Floats = NDArray[np.float64]


def write_clusters(
    path: Path,
    title: str,
    grid: Grid,
    cell: Floats,
    labels: NDArray[np.uint8],
    temperatures: Floats,
    curves: Mapping[str, Floats],
    notes: Mapping[str, Any],
    axis: Axis = TEMPERATURE,
) -> None:
    """Write labels (l, k, h) in the layout of a volume, and curves (K, T) by their names.

    ``trajectories`` is an NXdata with the mean of S and the change beyond heat of each cluster.
    """

    def trajectories(entry: h5py.Group) -> None:
        group = add_group(
            entry, "trajectories", "NXdata", signal="mean", axes=["cluster", axis.name]
        )
        group["title"] = f"mean S(Q) of the clusters against {axis.name}"
        for name, values in curves.items():
            add_array(group, name, values, interpretation="spectrum")
        add_array(group, "cluster", np.arange(1, len(curves["mean"]) + 1))
        add_array(group, axis.name, temperatures, axis.units, long_name=axis.label)

    with GridWriter(path, grid, cell, title, {"data": np.uint8}) as writer:
        dataset = writer.datasets["data"]
        dataset.attrs["long_name"] = "cluster (0: no change)"
        dataset.attrs["units"] = ""
        for first in range(0, len(labels), PLANES):
            writer.write(first, data=labels[first : first + PLANES])
        writer.add_group(trajectories)
        writer.note(notes)
