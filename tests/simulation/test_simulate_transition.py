"""Simulated phase transitions: the cell and the reflections against values written out."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn

from hklflow.base.errors import HklflowError
from hklflow.simulation.frames import CrystalModel, Distortion, Superlattice

CRYSTAL = CrystalModel((4.0, 4.0, 5.0, 90.0, 90.0, 90.0), scale=1.0, temperature=300.0)


def test_a_continuous_strain_grows_with_the_order_parameter_squared() -> None:
    crystal = replace(
        CRYSTAL,
        expansion=(1e-5, 1e-5, 0.0),
        distortions=(Distortion(200.0, (0.01, -0.01, 0.0), (0.0, 0.0, 2.0), beta=0.25),),
    )
    above, below = crystal.at_temperature(250.0).cell, crystal.at_temperature(150.0).cell
    np.testing.assert_allclose(above, [4.0 * (1 - 5e-4), 4.0 * (1 - 5e-4), 5, 90, 90, 90])
    # (1 - 150 / 200) ** (2 × 0.25) = 1/2
    a, b = 4.0 * (1 - 1.5e-3) * 1.005, 4.0 * (1 - 1.5e-3) * 0.995
    np.testing.assert_allclose(below, [a, b, 5.0, 90, 90, 91])


def test_a_first_order_part_is_there_at_once() -> None:
    distortion = Distortion(200.0, (0.01, 0.0, 0.0), beta=0.5, first_order=0.6)
    assert distortion.order_squared(200.0) == 0.0
    assert distortion.order_squared(199.999) == pytest.approx(0.6, abs=1e-5)
    assert distortion.order_squared(100.0) == pytest.approx(0.6 + 0.4 * 0.5)
    assert distortion.order_squared(0.0) == pytest.approx(1.0)


def test_a_cell_given_below_the_transition_includes_it() -> None:
    crystal = replace(
        CRYSTAL, temperature=100.0, distortions=(Distortion(200.0, (0.02, 0, 0), first_order=1.0),)
    )
    np.testing.assert_allclose(crystal.at_temperature(100.0).cell, crystal.cell)
    np.testing.assert_allclose(crystal.at_temperature(300.0).cell[0], 4.0 / 1.02)
    back = crystal.at_temperature(300.0).at_temperature(100.0)
    np.testing.assert_allclose(back.cell, crystal.cell)


def test_the_turn_comes_after_the_mounting_in_the_goniometers_frame() -> None:
    crystal = replace(CRYSTAL, orientation=(0.3, -0.5, 0.8), turn=(0.0, 0.0, 90.0))
    mounted = Turn.from_rotvec([0.3, -0.5, 0.8]).as_matrix()
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(crystal.u, quarter @ mounted, atol=1e-12)


def forbidden_powers(crystal: CrystalModel, temperature: float) -> dict[tuple[int, ...], float]:
    """Intensities of reflections h + k + l odd."""
    hkl, power = crystal.at_temperature(temperature).reflections(6.0)
    index = np.rint(hkl).astype(int)
    odd = (np.abs(hkl - index).max(axis=1) < 1e-6) & (index.sum(axis=1) % 2 == 1)
    return {tuple(row): float(p) for row, p in zip(index[odd].tolist(), power[odd], strict=True)}


def test_what_the_atoms_extinguish_is_no_reflection_until_they_move() -> None:
    moved = Distortion(200.0, first_order=1.0, shifts=((0, 0, 0, 0.2), (0, 0, 0, -0.2)))
    crystal = replace(
        CRYSTAL, atoms=((0, 0, 0, 1), (0.5, 0.5, 0.5, 1)), b_iso=0.0, distortions=(moved,)
    )
    assert forbidden_powers(crystal, 300.0) == {}
    powers = forbidden_powers(crystal, 150.0)
    assert len(powers) > 10
    # |1.2 - 0.8|² of every one.
    np.testing.assert_allclose(list(powers.values()), 0.16)


def test_a_superlattice_of_an_integer_vector_fills_a_centrings_absences() -> None:
    crystal = replace(
        CRYSTAL,
        centring="I",
        b_iso=0.0,
        superlattice=(Superlattice((1, 0, 0), 200.0, 0.1, beta=0.5),),
    )
    assert forbidden_powers(crystal, 250.0) == {}
    powers = forbidden_powers(crystal, 100.0)
    assert (1, 0, 0) in powers
    np.testing.assert_allclose(list(powers.values()), 0.1 * 0.5)


def test_one_shift_for_each_atom() -> None:
    with pytest.raises(HklflowError, match="2 shifts for 1 atoms"):
        replace(CRYSTAL, distortions=(Distortion(200.0, shifts=((0, 0, 0, 1),) * 2),))
