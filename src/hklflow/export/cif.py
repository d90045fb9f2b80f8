"""CIF of merged reflections, with what checkCIF asks of the data; unknown facts are ``?``.

Names are those of the core dictionary (www.iucr.org/resources/cif/dictionaries/cif_core).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hklflow import __version__
from hklflow.base.errors import HklflowError
from hklflow.base.native import require_cctbx_is_safe
from hklflow.bragg.structure_factors import Crystal, StructureFactors
from hklflow.export.source import require_finished
from hklflow.formats.shelx import rows_of
from hklflow.geometry import lattice, symmetry
from hklflow.nexus.entry import open_entry, text
from hklflow.nexus.provenance import read_provenance
from hklflow.nexus.structure_factors import read_factors

_UNKNOWN = (
    "_exptl_crystal_colour",
    "_exptl_crystal_description",
    "_exptl_crystal_size_max",
    "_exptl_crystal_size_mid",
    "_exptl_crystal_size_min",
    "_exptl_absorpt_coefficient_mu",
    "_exptl_absorpt_correction_type",
    "_chemical_formula_sum",
    "_chemical_formula_weight",
    "_cell_formula_units_Z",
    "_cell_measurement_reflns_used",
    "_cell_measurement_theta_max",
    "_cell_measurement_theta_min",
    "_diffrn_measured_fraction_theta_full",
    "_diffrn_reflns_theta_full",
    "_diffrn_source",
    "_diffrn_measurement_device_type",
    "_diffrn_measurement_method",
)


@dataclass(frozen=True)
class Merged:
    """Structure factors with their statistics, the JSON of `merge_reflections`."""

    path: Path
    factors: StructureFactors
    crystal: Crystal
    figures: dict[str, Any]
    diagnosis: str


@contextmanager
def open_merged(path: Path) -> Iterator[Merged]:
    """Read structure factors.

    Raises
    ------
    HklflowError
        If the file contains something else.
    """
    require_finished(path)
    with open_entry(path) as entry:
        if "reflections/amplitude" not in entry or "reflections/multiplicity" not in entry:
            raise HklflowError(
                f"{path} has no merged reflections; give structure_factors.nxs of a scan "
                "(`snakemake bragg` makes it)"
            )
        figures = json.loads(text(entry["statistics/data"]))
        diagnosis = str(entry.attrs.get("hklflow_diagnostic", ""))
    file = read_factors(path)
    yield Merged(path, file.factors, file.crystal, figures, diagnosis)


def write(merged: Merged, path: Path) -> list[str]:
    """Write one data block; return notes about what the CIF does not state."""
    require_cctbx_is_safe()
    from iotbx.cif import model

    block = model.block()
    for name, value in _items(merged).items():
        block[name] = "?" if value is None else str(value)
    block.add_loop(_symmetry_loop(merged.crystal))
    block.add_loop(_reflections(merged))
    cif = model.cif()
    cif[_name(f"{merged.crystal.sample}_{merged.crystal.scan}")] = block
    with path.open("w", encoding="ascii", errors="backslashreplace") as file:
        print(cif, file=file)
    notes = ["intensities are in 1/Å³, not on an absolute scale"]
    notes.append(f"not known and written as ?: {', '.join(sorted(_unknown(block)))}")
    return notes


def _unknown(block: Any) -> list[str]:
    return [name for name in block if isinstance(block[name], str) and block[name] == "?"]


def _name(sample: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in sample)


def _items(merged: Merged) -> dict[str, Any]:
    """Return the items of the block that are not loops, in the order of a CIF of SHELXL."""
    crystal, factors = merged.crystal, merged.factors
    group = symmetry.space_group(crystal.space_group)
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    kelvin = crystal.temperature
    items: dict[str, Any] = {
        "_audit_creation_method": f"hklflow {__version__}",
        "_space_group_crystal_system": group.crystal_system,
        "_space_group_IT_number": group.number,
        "_space_group_name_H-M_alt": group.symbol,
        "_space_group_name_Hall": group.hall,
    }
    for name, value, sigma in zip(names, crystal.cell, crystal.cell_sigma, strict=True):
        items[f"_cell_{name}"] = _with_uncertainty(value, sigma)
    items |= {
        "_cell_volume": f"{lattice.volume(crystal.cell):.6g}",
        "_cell_measurement_temperature": None if kelvin is None else f"{kelvin:.6g}",
        "_diffrn_ambient_temperature": None if kelvin is None else f"{kelvin:.6g}",
        "_diffrn_radiation_probe": "x-ray",
        "_diffrn_radiation_wavelength": f"{crystal.wavelength:.6g}",
    }
    items |= dict.fromkeys(_UNKNOWN)
    overall = merged.figures.get("overall", {})
    hkl, intensity, sigma_i = rows_of(factors, None)
    sine = np.minimum(crystal.wavelength / (2 * factors.d), 1.0)
    theta = np.degrees(np.arcsin(sine))
    items["_diffrn_reflns_number"] = overall.get("observations")
    items["_diffrn_reflns_av_R_equivalents"] = _number(overall.get("R_merge"))
    total = float(intensity.sum())
    items["_diffrn_reflns_av_unetI/netI"] = _number(
        float(sigma_i.sum()) / total if total > 0 else None
    )
    for i, name in enumerate("hkl"):
        items[f"_diffrn_reflns_limit_{name}_min"] = int(hkl[:, i].min())
        items[f"_diffrn_reflns_limit_{name}_max"] = int(hkl[:, i].max())
    items |= {
        "_diffrn_reflns_theta_min": f"{theta.min():.3f}",
        "_diffrn_reflns_theta_max": f"{theta.max():.3f}",
        "_diffrn_measured_fraction_theta_max": _number(overall.get("completeness")),
        "_reflns_number_total": len(hkl),
        "_reflns_number_gt": int((intensity > 2 * sigma_i).sum()),
        "_reflns_threshold_expression": "I > 2\\s(I)",
        "_reflns_Friedel_coverage": None,
        "_reflns_special_details": _details(merged),
    }
    return items


def _details(merged: Merged) -> str:
    """Return sentences about the reflections and their origin."""
    history = read_provenance(merged.path)
    stages = ", ".join(f"{r['stage']} {r['stage_version']}" for r in history)
    apart = merged.factors.plus is not None
    lines = [
        f"Merged reflections of {merged.path.name}, sample {merged.crystal.sample}, scan "
        f"{merged.crystal.scan}; Friedel mates {'separate' if apart else 'merged'}.",
        "Limits of h, k, l are those of the unique reflections.",
        "F_squared_meas is the mean intensity in 1/Angstrom^3, not on an absolute scale.",
    ]
    if stages:
        lines.append(f"Stages (with their versions): {stages}.")
    if merged.diagnosis:
        lines.append(f"Diagnostic: {merged.diagnosis}.")
    return "\n".join(lines)


def _with_uncertainty(value: float, sigma: float) -> str:
    from libtbx.utils import format_float_with_standard_uncertainty

    if not (np.isfinite(sigma) and sigma > 0):
        return f"{value:.6g}"  # fixed by symmetry, or not refined
    return str(format_float_with_standard_uncertainty(value, sigma))


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


def _symmetry_loop(crystal: Crystal) -> Any:
    from iotbx.cif import model

    group = symmetry.space_group(crystal.space_group)
    operations = symmetry.crystal_symmetry(crystal.cell, group).space_group().all_ops()
    names = [operation.as_xyz() for operation in operations]
    return model.loop(data={"_space_group_symop_operation_xyz": names})


def _reflections(merged: Merged) -> Any:
    from iotbx.cif import model

    hkl, intensity, sigma = rows_of(merged.factors, None)
    columns = {f"_refln_index_{name}": [str(x) for x in hkl[:, i]] for i, name in enumerate("hkl")}
    columns["_refln_F_squared_meas"] = [f"{x:.9g}" for x in intensity]
    columns["_refln_F_squared_sigma"] = [f"{x:.9g}" for x in sigma]
    return model.loop(data=columns)
