"""Numbers of elements: scattering factors, Compton scattering, attenuation; see quantitative.py.

The incoherent scattering functions follow the tables of Hubbell et al., J. Phys. Chem. Ref. Data
4, 471 (1975), as Z Σ a (1 − exp(−b s²)), s = sin θ/λ up to 2.5 1/Å, to 0.5 % of Z. Total cross
sections are in barn per atom at the wavelengths of `WAVELENGTHS`.
"""

import gemmi
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

WAVELENGTHS = (0.3, 0.4, 0.5, 0.71)  # Å
RECOIL = 0.0242631  # Å, Compton wavelength

ELEMENTS: dict[str, tuple[int, list[float], list[float], list[float]]] = {
    "H": (1, [0.2161, 0.0142, 0.5577, 0.2121], [18.512, 6.449, 40.766, 81.79],
          [0.5776, 0.5969, 0.6094, 0.6254]),
    "C": (6, [0.1094, 0.2302, 0.4963, 0.1641], [0.566, 1.608, 18.942, 69.643],
          [4.068, 4.959, 6.321, 11.46]),
    "O": (8, [0.145, 0.1415, 0.4785, 0.235], [0.403, 1.247, 10.36, 36.104],
          [6.645, 9.534, 14.22, 32.37]),
    "F": (9, [0.1135, 0.1616, 0.516, 0.2089], [1.291, 0.355, 8.262, 30.21],
          [8.56, 13.32, 21.12, 51.36]),
    "Mg": (12, [0.1824, 0.3643, 0.28, 0.1733], [0.258, 2.589, 7.934, 170.167],
           [18.49, 34.69, 61.5, 164.7]),
    "Si": (14, [0.1756, 0.4251, 0.1461, 0.2532], [0.207, 2.123, 9.192, 80.653],
           [30.36, 61.46, 112.8, 308.9]),
    "S": (16, [0.1746, 0.411, 0.2339, 0.1805], [0.178, 1.714, 16.563, 69.344],
          [48.49, 102.9, 192.3, 530.2]),
    "Ca": (20, [0.177, 0.3264, 0.3584, 0.1383], [0.145, 1.129, 10.964, 193.663],
           [111.5, 247.5, 468.1, 1284.0]),
    "Ti": (22, [0.1925, 0.2953, 0.3648, 0.1474], [0.148, 1.053, 8.577, 136.578],
           [160.9, 360.3, 681.6, 1856.0]),
    "Cu": (29, [0.2735, 0.3225, 0.2748, 0.1292], [0.168, 1.393, 5.922, 56.26],
           [468.1, 1050.0, 1965.0, 5165.0]),
    "Zn": (30, [0.2909, 0.3774, 0.2284, 0.1034], [0.173, 1.608, 8.09, 94.312],
           [533.5, 1196.0, 2230.0, 5846.0]),
    "Sr": (38, [0.3147, 0.3537, 0.242, 0.0896], [0.143, 1.21, 10.923, 179.35],
           [1305.0, 2870.0, 5260.0, 13150.0]),
    "W": (74, [0.392, 0.3194, 0.216, 0.0726], [0.095, 0.791, 6.721, 97.481],
          [2990.0, 6368.0, 11410.0, 28550.0]),
}  # fmt: skip
MASS = {e: gemmi.Element(e).weight for e in ELEMENTS}


def form_factor(element: str, s2: Array, wavelength: float) -> NDArray[np.complex128]:
    """Return f of sin²θ/λ² (1/Å²) with the dispersion of a wavelength (Å).

    f0 is of Int. Tables C 6.1.1.4, f' and f'' after Cromer & Liberman.
    """
    it92 = gemmi.Element(element).it92
    f = np.full(np.shape(s2), it92.c, complex)
    for a, b in zip(it92.a, it92.b, strict=True):
        f += a * np.exp(-b * np.asarray(s2))
    number = gemmi.Element(element).atomic_number
    real, imaginary = gemmi.cromer_liberman(number, 12398.42 / wavelength)
    return f + real + 1j * imaginary


def incoherent(element: str, s2: Array, wavelength: float) -> Array:
    """Return the Compton scattering that a photon counter counts, in electron units.

    The recoil factor is that of Breit and Dirac for counted photons, (λ/λ')².
    """
    number, a, b, _ = ELEMENTS[element]
    found = np.zeros(np.shape(s2))
    for weight, exponent in zip(a, b, strict=True):
        found += number * weight * (1 - np.exp(-exponent * np.asarray(s2)))
    return found / (1 + 2 * RECOIL * wavelength * np.asarray(s2)) ** 2


def attenuation(atoms: dict[str, float], volume: float, wavelength: float) -> float:
    """Return μ (1/mm) of atoms (element, number) in a volume (Å³)."""
    i = WAVELENGTHS.index(wavelength)
    barn = sum(n * ELEMENTS[e][3][i] for e, n in atoms.items())
    return barn / volume * 0.1  # barn/Å³ is 1/cm


def density(atoms: dict[str, float], volume: float) -> float:
    """Return g/cm³ of atoms (element, number) in a volume (Å³)."""
    return sum(n * MASS[e] for e, n in atoms.items()) / volume * 1.66053907


def polystyrene_like(q: Array) -> Array:
    """Return the halo of an amorphous container, mean about 1 between its maximum and 8 1/Å."""
    rise = 1 - 0.85 * np.exp(-((q / 1.1) ** 2))
    halo = 1.6 * np.exp(-(((q - 1.55) / 0.45) ** 2) / 2) + 0.5 * np.exp(-(((q - 4.5) / 1) ** 2) / 2)
    return (rise + halo) * (0.25 + 0.75 * np.exp(-((q / 5) ** 2)))


def air_molecules(q: Array) -> Array:
    """Return scattering of N₂ per molecule over 196: two atoms at 1.1 Å, with Compton."""
    s2 = (q / 4 / np.pi) ** 2
    f = 7 * np.exp(-4.2 * s2) * 0.8 + 1.4 * np.exp(-0.3 * s2)
    x = np.maximum(1.1 * q, 1e-9)
    compton = 14 * (1 - np.exp(-7 * s2))
    return (2 * f**2 * (1 + np.sin(x) / x) + compton) / 196
