"""Checks of features that were found: groups of zones, pieces far from reflections, and errors."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hklflow.series.feature_lines import mean_of, wrapped
from hklflow.series.feature_model import Model, Term
from hklflow.series.zone_average import ZoneAverage

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_DRAWS = 32  # draws of noise
_MOVED = 8  # of these for the place
_LEAST = 5.0  # smallest height, in standard deviations
_WITHOUT = 3.5  # the same without any one group of zones
_SHOWN = 0.6  # smallest share of the groups of zones that show it
_FAR = 0.65  # smallest ratio of its pieces far from and near reflections, if it passes through them
# Error of a free place beyond noise and zones, in bins: the model's lines have other shapes and are
# not averaged over a bin. With 100 counts it is most of the error.
_SIGMA = 0.05


class Checks:
    """Checks of the terms of a model.

    Parameters
    ----------
    average : ZoneAverage
    model : Model
    terms : sequence of Term
        With heights.
    foot : float
        Distance from reflections within which nothing is known, 1/Å.
    """

    def __init__(
        self,
        average: ZoneAverage,
        model: Model,
        terms: Sequence[Term],
        rng: np.random.Generator,
        foot: float,
    ) -> None:
        self.average, self.model, self.terms, self.foot = average, model, terms, foot
        self.known = np.isfinite(model.everywhere(model.values))
        sigma = np.sqrt(average.variance[model.bins])
        self.noise = [sigma * rng.normal(size=len(sigma)) for _ in range(_DRAWS)]
        heights = [model.heights(terms, model.values + x) for x in self.noise]
        self.height_sigma = np.maximum(np.std(heights, axis=0), 1e-300)

    def zones(self, i: int) -> tuple[int, int] | None:
        """Return the groups of zones that measure a term and that show it; None if it is none."""
        if self.terms[i].line.height < _LEAST * self.height_sigma[i]:
            return None
        core, around = self._parts(i)
        if not (core.any() and around.any()):
            return None
        noise = np.std([self._rise(self.model.everywhere(x), core, around) for x in self.noise])
        rest = self._rest(i)
        change = self.average.without - self.average.mean
        rises = [self._rise(rest + x, core, around) for x in change]
        if len(rises) > 2 and min(rises) < _WITHOUT * noise:
            return None
        if not self._far(i, rest):
            return None
        zones, seen = self._shown(core, around)
        return None if seen < _SHOWN * zones else (zones, seen)

    def place_sigma(self, i: int) -> Floats:
        """Return the errors of a place: from noise, and from the scatter between zones."""
        model, term = self.model, self.terms[i]
        projection, place = term.projection, term.line.place
        m = len(place)
        moved = np.array(
            [np.abs(model.snapped(projection, place + 1e-3 * e) - place) for e in np.eye(m)]
        ).max(axis=0)
        if np.all(moved < 1e-6):
            return np.zeros(m)
        others = [x for j, x in enumerate(self.terms) if j != i]
        without = [np.where(np.isfinite(x), x, self.average.mean) for x in self.average.without]

        def scatter(every: Sequence[Floats]) -> Floats:
            places = [model.refined(term, others, x).line.place for x in every]
            off = [wrapped(x - place, model.cell.period) for x in places]
            return np.asarray(np.std(off, axis=0))

        noise = scatter([model.values + x for x in self.noise[:_MOVED]])
        n = len(without)
        zones = scatter([x[model.bins] for x in without]) * np.sqrt(n - 1) if n > 2 else 0.0
        width = np.array([model.cell.period / size for size in projection.shape])
        sigma = np.hypot(np.maximum(noise, zones), _SIGMA * width)
        return np.asarray(np.where(moved > 1e-6, sigma, 0.0))

    def _parts(self, i: int) -> tuple[Mask, Mask]:
        """Return the known bins in one image of a term, and those around it."""
        shape = self.model.shape(self.terms[i].projection, self.terms[i].line)
        core, around = shape >= min(0.5, shape.max()), (shape < 0.25) & (shape > 0.02)
        # At least the nearest bins, and those that are farthest.
        core |= shape >= 0.99 * np.max(shape)
        around |= shape <= 1.01 * np.min(shape)
        return core & self.known, around & self.known

    def _rest(self, i: int) -> Floats:
        """Return the average without all other terms."""
        others = sum(
            (x.line.height * x.star for j, x in enumerate(self.terms) if j != i),
            np.zeros(len(self.model.bins)),
        )
        return self.model.everywhere(self.model.values - others)

    def _rise(self, values: Floats, core: Mask, around: Mask) -> float:
        return mean_of(values[core]) - mean_of(values[around])

    def _shown(self, core: Mask, around: Mask) -> tuple[int, int]:
        """Return the number of groups of zones, and of those that show the feature."""
        measured = seen = 0
        for values, variance in zip(self.average.groups, self.average.group_variance, strict=True):
            inner, outer = (x & np.isfinite(values) for x in (core, around))
            if not (inner.any() and outer.any()):
                continue
            measured += 1
            # Equivalent bins hold the same information.
            n = len(np.unique(self.model.cell.orbit[inner]))
            error = np.sqrt(np.mean(variance[inner]) / n)
            seen += int(np.mean(values[inner]) - np.mean(values[outer]) > 3 * error)
        return measured, seen

    def _far(self, i: int, rest: Floats) -> bool:
        """Return True unless a rod or sheet through reflections is weaker far from them."""
        projection = self.terms[i].projection
        core, around = self._parts(i)
        distance = self.model.cell.distance
        if projection.direction is None:
            return True
        shape = self.model.shape(projection, self.terms[i].line)
        if np.min(distance[shape >= 0.99 * np.max(shape)]) >= self.foot:
            return True
        piece = np.empty(len(core), np.int64)
        member = projection.members >= 0
        piece[projection.members[member]] = projection.pieces[member]
        size, length = [], []
        for number in range(int(piece.max()) + 1):
            inner, outer = core & (piece == number), around & (piece == number)
            if inner.any() and outer.any():
                # Medians: what crosses a piece is no part of it.
                size.append(float(np.median(rest[inner]) - np.median(rest[outer])))
                length.append(float(np.mean(distance[inner])))
        if len(size) < 3:
            return False
        rises, away = np.array(size), np.array(length)
        near, far = away <= np.quantile(away, 0.35), away >= np.quantile(away, 0.65)
        return bool(np.mean(rises[far]) >= _FAR * max(np.mean(rises[near]), 1e-12))
