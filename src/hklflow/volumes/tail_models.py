"""Shape of the diffuse scattering around a reflection: correlated displacements, and the rest.

    S(Q) = A_G Qᵀ M(q) Q / G² + B_G b(q) + C_G·q,    M = (Γ(q) + κ²)⁻ᵖ exp(−q²/2c²),

at Q = G + q, with Γ_ij = C_ikjl q_k q_l (Christoffel) of elastic constants C that the Laue group
allows (Warren, X-ray Diffraction, 1969, ch. 11). p = 1 and κ = 0 are elastic waves (thermal diffuse
scattering, 1/q²); κ is an inverse correlation length in units of q √C_11, and larger p are
correlations that end sooner. b = 1 + Σ b_R (cos(R·q) − 1) is other diffuse scattering, of
correlations up to some lattice vectors R; equivalent R have the same b_R. If other scattering has
deep minima at the reflections, b = 1 + Σ b_R cos(R·q), and C_G·q is multiplied by b, because form
factors make its slope proportional to it.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes import tail_kernels as kernels

Floats = NDArray[np.float64]

_FEWEST, _MOST = 3, 40  # sets of equivalent R
#: Smallest and largest κ and c, 1/Å.
_BOUNDS = ((0.005, 3.0), (0.1, 5.0))
# Standard deviations of what is expected of ln κ, ln c, the elastic constants and b. The data
# determine most of them; these keep the others near an isotropic crystal.
_USUAL = (0.2, 1.0)
_WIDTHS = (2.0, 2.0, 1.0, 2.0)
# And of b in units of its mean: b is positive, so that each |b_R| alone is below 1.
_WIDTH_OF_MEAN = 1.0
# ln κ of elastic waves, in 1/Å, and its standard deviation, so that it stays there. κ reduces the
# mean over a voxel by some 2 κ/(edge of the voxel): 0.006 took a fifth of the middle of the holes.
_NO_KAPPA, _FIXED = np.log(1e-5), 0.05
# What other powers than 1 cost in χ², odds of 1 to 7: elastic waves are in every crystal.
_UNUSUAL = 4.0
_SEVERAL = 3.6  # what a kind that is not elastic costs in χ²: 2 ln of their number
_SHAPE = 3.0  # what a parameter of the shape costs in χ²
_SOFTEST = 0.02  # least eigenvalue of Γ in units of C_11 q²: a crystal is stable


# Points in a voxel, in edges, whose mean is that of a parabola, and of a cubic polynomial (Gauss).
# Where a radius has few voxels, four are not enough: at 1.6 edges from a reflection, their mean of
# 1/q² is wrong by up to 5 % (A_G by 20 %), at three edges by 0.5 %; of eight, by up to 0.5 %.
_FOUR = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(12)
_EIGHT = np.array(list(product((-1, 1), repeat=3))) / np.sqrt(12)
_COARSE = 3.0  # edges in a radius below which eight points are taken
# Orders of Gauss's integration over a voxel, and over one that contains the reflection.
_ORDER, _FINER = 3, 6
_PAIRS = [(i, j) for i in range(3) for j in range(i, 3)]
_ELEMENTS = np.array([[_PAIRS.index((min(i, j), max(i, j))) for j in range(3)] for i in range(3)])


@dataclass(frozen=True)
class Kind:
    """Power p of a model, whether it has a Gaussian end, and whether κ is 0."""

    power: float
    cut: bool
    elastic: bool = False

    @property
    def cost(self) -> float:
        """What κ, the end and an unusual p cost, in χ²; other parameters are those of all kinds."""
        cost = _SHAPE * self.cut + _UNUSUAL * (self.power > 1)
        return cost if self.elastic else cost + _SHAPE + _SEVERAL


#: Models that are compared.
KINDS = (
    *(Kind(power, cut) for power in (1.0, 2.0, 4.0) for cut in (True, False)),
    Kind(1.0, True, elastic=True),
    Kind(1.0, False, elastic=True),
)


def _turned(axes: Floats, diagonal: Floats) -> Floats:
    """Return the coefficients (n, 6) of Q_i Q_j of tensors, from eigenvectors and eigenvalues."""
    scaled: Floats = axes * diagonal[:, None] @ axes.swapaxes(1, 2)
    return np.stack([scaled[:, i, j] * (1 + (i != j)) for i, j in _PAIRS], axis=1)


def products(big: Floats) -> Floats:
    """Return Q_i Q_j (..., 6) of vectors (..., 3)."""
    return np.stack([big[..., i] * big[..., j] for i, j in _PAIRS], axis=-1)


def points_of_voxel(q: Floats, edges: Floats) -> tuple[Floats, Floats]:
    """Return points (n, 3), 1/Å, and weights (n,) for the mean of M over a voxel.

    M diverges as 1/q² at the reflection. A voxel that contains it is divided into pyramids from the
    reflection to the faces; along them, q² dq removes 1/q² (Duffy, SIAM J. Numer. Anal. 19, 1260,
    1982).

    Parameters
    ----------
    q : (3,) array
        Centre of the voxel, from the reflection, 1/Å.
    edges : (3, 3) array
        Edges of the voxel as columns, 1/Å.
    """
    centre = np.linalg.solve(edges, q)
    if np.abs(centre).max() > 0.5 + 1e-9:
        x, w = np.polynomial.legendre.leggauss(_ORDER)
        points = np.array(list(product(x / 2, repeat=3))) + centre
        weights = np.prod(list(product(w / 2, repeat=3)), axis=1)
        return points @ edges.T, weights
    x, w = np.polynomial.legendre.leggauss(_FINER)
    x, w = x / 2, w / 2
    u, v, t = np.array(list(product(x, x, x + 0.5))).T
    shares = np.prod(list(product(w, repeat=3)), axis=1) * t**2
    parts = []
    for axis, side in product(range(3), (-0.5, 0.5)):
        face = np.insert(np.stack([u, v], axis=1), axis, side, axis=1) + centre
        parts.append((t[:, None] * face, shares * 2 * side * face[:, axis]))
    points, weights = (np.concatenate(x) for x in zip(*parts, strict=True))
    return points @ edges.T, weights


@dataclass(frozen=True)
class Voxels:
    """Points (p, 3), 1/Å, and weights (p,) in voxels (n,), which begin at ``starts``."""

    points: Floats
    weights: Floats
    starts: NDArray[np.int64]

    @classmethod
    def at(cls, q: Floats, edges: Floats) -> "Voxels":
        """Return the points for voxels at q (n, 3), see `points_of_voxel`."""
        parts = [points_of_voxel(place, edges) for place in q]
        sizes = [0, *(len(weights) for _, weights in parts)]
        points = np.concatenate([np.zeros((0, 3)), *(points for points, _ in parts)])
        weights = np.concatenate([np.zeros(0), *(weights for _, weights in parts)])
        return cls(points, weights, np.cumsum(sizes)[: len(q)])


@dataclass(frozen=True)
class Family:
    """Models of one Laue group.

    Attributes
    ----------
    elastic : (m + 1, 3, 3, 3, 3) array
        Basis of the elastic constants; the first is always taken.
    stars : list of (n, 3) arrays
        Sets of equivalent lattice vectors R, Å.
    unit : float
        Size of q, 1/Å. A is in the units of S there.
    edges : (3, 3) array
        Edges of a voxel as columns, 1/Å.
    points : (p, 3) array
        Points in a voxel, in edges, whose mean is taken for the mean over the voxel.
    dips : bool
        True if other scattering has minima at the reflections: b is in units of its mean over all
        q, not of b at the reflections.
    """

    elastic: Floats
    stars: list[Floats]
    unit: float
    edges: Floats
    points: Floats
    dips: bool

    @classmethod
    def of(
        cls,
        rotations: Floats,
        b: Floats,
        longest: float,
        unit: float,
        edges: Floats,
        dips: bool = False,
    ) -> "Family":
        """Return the models of a group of rotations (n, 3, 3).

        Parameters
        ----------
        b : (3, 3) array
            Reciprocal axes as columns, 1/Å with 2π.
        longest : float
            Length of the longest R, Å.
        unit : float
            1/Å.
        edges : (3, 3) array
            1/Å.
        dips : bool
        """
        coarse = unit < _COARSE * np.linalg.norm(edges, axis=0).max()
        points = _EIGHT if coarse else _FOUR
        stars = _stars(rotations, b, longest)
        return cls(_elastic(rotations), stars, unit, edges, points, dips)

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of elastic constants and of coefficients of b."""
        return len(self.elastic) - 1, len(self.stars)

    def bounds(self, kind: Kind | None) -> tuple[Floats, Floats]:
        """Return the least and the largest parameters of a kind."""
        elastic, smooth = self.sizes
        ends = np.log(_BOUNDS).T
        rest = np.r_[np.full(elastic, 3.0), np.full(smooth, 60.0)]
        lower, upper = np.r_[ends[0], -rest], np.r_[ends[1], rest]
        if kind is not None and kind.power > 1:
            # Only 1/q² can be integrated: other maxima must end within the hole.
            lower[0] = np.log(0.5 * self.unit)
        if kind is not None and kind.elastic:
            lower[0], upper[0] = _NO_KAPPA - 0.1, _NO_KAPPA + 0.1
        return lower, upper

    @property
    def scales(self) -> Floats:
        """Typical changes of the parameters."""
        return np.repeat([0.5, 0.3, 1.0], [2, *self.sizes])

    def start(self, kappa: float, end: float, elastic: bool) -> Floats:
        """Return parameters: ln κ, ln c, elastic constants, coefficients of b.

        Not `elastic`: constants for which Γ = q²/3, so that displacements along all directions are
        alike.
        """
        one = np.eye(3)
        pairs = (("ik,jl->ijkl", 1), ("il,jk->ijkl", 1), ("ij,kl->ijkl", -1))
        alike = sum(sign * np.einsum(pair, one, one) for pair, sign in pairs) / 3
        constants = np.einsum("nijkl,ijkl->n", self.elastic[1:], alike) * (not elastic)
        return np.r_[np.log([kappa, end]), constants, np.zeros(self.sizes[1])]

    def widths(self, kind: Kind | None) -> Floats:
        """Return standard deviations of what is expected of the parameters."""
        widths = np.repeat(_WIDTHS, [1, 1, *self.sizes])
        if self.dips:
            widths[-self.sizes[1] :] = _WIDTH_OF_MEAN
        if kind is not None and kind.elastic:
            widths[0] = _FIXED
        return widths

    def unusual(self, values: Floats, kind: Kind | None) -> Floats:
        """Return how far parameters are from what is expected, in standard deviations."""
        elastic = kind is not None and kind.elastic
        usual = self.start(*_USUAL, elastic)
        if elastic:
            usual[0] = _NO_KAPPA
        return (values - usual) / self.widths(kind)

    @cached_property
    def _christoffel(self) -> Floats:
        """Return what gives the six Γ_ij (m + 1, 6, 6) of each elastic constant from q_k q_l."""
        both = np.stack([self.elastic[:, i, :, j] for i, j in _PAIRS], axis=1)
        both = (both + both.swapaxes(2, 3)) / 2
        return np.stack([both[:, :, i, j] * (1 + (i != j)) for i, j in _PAIRS], axis=2)

    def maximum(self, values: Floats, kind: Kind, q: Floats) -> Floats:
        """Return M (n, 6) at q (n, 3), 1/Å: coefficients of Q_i Q_j, in the order of `products`.

        It is the mean over a voxel around q, if M is a polynomial there: not next to a reflection.
        """
        return self._mean(self._at(values, kind, self._points(q)))

    def integrated(self, values: Floats, kind: Kind, voxels: Voxels) -> Floats:
        """Return M (n, 6) as `maximum`, next to a reflection and at it, too."""
        if not len(voxels.starts):
            return np.zeros((0, 6))
        weighted = voxels.weights[:, None] * self._at(values, kind, voxels.points)
        total: Floats = np.add.reduceat(weighted, voxels.starts, axis=0)
        return total

    def _points(self, q: Floats) -> Floats:
        return (q[:, None] + self.points @ self.edges.T).reshape(-1, 3)

    def _mean(self, x: Floats) -> Floats:
        """Return the means (n, 6) over the points of voxels."""
        return np.mean(x.reshape(-1, len(self.points), 6), axis=1)

    def _at(self, values: Floats, kind: Kind, q: Floats) -> Floats:
        """Return M (n, 6) in points (n, 3)."""
        _, axes, inner, _ = self._eigen(values, kind, q)
        return _turned(axes, inner)

    def slopes(self, values: Floats, kind: Kind, q: Floats) -> tuple[Floats, Floats]:
        """Return `maximum`, and its derivatives with ln κ, ln c and the elastic constants.

        The derivatives are (n, 6, m + 2).
        The derivative of a function of a matrix has divided differences in the basis of its
        eigenvectors (Daleckii and Krein, 1951).
        """
        number = len(q)
        q = self._points(q)
        raw, axes, inner, slope = self._eigen(values, kind, q)
        kappa, end = np.exp(values[:2])
        apart = raw[:, :, None] - raw[:, None]
        same = np.abs(apart) <= 1e-7 * np.abs(raw).max(axis=1)[:, None, None]
        divided = np.where(
            same,
            (slope[:, :, None] + slope[:, None]) / 2,
            (inner[:, :, None] - inner[:, None]) / np.where(same, 1.0, apart),
        )
        squares = np.sum(q**2, axis=1)[:, None]
        by_gamma = np.zeros((number, 6, 6, 6))
        kernels.responses(axes, divided, products(q), len(self.points), by_gamma)
        by_gamma /= len(self.points)
        slopes = np.empty((number, 6, len(self.elastic) + 1))
        flat = self._christoffel[1:].reshape(-1, 36).T
        slopes[..., 2:] = (by_gamma.reshape(-1, 36) @ flat).reshape(number, 6, -1)
        by_kappa = -kind.power * inner / (np.maximum(raw, _SOFTEST * squares) + kappa**2)
        by_kappa = 2 * kappa**2 * (by_kappa + kind.power * inner / (kappa**2 + self.unit**2))
        slopes[..., 0] = self._mean(_turned(axes, by_kappa))
        slopes[..., 1] = self._mean(_turned(axes, inner * squares / end**2 * kind.cut))
        return self._mean(_turned(axes, inner)), slopes

    def _eigen(
        self, values: Floats, kind: Kind, q: Floats
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Return eigenvalues and eigenvectors of Γ, eigenvalues of M, and their slopes with Γ."""
        gamma = products(q) @ np.tensordot(self._of_elastic(values), self._christoffel, 1).T
        raw, axes = np.linalg.eigh(gamma[:, _ELEMENTS])
        squares = np.sum(q**2, axis=1)[:, None]
        kappa, end = np.exp(values[:2])
        total = np.maximum(raw, _SOFTEST * squares) + kappa**2
        # In units of the tails, so that powers of small and large numbers stay finite.
        inner = (total / (kappa**2 + self.unit**2)) ** -kind.power
        if kind.cut:
            inner = inner * np.exp(-0.5 * squares / end**2)
        slope = np.where(raw > _SOFTEST * squares, -kind.power * inner / total, 0.0)
        return raw, axes, inner, slope

    def _of_elastic(self, values: Floats) -> Floats:
        """Return the coefficients (m + 1,) of the elastic constants."""
        return np.append(1.0, values[2 : 2 + self.sizes[0]])

    def waves(self, q: Floats) -> Floats:
        """Return what b_R multiplies (n, m), with cos(R·q) as mean over equivalent R.

        Parameters
        ----------
        q : (n, 3) array
            1/Å.
        """
        cosines = np.stack([np.cos(q @ star.T).mean(axis=1) for star in self.stars], axis=1)
        return cosines if self.dips else cosines - 1

    def of_waves(self, values: Floats) -> Floats:
        """Return b_R (m,)."""
        return values[2 + self.sizes[0] :]


def _stars(rotations: Floats, b: Floats, longest: float) -> list[Floats]:
    direct = 2 * np.pi * np.linalg.inv(b).T
    limits = [
        range(-n, n + 1) for n in (np.ceil(longest * np.linalg.norm(b, axis=0) / 6).astype(int) + 1)
    ]
    vectors = np.array(list(product(*limits))) @ direct.T
    vectors = vectors[np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")][1:]
    stars: list[Floats] = []
    seen: set[tuple[float, ...]] = set()
    for vector in vectors:
        if len(stars) == _MOST or (len(stars) >= _FEWEST and np.linalg.norm(vector) > longest):
            break
        if tuple(np.round(vector, 3) + 0.0) in seen:
            continue
        stars.append(rotations @ vector)
        seen |= {tuple(v) for v in np.round(np.concatenate([stars[-1], -stars[-1]]), 3) + 0.0}
    return stars


def _elastic(rotations: Floats) -> Floats:
    """Return the elastic constants that all rotations leave alone.

    The first is isotropic with C_11 = 1 and C_12 = C_44 = 1/3; the others are orthogonal to it and
    to each other, with norm 1.
    """
    number = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])  # Voigt
    made = []
    for i in range(6):
        for j in range(i, 6):
            voigt = np.zeros((6, 6))
            voigt[i, j] = voigt[j, i] = 1
            c = voigt[number[:, :, None, None], number[None, None]]
            rotated = [np.einsum("ijkl,ai,bj,ck,dl->abcd", c, r, r, r, r) for r in rotations]
            made.append(np.mean(rotated, axis=0).ravel())
    one = np.eye(3)
    pairs = ("ij,kl->ijkl", "ik,jl->ijkl", "il,jk->ijkl")
    first = np.sum([np.einsum(pair, one, one) for pair in pairs], axis=0).ravel() / 3
    space = np.array(made)
    space -= np.outer(space @ first, first) / (first @ first)
    _, sizes, rows = np.linalg.svd(space, full_matrices=False)
    others = rows[sizes > 1e-6]
    return np.concatenate([first[None], others]).reshape(-1, 3, 3, 3, 3)
