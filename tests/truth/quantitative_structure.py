"""Crystals whose S(Q) is known in electron units per cell; see quantitative.py.

S(h) = D(Q) G(h). D is the part that an average structure with occupancies and displacements lacks,
Σ occ |f|² (1 − occ exp(−2 B s²)) over the cell's atoms: with the Bragg peaks of the average
structure it makes Σ occ |f|², the high-angle limit. G has the symmetry of the group and mean 1:

    G = (w₀ + w₁ peaks(h) + w₂ sheets(h)) (1 + a Σ cos 2πh·u) + b Σ sin 2πh·v

with peaks at the lattice points, sheets or rods on planes of integer h·n, u and v not of the
lattice. Sums run over stars of the group. The sine, which makes Friedel mates differ, is 0 where
the group has an inversion.
"""

from dataclasses import dataclass
from functools import cached_property
from math import exp, floor

import gemmi
import numpy as np
from numba import njit
from numpy.typing import NDArray

from tests.truth.quantitative_elements import attenuation, density, form_factor, incoherent
from tests.truth.worlds_physics import busing_levy, operations, reflections

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Atom:
    element: str
    x: tuple[float, float, float]
    B: float  # Å²
    occupancy: float = 1.0


@dataclass(frozen=True)
class Shares:
    """Shares and shapes of the parts of G."""

    flat: float = 0.5
    peaks: float = 0.25
    sheets: float = 0.25
    peak_width: float = 1.0  # κ of exp κ(cos − 1)
    sheet_width: float = 1.5
    sheet: tuple[int, int, int] = (1, 0, 0)
    wave: float = 0.15
    odd: float = 0.0


