"""Structures of CIF files against another program and against refused files."""

from pathlib import Path

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats.cif_structure import read_structure

# Anisotropic displacements, a shared site, charged atoms, and a centred cell.
MIXED = """data_mixed
_cell_length_a 6.1
_cell_length_b 7.2
_cell_length_c 8.3
_cell_angle_alpha 90
_cell_angle_beta 101
_cell_angle_gamma 90
_space_group_name_H-M_alt 'C 1 2/m 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
_atom_site_adp_type
_atom_site_U_iso_or_equiv
Sr1 Sr2+ 0 0 0 0.7 Uiso 0.012
Ca1 Ca2+ 0 0 0 0.3 Uiso 0.012
O1 O2- 0.21 0.33 0.17 1 Uani 0.02
loop_
_atom_site_aniso_label
_atom_site_aniso_U_11
_atom_site_aniso_U_22
_atom_site_aniso_U_33
_atom_site_aniso_U_12
_atom_site_aniso_U_13
_atom_site_aniso_U_23
O1 0.02 0.03 0.01 0.004 0.002 -0.003
"""


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.cif"
    path.write_text(MIXED)
    return path


def test_intensities_are_those_of_gemmi(mixed: Path) -> None:
    import gemmi

    small = gemmi.make_small_structure_from_block(gemmi.cif.read(str(mixed)).sole_block())
    small.change_occupancies_to_crystallographic()
    for site in small.sites:
        site.charge = 0  # f0 of neutral atoms
    calculator = gemmi.StructureFactorCalculatorX(small.cell)
    structure = read_structure(mixed)
    hkl = [[2, 0, 0], [1, 1, 0], [0, 0, 3], [3, 1, -4], [2, 4, 1], [-3, 1, 2]]
    wavelength = 0.2  # where f'', which gemmi's sum does not have, is below 0.4 electrons
    for site in small.sites:
        number = site.element.atomic_number
        calculator.addends.set(
            site.element, gemmi.cromer_liberman(number, 12398.42 / wavelength)[0]
        )
    theirs = [abs(calculator.calculate_sf_from_small_structure(small, h)) ** 2 for h in hkl]
    assert structure.intensities(hkl, wavelength) == pytest.approx(theirs, rel=0.01, abs=0.5)


def test_diffuse_scattering_contains_the_disorder_of_a_shared_site(mixed: Path) -> None:
    structure = read_structure(mixed)
    assert structure.intensities([0, 0, 0], 0.5)[0] == pytest.approx(
        (2 * (0.7 * 38 + 0.3 * 20) + 8 * 8) ** 2, rel=0.01
    )
    # Without displacements at Q = 0, what is left is the Laue scattering c (1 - c) (f1 - f2)².
    laue = 2 * 0.7 * 0.3 * (38 - 20) ** 2
    assert structure.diffuse(0.0, 0.5) == pytest.approx(laue, rel=0.01)
    q = np.array([30.0])
    assert structure.diffuse(q, 0.3) == pytest.approx(structure.limit(q, 0.3), rel=0.01)
    # All electrons scatter incoherently where s is large; the recoil factor takes some away.
    electrons = 2 * (0.7 * 38 + 0.3 * 20) + 8 * 8
    at = np.array([4 * np.pi * 5])
    recoil = 1 + 2 * 0.02426 * 0.1 * 25
    assert structure.compton(at, 0.1) * recoil**2 == pytest.approx(electrons, rel=0.03)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (" 0.012\n", " ?\n", "atom Sr1 has the isotropic displacement U = 0"),
        (" 0.012\n", " 0.9\n", "U = 0.9"),
        ("0 0 0 0.7", "0 0 0 1.7", "occupancy 1.7"),
        (
            "0 0 0 0.3",
            "1 0 0 1",
            "occupancies of Sr1, Ca1, on one site, add up to 1.7, more than 1",
        ),
        ("Sr1 Sr2+", "Q1 Q", "atom Q1 is of no chemical element"),
        ("_space_group_name_H-M_alt 'C 1 2/m 1'\n", "", "no space group"),
        (MIXED[MIXED.index("loop_") :], "", "has no atoms"),
    ],
)
def test_a_structure_that_cannot_be_used_is_refused(
    mixed: Path, old: str, new: str, words: str
) -> None:
    mixed.write_text(MIXED.replace(old, new, 1))
    with pytest.raises(HklflowError, match=words):
        read_structure(mixed)
