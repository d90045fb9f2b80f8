r"""Test what each scan does to the merged intensities: ΔCC1/2.

CC1/2 is computed from the scatter of the equivalents, without random halves:
``CC1/2 = (σ_y² - σ_ε²/2) / (σ_y² + σ_ε²/2)``, with the variance σ_y² of the merged intensities over
the reflections, and σ_ε²/2 the mean variance of a merged intensity (Assmann, Brehm & Diederichs,
J. Appl. Cryst. 49, 1021, 2016). ``ΔCC1/2 = CC1/2(all) - CC1/2(without the scan)``; it is negative
if the scan makes the merged intensities worse.

Intensities are divided by the mean of their neighbours in resolution, and means are weighted. With
right weights, a weak scan never lowers CC1/2: only a scan that contradicts the others does.

A few strong reflections dominate CC1/2, so that its error is large and hard to know. Chance is
therefore excluded by a sign test, in which each reflection has one vote: whether the reduced χ² of
its equivalents falls without the scan. If k of n observations are from a scan that agrees with the
others, χ² falls by a χ² of k degrees of freedom, which is independent of the remaining χ² of
n - k - 1. The reduced χ² falls then with probability ``P(F(k, n - k - 1) > 1)``, about one half.
The votes of a scan that contradicts the others are more.

A scan that contradicts the others also spoils their scales, so that a good scan can seem to be the
wrong one. Therefore, if one scan contradicts, the others are scaled again without each suspect.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hklflow.bragg.groups import Groups

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_FEWEST = 40  # common reflections that show an influence
_LEAST = 1e-12  # smallest 1 - CC1/2


@dataclass(frozen=True)
class Influence:
    """Influence of one scan on the reflections that it has in common with other scans.

    Attributes
    ----------
    common : int
        Unique reflections of the scan with two or more observations in other scans.
    cc_half, cc_half_without : float or None
        CC1/2 of these reflections with and without the scan; None if they are too few.
    worse, chance : float
        Fraction of these reflections whose equivalents scatter less without the scan, by reduced
        χ², and the fraction expected of a scan that agrees with the others.
    significance : float
        Excess of ``worse`` over ``chance``, in standard errors.
    """

    common: int
    cc_half: float | None = None
    cc_half_without: float | None = None
    worse: float = 0.0
    chance: float = 0.0
    significance: float = 0.0

    @property
    def delta(self) -> float | None:
        """ΔCC1/2; None if it is not known."""
        if self.cc_half is None or self.cc_half_without is None:
            return None
        return self.cc_half - self.cc_half_without

    @property
    def gain(self) -> float:
        """Fraction by which 1 - CC1/2 falls without the scan; negative for a scan that helps."""
        if self.cc_half is None or self.cc_half_without is None:
            return 0.0
        return 1 - max(1 - self.cc_half_without, _LEAST) / max(1 - self.cc_half, _LEAST)

    def contradicts(self, limit: float) -> bool:
        """Return True if CC1/2 rises without the scan, with a significance above a limit."""
        return self.gain > 0 and self.significance > limit


@dataclass(frozen=True)
class Normalized:
    """Observations on one scale, divided by the mean intensity at their resolution.

    Attributes
    ----------
    groups : Groups
        Groups of the n equivalents.
    value, weight : (n,) arrays
        Normalized intensities and their inverse variances.
    scan : (n,) int array
        Number of the scan of each observation.
    """

    groups: Groups
    value: Floats
    weight: Floats
    scan: Integers

    def shared(self, number: int) -> Bools:
        """Return True for each group of a scan that has two or more observations in others."""
        mine = self.scan == number
        return (self.groups.sum(mine) > 0) & (self.groups.sum(~mine) >= 2)


def influences(observed: Normalized, n_scans: int) -> list[Influence]:
    """Return the influence of each scan, with the scales of all scans.

    Parameters
    ----------
    observed : Normalized
    n_scans : int
    """
    groups, value, weight = observed.groups, observed.value, observed.weight
    found = []
    for number in range(n_scans):
        mine, shared = observed.scan == number, observed.shared(number)
        n_mine, n_others = groups.sum(mine), groups.sum(~mine)
        common = int(shared.sum())
        if common < _FEWEST:
            found.append(Influence(common))
            continue
        with_it = _merged(value, weight, groups, shared)
        without = _merged(value, np.where(mine, 0.0, weight), groups, shared)
        votes = without.chi2 < with_it.chi2
        chance = np.asarray(stats.f.sf(1.0, n_mine[shared], n_others[shared] - 1))
        excess = (votes.sum() - chance.sum()) / np.sqrt(np.sum(chance * (1 - chance)))
        found.append(
            Influence(
                common,
                with_it.cc_half,
                without.cc_half,
                float(votes.mean()),
                float(chance.mean()),
                float(excess),
            )
        )
    return found


def scaled_again(its: Influence, observed: Normalized, number: int, rest: Normalized) -> Influence:
    """Return the influence of a scan if the other scans are scaled again without it.

    Parameters
    ----------
    its : Influence
        Its influence with the scales of all scans.
    observed : Normalized
        Observations of all scans.
    number : int
        Number of the scan.
    rest : Normalized
        Observations of the other scans, scaled without it.
    """
    common = set(map(tuple, observed.groups.hkl[observed.shared(number)].tolist()))
    among = [tuple(hkl) in common for hkl in rest.groups.hkl.tolist()]
    shared = np.array(among, dtype=np.bool_) & (rest.groups.n >= 2)
    without = _merged(rest.value, rest.weight, rest.groups, shared)
    return replace(its, cc_half_without=without.cc_half)


@dataclass(frozen=True)
class _Merged:
    """Weighted means (m,) of groups, their variances from the scatter, and reduced χ²."""

    mean: Floats
    variance: Floats
    chi2: Floats

    @property
    def cc_half(self) -> float:
        spread, error = float(np.var(self.mean)), float(np.mean(self.variance))
        return (spread - error) / (spread + error) if spread + error > 0 else 0.0


def _merged(value: Floats, weight: Floats, groups: Groups, shared: Bools) -> _Merged:
    mean, total = groups.mean(value, weight)
    free = groups.sum(weight > 0)[shared] - 1
    chi2 = groups.sum(weight * (value - mean[groups.index]) ** 2)[shared] / free
    return _Merged(mean[shared], chi2 / total[shared], chi2)
