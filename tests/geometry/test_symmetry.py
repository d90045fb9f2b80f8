"""Symmetry against tables, gemmi and the operations themselves."""

import gemmi
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice, symmetry

# Order of the Laue group, International Tables A (table 3.2.1.4 of the 2016 edition).
LAUE_ORDER = {
    "P1": 2,
    "P21/c": 4,
    "Pnma": 8,
    "I41/a": 8,
    "I4/mcm": 16,
    "R-3": 6,
    "R-3c": 12,
    "P63/m": 12,
    "P6/mmm": 24,
    "Ia-3": 24,
    "Fd-3m": 48,
}

FREE = {
    "P-1": ("a", "b", "c", "alpha", "beta", "gamma"),
    "P21/c": ("a", "b", "c", "beta"),
    "P 1 1 2/m": ("a", "b", "c", "gamma"),
    "Cmcm": ("a", "b", "c"),
    "I4/mcm": ("a", "c"),
    "R-3c": ("a", "c"),
    "R -3 c :R": ("a", "alpha"),
    "P6/mmm": ("a", "c"),
    "Fd-3m": ("a",),
}

GENERIC = np.array([5.1, 6.2, 8.3, 84.0, 97.0, 106.0])


def box(n: int) -> np.ndarray:
    axis = np.arange(-n, n + 1)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


@pytest.mark.parametrize(("symbol", "order"), LAUE_ORDER.items())
def test_laue_group_has_the_tabulated_order_and_is_a_group(symbol: str, order: int) -> None:
    group = symmetry.space_group(symbol)
    operations = group.laue_operations
    assert len(operations) == order
    assert np.array_equal(operations[0], np.eye(3))
    members = {op.tobytes() for op in operations}
    assert len(members) == order
    assert all((a @ b).tobytes() in members for a in operations for b in operations)
    assert len(group.proper_laue_operations) * 2 == order


@pytest.mark.parametrize("symbol", LAUE_ORDER)
def test_laue_operations_keep_the_length_of_hkl(symbol: str) -> None:
    # Fails if W and its transpose are confused: in hexagonal axes they differ.
    group = symmetry.space_group(symbol)
    cell = symmetry.constrain_cell(GENERIC, group)
    hkl = np.array([[1, 2, 3], [4, -1, 2]])
    d = lattice.d_spacing(cell, hkl)
    assert len(group.laue_operations) == LAUE_ORDER[symbol]
    for op in group.laue_operations:
        np.testing.assert_allclose(lattice.d_spacing(cell, hkl @ op.T), d, rtol=1e-12)


@pytest.mark.parametrize(
    "symbol", ["Fd-3m", "F d -3 m", "F d -3 m :2", "Hall: -F 4vw 2vw 3", "-F 4vw 2vw 3", "227", 227]
)
def test_every_spelling_gives_the_same_group(symbol: str | int) -> None:
    group = symmetry.space_group(symbol)
    assert (group.number, group.crystal_system, group.centring) == (227, "cubic", "F")
    assert (group.laue, group.bravais, group.hall) == ("m-3m", "cF", "-F 4vw 2vw 3")
    assert group == symmetry.space_group("Fd-3m")


@pytest.mark.parametrize("symbol", ["Fd-4m", "", "0", "231", "cubic"])
def test_an_unknown_symbol_is_named(symbol: str) -> None:
    with pytest.raises(HklflowError, match=f"unknown space group '{symbol}'"):
        symmetry.space_group(symbol)


def test_absences_of_diamond() -> None:
    group = symmetry.space_group("Fd-3m")
    hkl = box(6)
    absent = group.is_absent(hkl)
    parity = np.ptp(hkl % 2, axis=1) == 0
    assert np.all(absent[~parity])
    present = {tuple(int(i) for i in row) for row in hkl[~absent]}
    # Special positions (8a: 222 absent) do not count: the group alone allows 222.
    assert (2, 2, 2) in present
    assert (1, 1, 1) in present
    assert (2, 0, 0) not in present
    assert (4, 0, 0) in present
    zero = parity & (hkl[:, 0] == 0)
    assert np.array_equal(absent[zero], (hkl[zero, 1] + hkl[zero, 2]) % 4 != 0)


