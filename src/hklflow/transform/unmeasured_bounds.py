"""Interval of the isotropic background that was not measured; see `unmeasured`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.transform.repeats import Records
from hklflow.transform.unmeasured import Fit, Places

Floats = NDArray[np.float64]

_Z, _Z_LEAST = 2.0, 3.0  # standard errors at the upper and at the lower end
_LEAST_COUNTS = 50


class Bounds(NamedTuple):
    """Interval of the isotropic background in shells of |Q|, in units of S.

    Attributes
    ----------
    edges : (n + 1,) array
        1/Å.
    low, high : (n,) arrays
        Ends of the interval of the mean background of the shell; NaN without enough counts.
    level : (n,) array
        Mean of T S and background, without the anisotropic part.
    """

    edges: Floats
    low: Floats
    high: Floats
    level: Floats


def bounds(
    records: Records,
    places: Places,
    blocks: NDArray[np.int64],
    found: Fit,
    pixels: Places,
    edges: Floats,
    seed: int = 0,
) -> Bounds:
    """Return the interval of the isotropic background.

    The lower end is the mean over a shell minus the least of the background, which is not below 0.
    The upper end is the least crystal and background of a block of reciprocal space. The least of
    noisy blocks is below the truth; therefore one half of the photons chooses the blocks, and the
    other half gives their level.

    Parameters
    ----------
    blocks : (records,) array
        Number of the block of reciprocal space of each record.
    pixels : Places
        Of the pixels of the detector in use.
    edges : (n + 1,) array
        Edges of the shells, 1/Å.
    seed : int
        Of the halves.
    """
    rng = np.random.default_rng(seed)
    n = len(edges) - 1
    counts = np.asarray(records.counts, np.int64)
    unit = np.asarray(records.background, np.float64)
    half = rng.binomial(counts, 0.5)
    at_pixel, variance = found.image(pixels)
    at_record = found.image(places)[0]
    of_pixel, of_record = (np.digitize(x.q, edges) - 1 for x in (pixels, places))
    low, high, level = np.full((3, n), np.nan)
    for i in range(n):
        own, mine = of_pixel == i, of_record == i
        if not own.any() or counts[mine].sum() < _LEAST_COUNTS:
            continue
        mean = float(at_pixel[own].mean())
        low[i] = max(0.0, float((mean - at_pixel[own] - _Z_LEAST * np.sqrt(variance[own])).max()))
        known = unit[mine] * (at_record[mine] - mean)
        m = unit[mine].sum()
        level[i] = (counts[mine].sum() - known.sum()) / m
        own_blocks = np.unique(blocks[mine], return_inverse=True)[1]
        sums = [
            np.bincount(own_blocks, x).astype(np.float64)
            for x in (half[mine], counts[mine] - half[mine], known, unit[mine])
        ]
        ceiling = level[i] + _Z * np.sqrt(counts[mine].sum()) / m
        high[i] = max(min(_least(*sums), ceiling), low[i])
    return Bounds(edges, low, high, level)


def _least(first: Floats, second: Floats, known: Floats, unit: Floats) -> float:
    """Return the least level of blocks plus ``_Z`` standard errors, from halves of their counts."""
    enough = first + second > _LEAST_COUNTS
    if not enough.any():
        return float("nan")
    A, B, E, M = (x[enough] for x in (first, second, known, unit))
    totals, variances = [], []
    for chooses, tells in ((A, B), (B, A)):
        order = np.argsort((2 * chooses - E) / M)
        mine, other, e, m = (np.cumsum(x[order]) for x in (chooses, tells, E, M))
        numbers = np.unique(np.geomspace(1, len(m), 40).astype(int)) - 1
        ends = (2 * mine - e) / m + _Z * 2 * np.sqrt(np.maximum(mine, 1)) / m
        best = numbers[np.argmin(ends[numbers])]
        totals.append((2 * other[best] - e[best]) / m[best])
        variances.append(4 * max(other[best], 1.0) / m[best] ** 2)
    # The halves are independent.
    return float(np.mean(totals) + _Z * np.sqrt(np.sum(variances)) / 2)
