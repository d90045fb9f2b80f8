"""Attenuation of a detector's sensor, from its material and the wavelength."""

from dataclasses import replace
from typing import TYPE_CHECKING

from hklflow.base.native import require_cctbx_is_safe
from hklflow.geometry import plausible

if TYPE_CHECKING:
    from hklflow.geometry import Detector

_HC = 12.398419843  # keV Å
#: Densities in g/cm³. The densities of the compounds follow from their unit cells, because the
#: value in the NIST tables for CdTe (6.2 g/cm³) is 6 % too large.
_DENSITIES = {"Si": 2.33, "Ge": 5.32, "CdTe": 5.85, "GaAs": 5.32, "CdZnTe": 5.84}
#: Fractions by mass of a compound that the tables lack: Cd0.9Zn0.1Te, the usual CZT.
_MIXTURES = {"CdZnTe": {"Cd": 0.4300, "Zn": 0.0278, "Te": 0.5422}}
_NAMES = {
    "silicon": "Si",
    "germanium": "Ge",
    "cadmiumtelluride": "CdTe",
    "galliumarsenide": "GaAs",
    "cadmiumzinctelluride": "CdZnTe",
    "czt": "CdZnTe",
} | {symbol.lower(): symbol for symbol in _DENSITIES}


def attenuation(material: str, wavelength: float) -> float | None:
    """Return the linear attenuation coefficient in 1/m; None if the material is unknown.

    The mass attenuation coefficients are from NIST (Hubbell and Seltzer), with coherent scattering.

    Parameters
    ----------
    material : str
        Symbol or English name, in upper or lower case.
    wavelength : float
        Wavelength in Å, for 1 keV or more.
    """
    symbol = _NAMES.get("".join(filter(str.isalpha, material.lower())))
    if symbol is None:
        return None
    require_cctbx_is_safe()
    # The import takes 0.2 s.
    from cctbx.eltbx import attenuation_coefficient

    mass = sum(
        share * float(attenuation_coefficient.get_table(part).mu_rho_at_kev(_HC / wavelength))
        for part, share in _MIXTURES.get(symbol, {symbol: 1.0}).items()
    )
    return 100 * _DENSITIES[symbol] * mass


def completed(
    detector: "Detector", wavelength: float, material: str | None, thickness: float | None
) -> "tuple[Detector, str | None]":
    """Return the detector with thickness and attenuation of the sensor, if they were missing.

    Parameters
    ----------
    wavelength : float
        Wavelength of the scan, Å.
    material : str or None
        Material of the sensor.
    thickness : float or None
        Thickness of the sensor in the raw file, metres.

    Returns
    -------
    detector : Detector
    doubt : str or None
        Reason why the material of the sensor cannot be used, with the remedy.
    """
    if detector.sensor_thickness is None:
        thick = replace(detector, sensor_thickness=thickness)
    else:
        thick = detector
    if thick.sensor_thickness is None or material is None or thick.sensor_attenuation is not None:
        # A thickness from another source is checked like a thickness of the detector itself.
        return (detector, None) if plausible.detector_problem(thick) else (thick, None)
    cure = (
        "the efficiency of the sensor is not corrected: set `sensor_thickness` and "
        "`sensor_attenuation` in the calibration of the row"
    )
    if (value := attenuation(material, wavelength)) is None:
        known = ", ".join(_DENSITIES)
        return detector, f"unknown sensor material {material!r} (known: {known}); {cure}"
    complete = replace(thick, sensor_attenuation=value)
    if (problem := plausible.detector_problem(complete)) is not None:
        return detector, f"{problem}; {cure}"
    return complete, None
