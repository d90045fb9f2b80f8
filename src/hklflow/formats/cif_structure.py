"""Read the average structure (atoms, occupancies, displacements) of a CIF file with cctbx."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.base.errors import HklflowError, printable
from hklflow.bragg.scattering import atomic_number
from hklflow.bragg.structure import Structure
from hklflow.formats.cif import read_cif
from hklflow.geometry import lattice

_FULL = 1.01  # largest sum of rounded occupancies on a site
_SAME_SITE = 0.3  # Å
_LARGEST_U = 0.5  # Å²: an isotropic U of B = 40 Å²; a larger number is B in the column of U


def read_structure(path: Path, block: str | None = None) -> Structure:
    """Return all atoms of the cell of a CIF file.

    Parameters
    ----------
    path : Path
    block : str, optional
        Name of the data block; default: the only block with a cell.

    Raises
    ------
    HklflowError
        If the file has no cell, space group or atoms, an atom has no displacement parameter, or the
        occupancies of a site add up to more than 1.
    """
    crystal = read_cif(path, block)
    where = f"{path}, data block {printable(crystal.block)}"
    if crystal.space_group is None:
        raise HklflowError(f"{where} states no space group; add it")
    model = _cctbx_structure(path, crystal.block, where)
    for scatterer in model.scatterers():
        _check(scatterer, model.unit_cell(), where)
    _require_room(list(model.scatterers()), model.unit_cell().parameters(), where)
    whole = model.expand_to_p1(sites_mod_positive=True)
    atoms = list(whole.scatterers())
    return Structure(
        np.array(whole.unit_cell().parameters()),
        crystal.space_group,
        tuple(_element(atom.scattering_type) for atom in atoms),
        np.array([atom.site for atom in atoms]),
        np.array([atom.occupancy for atom in atoms]),
        np.array([_u_star(atom, whole.unit_cell()) for atom in atoms]),
    )


def _cctbx_structure(path: Path, block: str, where: str) -> Any:
    from iotbx.cif import reader
    from libtbx.utils import Sorry

    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        structures = reader(input_string=text).build_crystal_structures()
        found = structures.get(block)
    except (Sorry, RuntimeError, ValueError, AssertionError, KeyError, AttributeError) as error:
        reason = printable(" ".join(str(error).split())[:200])
        raise HklflowError(f"{where}: its atoms cannot be read ({reason}); correct it") from error
    if found is None or not len(found.scatterers()):
        raise HklflowError(
            f"{where} has no atoms (_atom_site_fract_x); give the CIF file of a refined structure"
        )
    return found


def _check(atom: Any, cell: Any, where: str) -> None:
    """Require an element, a plausible occupancy and a plausible displacement of an atom."""
    label = printable(atom.label)
    try:
        atomic_number(_element(atom.scattering_type))
    except ValueError:
        raise HklflowError(
            f"{where}: atom {label} is of no chemical element ({printable(atom.scattering_type)}); "
            "correct its _atom_site_type_symbol"
        ) from None
    u = float(atom.u_iso_or_equiv(cell))
    if not 0 < u <= _LARGEST_U:
        raise HklflowError(
            f"{where}: atom {label} has the isotropic displacement U = {u:.4g} Å² (0 if none is "
            f"stated), not one between 0 and {_LARGEST_U:g} Å²; give the CIF file of a refined "
            "structure"
        )
    if not 0 < atom.occupancy <= 1.0001:
        raise HklflowError(
            f"{where}: atom {label} has the occupancy {atom.occupancy:g}, not one between 0 and 1; "
            "correct it"
        )


def _require_room(atoms: list[Any], cell: tuple[float, ...], where: str) -> None:
    """Require that the occupancies of the atoms on a site add up to 1 at most."""
    sites = np.array([atom.site for atom in atoms])
    occupancies = np.array([atom.occupancy for atom in atoms])
    metric = lattice.metric(cell)
    for site in sites:
        shift = sites - site
        shift -= np.round(shift)
        same = np.einsum("ni,ij,nj->n", shift, metric, shift) < _SAME_SITE**2
        if (total := float(occupancies[same].sum())) > _FULL:
            labels = ", ".join(printable(atoms[i].label) for i in np.flatnonzero(same))
            raise HklflowError(
                f"{where}: the occupancies of {labels}, on one site, add up to {total:g}, more "
                "than 1; correct them"
            )


def _element(scattering_type: str) -> str:
    """Return the element of a scattering type such as Ti4+; deuterium scatters as hydrogen."""
    match = re.match(r"[A-Za-z]+", scattering_type)
    symbol = match[0].capitalize() if match else scattering_type
    return "H" if symbol == "D" else symbol


def _u_star(atom: Any, cell: Any) -> list[list[float]]:
    """Return the displacement of an atom as the matrix U*."""
    if atom.flags.use_u_aniso():
        a, b, c, d, e, f = atom.u_star
    else:
        from cctbx import adptbx

        a, b, c, d, e, f = adptbx.u_iso_as_u_star(cell, atom.u_iso)
    return [[a, d, e], [d, b, f], [e, f, c]]
