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


#: keV of the energies, and 1/m by xraydb 4.5.8 (tables of Elam, Ravel and Sieber) at our densities.
#: The K edges of Zn, Ga, Ge, As, Cd and Te are between them.
ENERGIES = (6, 8.048, 12.4, 17.48, 20, 24, 27, 32, 40, 60, 80, 100)
XRAYDB = {
    "Si": (34246.1, 14815.1, 4209.5, 1538.4, 1040.0, 617.7, 445.0, 282.5, 163.3, 74.7, 51.9, 42.8),
    "Ge": (80301.6, 36068.5, 79610.5, 32376.1, 22464.8, 13646.0, 9867.4, 6159.4, 3302.4, 1076.3,
           505.6, 295.3),
    "CdTe": (309208.3, 143487.5, 45307.6, 18013.5, 12542.3, 7662.5, 16743.9, 20135.2, 11290.6,
             3827.3, 1766.2, 977.6),
    "GaAs": (81087.1, 36427.5, 80131.3, 32636.9, 22650.9, 13761.3, 9951.5, 6212.4, 3331.1, 1086.2,
             510.1, 297.8),
    "CZT": (303571.8, 140854.8, 46380.0, 18443.4, 12839.0, 7840.0, 15937.6, 19776.4, 11088.1,
            3759.0, 1735.2, 961.0),
}  # fmt: skip


@pytest.mark.parametrize("material", XRAYDB)
def test_attenuation_against_xraydb(material: str) -> None:
    """The tables in cctbx are as good: 1.2 % is the interpolation in Si at 24 keV, else 0.5 %."""
    ours = np.array([sensor.attenuation(material, HC / energy) for energy in ENERGIES], float)
    ratio = ours / np.array(XRAYDB[material])
    assert np.abs(ratio - 1).max() < 0.012
    assert np.median(np.abs(ratio - 1)) < 0.002


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
        ("Cd0.9Zn0.1Te", "CZT"),
        ("Cadmium zinc telluride", "CdZnTe"),
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
