r"""Factors of single frames in addition to a smooth scale, such as noise of the monitor.

After a smooth scale was fitted, the derivative g of the likelihood by a factor of each range of
frames and its information J tell independent factors e, whose prior is 0 ± σ: ``e = (J + σ⁻²)⁻¹ g``
with the covariance ``(J + σ⁻²)⁻¹``. σ maximises the marginal likelihood. A record lies between the
middles of two ranges, so that J is tridiagonal. S of the orbits is free.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky_banded, solveh_banded

Floats = NDArray[np.float64]

_WIDTHS = 10.0 ** np.arange(-4, -0.5, 0.1)
_CLEAR = 3.0  # logarithm of the ratio of likelihoods above which there is noise
_COLUMNS = 500  # of an inverse, solved together


class Ranges(NamedTuple):
    """Derivatives of one rotation by factors of its ranges.

    Attributes
    ----------
    gradient : (n,) array
    information : (2, n) array
        Upper bands of the tridiagonal matrix: next to the diagonal (first 0), and the diagonal.
    """

    gradient: Floats
    information: Floats

    @classmethod
    def of_records(cls, at: Floats, n: int, gradient: Floats, information: Floats) -> "Ranges":
        """Sum derivatives and information of records at places ``at`` in ranges (0 to n)."""
        place = np.clip(at - 0.5, 0, n - 1)
        first = np.minimum(place.astype(np.int64), max(n - 2, 0))
        second = np.minimum(first + 1, n - 1)
        u = place - first
        g, diagonal, mixed = np.zeros((3, n))
        for index, part in ((first, 1 - u), (second, u)):
            g += np.bincount(index, gradient * part, n)
            diagonal += np.bincount(index, information * part**2, n)
        mixed += np.bincount(second, information * u * (1 - u), n)
        mixed[0] = 0.0
        return cls(g, np.stack([mixed, diagonal]))

    def with_prior(self, width: float) -> Floats:
        """Return the bands of J + σ⁻²."""
        return self.information + np.array([[0.0], [width**-2]])

    def evidence(self, width: float) -> float:
        """Return ln of the ratio of the marginal likelihoods, with and without the factors."""
        bands = self.with_prior(width)
        root = cholesky_banded(bands)
        log_det = 2 * np.sum(np.log(root[1])) + 2 * len(self.gradient) * np.log(width)
        return float(0.5 * (self.gradient @ solveh_banded(bands, self.gradient) - log_det))

    def solved(self, width: float) -> tuple[Floats, Floats]:
        """Return the factors' logarithms (n,) and their variances (n,)."""
        n, bands = len(self.gradient), self.with_prior(width)
        variance = np.empty(n)
        for begin in range(0, n, _COLUMNS):
            columns = np.eye(n, min(_COLUMNS, n - begin), -begin)
            part = solveh_banded(bands, columns)
            variance[begin : begin + columns.shape[1]] = part[begin:].diagonal()
        return solveh_banded(bands, self.gradient), variance


def solve(rotations: list[Ranges]) -> tuple[float, list[tuple[Floats, Floats]]]:
    """Return σ of all rotations, and for each the logarithms of its factors and their variances.

    Where no noise is clear all are 0.
    """
    found = [sum(r.evidence(float(w)) for r in rotations) for w in _WIDTHS]
    best = int(np.argmax(found))
    if found[best] < _CLEAR:
        return 0.0, [(np.zeros(len(r.gradient)), np.zeros(len(r.gradient))) for r in rotations]
    width = float(_WIDTHS[best])
    return width, [r.solved(width) for r in rotations]
