r"""Test what each scan does to the merged intensities: ΔCC1/2.

CC1/2 is computed from the scatter of the equivalents, without random halves:
``CC1/2 = (σ_y² - σ_ε²/2) / (σ_y² + σ_ε²/2)``, with the variance σ_y² of the merged intensities over
the reflections, and σ_ε²/2 the mean variance of a merged intensity (Assmann, Brehm & Diederichs,
J. Appl. Cryst. 49, 1021, 2016). ``ΔCC1/2 = CC1/2(all) - CC1/2(without the scan)``; it is negative
if the scan makes the merged intensities worse.

Intensities are divided by the mean of their neighbours in resolution, and means are weighted. With
right weights, a weak scan never lowers CC1/2: only a scan that contradicts the others does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.groups import Groups

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_BLOCKS = 40  # of reflections, for the error by the jackknife
_FEWEST = 40  # common reflections that show an influence


@dataclass(frozen=True)
class Influence:
    """Influence of one scan on the reflections that it has in common with other scans.

    Attributes
    ----------
    common : int
        Unique reflections of the scan with two or more observations in other scans.
    cc_half, cc_half_without : float or None
        CC1/2 of these reflections with and without the scan; None if they are too few.
    gain : float
        ``ln((1 - CC1/2) / (1 - CC1/2 without))``: how much the relative variance of the merged
        intensities falls without the scan. Negative for a scan that helps.
    gain_sigma : float
        Standard error of the gain, from blocks of reflections (jackknife).
    """

    common: int
    cc_half: float | None
    cc_half_without: float | None
    gain: float = 0.0
    gain_sigma: float = np.inf

    @property
    def delta(self) -> float | None:
        """ΔCC1/2; None if it is not known."""
        if self.cc_half is None or self.cc_half_without is None:
            return None
        return self.cc_half - self.cc_half_without

    def harms(self, least_gain: float, sigma: float) -> bool:
        """Return True if CC1/2 rises without the scan, by more than chance and by enough.

        Parameters
        ----------
        least_gain : float
            Smallest fraction by which 1 - CC1/2 must fall without the scan.
        sigma : float
            Smallest number of standard errors.
        """
        return self.gain > -np.log(1 - least_gain) and self.gain > sigma * self.gain_sigma


def influences(
    intensity: Floats,
    variance: Floats,
    level: Floats,
    groups: Groups,
    scan: Integers,
    n_scans: int,
    seed: int,
) -> list[Influence]:
    """Return the influence of each scan.

    Parameters
    ----------
    intensity, variance : (n,) arrays
        Observations on one scale, and their variances.
    level : (n,) array
        Mean intensity at their resolution, by which the observations are divided.
    groups : Groups
        Groups of the n equivalents.
    scan : (n,) int array
        Number of the scan of each observation.
    n_scans : int
    seed : int
        Seed of the blocks of reflections.
    """
    value, weight = intensity / level, level**2 / variance
    block = np.random.default_rng(seed).integers(0, _BLOCKS, len(groups))
    found = []
    for number in range(n_scans):
        mine = scan == number
        shared = (groups.sum(mine) > 0) & (groups.sum(~mine) >= 2)
        common = int(shared.sum())
        if common < _FEWEST:
            found.append(Influence(common, None, None))
            continue
        everything = _Sums.of(value, weight, groups, shared, block)
        others = _Sums.of(value, np.where(mine, 0.0, weight), groups, shared, block)
        gain = np.log(everything.defect / others.defect)
        each = np.log(everything.defect_without_blocks / others.defect_without_blocks)
        spread = (_BLOCKS - 1) / _BLOCKS * np.sum((each - each.mean()) ** 2)
        found.append(
            Influence(
                common,
                1 - everything.defect,
                1 - others.defect,
                float(gain),
                float(np.sqrt(spread)),
            )
        )
    return found


@dataclass(frozen=True)
class _Sums:
    """Sums over blocks (b,) of reflections: number, mean, squared mean, variance of the mean."""

    n: Floats
    mean: Floats
    square: Floats
    error: Floats

    @classmethod
    def of(
        cls, value: Floats, weight: Floats, groups: Groups, shared: Bools, block: Integers
    ) -> "_Sums":
        mean, total = groups.mean(value, weight)
        n = groups.sum(weight > 0)
        chi2 = groups.sum(weight * (value - mean[groups.index]) ** 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = chi2 / (n - 1) / total
        rows = np.flatnonzero(shared)

        def summed(values: Floats) -> Floats:
            of_blocks: Floats = np.bincount(block[rows], values[rows], _BLOCKS)
            return of_blocks

        return cls(summed(np.ones(len(n))), summed(mean), summed(mean**2), summed(error))

    @property
    def defect(self) -> float:
        """1 - CC1/2."""
        return float(_defect(self.n.sum(), self.mean.sum(), self.square.sum(), self.error.sum()))

    @property
    def defect_without_blocks(self) -> Floats:
        """1 - CC1/2 (b,) without each block."""
        sums = (self.n, self.mean, self.square, self.error)
        return _defect(*(values.sum() - values for values in sums))


def _defect(n: Floats, mean: Floats, square: Floats, error: Floats) -> Floats:
    spread = np.maximum(square / n - (mean / n) ** 2, 1e-300)
    # Its limit is 2, the correlation -1; noise can make the estimate of σ_τ² negative.
    of_mean = error / n
    defect: Floats = 2 * of_mean / (spread + of_mean)
    return np.maximum(defect, 1e-12)
