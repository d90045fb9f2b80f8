"""The sensor's attenuation against the tables of NIST."""

import numpy as np
import pytest

from hklflow.geometry import Detector, sensor

HC = 12.398419843
#: keV and cm²/g: J. H. Hubbell and S. M. Seltzer, NIST Standard Reference Database 126, tables 3
#: (elements) and 4 (CdTe, GaAs). Crystalline densities in g/cm³.
NIST = [
    ("Si", 2.329, 8.0, 64.68),
    ("Si", 2.329, 20.0, 4.464),
    ("Si", 2.329, 60.0, 0.3207),
    ("CdTe", 5.85, 20.0, 21.44),
    ("CdTe", 5.85, 60.0, 6.542),
    ("CdTe", 5.85, 100.0, 1.671),
    ("GaAs", 5.318, 10.0, 37.80),
    ("GaAs", 5.318, 15.0, 92.20),
    ("GaAs", 5.318, 30.0, 13.97),
]


@pytest.mark.parametrize(("material", "density", "energy", "mass"), NIST)
def test_attenuation_is_that_of_the_tables(
    material: str, density: float, energy: float, mass: float
) -> None:
    found = sensor.attenuation(material, HC / energy)
    assert found == pytest.approx(100 * density * mass, rel=0.003)


def test_between_the_energies_of_the_tables_it_follows_a_power_law() -> None:
    # Cu Kα, 8.048 keV: 63.6 cm²/g, from the values at 8 and 10 keV.
    power = np.log(64.68 / 33.89) / np.log(10 / 8)
    expected = 232.9 * 64.68 * (8 / 8.048) ** power
    assert sensor.attenuation("Si", HC / 8.048) == pytest.approx(expected, rel=0.003)


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("silicon", "Si"),
        ("SI", "Si"),
        ("Cadmium telluride", "CdTe"),
        ("CADMIUM-TELLURIDE", "CdTe"),
        ("Gallium Arsenide", "GaAs"),
        ("Germanium", "Ge"),
    ],
)
def test_spellings(name: str, symbol: str) -> None:
    expected = sensor.attenuation(symbol, 0.5)
    assert expected is not None
    assert sensor.attenuation(name, 0.5) == expected


def test_other_materials_are_not_known() -> None:
    assert sensor.attenuation("Gd2O2S", 0.5) is None


def _detector(thickness: float | None, attenuation: float | None) -> Detector:
    down, left = np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0])
    return Detector((9, 9), (1e-4,) * 2, np.array([0, 0, 0.1]), down, left, thickness, attenuation)


@pytest.mark.parametrize(
    ("own", "thickness", "expected"),
    [
        ((4.5e-4, 700.0), 1e-3, (4.5e-4, 700.0)),
        ((None, 700.0), 1e-3, (1e-3, 700.0)),
        ((4.5e-4, None), 1e-3, (4.5e-4, 1040.0)),
        ((None, None), 1e-3, (1e-3, 1040.0)),
    ],
)
def test_what_the_calibration_states_goes_first(
    own: tuple[float | None, float | None], thickness: float, expected: tuple[float, float]
) -> None:
    found, doubt = sensor.completed(_detector(*own), HC / 20, "Si", thickness)
    assert doubt is None
    assert found.sensor_thickness == expected[0]
    assert found.sensor_attenuation == pytest.approx(expected[1], rel=0.005)


@pytest.mark.parametrize(("thickness", "material"), [(None, "Si"), (None, None), (1e-3, None)])
def test_what_is_not_stated_stays_unknown(thickness: float | None, material: str | None) -> None:
    found, doubt = sensor.completed(_detector(None, None), HC / 20, material, thickness)
    assert (found.sensor_thickness, found.sensor_attenuation) == (thickness, None)
    assert doubt is None


@pytest.mark.parametrize("thickness", [0.0, 1e-9])
def test_an_impossible_thickness_is_reported(thickness: float) -> None:
    own = _detector(None, None)
    found, doubt = sensor.completed(own, HC / 20, "Si", thickness)
    assert found is own
    assert doubt is not None
    assert f"a sensor of {thickness:g} m" in doubt