@dataclass(frozen=True)
class Crystal:
    """An average structure and its diffuse scattering."""

    space_group: str
    cell: tuple[float, ...]
    formula: str
    atoms: tuple[Atom, ...]  # asymmetric unit
    wavelength: float
    shares: Shares = Shares()
    friedel: bool = True  # False: S(Q) and S(−Q) differ where the space group has no inversion

    @cached_property
    def group(self) -> NDArray[np.int64]:
        """Rotations W (n, 3, 3) of coordinates under which S(h W) = S(h)."""
        W = np.unique(operations(self.space_group)[0], axis=0)
        return np.unique(np.concatenate([W, -W]), axis=0) if self.friedel else W

    @cached_property
    def B(self) -> Array:
        return busing_levy(np.array(self.cell))

    @cached_property
    def volume(self) -> float:
        return float((2 * np.pi) ** 3 / np.linalg.det(self.B))

    @cached_property
    def positions(self) -> list[tuple[Atom, Array]]:
        """Atoms of the asymmetric unit, each with its positions (n, 3) in the cell."""
        W, w = operations(self.space_group)
        found = []
        for atom in self.atoms:
            x = np.mod(W @ np.array(atom.x) + w, 1)
            kept: list[Array] = []
            for one in x:
                near = [np.abs(one - k - np.round(one - k)).max() for k in kept]
                if not near or min(near) > 1e-3:
                    kept.append(one)
            found.append((atom, np.array(kept)))
        return found

    @cached_property
    def contents(self) -> dict[str, float]:
        """Atoms of each element in the cell."""
        count: dict[str, float] = {}
        for atom, x in self.positions:
            count[atom.element] = count.get(atom.element, 0) + len(x) * atom.occupancy
        return count

    @property
    def mu(self) -> float:
        """Attenuation, 1/mm."""
        return attenuation(self.contents, self.volume, self.wavelength)

    @property
    def density(self) -> float:
        return density(self.contents, self.volume)

    def level(self, q: Array) -> Array:
        """Return D of |Q| (1/Å), electron units per cell."""
        s2 = (np.asarray(q) / 4 / np.pi) ** 2
        total = np.zeros(np.shape(q))
        for atom, x in self.positions:
            f2 = np.abs(form_factor(atom.element, s2, self.wavelength)) ** 2
            lost = atom.occupancy * np.exp(-2 * atom.B * s2)
            total += len(x) * atom.occupancy * f2 * (1 - lost)
        return total

    def limit(self, q: Array) -> Array:
        """Return Σ occ |f|² of |Q|: Bragg and diffuse scattering together, without Compton."""
        s2 = (np.asarray(q) / 4 / np.pi) ** 2
        f2 = [np.abs(form_factor(e, s2, self.wavelength)) ** 2 * n for e, n in
              self.contents.items()]  # fmt: skip
        return np.sum(f2, axis=0)

    def compton(self, q: Array) -> Array:
        """Return the Compton scattering of |Q| that is counted, electron units per cell."""
        s2 = (np.asarray(q) / 4 / np.pi) ** 2
        return np.sum([n * incoherent(e, s2, self.wavelength) for e, n in self.contents.items()], 0)

    def star(self, v: Array) -> Array:
        """Return the different vectors (n, 3) that the group makes of v."""
        return np.unique(np.round(self.group @ np.asarray(v, float), 9), axis=0)

    @cached_property
    def waves(self) -> tuple[Array, ...]:
        """Parameters of `shape` for the kernels: stars, and the weights with their norms."""
        s = self.shares
        stars = [_halves(self.star(v)) for v in np.eye(3)]
        axes = np.unique(np.concatenate(stars), axis=0)
        sheet = _halves(self.star(np.array(s.sheet)))
        u = _halves(self.star(np.array([0.31, 0.17, 0.23])))[:6]
        u = _halves(self.star(np.array([0.37, 0, 0]))) if len(self.group) > 8 else u
        v = self.star(np.array([0.29, 0.21, 0.43]))
        odd = 0.0 if (-self.group[:, None] == self.group).all((2, 3)).any() else s.odd
        x = np.stack(np.meshgrid(*[np.arange(24) / 24] * 3, indexing="ij"), -1).reshape(-1, 3)
        norm = np.mean(np.exp(s.peak_width * (np.cos(2 * np.pi * x @ axes.T) - 1).sum(1)))
        level = float(np.exp(-s.sheet_width) * np.i0(s.sheet_width))
        weights = np.array(
            [s.flat, s.peaks / norm, s.sheets / level / len(sheet), s.peak_width, s.sheet_width,
             s.wave / len(u), odd / len(v)]
        )  # fmt: skip
        return axes, sheet, u, v, weights

    def shape(self, hkl: Array) -> Array:
        """Return G at positions hkl (..., 3)."""
        flat = np.ascontiguousarray(np.reshape(hkl, (-1, 3)).T, float)
        out = np.zeros(flat.shape[1])
        add_shapes(out, flat, *self.waves)
        return out.reshape(np.shape(hkl)[:-1])

    def S(self, hkl: Array) -> Array:
        """Return the coherent diffuse scattering at hkl (..., 3), electron units per cell."""
        return self.level(np.linalg.norm(hkl @ self.B.T, axis=-1)) * self.shape(hkl)

    @cached_property
    def contrast(self) -> float:
        """Largest over smallest G within the first cells."""
        x = np.stack(np.meshgrid(*[np.arange(0, 3, 1 / 16)] * 3, indexing="ij"), -1)
        g = self.shape(x)
        return float(g.max() / g.min())

    def structure_factors(self, q_max: float) -> tuple[Array, Array]:
        """Return hkl (n, 3) up to |Q| and |F|² of the average structure, electron units."""
        hkl = reflections(self.B, q_max)
        s2 = (np.linalg.norm(hkl @ self.B.T, axis=1) / 4 / np.pi) ** 2
        F = np.zeros(len(hkl), complex)
        for atom, x in self.positions:
            f = atom.occupancy * form_factor(atom.element, s2, self.wavelength)
            F += f * np.exp(-atom.B * s2) * np.exp(2j * np.pi * hkl @ x.T).sum(axis=1)
        return hkl, np.abs(F) ** 2

    def cif(self, name: str) -> str:
        """Return the average structure as CIF."""
        group = gemmi.find_spacegroup_by_name(self.space_group)
        lines = [f"data_{name}", f"_chemical_formula_sum '{self.formula}'"]
        names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
        lines += [f"_cell_{n} {x:g}" for n, x in zip(names, self.cell, strict=True)]
        lines += [
            f"_space_group_name_H-M_alt '{group.xhm()}'",
            f"_space_group_IT_number {group.number}",
        ]
        lines += ["loop_", "_space_group_symop_operation_xyz"]
        lines += [f"'{op.triplet()}'" for op in group.operations()]
        columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy",
                   "adp_type", "B_iso_or_equiv")  # fmt: skip
        lines += ["loop_", *(f"_atom_site_{c}" for c in columns)]
        for i, a in enumerate(self.atoms, 1):
            x = " ".join(f"{v:.6f}" for v in a.x)
            lines.append(f"{a.element}{i} {a.element} {x} {a.occupancy:g} Biso {a.B:g}")
        return "\n".join(lines) + "\n"


