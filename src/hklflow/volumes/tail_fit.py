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
Indices = NDArray[np.int64]

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
            design = self._design(self._maximum(fit.kind, values, i), values, i)
            q, r = np.linalg.qr(design)
            x = np.linalg.solve(r, (q.swapaxes(1, 2) @ _right(item)))[..., 0]
            own = item.ring.members
            amplitude[own] = x[:, 0]
            error[own] = np.linalg.norm(np.linalg.inv(r)[:, 0], axis=1)
        return amplitude, error

    def probed(
        self, plain: Fit, shapes: list[tuple[Kind, Floats]]
    ) -> tuple[Indices, float, Floats, Floats, Floats, Floats, Floats]:
        """Return how χ² of a fit without maxima changes with maxima of given shapes.

        Of χ²/2 as a parabola of A_G and b, without what B_G and C_G take up.

        Parameters
        ----------
        plain : Fit
        shapes : list of (Kind, array)
            m kinds and parameters.

        Returns
        -------
        (g,) int array
            Numbers of the reflections.
        float
            Mean S.
        (m, g) array, (m, g) array
            Minus the derivatives by A_G, and the second derivatives.
        (m, g, k) array
            Second derivatives by A_G and b.
        (k, k) array, (k,) array
            Second derivatives by b, and minus the derivatives.
        """
        widths = self._family.widths(None)[-self._family.sizes[1] :]
        curvature = np.diag(1 / widths**2)
        slope = -self._family.of_waves(plain.values) / widths**2
        parts, sums = [], np.zeros(2)
        for i, item in enumerate(self._data):
            design = self._design(None, plain.values, i)
            q, r = np.linalg.qr(design)
            right = _right(item)
            seen = q.swapaxes(1, 2) @ right
            left = (right - q @ seen)[..., 0]
            waves = self._of_waves(np.linalg.solve(r, seen)[..., 0], i)
            taken = q.swapaxes(1, 2) @ waves
            waves = waves - q @ taken
            curvature += np.einsum("gni,gnj->ij", waves, waves)
            slope += np.einsum("gni,gn->i", waves, left)
            rise, size = np.empty((2, len(shapes), len(left)))
            across = np.empty((*rise.shape, waves.shape[2]))
            for j, (kind, values) in enumerate(shapes):
                maximum = self._family.maximum(values, kind, item.ring.q)
                peaks = np.einsum("gnp,np->gn", item.peaks, maximum)
                peaks -= (q @ (q.swapaxes(1, 2) @ peaks[..., None]))[..., 0]
                rise[j], size[j] = np.sum(peaks * left, axis=1), np.sum(peaks**2, axis=1)
                across[j] = (peaks[:, None] @ waves)[:, 0]
            parts.append((item.ring.members, rise, size, across))
            sums += np.sum(item.weights**2 * item.values), np.sum(item.weights**2)
        members, rise, size, across = (
            np.concatenate(x, axis=min(x[0].ndim - 1, 1)) for x in zip(*parts, strict=True)
        )
        return members, float(sums[0] / sums[1]), rise, size, across, curvature, slope

    def _of_waves(self, x: Floats, i: int) -> Floats:
        """Return the derivatives (g, n, k) by b of S over σ, for B_G and C_G (g, 4)."""
        item = self._data[i]
        scaled = np.broadcast_to(x[:, :1], item.weights.shape)
        if self._family.dips:
            scaled = scaled + x[:, 1:] @ item.ring.q.T
        derivatives: Floats = (scaled * item.weights)[..., None] * self._waves[i]
        return derivatives

    def _maximum(self, kind: Kind | None, values: Floats, i: int) -> Floats | None:
        """Return M (n, 6) of a kind."""
        return None if kind is None else self._family.maximum(values, kind, self._data[i].ring.q)

    def _design(self, maximum: Floats | None, values: Floats, i: int) -> Floats:
        """Return the columns of A (if there is a maximum), B and C, (g, n, 4 or 5), over σ."""
        item = self._data[i]
        design = np.empty((*item.weights.shape, 4 if maximum is None else 5))
        if maximum is not None:
            design[..., 0] = np.einsum("gnp,np->gn", item.peaks, maximum)
        np.multiply(self._smooth(values, i), item.weights[..., None], out=design[..., -4:])
        return design

    def _smooth(self, values: Floats, i: int) -> Floats:
        """Return b, and q or b q (n, 4)."""
        b = 1 + self._waves[i] @ self._family.of_waves(values)
        q = self._data[i].ring.q
        return np.column_stack([b, q * b[:, None] if self._family.dips else q])

    def _residuals(self, kind: Kind | None, values: Floats) -> Floats:
        parts = []
        for i, item in enumerate(self._data):
            q, _ = np.linalg.qr(self._design(self._maximum(kind, values, i), values, i))
            right = _right(item)
            parts.append((right - q @ (q.swapaxes(1, 2) @ right)).ravel())
        return np.concatenate([*parts, self._family.unusual(values, kind)])

    def _products(self, kind: Kind | None, values: Floats) -> Floats:
        """Return the products (n + 1, n + 1) of the derivatives and, as the last, the residuals.

        The derivatives are of S over σ: those with the shape of the maximum are A_G times sums over
        Q_i Q_j, and those with b are B_G times cosines. What depends on the reflection is summed
        first, so that no array of all derivatives is needed.
        """
        unusual = self._family.unusual(values, kind)
        rest = np.column_stack([np.diag(1 / self._family.widths(kind)), unusual])
        total: Floats = rest.T @ rest
        for i, item in enumerate(self._data):
            maximum, slopes = None, None
            if kind is not None:
                maximum, slopes = self._family.slopes(values, kind, item.ring.q)
            design = self._design(maximum, values, i)
            q, r = np.linalg.qr(design)
            right = _right(item)
            seen = q.swapaxes(1, 2) @ right
            x = np.linalg.solve(r, seen)[..., 0]
            w, waves = item.weights, self._waves[i]
            own = slice(len(values) - waves.shape[1], len(values))
            # Minus the derivatives by b, and their products with the design.
            scaled = np.broadcast_to(x[:, -4, None], w.shape)
            if self._family.dips:
                scaled = scaled + x[:, -3:] @ item.ring.q.T
            scaled = scaled * w
            total[own, own] += waves.T @ (np.sum(scaled**2, axis=0)[:, None] * waves)
            total[own, -1] -= waves.T @ np.sum(scaled * right[..., 0], axis=0)
            onto = np.zeros((*seen.shape[:2], len(values)))
            onto[..., own] = (design.swapaxes(1, 2) * scaled[:, None]) @ waves
            if slopes is not None:
                shape = slice(0, own.start)
                lines = slopes.reshape(-1, slopes.shape[2])
                swapped = (item.peaks * x[:, 0, None, None]).transpose(1, 2, 0)  # (n, 6, g)
                among = (swapped @ swapped.swapaxes(1, 2)) @ slopes
                total[shape, shape] += lines.T @ among.reshape(lines.shape)
                across = swapped @ np.stack([scaled, right[..., 0]], axis=2).swapaxes(0, 1)
                across = across.swapaxes(1, 2) @ slopes
                total[shape, own] += across[:, 0].T @ waves
                total[shape, -1] -= across[:, 1].sum(axis=0)
                # All columns of the design but the first are the same for all reflections, over σ.
                common = self._smooth(values, i)[:, :, None, None] * slopes[:, None]
                common = common.transpose(0, 2, 1, 3).reshape(len(lines), -1)
                number = len(x)
                flat = (item.peaks * w[..., None]).reshape(number, -1)
                onto[:, 1:, shape] = (flat @ common).reshape(number, 4, -1)
                flat = (item.peaks * design[..., :1]).reshape(number, -1)
                onto[:, 0, shape] = flat @ lines
                onto[..., shape] *= x[:, 0, None, None]
            total[-1, -1] += float(np.sum(right**2))
            # Without what the linear parameters take up.
            taken = -np.linalg.solve(r.swapaxes(1, 2), onto)
            taken = np.concatenate([taken, seen], axis=2).reshape(-1, len(values) + 1)
            total -= taken.T @ taken
        shared = self._family.sizes[0] + 2
        total[shared:-1, :shared] = total[:shared, shared:-1].T
        total[-1, :-1] = total[:-1, -1]
        return total


def _right(item: Data) -> Floats:
    return (item.values * item.weights)[..., None]
