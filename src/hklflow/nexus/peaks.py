"""Write and read peak tables as NXreflections."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.nexus.entry import add_array, add_group, create, open_entry
from hklflow.peaks.table import PeakTable

_NX_REFLECTIONS = {
    "frame": "observed_frame",
    "slow": "observed_px_y",
    "fast": "observed_px_x",
    "var_frame": "observed_frame_var",
    "var_slow": "observed_px_y_var",
    "var_fast": "observed_px_x_var",
    "intensity": "int_sum",
    "var_intensity": "int_sum_var",
    "background": "background_mean",
}


def write_peaks(path: Path, peaks: PeakTable) -> None:
    """Write a peak table as NXreflections; ``observed_px_x`` is fast, ``observed_px_y`` slow."""
    with create(path, "peaks", "picture") as entry:
        table = add_group(entry, "peaks", "NXreflections")
        for column in fields(peaks):
            value = getattr(peaks, column.name)
            if isinstance(value, np.ndarray):
                add_array(table, _NX_REFLECTIONS.get(column.name, column.name), value)
            else:
                table.attrs[column.name] = json.dumps(value)
        picture = add_group(entry, "picture", "NXdata", signal="intensity", axes=["frame"])
        order = np.argsort(peaks.frame)
        add_array(picture, "intensity", peaks.intensity[order], "counts")
        add_array(picture, "frame", peaks.frame[order])


def read_peaks(path: Path) -> PeakTable:
    """Read a peak table."""
    with open_entry(path) as entry:
        table = entry["peaks"]
        columns: dict[str, Any] = {}
        for column in fields(PeakTable):
            name = _NX_REFLECTIONS.get(column.name, column.name)
            if name in table:
                columns[column.name] = table[name][()]
            elif column.name in table.attrs:
                columns[column.name] = json.loads(table.attrs[column.name])
        return PeakTable(**columns)
