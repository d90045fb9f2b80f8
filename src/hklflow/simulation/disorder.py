"""A binary crystal with known short-range order and known size-effect displacements.

Each cell has one site with an atom A or B. The species are drawn with a threshold on a Gaussian
random field, and the Warren-Cowley parameters follow from counting. Atoms are displaced by their
neighbours. The scattering is computed from all atoms of a periodic supercell, on the reciprocal
lattice of the supercell. The pair distribution is counted from the same atoms in direct space,
independently of the scattering.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import factorial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry.grid import Grid
from hklflow.simd.jit import kernel
from hklflow.simulation import geometry as sg
from hklflow.volumes.tapers import Taper

Floats = NDArray[np.float64]

Shell = tuple[tuple[int, int, int], float]


@dataclass(frozen=True)
class Crystal:
    """A periodic supercell of n³ cells.

    Attributes
    ----------
    cell : (6,) array
    species : (n, n, n) array of bool
        True if the atom in cell [x, y, z] is an A.
    steps : (n, n, n, 3) array of int
        Displacements along a, b, c in units of ``push``.
    push : float
        Length of a displacement step, as a fraction of a cell.
    f : (float, float)
        Scattering powers of A and B.
    """

    cell: Floats
    species: NDArray[np.bool_]
    steps: NDArray[np.int64]
    push: float
    f: tuple[float, float]

    @property
    def n(self) -> int:
        """Number of cells along each axis."""
        return len(self.species)

    @cached_property
    def powers(self) -> Floats:
        """Scattering power (n, n, n) of each atom."""
        return np.where(self.species, *self.f)

    def alpha(self, vector: Sequence[int]) -> float:
        """Return the Warren-Cowley parameter: 1 if all pairs are alike, below 0 if most differ."""
        contrast = self.species - self.species.mean()
        shifted = np.roll(contrast, [-v for v in vector], axis=(0, 1, 2))
        return float((contrast * shifted).mean() / contrast.var())

    @property
    def contrast(self) -> float:
        """Contrast x_A x_B (f_A - f_B)²; the ΔPDF at a vector is α × contrast × resolution."""
        return float(self.species.var()) * (self.f[0] - self.f[1]) ** 2


def crystal(
    cell: ArrayLike,
    n: int,
    order: Sequence[Shell],
    *,
    share: float = 0.5,
    f: tuple[float, float] = (2.0, 1.0),
    push: float = 0.0,
    seed: int = 0,
) -> Crystal:
    """Draw a random crystal.

    Parameters
    ----------
    n : int
        Number of cells of the supercell along each axis.
    order : list of (vector, strength)
        A positive strength makes atoms at a distance ``vector`` alike: the Gaussian field has the
        spectrum exp(Σ strength cos 2π h·vector). Equivalent vectors must all be listed.
    share : float
        Fraction of A atoms.
    push : float
        Displacement, as a fraction of a cell, of an atom between an A and a B along an axis; the
        atom moves away from the A.
    """
    rng = np.random.default_rng(seed)
    h = np.stack(np.meshgrid(*(np.arange(n) / n,) * 3, indexing="ij"), axis=-1)
    spectrum = np.exp(sum(s * np.cos(2 * np.pi * (h @ np.array(v))) for v, s in order))
    field = np.fft.ifftn(np.sqrt(spectrum) * np.fft.fftn(rng.normal(size=(n, n, n)))).real
    species = field > np.quantile(field, 1 - share)
    kind = species.astype(np.int64)
    steps = np.stack([np.roll(kind, 1, axis=i) - np.roll(kind, -1, axis=i) for i in range(3)], -1)
    return Crystal(np.asarray(cell, float), species, steps, push, f)


def intensity(made: Crystal, limit: ArrayLike, terms: int = 12) -> tuple[Grid, Floats, float]:
    """Return |F(h)|²/N of a supercell on its reciprocal lattice, including Bragg peaks.

    F(h) = Σ f exp(2πi h·(x + u)) is a series in h·u; every term is an FFT of the supercell.

    Parameters
    ----------
    limit : (3,) array
        Limits of h, k, l.
    terms : int
        Highest power of h·u.

    Returns
    -------
    grid : Grid
        Grid with step 1/n.
    intensity : (l, k, h) array
    error : float
        Upper limit of the amplitude error, relative to the amplitude of all atoms in phase.
    """
    grid = Grid.symmetric(limit, 1 / made.n)
    top = 2 * np.pi * made.push * float(np.abs(grid.first).sum())
    error = top ** (terms + 1) / factorial(terms + 1)
    powers = [p for p in product(range(terms + 1), repeat=3) if sum(p) <= terms]
    if made.push == 0:
        powers, error = [(0, 0, 0)], 0.0
    total = np.zeros(grid.array_shape, np.complex128)
    axes = [grid.axis(i) for i in range(3)]
    index = [np.rint(axis * made.n).astype(np.int64) % made.n for axis in axes]
    for p in powers:
        moment = made.powers * np.prod((made.steps * made.push) ** np.array(p), axis=-1)
        # The sum with exp(+2πi h·x) is the inverse transform without the factor 1/n³.
        table = np.fft.ifftn(moment, norm="forward")
        factors = [(2j * np.pi * axis) ** q / factorial(q) for axis, q in zip(axes, p, strict=True)]
        _add(total, table, *index, *factors)
    return grid, np.abs(total) ** 2 / made.species.size, error


@kernel
def _add(total, table, ih, ik, il, fh, fk, fl):  # type: ignore[no-untyped-def]
    for l in range(total.shape[0]):  # noqa: E741
        for k in range(total.shape[1]):
            factor = fl[l] * fk[k]
            for h in range(total.shape[2]):
                total[l, k, h] += table[ih[h], ik[k], il[l]] * (fh[h] * factor)


def diffuse(grid: Grid, whole: Floats) -> Floats:
    """Return the intensity with the points at integer h, k, l set to 0."""
    bragg = [np.abs(axis - np.rint(axis)) < 1e-6 for axis in (grid.axis(2), grid.axis(1))]
    at_h = np.abs(grid.axis(0) - np.rint(grid.axis(0))) < 1e-6
    return np.where(bragg[0][:, None, None] & bragg[1][:, None] & at_h, 0.0, whole)


def pair_distribution(
    made: Crystal, x: ArrayLike, taper: Taper, *, delta: bool = True, reach: float = 12.0
) -> Floats:
    """Count pairs in direct space, with the resolution of a taper.

    The result per cell is Σ_ij f_i f_j R(x - x_ij) / N over all pairs of atoms, with the resolution
    function R. With ``delta``, the same sum for the average structure is subtracted. In the average
    structure, every site contains all atoms of the supercell at their displaced positions.

    Parameters
    ----------
    x : (m, 3) array
        Positions in fractions of a, b, c.
    reach : float
        Largest distance of a pair from x, Å.

    Returns
    -------
    (m,) array
        Pair distribution per Å³.
    """
    x = np.asarray(x, dtype=np.float64).reshape(-1, 3)
    axes = sg.real_axes(made.cell)
    g = axes @ axes.T
    size, f = made.species.size, made.powers
    # Differences of displacements are a few integer steps along each axis, so a histogram is exact.
    shifts = np.array(list(product(range(-2, 3), repeat=3)))
    kinds = np.array(list(product(range(-1, 2), repeat=3)))
    per_kind = np.array([f[np.all(made.steps == kind, axis=-1)].sum() for kind in kinds])
    average = np.zeros(len(shifts))
    for i, j in product(range(len(kinds)), repeat=2):
        average[_place(kinds[j] - kinds[i])] += per_kind[i] * per_kind[j] / size**2
    far = np.ceil(reach * np.sqrt(np.diag(np.linalg.inv(g)))).astype(int)
    low, high = np.floor(x.min(0)).astype(int) - far, np.ceil(x.max(0)).astype(int) + far
    fine = np.linspace(0, reach, 6001)
    resolution = taper.resolution_function(fine)
    total = np.zeros(len(x))
    for v in product(*(range(a, b + 1) for a, b in zip(low, high, strict=True))):
        apart = x - np.array(v)
        if np.sqrt(np.einsum("mi,ij,mj->m", apart, g, apart)).min() > reach + 1:
            continue
        back = tuple(-c for c in v)
        move = np.roll(made.steps, back, axis=(0, 1, 2)) - made.steps
        products = (f * np.roll(f, back, axis=(0, 1, 2))).ravel() / size
        pairs = np.zeros(len(shifts))
        np.add.at(pairs, _place(move).ravel(), products)
        if delta:
            pairs = pairs - average
        for shift, weight in zip(shifts, pairs, strict=True):
            if abs(weight) > 1e-14:
                d = apart - made.push * shift
                r = np.sqrt(np.einsum("mi,ij,mj->m", d, g, d))
                total += weight * np.interp(r, fine, resolution, right=0.0)
    return total


def _place(step: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the list index of an integer step from -2 to 2 along each axis."""
    return (step[..., 0] + 2) * 25 + (step[..., 1] + 2) * 5 + step[..., 2] + 2
