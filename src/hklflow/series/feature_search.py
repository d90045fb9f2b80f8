r"""Search for diffuse features in the average over zones, by comparison of models.

1. Candidates are maxima of the mean and the median along each direction of small integers (rods,
   sheets) and of the average itself (points), at several widths, without what the model so far
   explains.
2. The candidate of any kind with which the model fits best is added, with all its equivalents;
   heights are fitted together with what falls from the reflections (`feature_model`), and places
   and widths of all terms again. Terms without which the model is as good are dropped, so that no
   point is left where sheets or rods cross. It ends when no candidate makes the model better.
3. A term is listed if it is no faint one, if the groups of zones show it (`feature_checks`), and if
   it is not a piece of what falls from the reflections. Its shape is certain if no candidate of
   another kind explains nearly as much in its place, if it is narrower than the widest line that is
   tried, and if the model explains the average.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.series.feature_checks import Checks
from hklflow.series.feature_copies import Shape
from hklflow.series.feature_lines import Line, wrapped
from hklflow.series.feature_maps import SCALES, Projection, contrasts, is_maximum, projections
from hklflow.series.feature_model import Model, Term
from hklflow.series.zone_average import ZoneAverage

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BETTER = 10.0  # smallest gain of the score for a term
_CERTAIN = 10.0  # smallest loss of the score if another kind takes its place
_EXPLAINED = 4.0  # largest χ² per bin of a model that explains the average
_RELATIVE = 0.01  # smallest height, in the mean of S
_FAINT = 0.2  # smallest height that is listed, in the largest
_FOOT = 0.15  # distance from reflections that is not searched, in the shortest period
_LARGEST = 2  # largest integer of a direction
_DIRECTIONS = 12  # most directions
_MAXIMA = 12  # maxima of a map that are tried at each width
_REFINED = 2  # candidates of each kind whose place and width are fitted
_MOST = 8  # most terms


@dataclass(frozen=True)
class Discovery:
    """A feature that was found.

    Attributes
    ----------
    shape : str
        "sheet", "rod" or "point".
    point : (3,) array
        hkl of a point of it.
    direction : (3,) int array or None
        Along rods, normal to sheets.
    columns : (3, m) array
        Covectors of the m coordinates in which it is narrow.
    place, place_sigma, width : (m,) arrays
        Position, its error (0 if fixed by symmetry) and half width at half maximum, r.l.u.
    contrast, contrast_sigma : float
        Height above the surroundings, and its error by noise, in units of S.
    significance : float
        Their ratio.
    images : int
        Number of equivalent features in a cell of the reciprocal lattice.
    zones, zones_seen : int
        Groups of zones in which it was measured, and in which it exceeds 3 standard deviations.
    certain : bool
        False if something is there, but the average does not tell its shape.
    """

    shape: Shape
    point: Floats
    direction: Integers | None
    columns: Integers
    place: Floats
    place_sigma: Floats
    width: Floats
    contrast: float
    contrast_sigma: float
    significance: float
    images: int
    zones: int
    zones_seen: int
    certain: bool


def search(average: ZoneAverage, seed: int = 0) -> list[Discovery]:
    """Return the features in the average over zones: certain and most significant ones first."""
    cell = average.cell
    shortest = float(np.sqrt(np.diag(cell.lattice.metric)).min())
    known = np.isfinite(average.mean) & (cell.distance > _FOOT * shortest)
    if not known.any():
        return []
    work = _Search(Model(average, known), shortest)
    terms = work.selected()
    if not terms:
        return []
    checks = Checks(average, work.model, terms, np.random.default_rng(seed), _FOOT * shortest)
    explained = work.model.chi_square(terms) < _EXPLAINED * len(work.model.bins)
    largest = max(x.line.height for x in terms)
    found = []
    for i, term in enumerate(terms):
        if term.line.height < max(_FAINT * largest, _RELATIVE * average.level):
            continue
        if any(work.is_part(term, x) for x in terms if x.line.height > term.line.height):
            continue
        seen = checks.zones(i)
        if seen is None:
            continue
        certain = explained and not work.model.is_widest(term)
        certain = certain and work.margin(terms, i) > _CERTAIN
        found.append(_discovery(work.model, checks, i, seen, certain))
    return sorted(found, key=lambda x: (not x.certain, -x.significance))


def _discovery(
    model: Model, checks: Checks, i: int, seen: tuple[int, int], certain: bool
) -> Discovery:
    term = checks.terms[i]
    projection, line = term.projection, term.line
    sigma = checks.height_sigma[i]
    _, point_group = model.kept(projection, line.place)
    return Discovery(
        shape=projection.kind,
        point=_point(model, projection, line.place),
        direction=projection.direction,
        columns=projection.columns,
        place=line.place,
        place_sigma=checks.place_sigma(i),
        width=line.width,
        contrast=line.height,
        contrast_sigma=sigma,
        significance=line.height / sigma,
        images=len(np.unique(model.cell.operations, axis=0)) // point_group,
        zones=seen[0],
        zones_seen=seen[1],
        certain=certain,
    )


def _point(model: Model, projection: Projection, place: Floats) -> Floats:
    """Return the simplest point of a feature: as many coordinates 0 as possible."""
    lattice = model.cell.lattice
    point = np.linalg.pinv(projection.columns.T.astype(np.float64)) @ place
    if projection.direction is None:
        return lattice.simplest(lattice.folded(point[None])[0])
    for axes in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
        part = projection.columns.T[:, axes]
        if len(axes) == len(place) and abs(np.linalg.det(part)) > 0.5:
            point = np.zeros(3)
            point[axes] = np.linalg.solve(part, place)
            break
    return np.asarray(np.round(point, 6) + 0.0)


class _Search:
    def __init__(self, model: Model, shortest: float) -> None:
        self.model, self.cell, self.shortest = model, model.cell, shortest
        self.maps = {
            kind: projections(self.cell, kind, _LARGEST, _DIRECTIONS)
            for kind in ("sheet", "rod", "point")
        }

    def selected(self) -> list[Term]:
        """Return the terms of the best model, with heights."""
        terms: list[Term] = []
        score = self.model.score(terms)
        while len(terms) < _MOST:
            tries = self._candidates(terms, tuple(self.maps))
            best = min(tries, key=lambda x: self.model.score([*terms, x]), default=None)
            if best is None or self.model.score([*terms, best]) > score - _BETTER:
                break
            larger = self._pruned([*terms, best])
            reached = self.model.score(larger)
            # What is dropped at once would be found again.
            if reached > score - 1:
                break
            terms, score = larger, reached
        return self.model.with_heights(terms)

    def _pruned(self, terms: list[Term]) -> list[Term]:
        """Return terms, fitted again, without those that make the model no better."""
        while True:
            for i in range(len(terms) if len(terms) > 1 else 0):
                terms[i] = self.model.refined(terms[i], terms[:i] + terms[i + 1 :])
            scores = [self.model.score(terms[:i] + terms[i + 1 :]) for i in range(len(terms))]
            weakest = int(np.argmin(scores))
            if len(terms) == 1 or scores[weakest] > self.model.score(terms) + _BETTER:
                return terms
            terms = terms[:weakest] + terms[weakest + 1 :]

    def is_part(self, term: Term, other: Term) -> bool:
        """Return True if a term is at the place of another one of its kind: one line of two."""
        if term.projection is not other.projection:
            return False
        c = term.projection.columns
        points = np.linalg.pinv(c.T) @ other.line.place
        images = self.cell.operations @ points + self.cell.translations
        off = np.abs(wrapped(images @ c - term.line.place, self.cell.period))
        return bool(np.any(np.all(off < other.line.width, axis=1)))

    def margin(self, terms: Sequence[Term], i: int) -> float:
        """Return how much worse the model is with a term of another kind in the place of one."""
        others = [x for j, x in enumerate(terms) if j != i]
        kinds = tuple(x for x in self.maps if x != terms[i].projection.kind)
        scores = [self.model.score([*others, x]) for x in self._candidates(others, kinds)]
        # Without any term in its place, too.
        scores.append(self.model.score(others))
        return min(scores) - self.model.score(terms)

    def _candidates(self, terms: Sequence[Term], kinds: Sequence[str]) -> list[Term]:
        """Return the best candidates of each kind that may be added to the terms."""
        rest = self.model.everywhere(self.model.solved(terms)[1] / self.model.weight)
        found = []
        for kind in kinds:
            own: list[tuple[float, Term]] = []
            known: set[tuple[float, ...]] = set()
            for projection in self.maps[kind]:
                maxima = [self._maxima(projection, x) for x in projection.maps(rest)]
                for term in (x for every in maxima for x in every):
                    # Equivalent maxima have the same images.
                    key = tuple(np.round([term.star.sum(), (term.star**2).sum()], 6))
                    if key not in known:
                        known.add(key)
                        own.append((self.model.chi_square([*terms, term]), term))
            own.sort(key=lambda x: x[0])
            found += [self.model.refined(x, terms) for _, x in own[:_REFINED]]
        return found

    def _maxima(self, projection: Projection, values: Floats) -> list[Term]:
        """Return terms at the maxima of a map."""
        each = np.array([self.cell.period / n for n in projection.shape])
        found = []
        for scale, rise in zip(SCALES, contrasts(values), strict=False):
            height = np.nan_to_num(rise, nan=-np.inf).ravel()
            top = np.flatnonzero(is_maximum(height.reshape(rise.shape)).ravel() & (height > 0))
            for i in top[np.argsort(-height[top], kind="stable")][:_MAXIMA]:
                place = np.array(np.unravel_index(i, projection.shape)) * each
                place = self.model.snapped(projection, place)
                if not self._is_foot(projection, place):
                    line = Line(place, scale * each, 1.0, "lorentzian")
                    found.append(self.model.term(projection, line))
        return found

    def _is_foot(self, projection: Projection, place: Floats) -> bool:
        """Return True if a place is close to reflections, but does not pass through them."""
        off = wrapped(place - self.cell.translations @ projection.columns, self.cell.period)
        inverse = np.linalg.inv(self.cell.lattice.metric)
        metric = np.linalg.inv(projection.columns.T @ inverse @ projection.columns)
        distance = np.sqrt(np.einsum("ni,ij,nj->n", off, metric, off).min())
        through = distance < 1e-3 * self.shortest and projection.direction is not None
        return bool(distance < _FOOT * self.shortest and not through)
