r"""Mixture of trajectories: voxels that change alike, whatever the size of their change.

An item (a voxel, or the mean of neighbours) follows ``y = X β + A f_k + noise``. X β is heat, f_k
the course of its cluster, and the amplitude A ≥ 0 is its own, as is β. In coordinates φ of the
courses that are orthogonal to X, f = N φ, and after division by the errors,

    u = L'φ_i = A L'φ_k + noise of width 1,      L L' = P_i = N' M_i N,
    M_i = W - W X (X'W X)⁻¹ X'W,                 W = 1/σ²

Members of a cluster differ a little in their course, by a fraction τ_k of the size of their change:
the variance of u is ``1 + τ² |A L'φ_k|² / d``. Without τ, strong features would be divided again
and again. The number of clusters follows from the evidence (BIC) and stability: mixtures that are
fitted to two halves of the items must divide all items alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROUNDS = 100
_STARTS = 8
_SETTLED = 0.05  # change of the log likelihood below which a fit has converged
_DIFFERENT = 0.05  # least 1 - cos² of two courses: T_c that differ by 3 % of the range of T
_SPREAD = (0.02, 0.5)  # limits of τ; below the first, courses of strong items are the same


@dataclass(frozen=True)
class Items:
    """Trajectories beyond heat; n items, d dimensions.

    Attributes
    ----------
    basis : (T, d) array
        Orthonormal courses N that are orthogonal to heat.
    phi : (n, d) array
        Course of each item in this basis.
    precision : (n, d, d) array
        Inverse covariance of phi.
    pull : (n, d) array
        precision @ phi.
    """

    basis: Floats
    phi: Floats
    precision: Floats
    pull: Floats

    @cached_property
    def whole(self) -> Floats:
        """Squares of the change of each item over its noise, (n,)."""
        return np.asarray(np.sum(self.phi * self.pull, axis=1))

    def select(self, chosen: NDArray[np.bool_] | Integers) -> "Items":
        """Return some of the items."""
        parts = (x[chosen] for x in (self.phi, self.precision, self.pull))
        return Items(self.basis, *parts)

    def __len__(self) -> int:
        return len(self.phi)


def beyond(courses: Floats) -> Floats:
    """Return orthonormal courses (T, d) that are orthogonal to the courses of heat (T, p)."""
    whole = np.linalg.qr(courses, mode="complete")[0]
    return np.asarray(whole[:, courses.shape[1] :], dtype=np.float64)


def items(y: Floats, variance: Floats, courses: Floats) -> Items:
    """Return trajectories beyond heat from values and variances (n, T), all finite."""
    basis = beyond(courses)
    w = 1 / variance
    normal = np.einsum("nt,tp,tq->npq", w, courses, courses)
    mixed = np.einsum("nt,tp,td->npd", w, courses, basis)
    solved = np.linalg.solve(normal, mixed)
    precision = np.einsum("nt,td,te->nde", w, basis, basis) - np.einsum(
        "npd,npe->nde", mixed, solved
    )
    top = np.einsum("nt,tp->np", w * y, courses)
    right = (w * y) @ basis - np.einsum("npd,np->nd", solved, top)
    phi = np.linalg.solve(precision, right[..., None])[..., 0]
    return Items(basis, phi, precision, right)


@dataclass(frozen=True)
class Mixture:
    """Clusters of trajectories.

    Attributes
    ----------
    phi : (K, d) array
        Courses, of length 1.
    spread : (K,) array
        τ: relative difference of members.
    weight : (K,) array
    covariance : (K, d, d) array
        Covariance of phi.
    log_likelihood, bic : float
    stability : float
        Adjusted Rand index of the divisions by two halves of the items; 1 for one cluster.
    """

    phi: Floats
    spread: Floats
    weight: Floats
    covariance: Floats
    log_likelihood: float
    bic: float
    stability: float = 1.0

    def merged(self) -> "Mixture":
        """Return the mixture with one cluster for courses that hardly differ.

        Strong features show differences of T_c by a few K, which form no clusters.
        """
        square = (self.phi @ self.phi.T) * np.abs(self.phi @ self.phi.T)
        np.fill_diagonal(square, -1.0)
        i, j = sorted(np.unravel_index(int(np.argmax(square)), square.shape))
        if len(self.phi) == 1 or 1 - square[i, j] >= _DIFFERENT:
            return self
        share = self.weight[[i, j]] / self.weight[[i, j]].sum()
        phi, spread, weight, covariance = (
            np.delete(x, j, axis=0) for x in (self.phi, self.spread, self.weight, self.covariance)
        )
        phi[i] = share @ self.phi[[i, j]] / np.linalg.norm(share @ self.phi[[i, j]])
        spread[i] = np.sqrt(share @ self.spread[[i, j]] ** 2 + 1 - square[i, j])
        weight[i] = self.weight[[i, j]].sum()
        covariance[i] = np.einsum("i,ide->de", share**2, self.covariance[[i, j]])
        fewer = replace(self, phi=phi, spread=spread, weight=weight, covariance=covariance)
        return fewer.merged()


def _densities(data: Items, mixture: Mixture) -> tuple[Floats, Floats, Floats]:
    """Return log density (n, K), signal a (n, K) and length of L'φ_k (n, K)."""
    d = data.phi.shape[1]
    k = len(mixture.phi)
    squares = np.einsum("kd,ke->kde", mixture.phi, mixture.phi).reshape(k, d * d)
    length = np.sqrt(data.precision.reshape(-1, d * d) @ squares.T)
    signal = np.maximum(data.pull @ mixture.phi.T / length, 0.0)
    rest = data.whole[:, None] - signal**2
    wide = 1 + mixture.spread**2 * signal**2 / d
    density = -0.5 * rest / wide - 0.5 * (d - 1) * np.log(wide)
    return density + np.log(mixture.weight), signal, length


