"""Temperature series of one sample: one NXdata for each quantity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.nexus.entry import add_array, add_group, create


@dataclass(frozen=True)
class Quantity:
    """Label of a column of a series with its unit, and the unit in files."""

    label: str
    units: str


def write_series(
    path: Path,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    quantities: Mapping[str, Quantity],
    axis: Axis = TEMPERATURE,
) -> None:
    """Write the results of all scans of one sample as functions of temperature.

    For each quantity there is one NXdata, with errors, over the scans with a known temperature in
    ascending order. The default plot ``cell`` shows a, b and c together. The collection ``scans``
    lists all scans, also scans without temperature (NaN).

    Parameters
    ----------
    rows : sequence of mappings
        One mapping for each scan: "scan", "parent", "temperature" (K or None; the value along
        ``axis``), and for each quantity its value and ``<quantity>_sigma``.
    quantities : mapping
        Label and units of each name; must contain a, b and c.
    axis : Axis
        Axis of the series, which names the dataset of its values.
    """
    with_temperature = sorted(
        (row for row in rows if row["temperature"] is not None), key=lambda r: r["temperature"]
    )
    temperatures = np.array([row["temperature"] for row in with_temperature], dtype=np.float64)
    with create(path, title, "cell") as entry:
        cell = _data(entry, "cell", "a", temperatures, title, axis)
        cell.attrs["auxiliary_signals"] = ["b", "c"]
        for name in ("a", "b", "c"):
            _quantity(cell, name, with_temperature, quantities[name])
        for name, quantity in quantities.items():
            group = _data(entry, name, name, temperatures, title, axis)
            _quantity(group, name, with_temperature, quantity)
        scans = add_group(entry, "scans", "NXcollection")
        text = h5py.string_dtype()
        for name in ("scan", "parent"):
            scans.create_dataset(name, data=[str(row[name]) for row in rows], dtype=text)
        known = [np.nan if row["temperature"] is None else row["temperature"] for row in rows]
        add_array(scans, axis.name, np.array(known, dtype=np.float64), axis.units)


def _data(
    entry: h5py.Group, name: str, signal: str, at: ArrayLike, title: str, axis: Axis
) -> h5py.Group:
    group = add_group(entry, name, "NXdata", signal=signal, axes=[axis.name])
    group["title"] = title
    add_array(group, axis.name, at, axis.units, long_name=axis.label)
    return group


def _quantity(
    group: h5py.Group, name: str, rows: Sequence[Mapping[str, Any]], quantity: Quantity
) -> None:
    values = np.array([row[name] for row in rows], dtype=np.float64)
    sigmas = np.array([row[f"{name}_sigma"] for row in rows], dtype=np.float64)
    add_array(group, name, values, quantity.units, long_name=quantity.label)
    add_array(group, f"{name}_errors", sigmas, quantity.units)
