"""Scattering of X-rays by free atoms, in electron units.

The form factors are the fits of Waasmaier & Kirfel (Acta Cryst. A51, 416, 1995), of cctbx, good to
sin θ/λ = 6 1/Å. f' and f'' are from xraylib: Cromer & Liberman's with the relativistic term of
Kissel & Pratt, which is 0.7 electrons for tungsten. The incoherent scattering functions are the
table of Hubbell et al. (J. Phys. Chem. Ref. Data 4, 471, 1975), of xraylib.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.native import require_cctbx_is_safe

Floats = NDArray[np.float64]

_HC = 12.398419843  # keV Å
_RECOIL = 0.0242631024  # Å, Compton wavelength of the electron
_NODES = np.linspace(0, 6, 601)  # sin θ/λ in 1/Å


def atomic_number(element: str) -> int:
    """Return the atomic number of an element.

    Raises
    ------
    ValueError
        If there is no such element.
    """
    import xraylib

    return int(xraylib.SymbolToAtomicNumber(element))


def form_factor(element: str, s: Floats, wavelength: float) -> NDArray[np.complex128]:
    """Return f = f0 + f' + i f'' of an atom.

    Parameters
    ----------
    element : str
        Symbol of the neutral atom.
    s : array
        sin θ/λ, 1/Å.
    wavelength : float
        Wavelength, Å.
    """
    import xraylib

    number, energy = atomic_number(element), _HC / wavelength
    # xraylib lists f'' with a negative sign.
    correction = xraylib.Fi(number, energy) - 1j * xraylib.Fii(number, energy)
    fit = _gaussians(element)
    square = np.asarray(s, dtype=np.float64) ** 2
    f = np.full(square.shape, fit.c(), dtype=np.complex128)
    for a, b in zip(fit.array_of_a(), fit.array_of_b(), strict=True):
        f += a * np.exp(-b * square)
    return f + correction


@lru_cache
def _gaussians(element: str) -> Any:
    require_cctbx_is_safe()
    from cctbx.eltbx import xray_scattering

    return xray_scattering.wk1995(element, True).fetch()


def compton(element: str, s: Floats, wavelength: float) -> Floats:
    """Return the Compton scattering of an atom for a detector that counts photons.

    The recoil factor for counted photons is that of Breit and Dirac, (λ/λ')². The lower energy of
    the photons, for which the sensor and the sample absorb differently, is not considered.
    """
    at = np.asarray(s, dtype=np.float64)
    recoil = 1 + 2 * _RECOIL * wavelength * at**2  # λ'/λ
    return np.interp(at, _NODES, _incoherent(atomic_number(element))) / recoil**2


@lru_cache
def _incoherent(number: int) -> Floats:
    """Return the incoherent scattering function at `_NODES`."""
    import xraylib

    return np.array([0.0, *(xraylib.SF_Compt(number, q) for q in _NODES[1:].tolist())])
