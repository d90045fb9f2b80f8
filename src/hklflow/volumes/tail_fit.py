"""Fit of the models of `tail_models` to S(Q) around reflections.

A_G, B_G and C_G of each reflection are linear and solved for, so that only the parameters that all
reflections share are searched (variable projection: Golub & Pereyra, SIAM J. Numer. Anal. 10, 413,
1973; with the derivatives of Kaufman, BIT 15, 49, 1975).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes.least_squares import minimum
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
        family = self._family
        starts = [family.start(*start) for start in (_STARTS if kind else _STARTS[:1])]
        if near is not None:
            starts = [*starts[1:2], near.values]
        bounds = family.bounds(kind)
        starts = [np.clip(start, bounds[0] + 1e-3, bounds[1] - 1e-3) for start in starts]

        def residuals(values: Floats) -> Floats:
            return self._residuals(kind, values)

        def jacobian(values: Floats) -> Floats:
            return self._jacobian(kind, values)

        tried = [minimum(residuals, jacobian, start, *bounds) for start in starts]
        chi2, values = min(tried, key=lambda item: item[0])
        slopes = jacobian(values)
        precision = slopes.T @ slopes
        widths = family.widths(kind)
        spent = float(np.linalg.slogdet(precision * np.outer(widths, widths))[1])
        covariance: Floats = np.asarray(np.linalg.pinv(precision), dtype=np.float64)
        return Fit(kind, values, covariance, chi2, chi2 + spent)

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

    def _jacobian(self, kind: Kind | None, values: Floats) -> Floats:
        parts = []
        for i, item in enumerate(self._data):
            q, r = np.linalg.qr(self._design(kind, values, i))
            x = np.linalg.solve(r, q.swapaxes(1, 2) @ _right(item))[..., 0]
            change = np.zeros((*item.weights.shape, len(values)))
            own = len(values) - self._waves[i].shape[1]
            if kind is not None:
                slopes = self._family.slopes(values, kind, item.ring.q, self._stiffness[i])
                peaks = (item.peaks.swapaxes(0, 1) @ slopes).swapaxes(0, 1)
                change[..., :own] = peaks * x[:, 0, None, None]
            change[..., own:] = self._waves[i] * x[:, -4, None, None]
            change *= item.weights[..., None]
            change -= q @ (q.swapaxes(1, 2) @ change)
            parts.append(-change.reshape(-1, len(values)))
        return np.concatenate([*parts, np.diag(1 / self._family.widths(kind))])


def _right(item: Data) -> Floats:
    return (item.values * item.weights)[..., None]