def test_absences_of_all_groups_are_those_of_gemmi() -> None:
    hkl, differ, with_absences = box(4), [], []
    for number in range(1, 231):
        group, theirs = symmetry.space_group(number), gemmi.find_spacegroup_by_number(number)
        expected = theirs.operations().systematic_absences(hkl)
        if not np.array_equal(group.is_absent(hkl), expected):
            differ.append(number)
        if expected.any():
            with_absences.append(number)
    assert differ == []
    # Without are the 37 symmorphic groups of a primitive lattice.
    assert len(with_absences) == 230 - 37


def test_absences_of_every_setting_are_those_of_gemmi() -> None:
    hkl, settings = box(4), list(gemmi.spacegroup_table())
    assert {setting.number for setting in settings} == set(range(1, 231))
    differ = [
        setting.hall
        for setting in settings
        if not np.array_equal(
            symmetry.space_group(f"Hall: {setting.hall}").is_absent(hkl),
            setting.operations().systematic_absences(hkl),
        )
    ]
    assert differ == []


def test_operations_of_all_groups_are_those_of_gemmi() -> None:
    """As sets: rotations, and translations up to those of the lattice."""
    differ = []
    for setting in gemmi.spacegroup_table():
        group = symmetry.space_group(f"Hall: {setting.hall}")
        ours = {
            (*np.ravel(r).tolist(), *(np.rint(24 * t).astype(int) % 24).tolist())
            for r, t in zip(*group.operations, strict=True)
        }
        theirs = {
            (*(np.ravel(op.rot) // op.DEN).tolist(), *(np.array(op.tran) % 24).tolist())
            for op in setting.operations()
        }
        if ours != theirs:
            differ.append(setting.hall)
    assert differ == []


def test_crystal_systems_of_all_groups_have_the_tabulated_ranges() -> None:
    last = [2, 15, 74, 142, 167, 194, 230]
    names = [
        "triclinic",
        "monoclinic",
        "orthorhombic",
        "tetragonal",
        "trigonal",
        "hexagonal",
        "cubic",
    ]
    for number in range(1, 231):
        expected = names[int(np.searchsorted(last, number))]
        assert symmetry.space_group(number).crystal_system == expected


@pytest.mark.parametrize(("symbol", "free"), FREE.items())
def test_free_cell_parameters(symbol: str, free: tuple[str, ...]) -> None:
    group = symmetry.space_group(symbol)
    constraints = symmetry.cell_constraints(group)
    assert constraints.free == free
    cell = symmetry.constrain_cell(GENERIC, group)
    np.testing.assert_allclose(constraints.expand(constraints.select(cell)), cell, atol=1e-9)


def test_a_setting_that_ties_angles_to_lengths_is_refused() -> None:
    with pytest.raises(HklflowError, match="relates cell angles to lengths"):
        symmetry.cell_constraints(symmetry.space_group("Hall: I 4 (-y+z,x-z,x+y-z)"))


def test_constraining_averages_the_metric() -> None:
    cell = symmetry.constrain_cell([5.0, 5.2, 8.0, 89.0, 91.0, 120.5], symmetry.space_group("P6/m"))
    assert cell[0] == cell[1]
    np.testing.assert_allclose(cell[3:], [90, 90, 120], atol=1e-12)
    # The hexagonal metric has b² = a² and a·b = -a²/2, and the group's average of a² is the
    # mean of a², b² and (a + b)²: the three axes that the six-fold turns into each other.
    mean = (25.0 + 27.04 + 25.0 + 27.04 + 2 * 26.0 * np.cos(np.radians(120.5))) / 3
    np.testing.assert_allclose(cell[0], np.sqrt(mean), rtol=1e-9)


def test_reduction_keeps_lattice_and_hand() -> None:
    group = symmetry.space_group("C2/m")
    cell = np.array([10.0, 5.0, 8.0, 90.0, 110.0, 90.0])
    reduced, matrix = symmetry.niggli(cell, group)
    assert np.linalg.det(matrix) == pytest.approx(0.5)
    assert lattice.volume(reduced) == pytest.approx(lattice.volume(cell) / 2)
    hkl = box(3)
    hkl = hkl[(hkl[:, 0] + hkl[:, 1]) % 2 == 0]
    new = hkl @ matrix.T
    np.testing.assert_allclose(new, np.rint(new), atol=1e-12)
    keep = np.any(hkl != 0, axis=1)
    np.testing.assert_allclose(
        lattice.d_spacing(reduced, new[keep]), lattice.d_spacing(cell, hkl[keep]), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("symbol", "cell", "bravais"),
    [
        ("Immm", [5.5, 7.9, 13.2, 90, 90, 90], "oI"),
        ("Fm-3m", [5.43, 5.43, 5.43, 90, 90, 90], "cF"),
        ("R-3m", [4.1, 4.1, 19.0, 90, 90, 120], "hR"),
        ("C2/m", [9.2, 5.1, 7.3, 90, 103, 90], "mC"),
        ("P6/mmm", [5.0, 5.0, 8.0, 90, 90, 120], "hP"),
        ("P-1", [5.1, 6.2, 8.3, 84, 83, 74], "aP"),
    ],
)
def test_lattice_symmetry_is_found_from_the_reduced_cell(
    symbol: str, cell: list[float], bravais: str
) -> None:
    group = symmetry.space_group(symbol)
    reduced, _ = symmetry.niggli(cell, group)
    best = symmetry.bravais_settings(reduced)[0]
    # cctbx prefers the I setting of a monoclinic C lattice when its angle is nearer 90°.
    assert best.bravais == bravais
    assert best.delta < 1e-3
    assert len(best.group.laue_operations) >= len(group.laue_operations)
    hkl = np.array([[1, 2, 3], [-2, 1, 5]])
    np.testing.assert_allclose(
        lattice.d_spacing(best.cell, hkl @ best.matrix.T),
        lattice.d_spacing(reduced, hkl),
        rtol=1e-6,
    )
    if bravais != "mC":
        np.testing.assert_allclose(best.cell, cell, rtol=1e-6)


def test_reindexing_operators_are_the_merohedral_twin_laws() -> None:
    cubic = [5.0, 5.0, 5.0, 90, 90, 90]
    assert symmetry.reindexing_operators(cubic, symmetry.space_group("Fm-3m")) == []
    (twin,) = symmetry.reindexing_operators(cubic, symmetry.space_group("Pa-3"))
    # The coset of m-3 in m-3m: a four-fold rotation or a diagonal two-fold, never in m-3.
    assert np.linalg.det(twin) == pytest.approx(1)
    assert np.abs(twin).sum() == 3
    assert not any(np.array_equal(twin, op) for op in symmetry.space_group("Pa-3").laue_operations)
    # P-3 in a hexagonal lattice 6/mmm: 24 / 6 = 4 cosets, three besides the group.
    trigonal = symmetry.space_group("P-3")
    assert len(symmetry.reindexing_operators([5, 5, 8, 90, 90, 120], trigonal)) == 3
    # Monoclinic with β = 90° within the tolerance is pseudo-orthorhombic.
    mono = symmetry.space_group("P21/c")
    assert len(symmetry.reindexing_operators([5, 6, 8, 90, 90.2, 90], mono)) == 1
    assert symmetry.reindexing_operators([5, 6, 8, 90, 97, 90], mono) == []


def test_to_primitive_makes_present_reflections_integer() -> None:
    for symbol, volume in [("Fm-3m", 4), ("Immm", 2), ("R-3m", 3), ("C2/m", 2), ("P1", 1)]:
        group = symmetry.space_group(symbol)
        hkl = box(3)
        primitive = hkl @ group.to_primitive.T
        integer = np.all(np.abs(primitive - np.rint(primitive)) < 1e-9, axis=1)
        assert np.array_equal(integer, ~group.is_absent(hkl))
        assert np.linalg.det(group.to_primitive) == pytest.approx(1 / volume)
