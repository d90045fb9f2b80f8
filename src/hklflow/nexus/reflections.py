"""Write and read integrated reflections as NXreflections."""

from dataclasses import fields
from pathlib import Path

import numpy as np

from hklflow.bragg.reflections import ReflectionFlag, Reflections
from hklflow.nexus.entry import add_array, add_group, create, open_entry

_NAMES = {
    "frame": "predicted_frame",
    "slow": "predicted_px_y",
    "fast": "predicted_px_x",
    "observed_slow": "observed_px_y",
    "observed_fast": "observed_px_x",
    "var_frame": "observed_frame_var",
    "var_slow": "observed_px_y_var",
    "var_fast": "observed_px_x_var",
    "intensity_profile": "int_prf",
    "sigma_profile": "int_prf_errors",
    "intensity_sum": "int_sum",
    "sigma_sum": "int_sum_errors",
    "background": "background_mean",
    "background_sigma": "background_mean_errors",
    "recorded": "partiality",
}
_UNITS = {
    "volume": "1/angstrom^3",
    "d": "angstrom",
    "intensity_sum": "1/angstrom^3",
    "sigma_sum": "1/angstrom^3",
    "intensity_profile": "1/angstrom^3",
    "sigma_profile": "1/angstrom^3",
    "counts": "counts",
}


def write_reflections(path: Path, reflections: Reflections, title: str) -> None:
    """Write a table of integrated reflections; h, k, l are separate columns."""
    with create(path, title, "picture") as entry:
        table = add_group(entry, "reflections", "NXreflections")
        for i, name in enumerate("hkl"):
            add_array(table, name, reflections.hkl[:, i])
        for column in fields(reflections):
            if column.name != "hkl":
                name = _NAMES.get(column.name, column.name)
                unit = _UNITS.get(column.name)
                add_array(table, name, getattr(reflections, column.name), unit)
        table["flags"].attrs["bit_values"] = np.array(list(ReflectionFlag), np.int64)
        table["flags"].attrs["bit_meanings"] = [flag.name for flag in ReflectionFlag]
        picture = add_group(entry, "picture", "NXdata", signal="intensity", axes=["d_star"])
        order = np.argsort(-reflections.d)
        add_array(picture, "intensity", reflections.intensity_sum[order], "1/angstrom^3")
        add_array(picture, "intensity_errors", reflections.sigma_sum[order], "1/angstrom^3")
        add_array(picture, "d_star", 1 / reflections.d[order], "1/angstrom", long_name="1/d")


def read_reflections(path: Path) -> Reflections:
    """Read a table of integrated reflections."""
    with open_entry(path) as entry:
        table = entry["reflections"]
        columns = {
            column.name: table[_NAMES.get(column.name, column.name)][()]
            for column in fields(Reflections)
            if column.name != "hkl"
        }
        hkl = np.stack([table[name][()] for name in "hkl"], axis=1)
        return Reflections(hkl=hkl, **columns)
