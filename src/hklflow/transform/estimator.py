r"""S(Q) and its error bar from accumulated counts and norm.

``S = C / M`` with ``C ~ Poisson(M S)``, so ``var(S) = μ / M²`` where μ, the
expected count, is not known. Putting ``μ = C`` makes σ and S fluctuate
together: an empty voxel would claim zero error, and residual/σ would be biased
by ``-1 / (2 √μ)``, which is not small for less than a thousand counts. Here μ is
the linear Bayes estimate (the local Wiener filter of J.-S. Lee, IEEE PAMI 2,
165, 1980) from the voxel and its neighbourhood of ``(2 reach + 1)³`` voxels:

.. math:: \hat μ = M \frac{V S + (r / M) r}{V + r / M},
          \qquad V = \max(0, s² - \text{Poisson part})

with the pooled rate ``r = Σ C / Σ M`` and the variance ``s²`` of S between voxels
of the neighbourhood. Where the neighbourhood is flat within Poisson noise, V = 0
and μ is pooled over many voxels; where there is structure, μ is the voxel's own
count. S itself is never smoothed.

With read noise the variance of C is not its mean. Its unbiased estimate, photons and read
variance, fluctuates as C does, so all of this holds with it in the place of C, but for S.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.transform import estimator_kernels as kernels

Floats = NDArray[np.float64]


def expected_counts(counts: Floats, norm: Floats, reach: int = 2) -> Floats:
    """Estimate of the expected count of every voxel, for its variance.

    The neighbourhood shrinks from ``reach`` to 1 to the voxel itself where the
    structure asks for it.

    Parameters
    ----------
    counts, norm : (l, k, h) arrays
        Sums of counts and of the norm; voxels with norm 0 are empty.
    reach : int
        Half-width of the neighbourhood in voxels, up to 8; 0 gives ``max(counts, 1)``.

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
    """S and its standard deviation; NaN where nothing was measured.

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
    """`intensity` of some planes and rows, into given arrays of any precision.

    Parameters
    ----------
    counts, norm : (l, k, h) arrays
        With ``reach`` planes more on both sides, unless the volume ends there.
    planes, rows : slice
        Of `counts`, along l and k.
    data, errors : (planes, k, h) arrays
        Filled in these rows.
    variance : (l, k, h) array, optional
        Of the counts, where it is not the counts: with read noise.
    """
    _check(counts, norm, reach)
    l, k = (planes.start, planes.stop), (rows.start, rows.stop)  # noqa: E741
    if variance is None:
        kernels.derive(counts, norm, l, k, reach, data, errors, False)
        return
    kernels.derive(variance, norm, l, k, reach, data, errors, False)
    own = counts[planes, rows], norm[planes, rows]
    data[:, rows] = np.divide(*own, out=np.full(own[0].shape, np.nan), where=own[1] > 0)


def _check(counts: Floats, norm: Floats, reach: int) -> None:
    if counts.shape != norm.shape or not 0 <= reach <= kernels.MOST_REACH:
        raise ValueError(f"counts {counts.shape}, norm {norm.shape}, reach {reach} (0 to 8)")


class Sums(NamedTuple):
    """What `add` found in some planes; those of parts of a volume add up.

    Attributes
    ----------
    measured : int
        Voxels with a norm.
    counts : float
        Sum of all counts.
    chi2, dof : float, int
        See `disagreement`.
    """

    measured: int
    counts: float
    chi2: float
    dof: int


def add(
    parts_counts: NDArray[Any],
    parts_norm: NDArray[Any],
    counts: Floats,
    norm: Floats,
    at: tuple[int, int] = (0, 0),
) -> Sums:
    """Sum counts and norm over n volumes, and compare these.

    Parameters
    ----------
    parts_counts, parts_norm : (n, l, k, h) arrays
        Numbers of any kind.
    counts, norm : (l, k, h) float64 arrays
        Filled from the plane and row ``at`` on.
    """
    return Sums(*kernels.add(parts_counts, parts_norm, counts, norm, *at))


def add_noisy(parts: list[NDArray[Any]], sums: list[Floats], at: tuple[int, int] = (0, 0)) -> Sums:
    """`add` for volumes with read noise, of which some may have none.

    Parameters
    ----------
    parts : three (n, l, k, h) arrays
        Counts, norm and variance of the counts.
    sums : three (l, k, h) float64 arrays
        Filled from the plane and row ``at`` on.
    """
    found = add(parts[0], parts[1], sums[0], sums[1], at)
    counts, norm, variance = (np.asarray(part, dtype=np.float64) for part in parts)
    _, n_l, n_k, _ = counts.shape
    here = np.s_[at[0] : at[0] + n_l, at[1] : at[1] + n_k]
    sums[2][here] = variance.sum(axis=0)
    # What photons and read noise let expect; as in `disagreement`.
    read = np.maximum(variance - counts, 0.0)
    rate = np.maximum(sums[0][here], 0.0) / np.where(sums[1][here] > 0, sums[1][here], np.inf)
    use = (norm > 0) & (norm * rate + read >= kernels.NORMAL)
    pooled = np.sum(counts * use, axis=0) / np.maximum(np.sum(norm * use, axis=0), 1e-300)
    expected = np.where(use, np.maximum(pooled, 0.0) * norm + read, 1.0)
    # Noise differs between volumes: so do their weights.
    weight = use * norm / expected
    rate = np.sum(weight * counts, axis=0) / np.maximum(np.sum(weight * norm, axis=0), 1e-300)
    several = use & (use.sum(axis=0) > 1)
    chi2 = float(np.sum(several * (counts - rate * norm) ** 2 / expected))
    dof = int(several.sum()) - int(several.any(axis=0).sum())
    return found._replace(chi2=chi2, dof=dof)


_LEAST_CHI2 = 0.5
_CHANCE = 1e-6


def dependence(chi2: float, dof: int) -> str | None:
    """Say that volumes agree better than independent counts can, if so.

    Independent counts have χ² = dof, and scatter by √(2 dof). Where the variance is overestimated,
    as for a gain below 1 or for corrected frames, χ²/dof is the ratio of the variances: 0.69 for
    error bars that are 1.2 times too large. So it is told only below 0.5 (error bars 1.4 times too
    large), and where independent counts give it with a chance below 10⁻⁶; with few voxels they
    often do. One measurement, counted twice, has 0, and somewhat more where orientations or scales
    differ.

    Parameters
    ----------
    chi2, dof : float, int
        Of `Sums`.
    """
    from scipy.special import chdtr

    if dof == 0 or chi2 / dof >= _LEAST_CHI2 or chdtr(dof, chi2) >= _CHANCE:
        return None
    return (
        f"the rotations agree better than independent counts can: reduced chi2 {chi2 / dof:.3f} "
        f"with {dof} degrees of freedom, where it is 1 within {5 * math.sqrt(2 / dof):.2g}. The "
        "errors of the merged volume are doubtful: see whether two rows of the table of scans "
        "have the same raw frames (`hklflow check`), and whether the raw values are photons "
        "(integrating detectors need `correct_frames`)"
    )


def disagreement(volumes: list[tuple[Floats, Floats]]) -> tuple[float, int]:
    """How well volumes of the same S agree: reduced χ² and its degrees of freedom.

    A voxel counts where at least two volumes measured it with at least 25 expected
    counts each, so that the Poisson distribution is close to normal. These are
    compared with the rate pooled over them, under which the expected count is
    ``M Σ C / Σ M``.

    Parameters
    ----------
    volumes : list of (counts, norm)
    """
    counts, norm = (np.stack([volume[i] for volume in volumes]) for i in (0, 1))
    sums = add(counts, norm, np.empty(counts.shape[1:]), np.empty(counts.shape[1:]))
    return (sums.chi2 / sums.dof if sums.dof else float("nan")), sums.dof
