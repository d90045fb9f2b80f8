"""Average structure of a crystal, and the scattering that it predicts in electron units per cell.

The scattering per cell is the sum of three parts. Bragg reflections have ∫ S d³Q = |F|² (2π)³/V.
Between them, the diffuse scattering of independent atoms is

    D(Q) = Σ over sites of  Σ c |f|² - |Σ c f exp(-W)|²

(c: occupancy of an atom on the site, W = B (sin θ/λ)²). Where W is large, D is the high-angle limit
Σ c |f|². Compton scattering is added to both.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.bragg.scattering import compton, form_factor
from hklflow.geometry import lattice

Floats = NDArray[np.float64]

_BLOCK = 2_000_000  # products of reflections and atoms that are in memory
_SAME_SITE = 0.02  # distance in fractional coordinates


@dataclass(frozen=True)
class Structure:
    """Atoms of the whole cell.

    Attributes
    ----------
    cell : (6,) array
        Å and degrees.
    space_group : str
    elements : tuple of n str
    positions : (n, 3) array
        Fractional coordinates.
    occupancy : (n,) array
    u_star : (n, 3, 3) array
        Displacements: the Debye-Waller factor is exp(-2π² h·U*·h).
    """

    cell: Floats
    space_group: str
    elements: tuple[str, ...]
    positions: Floats
    occupancy: Floats
    u_star: Floats

    @property
    def volume(self) -> float:
        """Volume of the cell, Å³."""
        return lattice.volume(self.cell)

    @cached_property
    def b_iso(self) -> Floats:
        """Isotropic B (n,) of the atoms, Å²."""
        # The trace of U in a Cartesian frame: U_cart = A U* Aᵀ, AᵀA = metric of the direct cell.
        trace = np.einsum("nij,ij->n", self.u_star, lattice.metric(self.cell))
        return 8 * np.pi**2 * trace / 3

    @cached_property
    def sites(self) -> list[list[int]]:
        """Atoms of each site: several if different elements share the site."""
        sites: list[list[int]] = []
        for i, x in enumerate(self.positions):
            if self.occupancy[i] > 0.999:
                sites.append([i])
                continue
            for site in sites:
                shift = x - self.positions[site[0]]
                if np.abs(shift - np.round(shift)).max() < _SAME_SITE:
                    site.append(i)
                    break
            else:
                sites.append([i])
        return sites

    def intensities(self, hkl: ArrayLike, wavelength: float) -> Floats:
        """Return |F|² (n,) of reflections, as the mean of hkl and its Friedel mate."""
        rows = np.asarray(hkl, dtype=np.float64).reshape(-1, 3)
        step = max(1, _BLOCK // max(1, len(self.elements)))
        found = [
            self._intensities(rows[start : start + step], wavelength)
            for start in range(0, len(rows), step)
        ]
        return np.concatenate(found) if found else np.empty(0)

    def _intensities(self, hkl: Floats, wavelength: float) -> Floats:
        s = _s(np.linalg.norm(hkl @ lattice.b_matrix(self.cell).T, axis=1))
        factors = {e: form_factor(e, s, wavelength) for e in set(self.elements)}
        f = np.stack([factors[e] for e in self.elements], axis=1)
        damped = np.exp(-2 * np.pi**2 * np.einsum("ri,nij,rj->rn", hkl, self.u_star, hkl))
        wave = np.exp(2j * np.pi * hkl @ self.positions.T)
        weighted = f * damped * self.occupancy
        both = (np.abs(np.sum(weighted * w, axis=1)) ** 2 for w in (wave, wave.conj()))
        mean: Floats = sum(both) / 2
        return mean

    def limit(self, q: ArrayLike, wavelength: float) -> Floats:
        """Return Σ c |f|² at |Q| (1/Å): Bragg and diffuse scattering at high angles."""
        parts = [
            count * np.abs(form_factor(element, _s(q), wavelength)) ** 2
            for element, count in self._contents()
        ]
        return np.asarray(np.sum(parts, axis=0))

    def diffuse(self, q: ArrayLike, wavelength: float) -> Floats:
        """Return D(Q), the diffuse scattering of independent atoms at |Q| (1/Å)."""
        s = _s(q)
        lost = np.zeros(s.shape)
        factors = {e: form_factor(e, s, wavelength) for e in set(self.elements)}
        for site in self.sites:
            f = sum(
                self.occupancy[i] * factors[self.elements[i]] * np.exp(-self.b_iso[i] * s**2)
                for i in site
            )
            lost += np.abs(f) ** 2
        return self.limit(q, wavelength) - lost

    def compton(self, q: ArrayLike, wavelength: float) -> Floats:
        """Return the Compton scattering at |Q| (1/Å) that a photon counter counts."""
        parts = [count * compton(e, _s(q), wavelength) for e, count in self._contents()]
        return np.asarray(np.sum(parts, axis=0))

    def _contents(self) -> Iterator[tuple[str, float]]:
        """Yield each element with its number of atoms in the cell."""
        names = np.array(self.elements)
        for element in sorted(set(self.elements)):
            yield element, float(self.occupancy[names == element].sum())


def _s(q: ArrayLike) -> Floats:
    """Return sin θ/λ of |Q|."""
    return np.asarray(q, dtype=np.float64) / (4 * np.pi)
