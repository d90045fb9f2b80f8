"""Fit of the models of `tail_models` to S(Q) around reflections.

A_G, B_G and C_G of each reflection are linear and solved for, so that only the parameters that all
reflections share are searched (variable projection: Golub & Pereyra, SIAM J. Numer. Anal. 10, 413,
1973; with the derivatives of Kaufman, BIT 15, 49, 1975). There are a thousand times more residuals
than parameters: instead of both, the search gets a small matrix with the same products.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes.tail_data import Data
from hklflow.volumes.tail_models import Family, Kind

Floats = NDArray[np.float64]

# κ, c in 1/Å, and whether Γ is elastic.
_STARTS = ((0.05, 0.3, True), (0.15, 2.0, False), (0.4, 0.3, False))


@dataclass(frozen=True)
class Fit:
    """A model (None: no maximum), its parameters, their covariance, and χ².

    `cost` is χ² with what the parameters cost: ln det of their precision in expected widths.
    """

    kind: Kind | None
    values: Floats
    covariance: Floats
    chi2: float
    cost: float


class Problem:
    """Reflections that are fitted together.

    Parameters
    ----------
    family : Family
    data : list of Data
    centres : int
        Number of all sets of equivalent reflections.

    Attributes
    ----------
    number : float
        Number of different voxels.
    reflections : int
    """

    def __init__(self, family: Family, data: list[Data], centres: int) -> None:
        self._family, self._data, self._centres = family, data, centres
        self._waves = [family.waves(item.ring.q) for item in data]
        self._stiffness = [family.stiffness(item.ring.q) for item in data]
        self.number = sum(item.number for item in data)
        self.reflections = sum(len(item.ring.members) for item in data)

    def fitted(self, kind: Kind | None, near: Fit | None = None) -> Fit:
        """Fit a model; None: without a maximum. The search also starts near another fit."""
        from scipy.optimize import least_squares

        family = self._family
        starts = [family.start(*start) for start in (_STARTS if kind else _STARTS[:1])]
        if near is not None:
            starts = [*starts[1:2], near.values]
        bounds = family.bounds(kind)
        starts = [np.clip(start, bounds[0] + 1e-3, bounds[1] - 1e-3) for start in starts]

        # The residuals of a step are followed by their derivatives.
        @lru_cache(maxsize=2)
        def factor(*values: float) -> Floats:
            # Unlike Cholesky's factor, this exists if rounding makes a product negative.
            squares, vectors = np.linalg.eigh(self._products(kind, np.array(values)))
            root: Floats = np.sqrt(np.maximum(squares, 0))[:, None] * vectors.T
            return root

        def residuals(values: Floats) -> Floats:
            return factor(*values)[:, -1]

        def jacobian(values: Floats) -> Floats:
            return factor(*values)[:, :-1]

        tried = [
            least_squares(
                residuals,
                start,
                jacobian,
                bounds=bounds,
                x_scale=family.scales,
                max_nfev=40,
                xtol=1e-4,
                ftol=1e-5,
            )
            for start in starts
        ]
        best = min(tried, key=lambda item: float(item.cost))
        slopes = jacobian(best.x)
        precision = slopes.T @ slopes
        widths = family.widths(kind)
        spent = float(np.linalg.slogdet(precision * np.outer(widths, widths))[1])
        chi2 = 2 * float(best.cost)
        covariance: Floats = np.asarray(np.linalg.pinv(precision), dtype=np.float64)
        return Fit(kind, best.x, covariance, chi2, chi2 + spent)

    def chi2(self, kind: Kind, values: Floats) -> float:
        """Return χ², with that of what is expected."""
        return float(np.sum(self._residuals(kind, values) ** 2))

    def amplitudes(self, fit: Fit, values: Floats) -> tuple[Floats, Floats]:
        """Return A of all sets of equivalents, and σ; NaN if not known."""
        amplitude, error = np.full((2, self._centres), np.nan)
        for i, item in enumerate(self._data):
            design = self._design(fit.kind, values, i)
            q, r = np.linalg.qr(design)
            x = np.linalg.solve(r, (q.swapaxes(1, 2) @ _right(item)))[..., 0]
            own = item.ring.members
            amplitude[own] = x[:, 0]
            error[own] = np.linalg.norm(np.linalg.inv(r)[:, 0], axis=1)
        return amplitude, error

    def _design(self, kind: Kind | None, values: Floats, i: int) -> Floats:
        """Return the columns of A (if there is a kind), B and C, (g, n, 4 or 5), over σ."""
        item = self._data[i]
        q, w = item.ring.q, item.weights
        design = np.empty((*w.shape, 4 if kind is None else 5))
        if kind is not None:
            six = self._family.maximum(values, kind, q)
            design[..., 0] = np.einsum("gnp,np->gn", item.peaks, six)
        design[..., -4] = 1 + self._waves[i] @ self._family.of_waves(values)
        design[..., -3:] = q
        design *= w[..., None]
        return design

    def _residuals(self, kind: Kind | None, values: Floats) -> Floats:
        parts = []
        for i, item in enumerate(self._data):
            q, _ = np.linalg.qr(self._design(kind, values, i))
            right = _right(item)
            parts.append((right - q @ (q.swapaxes(1, 2) @ right)).ravel())
        return np.concatenate([*parts, self._family.unusual(values, kind)])

    def _products(self, kind: Kind | None, values: Floats) -> Floats:
        """Return the products (n + 1, n + 1) of the derivatives and, as the last, the residuals."""
        unusual = self._family.unusual(values, kind)
        rest = np.column_stack([np.diag(1 / self._family.widths(kind)), unusual])
        total: Floats = rest.T @ rest
        for i, item in enumerate(self._data):
            q, r = np.linalg.qr(self._design(kind, values, i))
            right = _right(item)
            seen = q.swapaxes(1, 2) @ right
            x = np.linalg.solve(r, seen)[..., 0]
            columns = np.empty((*item.weights.shape, len(values) + 1))
            own = len(values) - self._waves[i].shape[1]
            if kind is not None:
                slopes = self._family.slopes(values, kind, item.ring.q, self._stiffness[i])
                peaks = (item.peaks.swapaxes(0, 1) @ slopes).swapaxes(0, 1)
                np.multiply(peaks, x[:, 0, None, None], out=columns[..., :own])
            else:
                columns[..., :own] = 0
            np.multiply(self._waves[i], x[:, -4, None, None], out=columns[..., own:-1])
            columns[..., :-1] *= -item.weights[..., None]
            columns[..., -1:] = right
            # Without what the linear parameters take up.
            taken = (q.swapaxes(1, 2) @ columns).reshape(-1, columns.shape[2])
            columns = columns.reshape(-1, columns.shape[2])
            total += columns.T @ columns - taken.T @ taken
        return total


def _right(item: Data) -> Floats:
    return (item.values * item.weights)[..., None]
