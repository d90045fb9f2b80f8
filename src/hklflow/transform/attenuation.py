"""Linear attenuation of a crystal from its formula, by the cross sections of xraylib.

Photoelectric absorption, coherent and incoherent scattering all weaken a beam; xraylib's total
cross sections are those of Elam, Ravel & Sieber (Radiat. Phys. Chem. 63, 121, 2002) and Kissel.
"""

import re

from hklflow.base.errors import HklflowError

_HC = 12.398419843  # keV Å
_BARN = 1e-24  # cm²
DENSITIES = (0.05, 25.0)
"""g/cm³, from the lightest frameworks to osmium."""


def _parsed(formula: str) -> dict[int, float]:
    """Return the number of atoms of each element of a formula unit."""
    import xraylib

    compact = "".join(formula.split())
    if re.search(r"[·*]|\.\d*[A-Z(]", compact):
        raise HklflowError(
            f"the formula {formula!r} has a dot between parts; write all atoms in one formula, "
            "such as CuSO9H10 for CuSO4 · 5 H2O"
        )
    try:
        found = xraylib.CompoundParser(compact)
    except ValueError as error:
        reason = str(error).removeprefix("Invalid chemical formula: ")
        raise HklflowError(
            f"the formula {formula!r} is not known ({reason}); write element symbols with numbers, "
            "such as SrTiO3 (H for D)"
        ) from None
    return dict(zip(found["Elements"], found["nAtoms"], strict=True))


def _barns(formula: str, wavelength: float) -> float:
    """Return the cross section of a formula unit in barn."""
    import xraylib

    energy = _HC / wavelength
    return float(sum(n * xraylib.CSb_Total(z, energy) for z, n in _parsed(formula).items()))


def _mass(formula: str) -> float:
    """Return the mass of a mole of formula units in g."""
    import xraylib

    return float(sum(n * xraylib.AtomicWeight(z) for z, n in _parsed(formula).items()))


def by_cell(formula: str, units: float, volume: float, wavelength: float) -> float:
    """Return μ in 1/mm of ``units`` formula units in a cell of ``volume`` Å³.

    Raises
    ------
    HklflowError
        If the formula is not known, or no crystal has the density of such a cell.
    """
    import xraylib

    density = units * _mass(formula) / (xraylib.AVOGNUM * volume)  # AVOGNUM is in 1e24
    low, high = DENSITIES
    if not low <= density <= high:
        raise HklflowError(
            f"{units:g} formula units of {formula} in a cell of {volume:.4g} Å³ have a density of "
            f"{density:.3g} g/cm³, which no crystal has ({low:g} to {high:g}); correct "
            "`absorption: {formula_units: ...}` or the formula"
        )
    return units * _barns(formula, wavelength) * _BARN / (volume * 1e-24) / 10


def by_density(formula: str, density: float, wavelength: float) -> float:
    """Return μ in 1/mm for a density in g/cm³.

    Raises
    ------
    HklflowError
        If the formula is not known.
    """
    import xraylib

    per_gram = _barns(formula, wavelength) * _BARN * xraylib.AVOGNUM * 1e24 / _mass(formula)
    return float(per_gram * density / 10)
