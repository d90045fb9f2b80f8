"""Likelihood of extinction symbols: space groups that forbid the same reflections.

The reflections that a candidate may forbid are divided into classes that every candidate either
forbids as a whole or not at all. A class is compared with two models. Present: intensities of the
acentric Wilson distribution (Wilson, Acta Cryst. 2, 318, 1949) with normal errors, and a mean that
is 0.02 to 5 times the mean of other reflections with the same d. Absent: normal errors, half the
wavelength (0.4 % of I(2h)), multiple scattering (0.3 % of the mean), and 3 % outliers. A candidate
has the product over all classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg import absences
from hklflow.bragg.groups import Groups
from hklflow.bragg.unmerged import Intensities, hemisphere
from hklflow.geometry import symmetry
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_HARMONIC = 0.004  # largest fraction of half the wavelength
_MULTIPLE = 0.003  # multiple scattering, relative to the mean intensity
_UNDERESTIMATED = 1.2  # factor of the errors from counting
_OUTLIERS = 0.03
_LEVELS = np.geomspace(0.02, 5, 16)  # mean of a class, relative to other reflections
DECIDED = 20.0  # ratio of likelihoods above which the less likely candidate is excluded


@dataclass(frozen=True)
class Class:
    """Reflections that a screw axis, a glide plane or a centring forbids.

    Attributes
    ----------
    name : str
    number, rest : int
        Unique reflections of the class, and others on the same rows or planes.
    ratio_sigma, rest_ratio_sigma : float
        Their mean I/σ; NaN without reflections.
    level : float
        Mean intensity relative to other reflections with the same d.
    probability : float
        Probability that the class is absent; NaN without reflections.
    """

    name: str
    number: int
    ratio_sigma: float
    rest: int
    rest_ratio_sigma: float
    level: float
    probability: float


@dataclass(frozen=True)
class Extinction:
    """Space groups with the same forbidden reflections, and their probability.

    ``unmeasured``: names of elements whose reflections were not measured.
    """

    groups: tuple[SpaceGroup, ...]
    probability: float
    forbidden: int
    unmeasured: tuple[str, ...]


def log_odds(
    data: Intensities, rows: Bools, reference: Floats | None = None
) -> tuple[float, float]:
    """Return log P(intensities) of the rows if they are absent, and if they are present.

    Parameters
    ----------
    data : Intensities
    rows : (n,) bool array
    reference : (n,) array, optional
        Mean intensities of present reflections with the same d. Default: ``data.mean``.
    """
    from scipy.stats import norm

    if not rows.any():
        return 0.0, 0.0
    mean = (data.mean if reference is None else reference)[rows]
    value, sigma = data.intensity[rows], _UNDERESTIMATED * data.sigma[rows]
    false = np.hypot(_HARMONIC * _harmonic(data, rows), _MULTIPLE * mean)
    wide = _wilson(value, sigma, mean)
    narrow = norm.logpdf(value, scale=np.hypot(sigma, false))
    absent = np.logaddexp(np.log1p(-_OUTLIERS) + narrow, np.log(_OUTLIERS) + wide)
    present = [float(_wilson(value, sigma, level * mean).sum()) for level in _LEVELS]
    total = float(np.logaddexp.reduce(present) - np.log(len(_LEVELS)))
    return float(absent.sum()), total


def _wilson(value: Floats, sigma: Floats, mean: Floats) -> Floats:
    """Return the log density of an exponential distribution with normal errors."""
    from scipy.special import log_ndtr

    ratio = sigma / mean
    density: Floats = (
        -np.log(mean) + 0.5 * ratio**2 - value / mean + log_ndtr(value / sigma - ratio)
    )
    return density


def _harmonic(data: Intensities, rows: Bools) -> Floats:
    """Return I(2h), or the mean intensity of the shell of h where 2h is not measured."""
    double = Groups.of(np.concatenate([data.hkl, hemisphere(2 * data.hkl[rows])]))
    known = np.full(len(double), np.nan)
    known[double.index[: len(data)]] = data.intensity
    found = known[double.index[len(data) :]]
    return np.where(np.isnan(found), data.mean[rows], np.maximum(found, 0.0))


def summary(name: str, data: Intensities, absent: Bools, rest: Bools, mean: Floats) -> Class:
    """Return the figures of a class and of other reflections on the same rows or planes."""

    def ratio(rows: Bools) -> float:
        return float(np.mean(data.intensity[rows] / data.sigma[rows])) if rows.any() else np.nan

    yes, no = log_odds(data, absent, mean)
    measured = bool(absent.any())
    level = float(data.intensity[absent].sum() / mean[absent].sum()) if measured else np.nan
    probability = float(1 / (1 + np.exp(np.clip(no - yes, -700, 700)))) if measured else np.nan
    n, n_rest = int(absent.sum()), int(rest.sum())
    return Class(name, n, ratio(absent), n_rest, ratio(rest), level, probability)


def examine(data: Intensities, group: SpaceGroup) -> tuple[list[Class], list[Extinction]]:
    """Compare all space groups with the axes, Laue group and lattice translations of a group.

    Parameters
    ----------
    data : Intensities
        On the axes of the group.
    group : SpaceGroup

    Returns
    -------
    classes : list of Class
    extinctions : list of Extinction
        The most probable first.
    """
    data = merged(data, group)
    mean = data.mean * group.epsilon(data.hkl)
    box = absences.box(group)
    elements = absences.distinct_operations(group)
    classes = []
    for name, operation, _ in elements:
        absent, there = operation.forbids(data.hkl, group.laue_operations)
        classes.append(summary(name, data, absent, there & ~absent, mean))
    alike: dict[bytes, list[SpaceGroup]] = {}
    for other in symmetry.settings_alike(group):
        alike.setdefault(other.is_absent(box).tobytes(), []).append(other)
    members = list(alike.values())
    scores = _scores(data, mean, [groups[0] for groups in members])
    total = np.exp(scores - np.logaddexp.reduce(scores))
    found = []
    for groups, probability in zip(members, total, strict=True):
        absent = groups[0].is_absent(box)
        unmeasured = tuple(
            c.name
            for c, (_, _, forbidden) in zip(classes, elements, strict=True)
            if not c.number and np.all(absent[forbidden])
        )
        found.append(Extinction(tuple(groups), float(probability), int(absent.sum()), unmeasured))
    return classes, sorted(found, key=lambda e: (-round(e.probability, 6), e.forbidden))


def merged(data: Intensities, group: SpaceGroup) -> Intensities:
    """Return the mean intensities of equivalents: they are one test of an absence, not several."""
    groups = Groups.of(group.asymmetric(data.hkl))
    everything = np.ones(len(data), dtype=np.bool_)
    mean, weight = groups.mean(data.intensity, data.sigma**-2.0)
    value = np.where(groups.n >= 3, groups.median(data.intensity, everything), mean)
    shell = groups.sum(data.mean) / groups.n
    return Intensities(groups.hkl, value, weight**-0.5, shell, data.relative, data.repeated)


def _scores(data: Intensities, mean: Floats, groups: Sequence[SpaceGroup]) -> Floats:
    """Return the log likelihood of each group, from classes that no group divides."""
    absent = np.array([group.is_absent(data.hkl) for group in groups]).reshape(len(groups), -1)
    some = absent.any(axis=0)
    patterns, index = np.unique(absent[:, some], axis=1, return_inverse=True)
    rows = np.flatnonzero(some)
    scores = np.zeros(len(groups))
    for i in range(patterns.shape[1]):
        mask = np.zeros(len(data), dtype=np.bool_)
        mask[rows[np.ravel(index) == i]] = True
        yes, no = log_odds(data, mask, mean)
        scores += np.where(patterns[:, i], yes, no)
    return scores
