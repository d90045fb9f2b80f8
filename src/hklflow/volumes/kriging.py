r"""Kriging of holes: the expected S in a hole and its error, from the measured voxels around it.

The model of S is a drift (constant, or linear in Q) plus a Gaussian process with the covariance
``s² c(d / ℓ)``, where d is a distance in 1/Å. The measurements have independent errors σ. This is
universal kriging (Cressie, Statistics for Spatial Data, 1993, c. 3.4): the result passes through
well-measured values and averages badly measured values. For each hole, the pair of ``s² / σ²`` and
ℓ with the largest restricted likelihood of the support is chosen from a list.

The matrices are computed once for each pattern (shape of a hole with its support). Let the columns
of C be an orthonormal basis of the space orthogonal to the drift, and ``Cᵀ K C = V Λ Vᵀ``. Then the
contrasts ``z = Vᵀ Cᵀ y`` of the measured y are independent, with variance ``σ² (1 + λ s²/σ²)``. The
likelihoods for all s² and the predictions are therefore simple sums.

Missing voxels r of the support get the values expected from the other voxels o:
``y_r = -P_rr⁻¹ P_ro y_o`` with the precision P of the contrasts. This is exact: predictions,
likelihood and variance (with ``A_r P_rr⁻¹ A_rᵀ``, A the weights) are the same as with a support
without r.

If the inversion through the middle of the hole maps hole and support onto themselves (a ball), the
even and the odd combinations of voxels are independent, and each is decomposed by itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes import parity
from hklflow.volumes.parity import Part

Floats = NDArray[np.float64]

#: Ratios of the variance of the process to the variance of the noise.
RATIOS = 4.0 ** np.arange(-6, 11)
#: Correlation lengths in units of the thickness of the hole. The thickness is the largest distance
#: of a voxel of the hole from the support (for a ball, its radius).
LENGTHS = (0.5, 1.0, 2.0, 4.0)

_COVARIANCES: dict[str, Callable[[Floats], Floats]] = {
    "gaussian": lambda d: np.exp(-0.5 * d**2),
    "matern": lambda d: (1 + np.sqrt(5) * d + 5 / 3 * d**2) * np.exp(-np.sqrt(5) * d),
}


class Filled(NamedTuple):
    """Values and errors (holes, n) of the voxels of holes; NaN if the support is too small."""

    values: Floats
    errors: Floats


class _Basis(NamedTuple):
    """Matrices for one correlation length: eigenvalues, contrasts (m, n_s), and predictors."""

    eigenvalues: Floats
    contrasts: Floats
    onto: Floats
    spread: Floats


class _Half(NamedTuple):
    """Even or odd combinations of hole and support, or all voxels of a pattern without inversion.

    ``across`` are distances from hole to support, ``among`` those within the support (to voxels and
    to their images), ``complement`` (m, n_s) is orthogonal to the drift, and ``drift`` (hole,
    support) has the weights of the support in the drift.
    """

    hole: Part
    support: Part
    across: list[Floats]
    among: list[Floats]
    complement: Floats
    drift: Floats


class Kriging:
    """Kriging of all holes of a pattern.

    Parameters
    ----------
    hole, support : (n, 3), (m, 3) arrays
        Positions in 1/Å, Cartesian.
    covariance : str
        "gaussian" or "matern" (ν = 5/2).
    drift : int
        Order of the drift. 0: constant, 1: linear.
    """

    def __init__(self, hole: Floats, support: Floats, covariance: str, drift: int) -> None:
        from scipy.spatial import cKDTree

        middle = hole.mean(axis=0)
        # Largest distance of a voxel of the hole from the support.
        thickness = float(np.max(cKDTree(support).query(hole)[0]))
        self._shape = _COVARIANCES[covariance]
        self._hole, self._support = (hole - middle) / thickness, (support - middle) / thickness
        at_hole, at_support = (
            np.column_stack([np.ones(len(x)), x][: 1 + drift]) for x in (self._hole, self._support)
        )
        halves = [
            self._half(own, around, at_hole, at_support)
            for own, around in parity.parts(self._hole, self._support)
        ]
        self._drift = np.zeros((len(hole), len(support)))
        for half in halves:
            by_hole = half.support.expanded(half.drift, len(support)).T
            self._drift += half.hole.expanded(by_hole, len(hole)).T
        self._bases = [self._basis(length, halves) for length in LENGTHS]
        # No `lru_cache` of a method: its cycle of references would keep the matrices, some 10 MB
        # for each shape, until the garbage collector runs, which counts objects and not bytes.
        self._known: dict[tuple[int, int], Floats] = {}

    def _half(self, hole: Part, support: Part, at_hole: Floats, at_support: Floats) -> _Half:
        """Return the distances and the drift of even or odd combinations."""
        across = parity.distances(self._hole, hole, self._support, support)
        among = parity.distances(self._support, support, self._support, support)
        at_hole, at_support = hole.combined(at_hole), support.combined(at_support)
        full, values, _ = np.linalg.svd(at_support, full_matrices=True)
        # If the support lies in a plane or on a line, the drift has fewer terms.
        rank = int(np.sum(values > 1e-9 * values[0]))
        drift = at_hole @ np.linalg.pinv(at_support, rcond=1e-9)
        return _Half(hole, support, across, among, full[:, rank:], drift)

    def _basis(self, length: float, halves: list[_Half]) -> _Basis:
        from scipy.linalg import eigh

        n_h, n_s = self._drift.shape
        eigenvalues, contrasts, onto, spread = [], [], [], np.ones(n_h)
        for half in halves:
            hole, support, c, drift = half.hole, half.support, half.complement, half.drift
            shapes = (
                [self._shape(x / length) for x in distances]
                for distances in (half.across, half.among)
            )
            across = parity.block(hole, support, *next(shapes))
            among = parity.block(support, support, *next(shapes))
            values, vectors = eigh(c.T @ among @ c)
            own, by_drift = c @ vectors, drift @ among
            eigenvalues.append(np.maximum(values, 0))
            contrasts.append(support.expanded(own.T, n_s))
            onto.append(hole.expanded(((across - by_drift) @ own).T, n_h).T)
            # Errors of even and of odd combinations are independent.
            variance = np.einsum("vs,vs->v", by_drift - 2 * across, drift)
            spread[hole.image] += variance * hole.images**2
            spread[hole.own] += variance * hole.weights**2
        return _Basis(
            np.concatenate(eigenvalues),
            np.concatenate(contrasts),
            np.concatenate(onto, axis=1),
            np.maximum(spread, 0),
        )

    def _weights(self, length: int, ratio: int) -> Floats:
        """Return the weights (hole, support) of the measured values."""
        if (length, ratio) not in self._known:
            b, s = self._bases[length], RATIOS[ratio]
            weights = self._drift + (b.onto * (s / (1 + s * b.eigenvalues))) @ b.contrasts
            self._known[length, ratio] = weights
        return self._known[length, ratio]

    def _precision(self, length: int, ratio: int) -> Floats:
        """Return the precision (support, support) of the contrasts, in units of 1/σ²."""
        b = self._bases[length]
        return (b.contrasts.T / (1 + RATIOS[ratio] * b.eigenvalues)) @ b.contrasts

    def _model(self, length: int, ratio: int) -> Floats:
        """Return the remaining variance (hole,) of the process, in units of σ², without noise."""
        b, s = self._bases[length], RATIOS[ratio]
        shrink = 1 / (1 + s * b.eigenvalues)
        # cov(e - Gz) of the process alone, with the weights for process plus noise.
        kept = s * b.onto**2 * (2 - s * b.eigenvalues * shrink) * shrink
        return np.maximum(s * b.spread - s * kept.sum(axis=1), 0.0)

    def fill(self, values: Floats, sigma: Floats, twins: NDArray[np.int64] | None = None) -> Filled:
        """Fill holes.

        Parameters
        ----------
        values, sigma : (holes, m) arrays
            S and σ of the support; NaN where not measured.
        twins : (holes, m) int array, optional
            Support voxels with the same number are the same measurement, repeated by symmetry, so
            their noise does not average out.
        """
        missing = ~np.isfinite(values)
        sigma = np.where(missing, np.nan, sigma)
        filled = Filled(*(np.full((len(values), len(self._hole)), np.nan) for _ in range(2)))
        n_s = values.shape[1]
        whole = ~missing.any(axis=1)
        if whole.any():
            best = self._likeliest(values[whole], _noise(sigma[whole]))
            for pair in sorted(set(best)):
                rows = np.flatnonzero(whole)[[b == pair for b in best]]
                filled.values[rows] = values[rows] @ self._weights(*pair).T
                repeated = None if twins is None else twins[rows]
                filled.errors[rows] = np.sqrt(self._variance(pair, sigma[rows], repeated))
        # At least 8 voxels, for the drift, and a quarter of the support must be known.
        some = np.flatnonzero(~whole & ((~missing).sum(axis=1) >= max(8, 0.25 * n_s)))
        for row, chosen in zip(
            some, self._likeliest_partly(values[some], sigma[some]), strict=True
        ):
            if chosen is not None:
                repeated = None if twins is None else twins[row]
                filled.values[row], filled.errors[row] = self._fill_partly(
                    chosen, values[row], sigma[row], repeated
                )
        return filled

    def _likeliest(self, y: Floats, noise: Floats) -> list[tuple[int, int]]:
        """Return the indices of length and ratio with the largest likelihood for each hole."""
        score = np.empty((len(y), len(LENGTHS), len(RATIOS)))
        for i, basis in enumerate(self._bases):
            z2 = (y @ basis.contrasts.T) ** 2 / noise[:, None]
            spread = 1 + np.outer(RATIOS, basis.eigenvalues)
            score[:, i] = -(z2 @ (1 / spread).T) - np.log(spread).sum(axis=1)
        best = score.reshape(len(y), -1).argmax(axis=1)
        return [(int(b) // len(RATIOS), int(b) % len(RATIOS)) for b in best]

    def _variance(
        self, pair: tuple[int, int], sigma: Floats, twins: NDArray[np.int64] | None
    ) -> Floats:
        """Return the variances (holes, n), from the σ (holes, m) of the support."""
        weights = self._weights(*pair)
        noise = sigma**2 @ (weights**2).T
        if twins is not None:
            alike = (np.diff(np.sort(twins, axis=1), axis=1) == 0).any(axis=1)
            for row in np.flatnonzero(alike):
                joined = _joined(weights * sigma[row], twins[row])
                noise[row] = np.einsum("vs,vs->v", joined, joined)
        variance: Floats = noise + self._model(*pair) * _noise(sigma)[:, None]
        return variance

    def _likeliest_partly(self, values: Floats, sigma: Floats) -> list[tuple[int, int] | None]:
        """Return the same as `_likeliest` for a partly missing support; None if undetermined."""
        from scipy.linalg import LinAlgError, cholesky, solve_triangular

        missing = ~np.isfinite(values)
        y = np.where(missing, 0.0, values)
        best = np.full(len(y), -np.inf)
        chosen: list[tuple[int, int] | None] = [None] * len(y)
        if not len(y):
            return chosen
        noise = _noise(sigma)
        # One precision of the whole support, or one of what is missing for each hole.
        shared = np.sum(missing.sum(axis=1).astype(float) ** 2) > values.shape[1] ** 2
        for i, basis in enumerate(self._bases):
            z = y @ basis.contrasts.T
            parts = [] if shared else [basis.contrasts[:, r] for r in missing]
            for j in range(0, len(RATIOS), 3):
                shrink = 1 / (1 + RATIOS[j] * basis.eigenvalues)
                squares, across = z**2 @ shrink, (z * shrink) @ basis.contrasts
                p = self._precision(i, j) if shared else None
                size = -np.log(shrink).sum()
                for row, r in enumerate(missing):
                    own = np.ix_(r, r)
                    among = (parts[row].T * shrink) @ parts[row] if p is None else p[own]
                    try:
                        factor = cholesky(among, lower=True, check_finite=False)
                    except LinAlgError:
                        continue
                    onto = solve_triangular(factor, across[row, r], lower=True, check_finite=False)
                    fit = (squares[row] - onto @ onto) / noise[row]
                    score = -fit - size - 2 * np.log(np.diag(factor)).sum()
                    if score > best[row]:
                        best[row], chosen[row] = score, (i, j)
        return chosen

    def _fill_partly(
        self,
        pair: tuple[int, int],
        values: Floats,
        sigma: Floats,
        twins: NDArray[np.int64] | None,
    ) -> tuple[Floats, Floats]:
        from scipy.linalg import cho_factor, cho_solve

        missing = ~np.isfinite(values)
        r, o = np.flatnonzero(missing), np.flatnonzero(~missing)
        b, s, weights = self._bases[pair[0]], RATIOS[pair[1]], self._weights(*pair)
        # Rows of the precision.
        p = (b.contrasts[:, r].T / (1 + s * b.eigenvalues)) @ b.contrasts
        factor = cho_factor(p[:, r], lower=True)
        by_missing = cho_solve(factor, weights[:, r].T).T
        by_measured = weights[:, o] - by_missing @ p[:, o]
        # Total variance, minus the variance of assumed noise, plus the variance of measured noise.
        total = s * b.spread + np.einsum("vs,vs->v", self._drift, self._drift)
        total -= (s**2 * b.onto**2 / (1 + s * b.eigenvalues)).sum(axis=1)
        total += np.einsum("vr,vr->v", weights[:, r], by_missing)
        model = np.maximum(total - np.einsum("vs,vs->v", by_measured, by_measured), 0.0)
        scaled = by_measured * sigma[o]
        if twins is not None:
            scaled = _joined(scaled, twins[o])
        noise = float(_noise(sigma[None, o])[0])
        return by_measured @ values[o], np.sqrt(
            model * noise + np.einsum("vs,vs->v", scaled, scaled)
        )


def _noise(sigma: Floats) -> Floats:
    """Return the mean variance (holes,) of the support."""
    # The result is never 0, because values are divided by it. With monitors of 1e18, variances are
    # near 1e-36.
    return np.maximum(np.nanmean(sigma**2, axis=1), 1e-200)


def _joined(columns: Floats, twins: NDArray[np.int64]) -> Floats:
    """Sum the columns with the same number."""
    order = np.argsort(twins, kind="stable")
    _, first = np.unique(twins[order], return_index=True)
    summed: Floats = np.add.reduceat(columns[:, order], first, axis=1)
    return summed
