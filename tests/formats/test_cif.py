"""Crystals from CIF files: space groups against gemmi's tables, names as in the core dictionary."""

from pathlib import Path

import gemmi
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats.cif import read_cif
from hklflow.geometry.symmetry import space_group

CELLS = {
    "triclinic": "5 6.3 8.1 83 97 105",
    "orthorhombic": "5 6.3 8.1 90 90 90",
    "tetragonal": "5 5 8.1 90 90 90",
    "trigonal": "5 5 8.1 90 90 120",
    "hexagonal": "5 5 8.1 90 90 120",
    "cubic": "5 5 5 90 90 90",
}
NAMES = ["length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma"]


def cell_lines(cell: str, mark: str = "_") -> str:
    pairs = zip(NAMES, cell.split(), strict=True)
    return "".join(f"_cell{mark}{name} {value}\n" for name, value in pairs)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def cell_of(group: gemmi.SpaceGroup) -> str:
    """Cell that has the symmetry of a setting."""
    system = str(group.crystal_system_str())
    if system == "monoclinic":
        unique = group.qualifier.lstrip("-")[0]
        angles = [" 97" if axis == unique else " 90" for axis in "abc"]
        return "5 6.3 8.1" + "".join(angles)
    if system == "trigonal" and group.ext == "R":
        return "5 5 5 75 75 75"
    return CELLS[system]


def operations(group: gemmi.SpaceGroup) -> set[str]:
    return {op.wrap().triplet() for op in group.operations()}


def test_every_setting_by_its_operations(tmp_path: Path) -> None:
    """All settings of International Tables that gemmi knows, one block each."""
    groups = [g for g in gemmi.spacegroup_table() if g.crystal_system_str() != "triclinic"][::7]
    lines = []
    for number, group in enumerate(groups):
        lines += [f"data_s{number}", cell_lines(cell_of(group))]
        lines += ["loop_", "_space_group_symop_operation_xyz"]
        lines += [f"'{op.triplet()}'" for op in group.operations()]
    path = write(tmp_path / "all.cif", *lines)
    for number, group in enumerate(groups):
        crystal = read_cif(path, f"s{number}")
        assert crystal.space_group is not None
        ours = space_group(crystal.space_group)
        triplets = set()
        for rotation, shift in zip(*ours.operations, strict=True):
            op = gemmi.Op()
            op.rot = [[int(x) * gemmi.Op.DEN for x in row] for row in rotation]
            op.tran = [int(x) for x in np.rint(shift * gemmi.Op.DEN)]
            triplets.add(op.wrap().triplet())
        assert ours.number == group.number
        assert triplets == operations(group), group.xhm()


CORE_1 = "_symmetry_space_group_name_H-M 'P 32 2 1'"
CORE_2 = "_space_group_name_H-M_alt 'P 32 2 1'"
HALL = "_space_group_name_Hall ' P 32 2\"'"


@pytest.mark.parametrize(
    ("mark", "symmetry"),
    [
        ("_", CORE_1),
        ("_", CORE_2),
        ("_", "_symmetry_Int_Tables_number 154"),
        ("_", HALL),
        (".", "_symmetry.space_group_name_H-M 'P 32 2 1'"),
        ("_", f"{CORE_2}\n{HALL}\n_space_group_IT_number 154"),
    ],
)
def test_names_of_every_dictionary(tmp_path: Path, mark: str, symmetry: str) -> None:
    path = write(
        tmp_path / "quartz.cif",
        "data_Quartz",
        cell_lines("4.9134(2) 4.9134(2) 5.4052(3) 90 90. 120", mark),
        symmetry,
        "_chemical_formula_sum 'O2 Si'",
        "_diffrn_ambient_temperature 293(2)",
    )
    crystal = read_cif(path)
    assert crystal.block == "Quartz"
    assert crystal.cell == (4.9134, 4.9134, 5.4052, 90, 90, 120)
    assert crystal.space_group == "P 32 2 1"
    assert (crystal.formula, crystal.temperature) == ("O2 Si", 293)


def test_axes_that_a_symbol_leaves_open(tmp_path: Path) -> None:
    """Corundum on rhombohedral axes, with a symbol that may mean either."""
    lines = ["data_x", cell_lines("5.128 5.128 5.128 55.28 55.28 55.28")]
    crystal = read_cif(write(tmp_path / "x.cif", *lines, "_space_group_name_H-M_alt 'R -3 c'"))
    assert crystal.space_group == "R -3 c :R"


def test_unknown_names_are_reported_where_others_are_known(tmp_path: Path) -> None:
    lines = ["data_x", cell_lines(CELLS["cubic"]), "_space_group_IT_number 221"]
    crystal = read_cif(write(tmp_path / "x.cif", *lines, "_space_group_name_H-M_alt 'cubic one'"))
    assert crystal.space_group == "P m -3 m"
    assert "'cubic one'" in crystal.notes[0]


CUBIC = cell_lines(CELLS["cubic"])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nothing", "is not a CIF file"),
        ("data_x\n_a 1\n_a 2\n", "is not a CIF file"),
        ("data_x\n_a 1\n", "no cell"),
        (f"data_x\n{CUBIC}data_y\n{CUBIC}", "x, y; select one: --cif-block x"),
        (f"data_x\n{CUBIC}".replace("_cell_length_b 5", "_cell_length_b ?"), "_cell_length_b"),
        (f"data_x\n{CUBIC}".replace("_cell_length_b 5", "_cell_length_b five"), "'five'"),
        (f"data_x\n{CUBIC}".replace("_cell_length_b 5", "_cell_length_b -5"), "data block x"),
        (f"data_x\n{CUBIC}{CORE_1}", "does not have the symmetry of P 32 2 1"),
        (f"data_x\n{CUBIC}{HALL}\n_space_group_IT_number 221", "its number is of P m -3 m"),
        (f"data_x\n{CUBIC}loop_\n_symmetry_equiv_pos_as_xyz\nx,y,q", "'x,y,q'"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(HklflowError) as refused:
        read_cif(write(tmp_path / "x.cif", text))
    assert told in str(refused.value)
    assert "x.cif" in str(refused.value)


def test_a_symbol_of_the_user_replaces_the_files(tmp_path: Path) -> None:
    path = write(tmp_path / "x.cif", "data_x", CUBIC, CORE_1)
    assert read_cif(path, symbol="F m -3 m").space_group == "F m -3 m"
    with pytest.raises(HklflowError, match="symmetry of P 6"):
        read_cif(path, symbol="P 6")
