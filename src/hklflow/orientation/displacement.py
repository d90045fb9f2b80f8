"""Centroids that are not where reflections are, and by how much cell and orientation suffer.

Maxima of diffuse scattering are displaced along Q, and a spot that merges with one of a second
lattice towards it. Each is one more parameter in the score test of `orientation.steadiness`: how
far centroids are displaced, and what cell and orientation have taken up of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import symmetry
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks, Problem
from hklflow.orientation.score import Left, bias, fitted, log_chance, taken_up

Floats = NDArray[np.float64]

_OUTWARD = 5e-4  # of the scans in which nothing is displaced along Q it is reported
_MERGED = 1e-4  # and of those in which no spots merge
_REACHES = (1.0, 2.0, 4.0)  # pixels and frames between spots that may merge
_STEP = 1e-4  # 1/Å
_NARROWEST = 0.05  # of the peaks: reflections, or maxima little broader
_OF_SPOT = 0.5  # of their squared width, which is at least the spot's
_PARTS = (0.75, 0.5, 0.35, 0.25, 0.15)  # of the peaks, the narrow ones, that may be reflections
_ENOUGH = 20  # peaks by which a crystal is refined
_FREE_OF_IT = 2.5  # bias of reflections alone, in their errors
_DIFFERENT = 3.0  # σ between their displacement and the broad ones'


@dataclass(frozen=True)
class Outward:
    """By how much the peaks are farther from the origin than their reflections.

    A cell that is too small moves reflections in proportion to Q. Maxima of diffuse scattering are
    displaced by a part of their width at any Q, and the cell takes up what it can.

    Attributes
    ----------
    size, sigma : float
        Mean of the peaks, 1/Å.
    bias : float
        By how many of their standard deviations cell and orientation are off for it.
    max_width : float or None
        Pixels; peaks that are no broader are enough to refine by and not displaced. None: there
        are no such peaks.
    """

    size: float
    sigma: float
    bias: float
    max_width: float | None


@dataclass(frozen=True)
class Merged:
    """Peaks that are displaced towards the reflections of a second lattice.

    Attributes
    ----------
    peaks : int
        Of the refinement, that have a reflection of the second lattice within ``reach``.
    reach : float
        Pixels and frames.
    bias : float
        As of `Outward`.
    """

    peaks: int
    reach: float
    bias: float


class Displacement:
    """Displacements of the peaks of a refinement.

    Parameters
    ----------
    refined : Refined
    peaks : sequence of Peaks
        That it was given.
    group : SpaceGroup
        By whose constraints the cell was refined.
    free : sequence of str
        What was refined.
    widths : sequence of (n,) arrays
        Of the peaks, pixels.
    """

    def __init__(
        self,
        refined: Refined,
        peaks: Sequence[Peaks],
        group: symmetry.SpaceGroup,
        free: Sequence[str],
        widths: Sequence[Floats],
    ) -> None:
        self._refined, self._group = refined, group
        self._rows = np.nonzero(refined.used | refined.held_out)[0]
        self._hkl = refined.hkl[self._rows].astype(np.float64)
        self._problem: Problem
        self._problem, self._nuisance, residual = taken_up(refined, peaks, group, free, self._rows)
        self._residual = residual
        self._width = np.concatenate(widths)[self._rows]

    def outward(self) -> Outward | None:
        """Return how far peaks are displaced along Q; None if that may be chance.

        What a maximum is displaced by, and its scatter, grow with its width beyond a spot's.
        """
        square = self._width**2 - _OF_SPOT * np.quantile(self._width, _NARROWEST) ** 2
        beyond = np.sqrt(np.maximum(square, 0.0))
        if not beyond.any():
            return None
        ub, start = self._refined.ub, self._problem.parameters.start()
        q = self._hkl @ ub.T
        along = _STEP * (q / np.linalg.norm(q, axis=1)[:, None]) @ np.linalg.inv(ub).T
        up, down = (
            self._problem.residuals(start, self._hkl + sign * along, self._rows)[0]
            for sign in (1, -1)
        )
        moved = (beyond / beyond.mean())[:, None] * (up - down) / (2 * _STEP)
        found = self._score(moved)
        if found.chance > np.log(_OUTWARD):
            return None
        return Outward(found.size, found.sigma, found.bias, self._free_of(found, moved))

    def _free_of(self, found: "_Scored", moved: Floats) -> float | None:
        """Width up to which peaks are not displaced as all are that were ``found``."""
        for part in _PARTS:
            limit = float(np.quantile(self._width, part))
            narrow = self._width <= limit
            if narrow.sum() < max(_ENOUGH, self._nuisance.shape[1]):
                return None
            own = self._score(moved, narrow)
            apart = abs(found.size - own.size) > _DIFFERENT * own.sigma > 0
            if apart and own.bias < _FREE_OF_IT:
                return limit
        return None

    def towards(self, other: Floats) -> Merged | None:
        """How many peaks merge with those of a second lattice; None if that may be chance.

        Parameters
        ----------
        other : (3, 3) array
            Its UB in 1/Å with 2π.
        """
        start = self._problem.parameters.start()
        ub = self._refined.ub
        hkl = np.rint(self._problem.miller(start)[self._rows] @ (np.linalg.inv(other) @ ub).T)
        # The second lattice as fractional indices of the first.
        fractional = hkl @ (np.linalg.inv(ub) @ other).T
        own, theirs = (
            self._problem.residuals(start, h, self._rows)[0] for h in (self._hkl, fractional)
        )
        apart = np.nan_to_num(theirs - own, nan=np.inf)
        best: tuple[float, Merged] | None = None
        for reach in _REACHES:
            near = (np.abs(apart).max(axis=1) < reach) & np.any(hkl != 0, axis=1)
            if not near.any():
                continue
            moved = np.where(near[:, None], apart, 0.0)
            scored = self._score(moved)
            # What is displaced away from the second lattice did not merge with it.
            if scored.size > 0 and (best is None or scored.chance < best[0]):
                best = scored.chance, Merged(int(near.sum()), reach, scored.bias)
        known = best is not None and best[0] <= np.log(_MERGED / len(_REACHES))
        return best[1] if best is not None and known else None

    def _score(self, moved: Floats, rows: NDArray[np.bool_] | None = None) -> "_Scored":
        """Score test of what changes residuals by ``moved`` (n, 3), by all or by some peaks.

        What peaks have beyond their errors is taken to be each peak's own: so do the errors of
        cell and orientation. Where that is wrong these errors are too small as well.
        """
        rows = np.ones(len(moved), np.bool_) if rows is None else rows
        sigma = self._problem.sigma[self._rows][rows]
        column = (np.nan_to_num(moved[rows]) / sigma).reshape(-1, 1)
        every = np.repeat(rows, 3)
        nuisance = self._nuisance[every]
        left = Left.of(self._residual[every], nuisance, ())
        own, residual = left.beside(column), left.residual
        fit = fitted(own.T @ own, own.T @ residual, column.T @ column)
        if not fit.factor.size:  # the refinement takes all of it up
            return _Scored(0.0, 0.0, 0.0, 0.0)
        n = len(residual) - nuisance.shape[1]
        variance = max((float(residual @ residual) - fit.gain) / max(n - 1, 1), 1.0)
        size = float(fit.values[0])
        off = bias(self._problem, nuisance, size * column[:, 0], self._refined.chi2)
        error = float(np.sqrt(variance * fit.covariance[0, 0]))
        return _Scored(log_chance(fit.gain / variance, 1), size, error, off)


class _Scored(NamedTuple):
    """Logarithm of chance, size, its σ, and bias in σ of cell and orientation."""

    chance: float
    size: float
    sigma: float
    bias: float
