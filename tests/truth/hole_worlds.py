"""Diffuse scattering whose S(Q) is known at any hkl, for judging how holes are filled.

Each site u of a crystal scatters (1 + s_u) exp(i Q·(R_u + d_u)). The contrast s and the
displacement d (Å) are Gaussian fields: white noise, filtered by kernels of finite range. Then every
average is a finite sum (Gaussian moments; no expansion in Q·d):

    S(Q) = Σ_u exp(i Q·R_u) [E_u − E_∞],
    E_u = exp(−V/2) [(1 + i c₀)(1 + i c_u) + <s₀ s_u>],

with V the variance of Δ = Q·(d_u − d₀), c₀ = <s₀ Δ> and c_u = <s_u Δ>. E_∞ is the value without
correlation: the Bragg reflections. S is per site, for unit mean amplitude.

Thermal diffuse scattering is τ Qᵀ Γ(q)⁻¹ Q exp(−q²/2q_c²), summed over the reflections G around
q = Q − G, with Γ_ik = C_ijkl q_j q_l (Christoffel). 1/q² at small q, for any elastic constants.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from hklflow.geometry.grid import Grid

Array = np.ndarray

RADIUS = 0.2  # documented radius of a hole if none can be measured, 1/Å
MEASURED, PUNCHED, UNMEASURED = 0, 1, 2  # codes of `punched` in docs/pdf.md
UNMEASURED_KINDS = ("cone", "gaps")
_AVERAGED = 5.0  # voxels from a reflection within which thermal diffuse scattering is averaged


@dataclass(frozen=True)
class Lattice:
    """A cell, generators of a group of its Laue operations on hkl, and the order of its contrast.

    The contrast alternates in sign along the axes where `parity` is 1.
    """

    cell: tuple[float, ...]
    generators: tuple[Any, ...]
    parity: tuple[int, int, int]

    @property
    def direct(self) -> Array:
        """Columns a, b, c in Å; a* along x, b* in the xy plane (Busing & Levy)."""
        return 2 * np.pi * np.linalg.inv(self.reciprocal).T

    @property
    def reciprocal(self) -> Array:
        """Columns a*, b*, c* in 1/Å, with 2π."""
        a, b, c = self.cell[:3]
        ca, cb, cg = np.cos(np.radians(self.cell[3:]))
        metric = np.array(
            [[a * a, a * b * cg, a * c * cb], [a * b * cg, b * b, b * c * ca],
             [a * c * cb, b * c * ca, c * c]]
        )  # fmt: skip
        return np.linalg.cholesky(4 * np.pi**2 * np.linalg.inv(metric)).T

    @property
    def operations(self) -> Array:
        """All operations (n, 3, 3) that the generators make, with the inversion."""
        group = {tuple(np.eye(3, dtype=int).ravel())}
        steps = [-np.eye(3, dtype=int), *(np.array(g) for g in self.generators)]
        while True:
            more = {
                tuple((np.reshape(w, (3, 3)) @ g).ravel()) for w in group for g in steps
            } | group
            if len(more) == len(group):
                return np.array(sorted(group)).reshape(-1, 3, 3)
            group = more


# The cubic and the hexagonal volume are averaged over subgroups (mmm and 6/m) of their Laue groups,
# so that enough lattice vectors within half a period of the ΔPDF are not equivalent.
_TWO_Y = [[-1, 0, 0], [0, 1, 0], [0, 0, -1]]
LATTICES = {
    "cubic": Lattice(
        (5.0, 5.0, 5.0, 90.0, 90.0, 90.0), ([[-1, 0, 0], [0, -1, 0], [0, 0, 1]], _TWO_Y), (1, 1, 1)
    ),
    "hexagonal": Lattice(
        (5.0, 5.0, 5.6, 90.0, 90.0, 120.0), ([[1, 1, 0], [-1, 0, 0], [0, 0, 1]],), (0, 0, 1)
    ),
    "monoclinic": Lattice((5.3, 4.8, 5.6, 90.0, 105.0, 90.0), (_TWO_Y,), (1, 1, 1)),
    "triclinic": Lattice((4.6, 5.2, 5.8, 82.0, 97.0, 113.0), (), (1, 1, 1)),
}


class Disorder:
    """Gaussian disorder with kernels of finite range; call it for S at hkl (..., 3).

    Attributes
    ----------
    filters : (sources, 4, n, n, n) array
        Kernels from white noise to s, d_x, d_y, d_z, on sites −n//2 ... n//2; d in Å.
    smear : float
        Mean square of additional independent displacements along any direction, Å².
    form : float
        S is multiplied by exp(−form Q²), Å².
    """

    def __init__(self, lattice: Lattice, filters: Array, smear: float, form: float) -> None:
        self.lattice, self.filters, self.smear, self.form = lattice, filters, smear, form
        half = filters.shape[-1] // 2
        size = 4 * half + 1
        waves = np.fft.fftn(filters, s=(size,) * 3, axes=(2, 3, 4))
        # covariance[f, g](u) = <x_f(0) x_g(u)>
        both = np.einsum("sfijk,sgijk->fgijk", waves, waves.conj())
        covariance = np.fft.ifftn(both, axes=(2, 3, 4)).real
        # Sites beyond the range of the kernels are exactly 0, not rounding errors of the transform.
        self.covariance = np.where(np.abs(covariance) < 1e-13, 0.0, covariance)
        self.reach = 2 * half

    def __call__(self, hkl: Array) -> Array:
        """Return S per site at hkl (..., 3)."""
        points = np.reshape(np.asarray(hkl, dtype=np.float64), (-1, 3))
        parts = [self._sum(block) for block in np.array_split(points, len(points) // 100_000 + 1)]
        return np.concatenate(parts).reshape(np.shape(hkl)[:-1])

    def _sum(self, hkl: Array) -> Array:
        q = hkl @ self.lattice.reciprocal.T
        squares = np.sum(q * q, axis=1)
        cov, here = self.covariance, self.covariance[:, :, 0, 0, 0]
        independent = np.exp(-self.smear * squares)
        end = independent * np.exp(-np.sum((q @ here[1:, 1:]) * q, axis=1))
        end = end * (1 + (q @ here[0, 1:]) ** 2)
        total = 1 + here[0, 0] - end
        for u in product(range(-self.reach, self.reach + 1), repeat=3):
            # Site −u is the complex conjugate of site u.
            if u <= (0, 0, 0):
                continue
            there, back = cov[:, :, u[0], u[1], u[2]], cov[:, :, -u[0], -u[1], -u[2]]
            if not (there.any() or back.any()):
                continue
            k = 2 * here[1:, 1:] - there[1:, 1:] - back[1:, 1:]
            damped = independent * np.exp(-0.5 * np.sum((q @ k) * q, axis=1))
            c_0 = q @ (there[0, 1:] - here[0, 1:])
            c_u = q @ (here[0, 1:] - back[0, 1:])
            phase = 2 * np.pi * (hkl @ np.array(u))
            even = damped * (1 - c_0 * c_u + there[0, 0]) - end
            total += 2 * (np.cos(phase) * even - np.sin(phase) * damped * (c_0 + c_u))
        return total * np.exp(-self.form * squares)

    def crystals(self, sites: int, number: int, rng: np.random.Generator) -> Array:
        """Return s, d_x, d_y, d_z (number, 4, n, n, n) of periodic crystals."""
        half = self.filters.shape[-1] // 2
        noise = rng.normal(size=(number, len(self.filters), sites, sites, sites))
        kernel = np.zeros((*self.filters.shape[:2], sites, sites, sites))
        kernel[..., : 2 * half + 1, : 2 * half + 1, : 2 * half + 1] = self.filters
        kernel = np.roll(kernel, (-half,) * 3, axis=(2, 3, 4))
        waves = np.einsum(
            "nsijk,sfijk->nfijk",
            np.fft.fftn(noise, axes=(2, 3, 4)),
            np.fft.fftn(kernel, axes=(2, 3, 4)).conj(),
        )
        fields = np.fft.ifftn(waves, axes=(2, 3, 4)).real
        fields[:, 1:] += rng.normal(0, np.sqrt(self.smear), fields[:, 1:].shape)
        return fields


def _kernel(lattice: Lattice, length: float, parity: Any, half: int = 2) -> Array:
    """Decay with distance over `length` (Å), with unit sum of squares; 0 beyond 2 short axes."""
    u = np.moveaxis(np.indices((2 * half + 1,) * 3) - half, 0, -1)
    distance = np.linalg.norm(u @ lattice.direct.T, axis=-1)
    decay = np.exp(-distance / length) * (distance < half * min(lattice.cell[:3]) * 0.999)
    decay *= (-1.0) ** (u @ np.array(parity))
    return decay / np.sqrt(np.sum(decay**2))


def short_range_order(lattice: Lattice, length: float = 4.0, contrast: float = 1.0) -> Disorder:
    """Contrast that is correlated over `length` Å."""
    filters = np.zeros((1, 4, 5, 5, 5))
    filters[0, 0] = contrast * _kernel(lattice, length, lattice.parity)
    return Disorder(lattice, filters, 0.005, 0.03)


def size_effect(
    lattice: Lattice, length: float = 4.0, contrast: float = 1.0, push: float = 0.06
) -> Disorder:
    """Short-range order; a site of contrast 1 pushes its neighbours away by up to `push` Å."""
    filters = np.zeros((1, 4, 7, 7, 7))
    inner = contrast * _kernel(lattice, length, lattice.parity)
    filters[0, 0, 1:-1, 1:-1, 1:-1] = inner
    for v in product((-1, 0, 1), repeat=3):
        apart = lattice.direct @ np.array(v)
        distance = np.linalg.norm(apart)
        if 0 < distance < 1.35 * min(lattice.cell[:3]):
            # d_u = Σ_v p(v) s_{u+v}, p along −v: a neighbour at u + v pushes away from itself.
            shift = -push * apart / distance * np.exp(-distance / min(lattice.cell[:3]) + 1)
            at = tuple(slice(1 + i, 6 + i) for i in v)
            filters[0, 1:, *at] += shift[:, None, None, None] * inner
    return Disorder(lattice, filters, 0.005, 0.03)


def correlated_displacements(lattice: Lattice, length: float = 4.0, rms: float = 0.15) -> Disorder:
    """Isotropic displacements of `rms` Å along each direction, correlated over `length` Å."""
    filters = np.zeros((3, 4, 5, 5, 5))
    for axis in range(3):
        filters[axis, 1 + axis] = rms * _kernel(lattice, length, (0, 0, 0))
    return Disorder(lattice, filters, 0.005, 0.03)


KINDS: dict[str, Callable[[Lattice], Disorder]] = {
    "short-range order": short_range_order,
    "size effect": size_effect,
    "correlated displacements": correlated_displacements,
}


def stiffness(c_11: float, c_12: float, c_44: float, hexagonal: bool = False) -> Array:
    """C_ijkl (3, 3, 3, 3) on cubic axes x, y, z; with `hexagonal` C_33 = 1.6 C_11 along z."""
    voigt = np.zeros((6, 6))
    voigt[:3, :3] = c_12 + np.eye(3) * (c_11 - c_12)
    voigt[3:, 3:] = np.eye(3) * c_44
    if hexagonal:
        voigt[2, 2] = 1.6 * c_11
        voigt[5, 5] = 0.5 * (c_11 - c_12)
    number = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
    return voigt[number[:, :, None, None], number[None, None]]


@dataclass(frozen=True)
class Thermal:
    """Thermal diffuse scattering of elastic waves; call it for S at hkl (..., 3).

    Attributes
    ----------
    elastic : (3, 3, 3, 3) array
        Elastic constants in units of C_11.
    strength : float
        τ: S is τ Q²/q² for longitudinal waves.
    cutoff : float
        q_c, 1/Å.
    voxel : (3,) array
        Step of the grid. Near a reflection S is averaged over the voxel, because it diverges;
        reflections lie at voxel centres.
    """

    lattice: Lattice
    elastic: Array
    strength: float
    cutoff: float
    voxel: Array

    def __call__(self, hkl: Array) -> Array:
        points = np.reshape(np.asarray(hkl, dtype=np.float64), (-1, 3))
        total = self._of(points)
        away = np.max(np.abs(points - np.rint(points)) / self.voxel, axis=1)
        for own, (shifts, weights) in ((away < 0.5, _around()), (away > 0.5, _within())):
            near = np.flatnonzero(own & (away < _AVERAGED))
            for part in np.array_split(near, len(near) * len(shifts) // 500_000 + 1):
                many = points[part, None] + shifts * self.voxel
                total[part] = self._of(many.reshape(-1, 3)).reshape(-1, len(shifts)) @ weights
        return total.reshape(np.shape(hkl)[:-1])

    def _of(self, hkl: Array) -> Array:
        b = self.lattice.reciprocal
        big, low = hkl @ b.T, np.floor(hkl)
        total = np.zeros(len(hkl))
        for corner in product((-1, 0, 1, 2), repeat=3):
            q = (hkl - low - np.array(corner)) @ b.T
            squares = np.sum(q * q, axis=1)
            # exp(-12.5) of the weight at the end; the reflection itself has no direction.
            close = np.flatnonzero((squares < (5 * self.cutoff) ** 2) & (squares > 1e-12))
            wave, force = q[close], big[close]
            gamma = np.einsum("ijkl,nj,nl->nik", self.elastic, wave, wave)
            answer = np.einsum("ni,ni->n", force, np.linalg.solve(gamma, force[..., None])[..., 0])
            total[close] += answer * np.exp(-0.5 * squares[close] / self.cutoff**2)
        return self.strength * total


def _within(order: int = 3) -> tuple[Array, Array]:
    """Return points of a unit cube around 0, and their weights (Gauss and Legendre)."""
    x, w = np.polynomial.legendre.leggauss(order)
    return np.array(list(product(x / 2, repeat=3))), np.prod(list(product(w / 2, repeat=3)), axis=1)


def _around(levels: int = 4) -> tuple[Array, Array]:
    """Return points as `_within`, finer towards 0, for what diverges there as 1/q².

    The cube is divided into 27, and the inner one again, so that 3^(−levels) of the integral is
    coarse.
    """
    points, weights = _within(2)
    cells = np.array([cell for cell in product((-1, 0, 1), repeat=3) if any(cell)])
    sizes = 3.0 ** -np.arange(1, levels + 1)
    made = [((cells[:, None] + points) * size).reshape(-1, 3) for size in sizes]
    shares = [np.tile(weights, len(cells)) * size**3 for size in sizes]
    return np.concatenate([*made, points * sizes[-1]]), np.r_[*shares, weights * sizes[-1] ** 3]


def thermal(lattice: Lattice, voxel: Array, anisotropic: bool) -> Thermal:
    """Return elastic waves as in a metal; anisotropic: 2 C_44/(C_11 − C_12) is 3 (1: isotropic)."""
    constants = (1.0, 0.6, 0.6) if anisotropic else (1.0, 0.4, 0.3)
    hexagonal = anisotropic and lattice.cell[5] == 120
    return Thermal(lattice, stiffness(*constants, hexagonal), 0.004, 0.25, voxel)


@dataclass
class World:
    """True S on a grid, its holes, and measurements of it.

    Attributes
    ----------
    lattice : Lattice
    grid : Grid
    truth : (l, k, h) array
        S without reflections, at voxel centres.
    punched : (l, k, h) uint8 array
        MEASURED, PUNCHED or UNMEASURED.
    bragg : (l, k, h) array
        S of the reflections.
    """

    lattice: Lattice
    grid: Grid
    truth: Array
    punched: Array
    bragg: Array
    orbits: Array = field(init=False)

    def __post_init__(self) -> None:
        self.orbits = orbits(self.grid, self.lattice.operations)

    @property
    def q_max(self) -> float:
        """Radius of the largest sphere in the grid, 1/Å."""
        return q_max(self.lattice, self.grid)

    def measure(self, norm: float | Array, seed: int, counted: bool = False) -> tuple[Array, Array]:
        """Return S and σ (l, k, h) with counting noise, averaged over equivalents; NaN in holes.

        Counts are drawn for a norm of each voxel, and added over equivalents. The variance is the
        true one, S/norm, so that only the fill is judged; with `counted` it is counts/norm², of at
        least one count.
        """
        rng = np.random.default_rng(seed)
        size = int(self.orbits.max()) + 1
        norms = np.broadcast_to(np.asarray(norm, dtype=np.float64), self.truth.shape)
        norms = np.where(self.punched == UNMEASURED, 0.0, norms)
        counts = rng.poisson(np.maximum(self.truth + self.bragg, 0) * norms)
        c = np.bincount(self.orbits.ravel(), counts.ravel(), size)[self.orbits]
        m = np.bincount(self.orbits.ravel(), norms.ravel(), size)[self.orbits]
        used = (self.punched == MEASURED) & (m > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            values = c / m
            sigma = np.sqrt(np.maximum(c, 1)) / m if counted else np.sqrt(self.truth / m)
        return np.where(used, values, np.nan), np.where(used, sigma, np.nan)


def q_max(lattice: Lattice, grid: Grid) -> float:
    """Return the radius of the largest sphere in a symmetric grid, 1/Å."""
    return float(np.min(-grid.first * 2 * np.pi / np.array(lattice.cell[:3])))


def hkl_of(grid: Grid) -> Array:
    """Return hkl (l, k, h, 3) of the voxel centres."""
    l, k, h = np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")  # noqa: E741
    return np.stack([h, k, l], axis=-1)


def orbits(grid: Grid, operations: Array) -> Array:
    """Return the number (l, k, h) of each voxel's set of equivalents inside the grid.

    Equivalents outside of the grid are left out.
    """
    half = (np.array(grid.shape) - 1) // 2
    voxels = np.rint(hkl_of(grid) / grid.step).astype(np.int64)
    strides = np.cumprod([1, 2 * half[0] + 1, 2 * half[1] + 1])
    least = ((voxels + half) @ strides).astype(np.int64)
    for w in operations:
        moved = voxels @ w.T
        inside = np.all(np.abs(moved) <= half, axis=-1)
        least = np.where(inside, np.minimum(least, (moved + half) @ strides), least)
    _, numbers = np.unique(least, return_inverse=True)
    return numbers.reshape(least.shape)


def holes(
    lattice: Lattice, grid: Grid, radius: float, unmeasured: Sequence[str] = UNMEASURED_KINDS
) -> Array:
    """Return codes (l, k, h): spheres around integers, and unmeasured regions.

    "cone" is a cone of 20° about c*, "gaps" two pairs of slabs of 0.1 1/Å as gaps leave them.
    Voxels with a measured equivalent count as measured.
    """
    hkl = hkl_of(grid)
    b = lattice.reciprocal
    code = np.zeros(hkl.shape[:3], np.uint8)
    q = hkl @ b.T
    if unmeasured:
        missing = np.zeros(hkl.shape[:3], bool)
        if "cone" in unmeasured:
            length = np.maximum(np.linalg.norm(q, axis=-1), 1e-9)
            axis = b[:, 2] / np.linalg.norm(b[:, 2])
            missing |= np.abs(q @ axis) > np.cos(np.radians(20.0)) * length
        if "gaps" in unmeasured:
            for slab in ((0.6, 0.64, 0.48), (0.0, 0.8, -0.6)):
                missing |= np.abs(np.abs(q @ np.array(slab)) - 0.9) < 0.05
        numbers = orbits(grid, lattice.operations)
        measured = np.bincount(numbers.ravel(), ~missing.ravel()) > 0
        code[~measured[numbers]] = UNMEASURED
    near = np.floor(hkl)
    for corner in product((0, 1), repeat=3):
        away = (hkl - near - np.array(corner)) @ b.T
        code[np.sum(away**2, axis=-1) <= radius**2 * (1 + 1e-9)] = PUNCHED
    return code


def reflections(lattice: Lattice, grid: Grid, radius: float, height: float = 1e4) -> Array:
    """Return S (l, k, h) of Gaussian reflections that end inside of the holes."""
    hkl = hkl_of(grid)
    away = (hkl - np.rint(hkl)) @ lattice.reciprocal.T
    return height * np.exp(-18 * np.sum(away**2, axis=-1) / radius**2)


def make_world(
    kind: str,
    cell: str,
    size: int,
    step: float,
    cone: bool,
    radius: float = RADIUS,
    unmeasured: Sequence[str] = UNMEASURED_KINDS,
) -> World:
    """Return a world of size³ voxels.

    Parameters
    ----------
    kind : str
        One of `KINDS`; with " + isotropic TDS" or " + anisotropic TDS" behind it, elastic waves are
        added.
    cell : str
        One of `LATTICES`.
    cone : bool
        True: the ``unmeasured`` regions were not measured, see `holes`.
    """
    lattice = LATTICES[cell]
    grid = Grid.symmetric([(size - 1) // 2 * step] * 3, [step] * 3)
    name, _, waves = kind.partition(" + ")
    # S is symmetric, so one voxel of each set of equivalents is computed.
    _, first, numbers = np.unique(
        orbits(grid, lattice.operations), return_index=True, return_inverse=True
    )
    hkl = hkl_of(grid).reshape(-1, 3)[first]
    truth = KINDS[name](lattice)(hkl)
    if waves:
        truth = truth + thermal(lattice, grid.step, waves == "anisotropic TDS")(hkl)
    truth = truth[numbers].reshape(grid.shape[::-1])
    code = holes(lattice, grid, radius, unmeasured if cone else ())
    return World(lattice, grid, truth, code, reflections(lattice, grid, radius))
