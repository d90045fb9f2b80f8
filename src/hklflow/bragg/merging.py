"""Merge scaled observations to one intensity and amplitude of each unique reflection."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.amplitudes import Estimator, amplitudes
from hklflow.bragg.groups import Groups
from hklflow.bragg.outliers import find_outliers
from hklflow.bragg.structure_factors import Means, Scaled, StructureFactors
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.symmetry import SpaceGroup

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_MANY = 0.05  # warn above this fraction of outliers, or of groups that disagree


@dataclass(frozen=True)
class Merged:
    """Unique reflections, and the observations from which they are merged.

    Attributes
    ----------
    factors : StructureFactors
    observed : Scaled
        The n observations that are merged.
    equivalents : Groups
        Groups of these n rows; Friedel mates are separate groups if ``anomalous``.
    outlier : (m,) bool array
        True for outliers, of the m input rows.
    warnings : tuple of str
    """

    factors: StructureFactors
    observed: Scaled
    equivalents: Groups
    outlier: Bools
    warnings: tuple[str, ...]


def merge(
    table: Scaled,
    cell: Sequence[float],
    group: SpaceGroup,
    anomalous: bool,
    outlier_sigma: float,
    estimator: Estimator,
) -> Merged:
    """Merge equivalents of the Laue group: means weighted with the inverse variances.

    If fewer than two thirds of the equivalents agree, no observation is rejected, and the scatter
    of the equivalents gives the error.

    Parameters
    ----------
    table : Scaled
        Observations without systematic absences.
    cell : sequence of 6 floats
    group : SpaceGroup
    anomalous : bool
        True: Friedel mates are not equivalents, and are also returned separately.
    outlier_sigma : float
        See `hklflow.bragg.outliers`.
    estimator : "french_wilson" or "plain"
        See `hklflow.bragg.amplitudes`.
    """
    unit = group.asymmetric(table.hkl)
    apart = group.asymmetric(table.hkl, anomalous=True)
    equivalents = Groups.of(apart if anomalous else unit)
    everything = np.ones(len(table), dtype=np.bool_)
    outlier, agree = find_outliers(
        table.intensity, table.sigma**2, equivalents, everything, outlier_sigma
    )
    kept = ~outlier
    observed = table.select(kept)
    unique = Groups.of(unit[kept])
    scattered = unique.sum(~agree[equivalents.index[kept]]) > 0
    is_plus = np.all(apart == unit, axis=1)[kept]
    mean = _means(observed, unique, np.ones(len(observed), dtype=np.bool_), scattered)
    d = lattice.d_spacing(symmetry.constrain_cell(cell, group), unique.hkl)
    value, error = amplitudes(
        mean.intensity,
        mean.sigma,
        d,
        group.epsilon(unique.hkl),
        group.is_centric(unique.hkl),
        estimator,
    )
    factors = StructureFactors(
        hkl=unique.hkl,
        d=d,
        mean=mean,
        amplitude=value,
        amplitude_sigma=error,
        agree=~scattered,
        plus=_means(observed, unique, is_plus, scattered) if anomalous else None,
        minus=_means(observed, unique, ~is_plus, scattered) if anomalous else None,
    )
    warnings = []
    several = int(np.sum(equivalents.n >= 2))
    wrong = int(outlier.sum()) + int(np.sum(~agree))
    if several and wrong > _MANY * max(len(table) - len(equivalents), 1):
        warnings.append(
            f"{int(outlier.sum())} of {len(table)} observations are outliers and {np.sum(~agree)} "
            f"of {several} unique reflections do not agree: the Laue group {group.laue} may be too "
            "high, or the error bars too small"
        )
    return Merged(
        factors,
        observed,
        Groups.of((apart if anomalous else unit)[kept]),
        outlier,
        tuple(warnings),
    )


def _means(observed: Scaled, groups: Groups, use: Bools, scattered: Bools) -> Means:
    weight = np.where(use, observed.sigma**-2, 0.0)
    mean, total = groups.mean(observed.intensity, weight)
    n = groups.sum(use).astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = 1 / np.sqrt(total)
        chi2 = groups.sum(weight * (observed.intensity - mean[groups.index]) ** 2)
        outer = inner * np.sqrt(chi2 / (n - 1))
    sigma = np.where(scattered & (n >= 2), np.maximum(inner, outer), inner)
    return Means(mean, np.where(n > 0, sigma, np.nan), n)