def _halves(star: Array) -> Array:
    """Return one vector of each pair ±v."""
    first = np.argmax(np.abs(star) > 1e-9, axis=1)
    sign = np.sign(star[np.arange(len(star)), first])
    return np.unique(star * sign[:, None] + 0.0, axis=0)


@njit(cache=True, inline="always", fastmath=True)
def _cosine(t):
    """Return cos 2πt to 1e-7."""
    u = 0.25 - abs(t - floor(t + 0.5))
    q = u * u
    return u * (6.283185307179586 - q * (41.34170224039975 - q * (
        81.60524927607504 - q * (76.70585975306136 - q * (42.05869394489765 - q * (
            15.09464257682299 - q * 3.819952584848281))))))  # fmt: skip


@njit(cache=True, fastmath=True)
def _add_cosines(out, hkl, vector, turn):
    """Add cos 2π(h·v − turn) for positions (3, n)."""
    a, b, c = vector[0], vector[1], vector[2]
    for i in range(len(out)):
        out[i] += _cosine(hkl[0, i] * a + hkl[1, i] * b + hkl[2, i] * c - turn)


@njit(cache=True, fastmath=True)
def add_shapes(out, hkl, axes, sheet, u, v, weights):
    """Add G at positions (3, n) to `out`."""
    n = len(out)
    part, g = np.zeros(n), np.full(n, weights[0])
    for i in range(len(axes)):
        _add_cosines(part, hkl, axes[i], 0.0)
    for i in range(n):
        g[i] += weights[1] * exp(weights[3] * (part[i] - len(axes)))
    for j in range(len(sheet)):
        part[:] = 0
        _add_cosines(part, hkl, sheet[j], 0.0)
        for i in range(n):
            g[i] += weights[2] * exp(weights[4] * (part[i] - 1))
    part[:] = 0
    for i in range(len(u)):
        _add_cosines(part, hkl, u[i], 0.0)
    for i in range(n):
        g[i] *= 1 + weights[5] * part[i]
    if weights[6] != 0:
        part[:] = 0
        for i in range(len(v)):
            _add_cosines(part, hkl, v[i], 0.25)
        for i in range(n):
            g[i] += weights[6] * part[i]
    for i in range(n):
        out[i] += g[i]


@njit(cache=True)
def add_rays(out, s, matrix, axes, sheet, u, v, weights):
    """Add G at the hkl of rays s (3, n), which is matrix (s − z)."""
    for first in range(0, len(out), 1024):
        part = s[:, first : first + 1024]
        hkl = np.empty_like(part)
        for c in range(3):
            for i in range(part.shape[1]):
                hkl[c, i] = (
                    matrix[c, 0] * part[0, i]
                    + matrix[c, 1] * part[1, i]
                    + matrix[c, 2] * (part[2, i] - 1)
                )
        add_shapes(out[first : first + 1024], hkl, axes, sheet, u, v, weights)
