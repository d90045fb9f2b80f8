"""Model of the average over zones: thermal diffuse scattering plus features, fitted together.

A term is a point, rod or sheet with all its equivalents, which are equally strong in the average.
Terms add where they cross. Amplitudes are not negative; they and what falls from the reflections
are fitted together (Lawson & Hanson, Solving Least Squares Problems, 1974, chapter 23).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from hklflow.series.feature_lines import (
    KINDS,
    Line,
    angles_of,
    falls,
    images_of,
    profile,
    wrapped,
)
from hklflow.series.feature_maps import Projection
from hklflow.series.zone_average import ZoneAverage

Floats = NDArray[np.float64]

_MODEL = 0.1  # error of the model, in what rises above the background
_PERFECT = 0.6  # χ² per bin below which no model is better
_NARROWEST = 0.45  # smallest half width, bins
_WIDEST = 0.22  # largest half width, periods
_UNEQUAL = 1.0  # largest difference of ln(width in 1/Å)
_NEAR = (0.9, 1.6)  # distances from symmetry elements on which a place may be, bins
_CHOICES = 20.0  # places and widths that are tried, for each coordinate


@dataclass(frozen=True)
class Term:
    """A feature with all its images.

    Attributes
    ----------
    projection : Projection
    line : Line
        Of one image.
    star : (r,) array
        Sum of all images at the independent bins, if each is 1 at its maximum.
    """

    projection: Projection
    line: Line
    star: Floats


class Model:
    """Fit of terms to the independent bins of an average over zones.

    Parameters
    ----------
    known : (n,) array
        True for bins that are fitted.
    """

    def __init__(self, average: ZoneAverage, known: NDArray[np.bool_]) -> None:
        self.cell = cell = average.cell
        self.bins = np.flatnonzero(known & (cell.orbit == np.arange(len(known))))
        self.values = average.mean[self.bins]
        rises = np.maximum(self.values - np.quantile(self.values, 0.2), 0)
        self.weight = 1 / np.sqrt(average.variance[self.bins] + (_MODEL * rises) ** 2)
        # The background may have either sign.
        ones = np.ones((1, len(self.bins)))
        self.base = np.concatenate([ones, -ones, falls(cell)[:, self.bins]])
        self._images = cell.images[:, self.bins]
        self._place = np.searchsorted(self.bins, cell.orbit).clip(max=len(self.bins) - 1)
        self._known = known

    def solved(
        self, terms: Sequence[Term], values: Floats | None = None
    ) -> tuple[Floats, Floats, float]:
        """Return the amplitudes of the base and the terms, weighted residuals, and χ²."""
        design = np.concatenate([self.base, *(x.star[None] for x in terms)]).T
        size = np.maximum(np.abs(design).max(axis=0), 1e-12)
        goal = self.values if values is None else values
        found, norm = nnls(design / size * self.weight[:, None], goal * self.weight)
        rest = (goal - design @ (found / size)) * self.weight
        return found / size, rest, float(norm**2)

    def heights(self, terms: Sequence[Term], values: Floats | None = None) -> Floats:
        """Return the heights of the terms."""
        return self.solved(terms, values)[0][len(self.base) :]

    def chi_square(self, terms: Sequence[Term]) -> float:
        """Return χ² of terms."""
        return self.solved(terms)[2]

    def score(self, terms: Sequence[Term]) -> float:
        """Return -2 ln(likelihood), with the errors scaled, plus the cost of all parameters.

        Bayesian information criterion (Schwarz, Ann. Statist. 6, 461, 1978), with twice the
        logarithm of the number of places and widths that were tried.
        """
        n = len(self.bins)
        cost = 0.0
        for term in terms:
            m = len(term.line.place)
            cost += (m + 1) * np.log(n) + 2 * m * np.log(_CHOICES)
        chi_square = max(self.chi_square(terms) / n, _PERFECT)
        return float(n * np.log(chi_square) + cost)

    def everywhere(self, independent: Floats) -> Floats:
        """Return values of the independent bins in all bins; NaN where not known."""
        return np.asarray(np.where(self._known, independent[self._place], np.nan))

    def term(self, projection: Projection, line: Line) -> Term:
        """Return a line with its images."""
        shape = self.shape(projection, line)
        kept, _ = self.kept(projection, line.place)
        return Term(projection, line, shape[self._images].sum(axis=0) / kept)

    def shape(self, projection: Projection, line: Line) -> Floats:
        """Return a line without its images, 1 at its maximum, in all bins."""
        off = wrapped(self.cell.points @ projection.columns - line.place, self.cell.period)
        return profile(off, line.width, angles_of(projection, self.cell), line.kind)

    def kept(self, projection: Projection, place: Floats) -> tuple[int, int]:
        """Return the numbers of operations, with translations and without, that keep a feature."""
        images = images_of(projection, self.cell, place)
        kept = np.all(np.abs(np.nan_to_num(images, nan=9.0) - place) < 1e-3, axis=1)
        return int(kept.sum()), len(np.unique(self.cell.operations[kept], axis=0))

    def is_widest(self, term: Term) -> bool:
        """Return True if a width of a term is close to its upper limit."""
        each = np.array([self.cell.period / n for n in term.projection.shape])
        widest = np.maximum(_WIDEST * self.cell.period, 1.2 * each)
        return bool(np.any(term.line.width > 0.85 * widest))

    def snapped(self, projection: Projection, place: Floats, near: float = _NEAR[0]) -> Floats:
        """Return a place on the symmetry elements that are nearer than some bins."""
        images = images_of(projection, self.cell, place)
        width = near * np.array([self.cell.period / n for n in projection.shape])
        close = np.all(np.abs(np.nan_to_num(images, nan=9.0) - place) < width, axis=1)
        return np.asarray(np.mean(images[close], axis=0))

    def _equal(self, projection: Projection, place: Floats) -> Floats:
        """Return the matrix that averages widths of axes that symmetry makes equal."""
        c, inverse = projection.columns, np.linalg.pinv(projection.columns.T)
        images = images_of(projection, self.cell, place)
        kept = np.all(np.abs(np.nan_to_num(images, nan=9.0) - place) < 1e-3, axis=1)
        mixed = np.abs([c.T @ x @ inverse for x in self.cell.operations[kept]]).sum(axis=0) > 1e-6
        return np.asarray(mixed / mixed.sum(axis=1, keepdims=True))

    def refined(self, term: Term, others: Sequence[Term], values: Floats | None = None) -> Term:
        """Return a term with the place, widths and line that fit best together with the others.

        With `values` of the independent bins in place of the average, only the place is fitted.
        """
        first = [self.snapped(term.projection, term.line.place, x) for x in _NEAR]
        if values is not None or np.allclose(first[0], first[1], atol=1e-6):
            first = first[:1]
        # In one coordinate, the product is the Lorentzian.
        kinds: Sequence[str] = KINDS if len(term.line.place) > 1 else KINDS[:2]
        if values is not None:
            kinds = (term.line.kind,)
        tries = [self._fitted(term, others, x, kind, values) for x in first for kind in kinds]
        return min(tries, key=lambda x: x[0])[1]

    def _fitted(
        self, term: Term, others: Sequence[Term], start: Floats, kind: str, values: Floats | None
    ) -> tuple[float, Term]:
        projection, m = term.projection, len(start)
        each = np.array([self.cell.period / n for n in projection.shape])
        # Directions in which symmetry lets the place move.
        free = np.array([self.snapped(projection, start + 1e-3 * e) - start for e in np.eye(m)])
        free = free[np.abs(free).max(axis=1) > 1e-6] / 1e-3 * each.mean()
        c = projection.columns
        length = np.sqrt(np.diag(np.linalg.inv(c.T @ np.linalg.inv(self.cell.lattice.metric) @ c)))
        equal = self._equal(projection, start)

        def at(p: Floats) -> Term:
            size = equal @ (p[:m] + np.log(length))
            size = np.clip(size, size.mean() - _UNEQUAL / 2, size.mean() + _UNEQUAL / 2)
            line = Line(start + p[m:] @ free, np.exp(size) / length, 1.0, kind)
            return self.term(projection, line)

        low = np.concatenate([np.log(_NARROWEST * each), np.full(len(free), -1.2)])
        widest = np.maximum(_WIDEST * self.cell.period, 1.2 * each)
        high = np.concatenate([np.log(widest), np.full(len(free), 1.2)])
        first = np.clip([*np.log(term.line.width), *np.zeros(len(free))], low + 1e-6, high - 1e-6)

        def residuals(p: Floats) -> Floats:
            return self.solved([*others, at(p)], values)[1]

        steps = np.full(len(first), 0.02)
        nfev = 8 if values is None else 4
        fit = least_squares(residuals, first, bounds=(low, high), diff_step=steps, max_nfev=nfev)
        return float(fit.cost), at(fit.x)

    def with_heights(self, terms: Sequence[Term]) -> list[Term]:
        """Return the terms with their fitted heights."""
        return [
            replace(x, line=replace(x.line, height=float(y)))
            for x, y in zip(terms, self.heights(terms), strict=True)
        ]
