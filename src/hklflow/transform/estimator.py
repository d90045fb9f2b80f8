r"""S(Q) and its error bar, calculated from accumulated counts and norm.

``S = C / M`` with ``C ~ Poisson(M S)``. The variance of S is therefore ``μ / M²`` with the unknown
expected count μ. If μ were C, σ and S would fluctuate together: an empty voxel would have zero
error, and residual/σ would be biased by ``-1 / (2 √μ)``, which is not small below a thousand
counts. Therefore μ is a linear Bayes estimate (the local Wiener filter of J.-S. Lee, IEEE PAMI 2,
165, 1980) from the voxel and its neighbourhood of ``(2 reach + 1)³`` voxels:

.. math:: \hat μ = M \frac{V S + (r / M) r}{V + r / M},
          \qquad V = \max(0, s² - \text{Poisson part})

with the pooled rate ``r = Σ C / Σ M`` and the variance ``s²`` of S between voxels
of the neighbourhood. Where the neighbourhood is flat within Poisson noise, V = 0 and μ is pooled
over many voxels. Where the neighbourhood has structure, μ is the count of the voxel itself. S is
never smoothed.

With read noise, the variance of C differs from the mean of C. The unbiased estimate of this
variance (photons plus read variance) fluctuates like C. It therefore replaces C in all formulas
except ``S = C / M``.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.transform import estimator_kernels as kernels

Floats = NDArray[np.float64]


def expected_counts(counts: Floats, norm: Floats, reach: int = 2) -> Floats:
    """Estimate the expected count of every voxel; it determines the variance of the voxel.

    Where S has structure, the neighbourhood is reduced from ``reach`` to 1, and then to the voxel
    itself.

    Parameters
    ----------
    counts, norm : (l, k, h) arrays
        Sums of counts and of the norm; voxels with norm 0 are empty.
    reach : int
        Half-width of the neighbourhood in voxels, up to 8; for 0 the result is ``max(counts, 1)``.

    Returns
    -------
    (l, k, h) array
        Positive in every voxel that was measured; 0 in empty voxels.
    """
    _check(counts, norm, reach)
    expected = np.empty(counts.shape)
    planes, rows = (0, counts.shape[0]), (0, counts.shape[1])
    kernels.derive(counts, norm, planes, rows, reach, expected, expected, True)
    return expected


def intensity(counts: Floats, norm: Floats, reach: int = 2) -> tuple[Floats, Floats]:
    """Return S and its standard deviation; NaN where nothing was measured.

    Parameters
    ----------
    counts, norm : (l, k, h) arrays
    reach : int
        See `expected_counts`.

    Returns
    -------
    data, errors : (l, k, h) arrays
    """
    data, errors = np.empty(counts.shape), np.empty(counts.shape)
    planes, rows = slice(0, counts.shape[0]), slice(0, counts.shape[1])
    derive(counts, norm, planes, rows, reach, data, errors)
    return data, errors


def derive(
    counts: Floats,
    norm: Floats,
    planes: slice,
    rows: slice,
    reach: int,
    data: NDArray[Any],
    errors: NDArray[Any],
    variance: Floats | None = None,
) -> None:
    """Write S and its standard deviation, for some planes and rows, into existing arrays.

    Parameters
    ----------
    counts, norm : (l, k, h) arrays
        Planes to calculate, and ``reach`` more planes on both sides, unless the volume ends there.
    planes, rows : slice
        Planes and rows of ``counts`` to calculate, along l and k.
    reach : int
        See `expected_counts`.
    data, errors : (planes, k, h) arrays
        Output arrays of any precision; only these rows are written.
    variance : (l, k, h) array, optional
        Variance of the counts with read noise. None: the variance equals the counts.
    """
    _check(counts, norm, reach)
    l, k = (planes.start, planes.stop), (rows.start, rows.stop)  # noqa: E741
    if variance is None:
        kernels.derive(counts, norm, l, k, reach, data, errors, False)
        return
    kernels.derive(variance, norm, l, k, reach, data, errors, False)
    c, m = counts[planes, rows], norm[planes, rows]
    data[:, rows] = np.divide(c, m, out=np.full(c.shape, np.nan), where=m > 0)


def _check(counts: Floats, norm: Floats, reach: int) -> None:
    if counts.shape != norm.shape or not 0 <= reach <= kernels.MOST_REACH:
        raise ValueError(f"counts {counts.shape}, norm {norm.shape}, reach {reach} (0 to 8)")


class Sums(NamedTuple):
    """Sums that `add` returns for some planes; sums of parts of a volume can be added.

    Attributes
    ----------
    measured : int
        Number of voxels with a norm above 0.
    counts : float
        Sum of all counts.
    chi2, dof : float, int
        See `disagreement`.
    """

    measured: int
    counts: float
    chi2: float
    dof: int

    @classmethod
    def of(cls, parts: "Sequence[Sums]") -> "Sums":
        """Add the sums of the parts, in their order."""
        return cls(*(sum(terms) for terms in zip(*parts, strict=True)))


def add(
    parts_counts: NDArray[Any],
    parts_norm: NDArray[Any],
    counts: Floats,
    norm: Floats,
    at: tuple[int, int] = (0, 0),
) -> Sums:
    """Sum counts and norm over n volumes, and compare the volumes with each other.

    Parameters
    ----------
    parts_counts, parts_norm : (n, l, k, h) arrays
        Arrays of any numeric type.
    counts, norm : (l, k, h) float64 arrays
        Output arrays; they are written from the plane and row ``at`` on.
    """
    return Sums(*kernels.add(parts_counts, parts_norm, counts, norm, *at))


def add_noisy(parts: list[NDArray[Any]], sums: list[Floats], at: tuple[int, int] = (0, 0)) -> Sums:
    """Sum and compare volumes as `add`, if at least one volume has read noise.

    Parameters
    ----------
    parts : three (n, l, k, h) arrays
        Counts, norm and variance of the counts.
    sums : three (l, k, h) float64 arrays
        Output arrays; they are written from the plane and row ``at`` on.
    """
    added = add(parts[0], parts[1], sums[0], sums[1], at)
    counts, norm, variance = (np.asarray(part, dtype=np.float64) for part in parts)
    _, n_l, n_k, _ = counts.shape
    region = np.s_[at[0] : at[0] + n_l, at[1] : at[1] + n_k]
    sums[2][region] = variance.sum(axis=0)
    # Expected variance of photons and read noise, as in `disagreement`.
    read = np.maximum(variance - counts, 0.0)
    rate = np.maximum(sums[0][region], 0.0) / np.where(sums[1][region] > 0, sums[1][region], np.inf)
    use = (norm > 0) & (norm * rate + read >= kernels.NORMAL)
    pooled = np.sum(counts * use, axis=0) / np.maximum(np.sum(norm * use, axis=0), 1e-300)
    expected = np.where(use, np.maximum(pooled, 0.0) * norm + read, 1.0)
    # The noise differs between volumes, and so do the weights.
    weight = use * norm / expected
    rate = np.sum(weight * counts, axis=0) / np.maximum(np.sum(weight * norm, axis=0), 1e-300)
    several = use & (use.sum(axis=0) > 1)
    chi2 = float(np.sum(several * (counts - rate * norm) ** 2 / expected))
    dof = int(several.sum()) - int(several.any(axis=0).sum())
    return added._replace(chi2=chi2, dof=dof)


_LEAST_CHI2 = 0.5
_CHANCE = 1e-6


def dependence(chi2: float, dof: int) -> str | None:
    """Return a warning if volumes agree better than independent counts can agree; else None.

    For independent counts χ² is dof ± √(2 dof). If the variance is overestimated (a gain below 1,
    or corrected frames), χ²/dof is the ratio of true to estimated variance: 0.69 for error bars
    that are 1.2 times too large. Two copies of the same measurement have χ² = 0, or slightly more
    if orientations or scales differ.

    The warning is given if χ²/dof is below 0.5 (error bars 1.4 times too large) and the probability
    of this value for independent counts is below 10⁻⁶. The second condition is needed because few
    voxels often give a small χ²/dof.

    Parameters
    ----------
    chi2, dof : float, int
        See `Sums`.
    """
    from scipy.special import chdtr

    if dof == 0 or chi2 / dof >= _LEAST_CHI2 or chdtr(dof, chi2) >= _CHANCE:
        return None
    return (
        "the rotations agree better than independent counts can: the reduced chi2 is "
        f"{chi2 / dof:.3f} instead of 1 ± {5 * math.sqrt(2 / dof):.2g} ({dof} degrees of freedom). "
        "The errors of the merged volume are doubtful: check that no two rows of the table of "
        "scans have the same raw frames (`hklflow check`), and that the raw values are photons "
        "(integrating detectors need `correct_frames`)"
    )


def disagreement(volumes: list[tuple[Floats, Floats]]) -> tuple[float, int]:
    """Return the reduced χ² between volumes of the same S, and its degrees of freedom.

    A voxel is used if at least two volumes measured it with at least 25 expected counts each; the
    Poisson distribution is then close to normal. Each volume is compared with the common rate of
    these volumes: its expected count is ``M Σ C / Σ M``.

    Parameters
    ----------
    volumes : list of (counts, norm)
    """
    counts, norm = (np.stack([volume[i] for volume in volumes]) for i in (0, 1))
    sums = add(counts, norm, np.empty(counts.shape[1:]), np.empty(counts.shape[1:]))
    return (sums.chi2 / sums.dof if sums.dof else float("nan")), sums.dof
