"""Find observations that disagree with their equivalents."""

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.groups import Groups

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def find_outliers(
    intensity: Floats, variance: Floats, groups: Groups, use: Bools, limit: float
) -> tuple[Bools, Bools]:
    """Find outliers among equivalent observations.

    In each group of three or more, the worst observation is compared with the weighted mean of the
    others. It is an outlier if the difference exceeds ``limit`` standard deviations; then the next
    observation is tested. In a group of two that disagree, the wrong observation cannot be
    identified: ``agree`` is False and neither is an outlier. The same applies if more than a third
    of a group would be outliers.

    Parameters
    ----------
    intensity, variance : (n,) arrays
        Intensities on one scale, and their variances.
    groups : Groups
        m groups.
    use : (n,) bool array
        False for observations to ignore; these are not outliers.
    limit : float
        Limit in standard deviations.

    Returns
    -------
    outlier : (n,) bool array
    agree : (m,) bool array
        False if fewer than two thirds of a group's observations agree; the group then has no
        outliers.
    """
    kept = use.copy()
    while True:
        deviation, n = _deviations(intensity, variance, groups, kept)
        worst = groups.largest(np.where(kept, deviation, -np.inf))[groups.index]
        bad = kept & (n >= 3) & (deviation > limit) & (deviation == worst)
        if not bad.any():
            break
        kept &= ~bad
    pair = kept & (n == 2) & (deviation > limit)
    agree = (groups.sum(pair) == 0) & (3 * groups.sum(use & ~kept) <= groups.sum(use))
    return use & ~kept & agree[groups.index], agree


def _deviations(
    intensity: Floats, variance: Floats, groups: Groups, use: Bools
) -> tuple[Floats, Floats]:
    """Return |I - mean of the other equivalents| in σ, and the number used in the group."""
    weight = np.where(use, 1 / variance, 0.0)
    others = groups.sum(weight)[groups.index] - weight
    n = groups.sum(use)[groups.index]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (groups.sum(weight * intensity)[groups.index] - weight * intensity) / others
        deviation = np.abs(intensity - mean) / np.sqrt(variance + 1 / others)
    return np.where(use & (n >= 2), deviation, 0.0), n
