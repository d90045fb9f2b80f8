"""Sums over groups of equivalent observations."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Groups of observations with equal indices.

    Attributes
    ----------
    hkl : (m, 3) int array
        Indices of each group, sorted.
    index : (n,) int array
        Group of each observation.
    """

    hkl: Integers
    index: Integers

    @classmethod
    def of(cls, hkl: ArrayLike) -> "Groups":
        """Return the groups of the rows of hkl (n, 3)."""
        rows = np.asarray(hkl, dtype=np.int64).reshape(-1, 3)
        # Each hkl is encoded as one number: sorting rows would take ten times as long.
        low = rows.min(axis=0, initial=0)
        width = rows.max(axis=0, initial=0) - low + 1
        code = ((rows[:, 0] - low[0]) * width[1] + rows[:, 1] - low[1]) * width[2]
        code += rows[:, 2] - low[2]
        _, first, index = np.unique(code, return_index=True, return_inverse=True)
        return cls(rows[first], index.astype(np.int64))

    def __len__(self) -> int:
        return len(self.hkl)

    @cached_property
    def n(self) -> Integers:
        """Number of observations (m,) of each group."""
        return np.bincount(self.index, minlength=len(self)).astype(np.int64)

    def sum(self, values: ArrayLike) -> Floats:
        """Return the sum (m,) of values (n,) over each group."""
        weights = np.asarray(values, dtype=np.float64)
        return np.bincount(self.index, weights=weights, minlength=len(self)).astype(np.float64)

    def largest(self, values: Floats) -> Floats:
        """Return the largest (m,) of values (n,) in each group; -inf for an empty group."""
        top = np.full(len(self), -np.inf)
        np.maximum.at(top, self.index, values)
        return top

    def median(self, values: Floats, use: NDArray[np.bool_]) -> Floats:
        """Return the median (m,) of the used values (n,) in each group; NaN without values."""
        rows = np.flatnonzero(use)
        rows = rows[np.lexsort((values[rows], self.index[rows]))]
        n = np.bincount(self.index[rows], minlength=len(self))
        start = np.cumsum(n) - n
        found = np.full(len(self), np.nan)
        some = n > 0
        low, high = start[some] + (n[some] - 1) // 2, start[some] + n[some] // 2
        found[some] = 0.5 * (values[rows[low]] + values[rows[high]])
        return found

    def mean(self, values: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Return weighted means (m,) of values (n,), and sums of weights; NaN if the sum is 0."""
        total = self.sum(weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.sum(weights * values) / total, total
