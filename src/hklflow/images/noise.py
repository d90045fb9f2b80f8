"""Noisy pixels: counts that change between frames more than photon counts do.

Pairs of consecutive frames are compared. If photons are counted, x1 is binomial for a given total
n = x1 + x2 of a pixel, at any rate; therefore t = (x1 - x2)^2 / n has the mean 1. Signals that
change slowly (diffuse scattering, absorption, background) are the same in both frames of a pair and
cancel. They would not cancel if all frames were compared with their mean.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import BoolImage
from hklflow.simd.jit import kernel

Floats = NDArray[np.float64]

#: Fraction of the pairs that is left out. Pairs with the largest t are left out, because a Bragg
#: peak makes t large.
TRIMMED = 0.2
#: Fewest pairs with which a pixel is judged.
MIN_PAIRS = 8
_CALM = 25.0  # largest t of pixels that are used to determine the first frame's share of the beam


@kernel
def _measured(a, b, flag_from):  # type: ignore[no-untyped-def]
    return 0 <= a < flag_from and 0 <= b < flag_from


@kernel
def _sums(first, second, bad, flag_from, share, calm):  # type: ignore[no-untyped-def]
    """Sum both frames over the pixels with t up to ``calm``."""
    one = 0.0
    two = 0.0
    for i in range(first.shape[0]):
        for j in range(first.shape[1]):
            a = float(first[i, j])
            b = float(second[i, j])
            if bad[i, j] or not _measured(a, b, flag_from):
                continue
            if (2 * (a - share * (a + b))) ** 2 <= calm * (a + b):
                one += a
                two += b
    return one, two


@kernel
def _add_pair(first, second, bad, flag_from, share, total, largest, pairs):  # type: ignore[no-untyped-def]
    """Add t to the totals, and keep the largest values of t in rising order."""
    for i in range(first.shape[0]):
        for j in range(first.shape[1]):
            a = float(first[i, j])
            b = float(second[i, j])
            if bad[i, j] or not _measured(a, b, flag_from):
                continue
            pairs[i, j] += 1
            if a + b == 0:
                continue
            t = (2 * (a - share * (a + b))) ** 2 / (a + b)
            total[i, j] += t
            top = largest[i, j]
            if t > top[0]:
                k = 0
                while k + 1 < len(top) and top[k + 1] < t:
                    top[k] = top[k + 1]
                    k += 1
                top[k] = t


@kernel
def _means(total, largest, pairs, judged, n_left_out):  # type: ignore[no-untyped-def]
    """Return the mean t of each judged pixel without its largest values, 0 for other pixels."""
    means = np.zeros(total.shape, np.float32)
    for i in range(total.shape[0]):
        for j in range(total.shape[1]):
            if not judged[i, j]:
                continue
            left_out = n_left_out[pairs[i, j]]
            rest = total[i, j]
            for k in range(left_out):
                rest -= largest[i, j, len(largest[i, j]) - 1 - k]
            means[i, j] = rest / (pairs[i, j] - left_out)
    return means


@kernel
def _alone(values, judged, loud, contrast):  # type: ignore[no-untyped-def]
    """Return True for loud pixels above ``contrast`` times the value of their neighbours."""
    result = np.zeros(loud.shape, np.bool_)
    near = np.empty(8)
    for i in range(loud.shape[0]):
        for j in range(loud.shape[1]):
            if not loud[i, j]:
                continue
            n = 0
            for a in range(max(0, i - 1), min(loud.shape[0], i + 2)):
                for b in range(max(0, j - 1), min(loud.shape[1], j + 2)):
                    if judged[a, b] and not (a == i and b == j):
                        near[n] = values[a, b]
                        n += 1
            # Next to a gap only three pixels of a spot may be visible: compare with all neighbours.
            ordered = np.sort(near[:n])
            rival = 0.0 if n == 0 else ordered[n - 3] if n == 8 else ordered[n - 1]
            result[i, j] = values[i, j] > contrast * rival
    return result


class PairDispersion:
    """Dispersion of every pixel over pairs of frames.

    Parameters
    ----------
    bad
        Known bad pixels (slow, fast).
    n_pairs
        Number of pairs that will be added; the pairs must not share frames.
    flag_from
        Smallest invalid value, see :func:`hklflow.images.masks.flag_value`; infinity: no value is a
        flag. Negative and non-finite values are always invalid.
    """

    def __init__(self, bad: BoolImage, n_pairs: int, *, flag_from: float = math.inf) -> None:
        self._bad, self._flag = bad, flag_from
        self._n_trimmed = max(1, round(TRIMMED * n_pairs))
        self._total = np.zeros(bad.shape)
        self._largest = np.zeros((*bad.shape, self._n_trimmed), np.float32)
        self._pairs = np.zeros(bad.shape, np.uint16)

    def add(self, pair: NDArray[Any]) -> None:
        """Add two consecutive frames (2, slow, fast)."""
        if pair.shape != (2, *self._bad.shape):
            raise HklflowError(
                f"frames of shape {pair.shape} are not a pair for a mask of shape {self._bad.shape}"
            )
        first, second = pair
        share = 0.5
        # The beam may change between both frames: determine the first frame's share of the beam.
        for calm in (math.inf, _CALM, _CALM):
            sum_first, sum_second = _sums(first, second, self._bad, self._flag, share, calm)
            share = (
                sum_first / (sum_first + sum_second) if sum_first > 0 and sum_second > 0 else 0.5
            )
        arrays = self._total, self._largest, self._pairs
        _add_pair(first, second, self._bad, self._flag, share, *arrays)

    def noisy(
        self, bad: BoolImage, *, false_pixels: float = 0.01, contrast: float = 3.0
    ) -> BoolImage:
        """Find noisy pixels.

        The dispersion D of a pixel is its mean t, without the fifth of the pairs with the largest
        t. A pixel is noisy if D is above two limits. Photon counts exceed the first limit on fewer
        than ``false_pixels`` pixels of the whole detector. The second limit is ``contrast`` times
        the third highest D of the eight nearest neighbours (next to bad pixels, the highest D),
        because a Bragg spot that appears in many pairs is on the neighbours, too.

        The first limit is safe for all count rates: `dispersion_limit` is for the mean of all
        pairs, and D, the mean without the largest values, is smaller. The limit is 3.5 for 60
        frames of a Mpixel. Pixels with 12 times the variance of photon counts are at the limit;
        pixels with 50 times this variance are found.

        Pixels that are noisy in less than a fifth of the pairs, or change slowly, are not found.

        Parameters
        ----------
        bad
            Pixels (slow, fast) that are neither judged nor used as neighbours.
        false_pixels
            Expected number of good pixels in a whole image that are flagged as noisy by chance.
        contrast
            Smallest ratio of D to the D of the neighbours.

        Returns
        -------
        NDArray
            bool (slow, fast).
        """
        judged = ~bad & (self._pairs >= MIN_PAIRS)
        numbers = np.arange(int(self._pairs.max()) + 1)
        # For a pixel with fewer pairs, fewer pairs are left out.
        n_left_out = np.maximum(1, np.rint(TRIMMED * numbers)).astype(np.int64)
        means = _means(self._total, self._largest, self._pairs, judged, n_left_out)
        chance = false_pixels / max(int(judged.sum()), 1)
        limits = np.zeros(len(numbers), np.float32)
        for pairs in np.unique(self._pairs[judged]):
            limits[pairs] = dispersion_limit(int(pairs), chance) / pairs
        loud = judged & (means > limits[self._pairs])
        return _alone(means, judged, loud, contrast)


def dispersion_limit(pairs: int, chance: float) -> float:
    """Return the limit of the sum of t over pairs; photons exceed it with this probability or less.

    By Hoeffding's lemma x1 - E(x1) is sub-Gaussian with the variance n / 4. Therefore E exp(s t) <=
    (1 - 2 s)^(-1/2), with equality for χ², and Chernoff's bound of χ² is valid for every n:
    P(sum > x) <= (x / m)^(m/2) exp((m - x) / 2) for m pairs and x > m. Newton's method solves this
    equation for x.
    """
    if not (pairs > 0 and 0 < chance < 1):
        raise HklflowError(
            f"limit for {pairs} pairs with probability {chance}: give 1 pair or more, and a "
            "probability between 0 and 1"
        )
    m, target = float(pairs), -math.log(chance)
    x = m + 2 * target + 2 * math.sqrt(m * target)  # start above the root: the bound is convex
    for _ in range(50):
        excess = 0.5 * (x - m - m * math.log(x / m)) - target
        x -= excess / (0.5 * (1 - m / x))
    return x
