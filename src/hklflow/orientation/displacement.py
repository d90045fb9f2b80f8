"""Centroids that are not where reflections are, and by how much cell and orientation suffer.

Maxima of diffuse scattering are displaced along Q, and a spot that merges with one of a second
lattice towards it. Each is one more parameter in the score test of `orientation.steadiness`: how
far centroids are displaced, and what cell and orientation have taken up of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hklflow.geometry import symmetry
from hklflow.orientation.refinement import Refined
from hklflow.orientation.residuals import Peaks, Problem
from hklflow.orientation.score import Left, bias, blocks, fitted, log_chance, taken_up

Floats = NDArray[np.float64]

_BY_CHANCE = 1e-4  # of the scans in which nothing is displaced it is told
_REACHES = (1.0, 2.0, 4.0)  # pixels and frames between spots that may merge
_STEP = 1e-4  # 1/Å


@dataclass(frozen=True)
class Outward:
    """By how much all peaks are farther from the origin than their reflections.

    A cell that is too small moves reflections in proportion to Q. Maxima of diffuse scattering are
    displaced by a part of their width at any Q, and the cell takes up what it can.

    Attributes
    ----------
    size, sigma : float
        1/Å.
    bias : float
        By how many of their standard deviations cell and orientation are off for it.
    """

    size: float
    sigma: float
    bias: float


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
    """

    def __init__(
        self,
        refined: Refined,
        peaks: Sequence[Peaks],
        group: symmetry.SpaceGroup,
        free: Sequence[str],
    ) -> None:
        self._refined, self._group = refined, group
        self._rows = np.nonzero(refined.used | refined.held_out)[0]
        self._hkl = refined.hkl[self._rows].astype(np.float64)
        self._problem: Problem
        self._problem, self._nuisance, residual = taken_up(refined, peaks, group, free, self._rows)
        at = self._problem.which[self._rows], self._problem.position[self._rows]
        self._left = Left.of(residual, self._nuisance, blocks(refined.rotations, *at))

    def outward(self) -> Outward | None:
        """How far peaks are displaced along Q; None if that may be chance."""
        ub, start = self._refined.ub, self._problem.parameters.start()
        q = self._hkl @ ub.T
        along = _STEP * (q / np.linalg.norm(q, axis=1)[:, None]) @ np.linalg.inv(ub).T
        up, down = (
            self._problem.residuals(start, self._hkl + sign * along, self._rows)[0]
            for sign in (1, -1)
        )
        found = self._score((up - down) / (2 * _STEP), common=True)
        return None if found[0] > np.log(_BY_CHANCE) else Outward(*found[1:])

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
            # What merged exceeds its errors at random, here and there.
            chance, size, _, off = self._score(moved, common=False)
            # What is displaced away from the second lattice did not merge with it.
            if size > 0 and (best is None or chance < best[0]):
                best = chance, Merged(int(near.sum()), reach, off)
        known = best is not None and best[0] <= np.log(_BY_CHANCE / len(_REACHES))
        return best[1] if best is not None and known else None

    def _score(self, moved: Floats, common: bool) -> tuple[float, float, float, float]:
        """Logarithm of chance, size, σ and bias of what changes residuals by ``moved`` (n, 3).

        With ``common``, what residuals have beyond their errors may be common to neighbours.
        """
        column = (np.nan_to_num(moved) / self._problem.sigma[self._rows]).reshape(-1, 1)
        own, residual = self._left.beside(column), self._left.residual
        fit = fitted(own.T @ own, own.T @ residual, column.T @ column)
        if not fit.factor.size:  # the refinement takes all of it up
            return 0.0, 0.0, 0.0, 0.0
        n = len(residual) - self._nuisance.shape[1]
        reduced = max((float(residual @ residual) - fit.gain) / max(n - 1, 1), 1.0)
        fall, variance = self._left.weighed(own, fit) if common else (fit.gain / reduced, reduced)
        size = float(fit.values[0])
        off = bias(self._problem, self._nuisance, size * column[:, 0], self._refined.chi2)
        return log_chance(fall, 1), size, float(np.sqrt(variance * fit.covariance[0, 0])), off