def _step(data: Items, mixture: Mixture) -> Mixture:
    """Return the mixture after one round of expectation and maximisation."""
    n, d = data.phi.shape
    density, signal, length = _densities(data, mixture)
    highest = density.max(axis=1, keepdims=True)
    total = highest[:, 0] + np.log(np.exp(density - highest).sum(axis=1))
    part = np.exp(density - total[:, None])
    wide = 1 + mixture.spread**2 * signal**2 / d
    amplitude = signal / length
    weights = part * amplitude / wide
    matrix = ((weights * amplitude).T @ data.precision.reshape(n, d * d)).reshape(-1, d, d)
    pull = weights.T @ data.pull
    matrix += 1e-9 * np.trace(matrix, axis1=1, axis2=2)[:, None, None] * np.eye(d) + 1e-12 * np.eye(
        d
    )
    phi = np.linalg.solve(matrix, pull[..., None])[..., 0]
    size = np.linalg.norm(phi, axis=1, keepdims=True)
    phi = np.where(size > 0, phi / np.maximum(size, 1e-300), mixture.phi)
    rest = data.whole[:, None] - signal**2
    top = np.sum(part * (rest - (d - 1)), axis=0)
    bottom = np.sum(part * signal**2, axis=0) * (d - 1) / d
    spread = np.sqrt(np.clip(top / np.maximum(bottom, 1e-12), _SPREAD[0] ** 2, _SPREAD[1] ** 2))
    weight = np.maximum(part.sum(axis=0), 1e-6 * n) / n
    k = len(phi)
    likelihood = float(total.sum())
    bic = -2 * likelihood + (k * d + k - 1) * np.log(n)
    return Mixture(phi, spread, weight / weight.sum(), np.linalg.inv(matrix), likelihood, bic)


