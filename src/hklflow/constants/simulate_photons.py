"""Simulated fluorescence: photons of one or two energies that fall on pixels of an ASIC."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Foil:
    """Fluorescence on the detector.

    Attributes
    ----------
    energy : float
        Energy of K-alpha, keV.
    rate : float
        Mean number of photons per pixel and frame.
    sharing : float
        Fraction of the photons whose charge two neighbouring pixels share.
    cloud : float, optional
        Radius of the charge cloud as a fraction of the width of the region of charge sharing.
        None: the part of each pixel has a uniform distribution.
    beta_energy : float
        Energy of K-beta, keV.
    beta_weight : float
        Fraction of the photons that are K-beta.
    """

    energy: float
    rate: float = 0.25
    sharing: float = 0.2
    cloud: float | None = None
    beta_energy: float = 0.0
    beta_weight: float = 0.0


def deposit(foil: Foil, n: int, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    """Return the energy (n, ss, fs) in keV that every pixel receives in each of ``n`` frames.

    Photons also fall on the pixels around the ASIC and share charge with it.
    """
    n_rows, n_fast = shape[0] + 2, shape[1] + 2
    photons = rng.poisson(foil.rate * n * n_rows * n_fast)
    frame = rng.integers(n, size=photons)
    row, column = rng.integers(n_rows, size=photons), rng.integers(n_fast, size=photons)
    energy = np.where(rng.random(photons) < foil.beta_weight, foil.beta_energy, foil.energy)
    shared = rng.random(photons) < foil.sharing
    kept = np.where(shared, _part(foil.cloud, photons, rng), 1.0)
    image = np.zeros(n * n_rows * n_fast)

    def add(row: NDArray[np.int64], column: NDArray[np.int64], energy: Floats) -> None:
        inside = (row >= 0) & (row < n_rows) & (column >= 0) & (column < n_fast)
        place = (frame * n_rows + row) * n_fast + column
        image[:] += np.bincount(place[inside], energy[inside], image.size)

    add(row, column, energy * kept)
    side = rng.integers(4, size=photons)
    down, right = np.array([1, -1, 0, 0])[side], np.array([0, 0, 1, -1])[side]
    add(row + down, column + right, energy * (1 - kept))
    return np.ascontiguousarray(image.reshape(n, n_rows, n_fast)[:, 1:-1, 1:-1])


def _part(cloud: float | None, photons: int, rng: np.random.Generator) -> Floats:
    """Return the part of the charge that stays in the pixel: uniform, or from a normal cloud."""
    even = rng.random(photons)
    if cloud is None:
        return even
    from scipy.special import erf

    return np.asarray(0.5 + 0.5 * erf((even - 0.5) / (sqrt(2) * cloud)))
