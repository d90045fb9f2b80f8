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
from scipy.ndimage import uniform_filter

Floats = NDArray[np.float64]

# The excess variance must exceed its own fluctuation in a flat neighbourhood by
# this factor before the voxel's own count is believed more than the pool.
_SIGNIFICANT = 3.0


def _box_sum(volume: Floats, reach: int) -> Floats:
    size = 2 * reach + 1
    sums: Floats = uniform_filter(volume, size=size, mode="constant") * float(size) ** 3
    return sums


def _pool(counts: Floats, norm: Floats, reach: int) -> tuple[Floats, Floats]:
    """Pooled rate of the neighbourhood, and how much a voxel's own count outweighs it.

    Returns
    -------
    rate : (l, k, h) array
    own : (l, k, h) array
        V / (V + r / M) of the module's formula, 0 to 1.
    """
    measured = norm > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        n = np.rint(_box_sum(measured.astype(np.float64), reach))
        pooled_norm = _box_sum(norm, reach)
        pooled = np.maximum(_box_sum(counts, reach), 0.0)
        # A neighbourhood without a single count still bounds the rate at about one count.
        rate = np.maximum(pooled, 0.5) / pooled_norm
        # s² as the weighted mean of M (S - r)², whose Poisson expectation is r.
        second = _box_sum(np.where(measured, counts**2 / np.where(measured, norm, 1.0), 0.0), reach)
        spread = (second - pooled**2 / pooled_norm) / np.maximum(n - 1, 1)
        # Fluctuation of `spread` for Poisson counts: r √(2/n + 1/(Σ counts)).
        noise = rate * np.sqrt(2.0 / np.maximum(n - 1, 1) + 1.0 / np.maximum(pooled, 0.5))
        excess = np.maximum(spread - rate - _SIGNIFICANT * noise, 0.0)
        own = excess / (excess + rate)
    return rate, own


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
        expected = own * expected + (1 - own) * rate * norm
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

    Only voxels with at least 25 expected counts in each volume count, so that
    the Poisson distribution is close to normal. Each volume is compared with the
    rate pooled over all of them, under which its expected count is ``M Σ C / Σ M``.

    Parameters
    ----------
    volumes : list of (counts, norm)
    """
    total_counts = np.sum([c for c, _ in volumes], axis=0)
    total_norm = np.sum([m for _, m in volumes], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = total_counts / total_norm
    chi2, n_terms = 0.0, np.zeros(total_norm.shape, dtype=np.int64)
    for counts, norm in volumes:
        mu = rate * norm
        use = mu >= 25
        chi2 += float(np.sum((counts[use] - mu[use]) ** 2 / mu[use]))
        n_terms += use
    dof = int(np.sum(np.maximum(n_terms - 1, 0)))
    return (chi2 / dof if dof else float("nan")), dof
