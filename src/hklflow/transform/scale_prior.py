r"""What is assumed of the scale of the frames before it is measured; see `redundancy`.

Coefficients of the curve c of a rotation are the sum of two parts: one whose second differences are
0 ± `Widths.bend` (P-splines: Eilers & Marx, Stat. Sci. 11, 89, 1996), for the drift of the beam and
the shape of the crystal, and independent deviations, 0 ± `Widths.wander`, for errors of the start,
which change within a few splines. The first part alone is overconfident: a stiff curve can't follow
the errors of the start, and states small errors. The coefficients of d have second differences of
0 ± `Widths.direction`, and those of g, along lines on the sphere, of 0 ± `Widths.outgoing`.

The norm contains a start, such as the level between the peaks, which may be the transmission, or
diffuse scattering that rotates with the crystal. Therefore its whole course is also a pattern of c,
with a factor of 0 ± 1: 0 keeps the start, -1 removes it. The part that is too fast for the
splines (`scale_splines.Start`) has its own factor, 0 ± 1.

The widths maximise the marginal likelihood. That of a width whose records tell nothing is largest
at 0, where errors are too small; the prior of `wander` therefore grows with it, which moves it by
about one standard error (Chung et al., Psychometrika 78, 685, 2013).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular

from hklflow.transform.scale_splines import Splines, basis

Floats = NDArray[np.float64]

_LEVEL, _CURVE, _DIRECTION = 1.0, 0.1, 0.3
_CENTRE = 1e-3  # standard deviation of the mean of d over the detector
_SMALLEST, _LARGEST = 1e-5, 10.0  # widths
_DECADES = 0.5, 0.25  # steps of the search


class Widths(NamedTuple):
    """Standard deviations of the coefficients; see the module."""

    bend: float = 0.03
    wander: float = 0.01
    direction: float = 0.1
    outgoing: float = 0.1


class Normal(NamedTuple):
    """Normal equations of the records: matrix and right-hand side, apart from the prior."""

    matrix: Floats
    side: Floats


class Prior:
    """Precisions of the coefficients.

    The level of a rotation is 0 ± `_LEVEL`, deviations from it 0 ± `_CURVE`, and coefficients of d
    and g 0 ± `_DIRECTION`.
    """

    def __init__(self, splines: Splines) -> None:
        layout = splines.layout()
        self.size = splines.size
        self.n_curve, self._n_outgoing = splines.n_curve, splines.n_outgoing
        self._curves = [
            (slice(begin, begin + m + 3), *_of_curve(m + 3))
            for begin, m in zip(layout.first_curve, splines.curve, strict=True)
        ]
        none = [np.zeros(m + 3) for m in splines.curve]
        self._start = [s.smooth for s in splines.start] or none
        n = self.size - self.n_curve
        self._rough, self._given = np.zeros((2, n, n))
        # Functions that are linear in all three variables are not rough.
        self._rank = sum((m + 3) * splines.places - 8 for m in splines.angle)
        if splines.directed:
            if splines.outgoing is not None:
                own = slice(0, self._n_outgoing)
                self._rough[own, own] = splines.outgoing.rough()
                self._given[own, own] = np.eye(self._n_outgoing) / _DIRECTION**2
            for begin, m in zip(layout.first_direction - self.n_curve, splines.angle, strict=True):
                own = slice(begin, begin + (m + 3) * splines.places)
                self._rough[own, own], self._given[own, own] = _of_direction(splines, m + 3)

    def matrix(self, widths: Widths) -> Floats:
        """Return the precision of all coefficients."""
        made = np.zeros((self.size, self.size))
        made[: self.n_curve, : self.n_curve] = self.of_curves(widths)
        made[self.n_curve :, self.n_curve :] = self.of_direction(widths)
        return made

    def of_curves(self, widths: Widths) -> Floats:
        """Return the precision of the coefficients of c."""
        made = np.eye(self.n_curve)  # 1: the factor of a start's fast part
        for (own, rough, given), start in zip(self._curves, self._start, strict=True):
            covariance = np.linalg.inv(rough / widths.bend**2 + given)
            covariance += widths.wander**2 * np.eye(len(rough)) + np.outer(start, start)
            made[own, own] = np.linalg.inv(covariance)
        return made

    def of_direction(self, widths: Widths) -> Floats:
        """Return the precision of the coefficients of g and d."""
        made = self._rough / widths.direction**2
        own = slice(0, self._n_outgoing)
        made[own, own] = self._rough[own, own] / widths.outgoing**2
        return made + self._given

    def learn(self, found: Normal, start: Widths) -> Widths:
        """Return the widths that maximise the marginal likelihood."""
        n, widths = self.n_curve, start
        if n < self.size:
            # d for the curves of the start, and the curves for this d.
            of_curves = cho_factor(found.matrix[:n, :n] + self.of_curves(widths), lower=True)
            rest = _without(found, slice(n, None), slice(0, n), of_curves)
            names = ("outgoing", "direction") if self._n_outgoing else ("direction",)
            widths = _climbed(lambda w: self._of_direction(rest, w), widths, names)
            of_direction = cho_factor(found.matrix[n:, n:] + self.of_direction(widths), lower=True)
            found = _without(found, slice(0, n), slice(n, None), of_direction)
        return _climbed(lambda w: self._of_curves(found, w), widths, ("bend", "wander"))

    def _of_curves(self, found: Normal, widths: Widths) -> float:
        prior = self.of_curves(widths)
        return _evidence(found, prior, _log_det(prior)) + float(np.log(widths.wander))

    def _of_direction(self, found: Normal, widths: Widths) -> float:
        log_det = -2 * self._rank * np.log(widths.direction)
        # Functions that are linear are not rough.
        log_det -= 2 * max(self._n_outgoing - 3, 0) * np.log(widths.outgoing)
        return _evidence(found, self.of_direction(widths), log_det)


def _of_curve(m: int) -> tuple[Floats, Floats]:
    """Return roughness and given precision of m coefficients of a curve."""
    # Equal coefficients are the level; the rest are deviations from it.
    given = np.eye(m) / _CURVE**2 + (1 / _LEVEL**2 - m / _CURVE**2) / m**2
    return _second_differences(m), given


def _of_direction(splines: Splines, m: int) -> tuple[Floats, Floats]:
    """Return roughness and given precision of d of a rotation, with m splines along the frames."""
    sizes = m, splines.detector[0] + 3, splines.detector[1] + 3
    one = [np.eye(k) for k in sizes]
    bent = [_second_differences(k) for k in sizes]
    n = int(np.prod(sizes))
    rough = np.zeros((n, n))
    for which in range(3):
        part = [bent[i] if i == which else one[i] for i in range(3)]
        rough += np.kron(part[0], np.kron(part[1], part[2]))
    middle = [basis((np.arange(k) + 0.5) / k, k).mean(axis=0) for k in splines.detector]
    centre = np.outer(*middle).reshape(-1)
    return rough, np.eye(n) / _DIRECTION**2 + np.kron(one[0], np.outer(centre, centre)) / (
        _CENTRE**2
    )


def _second_differences(n: int) -> Floats:
    d = np.diff(np.eye(n), 2, axis=0)
    return np.asarray(d.T @ d)


def _without(found: Normal, kept: slice, others: slice, factor: tuple[Floats, bool]) -> Normal:
    """Return the equations of the kept coefficients, with the best of the others put in.

    ``factor`` is the lower Cholesky factor of the others' matrix with their prior.
    """
    lower = factor[0]
    mixed = solve_triangular(lower, found.matrix[others, kept], lower=True)
    side = solve_triangular(lower, found.side[others], lower=True)
    return Normal(
        found.matrix[kept, kept] - mixed.T @ mixed, np.asarray(found.side[kept] - mixed.T @ side)
    )


def _log_det(matrix: Floats) -> float:
    return float(np.linalg.slogdet(matrix)[1])


def _evidence(found: Normal, prior: Floats, log_det: float) -> float:
    """Return the logarithm of the marginal likelihood, but for a constant."""
    try:
        factor = cho_factor(found.matrix + prior, lower=True)
    except LinAlgError:
        return -np.inf
    mine = 2 * np.sum(np.log(np.diag(factor[0])))
    return float(0.5 * (log_det - mine + found.side @ cho_solve(factor, found.side)))


def _climbed(evidence: Callable[[Widths], float], start: Widths, names: tuple[str, ...]) -> Widths:
    """Return widths after each of the named ones was changed until the evidence falls."""
    at, best = start, evidence(start)
    for step in _DECADES:
        for name in names:
            for factor in (10**step, 10**-step):
                while _SMALLEST < (value := getattr(at, name) * factor) < _LARGEST:
                    tried = at._replace(**{name: value})
                    found = evidence(tried)
                    if found <= best:
                        break
                    at, best = tried, found
    return at
