"""Likelihood of Laue groups from the agreement of reflections that a rotation relates.

The scheme is that of POINTLESS (Evans, Acta Cryst. D62, 72, 2006, and D67, 282, 2011): each
rotation of the lattice is scored on its own, and a group has the product of P(data | present) over
its rotations and P(data | not present) over the others. POINTLESS scores correlation coefficients.
Here, a rotation is scored by the number k of N pairs that differ by more than 4σ. Counted are pairs
whose larger intensity is above 8σ, so that unrelated intensities would nearly always differ. k is
binomial, with a probability that is uniform in 0 to 0.1 if the rotation is present (outliers), and
in 0.1 to 1 if it is not. Reflections of a superlattice are counted separately, with the limit 0.3:
strong reflections do not hide weak ones, as they do in a correlation. Where few pairs are strong,
the correlation decides as in POINTLESS.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.unmerged import Intensities

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_DIFFERENT = 4.0  # difference of a pair, in σ, that counts
_CLEAR = 8.0  # larger intensity of a pair, in σ of the difference
_EXTREME = 8.0  # intensity over the mean; exceeded by 0.03 % (acentric), 0.5 % (centric)
_OUTLIERS = 0.1  # largest probability that equivalents differ
_OUTLIERS_WEAK = (
    0.3  # the same for a superlattice: few weak reflections are clear, all outliers are
)
_ENOUGH = 12  # clear pairs; with fewer, the correlation of all other pairs counts too
_FEWEST = 6  # pairs that give a correlation
_DECIDED = 3.0  # difference of log likelihoods, a factor of 20
_WORST = -300.0  # smallest logarithm of a probability


@dataclass(frozen=True)
class Agreement:
    """Agreement of the pairs of reflections that a rotation of the lattice relates.

    Attributes
    ----------
    rotation : (3, 3) array
        On column vectors hkl.
    axis, order : tuple of 3 int, int
        Direct lattice vector along the axis, and order of the rotation.
    pairs, clear, different : int
        All pairs; pairs that unrelated intensities would not fulfil; those that differ above 4σ.
    r : float
        Sum of differences over sum of intensities of the pairs, NaN without pairs.
    r_chance : float
        The same for pairs of unrelated reflections with about the same d.
    correlation : float
        Correlation of I over the mean intensity of the shell.
    log_present, log_missing : float
        Logarithms of the probabilities of the data with and without the rotation.
    assumed : bool
        True if the reflections are merged in it, so that it cannot be tested.
    """

    rotation: Floats
    axis: tuple[int, ...]
    order: int
    pairs: int
    clear: int
    different: int
    r: float
    r_chance: float
    correlation: float
    log_present: float
    log_missing: float
    assumed: bool = False

    @property
    def probability(self) -> float:
        """Probability of the rotation, on its own and without prior knowledge."""
        return float(1 / (1 + np.exp(np.clip(self.log_missing - self.log_present, -700, 700))))

    @property
    def decided(self) -> bool:
        """True if one answer is 20 times as likely as the other."""
        return self.assumed or abs(self.log_present - self.log_missing) > _DECIDED


def agreement(
    rotation: Floats,
    data: Intensities,
    weak: Bools | None,
    unique: Callable[[Integers], Integers],
) -> Agreement:
    """Compare the reflections that a rotation relates.

    Parameters
    ----------
    rotation : (3, 3) array
        On column vectors hkl.
    data : Intensities
    weak : (n,) bool array or None
        Reflections of a superlattice: they are counted separately from the others.
    unique : callable
        Function that returns the same hkl (n, 3) for reflections that are equivalent without the
        rotation.
    """
    first, second = _pairs(rotation, data, unique)
    a, b = data.intensity[first], data.intensity[second]
    noise = data.sigma[first] ** 2 + data.sigma[second] ** 2
    error = np.sqrt(noise + data.relative**2 * (a**2 + b**2))
    # The limit does not depend on the smaller intensity: pairs that differ are not preferred.
    larger = np.maximum(a, b)
    clear = larger > _CLEAR * np.sqrt(noise + 2 * data.relative**2 * larger**2)
    # An outlier of a weak reflection is always clear: extreme intensities are not counted.
    clear &= np.maximum(a / data.mean[first], b / data.mean[second]) < _EXTREME
    differs = np.abs(a - b) > _DIFFERENT * error
    of_weak = np.zeros(len(a), dtype=np.bool_) if weak is None else weak[first] | weak[second]
    parts = [clear & ~of_weak, clear & of_weak]
    limits = (_OUTLIERS, _OUTLIERS_WEAK)
    counts = [
        (int(np.sum(differs & part)), int(part.sum()), limit)
        for part, limit in zip(parts, limits, strict=True)
    ]
    yes, no = _binomial(counts)
    rest = ~clear
    if clear.sum() < _ENOUGH and rest.sum() >= _FEWEST:
        more = _by_correlation(data, first[rest], second[rest])
        yes, no = yes + more[0], no + more[1]
    total = float(np.abs(a).sum() + np.abs(b).sum())
    axis, order = _axis(rotation)
    return Agreement(
        rotation=rotation,
        axis=axis,
        order=order,
        pairs=len(a),
        clear=int(clear.sum()),
        different=int(np.sum(differs & clear)),
        r=float(np.abs(a - b).sum()) / total if total > 0 else float("nan"),
        r_chance=_chance(data, first, second),
        correlation=_correlation(data, first, second),
        log_present=yes,
        log_missing=no,
    )


def _pairs(
    rotation: Floats, data: Intensities, unique: Callable[[Integers], Integers]
) -> tuple[Integers, Integers]:
    """Return the rows of h and W h, each pair once, without reflections on themselves."""
    turned = data.hkl @ rotation.T
    whole = np.abs(turned - np.rint(turned)).max(axis=1, initial=0) < 1e-6
    here, there = unique(data.hkl), unique(np.rint(turned).astype(np.int64))
    span = 2 * int(max(np.abs(there).max(initial=0), np.abs(here).max(initial=0))) + 1
    weights = np.array([span * span, span, 1])
    own, other = here @ weights, there @ weights
    order = np.argsort(own)
    place = np.minimum(np.searchsorted(own[order], other), max(len(own) - 1, 0))
    rows = order[place] if len(own) else order
    found = whole & (own[rows] == other) & (rows != np.arange(len(own)))
    first, second = np.flatnonzero(found), rows[found]
    both = np.unique(np.sort(np.stack([first, second], axis=1), axis=1), axis=0)
    return both[:, 0], both[:, 1]


def _axis(rotation: Floats) -> tuple[tuple[int, ...], int]:
    power, order = rotation, 1
    while not np.allclose(power, np.eye(3), atol=1e-6):
        power, order = power @ rotation, order + 1
    # Coordinates transform with the transpose: its eigenvector is a direct lattice vector.
    values, vectors = np.linalg.eig(rotation.T)
    return direction(np.real(vectors[:, np.argmin(np.abs(values - 1))])), order


def direction(axis: Floats) -> tuple[int, ...]:
    """Return the smallest whole numbers with the direction of an axis; the first is positive."""
    axis = axis / np.abs(axis[np.abs(axis) > 1e-6]).min()
    for factor in (1, 2, 3):
        if np.allclose(factor * axis, np.rint(factor * axis), atol=1e-4):
            axis = factor * axis
            break
    axis *= np.sign(axis[np.flatnonzero(np.abs(axis) > 1e-6)[0]])
    whole = np.rint(axis).astype(int)
    return tuple(int(x) for x in whole // np.gcd.reduce(whole))


def _binomial(counts: list[tuple[int, int, float]]) -> tuple[float, float]:
    """Return log P(counts) if all parts agree, and if at least one of them does not."""
    filled = [item for item in counts if item[1]]
    if not filled:
        return 0.0, 0.0
    agree = [_log_uniform(k, n, 0.0, limit) for k, n, limit in filled]
    differ = [_log_uniform(k, n, limit, 1.0) for k, n, limit in filled]
    if len(filled) == 1:
        return agree[0], differ[0]
    ways = [agree[0] + differ[1], differ[0] + agree[1], differ[0] + differ[1]]
    return sum(agree), float(np.logaddexp.reduce(ways) - np.log(3))


def _log_uniform(k: int, n: int, low: float, high: float) -> float:
    """Return log P(k of n) for a probability that is uniform between two limits."""
    from scipy.special import betainc

    a, b = k + 1, n - k + 1
    part = betainc(a, b, high) - betainc(a, b, low)
    return max(float(np.log(max(part, 1e-300) / ((n + 1) * (high - low)))), _WORST)


def _normalized(data: Intensities, rows: Integers) -> Floats:
    return data.intensity[rows] / data.mean[rows]


def _correlation(data: Intensities, first: Integers, second: Integers) -> float:
    if len(first) < _FEWEST:
        return float("nan")
    # Each pair in both orders: the choice of the first of two equivalents is arbitrary.
    x, y = _normalized(data, first), _normalized(data, second)
    return float(np.corrcoef(np.r_[x, y], np.r_[y, x])[0, 1])


def _by_correlation(data: Intensities, first: Integers, second: Integers) -> tuple[float, float]:
    """Return log p(CC) with and without the rotation (Evans 2006, equations 4 to 7).

    Without the rotation, the true correlation m has the density sqrt(1 - m²). The expected
    correlation of equivalents follows from the errors.
    """
    found = _correlation(data, first, second)
    if not np.isfinite(found):
        return 0.0, 0.0
    rows = np.r_[first, second]
    spread = float(np.var(_normalized(data, rows)))
    errors = data.sigma[rows] ** 2 + (data.relative * data.intensity[rows]) ** 2
    noise = float(np.mean(errors / data.mean[rows] ** 2))
    expected = np.clip(1 - noise / spread, 0.0, 1.0) if spread > 0 else 0.0
    width = max(len(first) ** -0.5, 0.05, data.relative)
    m = np.linspace(0, 1, 101)
    prior = np.sqrt(1 - m**2)

    def density(centre: Floats) -> Floats:
        shape: Floats = 1 / (1 + ((found - centre) / width) ** 2)
        return shape

    yes = float(np.log(density(np.array([expected]))[0]))
    no = float(np.log(np.sum(prior * density(m * expected)) / prior.sum()))
    return yes, no


def _chance(data: Intensities, first: Integers, second: Integers) -> float:
    """Return R of pairs after an exchange of second reflections between neighbours in d."""
    if len(first) < _FEWEST:
        return float("nan")
    order = np.argsort(data.mean[first], kind="stable")
    a = _normalized(data, first)[order]
    b = np.roll(_normalized(data, second)[order], 2)
    return float(np.abs(a - b).sum() / (np.abs(a).sum() + np.abs(b).sum()))
