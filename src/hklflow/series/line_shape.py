r"""Lattice-periodic line shapes of short-range order, averaged over resolution and voxels.

Two models have correlation lengths ξ = 1/κ along the axes i of the reciprocal lattice, with the
distance Δ in hkl from the centre of the feature:

* "lattice": Ornstein and Zernike on a lattice,
  :math:`f = 1 / (1 + \sum_n J_n \sin^2(π\,n·Δ) / π^2)`. The vectors *n* of the direct lattice and
  the numbers :math:`J_n ≥ 0` are those of Selling's reduction (J. reine angew. Math. 77, 143) of
  the form :math:`Δ^T K Δ = \sum_n J_n (n·Δ)^2`, which is :math:`|\sum_i a^*_i Δ_i / κ_i|^2`. For an
  orthogonal lattice :math:`f = 1 / (1 + \sum_i 4 \sin^2(πΔ_i) / (2πκ_i)^2)` with κ in r.l.u.
* "chains": the product of Markov chains,
  :math:`f = \prod_i \sinh x_i / (\cosh x_i - \cos 2πΔ_i)` with x = d κ and the spacing
  d = 2π/a*: correlations decrease as exp(-n x).

Their half widths agree for small κ. Fourier coefficients of f are multiplied by those of the
resolution (a Gaussian) and of the voxel (a box). Those of the lattice model follow from
:math:`1/y = \int e^{-ty} dt`: for each *t* the function is a product of short series of one or two
axes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fftn, rfft

Floats = NDArray[np.float64]

_STEP = 0.7  # of ln t; the error of the sum is about exp(-π²/step)
_LAST = 30.0  # largest t
_FIRST = 0.01  # exponent at the largest distance, below which a function is constant
_PRECISION = 1e-5  # smallest Fourier coefficient of the resolution that is used
_SHARP = {1: 600.0, 2: 600.0, 3: 40.0}  # exponents above which a function is a Gaussian
_MOST = {1: 400, 2: 150, 3: 30}  # largest order of the Fourier series, by the number of axes
_FLAT = 1e-12


@dataclass(frozen=True)
class Smearing:
    """Resolution and size of a voxel, in hkl.

    Attributes
    ----------
    covariance : (3, 3) array
        Covariance of the Gaussian resolution, r.l.u.².
    step : (3,) array
        Edges of a voxel, r.l.u.
    """

    covariance: Floats
    step: Floats

    @property
    def total(self) -> Floats:
        """Covariance (3, 3) of resolution and voxel, r.l.u.²."""
        return np.asarray(self.covariance + np.diag(self.step**2 / 12))


def selling(form: Floats) -> tuple[Floats, Floats]:
    """Return vectors (n, d) and weights (n,) ≥ 0 with ``form = Σ J n nᵀ``, n of integers.

    Parameters
    ----------
    form : (d, d) array
        Positive semidefinite quadratic form, d up to 3.
    """
    d = len(form)
    if d == 1:
        return np.ones((1, 1)), form[0]
    base = np.vstack([np.eye(d), -np.ones(d)])
    tiny = _FLAT * float(np.trace(form))
    for _ in range(200):
        gram = base @ form @ base.T
        i, j = divmod(int(np.argmax(np.where(np.eye(d + 1) > 0, -np.inf, gram))), d + 1)
        if gram[i, j] <= tiny:
            break
        # Selling's step: the products of different vectors become smaller in total.
        others = [m for m in range(d + 1) if m not in (i, j)]
        moved = base[i] if d == 3 else 2 * base[i]
        base = np.array([-base[i], base[j], *(base[m] + moved for m in others)])
    gram = base @ form @ base.T
    dual = np.vstack([np.linalg.inv(base[:d]).T, np.zeros(d)])
    pairs = [(i, j) for i in range(d + 1) for j in range(i)]
    vectors = np.rint([dual[i] - dual[j] for i, j in pairs])
    weights = np.array([max(-gram[i, j], 0.0) for i, j in pairs])
    kept = weights > tiny
    return vectors[kept], weights[kept]


def blocks(*forms: Floats) -> list[list[int]]:
    """Return the groups of axes between which none of the symmetric matrices has elements."""
    linked = np.eye(3, dtype=np.bool_)
    for form in forms:
        size = np.sqrt(np.outer(np.diag(form), np.diag(form)))
        linked |= np.abs(form) > 1e-6 * size
    for _ in range(2):
        linked = (linked.astype(int) @ linked.astype(int)) > 0
    groups = sorted({tuple(np.flatnonzero(row).tolist()) for row in linked})
    return [list(group) for group in groups]


@dataclass(frozen=True)
class LineShape:
    """A smeared line shape, as a sum over *t* of products of Fourier series of blocks of axes.

    Attributes
    ----------
    weight : (t,) array
        Weights of the products.
    parts : sequence of (axes, series, coefficients)
        Axes of each block, 0 to 2; its series; its coefficients (t, *n). The line shape does not
        depend on axes that are in no block.
    """

    weight: Floats
    parts: tuple[tuple[list[int], "_Series", Floats], ...]

    def on(self, axes: list[Floats]) -> Floats:
        """Return f / <f> (h, k, l) on a grid of distances in hkl from the centre.

        <f> is the mean over the cell of the reciprocal lattice.
        """
        found = self.weight[:, None]
        order: list[int] = []
        for group, series, coefficients in self.parts:
            values = series.values(coefficients, [axes[i] for i in group])
            values = values.reshape(len(values), -1)
            if len(order) + len(group) < sum(len(x) for x, _, _ in self.parts):
                found = (found[:, :, None] * values[:, None, :]).reshape(len(values), -1)
            else:
                found = found.T @ values
            order += group
        if not order:
            return np.ones([len(axis) for axis in axes])
        found = found.reshape([len(axes[i]) for i in order])
        found = found.transpose(np.argsort(order))
        for i in sorted({0, 1, 2} - set(order)):
            found = np.expand_dims(found, i)
        return np.asarray(np.broadcast_to(found, [len(axis) for axis in axes]))


def lattice(form: Floats, smearing: Smearing) -> LineShape:
    """Return the lattice model, averaged over resolution and voxels.

    Parameters
    ----------
    form : (3, 3) array
        K: positive semidefinite; 0 along a direction in which the feature is flat.
    smearing : Smearing
    """
    groups = blocks(form, smearing.covariance)
    reduced = [selling(form[np.ix_(group, group)]) for group in groups]
    # Exponent t Σ g (1 - cos 2π n·Δ).
    largest = sum(2 * float(weights.sum()) for _, weights in reduced) / (2 * np.pi**2)
    first = np.log(_FIRST / (1 + largest))
    t = np.exp(np.arange(first, np.log(_LAST) + _STEP, _STEP))
    weight = _STEP * t * np.exp(-t)
    weight[0] = t[0] * _STEP / (1 - np.exp(-_STEP))  # all smaller t, whose functions are constant
    mean, parts = weight, []
    for group, (vectors, weights) in zip(groups, reduced, strict=True):
        if len(vectors):
            series = _Series.of(smearing, group)
            coefficients = series.exponentials(vectors, weights / (2 * np.pi**2), t)
            mean = mean * coefficients[series.centre]
            parts.append((group, series, coefficients))
    return LineShape(weight / mean.sum(), tuple(parts))


def chains(x: Floats, smearing: Smearing) -> LineShape:
    """Return the model of chains, averaged over resolution and voxels.

    Parameters
    ----------
    x : (3,) array
        d κ along h, k, l; infinite along an axis on which the feature does not depend.
    """
    parts = []
    for group in blocks(smearing.covariance):
        if used := [i for i in group if np.isfinite(x[i])]:
            series = _Series.of(smearing, used)
            parts.append((used, series, np.exp(-np.abs(series.orders) @ x[used])[None]))
    return LineShape(np.ones(1), tuple(parts))


@dataclass(frozen=True)
class _Series:
    """Fourier series of some axes, as long as the resolution needs it.

    Attributes
    ----------
    orders : (*n, d) array
        Orders m of the terms.
    smear : (*n) array
        Coefficients of resolution and voxel.
    """

    orders: Floats
    smear: Floats

    @classmethod
    def of(cls, smearing: Smearing, group: list[int]) -> "_Series":
        """Return the series of a group of axes."""
        d = len(group)
        covariance = smearing.covariance[np.ix_(group, group)]
        reach = np.sqrt(-2 * np.log(_PRECISION)) / (2 * np.pi)
        most = np.sqrt(np.diag(np.linalg.inv(covariance))) * reach
        each = [np.arange(-n, n + 1.0) for n in np.minimum(np.ceil(most), _MOST[d]).astype(int)]
        m = np.stack(np.meshgrid(*each, indexing="ij"), axis=-1)
        smear = np.exp(-2 * np.pi**2 * np.einsum("...i,ij,...j->...", m, covariance, m))
        return cls(m, smear * np.prod(np.sinc(m * smearing.step[group]), axis=-1))

    @property
    def centre(self) -> tuple[slice | int, ...]:
        """Index of the means of the functions in arrays (t, *n)."""
        return (slice(None), *(n // 2 for n in self.smear.shape))

    def values(self, coefficients: Floats, axes: list[Floats]) -> Floats:
        """Return the smeared functions (t, *axes) with coefficients (t, *n)."""
        found: NDArray[np.complex128] = (coefficients * self.smear).astype(np.complex128)
        for i, axis in enumerate(axes):
            n = self.smear.shape[i] // 2
            wave = np.exp(2j * np.pi * np.outer(np.arange(-n, n + 1), axis))
            found = np.tensordot(found, wave, axes=(1, 0))
        return np.ascontiguousarray(found.real)

    def exponentials(self, vectors: Floats, g: Floats, t: Floats) -> Floats:
        """Return the coefficients (t, *n) of ``exp(-t Σ g (1 - cos 2π n·Δ))``."""
        d = self.smear.ndim
        form = 4 * np.pi**2 * np.einsum("n,ni,nj->ij", g, vectors, vectors)
        sharp = t * g.max() > _SHARP[d]
        found = np.empty((len(t), *self.smear.shape))
        if sharp.any():
            # A Gaussian exp(-t Δᵀ form Δ / 2) in each cell; its inverse has no flat directions.
            inverse = np.linalg.inv(form + 1e-12 * np.trace(form) * np.eye(d))
            square = np.einsum("...i,ij,...j->...", self.orders, inverse, self.orders)
            at = t[sharp].reshape(-1, *[1] * d)
            norm = np.sqrt((2 * np.pi / at) ** d * np.linalg.det(inverse))
            found[sharp] = norm * np.exp(-2 * np.pi**2 * square / at)
        if not sharp.all():
            # Orders up to about 4 √(t g) are not negligible.
            need = max(4 * np.sqrt(_SHARP[d]) + max(self.smear.shape) // 2, max(self.smear.shape))
            n = 1 << int(np.ceil(np.log2(need)))
            places = np.stack(np.meshgrid(*[np.arange(n) / n] * d, indexing="ij"), axis=-1)
            exponent = (1 - np.cos(2 * np.pi * places @ vectors.T)) @ g
            orders = self.orders.astype(np.int64) % n
            chosen = tuple(orders[..., i] for i in range(d))
            if d == 1:
                found[~sharp] = (
                    rfft(np.exp(-np.outer(t[~sharp], exponent))).real[
                        :, np.abs(self.orders[:, 0]).astype(np.int64)
                    ]
                    / n
                )
            else:
                for i in np.flatnonzero(~sharp):
                    found[i] = fftn(np.exp(-t[i] * exponent)).real[chosen] / n**d
        return found
