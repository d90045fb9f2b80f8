"""NeXus files and text tables of scaled reflections, structure factors and their series."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.bragg.reflections import ReflectionFlag
from hklflow.bragg.structure_factors import (
    Crystal,
    IntensitySeries,
    Means,
    Scaled,
    StructureFactors,
)
from hklflow.nexus.entry import add_array, add_group, create, open_entry, text

_INTENSITY = "1/angstrom^3"
_UNITS = {
    "angle": "degree",
    "d": "angstrom",
    "intensity": _INTENSITY,
    "sigma": _INTENSITY,
    "sigma_counting": _INTENSITY,
}


@dataclass(frozen=True)
class ScaledFile:
    """Content of a file of scaled reflections; ``rotations`` are the names of the rotations."""

    scaled: Scaled
    rotations: tuple[str, ...]
    crystal: Crystal


@dataclass(frozen=True)
class FactorsFile:
    """Content of a file of structure factors."""

    factors: StructureFactors
    crystal: Crystal


def write_scaled(
    path: Path,
    scaled: Scaled,
    rotations: Sequence[str],
    crystal: Crystal,
    figures: Mapping[str, Any],
) -> None:
    """Write scaled reflections, and for each rotation a plot of the scale as function of angle.

    The default plot shows the first rotation with reflections.
    """
    present = np.unique(scaled.rotation)
    title = f"{crystal.sample} {crystal.scan}: scaled reflections"
    with create(path, title, f"scale_{present[0] + 1}") as entry:
        _write_crystal(entry, crystal)
        table = add_group(entry, "reflections", "NXreflections")
        _write_hkl(table, scaled.hkl)
        for column in fields(Scaled):
            if column.name != "hkl":
                name = column.name
                add_array(table, name, getattr(scaled, name), _UNITS.get(name))
        table["flags"].attrs["bit_values"] = np.array(list(ReflectionFlag), np.int64)
        table["flags"].attrs["bit_meanings"] = [flag.name for flag in ReflectionFlag]
        table["rotation"].attrs["names"] = list(rotations)
        _write_figures(entry, figures)
        for number in present:
            group = f"scale_{number + 1}"
            picture = add_group(entry, group, "NXdata", signal="scale", axes=["angle"])
            picture["title"] = f"{title}, rotation {rotations[number]}"
            part = scaled.select(scaled.rotation == number)
            order = np.argsort(part.angle, kind="stable")
            add_array(picture, "scale", part.scale[order], long_name="scale")
            add_array(picture, "angle", part.angle[order], "degree")


def read_scaled(path: Path) -> ScaledFile:
    """Read scaled reflections."""
    with open_entry(path) as entry:
        table = entry["reflections"]
        columns = {c.name: table[c.name][()] for c in fields(Scaled) if c.name != "hkl"}
        names = tuple(str(name) for name in table["rotation"].attrs["names"])
        return ScaledFile(Scaled(hkl=_read_hkl(table), **columns), names, _read_crystal(entry))


def write_factors(
    path: Path,
    factors: StructureFactors,
    crystal: Crystal,
    figures: Mapping[str, Any],
    title: str,
) -> None:
    """Write structure factors; the default plot is the intensity against 1/d."""
    with create(path, title, "picture") as entry:
        _write_crystal(entry, crystal)
        table = add_group(entry, "reflections", "NXreflections")
        _write_hkl(table, factors.hkl)
        add_array(table, "d", factors.d, "angstrom")
        for name, means in (("", factors.mean), ("_plus", factors.plus), ("_minus", factors.minus)):
            if means is not None:
                add_array(table, f"intensity{name}", means.intensity, _INTENSITY)
                add_array(table, f"intensity{name}_errors", means.sigma, _INTENSITY)
                add_array(table, f"multiplicity{name}", means.n)
        add_array(table, "amplitude", factors.amplitude, "angstrom^-1.5")
        add_array(table, "amplitude_errors", factors.amplitude_sigma, "angstrom^-1.5")
        add_array(table, "agree", factors.agree.astype(np.int8))
        _write_figures(entry, figures)
        picture = add_group(entry, "picture", "NXdata", signal="intensity", axes=["d_star"])
        order = np.argsort(-factors.d, kind="stable")
        add_array(picture, "intensity", factors.mean.intensity[order], _INTENSITY)
        add_array(picture, "intensity_errors", factors.mean.sigma[order], _INTENSITY)
        add_array(picture, "d_star", 1 / factors.d[order], "1/angstrom", long_name="1/d")


def read_factors(path: Path) -> FactorsFile:
    """Read structure factors."""
    with open_entry(path) as entry:
        table = entry["reflections"]

        def means(name: str) -> Means:
            return Means(
                table[f"intensity{name}"][()],
                table[f"intensity{name}_errors"][()],
                table[f"multiplicity{name}"][()],
            )

        apart = "intensity_plus" in table
        factors = StructureFactors(
            hkl=_read_hkl(table),
            d=table["d"][()],
            mean=means(""),
            amplitude=table["amplitude"][()],
            amplitude_sigma=table["amplitude_errors"][()],
            agree=table["agree"][()].astype(np.bool_),
            plus=means("_plus") if apart else None,
            minus=means("_minus") if apart else None,
        )
        return FactorsFile(factors, _read_crystal(entry))


def write_table(path: Path, factors: StructureFactors) -> None:
    """Write structure factors as tab-separated text."""
    columns: dict[str, Any] = dict(zip("hkl", factors.hkl.T, strict=True))
    columns["d"] = factors.d
    for name, means in (("", factors.mean), ("_plus", factors.plus), ("_minus", factors.minus)):
        if means is not None:
            columns[f"I{name}"], columns[f"sigma_I{name}"] = means.intensity, means.sigma
            columns[f"n{name}"] = means.n
    columns |= {"F": factors.amplitude, "sigma_F": factors.amplitude_sigma, "agree": factors.agree}
    _write_columns(path, columns)


def write_intensity_table(path: Path, series: IntensitySeries, axis: Axis = TEMPERATURE) -> None:
    """Write I(hkl, T) as tab-separated text: one row for each reflection of each scan."""
    row, scan = np.nonzero(np.isfinite(series.intensity))
    columns: dict[str, Any] = {"setting": np.array(series.settings)[row]}
    columns |= dict(zip("hkl", series.hkl[row].T, strict=True))
    columns |= {
        "d": series.d[row],
        "scan": np.array(series.scans)[scan],
        axis.name: series.temperature[scan],
        "I": series.intensity[row, scan],
        "sigma_I": series.sigma[row, scan],
        "n": series.n[row, scan],
        "reference": np.array(series.parents)[scan],
        "scale": series.scale[scan],
        "sigma_scale": series.scale_sigma[scan],
        "dB": series.decay[scan],
        "sigma_dB": series.decay_sigma[scan],
    }
    _write_columns(path, columns)


def write_intensities(
    path: Path, series: IntensitySeries, title: str, axis: Axis = TEMPERATURE
) -> None:
    """Write I(hkl, T) as an image: reflections and temperature are the axes.

    Scans without a temperature are only in the group ``scans`` and in the table.
    """
    with_t = np.flatnonzero(np.isfinite(series.temperature))
    with_t = with_t[np.argsort(series.temperature[with_t], kind="stable")]
    with create(path, title, "intensity") as entry:
        data = add_group(
            entry, "intensity", "NXdata", signal="intensity", axes=["reflection", axis.name]
        )
        data["title"] = title
        add_array(data, "intensity", series.intensity[:, with_t], _INTENSITY)
        add_array(data, "intensity_errors", series.sigma[:, with_t], _INTENSITY)
        add_array(data, "reflection", np.arange(len(series.hkl)), long_name="row of reflections")
        add_array(data, axis.name, series.temperature[with_t], axis.units)
        table = add_group(entry, "reflections", "NXreflections")
        _write_hkl(table, series.hkl)
        add_array(table, "d", series.d, "angstrom")
        string = h5py.string_dtype()
        table.create_dataset("setting", data=list(series.settings), dtype=string)
        scans = add_group(entry, "scans", "NXcollection")
        scans.create_dataset("scan", data=list(series.scans), dtype=string)
        scans.create_dataset("parent", data=list(series.parents), dtype=string)
        add_array(scans, axis.name, series.temperature, axis.units)
        add_array(scans, "intensity", series.intensity, _INTENSITY)
        add_array(scans, "intensity_errors", series.sigma, _INTENSITY)
        add_array(scans, "multiplicity", series.n)
        add_array(scans, "scale", series.scale)
        add_array(scans, "scale_errors", series.scale_sigma)
        add_array(scans, "debye_waller", series.decay, "angstrom^2")
        add_array(scans, "debye_waller_errors", series.decay_sigma, "angstrom^2")


def _write_columns(path: Path, columns: Mapping[str, Any]) -> None:
    """Write tab-separated columns: numbers with 9 digits, flags as 0 and 1, NaN as empty text."""

    def texts(column: NDArray[Any]) -> list[str]:
        if column.dtype.kind == "f":
            return ["" if np.isnan(x) else f"{x:.9g}" for x in column]
        return [str(int(x)) if column.dtype.kind == "b" else str(x) for x in column]

    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(texts(np.asarray(c)) for c in columns.values()), strict=True))


def _write_hkl(table: h5py.Group, hkl: NDArray[np.int64]) -> None:
    for i, name in enumerate("hkl"):
        add_array(table, name, hkl[:, i])


def _read_hkl(table: h5py.Group) -> NDArray[np.int64]:
    hkl: NDArray[np.int64] = np.stack([table[name][()] for name in "hkl"], axis=1)
    return hkl


def _write_figures(entry: h5py.Group, figures: Mapping[str, Any]) -> None:
    """Store the statistics with the data; the JSON file in the same folder also has them."""
    note = add_group(entry, "statistics", "NXnote")
    note["type"] = "application/json"
    note["data"] = json.dumps(_plain(figures))


def _plain(value: Any) -> Any:
    """Convert numpy values to Python values; values that are not finite become None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _write_crystal(entry: h5py.Group, crystal: Crystal) -> None:
    sample = add_group(entry, "sample", "NXsample")
    sample["name"] = crystal.sample
    sample["space_group"] = crystal.space_group
    add_array(sample, "unit_cell", np.array(crystal.cell), "angstrom and degree")
    add_array(sample, "unit_cell_errors", np.array(crystal.cell_sigma), "angstrom and degree")
    sample["scan"], sample["parent"] = crystal.scan, crystal.parent
    if crystal.temperature is not None:
        add_array(sample, "temperature", crystal.temperature, "K")
    beam = add_group(entry, "beam", "NXbeam")
    add_array(beam, "incident_wavelength", crystal.wavelength, "angstrom")


def _read_crystal(entry: h5py.Group) -> Crystal:
    sample = entry["sample"]
    return Crystal(
        sample=text(sample["name"]),
        scan=text(sample["scan"]),
        parent=text(sample["parent"]),
        space_group=text(sample["space_group"]),
        cell=tuple(float(x) for x in sample["unit_cell"][()]),
        cell_sigma=tuple(float(x) for x in sample["unit_cell_errors"][()]),
        wavelength=float(entry["beam/incident_wavelength"][()]),
        temperature=float(sample["temperature"][()]) if "temperature" in sample else None,
    )
