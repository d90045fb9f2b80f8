"""Attenuation of a detector's sensor, from its material and the wavelength."""

from dataclasses import replace
from typing import TYPE_CHECKING

from hklflow.geometry import plausible

if TYPE_CHECKING:
    from hklflow.geometry import Detector

_HC = 12.398419843  # keV Å
#: Density in g/cm³ and names of the materials, in letters only. Those of CdTe and GaAs follow from
#: their cells: the CdTe of the NIST tables (6.2 g/cm³) is 6 % too dense.
_DENSITIES = {"Si": 2.33, "Ge": 5.32, "CdTe": 5.85, "GaAs": 5.32}
_NAMES = {
    "silicon": "Si",
    "germanium": "Ge",
    "cadmiumtelluride": "CdTe",
    "galliumarsenide": "GaAs",
} | {symbol.lower(): symbol for symbol in _DENSITIES}


def attenuation(material: str, wavelength: float) -> float | None:
    """Return the linear attenuation coefficient in 1/m; None if the material is not known.

    From the mass attenuation coefficients of NIST (Hubbell and Seltzer), with coherent scattering.

    Parameters
    ----------
    material : str
        Symbol or English name, in upper or lower case.
    wavelength : float
        Å, of 1 keV or more.
    """
    symbol = _NAMES.get("".join(filter(str.isalpha, material.lower())))
    if symbol is None:
        return None
    # Costs 0.2 s.
    from cctbx.eltbx import attenuation_coefficient

    mass = attenuation_coefficient.get_table(symbol).mu_rho_at_kev(_HC / wavelength)
    return 100 * _DENSITIES[symbol] * float(mass)


def completed(
    detector: "Detector", wavelength: float, material: str | None, thickness: float | None
) -> "tuple[Detector, str | None]":
    """Give the detector the thickness and attenuation that it does not state itself.

    Parameters
    ----------
    wavelength : float
        Of the scan, Å.
    material : str or None
        Of the sensor.
    thickness : float or None
        Of the sensor in the raw file, metres.

    Returns
    -------
    detector : Detector
    doubt : str or None
        Why the sensor's material is of no use, and what to do.
    """
    if detector.sensor_thickness is None:
        thick = replace(detector, sensor_thickness=thickness)
    else:
        thick = detector
    if thick.sensor_thickness is None or material is None or thick.sensor_attenuation is not None:
        # A thickness from elsewhere is checked as what the detector states itself is.
        return (detector, None) if plausible.detector_problem(thick) else (thick, None)
    cure = (
        "the sensor's efficiency is not corrected for: set `sensor_thickness` and "
        "`sensor_attenuation` in the row's calibration"
    )
    if (value := attenuation(material, wavelength)) is None:
        known = ", ".join(_DENSITIES)
        return detector, f"the sensor's material {material!r} is not known ({known} are); {cure}"
    found = replace(thick, sensor_attenuation=value)
    if (problem := plausible.detector_problem(found)) is not None:
        return detector, f"{problem}; {cure}"
    return found, None