def _start(data: Items, k: int, random: np.random.Generator) -> Mixture:
    """Return courses of k items that are far from each other, as the start of a fit."""
    mean = np.linalg.cholesky(data.precision.mean(axis=0))
    u = data.phi @ mean
    size = np.linalg.norm(u, axis=1)
    unit = u / np.maximum(size, 1e-300)[:, None]
    chance = size**2 / np.sum(size**2)
    chosen = [int(random.choice(len(u), p=chance))]
    while len(chosen) < k:
        far = np.clip(1 - np.max(unit @ unit[chosen].T, axis=1), 1e-9, None) * chance
        chosen.append(int(random.choice(len(u), p=far / far.sum())))
    return _from(data.phi[chosen])


def _grown(data: Items, mixture: Mixture, random: np.random.Generator) -> Mixture:
    """Return a mixture with one more course: that of an item that the clusters describe badly."""
    rest = data.whole - np.max(_densities(data, mixture)[1], axis=1) ** 2
    rest = np.maximum(rest - data.phi.shape[1] + 1, 0.0) + 1e-9
    new = data.phi[random.choice(len(data), p=rest / rest.sum())]
    return _from(np.concatenate([mixture.phi, new[None]]))


def _from(phi: Floats) -> Mixture:
    """Return the start of a fit from courses (K, d)."""
    k, d = phi.shape
    phi = phi / np.linalg.norm(phi, axis=1, keepdims=True)
    return Mixture(phi, np.full(k, 0.1), np.full(k, 1 / k), np.zeros((k, d, d)), -np.inf, np.inf)


def fit(data: Items, most: int, seed: int) -> Iterator[Mixture]:
    """Yield mixtures of one, two, ... clusters: the best of several starts.

    Most starts are the mixture with one cluster less and the course of one item: far from it, a
    course that few items have is found although most items are of others.
    """
    random = np.random.default_rng(seed)
    best: Mixture | None = None
    for k in range(1, most + 1):
        starts = [_start(data, k, random)]
        if best is not None:
            starts += [_grown(data, best, random) for _ in range(_STARTS)]
        best = max((_climb(data, x) for x in starts), key=lambda mixture: mixture.log_likelihood)
        yield best


def _climb(data: Items, mixture: Mixture) -> Mixture:
    """Return the mixture after rounds of expectation and maximisation, until it has converged."""
    for _ in range(_ROUNDS):
        before, mixture = mixture.log_likelihood, _step(data, mixture)
        if abs(mixture.log_likelihood - before) < _SETTLED:
            break
    return mixture


def divide(data: Items, mixture: Mixture) -> Integers:
    """Return the number of the most probable cluster of each item."""
    return np.argmax(_densities(data, mixture)[0], axis=1)


def agreement(a: Integers, b: Integers) -> float:
    """Return the adjusted Rand index of two divisions of the same items."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a, b), 1)

    def pairs(x: Floats) -> float:
        return float(np.sum(x * (x - 1)) / 2)

    both, in_a, in_b = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    n = len(a)
    expected = in_a * in_b / max(n * (n - 1) / 2, 1)
    largest = (in_a + in_b) / 2
    return 1.0 if largest == expected else (both - expected) / (largest - expected)


def cluster(data: Items, most: int, seed: int = 0) -> list[Mixture]:
    """Return the tried mixtures with their stability, one, two, ... clusters; `choose` one."""
    tried: list[Mixture] = []
    half = np.random.default_rng(seed).permutation(len(data)) % 2 == 0
    most = min(most, max(1, len(data) // 3))
    if most == 1:
        return list(fit(data, most, seed))
    halves = (fit(data.select(h), most, seed + 1) for h in (half, ~half))
    for whole, *parts in zip(fit(data, most, seed), *halves, strict=True):
        stability = agreement(*(divide(data, part) for part in parts)) if tried else 1.0
        tried.append(replace(whole, stability=stability))
        if len(tried) > 2 and tried[-1].bic > tried[-2].bic > tried[-3].bic:
            break
    return tried


def choose(tried: list[Mixture], least_stability: float) -> Mixture:
    """Return the stable mixture with the best evidence, courses that hardly differ merged.

    A limit of the evidence itself would reject courses that few items have.
    """
    return min((m for m in tried if m.stability >= least_stability), key=lambda m: m.bic).merged()
