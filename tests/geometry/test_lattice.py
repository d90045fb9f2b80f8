"""Cells, B and UB against cctbx."""

import numpy as np
import pytest
from cctbx import uctbx
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Turn

from hklflow.base.errors import HklflowError
from hklflow.geometry import lattice

CELLS = {
    "triclinic": (5.2, 7.1, 9.8, 81.0, 97.0, 108.0),
    "monoclinic": (8.1, 5.9, 12.4, 90, 104.0, 90),
    "orthorhombic": (5.42, 7.65, 5.38, 90, 90, 90),
    "tetragonal": (5.51, 5.51, 7.82, 90, 90, 90),
    "trigonal": (6.3, 6.3, 6.3, 55.0, 55.0, 55.0),
    "hexagonal": (4.9, 4.9, 8.1, 90, 90, 120),
    "cubic": (8.24, 8.24, 8.24, 90, 90, 90),
}
HKL = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, -2, 3), (-4, 2, 5), (7, 0, -3)]


@pytest.mark.parametrize("system", CELLS)
def test_length_of_b_h_is_one_over_d(system: str) -> None:
    cell = CELLS[system]
    oracle = uctbx.unit_cell(cell)
    d = np.array([oracle.d(hkl) for hkl in HKL])
    q = np.linalg.norm(np.array(HKL) @ lattice.b_matrix(cell).T, axis=1)
    np.testing.assert_allclose(q, 2 * np.pi / d, rtol=1e-12)
    np.testing.assert_allclose(lattice.d_spacing(cell, HKL), d, rtol=1e-12)
    assert lattice.volume(cell) == pytest.approx(oracle.volume(), rel=1e-12)
    expected = np.array(oracle.reciprocal_parameters())
    expected[:3] *= 2 * np.pi
    np.testing.assert_allclose(lattice.reciprocal(cell), expected, rtol=1e-10)


@pytest.mark.parametrize("system", CELLS)
def test_b_is_that_of_busing_and_levy(system: str) -> None:
    b = lattice.b_matrix(CELLS[system])
    a_star, b_star, c_star = b.T
    # a* along x, b* in the xy plane on the side of +y, right-handed.
    assert a_star[0] > 0
    np.testing.assert_allclose([a_star[1], a_star[2], b_star[2]], 0, atol=1e-12)
    assert b_star[1] > 0
    assert c_star[2] == pytest.approx(2 * np.pi / CELLS[system][2])


lengths = st.floats(3, 60)
angles = st.floats(65, 115)


@settings(max_examples=60, deadline=None)
@given(
    cell=st.tuples(lengths, lengths, lengths, angles, angles, angles),
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
)
def test_decomposing_ub_is_the_inverse_of_composing_it(
    cell: tuple[float, ...], turn: tuple[float, float, float]
) -> None:
    u = Turn.from_rotvec(turn).as_matrix()
    found, found_cell = lattice.decompose_ub(u @ lattice.b_matrix(cell))
    np.testing.assert_allclose(found_cell, cell, rtol=1e-8)
    np.testing.assert_allclose(found, u, atol=1e-9)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)


def test_left_handed_and_impossible_cells_are_refused() -> None:
    with pytest.raises(HklflowError, match="right-handed"):
        lattice.decompose_ub(np.diag([1.0, 1.0, -1.0]))
    with pytest.raises(HklflowError, match="has no volume"):
        lattice.b_matrix([5, 5, 5, 60, 60, 130])


def test_indices_within_are_all_of_them() -> None:
    cell = CELLS["triclinic"]
    found = {tuple(row) for row in lattice.indices_within(cell, 3.0, 0.1).tolist()}
    axis = np.arange(-12, 13)
    box = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    oracle = uctbx.unit_cell(cell)
    expected = set()
    for hkl in map(tuple, box.tolist()):
        if hkl != (0, 0, 0) and 0.1 < 2 * np.pi / oracle.d(hkl) <= 3.0:
            expected.add(hkl)
    assert found == expected


@pytest.mark.parametrize("angle", [1e-8, 1e-3, 1.0, 3.0])
def test_rotation_angle_is_accurate_for_small_and_large(angle: float) -> None:
    a = Turn.from_rotvec([0.3, 0.4, -0.2]).as_matrix()
    axis = np.array([2.0, -1.0, 2.0]) / 3
    b = Turn.from_rotvec(angle * axis).as_matrix() @ a
    assert lattice.rotation_angle(a, b) == pytest.approx(angle, rel=1e-6)
