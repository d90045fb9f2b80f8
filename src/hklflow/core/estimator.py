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
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

Floats = NDArray[np.float64]

# The excess variance must exceed its own fluctuation in a flat neighbourhood by
# this factor before the voxel's own count is believed more than the pool.
_SIGNIFICANT = 3.0


def _box_sum(volume: Floats, reach: int) -> Floats:
    # Not `uniform_filter`: its running sums leave the rounding error of a Bragg peak
    # on all voxels behind it.
    weights = np.ones(2 * reach + 1)
    for axis in range(volume.ndim):
        volume = correlate1d(volume, weights, axis=axis, mode="constant")
    return volume


def _pool(counts: Floats, norm: Floats, reach: int) -> tuple[Floats, Floats]:
    """Pooled rate of the neighbourhood, and how much a voxel's own count outweighs it.

    Only where ``norm > 0`` are the numbers of use.

    Returns
    -------
    rate : (l, k, h) array
    own : (l, k, h) array
        V / (V + r / M) of the module's formula, 0 to 1.
    """
    tiny = np.finfo(np.float64).tiny
    pooled_norm = np.maximum(_box_sum(norm, reach), tiny)
    pooled = np.maximum(_box_sum(counts, reach), 0.0)
    # A neighbourhood without a single count still bounds the rate at about one count.
    rate = np.maximum(pooled, 0.5) / pooled_norm
    squares = _box_sum(norm**2, reach)
    # Σ (C - r M)², whose Poisson expectation is r (Σ M - Σ M² / Σ M).
    spread = _box_sum(counts**2, reach) + rate * (
        rate * squares - 2 * _box_sum(counts * norm, reach)
    )
    poisson = rate * (pooled_norm - squares / pooled_norm)
    # Fluctuation of `spread` for Poisson counts: (C - μ)² has the variance 2 μ² + μ.
    noise = np.sqrt(rate * (2 * rate * squares + pooled_norm))
    excess = np.maximum(spread - poisson - _SIGNIFICANT * noise, 0.0)
    variance = excess / np.maximum(squares, tiny)
    return rate, variance * norm / np.maximum(variance * norm + rate, tiny)


def expected_counts(counts: Floats, norm: Floats, reach: int = 2) -> Floats:
    """Estimate of the expected count of every voxel, for its variance.

    The neighbourhood shrinks from ``reach`` to 1 to the voxel itself where the
    structure asks for it.

    Parameters
    ----------
    counts, norm : (l, k, h) arrays
        Sums of counts and of the norm; voxels with norm 0 are empty.
    reach : int
        Half-width of the neighbourhood in voxels; 0 gives ``max(counts, 1)``.

    Returns
    -------
    (l, k, h) array
        Positive in every voxel that was measured; 0 in empty voxels.
    """
    expected = np.maximum(counts, 1.0)
    for half_width in range(1, reach + 1):
        rate, own = _pool(counts, norm, half_width)
        expected = np.where(norm > 0, own * expected + (1 - own) * rate * norm, 0.0)
    return np.where(norm > 0, expected, 0.0)


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
    measured = norm > 0
    safe = np.where(measured, norm, np.nan)
    return counts / safe, np.sqrt(expected_counts(counts, norm, reach)) / safe


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
    chi2, dof = disagreement_sums(volumes)
    return (chi2 / dof if dof else float("nan")), dof


def disagreement_sums(volumes: list[tuple[Floats, Floats]]) -> tuple[float, int]:
    """χ² and degrees of freedom of `disagreement`; those of parts of volumes add up."""
    # What is expected decides which volumes are compared, never the count itself.
    rate = _rate(volumes)
    compared = [
        (np.where(m * rate >= 25, c, 0.0), np.where(m * rate >= 25, m, 0.0)) for c, m in volumes
    ]
    rate = _rate(compared)
    n_terms = np.sum([m > 0 for _, m in compared], axis=0)
    chi2 = 0.0
    for counts, norm in compared:
        use = (norm > 0) & (n_terms > 1)
        mu = rate[use] * norm[use]
        chi2 += float(np.sum((counts[use] - mu) ** 2 / mu))
    return chi2, int(np.sum(np.maximum(n_terms - 1, 0)))


def _rate(volumes: list[tuple[Floats, Floats]]) -> Floats:
    """Σ C / Σ M, 0 where there is no norm."""
    counts = np.sum([c for c, _ in volumes], axis=0)
    norm = np.sum([m for _, m in volumes], axis=0)
    rate: Floats = counts / np.where(norm > 0, norm, np.inf)
    return rate
